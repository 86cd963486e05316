"""What is around a process that runs function code: the isolation levels.

`cell` is the seam: a `Sandbox` starts processes of one level, each in a `Cell` that bounds it,
hands it files and ends it.  Two sides of it: `plain` (level `process`: limits, and the end of whole
process trees; foreign code sees what its worker's user sees) and `native` (level `sandbox`:
strangers' code is kept in).  The worlds that runtimes such as WASM bring themselves (level `wasm`)
are no affair of this package; their programs are started in a plain cell.

A native cell is made of layers, each of which a stranger would have to break:

* namespaces of its own: no network, no other process, no other user, no signal to anybody outside;
* a root of its own (`view`): libraries to read, a scratch directory in memory, what the job was
  given, and nothing of the machine besides;
* Landlock: the same once more, by another part of the kernel;
* seccomp: no sockets, none of the kernel's wilder corners, and no other program: a job that is one
  (`worker.runtimes.exec_program`) is run from an open file in memory, and that is the last;
* no privileges, also where the agent is root, limits of the kernel's, and one descriptor to speak
  by, whose other end takes what comes for hostile.

`probe` tries all of it in a process of its own and says what this machine has.  Where a layer is
missing the level is not offered: a weaker sandbox goes by no name.

Only `kernel`, `landlock`, `seccomp`, `view` and `zygote` run in the job's process, and they import
nothing else of ours but its runtime.
"""
