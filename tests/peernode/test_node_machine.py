"""A whole node under any sequence of what can happen to it: no accepted job is ever lost.

Hypothesis draws what callers, workers, the disk and the power do.  After each step the scheduler
checks itself, every accepted job is there, and no outcome has changed.  In the end the disk has
room and a worker is there that does what it is told, so every job must end.
"""

import threading
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from storage.store import Table
from tests.peernode.nodes import Lab, Worker, finished, held, open_lab, reopen, settle
from worker import protocol
from worker.events import TERMINAL

JOBS_MAX = 8
WORKERS = 2
RETRY = {"on": ["error", "lost"], "max_attempts": 3, "backoff_s": 1}
ROUNDS_MAX = 400
"""Rounds in which all jobs must have ended. Source: attempts and waits of all of them, twice."""


class Loop:
    """A trio loop in a thread of its own, under a clock that moves when it is told to."""

    def __init__(self) -> None:
        self.clock = trio.testing.MockClock()
        self._token: trio.lowlevel.TrioToken | None = None
        self._over: trio.Event | None = None
        self.nursery: trio.Nursery | None = None
        started = threading.Event()
        self._thread = threading.Thread(
            target=lambda: trio.run(self._main, started, clock=self.clock), daemon=True
        )
        self._thread.start()
        assert started.wait(30)

    async def _main(self, started: threading.Event) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._over = trio.Event()
        async with trio.open_nursery() as self.nursery:
            started.set()
            await self._over.wait()
            self.nursery.cancel_scope.cancel()

    def run(self, function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        return trio.from_thread.run(function, *args, trio_token=self._token)

    def stop(self) -> None:
        assert self._over is not None
        trio.from_thread.run_sync(self._over.set, trio_token=self._token)
        self._thread.join(30)
        assert not self._thread.is_alive()


class Opened:
    """A lab that is open until it is closed, whichever call asks for it."""

    def __init__(self, lab: Lab, over: trio.Event, closed: trio.Event) -> None:
        self.lab = lab
        self._over = over
        self._closed = closed

    @classmethod
    async def open(cls, nursery: trio.Nursery, opening: Any) -> "Opened":
        async def serve(task_status: trio.TaskStatus["Opened"]) -> None:
            over, closed = trio.Event(), trio.Event()
            async with AsyncExitStack() as stack:
                lab = await stack.enter_async_context(opening)
                task_status.started(cls(lab, over, closed))
                await over.wait()
            closed.set()

        opened: Opened = await nursery.start(serve)
        return opened

    async def close(self) -> None:
        self._over.set()
        await self._closed.wait()


class Machine:
    """A machine with a worker on it: what it holds survives links and nodes."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.attached = False
        self.holding: dict[tuple[int, int], protocol.Lease] = {}
        self.unacknowledged: dict[tuple[int, int], protocol.Finished] = {}
        self.past: list[protocol.Lease] = []
        self._read = 0

    def take_in(self) -> None:
        """Do what the node said since the last time."""
        for message in self.worker.heard[self._read :]:
            match message:
                case protocol.Lease():
                    self.holding[message.job, message.fence] = message
                    self.past.append(message)
                case protocol.Kill(job, fence) | protocol.Refused(job, fence):
                    self.holding.pop((job, fence), None)
                    self.unacknowledged.pop((job, fence), None)
                case protocol.Acked(attempts):
                    for one in attempts:
                        self.unacknowledged.pop((one.job, one.fence), None)
        self._read = len(self.worker.heard)

    async def attach(self, lab: Lab, *, forget: bool) -> None:
        self.take_in()
        if forget:
            self.holding.clear()
            self.unacknowledged.clear()
        self.worker = Worker(lab.node, lab.nursery, self.worker.id, slots=2)
        self._read = 0
        leases = [
            lease for lease in self.past
            if (lease.job, lease.fence) in self.holding.keys() | self.unacknowledged.keys()
        ]  # fmt: skip
        await self.worker.attach(*held(*leases))
        self.attached = True
        for message in list(self.unacknowledged.values()):
            await self.worker.say(message)
        self.take_in()

    async def end(self, lease: protocol.Lease, *, failing: bool) -> None:
        message = finished(lease, {"attempt": lease.attempt})
        if failing:
            message = finished(lease, None, error_code="function_error", payload=b"it broke")
        self.holding.pop((lease.job, lease.fence), None)
        self.unacknowledged[lease.job, lease.fence] = message
        await self.worker.say(message)
        self.take_in()


class WholeNode(RuleBasedStateMachine):
    @initialize()
    def open(self) -> None:
        self.loop = Loop()
        self.outcomes: dict[str, Any] = {}
        self.jobs: list[str] = []
        self.full = False

        async def begin() -> None:
            assert self.loop.nursery is not None
            self.opened = await Opened.open(self.loop.nursery, open_lab())
            self.machines = [Machine(await self.lab.worker(attach=False)) for _ in range(WORKERS)]

        self.loop.run(begin)

    @property
    def lab(self) -> Lab:
        return self.opened.lab

    def leases(self, machine: Machine) -> list[protocol.Lease]:
        return list(machine.holding.values()) if machine.attached else []

    # --- callers --------------------------------------------------------------------------------

    @precondition(lambda self: len(self.jobs) < JOBS_MAX)
    @rule(waiting=st.booleans())
    def hand_in(self, waiting: bool) -> None:
        async def step() -> None:
            limits = {"queue_s": 50} if waiting else {}
            body = {"function": self.lab.echo, "retry": RETRY, "limits": limits}
            answer = await self.lab.ada.http.post("/job", json=body)
            assert answer.status_code in ((507,) if self.full else (202,)), answer.text
            if answer.status_code == 202:
                self.jobs.append(answer.json()["id"])
            await self.listen()

        self.loop.run(step)

    @precondition(lambda self: self.jobs and not self.full)
    @rule(which=st.integers(0, JOBS_MAX - 1))
    def cancel(self, which: int) -> None:
        async def step() -> None:
            job = self.jobs[which % len(self.jobs)]
            answer = await self.lab.ada.http.post(f"/job/{job}/cancel", json={})
            assert answer.status_code in (200, 409)
            await self.listen()

        self.loop.run(step)

    # --- workers --------------------------------------------------------------------------------

    @rule(which=st.integers(0, WORKERS - 1), forget=st.booleans())
    def attach(self, which: int, forget: bool) -> None:
        self.loop.run(lambda: self.machines[which].attach(self.lab, forget=forget))
        self.loop.run(self.listen)

    @rule(which=st.integers(0, WORKERS - 1))
    def detach(self, which: int) -> None:
        machine = self.machines[which]
        if machine.attached:
            machine.attached = False
            self.loop.run(machine.worker.detach)

    @rule(which=st.integers(0, WORKERS - 1), first=st.booleans())
    def start(self, which: int, first: bool) -> None:
        machine = self.machines[which]
        for lease in self.leases(machine)[: 1 if first else None]:
            self.loop.run(machine.worker.started, lease)
        self.loop.run(self.listen)

    @rule(which=st.integers(0, WORKERS - 1), failing=st.booleans())
    def end(self, which: int, failing: bool) -> None:
        machine = self.machines[which]
        for lease in self.leases(machine)[:1]:
            self.loop.run(lambda lease=lease: machine.end(lease, failing=failing))
        self.loop.run(self.listen)

    @rule(which=st.integers(0, WORKERS - 1), at=st.integers(0, 50))
    def say_again(self, which: int, at: int) -> None:
        machine = self.machines[which]
        if machine.attached and machine.past:
            lease = machine.past[at % len(machine.past)]
            if (lease.job, lease.fence) not in machine.holding:
                self.loop.run(machine.worker.finish, lease, "said again")
        self.loop.run(self.listen)

    # --- time, the disk, the power --------------------------------------------------------------

    @rule(seconds=st.sampled_from([1, 5, 31]), beating=st.booleans())
    def wait(self, seconds: int, beating: bool) -> None:
        self.loop.run(self.pass_time, seconds, beating)

    async def pass_time(self, seconds: int, beating: bool) -> None:
        for _ in range(seconds):
            self.loop.clock.jump(1)
            self.lab.clock.advance(1)
            await settle()
            for machine in self.machines:
                if beating and machine.attached:
                    await machine.worker.say(protocol.Beat())
        await self.listen()

    @rule()
    def fill_the_disk(self) -> None:
        self.full = True
        self.lab.disk.fill()

    @rule()
    def make_room(self) -> None:
        self.full = False
        self.lab.disk.make_room()

    @rule(losing_power=st.booleans())
    def restart(self, losing_power: bool) -> None:
        async def step() -> None:
            before, disk = self.opened, self.lab.disk.copy()
            if not losing_power:
                before.lab.disk.make_room()
            await before.close()
            if not losing_power:
                disk = before.lab.disk.copy()
            for machine in self.machines:
                machine.take_in()
                machine.attached = False
            assert self.loop.nursery is not None
            self.opened = await Opened.open(self.loop.nursery, reopen(before.lab, disk))
            self.full = False

        self.loop.run(step)

    # --- what must hold -------------------------------------------------------------------------

    async def listen(self) -> None:
        await settle()
        for machine in self.machines:
            if machine.attached:
                machine.take_in()

    @invariant()
    def nothing_is_lost_and_nothing_changes(self) -> None:
        if hasattr(self, "opened"):
            self.loop.run(self.look)

    async def look(self) -> None:
        await settle()
        self.lab.node.dispatch.scheduler.check()
        live = 0
        for job in self.jobs:
            found = await self.lab.ada.get(f"/job/{job}")
            assert self.outcomes.get(job, found) == found, "an outcome never changes"
            if found["state"] in TERMINAL:
                assert found["finished_at"]
                self.outcomes[job] = found
            else:
                assert found["finished_at"] is None
                live += 1
        assert len(self.lab.node.live) == live, "what was not accepted is not there"

    def teardown(self) -> None:
        if not hasattr(self, "opened"):
            return
        try:
            self.loop.run(self.finish_everything)
        finally:
            self.loop.run(self.opened.close)
            self.loop.stop()

    async def finish_everything(self) -> None:
        self.lab.disk.make_room()
        self.full = False
        machine = self.machines[0]
        await machine.attach(self.lab, forget=False)
        for _ in range(ROUNDS_MAX):
            if len(self.lab.node.live) == 0:
                break
            await self.pass_time(1, beating=True)
            for one in self.machines:
                for lease in self.leases(one):
                    await one.end(lease, failing=False)
        await self.look()
        assert set(self.outcomes) == set(self.jobs), "every accepted job ends"
        rows = self.lab.disk.snapshot()
        assert {str(int.from_bytes(key, "big")) for key in rows[Table.OUTCOMES]} == set(self.jobs)
        assert set(rows[Table.JOBS]) == set(rows[Table.OUTCOMES])
        assert machine.unacknowledged == {}, "what is durable is acknowledged"
        await self.lab.ada.post("/project", {"name": "last"}, 201)  # Lazy batches ride on this.
        assert self.lab.disk.snapshot()[Table.LIVE] == {}


@pytest.mark.slow
def test_no_accepted_job_is_lost_and_every_job_ends_once() -> None:
    run_state_machine_as_test(
        WholeNode,
        settings=settings(
            max_examples=25,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
