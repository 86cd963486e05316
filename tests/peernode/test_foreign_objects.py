"""What was just made at another node is there when it is asked for, and a wrong id costs little."""

import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, strategies as st

from gossip.errors import PeerRefused, RemoteProtocolError
from peernode.foreign_objects import (
    MISSING_S,
    PROTOCOL,
    UNKNOWN_BURST,
    Ask,
    Busy,
    ForeignObjects,
    Known,
    Reply,
    decode_ask,
    decode_reply,
    encode,
)
from storage import ids
from storage.places import Class
from tests.peernode.federated import Federated, open_federated
from tests.peernode.meshes import peer_id
from tests.peernode.nodes import ECHO, START_MS, Caller

Clock = trio.testing.MockClock
GOLDEN = Path(__file__).parent / "golden" / "foreign_objects_frames.hex"
ID = 1 << 40
ASKS = [Ask(1, class_, ID) for class_ in (Class.USER, Class.PROJECT, Class.FUNCTION)]
REPLIES: list[Reply] = [Known([b"fact"], [b"record"]), Known([], []), Busy()]


@contextmanager
def deaf(mesh: Federated) -> Iterator[None]:
    """Have nothing pushed while the block runs; questions are answered."""
    pushing = [mesh.nodes[name].federation.gossip for name in mesh.nodes]  # type: ignore[union-attr]
    before = [gossip.publish for gossip in pushing]
    for gossip in pushing:
        gossip.publish = lambda item: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        for gossip, publish in zip(pushing, before, strict=True):
            gossip.publish = publish  # type: ignore[method-assign]


@asynccontextmanager
async def open_world(count: int = 2) -> AsyncIterator[tuple[Federated, Caller, Caller]]:
    """Own nodes that know ada, whose home is a; nothing that she makes is pushed."""
    async with open_federated(count) as mesh:
        home = await mesh.sign_up("ada", "a")
        await trio.sleep(2)
        with deaf(mesh):
            yield mesh, home, mesh.caller("ada", "b")


def objects(mesh: Federated, name: str) -> ForeignObjects:
    foreign = mesh.nodes[name].foreign
    assert foreign is not None
    return foreign.objects


def count_asked(mesh: Federated, name: str = "a") -> list[int]:
    """Return the ids that a node is asked for from now on."""
    asked: list[int] = []
    handler = objects(mesh, name).answer

    async def answer(peer: str, frame: bytes) -> bytes:
        asked.append(decode_ask(frame).id)
        return await handler(peer, frame)

    mesh.wire._nodes[peer_id(name)].requests[PROTOCOL] = answer, 64
    return asked


async def make_all(home: Caller) -> dict[str, str]:
    project = (await home.post("/project", {"name": "lab"}, 201))["id"]
    body = {"project": project, "name": "echo", "runtime": "python", "source": ECHO}
    function = (await home.post("/function", body, 201))["id"]
    spaces = {}
    for mode in ("lww", "cas"):
        made = {"owner": {"project": project}, "name": mode, "scope": "global", "mode": mode}
        spaces[mode] = (await home.post("/kv", made, 201))["id"]
    return {"project": project, "function": function, **spaces}


async def test_what_was_just_made_at_another_node_is_there_when_it_is_asked_for(
    autojump_clock: Clock,
) -> None:
    for first in ("project", "function", "lww", "cas"):
        async with open_world() as (_, home, there):
            made = await make_all(home)
            class_name = first if first in ("project", "function") else "kv"
            path = f"/{class_name}/{made[first]}"
            assert await there.get(path) == await home.get(path)


async def test_calls_about_it_work_too(autojump_clock: Clock) -> None:
    async with open_world() as (_, home, there):
        made = await make_all(home)
        await there.post("/job", {"function": made["function"], "input": 1}, 202)
        await there.post(f"/kv/{made['cas']}/put", {"key": "k", "value": 1})
        await there.post(f"/kv/{made['lww']}/put", {"key": "k", "value": 2})
        assert (await home.post(f"/kv/{made['cas']}/get", {"key": "k"}))["value"] == 1
    for make in ("function", "kv", "blob"):
        async with open_world() as (_, home, there):
            project = (await home.post("/project", {"name": "lab"}, 201))["id"]
            if make == "function":
                body = {"project": project, "name": "f", "runtime": "python", "source": ECHO}
                await there.post("/function", body, 201)
            elif make == "kv":
                body = {"owner": {"project": project}, "name": "k", "scope": "local"}
                await there.post("/kv", body, 201)
            else:
                await there.blob(b"bytes", project)


async def test_who_has_just_become_a_member_elsewhere_is_one(autojump_clock: Clock) -> None:
    async with open_federated(2) as mesh:
        ada = await mesh.sign_up("ada", "a")
        bob = await mesh.sign_up("bob", "b")
        await trio.sleep(2)
        with deaf(mesh):
            made = await make_all(ada)
            body = {"user": bob.id, "role": "developer"}
            await ada.post(f"/project/{made['project']}/add_member", body)
            await bob.get(f"/function/{made['function']}")
            # What bob may not see stays unseen, though this node knows it now.
            other = (await ada.post("/project", {"name": "other"}, 201))["id"]
            await bob.get(f"/project/{other}", 404)


async def test_a_new_user_is_met(autojump_clock: Clock) -> None:
    async with open_world() as (mesh, _, there):
        bob = await Caller(mesh.nodes["a"]).post(
            "/user", {"name": "bob", "password": "correct horse"}, 201
        )
        assert (await there.get(f"/user/{bob['id']}"))["name"] == "bob"


async def test_what_is_local_or_deleted_is_not_given_out(autojump_clock: Clock) -> None:
    async with open_world() as (_, home, there):
        made = await make_all(home)
        body = {"owner": {"project": made["project"]}, "name": "own", "scope": "local"}
        local = (await home.post("/kv", body, 201))["id"]
        await there.get(f"/kv/{local}", 404)
        await home.delete(f"/kv/{made['cas']}")
        await there.get(f"/kv/{made['cas']}", 404)


async def test_a_home_that_cannot_be_asked_is_named(autojump_clock: Clock) -> None:
    async with open_world() as (mesh, home, there):
        made = await make_all(home)
        mesh.part("a", "b")
        for path in (f"/project/{made['project']}", f"/kv/{made['cas']}"):
            refused = await there.get(path, 504)
            assert (refused["code"], refused["nodes"]) == ("unreachable", [1])
        await there.post("/job", {"function": made["function"]}, 504)
        await Caller(mesh.nodes["b"]).get(f"/project/{made['project']}", 401)
        mesh.join("a", "b")
        await there.get(f"/project/{made['project']}")


async def test_an_id_that_nobody_knows_is_asked_for_once_a_second(autojump_clock: Clock) -> None:
    async with open_world() as (mesh, home, there):
        project = int((await home.post("/project", {"name": "lab"}, 201))["id"])
        asked, wrong = count_asked(mesh), project + 1
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(there.get, f"/function/{wrong}", 404)
        assert asked == [wrong]
        for _ in range(20):
            await there.get(f"/kv/{wrong}", 404)
        assert asked == [wrong]
        await trio.sleep(MISSING_S * 1.1)
        await there.get(f"/function/{wrong}", 404)
        assert asked == [wrong, wrong]


async def test_who_tries_ids_is_soon_answered_without_a_question(autojump_clock: Clock) -> None:
    async with open_world() as (mesh, home, there):
        first = int((await home.post("/project", {"name": "lab"}, 201))["id"])
        asked = count_asked(mesh)
        for number in range(1, 4 * UNKNOWN_BURST):
            await there.get(f"/project/{first + (number << 22)}", 404)
        assert len(asked) < 2 * UNKNOWN_BURST


async def test_ids_that_cannot_be_are_asked_of_nobody(autojump_clock: Clock) -> None:
    async with open_world() as (mesh, _, there):
        asked = count_asked(mesh)
        for wrong in (
            ids.pack(START_MS, 99, 0),  # of no node
            ids.pack(START_MS + 3_600_000, 1, 0),  # of the future
            ids.pack(START_MS, 2, 7),  # of this node
        ):
            await there.get(f"/project/{wrong}", 404)
            await there.post("/job", {"function": str(wrong)}, 404)
        assert asked == []


async def test_a_home_that_gives_what_is_forged_is_blamed_and_changes_nothing(
    autojump_clock: Clock,
) -> None:
    async with open_world() as (mesh, home, there):
        made = await make_all(home)
        reply = objects(mesh, "a")._known(Class.FUNCTION, int(made["function"]))
        forged = [record[:-1] + bytes([record[-1] ^ 1]) for record in reply.records]
        frames = itertools.cycle(
            [
                encode(Known(reply.facts, forged)),
                encode(Known([b"noise"], [])),
                b"noise",
                encode(Busy()),
            ]
        )

        async def lie(peer: str, frame: bytes) -> bytes:
            await trio.lowlevel.checkpoint()
            return next(frames)

        mesh.wire._nodes[peer_id("a")].requests[PROTOCOL] = lie, 64
        for _ in range(3):
            await there.get(f"/function/{made['function']}", 504)
        standing = mesh.nodes["b"].federation.standing  # type: ignore[union-attr]
        assert standing.penalty(peer_id("a"), trio.current_time()) > 40
        await there.get(f"/function/{made['function']}", 504)
        assert mesh.nodes["b"].registry.get(Class.FUNCTION, int(made["function"])) is None


async def test_only_members_are_answered_and_each_for_its_own(autojump_clock: Clock) -> None:
    async with open_world() as (mesh, home, _):
        made = await make_all(home)
        ask = encode(Ask(1, Class.PROJECT, int(made["project"])))
        with pytest.raises(PeerRefused):
            await objects(mesh, "a").answer(peer_id("z"), ask)
        found = decode_reply(await objects(mesh, "b").answer(peer_id("a"), ask))
        assert found == Known([], [])
        later = encode(Ask(2, Class.PROJECT, int(made["project"])))
        assert decode_reply(await objects(mesh, "a").answer(peer_id("b"), later)) == Busy()


def test_golden_frames() -> None:
    """These bytes are what other versions read and write. A new layout is a new version."""
    lines = GOLDEN.read_text().split()
    assert lines == [encode(message).hex() for message in [*ASKS, *REPLIES]]
    assert [decode_ask(bytes.fromhex(line)) for line in lines[: len(ASKS)]] == ASKS
    assert [decode_reply(bytes.fromhex(line)) for line in lines[len(ASKS) :]] == REPLIES


@given(st.binary(max_size=200))
def test_noise_is_refused(frame: bytes) -> None:
    for decode in (decode_ask, decode_reply):
        try:
            found: Any = decode(frame)  # type: ignore[operator]
        except RemoteProtocolError:
            continue
        assert encode(found) == frame
