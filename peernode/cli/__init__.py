"""The command line: a thin skin over the SDK, one module a noun.

Exit codes: 0 done; 1 refused or failed (a job that failed, too); 2 wrong usage; 3 the node cannot
be reached; 130 interrupted.  Results go to stdout, everything else to stderr; with `--json`, stdout
is JSON and nothing else, errors on stderr included.  An error is one line, and a hint where there
is one; never a traceback of ours.

Modules import what is heavy (httpx, rich, trio) inside their commands, so that `--help` is quick.
"""
