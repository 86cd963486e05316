"""Which waiting job goes to which worker.

Rules, in this order:

* A job goes to a worker that fits it (`worker.capabilities`) and has room now.
* Among jobs that fit a worker: higher priority first, then the order of submission.
* Among workers with room for a job: the one that weighs most by what it prefers; then one of a
  class that runs its program faster, once that was measured; then by policy, most free slots
  (`spread`) or fewest (`pack`); then the faster machine; then the one that attached first.
* No room is left unused while a job that fits it waits, so a job that needs little may overtake one
  that needs more than is free.  Once the first job in order has been overtaken for `overtake_s`,
  one worker is held free for it (backfilling with a reservation for the first job: EASY, Lifka
  1995; the reservation starts late here, because run times are not known).
* A worker without a free slot is given more work only when it is short (see `_may_prefetch`): the
  first job in order, of a program that is known to end within `prefetch_s`, while what waits there
  is at most `prefetch_s` for each slot that is known to turn over.  So a job never waits long
  behind others at one worker while another one is free, and long jobs never wait there at all.
* When it turned out longer after all, those that wait are asked back: after `recall_s`, or as soon
  as a worker that fits them idles.

The cost of a decision grows with the number of distinct `Requires` that wait (not of jobs), and of
workers when a queue was empty.  Jobs leave queues here; leases are made by the scheduler.
"""

from collections.abc import Iterator
from typing import Final, TypeAlias

from worker.attempts import Attempt, Entry, held_of, precedes
from worker.capabilities import match
from worker.config import Config
from worker.estimates import Estimates
from worker.events import Preference, Requires
from worker.preferences import weigh
from worker.protocol import Offer
from worker.queue import Queue
from worker.roster import Worker

Merit: TypeAlias = tuple[bool, int, int, int, int]
"""Has room now, weight, rank, room by policy, speed: greater is better."""
_NO_MERIT: Final[Merit] = (False, 0, 0, 0, 0)


class Placement:
    """The queues, the workers, and what fits what."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.workers: dict[int, Worker] = {}
        """In the order in which they attached (last)."""
        self.queues: dict[Requires, Queue] = {}
        self.estimates = Estimates(config.estimate_weight, config.programs_max, config.classes_max)
        self._spreads = self._plain = config.policy == "spread"
        """Free slots decide alone: no other policy, and one class of workers at most."""
        self._weights: dict[tuple[Preference, ...], dict[int, int]] = {}
        """Preferences -> worker -> its weight. A few are remembered: most jobs share theirs."""
        self._queues_sweep = config.queues_max
        self.ahead: dict[int, Worker] = {}
        """Workers where leases wait for a slot, or did when last looked at."""

    # --- workers ----------------------------------------------------------------------------

    def attach(self, worker: Worker, offer: Offer) -> None:
        """A worker came, or came back, with this offer: it holds nothing yet."""
        self.leave(worker)
        self.workers[worker.worker] = worker
        worker.re_offer(offer)
        self._look_at_classes()
        for queue in self.queues.values():
            self._match(queue, worker)

    def leave(self, worker: Worker) -> None:
        """Forget a worker."""
        self.unreserve(worker)
        self.workers.pop(worker.worker, None)
        self.ahead.pop(worker.worker, None)
        worker.waiting.clear()
        for queue in self.queues.values():
            queue.workers.pop(worker.worker, None)
        for weights in self._weights.values():
            weights.pop(worker.worker, None)
        self._look_at_classes()

    def _look_at_classes(self) -> None:
        classes = {worker.class_name for worker in self.workers.values()}
        self._plain = self._spreads and len(classes) < 2

    def _weights_for(self, prefers: tuple[Preference, ...]) -> dict[int, int]:
        """Return what workers weigh for jobs with these preferences, as far as was asked."""
        weights = self._weights.get(prefers)
        if weights is None:
            if len(self._weights) >= self._config.preferences_max:
                self._weights.clear()
            weights = self._weights[prefers] = {}
        return weights

    def _weight(
        self, weights: dict[int, int], prefers: tuple[Preference, ...], worker: Worker
    ) -> int:
        weight = weights.get(worker.worker)
        if weight is None:
            assert worker.offer is not None
            weight = weights[worker.worker] = weigh(prefers, worker.offer)
        return weight

    def unreserve(self, worker: Worker) -> None:
        """A worker is not held free any more."""
        if worker.reserved is not None:
            worker.reserved.reserved = None
            worker.reserved = None

    def _match(self, queue: Queue, worker: Worker) -> None:
        if worker.offer is not None and not match(queue.requires, worker.offer):
            queue.workers[worker.worker] = worker
            if queue.first is not None:
                worker.waiting[queue] = None

    # --- jobs -------------------------------------------------------------------------------

    def queue(self, requires: Requires) -> Queue:
        """Return the queue for these requirements."""
        queue = self.queues.get(requires)
        if queue is None:
            if len(self.queues) >= self._queues_sweep:
                self._sweep()
            queue = self.queues[requires] = Queue(requires)
            for worker in self.workers.values():
                self._match(queue, worker)
        return queue

    def _sweep(self) -> None:
        """Forget the queues without jobs; look again when there are twice as many."""
        for requires in [requires for requires, queue in self.queues.items() if not queue]:
            queue = self.queues.pop(requires)
            assert queue.reserved is None
        self._queues_sweep = max(self._config.queues_max, 2 * len(self.queues))

    def add(self, entry: Entry, *, fresh: bool) -> Queue:
        """Let a job wait; `fresh` as for `Queue.add`."""
        queue = self.queue(entry.job.requires)
        if queue.first is None:
            for worker in queue.workers.values():
                worker.waiting[queue] = None
        queue.add(entry, fresh=fresh)
        return queue

    def take(self, entry: Entry, queue: Queue) -> Worker | None:
        """Take a job out of its queue; return the worker that is no longer held free for it."""
        released = None
        if entry is queue.first and queue.reserved is not None:
            released = queue.reserved
            self.unreserve(released)
        queue.remove(entry)
        if queue.first is None:
            for worker in queue.workers.values():
                del worker.waiting[queue]
        return released

    def queued(self) -> int:
        """Return how many jobs wait in queues."""
        return sum(len(queue) for queue in self.queues.values())

    # --- decisions --------------------------------------------------------------------------

    def next_for(self, worker: Worker, now: float) -> Queue | None:
        """Return the queue whose first job this worker, which is open, is to have now."""
        best = fitting = best_first = fitting_first = None
        # Leases wait beside a free slot only when the first of them needs more slots.
        free_slots = 0 if worker.prefetched else worker.free_slots
        for queue in worker.waiting:
            first = queue.first
            assert first is not None
            if best_first is None or precedes(first, best_first):
                best, best_first = queue, first
            if (
                queue.cpu <= free_slots
                and (fitting_first is None or precedes(first, fitting_first))
                and worker.has_memory_and_gpus(queue)
            ):
                fitting, fitting_first = queue, first
        if best is None or best is fitting:
            return best
        if free_slots <= 0:
            return best if self._may_prefetch(worker, best) else None
        return fitting if self._may_overtake(worker, best, fitting, now) else None

    def worker_for(self, queue: Queue, now: float) -> Worker | None:
        """Return the worker that is to have the first job of this queue now."""
        assert queue.first is not None
        job = queue.first.job
        if self._plain and not job.prefers:
            return self._roomiest(queue, now)
        weights = self._weights_for(job.prefers) if job.prefers else None
        # A class that was not measured yet is tried as if it were the fastest.
        ranks = self.estimates.ranks(job.program, self._config.prefetch_s)
        least = min(ranks.values()) if ranks is not None else 0
        best, best_merit = None, _NO_MERIT
        for worker in queue.workers.values():
            if not worker.open or (worker.free_slots < queue.cpu and not worker.turning):
                continue
            room = worker.free_slots - len(worker.prefetched)
            merit = (
                worker.fits(queue),
                0 if weights is None else self._weight(weights, job.prefers, worker),
                0 if ranks is None else -ranks.get(worker.class_name, least),
                room if self._spreads else -room,
                worker.speed,
            )
            if (best is None or merit > best_merit) and self.next_for(worker, now) is queue:
                best, best_merit = worker, merit
        return best

    def _roomiest(self, queue: Queue, now: float) -> Worker | None:
        """Return the worker with the most room: the usual case, where workers are alike."""
        best: Worker | None = None
        for worker in queue.workers.values():
            if not worker.open or (worker.free_slots < queue.cpu and not worker.turning):
                continue
            if best is not None and not _roomier(worker, best):
                continue
            if self.next_for(worker, now) is queue:
                best = worker
        return best

    def rivals(self, queue: Queue) -> list[Queue]:
        """Return the queues whose jobs some worker may have that fits this one, itself included."""
        return [
            other
            for other in self.queues.values()
            if other is queue or any(number in other.workers for number in queue.workers)
        ]

    def _may_overtake(self, worker: Worker, best: Queue, fitting: Queue | None, now: float) -> bool:
        """Whether a job that fits now may go before the first one, which does not."""
        assert best.first is not None
        if worker.reserved is None and best.reserved is None:
            waited_from = max(best.first.waiting_since_s, best.first.ready_at_s)
            if now >= waited_from + self._config.overtake_s:
                worker.reserved, best.reserved = best, worker
        if fitting is None or worker.reserved is None:
            return fitting is not None
        assert fitting.first is not None
        assert worker.reserved.first is not None
        return not precedes(worker.reserved.first, fitting.first)

    def _may_prefetch(self, worker: Worker, queue: Queue) -> bool:
        """Whether the first job of a queue may wait at a worker whose slots are all taken."""
        config = self._config
        if not worker.turning or len(worker.prefetched) >= config.prefetch_max:
            return False
        if worker.wide or worker.reserved is not None or queue.cpu > 1:
            return False
        assert queue.first is not None
        estimate_s = self.estimates.get(queue.first.job.program)
        if estimate_s is None or estimate_s >= config.prefetch_s:
            return False
        if worker.prefetched_s + estimate_s > config.prefetch_s * worker.turning:
            return False
        return worker.has_memory_and_gpus(queue)

    def lease(self, entry: Entry, worker: Worker, now: float) -> Attempt:
        """Give a job, just taken from its queue, to a worker."""
        estimate_s = self.estimates.get(entry.job.program)
        quick = estimate_s is not None and estimate_s < self._config.prefetch_s
        held = Attempt(worker.worker, now, estimate_s or 0.0, quick)
        worker.add(entry, held, now)
        if not held.slotted:
            self.note_ahead(worker)
        return held

    def note_ahead(self, worker: Worker) -> None:
        """Leases wait at this worker for a slot."""
        self.ahead[worker.worker] = worker

    # --- taking back ------------------------------------------------------------------------

    def overdue(self, worker: Worker, now: float) -> list[Entry]:
        """Return the leases to ask back because they have waited too long at this worker.

        What holds them up is slower than thought: expect so from now on.
        """
        config = self._config
        found: list[Entry] = []
        for entry in worker.prefetched.values():
            held = held_of(entry)
            if now < held.leased_at_s + config.prefetch_s:
                break
            if held.recalled or held.started_at_s is not None:
                continue
            late = now >= held.leased_at_s + config.recall_s
            if late or self._idler(entry, worker) is not None:
                found.append(entry)
        if found:
            for entry in worker.slotted.values():
                held = held_of(entry)
                elapsed_s = now - held.slotted_at_s
                if elapsed_s >= config.prefetch_s:
                    self.estimates.at_least(entry.job.program, elapsed_s)
                    worker.slow(held)
        return found

    def look_again_s(self, worker: Worker, now: float) -> float | None:
        """Return when `overdue` may next find something, or `None`: nothing waits there."""
        for entry in worker.prefetched.values():
            held = held_of(entry)
            if held.recalled or held.started_at_s is not None:
                continue
            soon_s = held.leased_at_s + self._config.prefetch_s
            return soon_s if soon_s > now else held.leased_at_s + self._config.recall_s
        return None

    def rebalance(self, idle: Worker, now: float) -> Iterator[list[Entry]]:
        """Yield the leases to ask back from others, because this worker has nothing to do."""
        for number in list(self.ahead):
            worker = self.ahead[number]
            if not worker.prefetched:
                del self.ahead[number]
            elif worker is not idle and worker.attached:
                yield self.overdue(worker, now)

    def _idler(self, entry: Entry, holder: Worker) -> Worker | None:
        """Return another worker that could run this job at once."""
        queue = self.queue(entry.job.requires)
        for worker in queue.workers.values():
            if worker is not holder and worker.open and worker.fits(queue):
                return worker
        return None

    def check(self) -> None:
        """Assert the invariants."""
        for requires, queue in self.queues.items():
            queue.check()
            assert queue.requires == requires
            fitting = [
                worker.worker
                for worker in self.workers.values()
                if worker.offer is not None and not match(requires, worker.offer)
            ]
            assert list(queue.workers) == fitting, "a queue knows the workers that fit, in order"
            for worker in queue.workers.values():
                assert (queue in worker.waiting) == (queue.first is not None)
            if queue.reserved is not None:
                assert queue.reserved.reserved is queue
                assert queue.first is not None
        assert len(self._weights) <= self._config.preferences_max
        for prefers, weights in self._weights.items():
            for number, weight in weights.items():
                offer = self.workers[number].offer
                assert offer is not None
                assert weight == weigh(prefers, offer), "weights are of the last offer"
        for worker in self.workers.values():
            worker.check()
            assert all(queue.first is not None for queue in worker.waiting)
            noted = worker.worker in self.ahead
            assert noted or not (worker.attached and worker.prefetched)
            if worker.reserved is not None:
                assert worker.reserved.reserved is worker
                assert worker.open


def _roomier(one: Worker, other: Worker) -> bool:
    """Whether a job is better off at `one`: more free slots, or fewer that wait for each slot."""
    if one.free_slots != other.free_slots:
        return one.free_slots > other.free_slots
    return len(one.prefetched) * other.slots < len(other.prefetched) * one.slots
