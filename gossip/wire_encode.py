"""Writing RPCs of public libp2p pubsub: bytes that are joined, since protobuf fields concatenate.

A message is encoded once; what goes to many peers is the same object.  A *fragment* is a field of
an RPC (and so an RPC by itself), a *control* is a field of its control part.  `gossip.wire` has the
numbers of the fields, the limits, and the reading.
"""

from collections.abc import Iterable, Sequence
from typing import Final

SEQNO_SIZE_BYTES: Final = 8


def varint(number: int) -> bytes:
    """Return `number` in base 128, lowest digits first; also the head of a frame."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def message(source: bytes, seqno: int, topic: str, data: bytes) -> bytes:
    """Return a message without its signature; what is signed is `wire.SIGNED_PREFIX` and this."""
    return b"".join(
        (
            field(1, source),
            field(2, data),
            field(3, seqno.to_bytes(SEQNO_SIZE_BYTES, "big")),
            field(4, topic.encode()),
        )
    )


def publish(unsigned: bytes, signature: bytes) -> bytes:
    """Return a signed message as a field of an RPC. Its key is left out: it is in the peer id."""
    return field(2, unsigned + field(5, signature))


def subscription(topic: str, subscribe: bool) -> bytes:
    """Return a subscription as a field of an RPC."""
    return field(1, (b"\x08\x01" if subscribe else b"\x08\x00") + field(2, topic.encode()))


def ihave(topic: str, ids: Sequence[bytes]) -> bytes:
    """Return an IHAVE as a field of a control."""
    return field(1, field(1, topic.encode()) + _fields(2, ids))


def iwant(ids: Sequence[bytes]) -> bytes:
    """Return an IWANT as a field of a control."""
    return field(2, _fields(1, ids))


def graft(topic: str) -> bytes:
    """Return a GRAFT as a field of a control."""
    return field(3, field(1, topic.encode()))


def prune(topic: str, backoff_s: int) -> bytes:
    """Return a PRUNE without peers as a field of a control."""
    return field(4, field(1, topic.encode()) + b"\x18" + varint(backoff_s))


def pack(fragments: Sequence[bytes], controls: Sequence[bytes], size_max_bytes: int) -> list[bytes]:
    """Return RPCs with these fields in order, none larger than `size_max_bytes` unless it must.

    `controls` are fields of a control: an RPC has one control at most, since js-libp2p keeps only
    the last; they come after all fragments.
    """
    if len(fragments) == 1 and not controls:
        return [fragments[0]]
    rpcs = list(_runs(fragments, size_max_bytes))
    for part in _runs(controls, size_max_bytes):
        control = field(3, part)
        if rpcs and len(rpcs[-1]) + len(control) <= size_max_bytes:
            # Never two: the last RPC so far is of fragments, or as full of control as may be.
            rpcs[-1] += control
        else:
            rpcs.append(control)
    return rpcs


def _runs(parts: Sequence[bytes], size_max_bytes: int) -> Iterable[bytes]:
    first = size = 0
    for position, part in enumerate(parts):
        if size and size + len(part) > size_max_bytes:
            yield b"".join(parts[first:position])
            first, size = position, 0
        size += len(part)
    if size:
        yield b"".join(parts[first:])


def _fields(number: int, parts: Sequence[bytes]) -> bytes:
    """Return a field for each part; ids mostly have one length, and so one head."""
    sizes = dict.fromkeys(map(len, parts))
    if len(sizes) == 1 and (size := next(iter(sizes))) < 128:
        head = bytes((number << 3 | 2, size))
        return head + head.join(parts)
    return b"".join([field(number, part) for part in parts])


def field(number: int, data: bytes) -> bytes:
    """Return a field of bytes."""
    size = len(data)
    if size < 128:
        return bytes((number << 3 | 2, size)) + data
    return bytes((number << 3 | 2,)) + varint(size) + data
