"""The sorted set that reconciliation compares: 40-byte items, range by range.

An item is `hlc (8) + id (32)`, so that items lie in the order of their time: what two sides wrote
while they were apart is a few ranges at the end.  A *bound* is 0 to 40 bytes; it lies below every
item that starts with it or sorts after it, and `b""` as an upper bound is the end of everything.

The items lie back to back in blocks of at most `BLOCK_ITEMS_MAX`, so a range's fingerprint is one
hash over a few pieces of memory: no tree to keep, nothing an attacker could unbalance, and 41
bytes an item if items come in order.  It is rebuilt from the store at the start, so an error in it
cannot last.

A fingerprint is keyed BLAKE3 under a key that both sides of a session drew lots for: nobody can
prepare records that cancel out in it, as they can with fingerprints that add hashes up.  (Range
based set reconciliation: Meyer, 2023; the additive ones have a published solver.)

What it leaves out: what the items mean, and who may see them.  This is blake3's single home.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Final, NewType

import blake3

Item = NewType("Item", bytes)
"""40 bytes: `hlc`, big-endian, and the id of a fact or record."""

ID_SIZE_BYTES: Final = 32
ITEM_SIZE_BYTES: Final = 8 + ID_SIZE_BYTES
SHORT_ID_SIZE_BYTES: Final = 16
"""Of an id, on the wire. Source: a second id with the same half would take 2**128 attempts."""
FINGERPRINT_SIZE_BYTES: Final = 16
NONCE_SIZE_BYTES: Final = 16
BLOCK_ITEMS_MAX: Final = 4096
"""Most items of a block. Source: measurement; an insert moves at most 160 KiB, 5 us."""
BLOCK_ITEMS_MIN: Final = BLOCK_ITEMS_MAX // 4
"""A block with fewer is joined to its neighbour. Source: formula, so that joining is rare."""

_BLOCK_BYTES_MAX: Final = BLOCK_ITEMS_MAX * ITEM_SIZE_BYTES
_BLOCK_BYTES_MIN: Final = BLOCK_ITEMS_MIN * ITEM_SIZE_BYTES


def item(hlc: int, id: bytes) -> Item:
    """Return the item of a fact or record. Raises `ValueError` for another length of `id`."""
    if len(id) != ID_SIZE_BYTES:
        raise ValueError(f"an id has {ID_SIZE_BYTES} bytes")
    return Item(hlc.to_bytes(8, "big") + id)


def short_id(item: Item) -> bytes:
    """Return the 16 bytes that stand for an item on the wire."""
    return item[8 : 8 + SHORT_ID_SIZE_BYTES]


def session_key(nonce_opener: bytes, nonce_answerer: bytes) -> bytes:
    """Return the 32-byte key of a session's fingerprints, which neither side chose alone."""
    context = "peernode 2025-01-01 sync session fingerprints"
    return blake3.blake3(nonce_opener + nonce_answerer, derive_key_context=context).digest()


class Index:
    """A set of items in order. Reading by rank: position in that order, from 0."""

    def __init__(self, items: Iterable[Item] = ()) -> None:
        self._blocks: list[bytearray] = []
        self._firsts: list[bytes] = []
        """The first item of each block."""
        self._starts: list[int] | None = None
        """The rank at which each block starts, and the number of items; `None`: to be counted."""
        self._load(sorted(set(items)))

    def __len__(self) -> int:
        return self._ranks()[-1]

    def __contains__(self, item: Item) -> bool:
        if not self._blocks:
            return False
        block, at = self._find(item)
        return bytes(self._blocks[block][at : at + ITEM_SIZE_BYTES]) == item

    def __iter__(self) -> Iterator[Item]:
        for block in self._blocks:
            for at in range(0, len(block), ITEM_SIZE_BYTES):
                yield Item(bytes(block[at : at + ITEM_SIZE_BYTES]))

    # --- changing -------------------------------------------------------------------------

    def insert(self, item: Item) -> bool:
        """Add an item; tell whether it is new. Raises `ValueError` for another length."""
        if len(item) != ITEM_SIZE_BYTES:
            raise ValueError(f"an item has {ITEM_SIZE_BYTES} bytes")
        if not self._blocks:
            self._blocks.append(bytearray(item))
            self._firsts.append(item)
            self._starts = None
            return True
        at_block, at = self._find(item)
        block = self._blocks[at_block]
        if bytes(block[at : at + ITEM_SIZE_BYTES]) == item:
            return False
        self._starts = None
        if len(block) >= _BLOCK_BYTES_MAX:
            if at == len(block) and at_block == len(self._blocks) - 1:
                # Items mostly come in the order of time: leave full blocks behind.
                self._blocks.append(bytearray(item))
                self._firsts.append(item)
                return True
            self._split(at_block)
            return self.insert(item)
        block[at:at] = item
        if at == 0:
            self._firsts[at_block] = item
        return True

    def remove(self, item: Item) -> bool:
        """Take an item out; tell whether it was there."""
        if item not in self:
            return False
        at_block, at = self._find(item)
        block = self._blocks[at_block]
        del block[at : at + ITEM_SIZE_BYTES]
        self._starts = None
        if not block:
            del self._blocks[at_block], self._firsts[at_block]
        elif at == 0:
            self._firsts[at_block] = bytes(block[:ITEM_SIZE_BYTES])
        if block and len(block) < _BLOCK_BYTES_MIN:
            self._join(max(at_block - 1, 0))
        return True

    def _load(self, items: Sequence[Item]) -> None:
        for at in range(0, len(items), BLOCK_ITEMS_MAX):
            self._blocks.append(bytearray(b"".join(items[at : at + BLOCK_ITEMS_MAX])))
            self._firsts.append(items[at])

    def _split(self, at_block: int) -> None:
        block = self._blocks[at_block]
        middle = len(block) // ITEM_SIZE_BYTES // 2 * ITEM_SIZE_BYTES
        upper = block[middle:]
        del block[middle:]
        self._blocks.insert(at_block + 1, upper)
        self._firsts.insert(at_block + 1, bytes(upper[:ITEM_SIZE_BYTES]))

    def _join(self, at_block: int) -> None:
        """Join a block and the next one, if that leaves room for more."""
        if at_block + 1 >= len(self._blocks):
            return
        block, upper = self._blocks[at_block], self._blocks[at_block + 1]
        if len(block) + len(upper) <= _BLOCK_BYTES_MAX // 2:
            block += upper
            del self._blocks[at_block + 1], self._firsts[at_block + 1]

    # --- reading --------------------------------------------------------------------------

    def rank(self, bound: bytes) -> int:
        """Return how many items lie below `bound`."""
        if not self._blocks:
            return 0
        at_block, at = self._find(bound)
        return self._ranks()[at_block] + at // ITEM_SIZE_BYTES

    def upper_rank(self, bound: bytes) -> int:
        """Return how many items lie below an upper bound, where `b""` is the end."""
        return self.rank(bound) if bound else len(self)

    def packed(self, start: int, stop: int) -> bytes:
        """Return the items of ranks `start` to `stop`, back to back."""
        return b"".join(bytes(part) for part in self._parts(start, stop))

    def items(self, start: int, stop: int) -> list[Item]:
        """Return the items of ranks `start` to `stop`."""
        return unpack(self.packed(start, stop))

    def fingerprint(self, start: int, stop: int, key: bytes) -> bytes:
        """Return the 16-byte fingerprint of the items of ranks `start` to `stop`."""
        hasher = blake3.blake3(key=key)
        for part in self._parts(start, stop):
            hasher.update(part)
            part.release()
        return hasher.digest(FINGERPRINT_SIZE_BYTES)

    def split(self, start: int, stop: int, parts: int, key: bytes) -> list[tuple[bytes, bytes]]:
        """Return `(upper bound, fingerprint)` of parts with as many items each, lowest first.

        There are as many items as parts, or more.  The last bound is left empty.
        """
        count = stop - start
        ends = [count * part // parts for part in range(1, parts + 1)]
        if count > BLOCK_ITEMS_MAX:
            prints = [
                self.fingerprint(start + low, start + high, key)
                for low, high in pairwise([0, *ends])
            ]
            pairs = [self.packed(start + end - 1, start + end + 1) for end in ends[:-1]]
        else:
            packed = self.packed(start, stop)
            prints = [
                blake3.blake3(
                    packed[low * ITEM_SIZE_BYTES : high * ITEM_SIZE_BYTES], key=key
                ).digest(FINGERPRINT_SIZE_BYTES)
                for low, high in pairwise([0, *ends])
            ]
            pairs = [
                packed[(end - 1) * ITEM_SIZE_BYTES : (end + 1) * ITEM_SIZE_BYTES]
                for end in ends[:-1]
            ]
        bounds = [bound_between(pair[:ITEM_SIZE_BYTES], pair[ITEM_SIZE_BYTES:]) for pair in pairs]
        return list(zip([*bounds, b""], prints, strict=True))

    def check(self) -> None:
        """Assert the invariants."""
        assert len(self._blocks) == len(self._firsts)
        items = list(self)
        assert all(one < other for one, other in pairwise(items)), "out of order"
        for block, first in zip(self._blocks, self._firsts, strict=True):
            assert 0 < len(block) <= _BLOCK_BYTES_MAX
            assert len(block) % ITEM_SIZE_BYTES == 0
            assert block[:ITEM_SIZE_BYTES] == first
        assert len(self) == len(items)

    def _parts(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield the memory of ranks `start` to `stop`. Nothing may change meanwhile."""
        starts = self._ranks()
        at_block = bisect_right(starts, start) - 1
        while start < stop:
            begins = starts[at_block]
            end = min(stop, starts[at_block + 1])
            view = memoryview(self._blocks[at_block])
            yield view[(start - begins) * ITEM_SIZE_BYTES : (end - begins) * ITEM_SIZE_BYTES]
            start = end
            at_block += 1

    def _ranks(self) -> list[int]:
        if self._starts is None:
            sizes = (len(block) // ITEM_SIZE_BYTES for block in self._blocks)
            self._starts = [0, *accumulate(sizes)]
        return self._starts

    def _find(self, bound: bytes) -> tuple[int, int]:
        """Return the block and the offset in it at which `bound` belongs. There are blocks."""
        at_block = max(bisect_right(self._firsts, bound) - 1, 0)
        block = self._blocks[at_block]
        low, high = 0, len(block) // ITEM_SIZE_BYTES
        while low < high:
            middle = (low + high) // 2
            at = middle * ITEM_SIZE_BYTES
            if block[at : at + ITEM_SIZE_BYTES] < bound:
                low = middle + 1
            else:
                high = middle
        return at_block, low * ITEM_SIZE_BYTES


def bound_between(below: bytes, above: bytes) -> bytes:
    """Return the shortest bound that lies above one item and not above the next."""
    differing = int.from_bytes(below, "big") ^ int.from_bytes(above, "big")
    same_bits = ITEM_SIZE_BYTES * 8 - differing.bit_length()
    return above[: same_bits // 8 + 1]


def unpack(packed: bytes) -> list[Item]:
    """Return items that lie back to back."""
    return [
        Item(packed[at : at + ITEM_SIZE_BYTES]) for at in range(0, len(packed), ITEM_SIZE_BYTES)
    ]
