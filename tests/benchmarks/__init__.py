"""What a node costs and how fast it is, measured from outside: `make bench`.

Each module measures one side and can be run alone (`python -m tests.benchmarks.bench_jobs`).  One
JSON line a figure: `name`, `value` (a median), `unit`, `runs` and what is needed to judge it.  The
daemon is the real one, in a process of its own with a data directory on the disk; the client is a
raw socket in the benchmark's process, because a comfortable one would be what is measured.
"""
