"""The pubsub wire format: what is written, what is read, and what is refused."""

from contextlib import suppress

import pytest
from hypothesis import example, given, strategies as st

from gossip import wire, wire_encode
from gossip.errors import RemoteProtocolError
from tests.gossip.mesh_swarm import Key, verify

AUTHOR = Key.of("author")
SIGNED = wire.SIGNED_PREFIX
field = wire_encode.field


def unsigned(data: bytes = b"data", seqno: int = 1, topic: str = "t") -> bytes:
    return wire_encode.message(AUTHOR.id, seqno, topic, data)


def signed(body: bytes) -> bytes:
    """Return a message as it stands in an RPC, without the field's head."""
    return body + field(5, AUTHOR.sign(SIGNED + body))


def read(encoded: bytes) -> wire.Message:
    draft = wire.Draft(encoded)
    return draft.message(draft.topic)[0]


def genuine(encoded: bytes) -> bool:
    draft = wire.Draft(encoded)
    seal = draft.message(draft.topic)[1]
    return verify(seal.public_key, seal.signature, seal.signed)


def control(*fields: bytes) -> wire.Control:
    (rpc,) = wire_encode.pack([], fields, 1 << 20)
    found = wire.decode_rpc(rpc).control
    assert found is not None
    return found


# --- messages -----------------------------------------------------------------------------------


def test_a_signed_message_is_read_as_it_was_written() -> None:
    fragment = wire_encode.publish(unsigned(), AUTHOR.sign(SIGNED + unsigned()))
    (draft,) = wire.decode_rpc(fragment).publish
    message, seal = draft.message(draft.topic)
    assert (message.source, message.topic, message.data) == (AUTHOR.id, "t", b"data")
    assert message.id == AUTHOR.id[2:] + (1).to_bytes(8, "big")
    assert message.fragment is fragment, "the same object for all that it is passed on to"
    assert verify(seal.public_key, seal.signature, seal.signed)


def test_a_key_may_be_sent_along_if_it_is_the_author_s() -> None:
    message = read(signed(unsigned()) + field(6, AUTHOR.id[2:]))
    assert genuine(signed(unsigned()) + field(6, AUTHOR.id[2:]))
    assert message.fragment.endswith(field(6, AUTHOR.id[2:])), "passed on as it came"


@pytest.mark.parametrize(
    ("encoded", "says"),
    [
        (signed(unsigned()) + field(6, Key.of("other").id[2:]), "a key that is not its author's"),
        (signed(unsigned()) + field(6, b"\x08\x00garbage"), "a key that is not its author's"),
        (signed(field(1, b"\x12\x20" + bytes(32)) + unsigned()[40:]), "not from an Ed25519"),
        (signed(field(1, b"\x00\x25\x08\x02\x12\x21" + bytes(33)) + unsigned()[40:]), "not from"),
        (signed(unsigned()[40:]), "not from an Ed25519"),
        (signed(unsigned() + field(3, bytes(7))), "a seqno of 7 bytes"),
        (signed(unsigned() + field(3, b"")), "a seqno of 0 bytes"),
        (unsigned(), "a signature of 0 bytes"),
        (unsigned() + field(5, bytes(65)), "a signature of 65 bytes"),
        (signed(unsigned() + field(4, b"t")), "a message with 2 topics"),
        (signed(field(1, AUTHOR.id) + field(3, bytes(8))), "a message with 0 topics"),
        (signed(unsigned(topic="") + b""), "a topic of 0 bytes"),
        (signed(unsigned()[:-3] + field(4, b"\xff\xfe")), "a topic that is not UTF-8"),
        (signed(unsigned()[:-3] + field(4, b"t" * 257)), "a topic of 257 bytes"),
        (signed(unsigned(bytes(wire.MESSAGE_SIZE_MAX_BYTES))), "a message of"),
        (b"\x0a\xff", "not a Message"),
    ],
)
def test_a_message_that_breaks_a_rule_is_refused(encoded: bytes, says: str) -> None:
    with pytest.raises(RemoteProtocolError, match=says):
        read(encoded)


def test_unknown_fields_are_signed_over_and_passed_on() -> None:
    body = unsigned() + field(15, b"from the future")
    message = read(signed(body))
    assert genuine(signed(body))
    assert b"from the future" in message.fragment
    assert not genuine(signed(unsigned()) + field(15, b"slipped in by who passed it on"))


def test_padding_that_parsers_skip_is_not_passed_on() -> None:
    padded = field(2, b"x" * 100_000) + signed(unsigned())
    message = read(padded)
    assert genuine(padded), "the last field counts"
    assert len(message.fragment) < 300


# --- ids ----------------------------------------------------------------------------------------


def test_ids_are_known_in_both_lengths() -> None:
    short = AUTHOR.id[2:] + bytes(8)
    (long,) = wire.long_ids([short])
    assert (len(short), len(long)) == (44, 46)
    assert long == AUTHOR.id + bytes(8)
    assert wire.canonical_id(short) == wire.canonical_id(long) == short


@pytest.mark.parametrize("written", [b"", bytes(45), b"\x12\x20" + bytes(44), b"Qm" * 30])
def test_an_id_of_another_function_is_not_ours(written: bytes) -> None:
    assert wire.canonical_id(written) is None


# --- control ------------------------------------------------------------------------------------


def test_control_is_read_as_it_was_written() -> None:
    ids = [bytes([number]) * 44 for number in range(3)]
    found = control(
        wire_encode.ihave("t", ids),
        wire_encode.iwant(ids[:2]),
        wire_encode.graft("u"),
        wire_encode.prune("v", 60),
    )
    assert [(offer.topic, list(offer.ids)) for offer in found.ihave] == [("t", ids)]
    assert list(found.iwant) == ids[:2]
    assert list(found.graft) == ["u"]
    assert [(prune.topic, prune.backoff_s) for prune in found.prune] == [("v", 60)]


def test_peers_in_a_prune_are_read() -> None:
    peer = field(1, AUTHOR.id) + field(2, b"record")
    (prune,) = control(field(4, field(1, b"t") + field(2, peer))).prune
    assert prune.peers == [wire.PeerInfo(AUTHOR.id, b"record")]
    assert prune.backoff_s == 0


def test_idontwant_is_understood_and_counted() -> None:
    found = control(field(5, field(1, bytes(44)) + field(1, bytes(44))))
    assert (found.unwanted, len(found.unwanted_first)) == (2, 44)


def test_an_empty_control_says_nothing() -> None:
    assert wire.decode_rpc(b"\x1a\x00").control is None


def test_two_controls_in_one_rpc_are_merged() -> None:
    joined = b"".join(wire_encode.pack([], [wire_encode.graft(t)], 99)[0] for t in ("t", "u"))
    found = wire.decode_rpc(joined).control
    assert found is not None
    assert list(found.graft) == ["t", "u"]


def test_fields_of_other_implementations_are_skipped() -> None:
    rpc = wire_encode.subscription("t", True) + field(4, b"a signed peer record")
    assert wire.decode_rpc(rpc).subscriptions == [wire.Subscription("t", True)]


# --- packing ------------------------------------------------------------------------------------


def test_an_rpc_has_one_control_at_most() -> None:
    fragments = [wire_encode.publish(bytes(90), bytes(64))] * 3
    controls = [wire_encode.ihave("t", [bytes(44)] * 3)] * 5
    for size_max in (150, 200, 400, 600, 10_000):
        rpcs = wire_encode.pack(fragments, controls, size_max)
        parts = [wire._Rpc.FromString(rpc) for rpc in rpcs]
        assert all(len(part.control) <= 1 for part in parts)
        assert sum(len(part.publish) for part in parts) == 3
        found = [wire.decode_rpc(rpc).control for rpc in rpcs]
        assert sum(len(control.ihave) for control in found if control) == 5


@given(
    st.lists(st.integers(1, 300), max_size=20),
    st.lists(st.integers(1, 300), max_size=20),
    st.integers(1, 700),
)
def test_rpcs_are_as_large_as_they_may_be(ours: list[int], theirs: list[int], most: int) -> None:
    fragments = [field(1, bytes(size)) for size in ours]
    controls = [field(2, bytes(size)) for size in theirs]
    rpcs = wire_encode.pack(fragments, controls, most)
    largest = max(map(len, fragments + controls), default=0) + 6
    assert all(len(rpc) <= max(most, largest) + 6 for rpc in rpcs)
    parts = [wire._Rpc.FromString(rpc) for rpc in rpcs]
    assert b"".join(field(1, bytes(s)) for p in parts for s in map(len, p.subscriptions)) == (
        b"".join(fragments)
    )
    assert b"".join(c for part in parts for c in part.control) == b"".join(controls)


@given(st.integers(0, 1 << 40))
def test_a_varint_is_the_shortest(number: int) -> None:
    written = wire_encode.varint(number)
    assert sum((byte & 127) << 7 * place for place, byte in enumerate(written)) == number
    assert len(written) == max(1, -(-number.bit_length() // 7))


# --- whatever comes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\x0a" + b"\xff" * 10, "not an RPC"),
        (b"\x0a\x05ab", "not an RPC"),
        (b"\x0b" * 3000, "not an RPC"),
        (bytes(wire.RPC_SIZE_MAX_BYTES + 1), "an RPC of 1048577 bytes"),
        (b"\x0a\x00" * (wire.SUBSCRIPTIONS_MAX + 1), "1025 subscriptions"),
        (b"\x12\x00" * (wire.MESSAGES_MAX + 1), "8601 messages"),
        (b"\x1a\x00" * (wire.CONTROLS_MAX + 1), "1025 controls"),
        (b"\x0a\x02\x08\x01", "a topic of 0 bytes"),
        (b"\x0a\x02\xff\xff", "not a Subscription"),
        (field(3, b"\x1a\x00" * (wire.CONTROLS_MAX + 1)), "1025 controls"),
        (field(3, field(1, b"\x12\x00" * (wire.IDS_MAX + 1))), "23001 ids"),
        (field(3, field(2, b"\x0a\x00" * (wire.IDS_MAX + 1))), "23001 ids"),
        (field(3, field(4, field(1, b"t") + b"\x12\x00" * 65)), "65 peers"),
        (field(3, field(4, field(1, b"t") + field(2, b"\xff"))), "not a PeerInfo"),
        (field(3, field(3, field(1, b"\x80"))), "not UTF-8"),
        (field(3, b"\xff"), "not a Control"),
    ],
)
def test_an_rpc_that_breaks_a_rule_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(RemoteProtocolError, match=says):
        wire.decode_rpc(data)


FRAME = b"".join(
    (
        wire_encode.subscription("t", True),
        wire_encode.publish(unsigned(), bytes(64)),
        field(3, wire_encode.ihave("t", [bytes(44)]) + wire_encode.prune("t", 60)),
    )
)


def swallow(data: bytes) -> None:
    """Read all of an RPC, as far as it can be read."""
    with suppress(RemoteProtocolError):
        for draft in wire.decode_rpc(data).publish:
            draft.message(draft.topic)


@given(st.binary(max_size=200))
@example(b"\x0a" + b"\xff" * 10)
def test_whatever_the_bytes_nothing_else_is_raised(data: bytes) -> None:
    swallow(data)
    for number in range(1, 4):
        swallow(field(number, data))
    for number in range(1, 6):
        swallow(field(3, field(number, data)))


@given(st.data())
def test_nor_for_a_frame_that_was_damaged(data: st.DataObject) -> None:
    frame = bytearray(FRAME)
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(frame)))
    swallow(bytes(frame))
    swallow(bytes(frame[:cut]))
    swallow(bytes(frame[cut:]))
