"""The books of the scheduler, and every way in which an attempt begins and ends.

`Ledger` holds the jobs, the workers, the timers and the counters, and changes them together: each
method leaves all of them consistent and appends what is to be done to `out`.  It does not know why
it is called; what an input means is `worker.scheduler`'s.
"""

from typing import Final, TypeAlias

from worker import retry
from worker.attempts import Attempt, Entry, held_of
from worker.config import Config
from worker.deadlines import Deadlines
from worker.events import (
    Cause,
    Effect,
    Job,
    Kill,
    Lease,
    Recall,
    Requeue,
    Settle,
    State,
)
from worker.placement import Placement
from worker.queue import Queue
from worker.roster import Worker
from worker.timeouts import due_at_s

BOOT_SHIFT: Final = 32
"""A fence is `boot << BOOT_SHIFT | counter`."""

Timed: TypeAlias = Entry | Worker


class Ledger:
    """All jobs of a node that are not over, all its workers, and what is to be done."""

    def __init__(self, config: Config, boot: int) -> None:
        self.config = config
        self.now = 0.0
        """Time of the input being handled."""
        self.out: list[Effect] = []
        """Effects of the input being handled."""
        self.fence = boot << BOOT_SHIFT
        """The greatest fence given so far."""
        self.jobs: dict[int, Entry] = {}
        self.placement = Placement(config)
        self.workers = self.placement.workers
        self.deadlines: Deadlines[Timed] = Deadlines()
        self.settling = 0
        self.backing_off = 0
        self.leases_total = 0
        self.recalls_total = 0
        self.requeues_total = 0
        self.settles_total = 0
        self._sequence = 0

    def enter(self, job: Job) -> Entry:
        """Take in a job. Raises `ValueError` for one that is already here."""
        if job.job in self.jobs:
            raise ValueError(f"job {job.job} is already here")
        self._sequence += 1
        entry = Entry(job, self._sequence, self.now)
        self.jobs[job.job] = entry
        self.fence = max(self.fence, job.fence)
        return entry

    def worker(self, number: int) -> Worker:
        """Return a worker, a new one that may come within the window if it is not known."""
        worker = self.workers.get(number)
        if worker is None:
            worker = self.workers[number] = Worker(number, self.now)
            worker.window_until_s = self.now + self.config.reconnect_s
            self.deadlines.set(worker, worker.window_until_s)
        return worker

    def wait(self, entry: Entry, *, fresh: bool) -> None:
        """Let a job wait, or lease it when there is room. `fresh` as for `Queue.add`."""
        queue = self.placement.add(entry, fresh=fresh)
        if queue.first is entry:
            # Otherwise nobody had room for the first one, and nobody has for this.
            while queue.first is not None:
                worker = self.placement.worker_for(queue, self.now)
                if worker is None:
                    return
                self.lease(queue, worker)

    def fill(self, worker: Worker) -> None:
        """A worker may have room: use it."""
        if not worker.open:
            return
        placement = self.placement
        while worker.waiting:
            queue = placement.next_for(worker, self.now)
            if queue is None:
                break
            self.lease(queue, worker)
        if worker.free_slots > 0 and placement.ahead:
            for found in placement.rebalance(worker, self.now):
                for entry in found:
                    self.recall(entry)

    def lease(self, queue: Queue, worker: Worker) -> None:
        """Lease the first job of a queue to a worker."""
        entry = queue.first
        assert entry is not None
        released = self.placement.take(entry, queue)
        self.fence += 1
        entry.fence = self.fence
        entry.attempt += 1
        entry.state = "leased"
        entry.held = held = self.placement.lease(entry, worker, self.now)
        self.leases_total += 1
        self.out.append(Lease(worker.worker, entry.job.job, entry.fence, entry.attempt))
        if not held.slotted:
            self.deadlines.set(worker, self.now + self.config.prefetch_s)
        if released is not None and released is not worker:
            self.fill(released)

    def recall(self, entry: Entry) -> None:
        """Ask a lease back."""
        held = held_of(entry)
        held.recalled = True
        self.recalls_total += 1
        self.out.append(Recall(held.worker, entry.job.job, entry.fence))

    def recall_unstarted(self, worker: Worker) -> None:
        """Ask back all that a worker has not said to run."""
        for entry in worker.leases():
            held = held_of(entry)
            if held.started_at_s is None and not held.recalled:
                self.recall(entry)

    def give_up(self, worker: Worker) -> None:
        """Have all that a worker holds go elsewhere: an operator's wish, and nobody's fault."""
        for entry in worker.drop():
            if worker.attached:
                self.out.append(Kill(worker.worker, entry.job.job, entry.fence, "drained"))
            self.requeue(entry, "drained", counts=False)

    def dequeue(self, entry: Entry) -> None:
        """Let a queued job wait no longer."""
        if entry.place is None:
            self.backing_off -= 1
            return
        released = self.placement.take(entry, self.placement.queue(entry.job.requires))
        if released is not None:
            self.fill(released)

    def stop(self, entry: Entry, reason: str) -> None:
        """End what a job does, from the node's side: wait, or run. Its worker's room is free."""
        held = entry.held
        if held is None:
            self.dequeue(entry)
            return
        worker = self.workers[held.worker]
        if worker.attached:
            self.out.append(Kill(held.worker, entry.job.job, entry.fence, reason))
        worker.remove(entry, held, self.now)

    def refill(self, entry: Entry) -> None:
        """Use the room of a job that was stopped."""
        if entry.held is not None:
            self.fill(self.workers[entry.held.worker])

    def failed(self, entry: Entry, cause: Cause, code: str, detail: str) -> None:
        """An attempt ended badly, and its worker does not list it any more."""
        if retry.may_retry(entry.job.retry, cause, entry.attempt):
            self.requeue(entry, cause, counts=True)
        else:
            held = held_of(entry)
            self.settle(entry, retry.state_after(cause), code, detail, held.worker)

    def requeue(self, entry: Entry, cause: str, *, counts: bool) -> None:
        """Let a job wait again: after a backoff when the attempt counts, else at once."""
        held = held_of(entry)
        delay_s = 0.0
        if counts:
            maximum_s = self.config.backoff_max_s
            delay_s = retry.backoff_s(entry.job.retry, entry.attempt, maximum_s)
        else:
            entry.attempt -= 1
        if counts or held.started_at_s is not None:
            entry.waiting_since_s = self.now
        entry.held = None
        entry.state = "queued"
        entry.ready_at_s = self.now + delay_s
        self.requeues_total += 1
        self.out.append(
            Requeue(entry.job.job, entry.attempt, entry.fence, entry.lost_on, cause, delay_s)
        )
        self.arm(entry)
        if delay_s > 0:
            self.backing_off += 1
        else:
            self.wait(entry, fresh=False)

    def settle(
        self, entry: Entry, state: State, code: str = "", detail: str = "", worker: int = 0
    ) -> None:
        """Decide the outcome of a job, which holds no room any more."""
        entry.settling = True
        self.settling += 1
        self.settles_total += 1
        self.deadlines.clear(entry)
        self.out.append(
            Settle(entry.job.job, state, entry.attempt, entry.fence, worker, code, detail)
        )

    def lost(self, entry: Entry, held: Attempt) -> None:
        """A worker, which does not list it any more, is gone with this attempt."""
        if held.restored:
            self.requeue(entry, "node_restart", counts=False)
            return
        if held.started_at_s is None and not held.slotted:
            self.requeue(entry, "lost", counts=False)
            return
        if held.worker not in entry.lost_on:
            entry.lost_on = (*entry.lost_on, held.worker)
        if len(entry.lost_on) >= self.config.poison_workers:
            names = ", ".join(str(worker) for worker in entry.lost_on)
            detail = f"workers {names} were lost while it ran"
            self.settle(entry, "poisoned", "poisoned", detail, held.worker)
            return
        self.failed(entry, "lost", "lost", f"worker {held.worker} was lost while it ran")

    def close(self, worker: Worker) -> None:
        """Something keeps this worker from being leased to."""
        worker.set_open()
        if not worker.open:
            self.placement.unreserve(worker)

    def arm(self, entry: Entry) -> None:
        """Set the timer of a job to whatever may happen to it next."""
        held = entry.held
        worker = self.workers[held.worker] if held is not None else None
        when = due_at_s(entry, worker, self.now, self.config.grace_s)
        if when is not None:
            self.deadlines.set(entry, when)

    def check(self) -> None:
        """Assert the invariants. Costs time in proportion to all jobs: for tests."""
        self.placement.check()
        self.deadlines.check()
        holders = {
            entry.job.job: worker for worker in self.workers.values() for entry in worker.leases()
        }
        waiting = backing_off = settling = 0
        for job, entry in self.jobs.items():
            assert entry.job.job == job
            assert entry.fence <= self.fence, "fences are never ahead of the counter"
            settling += entry.settling
            if entry.settling:
                assert entry.timer is None
                assert entry.place is None
                assert job not in holders, "what is decided takes no room"
            elif entry.held is None:
                assert entry.state == "queued"
                assert job not in holders
                waiting += entry.place is not None
                backing_off += entry.place is None
                assert entry.place is not None or entry.timer is not None, "it will be looked at"
                limited = entry.job.timeouts.queue_s is not None
                assert not limited or entry.timer is not None, "its wait is limited"
            else:
                assert entry.place is None
                assert holders[job].worker == entry.held.worker
                started = entry.held.started_at_s is not None
                assert entry.state == ("running" if started else "leased")
        assert (backing_off, settling) == (self.backing_off, self.settling)
        assert waiting == self.placement.queued()
        assert len(holders) == len(self.jobs) - waiting - backing_off - settling
        for worker in self.workers.values():
            timed = worker.timer is not None
            assert timed or worker.silent or not (worker.attached or len(worker))
            if worker.open and worker.waiting and worker.free_slots > 0 and not worker.prefetched:
                queue = self.placement.next_for(worker, self.now)
                assert queue is None, f"worker {worker.worker} has room for {queue}"
