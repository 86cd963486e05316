"""What nodes say to each other: the protocol machines of the mesh.

Three machines, each `handle(event, now) -> effects`, none of which waits:

* `sync.Sync`: reconciliation, which makes the truth certain.  Two nodes compare what each has range
  by range (`sync_index`, `sync_comparison`), facts before records, and exchange what differs.
* `mesh.Mesh`: gossip, which makes the truth fast.  GossipSub 1.1 on the wire (`wire`), with peer
  scores (`scoring`) and many records a message (`batcher`).  It may lose anything: `Sync` finds it.
* `fetch.Fetch`: content on demand, block by block from whoever has it, each block checked before it
  is kept, and one answer of what could not be had and why.

`network.Network` is the seam to other nodes: streams, requests and messages between peers that know
each other by key.  `memory_network` is the network of tests and simulations; the one over libp2p is
in `peernode`, and one contract suite holds both to the same.

Rules: a machine has no clock, no chance but the generator it is given, no I/O and no store; it
never acts on bytes that it has not checked, and every queue in it has a named limit.  What a record
means, and whether it is true, is for `storage` to say.
"""
