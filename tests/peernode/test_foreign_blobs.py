"""Blobs of other nodes: fetched block by block, verified, kept for the next, resumed, bounded."""

import random
from collections.abc import AsyncGenerator
from contextlib import suppress

import msgspec
import pytest
import trio
import trio.testing

from gossip.errors import PeerClosed
from gossip.fetch_events import FetchConfig
from gossip.fetch_messages import (
    PROTOCOL,
    VERSION,
    Data,
    Get,
    Kind,
    decode_reply,
    decode_request,
    encode,
)
from peernode import blob_snapshots, foreign_messages
from peernode.foreign import Config
from peernode.problems import Problem
from storage.cid import CHUNK_SIZE_BYTES
from storage.store import Batch, Table
from tests.peernode.foreign_mesh import Mesh, fetch, key_of, open_mesh, peer_of
from tests.peernode.nodes import Caller, settle

Clock = trio.testing.MockClock
CONTENT = b"".join(bytes([at]) * CHUNK_SIZE_BYTES for at in range(1, 5)) + b"and an end"
BLOCKS = 6
"""Of `CONTENT`: five leaves and a node."""


async def put(mesh: Mesh, data: bytes = CONTENT, project: bool = True) -> str:
    found = await mesh.users["ada"].blob(data, mesh.lab.project if project else "")
    return str(found["id"])


def count(mesh: Mesh, number: int = 1, stop_after: int = 1000) -> list[tuple[int, int]]:
    """Return the blocks that a node gives from now on; after some it is cut off."""
    blocks: list[tuple[int, int]] = []
    handler, size = mesh.foreign(number).serving.give, 1 << 14

    async def give(peer: str, frame: bytes) -> bytes:
        if len(blocks) >= stop_after:
            await settle()  # What was given before has arrived.
            mesh.part(number)
            raise PeerClosed("cut off")
        get = decode_request(frame)
        blocks.append((get.depth, get.index))
        return await handler(peer, frame)

    mesh.networks[number].requests[PROTOCOL] = give, size
    return blocks


async def read(mesh: Mesh, number: int, blob: str, caller: Caller) -> AsyncGenerator[bytes, None]:
    """Return the bytes of a blob as a node gives them, piece by piece."""
    actor = mesh.nodes[number].sessions.authenticate(f"Bearer {caller.token}".encode())
    row = mesh.lab.node.content.row(int(blob))
    assert row is not None
    stream = mesh.foreign(number).blobs.stream(actor, int(blob), row, 0, row.size_bytes)
    assert await anext(stream) == b""
    return stream


async def test_a_blob_is_the_same_at_every_node(autojump_clock: Clock) -> None:
    async with open_mesh(3) as mesh:
        blob, ada = await put(mesh), mesh.users["ada"]
        for number in (2, 3):
            near = await mesh.caller(number)
            answer = await fetch(near, f"/blob/{blob}")
            assert answer.json() == await ada.get(f"/blob/{blob}")
            assert answer.headers["origin-node"] == "1"
            there, home = [await fetch(who, f"/blob/{blob}/content") for who in (near, ada)]
            assert there.content == home.content == CONTENT
            assert there.headers.items() - home.headers.items() == {("origin-node", "1")}


async def test_ranges_and_conditions_work_as_at_home(autojump_clock: Clock) -> None:
    async with open_mesh() as mesh:
        blob, near, path = await put(mesh), await mesh.caller(2), ""
        path = f"/blob/{blob}/content"
        wanted = f"bytes={CHUNK_SIZE_BYTES - 3}-{CHUNK_SIZE_BYTES + 4}"
        part = await fetch(near, path, 206, Range=wanted)
        assert part.content == b"\1\1\1\2\2\2\2\2"
        end = await fetch(near, path, 206, Range="bytes=-3")
        assert end.content == b"end"
        await near.get(path, 416, Range=f"bytes={len(CONTENT)}-")
        tag = part.headers["etag"]
        same = await fetch(near, path, 304, If_None_Match=tag)
        assert same.headers["origin-node"] == "1"


@pytest.mark.parametrize("data", [b"", b"small", b"x" * CHUNK_SIZE_BYTES])
async def test_small_and_empty_content(data: bytes, autojump_clock: Clock) -> None:
    async with open_mesh() as mesh:
        blob, near = await put(mesh, data), await mesh.caller(2)
        assert (await fetch(near, f"/blob/{blob}/content")).content == data
        mesh.part(1)
        assert (await fetch(near, f"/blob/{blob}/content")).content == data


async def test_what_was_fetched_is_not_fetched_again(autojump_clock: Clock) -> None:
    async with open_mesh() as mesh:
        blob, near = await put(mesh), await mesh.caller(2)
        asked = count(mesh)
        for _ in range(2):
            await fetch(near, f"/blob/{blob}/content")
        assert len(asked) == BLOCKS
        mesh.part(1)
        for path in (f"/blob/{blob}", f"/blob/{blob}/content"):
            answer = await fetch(near, path)
            assert answer.headers["stale"] == "as-of 2027-01-15T08:00:00.000Z"
            assert answer.headers["origin-node"] == "1"


async def test_content_goes_out_while_it_comes(autojump_clock: Clock) -> None:
    async with open_mesh(config=Config(fetch=FetchConfig(window=1))) as mesh:
        blob, near = await put(mesh), await mesh.caller(2)
        asked = count(mesh, stop_after=3)
        stream = await read(mesh, 2, blob, near)
        got = b"".join([await anext(stream), await anext(stream)])
        assert got == CONTENT[: 2 * CHUNK_SIZE_BYTES]
        with pytest.raises(Problem) as caught:
            async for _ in stream:
                pass
        assert caught.value.code == "unreachable"
        assert asked == [(0, 0), (1, 0), (1, 1)]


async def test_a_fetch_that_was_broken_off_goes_on_where_it_was(autojump_clock: Clock) -> None:
    async with open_mesh() as mesh:
        blob, near = await put(mesh), await mesh.caller(2)
        before = count(mesh, stop_after=3)
        with pytest.raises(Problem):
            async for _ in await read(mesh, 2, blob, near):
                pass
        mesh.meet(1, 2)
        after = count(mesh)
        assert (await fetch(near, f"/blob/{blob}/content")).content == CONTENT
        assert len(before) == 3
        assert not set(before) & set(after)
        assert len(after) == BLOCKS - 3


async def test_a_reader_who_leaves_stops_the_fetch(autojump_clock: Clock) -> None:
    async with open_mesh() as mesh:
        blob, near = await put(mesh, CONTENT * 8), await mesh.caller(2)
        asked = count(mesh)
        stream = await read(mesh, 2, blob, near)
        await anext(stream)
        await stream.aclose()
        await settle()
        assert len(asked) < 24  # Of 34.
        assert mesh.foreign(2).driver._machine.fetches == 0
        assert (await fetch(near, f"/blob/{blob}/content")).content == CONTENT * 8
        # What was on its way when the reader left is asked for again, and nothing else.
        assert len(asked) - len(set(asked)) <= FetchConfig().window


async def test_readers_at_once_share_one_fetch(autojump_clock: Clock) -> None:
    async with open_mesh() as mesh:
        blob, near = await put(mesh), await mesh.caller(2)
        asked = count(mesh)
        found = []

        async def get() -> None:
            found.append((await fetch(near, f"/blob/{blob}/content")).content)

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(get)
        assert found == [CONTENT] * 5
        assert len(asked) == BLOCKS


async def test_users_with_other_rights_share_what_is_here(autojump_clock: Clock) -> None:
    async with open_mesh(users=("bob",)) as mesh:
        blob = await put(mesh)
        bob, ada = await mesh.caller(2, "bob"), await mesh.caller(2)
        await fetch(ada, f"/blob/{blob}/content")
        hidden = await bob.get(f"/blob/{blob}/content", 404)
        missing = await bob.get(f"/blob/{int(blob) + 1}/content", 404)
        assert hidden["detail"].replace(blob, "X") == missing["detail"].replace(
            str(int(blob) + 1), "X"
        )
        assert hidden["nodes"] == missing["nodes"] == [1]
        await Caller(mesh.nodes[2]).get(f"/blob/{blob}", 401)
        mesh.part(1)
        await bob.get(f"/blob/{blob}", 404)
        await bob.get(f"/blob/{blob}/content", 404)


async def test_a_neighbour_gives_blocks_to_those_who_may_read(autojump_clock: Clock) -> None:
    async with open_mesh(3, users=("bob",)) as mesh:
        blob, near, far = await put(mesh), await mesh.caller(2), await mesh.caller(3)
        await fetch(near, f"/blob/{blob}/content")
        await fetch(far, f"/blob/{blob}")
        mesh.part(1)
        assert (await fetch(far, f"/blob/{blob}/content")).content == CONTENT


async def test_unknown_and_without_the_home_it_is_unreachable(autojump_clock: Clock) -> None:
    async with open_mesh(3) as mesh:
        blob, near, far = await put(mesh), await mesh.caller(2), await mesh.caller(3)
        mesh.part(1)
        for path in (f"/blob/{blob}", f"/blob/{blob}/content"):
            problem = await near.get(path, 504)
            assert (problem["code"], problem["nodes"]) == ("unreachable", [1])
        mesh.meet(1, 3)
        await fetch(far, f"/blob/{blob}")
        mesh.part(1)
        # Its attributes a neighbour has, and nobody the content.
        assert (await near.get(f"/blob/{blob}"))["size_bytes"] == len(CONTENT)
        assert (await near.get(f"/blob/{blob}/content", 504))["nodes"] == [1]


async def test_without_the_home_a_node_that_never_saw_a_blob_has_it_from_a_neighbour(
    autojump_clock: Clock,
) -> None:
    async with open_mesh(3, users=("bob",)) as mesh:
        blob, near, far = await put(mesh), await mesh.caller(2), await mesh.caller(3)
        bob = await mesh.caller(3, "bob")
        at_home = (await fetch(near, f"/blob/{blob}")).json()
        await fetch(near, f"/blob/{blob}/content")
        mesh.part(1)
        # Who may not read it learns nothing,
        for path in (f"/blob/{blob}", f"/blob/{blob}/content"):
            assert (await bob.get(path, 504))["nodes"] == [1]
        mesh.clock.advance(60)
        answer = await fetch(far, f"/blob/{blob}")
        assert answer.json() == at_home
        assert answer.headers["stale"] == "as-of 2027-01-15T08:00:00.000Z"
        assert answer.headers["origin-node"] == "1"
        assert (await fetch(far, f"/blob/{blob}/content")).content == CONTENT
        # now that it is here neither.
        await bob.get(f"/blob/{blob}", 404)


async def test_what_a_home_said_of_a_blob_is_good_for_a_day_and_no_longer(
    autojump_clock: Clock,
) -> None:
    async with open_mesh(3) as mesh:
        blob, week = await put(mesh), 7 * 86_400
        near, far = await mesh.caller(2, ttl_s=week), await mesh.caller(3, ttl_s=week)
        await fetch(near, f"/blob/{blob}/content")
        mesh.part(1)
        await mesh.users["ada"].delete(f"/blob/{blob}")
        mesh.clock.advance(86_399)
        await fetch(far, f"/blob/{blob}")
        await fetch(near, f"/blob/{blob}/content")
        mesh.clock.advance(2)
        for caller in (near, far):
            await caller.get(f"/blob/{blob}", 504)
            await caller.get(f"/blob/{blob}/content", 504)
        mesh.meet(1, 2)
        await near.get(f"/blob/{blob}", 404)


async def test_attributes_that_the_home_did_not_sign_are_no_answer(autojump_clock: Clock) -> None:
    async with open_mesh(3) as mesh:
        blob, far = await put(mesh), await mesh.caller(3)
        row = mesh.lab.node.content.row(int(blob))
        assert row is not None
        forged = blob_snapshots.sign(
            key_of(2), mesh.lab.node.identity.mesh, int(blob), row, mesh.clock.now_ms
        )

        async def lie(peer: str, frame: bytes) -> bytes:
            return encode(Data(forged))

        mesh.networks[2].requests[PROTOCOL] = lie, 1 << 14
        mesh.part(1)
        assert (await far.get(f"/blob/{blob}", 504))["nodes"] == [1]


async def test_a_provider_that_lies_is_dropped(autojump_clock: Clock) -> None:
    async with open_mesh(3) as mesh:
        blob, near, far = await put(mesh), await mesh.caller(2), await mesh.caller(3)
        await fetch(near, f"/blob/{blob}/content")
        handler, size = mesh.networks[1].requests[PROTOCOL]
        lies: list[int] = []

        async def lie(peer: str, frame: bytes) -> bytes:
            reply = decode_reply(await handler(peer, frame))
            if decode_request(frame).depth and isinstance(reply, Data):
                lies.append(1)
                return encode(Data(b"!" + reply.data[1:]))
            return encode(reply)

        mesh.networks[1].requests[PROTOCOL] = lie, size
        assert (await fetch(far, f"/blob/{blob}/content")).content == CONTENT
        assert 0 < len(lies) < BLOCKS


async def test_attributes_that_lie_about_the_size_bring_nothing(autojump_clock: Clock) -> None:
    async with open_mesh() as mesh:
        blob, near = await put(mesh), await mesh.caller(2)
        handler, size = mesh.networks[1].requests[foreign_messages.ASK]
        row = mesh.lab.node.content.row(int(blob))
        assert row is not None

        async def lie(peer: str, frame: bytes) -> bytes:
            await handler(peer, frame)
            signed = mesh.foreign(1).blobs.signed(
                int(blob), msgspec.structs.replace(row, size_bytes=1)
            )
            return foreign_messages.encode(foreign_messages.Row(signed, None))

        mesh.networks[1].requests[foreign_messages.ASK] = lie, size
        assert (await near.get(f"/blob/{blob}"))["size_bytes"] == 1
        assert (await near.get(f"/blob/{blob}/content", 404))["code"] == "not_found"


async def test_the_cache_is_bounded_and_the_oldest_use_goes_first(autojump_clock: Clock) -> None:
    config = Config(cache_size_max_bytes=3 * CHUNK_SIZE_BYTES)
    async with open_mesh(config=config) as mesh:
        near = await mesh.caller(2)
        blobs = [await put(mesh, bytes([at]) * CHUNK_SIZE_BYTES) for at in range(4)]
        for blob in (*blobs[:3], blobs[0], blobs[3]):
            await fetch(near, f"/blob/{blob}/content")
            mesh.check()
        mesh.part(1)
        status = {at: 504 if at == 1 else 200 for at in range(4)}
        for at, blob in enumerate(blobs):
            await fetch(near, f"/blob/{blob}/content", status[at])
        kept = mesh.disks[2].scan(Table.BLOCKS)
        assert len(kept) == 3


async def test_content_over_the_bound_is_refused(autojump_clock: Clock) -> None:
    async with open_mesh(config=Config(cache_size_max_bytes=1000)) as mesh:
        blob, near = await put(mesh, b"x" * 1001), await mesh.caller(2)
        problem = await near.get(f"/blob/{blob}/content", 413)
        assert problem["limit"] == 1000


async def test_own_content_is_used_and_outlives_the_cache(autojump_clock: Clock) -> None:
    config = Config(cache_size_max_bytes=5 * CHUNK_SIZE_BYTES)
    async with open_mesh(config=config) as mesh:
        blob, near = await put(mesh), await mesh.caller(2)
        own = (await near.blob(CONTENT))["id"]
        asked = count(mesh)
        assert (await fetch(near, f"/blob/{blob}/content")).content == CONTENT
        assert asked == []
        other = await put(mesh, b"z" * 2 * CHUNK_SIZE_BYTES)
        await fetch(near, f"/blob/{other}/content")
        assert (await fetch(near, f"/blob/{own}/content")).content == CONTENT


async def test_a_block_that_the_disk_lost_is_fetched_again(autojump_clock: Clock) -> None:
    async with open_mesh() as mesh:
        blob, near = await put(mesh), await mesh.caller(2)
        await fetch(near, f"/blob/{blob}/content")
        (leaf,) = [key for key, data in mesh.disks[2].scan(Table.BLOCKS) if data[:2] == b"\2\2"]
        mesh.disks[2].apply(Batch(deletes=[(Table.BLOCKS, leaf)]))
        asked = count(mesh)
        assert (await fetch(near, f"/blob/{blob}/content")).content == CONTENT
        assert len(asked) == 1


async def test_no_room_on_the_disk_is_said(autojump_clock: Clock) -> None:
    async with open_mesh() as mesh:
        blob, near = await put(mesh, b"x" * CHUNK_SIZE_BYTES), await mesh.caller(2)
        await near.get(f"/blob/{blob}")
        mesh.disks[2].fill(CHUNK_SIZE_BYTES // 2)
        assert (await near.get(f"/blob/{blob}/content", 507))["code"] == "storage_full"
        mesh.disks[2].make_room()
        assert (await fetch(near, f"/blob/{blob}/content")).content == b"x" * CHUNK_SIZE_BYTES


async def test_a_blob_that_changes_is_waited_for(autojump_clock: Clock) -> None:
    async with open_mesh() as mesh:
        blob, near = await put(mesh), await mesh.caller(2)
        found = []

        async def wait() -> None:
            found.append(await near.get(f"/blob/{blob}?wait=60"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await settle()
            await mesh.users["ada"].post(f"/blob/{blob}", {"name": "new"})
        assert found[0]["name"] == "new"


async def test_a_deleted_blob_is_gone_everywhere_that_its_home_is_asked(
    autojump_clock: Clock,
) -> None:
    async with open_mesh() as mesh:
        blob, near = await put(mesh), await mesh.caller(2)
        await fetch(near, f"/blob/{blob}/content")
        await mesh.users["ada"].delete(f"/blob/{blob}")
        await near.get(f"/blob/{blob}/content", 404)
        mesh.part(1)
        await near.get(f"/blob/{blob}/content", 504)


async def test_a_peer_that_is_no_member_gets_nothing(autojump_clock: Clock) -> None:
    async with open_mesh() as mesh:
        await put(mesh)
        stranger = mesh.wire.join("stranger")
        mesh.wire.connect("stranger", peer_of(1))
        for protocol in (PROTOCOL, foreign_messages.ASK):
            with pytest.raises(PeerClosed):
                await stranger.request(
                    peer_of(1), protocol, b"\x80", reply_size_max_bytes=1000, timeout_s=5
                )


async def test_a_part_is_read_without_what_is_before_it(autojump_clock: Clock) -> None:
    async with open_mesh(3) as mesh:
        blob, near, far = await put(mesh), await mesh.caller(2), await mesh.caller(3)
        asked = count(mesh)
        path = f"/blob/{blob}/content"
        assert (await fetch(near, path, 206, Range="bytes=-3")).content == b"end"
        assert asked == [(0, 0), (1, 4)]
        # What is here is not asked for again, and a neighbour may have it too.
        assert (await fetch(near, path)).content == CONTENT
        assert sorted(asked) == [(0, 0), *((1, at) for at in range(5))]
        await fetch(far, f"/blob/{blob}")
        mesh.part(1)
        assert (await fetch(far, path, 206, Range="bytes=0-2")).content == b"\1\1\1"
        mesh.part(2)
        assert (await far.get(path, 504, Range="bytes=-3"))["nodes"] == [1]


@pytest.mark.parametrize("protocol", [PROTOCOL, foreign_messages.ASK, foreign_messages.FOLLOW])
async def test_noise_costs_a_peer_its_question_and_nothing_else(
    protocol: str, autojump_clock: Clock
) -> None:
    async with open_mesh() as mesh:
        blob, near = await put(mesh), await mesh.caller(2)
        actor = mesh.nodes[2].sessions.authenticate(f"Bearer {near.token}".encode())
        get = Get(VERSION, Kind.BLOB, int(blob), b"x" * 36, 0, 0, actor.certificate)
        ask = foreign_messages.Ask(1, "job.get", int(blob), 0, b"", 0, actor.certificate)
        good = [encode(get), foreign_messages.encode(ask)]
        drawn = random.Random(3)
        for _ in range(100):
            frame = bytearray(drawn.choice([*good, drawn.randbytes(40)]))
            frame[drawn.randrange(len(frame))] ^= drawn.randrange(1, 256)
            with suppress(PeerClosed):
                if protocol == foreign_messages.FOLLOW:
                    stream = await mesh.networks[2].open_stream(
                        peer_of(1), protocol, size_max_bytes=1 << 20, timeout_s=5
                    )
                    await stream.send(bytes(frame))
                    await stream.receive()
                    await stream.aclose()
                else:
                    await mesh.networks[2].request(
                        peer_of(1), protocol, bytes(frame), reply_size_max_bytes=9999, timeout_s=5
                    )
        assert (await fetch(near, f"/blob/{blob}/content")).content == CONTENT


async def test_replies_that_are_noise_are_no_answer(autojump_clock: Clock) -> None:
    async with open_mesh() as mesh:
        blob, near = await put(mesh), await mesh.caller(2)
        await fetch(near, f"/blob/{blob}")

        async def noise(_: str, frame: bytes) -> bytes:
            return frame[::-1]

        for protocol in (PROTOCOL, foreign_messages.ASK):
            mesh.networks[1].requests[protocol] = noise, 1 << 14
        await fetch(near, f"/blob/{int(blob) + 1}", 504)
        answer = await fetch(near, f"/blob/{blob}")
        assert answer.headers["stale"].startswith("as-of ")
        assert (await near.get(f"/blob/{blob}/content", 404))["nodes"] == [1]
