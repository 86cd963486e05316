"""Each rule lets the right pass, and ends a run that breaks it."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import trio

from peernode import job_rows
from peernode.job_rows import Lease, Outcome
from simulations.committed import Broken, Committed
from simulations.invariants import Invariants
from simulations.scenario import Function
from simulations.simulate import Options, simulate
from simulations.trace import Trace
from simulations.world import NodeDown, World
from storage import ids
from storage.places import Class
from storage.store import Batch, Table
from tests.simulations import plays
from tests.simulations.test_world import create, sign_up
from tests.simulations.worlds import open_test_world, run, scenario

JOB = ids.key(7)


def outcome(fence: int = 1, code: str = "", payload: bytes = b"") -> bytes:
    usage, state = (0, 0, 0.0, 0.0, 0), "succeeded" if payload else "failed"
    return job_rows.encode(
        Outcome(state, 1, fence, 1, code, payload, "", *usage, "", "process", None, [])
    )


def lease(fence: int) -> bytes:
    return job_rows.encode(Lease(attempt=1, fence=fence))


def put(table: Table, value: bytes = b"", key: bytes = JOB) -> Batch:
    return Batch(puts=[(table, key, value)])


END = Batch(puts=[(Table.OUTCOMES, JOB, outcome(3))], deletes=[(Table.LIVE, JOB)])
DELETE = Batch(deletes=[(Table.JOBS, JOB), (Table.OUTCOMES, JOB)])
BLOB = ids.key(9)
RESULT = put(Table.OUTCOMES, outcome(3, payload=b'{"blob":"9"}'))
LIFE = [
    Batch(puts=[(Table.JOBS, JOB, b"asked"), (Table.LIVE, JOB, job_rows.NO_LEASE)]),
    put(Table.LIVE, lease(2)),
    put(Table.LIVE, lease(3)),
    END,
    DELETE,
]


def taken(*batches: Batch) -> Committed:
    committed = Committed()
    for batch in batches:
        committed.take(batch)
    return committed


def test_a_job_may_live_end_and_be_deleted() -> None:
    assert taken(*LIFE[:4]).outcomes == {7: outcome(3)}
    assert taken(*LIFE).requests == {}


@pytest.mark.parametrize(
    ("before", "wrong", "says"),
    [
        (LIFE[:1], put(Table.JOBS, b"asked otherwise"), "changes"),
        (LIFE[:4], END, "a second time"),
        (LIFE[:4], put(Table.OUTCOMES, outcome(4)), "a second time"),
        (LIFE[:4], put(Table.LIVE, lease(4)), "leased again"),
        (LIFE[:3], put(Table.LIVE, lease(2)), "falls"),
        (LIFE[:3], put(Table.OUTCOMES, outcome(2)), "an attempt that was over"),
        (LIFE[:3], DELETE, "before it is over"),
        (LIFE[:4], Batch(deletes=[(Table.JOBS, JOB)]), "before it is over"),
        (LIFE[:4], Batch(deletes=[(Table.OUTCOMES, JOB)]), "the job is not"),
        ([put(Table.DEAD)], Batch(deletes=[(Table.DEAD, JOB)]), "not any more"),
        (LIFE[:3], RESULT, "with blob 9, which is not there"),
        ([put(Table.BLOBS)], Batch(deletes=[(Table.BLOBS, JOB)]), "nobody has deleted it"),
    ],
)
def test_what_a_node_may_not_write(before: list[Batch], wrong: Batch, says: str) -> None:
    committed = taken(*before)
    with pytest.raises(Broken, match=says):
        committed.take(wrong)


def test_a_result_is_there_with_its_job_or_was_deleted() -> None:
    result, blob = RESULT.puts[0], (Table.BLOBS, BLOB, b"")
    delete = Batch(puts=[(Table.DEAD, BLOB, b"")], deletes=[(Table.BLOBS, BLOB)])
    assert taken(*LIFE[:3], Batch(puts=[result, blob])).blobs == {9: None}
    assert taken(*LIFE[:3], Batch(puts=[blob]), RESULT, delete).blobs == {}
    assert taken(*LIFE[:3], Batch(puts=[blob]), delete, RESULT).blobs == {}


LARGE = Function(name="short", duration_s=1.0, result_bytes=1_100_000)
"""Its result is over what a job may bring itself, so it is a blob."""


def test_a_large_result_is_a_blob_that_is_there() -> None:
    found: list[int] = []

    def look(self: Invariants) -> None:
        found.extend(len(committed.blobs) for committed in self.committed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Invariants, "at_end", look)
        described = plays.scenario(functions=[LARGE], load=[plays.job(count=3)])
        result = plays.played(described, checking=True)
    assert result.metrics.values("job.succeeded") == [1.0] * 3
    assert found == [3]


def test_a_job_that_succeeds_without_its_result_ends_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("peernode.edge_blobs.EdgeBlobs.keep", lambda *_: None)
    described = plays.scenario(functions=[LARGE], load=[plays.job()])
    result = simulate(described, 1, Options(checking=True))
    assert result.failure is not None
    assert re.search("job [0-9]+ succeeds with blob [0-9]+, which", result.failure.what)


def play_checked(act: Callable[[World, Any], Any], trace: Trace | None = None) -> None:
    async def play() -> None:
        async with open_test_world(2, trace=trace, checking=True) as world:
            ada = await sign_up(world)
            await act(world, ada)
            await trio.sleep(1)

    run(play)


def test_a_run_in_which_much_goes_wrong_keeps_all_of_them() -> None:
    async def play() -> int:
        async with open_test_world(scenario(4), checking=True) as world:
            ada = await sign_up(world)
            assert world.invariants is not None
            rng = world.chance("test")
            while world.now < 120:
                node = rng.randrange(4)
                try:
                    match rng.randrange(5):
                        case 0:
                            await world.crash(node)
                        case 1:
                            await world.start(node)
                        case 2:
                            world.isolate(node)
                        case 3:
                            world.rejoin(node)
                        case _:
                            await create(world, node, f"p{world.now}", ada)
                except NodeDown:
                    pass
                await trio.sleep(rng.expovariate(1.0))
            for node in range(4):
                world.rejoin(node)
                await world.start(node)
            await trio.sleep(90)
            world.invariants.at_rest()
            return world.invariants.steps

    assert run(play) > 500


def test_checking_changes_nothing() -> None:
    def digest(*, checking: bool) -> str:
        trace = Trace()

        async def play() -> None:
            async with open_test_world(3, trace=trace, checking=checking) as world:
                await create(world, 0, "p", await sign_up(world))
                await world.crash(1)
                await trio.sleep(20)

        run(play)
        return trace.digest()

    assert digest(checking=True) == digest(checking=False)


def test_a_machine_that_breaks_its_promise_ends_the_run_and_the_trace_says_so() -> None:
    events: list[str] = []

    async def act(world: World, _: Any) -> None:
        node = world.node(1)
        assert node is not None
        node.sessions._remembered_max = -1

    with pytest.raises(Broken, match="node 1: sessions"):
        play_checked(act, Trace(events.append))
    assert events[-1].startswith('{"at_s":3.')
    assert '"kind":"check","what":"sessions' in events[-1]


@pytest.mark.parametrize(
    ("limit", "what"),
    [
        ("peernode.registry.ROLES_KEPT_MAX", "the registry"),
        ("peernode.recent_jobs.JOBS_MAX", "recent jobs"),
        ("peernode.standing.PEERS_MAX", "standing"),
        ("peernode.gossip_driver.INCOMING_MAX", "gossip"),
        ("peernode.gossip_driver.OUTGOING_MAX", "gossip"),
        ("peernode.records_in.CHECKED_MAX", "gossip"),
        ("peernode.records_in.CERTIFICATES_MAX", "gossip"),
        ("peernode.foreign_objects.ASKED_MAX", "fetching"),
        ("peernode.foreign_objects.MISSING_MAX", "fetching"),
        ("peernode.foreign_sources.PENDING_MAX", "fetching"),
    ],
)
def test_a_queue_or_table_over_its_bound_ends_the_run(
    limit: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def act(_: World, __: Any) -> None:
        monkeypatch.setattr(limit, -1)

    with pytest.raises(Broken, match=f"node [01]: {what}: an assertion"):
        play_checked(act)


@pytest.mark.parametrize("table", ["_held", "_unwanted", "_judged"])
def test_what_gossip_keeps_of_nobody_who_is_there_ends_the_run(table: str) -> None:
    async def act(world: World, _: Any) -> None:
        node = world.node(1)
        assert node is not None
        assert node.federation is not None
        getattr(node.federation.gossip, table)["nobody"] = []

    with pytest.raises(Broken, match="node 1: gossip: an assertion"):
        play_checked(act)


def test_a_job_that_was_accepted_and_is_not_on_the_disk_ends_the_run() -> None:
    async def act(world: World, _: Any) -> None:
        assert world.invariants is not None
        world.invariants._acknowledged[1, 5] = None
        world.invariants.committed[1].requests[5] = b"a request"
        await world.crash(1)
        await world.start(1)

    with pytest.raises(Broken, match="job 5 is lost"):
        play_checked(act)


def test_an_object_that_was_acknowledged_and_is_not_shown_ends_the_run() -> None:
    async def act(world: World, ada: Any) -> None:
        project = int(await create(world, 1, "p", ada))
        node = world.node(1)
        assert node is not None
        (record,) = (r for r in node.registry.records() if r.body.place.id == project)
        store = world.disk(1)._memory
        assert store is not None
        await world.crash(1)
        await world.crash(0)
        store.apply(Batch(deletes=[(Table.RECORDS, record.store_key)]))
        await world.start(1)

    with pytest.raises(Broken, match=r"PROJECT [0-9]+ is lost"):
        play_checked(act)


def test_what_was_deleted_for_ever_and_is_shown_ends_the_run() -> None:
    async def act(world: World, ada: Any) -> None:
        project = await create(world, 1, "p", ada)
        store = world.node(1).store  # type: ignore[union-attr]
        store.apply(put(Table.DEAD, b"", ids.key(int(project))))
        world.node(1).registry._tell(Class.PROJECT, int(project))  # type: ignore[union-attr]

    with pytest.raises(Broken, match="deleted for ever and is back"):
        play_checked(act)


def test_a_deleted_object_is_no_lost_one() -> None:
    async def act(world: World, ada: Any) -> None:
        project = await create(world, 1, "p", ada)
        gone = await world.request(1, "DELETE", f"/project/{project}", token=ada.tokens[1])
        assert gone.status == 204
        await world.crash(1)
        await world.start(1)

    play_checked(act)


def test_a_secret_on_the_wire_ends_the_run() -> None:
    async def act(world: World, ada: Any) -> None:
        assert world.invariants is not None
        world.invariants.taint(b"canary-in-a-mine", "a canary")
        await create(world, 0, "canary-in-a-mine", ada)

    with pytest.raises(Broken, match="a canary goes to node 1"):
        play_checked(act)


def test_an_id_that_is_made_twice_ends_the_run() -> None:
    async def act(world: World, ada: Any) -> None:
        assert world.invariants is not None
        project = await create(world, 0, "p", ada)
        world.invariants._ids.clear()
        world.invariants._ids[int(project) + 1] = "somebody's"
        for number in range(3):
            await create(world, 0, f"p{number}", ada)

    with pytest.raises(Broken, match="was made before"):
        play_checked(act)


def test_nodes_that_show_different_things_are_not_at_rest() -> None:
    async def act(world: World, ada: Any) -> None:
        assert world.invariants is not None
        world.invariants.at_rest()
        world.isolate(0)
        await create(world, 0, "p", ada)
        world.invariants.at_rest()

    with pytest.raises(Broken, match="shows something else"):
        play_checked(act)
