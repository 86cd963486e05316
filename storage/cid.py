"""Content addresses: the CID that other IPFS tools print for the same bytes.

Profile `unixfs-v1-2025`: CIDv1, sha2-256, content cut into 1 MiB raw leaves, a balanced tree of
dag-pb nodes with at most 1024 links each; content of one leaf is that leaf.  The empty content is
the empty leaf.

    content   = leaf                                  CID 01 55 12 20 digest   ("bafkrei...")
              | node { links (cid, tsize), sizes }    CID 01 70 12 20 digest   ("bafybei...")

The tree is built while the bytes stream by (`TreeBuilder`): each node is emitted as soon as it is
complete, and what is remembered is at most 1024 links a level.  The protobuf of a node is written
by hand, canonically (links, then data, fields in order, minimal integers), because the bytes are
what is hashed; `decode_node` accepts those bytes and no others, so a hostile node can neither be
large nor deep nor lie about its children's sizes without being found out.

What it leaves out: other profiles, hashes and multibases, directories, and where blocks are kept
(`blobs`).  Formats: CIDs, dag-pb and UnixFS as specified at https://specs.ipfs.tech; the figures
of the profile are IPIP-499's.
"""

import base64
import binascii
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NewType

from storage.errors import BlobTooLarge, InvalidData

Cid = NewType("Cid", bytes)
"""36 bytes: version, codec, hash function, digest length, digest."""

CID_SIZE_BYTES: Final = 36
CHUNK_SIZE_BYTES: Final = 1024 * 1024
"""Size of every leaf but the last. Source: the profile."""
LINKS_MAX: Final = 1024
"""Most links of one node. Source: the profile."""
LEVELS_MAX: Final = 3
"""Most levels of nodes above the leaves. Source: formula, `CONTENT_SIZE_MAX_BYTES` needs them."""
CONTENT_SIZE_MAX_BYTES: Final = CHUNK_SIZE_BYTES * LINKS_MAX**LEVELS_MAX
"""Largest content that has a CID here: 1 PiB. Source: formula."""
NODE_SIZE_MAX_BYTES: Final = 64 * 1024
"""Largest encoded node. Source: formula, 1024 links of at most 60 bytes with their sizes."""

_LEAF_PREFIX: Final = b"\x01\x55\x12\x20"
_NODE_PREFIX: Final = b"\x01\x70\x12\x20"
_TEXT_LENGTH: Final = 59
_LINK: Final = b"\x12"
_LINK_HASH: Final = b"\x0a\x24"
_LINK_NAME_EMPTY: Final = b"\x12\x00\x18"
_DATA: Final = b"\x0a"
_FILE: Final = b"\x08\x02\x18"
_BLOCK_SIZE: Final = b"\x20"


def raw_leaf(data: bytes | bytearray | memoryview) -> Cid:
    """Return the CID of a leaf: of at most `CHUNK_SIZE_BYTES` bytes taken as they are."""
    return Cid(_LEAF_PREFIX + hashlib.sha256(data).digest())


def is_leaf(cid: Cid) -> bool:
    """Tell whether `cid` names raw bytes; otherwise it names a node of a tree."""
    return cid[:4] == _LEAF_PREFIX


def matches(cid: Cid, data: bytes | bytearray | memoryview) -> bool:
    """Tell whether `data` is the block that `cid` names."""
    return hashlib.sha256(data).digest() == cid[4:]


def from_bytes(data: bytes) -> Cid:
    """Return `data` as a CID. Raises `InvalidData` if it is not one of this profile."""
    if len(data) != CID_SIZE_BYTES or data[:4] not in (_LEAF_PREFIX, _NODE_PREFIX):
        raise InvalidData("not a CIDv1 of sha2-256, raw or dag-pb")
    return Cid(bytes(data))


_SYMBOLS: Final = 58
"""Base32 digits of 36 bytes."""
_PADDING_BITS: Final = _SYMBOLS * 5 - 36 * 8
_ALPHABET: Final = b"abcdefghijklmnopqrstuvwxyz234567" + bytes(256 - 32)


def _spreads() -> tuple[tuple[int, int, int], ...]:
    """Return how to spread 64 groups of 5 bits to a byte each, halving the groups six times."""
    steps = []
    group, lane = 320, 512
    while group > 5:
        half = (1 << group // 2) - 1
        low = sum(half << at for at in range(0, 512, lane))
        steps.append((low, low << group // 2, (lane - group) // 2))
        group, lane = group // 2, lane // 2
    return tuple(steps)


_SPREADS: Final = _spreads()


def text(cid: Cid) -> str:
    """Return `cid` as people write it: base32, lower case, with the multibase prefix `b`.

    Every job and blob that is shown shows one, and `base64.b32encode` takes three times as long.
    """
    bits = int.from_bytes(cid, "big") << _PADDING_BITS
    for low, high, shift in _SPREADS:
        bits = (bits & high) << shift | bits & low
    return "b" + bits.to_bytes(64, "big").translate(_ALPHABET)[64 - _SYMBOLS :].decode("ascii")


def parse(written: str) -> Cid:
    """Return the CID that `written` names. Raises `InvalidData`; only `text`'s form is taken."""
    if len(written) != _TEXT_LENGTH or not written.isascii() or written[0] != "b":
        raise InvalidData("not a base32 CIDv1 of 59 characters")
    try:
        cid = from_bytes(base64.b32decode(written[1:].upper() + "======"))
    except binascii.Error:
        raise InvalidData("not base32") from None
    if text(cid) != written:
        raise InvalidData("not a canonical base32 CID")
    return cid


@dataclass(frozen=True, slots=True)
class Root:
    """A finished tree."""

    cid: Cid
    size_bytes: int
    """Of the content."""
    blocks: int
    """Leaves and nodes together, repeated ones counted each time."""


@dataclass(frozen=True, slots=True)
class _Link:
    cid: Cid
    size_bytes: int
    """Of the content below."""
    total_bytes: int
    """Of the content and the nodes below: dag-pb's `Tsize`."""


class TreeBuilder:
    """Builds the tree over leaves given in order; memory is `LINKS_MAX` links a level."""

    def __init__(self, emit: Callable[[Cid, bytes], None]) -> None:
        """`emit` is called with each node's CID and bytes, children before parents."""
        self._emit = emit
        self._levels: list[list[_Link]] = [[]]
        self._size_bytes = 0
        self._blocks = 0
        self._ended = False

    def add(self, cid: Cid, size_bytes: int) -> None:
        """Add the next leaf.

        Raises `ValueError` unless each leaf but the last has `CHUNK_SIZE_BYTES` and the last at
        least one byte (or is the only one), and `BlobTooLarge` over `CONTENT_SIZE_MAX_BYTES`.
        """
        if self._ended or not 0 <= size_bytes <= CHUNK_SIZE_BYTES or not is_leaf(cid):
            raise ValueError("a leaf follows a short leaf, is too large, or is no leaf")
        if size_bytes == 0 and self._blocks:
            raise ValueError("an empty leaf among others")
        if self._size_bytes + size_bytes > CONTENT_SIZE_MAX_BYTES:
            raise BlobTooLarge(f"content is over {CONTENT_SIZE_MAX_BYTES} bytes")
        self._ended = size_bytes < CHUNK_SIZE_BYTES
        self._size_bytes += size_bytes
        self._blocks += 1
        self._push(0, _Link(cid, size_bytes, size_bytes))

    def finish(self) -> Root:
        """Emit the nodes that are still open and return the root. The builder is then spent."""
        if not self._blocks:
            self.add(raw_leaf(b""), 0)
        self._ended = True
        level = 0
        while level + 1 < len(self._levels) or len(self._levels[level]) > 1:
            self._close(level)
            level += 1
        (top,) = self._levels[level]
        return Root(top.cid, self._size_bytes, self._blocks)

    def _push(self, level: int, link: _Link) -> None:
        """Append a link; a full level is closed only when another link needs its place."""
        if level == len(self._levels):
            self._levels.append([])
        if len(self._levels[level]) == LINKS_MAX:
            self._close(level)
        self._levels[level].append(link)

    def _close(self, level: int) -> None:
        links = self._levels[level]
        self._levels[level] = []
        data = _encode_node(links)
        cid = Cid(_NODE_PREFIX + hashlib.sha256(data).digest())
        self._blocks += 1
        self._emit(cid, data)
        size_bytes = sum(link.size_bytes for link in links)
        total_bytes = sum(link.total_bytes for link in links) + len(data)
        self._push(level + 1, _Link(cid, size_bytes, total_bytes))


def decode_node(data: bytes) -> list[tuple[Cid, int]]:
    """Return the children of a node in order: `(cid, bytes of content below)`.

    Raises `InvalidData` unless `data` is exactly what `TreeBuilder` would emit for these children:
    1 to `LINKS_MAX` of them, all leaves or all nodes, all but the last of one full size.
    """
    if len(data) > NODE_SIZE_MAX_BYTES:
        raise InvalidData(f"a node is over {NODE_SIZE_MAX_BYTES} bytes")
    heads, at = _read_links(data)
    at = _expect(data, at, _DATA)
    length, at = _varint(data, at)
    if length != len(data) - at:
        raise InvalidData("a node's data has another length")
    at = _expect(data, at, _FILE)
    _, at = _varint(data, at)
    links = []
    for cid, total_bytes in heads:
        at = _expect(data, at, _BLOCK_SIZE)
        size_bytes, at = _varint(data, at)
        links.append(_Link(cid, size_bytes, total_bytes))
    if _encode_node(links) != data:
        raise InvalidData("a node is not canonical")
    _check_balance(links)
    return [(link.cid, link.size_bytes) for link in links]


def _read_links(data: bytes) -> tuple[list[tuple[Cid, int]], int]:
    links: list[tuple[Cid, int]] = []
    at = 0
    while data[at : at + 1] == _LINK and len(links) < LINKS_MAX:
        _, at = _varint(data, at + 1)
        at = _expect(data, at, _LINK_HASH)
        cid = from_bytes(data[at : at + CID_SIZE_BYTES])
        at = _expect(data, at + CID_SIZE_BYTES, _LINK_NAME_EMPTY)
        total_bytes, at = _varint(data, at)
        links.append((cid, total_bytes))
    if not links:
        raise InvalidData("a node has no links")
    return links, at


def _check_balance(links: Sequence[_Link]) -> None:
    leaves = is_leaf(links[0].cid)
    full_bytes = links[0].size_bytes
    last = links[-1]
    if any(is_leaf(link.cid) != leaves for link in links):
        raise InvalidData("a node mixes leaves and nodes")
    if any(link.size_bytes != full_bytes for link in links[:-1]):
        raise InvalidData("a node's children differ in size")
    if not 0 < last.size_bytes <= full_bytes:
        raise InvalidData("a node's last child has an impossible size")
    if leaves:
        full_sizes = [CHUNK_SIZE_BYTES]
    else:
        full_sizes = [CHUNK_SIZE_BYTES * LINKS_MAX**level for level in range(1, LEVELS_MAX)]
    if full_bytes > full_sizes[-1] or (len(links) > 1 and full_bytes not in full_sizes):
        raise InvalidData("a node's children are not full")
    if leaves and any(link.total_bytes != link.size_bytes for link in links):
        raise InvalidData("a leaf's total is not its size")


def _encode_node(links: Sequence[_Link]) -> bytes:
    parts = []
    for link in links:
        body = _LINK_HASH + link.cid + _LINK_NAME_EMPTY + _encode_varint(link.total_bytes)
        parts.append(_LINK + _encode_varint(len(body)) + body)
    file = _FILE + _encode_varint(sum(link.size_bytes for link in links))
    file += b"".join(_BLOCK_SIZE + _encode_varint(link.size_bytes) for link in links)
    parts.append(_DATA + _encode_varint(len(file)) + file)
    return b"".join(parts)


def _encode_varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 63, 7):
        if at >= len(data):
            raise InvalidData("a node ends early")
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise InvalidData("a node's integer is too large")


def _expect(data: bytes, at: int, part: bytes) -> int:
    if data[at : at + len(part)] != part:
        raise InvalidData("a node is not UnixFS of this profile")
    return at + len(part)
