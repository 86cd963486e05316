"""What a node keeps, counted anew from its rows and compared with what it has counted itself.

Whatever refers to a block, and what counts its references, is written in one batch; so at any
moment between two batches, and after any crash:

* each block has as many references as blobs, sources of functions and parts of other nodes' content
  refer to it; each that has any is there, and hashes to its CID [I16];
* a blob's content has the size that its row says, and a list of its owner names it;
* content of another node that is said to be complete is [I16];
* the usage of each project and user is that of its blobs, and no project's is over its quota [I17].

At rest, no block is left that nothing refers to.  Here blocks are rows: nodes of a World have no
directory for larger ones.

What it leaves out: a quota that was lowered below what is used, which is allowed and which no
scenario does.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from peernode import content, quotas
from simulations.committed import Broken
from storage import cid as cids, codec, ids
from storage.cid import CID_SIZE_BYTES, Cid
from storage.errors import InvalidData
from storage.store import Store, Table

if TYPE_CHECKING:
    from peernode.node import Node

_PAGE_LENGTH: Final = 1000
_KEY_SIZE_BYTES: Final = len(ids.key(1))


def check(node: "Node", *, at_rest: bool = False) -> None:
    """Assert it of a node's rows. Raises `Broken`."""
    trees = _Trees(node.store)
    references: dict[bytes, int] = {}
    usage: dict[bytes, int] = {}
    listed: dict[bytes, bytes] = {}
    for key, row in rows(node.store, Table.BLOBS):
        blob = content.decode_row(row)
        owner = ids.key(blob.project or blob.owner)
        _add(references, trees.blocks(Cid(blob.cid)))
        if trees.size_bytes(Cid(blob.cid)) != blob.size_bytes:
            raise Broken(f"blob {_id(key)} has not the {blob.size_bytes} bytes that it says")
        listed[owner + key] = b""
        for meter, amount in (
            (content.METER_BLOB_BYTES, blob.size_bytes),
            (content.METER_BLOBS, 1),
        ):
            usage[owner + meter] = usage.get(owner + meter, 0) + amount
    for key, _ in rows(node.store, Table.SOURCES):
        _add(references, trees.blocks(Cid(key[_KEY_SIZE_BYTES:])))
    _add(references, _parts(node.store, trees))
    _compare(node.store, Table.BLOCK_REFS, references, "references")
    _compare(node.store, Table.USAGE, {key: n for key, n in usage.items() if n}, "usage")
    if dict(rows(node.store, Table.PROJECT_BLOBS)) != listed:
        raise Broken("the lists of blobs are not those of the blobs there are")
    _check_quotas(node.store, usage)
    for block in references:
        trees.require(Cid(block))
    if at_rest:
        for block, _ in rows(node.store, Table.BLOCKS):
            if block not in references:
                raise Broken(f"block {cids.text(Cid(block))} is left, and nothing refers to it")


class _Trees:
    """The blocks of a store, each looked at once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._children: dict[Cid, list[tuple[Cid, int]]] = {}
        self._sizes: dict[Cid, int] = {}

    def require(self, cid: Cid) -> None:
        """Assert that a block is there, and is what its name says."""
        if cid in self._children:
            return
        data = self._store.get(Table.BLOCKS, cid)
        if data is None:
            raise Broken(f"block {cids.text(cid)} is referred to, and not there")
        if not cids.matches(cid, data):
            raise Broken(f"block {cids.text(cid)} does not hash to its name")
        self._sizes[cid] = len(data)
        try:
            self._children[cid] = [] if cids.is_leaf(cid) else cids.decode_node(data)
        except InvalidData as error:
            raise Broken(f"block {cids.text(cid)} is no node of a tree: {error}") from error

    def blocks(self, root: Cid) -> dict[Cid, None]:
        """Return the distinct blocks of a content, all of which are there."""
        found: dict[Cid, None] = {root: None}
        todo = [root]
        while todo:
            at = todo.pop()
            self.require(at)
            for child, _ in self._children[at]:
                if child not in found:
                    found[child] = None
                    todo.append(child)
        return found

    def size_bytes(self, root: Cid) -> int:
        """Return the bytes of a content."""
        self.require(root)
        if cids.is_leaf(root):
            return self._sizes[root]
        return sum(self.size_bytes(child) for child, _ in self._children[root])


def _parts(store: Store, trees: _Trees) -> Iterator[Cid]:
    """Yield the parts of other nodes' content, one for each content that it is part of."""
    held: dict[Cid, dict[Cid, None]] = {}
    for key, _ in rows(store, Table.FOREIGN_PARTS):
        part = Cid(key[CID_SIZE_BYTES:])
        held.setdefault(Cid(key[:CID_SIZE_BYTES]), {})[part] = None
        yield part
    known = dict(rows(store, Table.FOREIGN_CONTENT))
    for root, parts in held.items():
        if root not in known:
            raise Broken(f"parts are kept of content {cids.text(root)}, which is not known")
        if codec.load_row(known[root])[1] and parts.keys() != trees.blocks(root).keys():
            raise Broken(f"content {cids.text(root)} is not complete, as it is said to be")


def _add(references: dict[bytes, int], blocks: "Iterator[Cid] | dict[Cid, None]") -> None:
    for block in blocks:
        references[block] = references.get(block, 0) + 1


def _compare(store: Store, table: Table, counted: dict[bytes, int], what: str) -> None:
    kept = {key: int.from_bytes(row, "big", signed=True) for key, row in rows(store, table)}
    for key in [*kept, *counted]:
        if kept.get(key, 0) != counted.get(key, 0):
            raise Broken(
                f"{what} of {key.hex()}: {kept.get(key, 0)} are counted, "
                f"and there are {counted.get(key, 0)}"
            )


def _check_quotas(store: Store, usage: dict[bytes, int]) -> None:
    for key, used in usage.items():
        owner, meter = key[:_KEY_SIZE_BYTES], key[_KEY_SIZE_BYTES:]
        limit = quotas.get(store, _id(owner)).blob_bytes
        if meter == content.METER_BLOB_BYTES and limit is not None and used > limit:
            raise Broken(f"project {_id(owner)} has {used} bytes, and may have {limit}")


def rows(store: Store, table: Table) -> Iterator[tuple[bytes, bytes]]:
    """Yield all rows of a table, as they are when their page is read."""
    start = b""
    while page := store.scan(table, start, limit=_PAGE_LENGTH):
        yield from page
        start = page[-1][0] + b"\0"


def _id(key: bytes) -> int:
    return int.from_bytes(key, "big")
