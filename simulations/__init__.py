"""Many daemons in one process, under a virtual clock.

This package is a place kept free.  What makes it possible is in the others: machines that read no
clock, seams with an in-memory side (`storage.memory_store`, `worker.link`), and a node that takes
its clock and its entropy as arguments.
"""
