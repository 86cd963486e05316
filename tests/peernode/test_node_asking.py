"""A worker asks over plain HTTP whether it is its node, and believes nothing but the signature."""

import json

import pytest
import trio
import trio.testing

from peernode import node_proof
from peernode.cli import node_asking
from storage.clock import SystemEntropy
from storage.signing import Keypair
from worker.link import LinkClosed
from worker.websocket_link import WrongNode

NODE = Keypair.from_seed(b"\1" * 32)
HOST = "127.0.0.1:8440"
WITHIN_S = 20


def answer(body: bytes, head: str = "HTTP/1.1 200 OK") -> bytes:
    return f"{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def proof(challenge: bytes, host: str = HOST, by: Keypair = NODE) -> bytes:
    return json.dumps({"proof": node_proof.sign(by, challenge, host).hex()}).encode()


async def asked(parts: list[bytes] | None, by: Keypair = NODE, host: str = HOST) -> bytes:
    """Ask somebody who answers `parts`, or else with a proof; return what comes behind that."""
    here, there = trio.testing.memory_stream_pair()

    async def somebody() -> None:
        request = b""
        while not request.endswith(b"\r\n\r\n"):
            request += await there.receive_some(100)
        challenge = bytes.fromhex(request.split()[1].partition(b"=")[2].decode())
        assert b"\r\nHost: 127.0.0.1:8440\r\n" in request
        for part in parts or [
            answer(proof(challenge, host, by))[at : at + 7] for at in range(0, 999, 7)
        ]:
            await there.send_all(part)
        if parts is None:
            assert await there.receive_some(100) == b"the request"
            await there.send_all(b"the upgrade")
        await there.send_eof()

    with trio.fail_after(WITHIN_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(somebody)
            await node_asking.ask(NODE.public_key, SystemEntropy())(here, HOST)
            await here.send_all(b"the request")
            rest = b""
            while data := await here.receive_some(100):
                rest += data
    return rest


async def test_the_node_proves_itself_and_the_connection_goes_on() -> None:
    assert await asked(None) == b"the upgrade"


@pytest.mark.parametrize(
    "parts",
    [
        [answer(b"{}")],
        [answer(b'{"proof": "x"}')],
        [answer(b'{"proof": 1}')],
        [answer(b"not JSON")],
        [answer(proof(bytes(32)))],
        [b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n"],
        [answer(b"{}") + b"x"],
        [b"HTTP/1.1 204 No Content\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n", *[bytes(1000)] * 20],
        [b"x" * 1000] * 20,
    ],
)
async def test_any_other_answer_is_not_the_nodes(parts: list[bytes]) -> None:
    with pytest.RaisesGroup(
        pytest.RaisesExc(WrongNode, match="does not prove"), flatten_subgroups=True
    ):
        await asked(parts)


async def test_a_proof_of_another_key_or_for_another_host_is_none() -> None:
    for by, host in ((Keypair.from_seed(b"\2" * 32), HOST), (NODE, "127.0.0.1:9999")):
        with pytest.RaisesGroup(WrongNode, flatten_subgroups=True):
            await asked(None, by, host)


async def test_who_hangs_up_may_be_the_node_next_time() -> None:
    for parts in ([b"HTTP/1.1 200"], [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"]):
        with pytest.RaisesGroup(LinkClosed, flatten_subgroups=True) as caught:
            await asked(parts)
        assert not isinstance(caught.value.exceptions[0], WrongNode)
