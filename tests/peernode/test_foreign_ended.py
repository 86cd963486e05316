"""A home asks its neighbours which of its own jobs they have seen end."""

import pytest
import trio.testing

from gossip.errors import PeerError, RemoteProtocolError
from peernode.foreign_ended import PAGE_LENGTH, PROTOCOL, _Held
from storage import codec, ids
from storage.store import Batch, Table
from tests.peernode.foreign_mesh import Mesh, fetch, open_mesh, peer_of
from tests.peernode.nodes import START_MS

Clock = trio.testing.MockClock


async def seen_at(mesh: Mesh, number: int, count: int = 1) -> list[int]:
    """Return jobs at home that are over and that somebody has read at a node."""
    there = await mesh.caller(number)
    jobs = [await mesh.ended_job({"n": n}) for n in range(count)]
    for job in jobs:
        await fetch(there, f"/job/{job}")
    return [int(job) for job in jobs]


async def test_a_home_gets_back_the_outcomes_that_it_has_signed(autojump_clock: Clock) -> None:
    async with open_mesh(2) as mesh:
        one, two, unasked = await seen_at(mesh, 2, 3)
        never_read = int(await mesh.ended_job())
        found: dict[int, bytes] = {}
        await mesh.foreign(1).ended.collect(peer_of(2), [one, two, never_read], found)
        home = mesh.lab.node.store
        assert found == {job: home.get(Table.OUTCOMES, ids.key(job)) for job in (one, two)}
        assert unasked not in found


async def test_a_job_that_is_another_one_here_gets_no_outcome(autojump_clock: Clock) -> None:
    async with open_mesh(2) as mesh:
        (job,) = await seen_at(mesh, 2)
        other = int(await mesh.lab.job({"n": 2}))
        request = mesh.lab.node.store.get(Table.JOBS, ids.key(other))
        assert request is not None
        mesh.lab.node.store.apply(Batch(puts=[(Table.JOBS, ids.key(job), request)]))
        found: dict[int, bytes] = {}
        await mesh.foreign(1).ended.collect(peer_of(2), [job], found)
        assert found == {}


async def test_only_the_home_gets_its_jobs_and_page_by_page(autojump_clock: Clock) -> None:
    async with open_mesh(3) as mesh:
        held = [ids.pack(START_MS + n, 1, 0) for n in range(PAGE_LENGTH + 5)]
        for job in [*held, ids.pack(START_MS, 3, 0)]:
            mesh.foreign(2).jobs._rows.put(job, b"row")
        assert await mesh.foreign(1).ended._held_by(peer_of(2)) == held
        assert await mesh.foreign(3).ended._held_by(peer_of(2)) == [ids.pack(START_MS, 3, 0)]


async def test_who_asks_or_answers_nonsense_gets_an_error(autojump_clock: Clock) -> None:
    async with open_mesh(2) as mesh:
        ended = mesh.foreign(2).ended
        for frame in (b"\0", b"\x81\x20", b"\x81\x1b" + b"\xff" * 8):
            with pytest.raises(RemoteProtocolError):
                await ended.answer(peer_of(1), frame)
        with pytest.raises(PeerError):
            await ended.answer(peer_of(9), codec.encode_struct(_Held(())))

        async def for_ever(peer: str, frame: bytes) -> bytes:
            return codec.encode_struct(_Held((5, 6)))

        async def nonsense(peer: str, frame: bytes) -> bytes:
            return b"\xff"

        for answer in (for_ever, nonsense):
            mesh.networks[2].requests[PROTOCOL] = answer, 1000
            with pytest.raises(PeerError):
                await mesh.foreign(1).ended.collect(peer_of(2), [], {})
