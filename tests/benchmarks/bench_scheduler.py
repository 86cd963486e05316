"""What the scheduler costs: processor time for a whole job, and memory for one that waits.

    python tests/benchmarks/bench_scheduler.py [QUEUED ...]

For each number of waiting jobs (1,000, 10,000 and 100,000 unless said otherwise), one JSON line.
A whole job is Submit, Lease, Finish, Settle, Settled, with the values that carry them; the queue
stays as long as it is.  With 100 shapes, the jobs have 100 distinct requirements.
"""

import gc
import json
import sys
import time
import tracemalloc

from worker.config import Config
from worker.events import (
    Attach,
    Effect,
    Finish,
    Job,
    Lease,
    Requires,
    Retry,
    Settled,
    Submit,
    Timeouts,
)
from worker.protocol import Offer
from worker.scheduler import Scheduler

WORKERS = 4
BATCHES = 5
"""The best of them counts: the others were disturbed by something else."""
SLOTS = 8
RETRY = Retry()
TIMEOUTS = Timeouts()
OFFER = Offer(
    slots=SLOTS,
    cores=SLOTS,
    memory_bytes=1 << 34,
    arch="x86_64",
    runtimes=["python"],
    isolation=["process", "sandbox"],
)


def job_of(number: int, requires: list[Requires]) -> Job:
    """Return a job with defaults, of one of these shapes."""
    return Job(
        job=(1 << 40) + number,
        program="77.1",
        requires=requires[number % len(requires)],
        retry=RETRY,
        timeouts=TIMEOUTS,
    )


def shapes(count: int) -> list[Requires]:
    """Return this many different requirements that the workers meet."""
    return [Requires(memory_bytes=number << 20) for number in range(count)]


def filled(queued: int, workers: int, requires: list[Requires]) -> tuple[Scheduler, list[Effect]]:
    """Return a scheduler with so many waiting jobs, and the leases it made on the way."""
    scheduler = Scheduler(Config(), boot=1)
    effects: list[Effect] = []
    for number in range(workers):
        effects += scheduler.handle(Attach(number + 1, OFFER), 0.0)
    for number in range(queued):
        effects += scheduler.handle(Submit(job_of(number, requires)), number * 1e-4)
    return scheduler, effects


def whole_jobs_us(queued: int, jobs: int, requires: list[Requires]) -> float:
    """Return microseconds of processor time for a job while `queued` wait: the best batch."""
    scheduler, effects = filled(queued, WORKERS, requires)
    # A list that grows while it is read: a first-in first-out queue without cost.
    pending = [effect for effect in effects if isinstance(effect, Lease)]
    leases = iter(pending)
    gc.collect()
    best_s = float("inf")
    for batch in range(BATCHES):
        began = time.process_time()
        for number in range(queued + batch * jobs, queued + (batch + 1) * jobs):
            now = number * 1e-4
            for effect in scheduler.handle(Submit(job_of(number, requires)), now):
                if isinstance(effect, Lease):
                    pending.append(effect)  # noqa: PERF401  (a generator is not what we measure)
            lease = next(leases)
            finish = Finish(lease.worker, lease.job, lease.fence, None, 0.001)
            for effect in scheduler.handle(finish, now):
                if isinstance(effect, Lease):
                    pending.append(effect)  # noqa: PERF401
            scheduler.handle(Settled(lease.job), now)
        best_s = min(best_s, time.process_time() - began)
    scheduler.check()
    return best_s / jobs * 1e6


def queued_bytes(queued: int) -> float:
    """Return bytes of memory for a waiting job, its `Job` included."""
    requires = shapes(1)
    filled(10, 0, requires)
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    scheduler, _ = filled(queued, 0, requires)
    gc.collect()
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    scheduler.check()
    return taken / queued


def main(queues: list[int]) -> None:
    """Measure and print."""
    for queued in queues:
        figures = {
            "benchmark": "scheduler",
            "queued": queued,
            "whole_job_us": round(whole_jobs_us(queued, 5_000, shapes(1)), 2),
            "whole_job_100_shapes_us": round(whole_jobs_us(queued, 2_000, shapes(100)), 2),
            "queued_job_bytes": round(queued_bytes(queued)),
            "workers": WORKERS,
            "slots": SLOTS,
        }
        print(json.dumps(figures))


if __name__ == "__main__":
    main([int(argument) for argument in sys.argv[1:]] or [1_000, 10_000, 100_000])
