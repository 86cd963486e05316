"""Programs that run function code, each in its own process.

`python_child` is native Python.  A runtime is started with two file descriptors and speaks the
frames of `worker.frames`; it is handed a program and then jobs, and reports each outcome.  Nothing
of a runtime's process is trusted by the agent.
"""
