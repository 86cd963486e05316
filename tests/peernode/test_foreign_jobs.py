"""Jobs of other nodes: read, waited for, followed and cancelled anywhere, and kept when over."""

import json

import trio
import trio.testing

from gossip.fetch_messages import PROTOCOL
from peernode import foreign_messages, job_rows, job_snapshots
from peernode.foreign import Config
from storage.store import Table
from tests.peernode.foreign_mesh import Mesh, attach, fetch, key_of, open_mesh, peer_of, secrets
from tests.peernode.nodes import Caller, open_memory_node, settle

Clock = trio.testing.MockClock


async def test_a_job_is_the_same_at_every_node(autojump_clock: Clock) -> None:
    async with open_mesh(3) as mesh:
        job = await mesh.ended_job({"answer": 42})
        at_home = await mesh.users["ada"].get(f"/job/{job}")
        for number in (2, 3):
            answer = await fetch(await mesh.caller(number), f"/job/{job}")
            assert answer.json() == at_home
            assert answer.headers["origin-node"] == "1"
            assert answer.headers["etag"] == f'"{at_home["revision"]}"'
            assert "stale" not in answer.headers
        at_home = await fetch(mesh.users["ada"], f"/job/{job}")
        assert "origin-node" not in at_home.headers


async def test_a_job_that_runs_is_asked_for_each_time(autojump_clock: Clock) -> None:
    async with open_mesh() as mesh:
        job, near = await mesh.queued_job(), await mesh.caller(2)
        assert (await near.get(f"/job/{job}"))["state"] == "leased"
        await mesh.worker.started(mesh.worker.lease(job))
        assert (await near.get(f"/job/{job}"))["state"] == "running"
        await mesh.worker.finish(mesh.worker.lease(job), 1)
        assert (await near.get(f"/job/{job}"))["state"] == "succeeded"


async def test_a_wait_ends_when_the_job_does_or_its_time_is_up(autojump_clock: Clock) -> None:
    config = Config(wait_slice_s=30)
    async with open_mesh(config=config) as mesh:
        job, near = await mesh.queued_job(), await mesh.caller(2)
        await mesh.worker.started(mesh.worker.lease(job))
        began = trio.current_time()
        assert (await near.get(f"/job/{job}?wait=5"))["state"] == "running"
        assert 5 <= trio.current_time() - began < 6
        found = []

        async def wait() -> None:
            found.append(await near.get(f"/job/{job}?wait=600"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await settle()
            assert not found
            await mesh.worker.finish(mesh.worker.lease(job), 7)
        assert found[0]["result"] == 7


async def test_a_job_that_is_over_is_answered_without_its_home(autojump_clock: Clock) -> None:
    async with open_mesh() as mesh:
        job, near = await mesh.ended_job([1, 2]), await mesh.caller(2)
        known = await near.get(f"/job/{job}")
        mesh.clock.advance(5)
        mesh.part(1)
        answer = await fetch(near, f"/job/{job}")
        assert answer.json() == known
        assert answer.headers["origin-node"] == "1"
        assert answer.headers["stale"] == "as-of 2027-01-15T08:00:00.000Z"
        # And after a restart of the node that kept it.
        row = mesh.disks[2].get(Table.FOREIGN_JOBS, int(job).to_bytes(8, "big"))
        assert row is not None


async def test_while_it_is_fresh_the_home_is_not_asked_again(autojump_clock: Clock) -> None:
    async with open_mesh(config=Config(fresh_s=60)) as mesh:
        job, near = await mesh.ended_job(1), await mesh.caller(2)
        asked = _count(mesh, foreign_messages.ASK)
        await near.get(f"/job/{job}")
        await near.get(f"/job/{job}")
        assert len(asked) == 1
        mesh.clock.advance(61)
        await near.get(f"/job/{job}")
        assert len(asked) == 2


async def test_a_deleted_job_is_forgotten_once_its_home_says_so(autojump_clock: Clock) -> None:
    async with open_mesh() as mesh:
        job, near = await mesh.ended_job(1), await mesh.caller(2)
        await near.get(f"/job/{job}")
        await mesh.users["ada"].delete(f"/job/{job}")
        mesh.clock.advance(61)
        assert (await near.get(f"/job/{job}", 404))["nodes"] == [1]
        mesh.part(1)
        assert (await near.get(f"/job/{job}", 504))["nodes"] == [1]


async def test_a_third_node_has_it_from_a_neighbour(autojump_clock: Clock) -> None:
    async with open_mesh(3) as mesh:
        job, near, far = await mesh.ended_job("x"), await mesh.caller(2), await mesh.caller(3)
        known = await near.get(f"/job/{job}")
        mesh.part(1)
        answer = await fetch(far, f"/job/{job}")
        assert answer.json() == known
        assert answer.headers["stale"].startswith("as-of ")
        mesh.part(3)
        assert (await far.get(f"/job/{job}")) == known


async def test_without_the_home_and_unknown_it_is_unreachable(autojump_clock: Clock) -> None:
    async with open_mesh(3) as mesh:
        job, near = await mesh.ended_job(1), await mesh.caller(2)
        mesh.part(1)
        for call in (f"/job/{job}", f"/job/{job}/logs", f"/job/{job}/events"):
            problem = await near.get(call, 504)
            assert (problem["code"], problem["nodes"]) == ("unreachable", [1])
            assert problem["retryable"]
        await near.post(f"/job/{job}/cancel", {}, 504)


async def test_a_home_that_is_silent_is_unreachable_in_time(autojump_clock: Clock) -> None:
    async with open_mesh(config=Config(ask_timeout_s=3)) as mesh:
        job, near = await mesh.ended_job(1), await mesh.caller(2)
        mesh.wire.cut(peer_of(1), peer_of(2))
        began = trio.current_time()
        await near.get(f"/job/{job}", 504)
        assert trio.current_time() - began < 4


async def test_what_nobody_made_is_not_found(autojump_clock: Clock) -> None:
    async with open_mesh() as mesh:
        job, near = await mesh.ended_job(1), await mesh.caller(2)
        problem = await near.get(f"/job/{int(job) + 1}", 404)
        assert (problem["code"], problem["nodes"]) == ("not_found", [1])
        stranger = int(job) | (77 << 8)
        assert (await near.get(f"/job/{stranger}", 404))["nodes"] == []


async def test_other_users_jobs_are_not_there(autojump_clock: Clock) -> None:
    async with open_mesh(3, users=("bob",)) as mesh:
        job = await mesh.ended_job("secret")
        bob, ada = await mesh.caller(2, "bob"), await mesh.caller(2)
        hidden = await bob.get(f"/job/{job}", 404)
        missing = await bob.get(f"/job/{int(job) + 1}", 404)
        assert hidden["detail"].replace(job, "X") == missing["detail"].replace(
            str(int(job) + 1), "X"
        )
        assert {**hidden, "detail": ""} == {**missing, "detail": ""}
        await ada.get(f"/job/{job}")
        # It is kept now at node 2, where bob still may not see it, nor from node 3 through it.
        await bob.get(f"/job/{job}", 404)
        mesh.part(1)
        await bob.get(f"/job/{job}", 404)
        await (await _bob_at_3(mesh)).get(f"/job/{job}", 504)
        await Caller(mesh.nodes[2]).get(f"/job/{job}", 401)


async def _bob_at_3(mesh: Mesh) -> Caller:
    return await mesh.caller(3, "bob")


async def test_a_certificate_for_another_node_opens_nothing(autojump_clock: Clock) -> None:
    async with open_mesh(3) as mesh:
        job, near = await mesh.ended_job(1), await mesh.caller(2)
        certificate = (
            mesh.nodes[2].sessions.authenticate(f"Bearer {near.token}".encode()).certificate
        )
        ask = foreign_messages.Ask(
            foreign_messages.VERSION, "job.get", int(job), 0, b"", 0, certificate
        )

        async def request(number: int, question: foreign_messages.Ask = ask) -> object:
            frame = await mesh.networks[number].request(
                peer_of(1),
                foreign_messages.ASK,
                foreign_messages.encode(question),
                reply_size_max_bytes=1 << 20,
                timeout_s=5,
            )
            return foreign_messages.decode_reply(frame)

        assert isinstance(await request(2), foreign_messages.Ended)
        stolen = await request(3)
        assert isinstance(stolen, foreign_messages.Refusal)
        assert stolen.code == "not_found"
        mesh.clock.advance(2 * 86_400)
        late = await request(2)
        assert isinstance(late, foreign_messages.Refusal)
        assert late.code == "not_found"


async def test_a_narrow_token_sees_no_content(autojump_clock: Clock) -> None:
    async with open_mesh() as mesh:
        job = await mesh.ended_job("secret")
        narrow = await mesh.caller(2, scopes=["job:get"])
        found = await narrow.get(f"/job/{job}")
        assert (found["state"], found["result"], found["input"]) == ("succeeded", None, None)
        # What was shown so is not kept as if it were all.
        assert mesh.foreign(2).jobs.held(int(job)) is None
        await (await mesh.caller(2)).get(f"/job/{job}")
        assert (await narrow.get(f"/job/{job}"))["result"] is None


async def test_cancel_reaches_the_home(autojump_clock: Clock) -> None:
    async with open_mesh(users=("bob",)) as mesh:
        job, near = await mesh.queued_job(), await mesh.caller(2)
        await (await mesh.caller(2, "bob")).post(f"/job/{job}/cancel", {}, 404)
        assert (await near.post(f"/job/{job}/cancel"))["state"] == "cancelled"
        assert (await mesh.users["ada"].get(f"/job/{job}"))["state"] == "cancelled"
        done = await mesh.ended_job(1)
        assert (await near.post(f"/job/{done}/cancel", {}, 409))["code"] == "conflict"


async def test_logs_and_events_are_those_of_the_home(autojump_clock: Clock) -> None:
    async with open_mesh(users=("bob",)) as mesh:
        job, near = await mesh.ended_job(1), await mesh.caller(2)
        for call in (f"/job/{job}/logs", f"/job/{job}/events"):
            at_home = await fetch(mesh.users["ada"], call)
            there = await fetch(near, call)
            assert there.content == at_home.content
            assert there.headers["content-type"] == at_home.headers["content-type"]
            assert there.headers["origin-node"] == "1"
            await (await mesh.caller(2, "bob")).get(call, 404)
        events = (await fetch(near, f"/job/{job}/events")).text
        last = events.rstrip().split("\n\n")[-1].splitlines()[0].removeprefix("id: ")
        after = await fetch(near, f"/job/{job}/events", Last_Event_ID=str(int(last) - 1))
        assert after.text.count("id: ") == 1
        assert f"id: {last}" in after.text
        await near.get(f"/job/{job}/events", 422, **{"Last-Event-ID": "x"})


async def test_events_end_when_the_home_goes_away(autojump_clock: Clock) -> None:
    async with open_mesh() as mesh:
        job, near = await mesh.queued_job(), await mesh.caller(2)
        texts = []

        async def follow() -> None:
            texts.append((await fetch(near, f"/job/{job}/events")).text)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            await settle()
            mesh.part(1)
        assert "leased" in texts[0]
        assert json.loads(texts[0].splitlines()[2].removeprefix("data: "))["state"] == "queued"


async def test_a_forged_snapshot_is_refused(autojump_clock: Clock) -> None:
    async with open_mesh(3) as mesh:
        job, far = await mesh.ended_job("true"), await mesh.caller(3)
        await (await mesh.caller(2)).get(f"/job/{job}")
        held = mesh.foreign(2).jobs.held(int(job))
        assert held is not None
        outcome = mesh.lab.node.live.outcome(int(job))
        assert outcome is not None
        forged = job_snapshots.sign(
            key_of(2),
            mesh.lab.node.identity.mesh,
            int(job),
            held.request,
            outcome._replace(payload=b'"false"'),
        )
        mesh.part(1)
        node_2 = mesh.networks[2].requests
        handler, size = node_2[PROTOCOL]

        async def lie(peer: str, frame: bytes) -> bytes:
            reply = await handler(peer, frame)
            return reply.replace(_sized(held.snapshot), _sized(forged))

        node_2[PROTOCOL] = lie, size
        assert (await far.get(f"/job/{job}", 504))["nodes"] == [1]
        assert mesh.foreign(3).jobs.held(int(job)) is None
        node_2[PROTOCOL] = handler, size
        assert (await far.get(f"/job/{job}"))["result"] == "true"


def _sized(data: bytes) -> bytes:
    """Return bytes as CBOR has them."""
    return b"\x59" + len(data).to_bytes(2, "big") + data


async def test_a_home_that_lies_about_a_request_is_not_believed(autojump_clock: Clock) -> None:
    async with open_mesh() as mesh:
        job, near = await mesh.ended_job("true"), await mesh.caller(2)
        at_home = mesh.networks[1].requests
        handler, size = at_home[foreign_messages.ASK]

        async def lie(peer: str, frame: bytes) -> bytes:
            reply = foreign_messages.decode_reply(await handler(peer, frame))
            assert isinstance(reply, foreign_messages.Ended)
            request = job_rows.decode_request(reply.request)._replace(input=b'{"n":2}')
            row = job_rows.encode_request(request)
            return foreign_messages.encode(foreign_messages.Ended(row, reply.snapshot))

        at_home[foreign_messages.ASK] = lie, size
        await near.get(f"/job/{job}", 504)
        assert mesh.foreign(2).jobs.held(int(job)) is None


async def test_jobs_that_are_kept_are_bounded(autojump_clock: Clock) -> None:
    async with open_mesh(config=Config(jobs_max=2)) as mesh:
        near = await mesh.caller(2)
        jobs = [await mesh.ended_job(at) for at in range(3)]
        for job in jobs:
            await near.get(f"/job/{job}")
        mesh.part(1)
        await near.get(f"/job/{jobs[0]}", 504)
        for at in (1, 2):
            assert (await near.get(f"/job/{jobs[at]}"))["result"] == at


async def test_alone_a_node_knows_no_other(autojump_clock: Clock) -> None:
    async with open_mesh() as mesh:
        job, near = await mesh.ended_job(1), await mesh.caller(2)
        mesh.nodes[2].foreign = None
        problem = await near.get(f"/job/{job}", 404)
        assert "nodes" not in problem
        await near.get(f"/blob/{job}", 404)
        del mesh.nodes[2]


def _count(mesh: Mesh, protocol: str) -> list[bytes]:
    """Return the frames that the home gets from now on."""
    frames: list[bytes] = []
    handler, size = mesh.networks[1].requests[protocol]

    async def count(peer: str, frame: bytes) -> bytes:
        frames.append(frame)
        return await handler(peer, frame)

    mesh.networks[1].requests[protocol] = count, size
    return frames


async def test_more_waits_than_there_is_room_for_end_too(autojump_clock: Clock) -> None:
    async with open_mesh(config=Config(waits_max=2)) as mesh:
        job, near = await mesh.queued_job(), await mesh.caller(2)
        found = []

        async def wait() -> None:
            found.append(await near.get(f"/job/{job}?wait=600"))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(wait)
            await settle()
            await mesh.worker.finish(mesh.worker.lease(job), 7)
        assert [each["result"] for each in found] == [7] * 5


async def test_a_home_that_goes_away_ends_a_wait(autojump_clock: Clock) -> None:
    async with open_mesh() as mesh:
        job, near = await mesh.queued_job(), await mesh.caller(2)
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.get, f"/job/{job}?wait=600", 504)
            await settle()
            mesh.part(1)
        assert trio.current_time() - began < 30


async def test_what_is_kept_is_there_after_a_restart(autojump_clock: Clock) -> None:
    async with open_mesh() as mesh:
        job, near = await mesh.ended_job(5), await mesh.caller(2)
        blob = (await mesh.users["ada"].blob(b"bytes"))["id"]
        await near.get(f"/job/{job}")
        await fetch(near, f"/blob/{blob}/content")
        disk = mesh.disks[2].copy()
        again = mesh.wire.join("again")
        async with open_memory_node(disk, mesh.clock, entropy="again", secrets=secrets(2)) as node:
            attach(node, again)
            caller = Caller(node, near.token)
            answer = await fetch(caller, f"/job/{job}")
            assert answer.json()["result"] == 5
            assert answer.headers["stale"].startswith("as-of ")
            assert (await fetch(caller, f"/blob/{blob}/content")).content == b"bytes"
            assert node.foreign is not None
            node.foreign.check()
            node.foreign.cache.check()
