"""The seam `Link`: one contract over both implementations, and what a batch is."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import cbor2
import pytest
import trio
from hypothesis import given, strategies as st

from tests.worker.websocket_node import open_websocket_pair
from worker.link import (
    FromWorkerBatch,
    Link,
    LinkBroken,
    LinkClosed,
    ToWorkerBatch,
    decode_batch,
    encode_batch,
    open_pair,
)
from worker.protocol import (
    BATCH_LENGTH_MAX,
    MESSAGE_SIZE_MAX_BYTES,
    Acked,
    Beat,
    BlobKeep,
    Call,
    Finished,
    Held,
    Hello,
    KvIncrement,
    KvPut,
    Lease,
    Limits,
    Log,
    Offer,
    Program,
    Progress,
    Recall,
    Usage,
    Welcome,
)

OFFER = Offer(
    slots=2,
    cores=4,
    memory_bytes=1 << 33,
    arch="x86_64",
    runtimes=["python"],
    isolation=["process"],
    backends=["CPUExecutionProvider"],
    labels={"room": "lab"},
)
FINISHED = Finished(
    5,
    6,
    None,
    b'{"a":1.5}',
    "",
    Usage(1_700_000_000_000, 0.25, 0.125, 1 << 24),
    "CPUExecutionProvider",
    [KvPut(1, "k", b"[1]", 60.0), KvIncrement(1, "n", -2), BlobKeep(9)],
)
LEASE = Lease(
    5, 6, 1, "3.1", b"null", {"image": 9}, Limits(run_s=1.5), "process", 1_700_000_060_000
)


def to_node() -> list[Any]:
    return [
        Hello(1, OFFER, [Held(1, 2)]),
        Beat(),
        Progress(5, 6, 0.5, "half"),
        Log(5, 6, [(1_700_000_000_000, "stdout", "\u00fcber")]),
        FINISHED,
        Call(7, 5, 6, "kv.get", {"space": 1, "key": "k"}),
    ]


def to_worker() -> list[Any]:
    return [
        Welcome(1, 7, 10.0),
        Program("3.1", "python", "handler", b"def handler(x): return x\n", ["example.org:443"]),
        LEASE,
        Acked([Held(5, 6)]),
        Recall(8, 9),
    ]


@asynccontextmanager
async def open_memory_pair() -> AsyncIterator[tuple[Link, Link]]:
    yield open_pair()


@pytest.fixture(
    params=[open_memory_pair, pytest.param(open_websocket_pair, marks=pytest.mark.slow)],
    ids=["memory", "websocket"],
)
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Link, Link]]:
    """The worker's end and the node's."""
    async with request.param() as ends:
        yield ends


async def receive(link: Link, count: int) -> list[Any]:
    got: list[Any] = []
    with trio.fail_after(5):
        while len(got) < count:
            got += await link.receive()
    return got


async def test_messages_arrive_whole_and_in_order(pair: tuple[Link, Link]) -> None:
    worker, node = pair
    await worker.send(to_node())
    await worker.send([Beat()])
    assert await receive(node, 7) == [*to_node(), Beat()]
    await node.send(to_worker())
    assert await receive(worker, 5) == to_worker()


async def test_both_directions_flow_at_once(pair: tuple[Link, Link]) -> None:
    worker, node = pair
    async with trio.open_nursery() as nursery:
        for end, messages in ((worker, to_node()), (node, to_worker())):

            async def send(end: Link = end, messages: list[Any] = messages) -> None:
                for _ in range(20):
                    await end.send(messages)

            nursery.start_soon(send)
        assert len(await receive(node, 120)) == 120
        assert len(await receive(worker, 100)) == 100


async def test_a_large_batch_is_split_and_arrives_whole(pair: tuple[Link, Link]) -> None:
    worker, node = pair
    call = Call(1, 1, 1, "blob.append", {"upload": 1, "data": bytes(1 << 20)})
    messages = [call] * 6
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.send, messages)
        assert await receive(node, 6) == messages


async def test_the_end_of_one_end_is_the_end_of_the_other(pair: tuple[Link, Link]) -> None:
    worker, node = pair
    await node.send([Acked([])])
    await node.aclose()
    await node.aclose()
    assert await receive(worker, 1) == [Acked([])]
    with pytest.raises(LinkClosed):
        await worker.receive()


async def test_a_closed_link_says_so(pair: tuple[Link, Link]) -> None:
    worker, _ = pair
    await worker.aclose()
    with pytest.raises(LinkClosed):
        await worker.send([Beat()])
    with pytest.raises(LinkClosed):
        await worker.receive()


async def test_a_batch_for_the_other_side_ends_the_link(pair: tuple[Link, Link]) -> None:
    worker, node = pair
    await node.send([Beat()])
    with pytest.raises(LinkBroken):
        await worker.receive()


# --- batches -----------------------------------------------------------------------------------


def test_a_batch_has_a_largest_length() -> None:
    parts = encode_batch([Beat()] * (BATCH_LENGTH_MAX + 1))
    assert [len(decode_batch(part, FromWorkerBatch)) for part in parts] == [512, 513]
    with pytest.raises(LinkBroken, match="1025 messages"):
        decode_batch(cbor2.dumps([[11]] * (BATCH_LENGTH_MAX + 1)), FromWorkerBatch)


def test_a_message_that_fits_no_batch_is_our_mistake() -> None:
    with pytest.raises(ValueError, match="a Call of"):
        encode_batch([Call(1, 1, 1, "x", {"data": bytes(MESSAGE_SIZE_MAX_BYTES)})])


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        [11],
        [[99]],
        [[11, 1]],
        [[14, 1, 2, [[1, "stdout"]]]],
        [[13, 1, 2, "half", ""]],
        [[15, 1, 2, "no_such_code", b"", "", [1, 1.0, 1.0, 1], "", []]],
        [[15, 1, 2, None, b"", "", [1, 1.0, 1.0, 1], "", [[9, 1]]]],
    ],
)
def test_nonsense_is_refused(value: Any) -> None:
    with pytest.raises(LinkBroken):
        decode_batch(cbor2.dumps(value), FromWorkerBatch)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_batch_or_broken(data: bytes) -> None:
    for batch in (FromWorkerBatch, ToWorkerBatch):
        try:
            messages = decode_batch(data, batch)
        except LinkBroken:
            continue
        assert isinstance(messages, list)


INTEGERS = st.integers(-(2**63), 2**63 - 1)


@given(
    st.lists(
        st.one_of(
            st.builds(Held, INTEGERS, INTEGERS).map(lambda held: Acked([held])),
            st.builds(Recall, INTEGERS, INTEGERS),
            st.builds(
                Program,
                st.text(),
                st.just("python"),
                st.text(),
                st.binary(),
                st.lists(st.text(), max_size=3),
            ),
        ),
        max_size=20,
    )
)
def test_what_is_encoded_is_decoded(messages: list[Any]) -> None:
    parts = encode_batch(messages)
    assert [m for part in parts for m in decode_batch(part, ToWorkerBatch)] == messages
