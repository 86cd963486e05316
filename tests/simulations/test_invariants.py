"""Each rule lets the right pass, and ends a run that breaks it."""

from collections.abc import Callable
from typing import Any

import pytest
import trio

from peernode import job_rows
from peernode.job_rows import Lease, Outcome
from simulations.committed import Broken, Committed
from simulations.trace import Trace
from simulations.world import NodeDown, World
from storage import ids
from storage.places import Class
from storage.store import Batch, Table
from tests.simulations.test_world import create, sign_up
from tests.simulations.worlds import open_test_world, run, scenario

JOB = ids.key(7)


def outcome(fence: int = 1, code: str = "") -> bytes:
    usage = (0, 0, 0.0, 0.0, 0)
    return job_rows.encode(
        Outcome("failed", 1, fence, 1, code, b"", "", *usage, "", "process", None, [])
    )


def lease(fence: int) -> bytes:
    return job_rows.encode(Lease(attempt=1, fence=fence))


def put(table: Table, value: bytes = b"", key: bytes = JOB) -> Batch:
    return Batch(puts=[(table, key, value)])


END = Batch(puts=[(Table.OUTCOMES, JOB, outcome(3))], deletes=[(Table.LIVE, JOB)])
DELETE = Batch(deletes=[(Table.JOBS, JOB), (Table.OUTCOMES, JOB)])
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
    ],
)
def test_what_a_node_may_not_write(before: list[Batch], wrong: Batch, says: str) -> None:
    committed = taken(*before)
    with pytest.raises(Broken, match=says):
        committed.take(wrong)


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
