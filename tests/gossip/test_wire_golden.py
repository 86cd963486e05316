"""Frames of every kind, byte for byte as libp2p's own protobuf writes them.

The golden files are hex; a file changes only when the public wire format does.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from libp2p.pubsub.pb import rpc_pb2 as public

from gossip import wire, wire_encode

GOLDEN = Path(__file__).parent / "golden"
AUTHOR = wire.PEER_ID_PREFIX + bytes(range(32))
SIGNATURE = bytes(range(64))
SEQNO = 1_700_000_000_000_000_001
IDS = [AUTHOR[2:] + bytes([number]) * 8 for number in range(3)]
LONG_IDS = [AUTHOR + bytes([number]) * 8 for number in range(3)]


def one_control(*fields: bytes) -> bytes:
    (rpc,) = wire_encode.pack([], fields, 1 << 20)
    return rpc


def ours() -> dict[str, bytes]:
    unsigned = wire_encode.message(AUTHOR, SEQNO, "peernode/kv", b"data" * 50)
    publish = wire_encode.publish(unsigned, SIGNATURE)
    return {
        "subscribe": wire_encode.subscription("peernode/kv", True),
        "unsubscribe": wire_encode.subscription("peernode/kv", False),
        "publish": publish,
        "ihave": one_control(wire_encode.ihave("peernode/kv", IDS)),
        "ihave_long": one_control(wire_encode.ihave("peernode/kv", wire.long_ids(IDS))),
        "iwant": one_control(wire_encode.iwant(LONG_IDS)),
        "graft": one_control(wire_encode.graft("peernode/kv")),
        "prune": one_control(wire_encode.prune("peernode/kv", 60)),
        "all": wire_encode.pack(
            [wire_encode.subscription("peernode/kv", True), publish],
            [wire_encode.ihave("peernode/kv", IDS), wire_encode.graft("peernode/kv")],
            1 << 20,
        )[0],
    }


def theirs() -> dict[str, public.RPC]:
    topic = "peernode/kv"
    subscribe = public.RPC(subscriptions=[public.RPC.SubOpts(subscribe=True, topicid=topic)])
    message = public.Message(
        from_id=AUTHOR,
        data=b"data" * 50,
        seqno=SEQNO.to_bytes(8, "big"),
        topicIDs=[topic],
        signature=SIGNATURE,
    )

    def control(**fields: object) -> public.RPC:
        return public.RPC(control=public.ControlMessage(**fields))

    ihave = public.ControlIHave(topicID=topic, messageIDs=IDS)
    graft = public.ControlGraft(topicID=topic)
    return {
        "subscribe": subscribe,
        "unsubscribe": public.RPC(
            subscriptions=[public.RPC.SubOpts(subscribe=False, topicid=topic)]
        ),
        "publish": public.RPC(publish=[message]),
        "ihave": control(ihave=[ihave]),
        "ihave_long": control(ihave=[public.ControlIHave(topicID=topic, messageIDs=LONG_IDS)]),
        "iwant": control(iwant=[public.ControlIWant(messageIDs=LONG_IDS)]),
        "graft": control(graft=[graft]),
        "prune": control(prune=[public.ControlPrune(topicID=topic, backoff=60)]),
        "all": public.RPC(
            subscriptions=subscribe.subscriptions,
            publish=[message],
            control=public.ControlMessage(ihave=[ihave], graft=[graft]),
        ),
    }


def golden(name: str) -> bytes:
    return bytes.fromhex((GOLDEN / f"mesh_{name}.hex").read_text())


@pytest.mark.parametrize("name", sorted(theirs()))
def test_a_frame_is_what_the_golden_file_says(name: str) -> None:
    assert ours()[name] == golden(name)


@pytest.mark.parametrize("name", sorted(theirs()))
def test_libp2p_writes_the_same_bytes(name: str) -> None:
    assert theirs()[name].SerializeToString() == golden(name)


@pytest.mark.parametrize("name", sorted(theirs()))
def test_libp2p_reads_what_we_write(name: str) -> None:
    assert public.RPC.FromString(ours()[name]) == theirs()[name]


def test_every_golden_file_is_tested() -> None:
    assert {path.stem for path in GOLDEN.glob("mesh_*.hex")} == {f"mesh_{n}" for n in theirs()}


SAYS: dict[str, Callable[[wire.Rpc], bool]] = {
    "subscribe": lambda rpc: rpc.subscriptions == [wire.Subscription("peernode/kv", True)],
    "unsubscribe": lambda rpc: rpc.subscriptions == [wire.Subscription("peernode/kv", False)],
    "publish": lambda rpc: rpc.publish[0].message("")[0].data == b"data" * 50,
    "ihave": lambda rpc: list(rpc.control.ihave[0].ids) == IDS,
    "ihave_long": lambda rpc: list(rpc.control.ihave[0].ids) == LONG_IDS,
    "iwant": lambda rpc: list(rpc.control.iwant) == LONG_IDS,
    "graft": lambda rpc: list(rpc.control.graft) == ["peernode/kv"],
    "prune": lambda rpc: rpc.control.prune[0].backoff_s == 60,
    "all": lambda rpc: bool(rpc.subscriptions and rpc.publish and rpc.control.graft),
}


@pytest.mark.parametrize("name", sorted(SAYS))
def test_a_golden_frame_says_what_it_should(name: str) -> None:
    assert SAYS[name](wire.decode_rpc(golden(name)))


def test_what_libp2p_signs_is_what_we_verify() -> None:
    message = theirs()["publish"].publish[0]
    message.ClearField("signature")
    signed = b"libp2p-pubsub:" + message.SerializeToString()
    (draft,) = wire.decode_rpc(golden("publish")).publish
    assert draft.message("peernode/kv")[1].signed == signed
