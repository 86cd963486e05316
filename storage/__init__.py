"""What a node knows, and how it is kept.

Names: Snowflake ids (`ids`), content addresses (`cid`), slots (`places`).

Truth: signed facts (`facts`) of nodes, users and members (`nodes`, `users`, `members`, together
`authority`), certificates by which a user's key lets a node act (`certificates`), signed records
(`records`) and the order among them (`hlc`, `merge`).  `signing` and `codec` are below them all.

Disk: the seam (`store`), its two sides (`lmdb_store`, `memory_store`) over shared rules
(`batches`), the writer's thread (`group_commit`), content (`blobs`, `blocks`), and what makes a
restart safe: one opener (`lock`), clocks that never step back (`reservation`), errors that mean a
full disk (`space`).

Rules: nothing here is async, opens a socket or knows the other packages; time and chance are
arguments (`clock`); bytes from outside become values only through `codec` and `records`, which
refuse all that is not exactly right.  Import the module you need: this package re-exports nothing,
so that a program that wants ids does not pay for LMDB.
"""
