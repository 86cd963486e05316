"""The scheduler against a world that loses links, workers, commits and whole nodes.

`World` plays everything around the scheduler: simulated workers that run what they are leased in
order, links that lose what is under way when they break, a disk that knows only what was committed.
Each effect is checked against what the scheduler may do, each step against `check()`.
"""

from dataclasses import dataclass, field
from typing import assert_never, get_args

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from worker import events
from worker.capabilities import gpu_memories_bytes, match
from worker.config import Config, Policy
from worker.events import Effect, Job, Preference, Requires, Retry, Timeouts
from worker.protocol import Accelerator, Held, Offer
from worker.scheduler import Scheduler

CONFIGS = {
    policy: Config(
        prefetch_max=5,
        programs_max=2,
        queues_max=2,
        classes_max=2,
        preferences_max=1,
        policy=policy,
    )
    for policy in get_args(Policy)
}

OFFERS = [
    Offer(
        slots=2,
        cores=2,
        memory_bytes=100,
        arch="x86_64",
        runtimes=["python"],
        isolation=["process"],
    ),
    Offer(
        slots=3,
        cores=4,
        memory_bytes=150,
        arch="aarch64",
        runtimes=["python", "wasm"],
        isolation=["process", "sandbox", "wasm"],
        accelerators=[Accelerator(kind="gpu", name="g", memory_bytes=8)],
    ),
    Offer(
        slots=1, cores=1, memory_bytes=40, arch="x86_64", runtimes=["python"], isolation=["sandbox"]
    ),
]
LARGE = Offer(
    slots=4,
    cores=4,
    memory_bytes=200,
    arch="x86_64",
    runtimes=["python", "wasm"],
    isolation=["process", "sandbox", "wasm"],
    accelerators=[Accelerator(kind="gpu", name="g", memory_bytes=16)] * 2,
    labels={"site": "here"},
)
"""Fits every job below."""

REQUIRES = [
    Requires(),
    Requires(cpu=2),
    Requires(memory_bytes=60),
    Requires(gpu=1, gpu_memory_bytes=8),
    Requires(isolation="sandbox"),
    Requires(runtime="wasm", cpu=3),
    Requires(labels=(("site", "here"),)),
]
PREFERS: list[tuple[Preference, ...]] = [
    (),
    (Preference("arch", "aarch64", 3), Preference("accelerator", "gpu", -5)),
    (Preference("arch", "x86_64", 1),),
]
RETRIES = [
    Retry(),
    Retry(max_attempts=1),
    Retry(max_attempts=4, backoff_s=0.0, on=frozenset({"lost", "error", "timeout", "limit"})),
]
TIMEOUTS = [
    Timeouts(),
    Timeouts(queue_s=None),
    Timeouts(run_s=5.0, total_s=120.0, heartbeat_s=10.0, queue_s=50.0),
]
TERMINAL = events.TERMINAL


@dataclass
class Row:
    """A job as the disk has it."""

    job: Job
    submitted_at_s: float
    state: str = "queued"
    worker: int = 0


@dataclass
class Machine:
    """A simulated worker process."""

    number: int
    offer: Offer
    linked: bool = False
    queued: list[tuple[int, int]] = field(default_factory=list)
    running: list[tuple[int, int]] = field(default_factory=list)
    finished: dict[tuple[int, int], events.Finish] = field(default_factory=dict)
    inbox: list[object] = field(default_factory=list)
    outbox: list[events.Input] = field(default_factory=list)

    def held(self) -> tuple[Held, ...]:
        return tuple(Held(*one) for one in [*self.finished, *self.running, *self.queued])

    def crash(self) -> None:
        self.unlink()
        self.queued.clear()
        self.running.clear()
        self.finished.clear()

    def unlink(self) -> None:
        self.linked = False
        self.inbox.clear()
        self.outbox.clear()

    def forget(self, one: tuple[int, int]) -> None:
        self.finished.pop(one, None)
        for where in (self.queued, self.running):
            if one in where:
                where.remove(one)

    def receive(self) -> None:
        """Handle the next message of the node."""
        message = self.inbox.pop(0)
        match message:
            case events.Lease(_, job, fence, _):
                self.queued.append((job, fence))
            case events.Kill(_, job, fence, _) | events.Refuse(_, job, fence):
                self.forget((job, fence))
            case events.Recall(_, job, fence):
                if (job, fence) in self.queued:
                    self.queued.remove((job, fence))
                    self.outbox.append(events.Return(self.number, job, fence))
            case Held(job, fence):  # Acked
                self.finished.pop((job, fence), None)
            case _:
                raise AssertionError(message)

    def start(self, say: bool) -> None:
        if self.queued and len(self.running) < self.offer.slots:
            job, fence = self.queued.pop(0)
            self.running.append((job, fence))
            if say and self.linked:
                self.outbox.append(events.Start(self.number, job, fence, 0.02))

    def finish(self, index: int, error: str | None, run_s: float) -> None:
        if self.running:
            job, fence = self.running.pop(index % len(self.running))
            over = events.Finish(self.number, job, fence, error, run_s)  # type: ignore[arg-type]
            self.finished[job, fence] = over
            if self.linked:
                self.outbox.append(over)


class World(RuleBasedStateMachine):
    """Everything around the scheduler."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.boot = 1
        self.config = CONFIGS["spread"]
        self.scheduler = Scheduler(self.config, self.boot)
        self.machines = {n + 1: Machine(n + 1, offer) for n, offer in enumerate(OFFERS)}
        self.disk: dict[int, Row] = {}
        self.rows: dict[int, Row] = {}
        """The disk and what is to be committed."""
        self.uncommitted: list[Effect | Row] = []
        self.fences: dict[int, int] = {}
        self.decided: dict[int, str] = {}
        self.view: dict[int, dict[int, int]] = {}
        """What the scheduler believes leased: worker -> job -> fence."""
        self.cordoned: set[int] = set()
        self.drained: dict[int, float] = {}
        """Until when draining workers may hold something."""
        self.old: list[tuple[int, int, int]] = []
        self.next_job = 1

    # --- the driver -------------------------------------------------------------------------

    def tell(self, what: events.Input) -> None:
        for effect in self.scheduler.handle(what, self.now):
            self.obey(effect)

    def obey(self, effect: Effect) -> None:
        job = effect.job
        if isinstance(effect, events.Refuse):
            self.send(effect.worker, effect)
            return
        assert job in self.rows, "no effect on a job that is not there"
        assert job not in self.decided, "nothing happens to a job after its outcome"
        match effect:
            case events.Lease(worker, _, fence, attempt):
                self.check_lease(effect)
                self.fences[job] = fence
                self.old.append((worker, job, fence))
                self.view.setdefault(worker, {})[job] = fence
                assert attempt == self.rows[job].job.attempt + 1
                self.send(worker, effect)
            case events.Adopt(worker, _, fence):
                assert fence >= self.rows[job].job.fence
                self.fences[job] = max(fence, self.fences.get(job, 0))
                self.view.setdefault(worker, {})[job] = fence
            case events.Kill(worker, _, fence, _):
                assert self.view[worker].pop(job) == fence
                self.send(worker, effect)
            case events.Recall(worker, _, fence):
                assert self.view[worker][job] == fence
                self.send(worker, effect)
            case events.Requeue():
                self.unview(job)
                assert effect.fence == self.rows[job].job.fence
                if effect.cause == "drained":
                    row = self.rows[job].job
                    assert (effect.attempt, effect.delay_s) == (row.attempt - 1, 0.0)
                    assert effect.lost_on == row.lost_on, "a drain is nobody's fault"
                assert len(effect.lost_on) < self.config.poison_workers
            case events.Settle():
                self.unview(job)
                self.decided[job] = effect.state
                assert effect.state in TERMINAL
            case events.Running():
                assert self.scheduler.snapshot(job) is not None
            case _:
                assert_never(effect)
        self.uncommitted.append(effect)
        self.write(self.rows, effect)

    def unview(self, job: int) -> None:
        for leases in self.view.values():
            leases.pop(job, None)

    def write(self, rows: dict[int, Row], effect: Effect | Row) -> None:
        """Write down what an effect says, as a node's rows."""
        if isinstance(effect, Row):
            rows[effect.job.job] = effect
            return
        row = rows.get(effect.job)
        if row is None:
            return
        row = Row(row.job, row.submitted_at_s, row.state, row.worker)
        rows[effect.job] = row
        match effect:
            case events.Lease(worker, _, fence, attempt):
                row.state, row.worker = "leased", worker
                row.job = replace(row.job, fence=fence, attempt=attempt)
            case events.Adopt(worker, _, fence):
                if row.state == "queued":
                    row.job = replace(row.job, attempt=row.job.attempt + 1)
                    row.state = "leased"
                row.worker = worker
                row.job = replace(row.job, fence=fence)
            case events.Running():
                row.state = "running"
            case events.Requeue(_, attempt, fence, lost_on, _, _):
                row.state = "queued"
                row.job = replace(row.job, attempt=attempt, fence=fence, lost_on=lost_on)
            case events.Settle(_, state):
                row.state = state
            case _:
                pass

    def send(self, worker: int, message: object) -> None:
        machine = self.machines.get(worker)
        if machine is not None and machine.linked:
            machine.inbox.append(message)

    def check_lease(self, lease: events.Lease) -> None:
        machine = self.machines[lease.worker]
        assert machine.linked, "only to a worker that is there"
        assert lease.worker not in self.cordoned
        requires = self.rows[lease.job].job.requires
        assert not match(requires, machine.offer), "only to a worker that fits"
        assert lease.fence > self.fences.get(lease.job, 0), "fences grow"
        assert lease.fence >> 32 == self.boot
        held = [self.rows[job].job.requires for job in self.view.get(lease.worker, {})]
        held.append(requires)
        assert sum(one.memory_bytes for one in held) <= machine.offer.memory_bytes
        # Each GPU goes to one job, and the largest needs find one that is large enough.
        gpus = sorted((one.gpu_memory_bytes for one in held for _ in range(one.gpu)), reverse=True)
        has = sorted(gpu_memories_bytes(machine.offer), reverse=True)
        assert len(gpus) <= len(has)
        assert all(need <= size for need, size in zip(gpus, has, strict=False))
        cpu = sum(one.cpu for one in held)
        if any(one.cpu > 1 for one in held):
            assert cpu <= machine.offer.slots, "nothing waits beside a wide job"
        else:
            assert cpu <= machine.offer.slots + self.config.prefetch_max

    # --- requesters -------------------------------------------------------------------------

    @rule(
        requires=st.sampled_from(REQUIRES),
        retry=st.sampled_from(RETRIES),
        timeouts=st.sampled_from(TIMEOUTS),
        prefers=st.sampled_from(PREFERS),
        priority=st.integers(0, 2),
        program=st.sampled_from("abc"),
        count=st.integers(1, 4),
    )
    def submit(
        self,
        requires: Requires,
        retry: Retry,
        timeouts: Timeouts,
        prefers: tuple[Preference, ...],
        priority: int,
        program: str,
        count: int,
    ) -> None:
        for _ in range(count):
            job = Job(
                job=self.next_job,
                program=program,
                requires=requires,
                retry=retry,
                timeouts=timeouts,
                prefers=prefers,
                priority=priority,
            )
            self.next_job += 1
            row = Row(job, self.now)
            self.rows[job.job] = row
            self.uncommitted.append(row)
            self.tell(events.Submit(job))

    def pick(self, index: int) -> int | None:
        living = [job for job, row in self.rows.items() if row.state not in TERMINAL]
        return living[index % len(living)] if living else None

    @rule(index=st.integers(0, 99))
    def cancel(self, index: int) -> None:
        job = self.pick(index)
        if job is not None:
            self.tell(events.Cancel(job))
            assert job in self.decided

    @rule(index=st.integers(0, 99), priority=st.integers(0, 3))
    def reprioritise(self, index: int, priority: int) -> None:
        job = self.pick(index)
        if job is not None:
            self.tell(events.Reprioritise(job, priority))

    # --- the disk ---------------------------------------------------------------------------

    @rule(count=st.integers(1, 10) | st.just(1000))
    def commit(self, count: int = 1000) -> None:
        batch, self.uncommitted = self.uncommitted[:count], self.uncommitted[count:]
        for effect in batch:
            self.write(self.disk, effect)
        for effect in batch:
            if isinstance(effect, events.Settle):
                self.tell(events.Settled(effect.job))
                self.send(effect.worker, Held(effect.job, effect.fence))

    @rule()
    def fail_commit(self) -> None:
        """Jobs that could not be made durable are taken back."""
        jobs = [one.job.job for one in self.uncommitted if isinstance(one, Row)]
        for job in jobs:
            for effect in self.scheduler.handle(events.Withdraw(job), self.now):
                if effect.job != job:
                    self.obey(effect)
                else:
                    assert isinstance(effect, events.Kill)
                    self.unview(job)
                    self.send(effect.worker, effect)
            self.unview(job)
            self.rows.pop(job, None)
            self.decided.pop(job, None)
            assert self.scheduler.snapshot(job) is None
        gone = set(jobs)
        self.uncommitted = [
            one
            for one in self.uncommitted
            if (one.job.job if isinstance(one, Row) else one.job) not in gone
        ]

    @rule()
    def restart(self) -> None:
        self.boot += 1
        self.scheduler = Scheduler(self.config, self.boot)
        self.uncommitted = []
        self.rows = {}
        self.view = {}
        self.cordoned = set()
        self.drained = {}
        self.decided = {job: row.state for job, row in self.disk.items() if row.state in TERMINAL}
        for machine in self.machines.values():
            machine.unlink()
        for number, row in self.disk.items():
            self.rows[number] = row
            job = replace(row.job, age_s=self.now - row.submitted_at_s + 0.001)
            if row.state == "queued":
                self.tell(events.Submit(job))
            elif row.state in ("leased", "running"):
                self.view.setdefault(row.worker, {})[number] = job.fence
                self.tell(events.Restore(job, row.worker, row.state == "running"))

    # --- workers ----------------------------------------------------------------------------

    numbers = st.integers(1, len(OFFERS))

    @rule(number=numbers)
    def attach(self, number: int) -> None:
        machine = self.machines[number]
        machine.inbox.clear()
        machine.outbox.clear()
        machine.linked = True
        self.tell(events.Attach(number, machine.offer, machine.held()))
        for over in machine.finished.values():
            machine.outbox.append(over)

    @initialize(which=st.lists(numbers, unique=True), policy=st.sampled_from(sorted(CONFIGS)))
    def begin(self, which: list[int], policy: Policy) -> None:
        self.config = CONFIGS[policy]
        self.scheduler = Scheduler(self.config, self.boot)
        for number in which:
            self.attach(number)

    @rule(ends=st.integers(0, 4), say=st.booleans(), run_s=st.sampled_from([0.001, 0.02, 1.0]))
    def work(self, ends: int, say: bool, run_s: float) -> None:
        """All links and workers do their work, and some jobs end well."""
        for number, machine in self.machines.items():
            self.down(number, 1000)
            for _ in range(machine.offer.slots):
                machine.start(say)
            for _ in range(ends):
                machine.finish(0, None, run_s)
            self.up(number, 1000)

    @rule(number=numbers, elapsed_s=st.sampled_from([0.0, 5.0, 29.0]))
    def flap(self, number: int, elapsed_s: float) -> None:
        """A link breaks, and the worker is back within the reconnect window."""
        self.break_link(number)
        self.run_until(self.now + elapsed_s)
        self.attach(number)

    @rule(which=st.lists(numbers, unique=True))
    def restart_and_return(self, which: list[int]) -> None:
        """The node restarts and some of its workers come back."""
        self.restart()
        for number in which:
            self.attach(number)

    @rule(number=numbers)
    def break_link(self, number: int) -> None:
        self.machines[number].unlink()
        self.tell(events.Detach(number))

    @rule(number=numbers)
    def crash(self, number: int) -> None:
        self.machines[number].crash()
        self.tell(events.Detach(number))

    @rule(number=numbers)
    def remove(self, number: int) -> None:
        self.machines[number].crash()
        self.tell(events.Remove(number))
        self.cordoned.discard(number)
        self.drained.pop(number, None)
        assert not self.view.get(number), "what it held is lost now"

    @rule(number=numbers)
    def cordon(self, number: int) -> None:
        self.cordoned.add(number)
        self.drained.pop(number, None)
        self.tell(events.Cordon(number))

    @rule(number=numbers, deadline_s=st.sampled_from([None, 0.0, 0.5, 20.0, 100.0]))
    def drain(self, number: int, deadline_s: float | None) -> None:
        self.cordoned.add(number)
        self.tell(events.Drain(number, deadline_s))
        self.drained.pop(number, None)
        if deadline_s is not None:
            self.drained[number] = self.now + deadline_s
        self.empty()

    def empty(self) -> None:
        """What was drained holds nothing from its deadline on."""
        for number, until in self.drained.items():
            if until <= self.now:
                for job in self.view.get(number, {}):
                    # Unless it came back with it from before the node restarted.
                    assert self.rows[job].job.fence >> 32 < self.boot

    @rule(number=numbers)
    def uncordon(self, number: int) -> None:
        self.cordoned.discard(number)
        self.drained.pop(number, None)
        self.tell(events.Uncordon(number))

    @rule(number=numbers, count=st.integers(1, 10))
    def down(self, number: int, count: int) -> None:
        machine = self.machines[number]
        for _ in range(min(count, len(machine.inbox))):
            machine.receive()

    @rule(number=numbers, count=st.integers(1, 10))
    def up(self, number: int, count: int) -> None:
        machine = self.machines[number]
        for _ in range(min(count, len(machine.outbox))):
            self.tell(machine.outbox.pop(0))

    @rule(number=numbers)
    def beat(self, number: int) -> None:
        if self.machines[number].linked:
            self.tell(events.Beat(number))

    @rule(number=numbers, say=st.booleans())
    def start(self, number: int, say: bool) -> None:
        self.machines[number].start(say)

    @rule(
        number=numbers,
        index=st.integers(0, 9),
        error=st.sampled_from([None, None, None, "function_error", "run_timeout", "memory_limit"]),
        run_s=st.sampled_from([0.0, 0.001, 0.03, 2.0]),
    )
    def finish(self, number: int, index: int, error: str | None, run_s: float) -> None:
        self.machines[number].finish(index, error, run_s)

    @rule(number=numbers)
    def progress(self, number: int) -> None:
        machine = self.machines[number]
        if machine.running and machine.linked:
            machine.outbox.append(events.Heartbeat(number, *machine.running[0]))

    @rule(number=numbers)
    def give_back(self, number: int) -> None:
        machine = self.machines[number]
        if machine.queued and machine.linked:
            machine.outbox.append(events.Return(number, *machine.queued.pop()))

    @precondition(lambda self: self.old)
    @rule(index=st.integers(0, 999), error=st.sampled_from([None, "exited"]))
    def stale(self, index: int, error: str | None) -> None:
        """A message of an attempt that is over changes nothing."""
        worker, job, fence = self.old[index % len(self.old)]
        if self.view.get(worker, {}).get(job) == fence:
            return
        finish = events.Finish(worker, job, fence, error, 0.5)  # type: ignore[arg-type]
        before = self.scheduler.snapshot(job)
        for effect in self.scheduler.handle(finish, self.now):
            if isinstance(effect, events.Refuse) and effect.job == job:
                self.obey(effect)
            else:
                # A silent worker that is heard of may be leased to again; that is all.
                assert isinstance(effect, events.Lease | events.Recall)
                self.obey(effect)
        after = self.scheduler.snapshot(job)
        assert before == after or (before and after and after.worker and before.state == "queued")

    # --- time -------------------------------------------------------------------------------

    @rule(elapsed_s=st.sampled_from([0.001, 0.06, 0.5, 3.0, 12.0, 29.0, 40.0, 400.0]))
    def advance(self, elapsed_s: float) -> None:
        self.run_until(self.now + elapsed_s)

    def run_until(self, until: float) -> None:
        for _ in range(1000):
            deadline = self.scheduler.deadline
            if deadline is None or deadline > until:
                break
            self.now = max(self.now, deadline)
            self.tell(events.Tick())
            later = self.scheduler.deadline
            assert later is None or later > self.now, "a tick leaves nothing due"
        else:
            raise AssertionError("ticks without end")
        self.now = max(self.now, until)
        self.empty()

    # --- what always holds ------------------------------------------------------------------

    @invariant()
    def consistent(self) -> None:
        self.scheduler.check()
        assert "jobs queued" in repr(self.scheduler)
        for job, row in self.rows.items():
            snapshot = self.scheduler.snapshot(job)
            if job in self.decided:
                assert snapshot is None or snapshot.settling
                continue
            assert snapshot is not None
            assert not snapshot.settling
            assert snapshot.state == row.state
            assert snapshot.attempt == row.job.attempt
            assert snapshot.lost_on == row.job.lost_on
            starts_in_s = self.scheduler.starts_in_s(job, self.now)
            if snapshot.state == "queued":
                reasons = self.scheduler.reasons(job, self.now)
                assert reasons, "it waits for a reason"
                named = {reason.worker for reason in reasons}
                assert named >= {one.worker for one in self.scheduler.workers()} or any(
                    reason.code in ("behind", "backoff") for reason in reasons
                ), "each worker says why not"
                assert starts_in_s is None or starts_in_s > 0
            else:
                assert starts_in_s is None
                assert self.view[snapshot.worker][job] == snapshot.fence
                assert not self.scheduler.reasons(job, self.now)

    def teardown(self) -> None:
        """With a worker that fits all, and nothing lost any more, everything ends."""
        self.machines[99] = Machine(99, LARGE)
        self.machines[99].linked = True
        self.tell(events.Attach(99, LARGE))
        for _ in range(400):
            living = [job for job in self.rows if job not in self.decided]
            if not living:
                break
            for number, machine in self.machines.items():
                if machine.linked:
                    self.tell(events.Beat(number))
                while machine.inbox:
                    machine.receive()
                machine.start(say=True)
                machine.finish(0, None, 0.01)
                while machine.outbox:
                    self.tell(machine.outbox.pop(0))
            self.commit()
            self.run_until(self.now + 1.0)
            self.consistent()
        else:
            raise AssertionError(f"{self.scheduler!r} does not end")
        self.commit()
        assert self.scheduler.statistics().settling == 0


TestWorld = pytest.mark.slow(World.TestCase)
TestWorld.settings = settings(
    max_examples=150,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
