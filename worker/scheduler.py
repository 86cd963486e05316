"""The life of jobs, from the moment they are handed in until their one outcome is durable.

`Scheduler` is a machine: it is told what happened (`handle`, with the time) and answers what is to
be done.  It reads no clock, draws no random number and does no I/O; the same inputs give the same
effects.  Inputs and effects are in `worker.events`; *where* jobs run is `worker.placement`, how
attempts begin and end `worker.ledger`, *why* jobs wait `worker.reasons`; this file is about what
each input means.  It is long because it is better to see all inputs side by side.

    queued -> leased -> running -> succeeded | failed | cancelled | expired | poisoned
       ^________|__________|

Rules:

* Every lease has a fence, greater than all before: the boot count in the upper bits, a counter in
  the lower 32 (a counter that overflows them, after 20 days at 2500 jobs a second, carries into the
  boot count and goes on growing; fences met in restored jobs raise it).  What comes with another
  fence than the job's, or from another worker, changes nothing and is refused.
* A lease lives as long as its worker is heard of; a worker whose link breaks has `reconnect_s` to
  come back with what it holds.  Run time is unbounded.
* A job has one outcome.  `Settle` decides it; from then until `Settled` (it is durable) the job is
  *settling*: its slot is free, and nothing about it can change.
* What counts: an attempt that ran, or may have (it had a slot), and was lost with its worker counts
  as an attempt and against that worker; `poison_workers` of them end the job.  A lease given back,
  a lease that waited for a slot when its worker was lost, what runs past the deadline of a drain,
  and a restart of the node count nothing.
* A failure is tried again when `retry.on` names its cause and attempts are left, after a wait that
  doubles (no jitter: leases go only where there is room, so retries cannot stampede).
* `queue_s` limits one wait: from submission, or from the end of an attempt that ran.  `total_s`
  runs from submission in every state.  `heartbeat_s` runs while the worker is attached.  `run_s` is
  the worker's to keep, with its own clock; the scheduler steps in `grace_s` later.
* A job that comes back stands where it stood: equal priorities are served in order of submission.
* A worker that gives back a lease it was not asked for gets nothing until its next `Beat`: it is
  leaving, and would be leased the same job again at once.

Left out: durability (the driver writes down what effects say), messages and links (the driver),
idempotency of submission (the API), preemption.
"""

from typing import assert_never

from worker import figures, retry
from worker.attempts import Attempt, Entry, held_of
from worker.config import Config
from worker.events import (
    Adopt,
    Attach,
    Beat,
    Begin,
    Cancel,
    Cordon,
    Detach,
    Drain,
    Effect,
    Finish,
    Heartbeat,
    Input,
    Job,
    Kill,
    Reason,
    Refuse,
    Remove,
    Reprioritise,
    Restore,
    Return,
    Running,
    Settled,
    Snapshot,
    Start,
    Submit,
    Tick,
    Uncordon,
    Withdraw,
    WorkerSnapshot,
)
from worker.forecast import starts_in_s
from worker.ledger import BOOT_SHIFT, Ledger
from worker.protocol import ErrorCode, Held
from worker.reasons import reasons
from worker.roster import Worker
from worker.timeouts import passed


class Scheduler:
    """All jobs of a node that are not over, and all its workers."""

    def __init__(self, config: Config, boot: int) -> None:
        """Start empty. `boot` counts the starts of this node: greater each time, from 1."""
        self._boot = boot
        self._ledger = Ledger(config, boot)

    # --- what happens -----------------------------------------------------------------------

    def handle(self, input: Input, now: float) -> list[Effect]:
        """Take in what happened at `now` (monotonic seconds) and return what is to be done.

        Raises `ValueError` for a job that is already here.
        """
        ledger = self._ledger
        ledger.now = now
        out: list[Effect] = []
        ledger.out = out
        match input:
            case Submit(job):
                self._submit(job)
            case Finish(worker, job, fence, error, run_s):
                self._finish(worker, job, fence, error, run_s)
            case Settled(job):
                self._settled(job)
            case Start(worker, job, fence, elapsed_s):
                self._start(worker, job, fence, elapsed_s)
            case Heartbeat(worker, job, fence):
                self._start(worker, job, fence, 0.0)
            case Beat(worker):
                self._beat(worker)
            case Tick():
                self._tick()
            case Return(worker, job, fence):
                self._return(worker, job, fence)
            case Cancel(job):
                self._cancel(job)
            case Reprioritise(job, priority):
                self._reprioritise(job, priority)
            case Withdraw(job):
                self._withdraw(job)
            case Begin(boot):
                self._boot = max(self._boot, boot)
                ledger = self._ledger
                ledger.fence = max(ledger.fence, self._boot << BOOT_SHIFT)
            case Restore(job, worker, running):
                self._restore(job, worker, running)
            case Attach():
                self._attach(input)
            case Detach(worker):
                self._detach(worker)
            case Remove(worker):
                self._remove(worker)
            case Cordon(worker):
                self._cordon(worker)
            case Drain(worker, deadline_s):
                self._drain(worker, deadline_s)
            case Uncordon(worker):
                self._uncordon(worker)
            case _:
                assert_never(input)
        return out

    @property
    def deadline(self) -> float | None:
        """When to send `Tick` next, in the time of `now`; `None`: no need to."""
        return self._ledger.deadlines.next

    # --- jobs come and go -------------------------------------------------------------------

    def _submit(self, job: Job) -> None:
        ledger = self._ledger
        entry = ledger.enter(job)
        ledger.arm(entry)
        ledger.wait(entry, fresh=True)

    def _restore(self, job: Job, number: int, running: bool) -> None:
        ledger = self._ledger
        entry = ledger.enter(job)
        worker = ledger.worker(number)
        held = Attempt(number, ledger.now, 0.0, quick=False)
        held.restored = True
        entry.held = held
        entry.state = "leased"
        if running:
            entry.state = "running"
            held.started_at_s = ledger.now
        if worker.attached:
            # It said what it holds when it attached, and that job was not known then.
            ledger.lost(entry, held)
        else:
            worker.add(entry, held, ledger.now)
        ledger.arm(entry)

    def _cancel(self, job: int) -> None:
        ledger = self._ledger
        entry = ledger.jobs.get(job)
        if entry is None or entry.settling:
            return
        ledger.stop(entry, "cancelled")
        ledger.settle(entry, "cancelled", "cancelled", "cancelled by request")
        ledger.refill(entry)

    def _withdraw(self, job: int) -> None:
        ledger = self._ledger
        entry = ledger.jobs.pop(job, None)
        if entry is None:
            return
        if entry.settling:
            ledger.settling -= 1
            return
        ledger.stop(entry, "withdrawn")
        ledger.deadlines.clear(entry)
        ledger.refill(entry)

    def _reprioritise(self, job: int, priority: int) -> None:
        ledger = self._ledger
        entry = ledger.jobs.get(job)
        if entry is None or entry.settling or entry.priority == priority:
            return
        if entry.place is None:
            entry.priority = priority
            return
        released = ledger.placement.take(entry, ledger.placement.queue(entry.job.requires))
        entry.priority = priority
        ledger.wait(entry, fresh=False)
        if released is not None:
            ledger.fill(released)

    def _settled(self, job: int) -> None:
        ledger = self._ledger
        entry = ledger.jobs.get(job)
        if entry is not None and entry.settling:
            del ledger.jobs[job]
            ledger.settling -= 1

    # --- what workers say -------------------------------------------------------------------

    def _current(self, worker: int, job: int, fence: int) -> Entry | None:
        """Return the job whose current attempt this is; refuse what is not."""
        ledger = self._ledger
        entry = ledger.jobs.get(job)
        if entry is not None and _is_attempt(entry, worker, fence):
            if not entry.settling:
                return entry
            if held_of(entry).finished:
                # Said twice, as after a lost link; it is acknowledged when it is durable.
                return None
        ledger.out.append(Refuse(worker, job, fence))
        return None

    def _heard(self, number: int) -> Worker | None:
        ledger = self._ledger
        worker = ledger.workers.get(number)
        if worker is not None:
            worker.heard_at_s = ledger.now
            if worker.silent:
                worker.silent = False
                worker.set_open()
                ledger.deadlines.set(worker, ledger.now + ledger.config.lease_s)
                ledger.fill(worker)
        return worker

    def _beat(self, number: int) -> None:
        ledger = self._ledger
        worker = self._heard(number)
        if worker is not None and worker.paused:
            worker.paused = False
            worker.set_open()
            ledger.fill(worker)

    def _start(self, number: int, job: int, fence: int, elapsed_s: float) -> None:
        """An attempt runs; also what each heartbeat says, which may come first."""
        ledger = self._ledger
        worker = self._heard(number)
        entry = self._current(number, job, fence)
        if entry is None or worker is None:
            return
        held = held_of(entry)
        held.heard_at_s = ledger.now
        held.recalled = False
        if held.started_at_s is None:
            elapsed_s = min(max(0.0, elapsed_s), ledger.now - held.leased_at_s)
            held.started_at_s = ledger.now - elapsed_s
            worker.running += 1
            entry.state = "running"
            ledger.out.append(Running(job, fence))
            ledger.arm(entry)

    def _finish(
        self, number: int, job: int, fence: int, error: ErrorCode | None, run_s: float
    ) -> None:
        ledger = self._ledger
        worker = self._heard(number)
        entry = self._current(number, job, fence)
        if entry is None or worker is None:
            return
        held = held_of(entry)
        held.finished = True
        ledger.placement.estimates.measure(entry.job.program, max(0.0, run_s), worker.class_name)
        worker.remove(entry, held, ledger.now)
        if error is None:
            ledger.settle(entry, "succeeded", worker=number)
        else:
            ledger.failed(entry, retry.CAUSES[error], error, "")
        ledger.fill(worker)

    def _return(self, number: int, job: int, fence: int) -> None:
        ledger = self._ledger
        worker = self._heard(number)
        entry = self._current(number, job, fence)
        if entry is None or worker is None:
            return
        held = held_of(entry)
        worker.remove(entry, held, ledger.now)
        if not held.recalled:
            worker.paused = True
            ledger.close(worker)
        ledger.requeue(entry, "returned", counts=False)
        ledger.fill(worker)

    # --- workers come and go ----------------------------------------------------------------

    def _attach(self, attach: Attach) -> None:
        ledger = self._ledger
        worker = ledger.worker(attach.worker)
        # Closed until its leases are known: what it lost must not go to it in between.
        worker.attached = False
        ledger.close(worker)
        before = worker.drop()
        ledger.placement.attach(worker, attach.offer)
        worker.silent = worker.paused = False
        worker.since_s = worker.heard_at_s = ledger.now
        kept: set[int] = set()
        for held in attach.held:
            if held.job in kept and ledger.jobs[held.job].fence == held.fence:
                continue
            if self._take_up(worker, held):
                kept.add(held.job)
        for entry in before:
            if entry.job.job not in kept:
                ledger.lost(entry, held_of(entry))
        worker.attached = True
        worker.set_open()
        ledger.deadlines.set(worker, ledger.now + ledger.config.lease_s)
        if worker.draining:
            ledger.recall_unstarted(worker)
        ledger.fill(worker)

    def _take_up(self, worker: Worker, said: Held) -> bool:
        """Let an attempt go on that a worker came back with, if it is the job's current one."""
        ledger = self._ledger
        entry = ledger.jobs.get(said.job)
        if entry is None or not self._may_adopt(entry, worker, said):
            mine = entry is not None and _is_attempt(entry, worker.worker, said.fence)
            if not (mine and entry is not None and held_of(entry).finished):
                ledger.out.append(Refuse(worker.worker, said.job, said.fence))
            return False
        held = entry.held
        if held is None:
            ledger.dequeue(entry)
            held = entry.held = Attempt(worker.worker, ledger.now, 0.0, quick=False)
            entry.fence = said.fence
            entry.attempt += 1
            entry.state = "leased"
        held.restored = held.recalled = False
        held.heard_at_s = held.leased_at_s = ledger.now
        worker.add(entry, held, ledger.now)
        if not held.slotted:
            ledger.placement.note_ahead(worker)
            ledger.deadlines.set(worker, ledger.now + ledger.config.prefetch_s)
        ledger.arm(entry)
        ledger.out.append(Adopt(worker.worker, said.job, said.fence))
        return True

    def _may_adopt(self, entry: Entry, worker: Worker, said: Held) -> bool:
        ledger = self._ledger
        if entry.settling:
            return False
        if entry.held is not None:
            return _is_attempt(entry, worker.worker, said.fence)
        # Queued. Its lease may have been made just before the node stopped, and never been
        # written down: then the job was restored as queued, with an older fence or none, and the
        # worker has one from an earlier boot. In this boot every fence is known.
        restored = entry.job.age_s > 0 and entry.fence == entry.job.fence
        earlier = entry.fence < said.fence < self._boot << BOOT_SHIFT
        queue = ledger.placement.queue(entry.job.requires)
        return restored and earlier and worker.worker in queue.workers

    def _detach(self, number: int) -> None:
        ledger = self._ledger
        worker = ledger.workers.get(number)
        if worker is None or not worker.attached:
            return
        worker.attached = worker.silent = False
        worker.since_s = ledger.now
        worker.window_until_s = ledger.now + ledger.config.reconnect_s
        ledger.close(worker)
        ledger.deadlines.set(worker, worker.window_until_s)

    def _remove(self, number: int) -> None:
        ledger = self._ledger
        worker = ledger.workers.get(number)
        if worker is None:
            return
        worker.attached = False
        ledger.close(worker)
        ledger.placement.leave(worker)
        ledger.deadlines.clear(worker)
        for entry in worker.drop():
            ledger.lost(entry, held_of(entry))

    def _cordon(self, number: int) -> None:
        ledger = self._ledger
        worker = ledger.worker(number)
        worker.cordoned = True
        worker.draining = False
        worker.drain_at_s = None
        ledger.close(worker)

    def _drain(self, number: int, deadline_s: float | None) -> None:
        ledger = self._ledger
        worker = ledger.worker(number)
        worker.cordoned = worker.draining = True
        worker.drain_at_s = None
        ledger.close(worker)
        if deadline_s is not None and deadline_s <= 0:
            ledger.give_up(worker)
            return
        if worker.attached:
            ledger.recall_unstarted(worker)
        if deadline_s is not None:
            worker.drain_at_s = ledger.now + deadline_s
            ledger.deadlines.set(worker, worker.drain_at_s)

    def _uncordon(self, number: int) -> None:
        ledger = self._ledger
        worker = ledger.workers.get(number)
        if worker is not None:
            worker.cordoned = worker.draining = False
            worker.drain_at_s = None
            worker.set_open()
            ledger.fill(worker)

    # --- time passes ------------------------------------------------------------------------

    def _tick(self) -> None:
        for owner in self._ledger.deadlines.due(self._ledger.now):
            match owner:
                case Entry():
                    self._job_due(owner)
                case Worker():
                    self._worker_due(owner)
                case _:
                    assert_never(owner)

    def _job_due(self, entry: Entry) -> None:
        ledger = self._ledger
        held = entry.held
        worker = ledger.workers[held.worker] if held is not None else None
        over = passed(entry, worker, ledger.now, ledger.config.grace_s)
        if over is not None:
            ledger.stop(entry, over.code)
            if over.retried:
                ledger.failed(entry, "timeout", over.code, over.detail)
            else:
                ledger.settle(entry, "expired", over.code, over.detail)
            if worker is not None:
                ledger.fill(worker)
            return
        if held is None and entry.place is None and ledger.now >= entry.ready_at_s:
            ledger.backing_off -= 1
            ledger.wait(entry, fresh=False)
        ledger.arm(entry)

    def _worker_due(self, worker: Worker) -> None:
        ledger = self._ledger
        config, now = ledger.config, ledger.now
        if worker.drain_at_s is not None:
            if now >= worker.drain_at_s:
                worker.drain_at_s = None
                ledger.give_up(worker)
            else:
                ledger.deadlines.set(worker, worker.drain_at_s)
        if not worker.attached:
            if now >= worker.window_until_s:
                for entry in worker.drop():
                    ledger.lost(entry, held_of(entry))
            else:
                ledger.deadlines.set(worker, worker.window_until_s)
            return
        if worker.silent:
            return
        if now >= worker.heard_at_s + config.lease_s:
            worker.silent = True
            ledger.close(worker)
            for entry in worker.drop():
                # Should it wake up, with its link still there, it learns this first.
                ledger.out.append(Kill(worker.worker, entry.job.job, entry.fence, "lease_lost"))
                ledger.lost(entry, held_of(entry))
            return
        for entry in ledger.placement.overdue(worker, now):
            ledger.recall(entry)
        ledger.deadlines.set(worker, worker.heard_at_s + config.lease_s)
        look_at_s = ledger.placement.look_again_s(worker, now)
        if look_at_s is not None:
            ledger.deadlines.set(worker, look_at_s)

    # --- reading ----------------------------------------------------------------------------

    def snapshot(self, job: int) -> Snapshot | None:
        """Return a job as it is now, or `None`: not here (never was, or its outcome is durable)."""
        entry = self._ledger.jobs.get(job)
        return figures.snapshot(entry) if entry is not None else None

    def reasons(self, job: int, now: float) -> list[Reason]:
        """Return every reason why a job waits; none when it does not (or is not here)."""
        entry = self._ledger.jobs.get(job)
        if entry is None or entry.settling or entry.held is not None:
            return []
        return reasons(entry, self._ledger.placement, now)

    def starts_in_s(self, job: int, now: float) -> float | None:
        """Return in how many seconds a job that waits is expected to start; `None`: unknown."""
        entry = self._ledger.jobs.get(job)
        if entry is None or entry.settling or entry.held is not None:
            return None
        return starts_in_s(entry, self._ledger.placement, now)

    def worker(self, number: int) -> WorkerSnapshot | None:
        """Return a worker that is attached or may come back."""
        worker = self._ledger.workers.get(number)
        return figures.worker_snapshot(worker) if worker is not None else None

    def workers(self) -> list[WorkerSnapshot]:
        """Return all workers that are attached or may come back, in the order they attached."""
        return [figures.worker_snapshot(worker) for worker in self._ledger.workers.values()]

    def statistics(self) -> figures.Statistics:
        """Return figures of the moment. Costs time in proportion to the workers."""
        return figures.statistics(self._ledger)

    def __repr__(self) -> str:
        """Return the state as a sentence."""
        return f"<Scheduler of boot {self._boot}: {figures.sentence(self.statistics())}>"

    def check(self) -> None:
        """Assert the invariants. Costs time in proportion to all jobs: for tests."""
        self._ledger.check()


def _is_attempt(entry: Entry, worker: int, fence: int) -> bool:
    """Whether this is the last attempt of a job, and that worker's."""
    held = entry.held
    return held is not None and held.worker == worker and entry.fence == fence
