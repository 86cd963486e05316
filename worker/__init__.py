"""How a job gets done.

Two halves that meet in one protocol (`protocol`).  The node's half is the `Scheduler`, a machine
without I/O that decides which job runs where, and what is to be done when things go wrong.  The
worker's half is an agent (`agent`): a separate process, on this machine or another, that attaches
to one node, runs functions in supervised child processes and sends back what came of them.
Function code sees neither: it sees the `edge` library, which is the same on every worker.

Rules: the scheduler reads no clock and draws no random number; the agent knows nothing but its
link; a worker serves the one node it is attached to, and nothing here knows of other nodes.
"""
