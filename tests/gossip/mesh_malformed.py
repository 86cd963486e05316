"""RPCs that no correct peer sends, of sixteen kinds; the same ones in every run."""

import random
from collections.abc import Callable

from gossip import wire, wire_encode
from tests.gossip.mesh_swarm import TOPIC, Key, control_of, peer_id, publish_of

KILLS_PY_LIBP2P = b"\x0a" + b"\xff" * 10
"""Ends the process of a py-libp2p 0.8.1 that receives it on /meshsub."""

LIAR = Key.of("liar")
_field = wire_encode.field


def _valid(rng: random.Random) -> bytes:
    return b"".join(
        (
            wire_encode.subscription(TOPIC, True),
            publish_of(LIAR, rng.randrange(1 << 40), rng.randbytes(100)),
            control_of(wire_encode.ihave(TOPIC, [rng.randbytes(46)]), wire_encode.graft(TOPIC)),
        )
    )


def _random_bytes(rng: random.Random) -> bytes:
    return rng.randbytes(rng.randrange(1, 300))


def _truncated(rng: random.Random) -> bytes:
    whole = _valid(rng)
    return whole[: rng.randrange(1, len(whole))]


def _flipped(rng: random.Random) -> bytes:
    whole = bytearray(_valid(rng))
    for _ in range(rng.randrange(1, 9)):
        whole[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
    return bytes(whole)


def _lengths(rng: random.Random) -> bytes:
    return bytes((rng.choice((0x0A, 0x12, 0x1A)),)) + b"\xff" * rng.randrange(1, 12)


def _groups(rng: random.Random) -> bytes:
    return b"\x0b" * rng.randrange(1, 5000)


def _oversized(rng: random.Random) -> bytes:
    return _field(rng.choice((1, 2, 3, 9)), bytes(wire.RPC_SIZE_MAX_BYTES))


def _too_many(rng: random.Random) -> bytes:
    return bytes((rng.choice((0x0A, 0x12, 0x1A)), 0)) * (300_000 + rng.randrange(1000))


def _topics(rng: random.Random) -> bytes:
    topic = rng.choice((b"", b"\xff\xfe", b"t" * 300, rng.randbytes(40) + b"\xff"))
    return rng.choice(
        (
            _field(1, b"\x08\x01" + _field(2, topic)),
            _field(3, _field(3, _field(1, topic))),
            _field(3, _field(4, _field(1, topic))),
            _field(3, _field(1, _field(1, topic) + _field(2, bytes(46)))),
        )
    )


def _signed(body: bytes, *more: bytes) -> bytes:
    signature = LIAR.sign(wire.SIGNED_PREFIX + body)
    return _field(2, b"".join((body, _field(5, signature), *more)))


def _body(source: bytes, seqno: bytes, topics: list[bytes], data: bytes) -> bytes:
    parts = [_field(1, source), _field(2, data), _field(3, seqno)]
    return b"".join(parts + [_field(4, topic) for topic in topics])


def _sources(rng: random.Random) -> bytes:
    source = rng.choice(
        (
            b"",
            b"\x12\x20" + rng.randbytes(32),
            b"\x00\x25\x08\x02\x12\x21" + rng.randbytes(33),
            LIAR.id[:-1],
            LIAR.id + b"x",
        )
    )
    key = rng.choice((b"", b"\x08\x00\x12\x04abcd", rng.randbytes(36), b"\xff" * 36))
    body = _body(source, rng.randbytes(8), [TOPIC.encode()], rng.randbytes(20))
    return _signed(body, _field(6, key))


def _seqnos(rng: random.Random) -> bytes:
    seqno = rng.randbytes(rng.choice((0, 1, 7, 9, 100)))
    return _signed(_body(LIAR.id, seqno, [TOPIC.encode()], rng.randbytes(20)))


def _several_topics(rng: random.Random) -> bytes:
    topics = [TOPIC.encode()] * rng.choice((0, 2, 3))
    return _signed(_body(LIAR.id, rng.randbytes(8), topics, rng.randbytes(20)))


def _signatures(rng: random.Random) -> bytes:
    body = _body(LIAR.id, rng.randbytes(8), [TOPIC.encode()], rng.randbytes(20))
    return _field(2, body + _field(5, rng.randbytes(rng.choice((0, 1, 63, 64, 64, 65)))))


def _other_keys(rng: random.Random) -> bytes:
    body = _body(LIAR.id, rng.randbytes(8), [TOPIC.encode()], rng.randbytes(20))
    return _signed(body, _field(6, rng.choice((b"x", bytes(36), Key.of("other").id[2:]))))


def _impostors(rng: random.Random) -> bytes:
    body = _body(peer_id(0), rng.randbytes(8), [TOPIC.encode()], rng.randbytes(20))
    return _signed(body)


def _not_protobuf_inside(rng: random.Random) -> bytes:
    bad = b"\xff" * rng.randrange(1, 20)
    number = rng.randrange(1, 6)
    return rng.choice(
        (_field(1, bad), _field(2, bad), _field(3, bad), _field(3, _field(number, bad)))
    )


def _exchanges(rng: random.Random) -> bytes:
    peer = _field(2, _field(1, rng.randbytes(38)))
    return _field(3, _field(4, _field(1, TOPIC.encode()) + peer * rng.randrange(65, 200)))


KINDS: tuple[Callable[[random.Random], bytes], ...] = (
    _random_bytes,
    _truncated,
    _flipped,
    _lengths,
    _groups,
    _oversized,
    _too_many,
    _topics,
    _sources,
    _seqnos,
    _several_topics,
    _signatures,
    _other_keys,
    _impostors,
    _not_protobuf_inside,
    _exchanges,
)


def corpus(each: int = 16) -> list[bytes]:
    """Return so many RPCs of each kind, and the one that made this necessary."""
    rng = random.Random(20250101)
    return [KILLS_PY_LIBP2P, *(kind(rng) for kind in KINDS for _ in range(each))]
