"""What a node knows, and how it is kept.

Ids (`ids`), content addresses (`cid`), signed records and the order among them (`codec`, `signing`,
`records`, `authority`, `merge`, `hlc`), content (`blobs`) and the seam to a disk (`store`, with
`lmdb_store` and `memory_store`).

Rules: nothing here is async, opens a socket or knows the other packages; time and chance are
arguments (`clock`); bytes from outside become values only through `codec` and `records`, which
refuse all that is not exactly right.  Import the module you need: this package re-exports nothing,
so that a program that wants ids does not pay for LMDB.
"""
