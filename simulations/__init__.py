"""Many nodes in one process, under a virtual clock: the instrument that answers "does it scale?".

Two drivers step the product's own code, never a model of it:

* a **Swarm** (`simulations.swarm`) is gossip machines on one event heap: thousands of nodes;
* a **World** (`simulations.world`) is whole daemons, opened by `peernode.node.open_node` with other
  seams: HTTP API in memory, scheduler, reconciliation, fetching, jobs that take virtual time.

A run is a pure function of a `Scenario` (one TOML file), a seed and this code: `simulate` returns
the same trace hash each time, and `sim verify` checks that it does.  Experiments
(`simulations.experiments`) draw what was measured beside what theory says, and say pass or fail.

What it leaves out: processor time.  Virtual time passes only where the scenario says so (links,
durations of jobs, slow disks); the code in between takes none.  docs/simulation.md says what that
means for which result.
"""
