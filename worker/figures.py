"""The scheduler's state as values to read: of a job, of a worker, of everything."""

import msgspec

from worker.attempts import Entry
from worker.events import Snapshot, WorkerSnapshot
from worker.ledger import Ledger
from worker.roster import Worker


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of the moment; counters with `_total` since the node started."""

    queued: int
    """Jobs that wait, those in backoff included."""
    backing_off: int
    leased: int
    """Jobs held by workers, running ones not included."""
    running: int
    settling: int
    queues: int
    """Distinct `Requires` among waiting jobs, and some that were."""
    programs: int
    """Programs with a measured run time."""
    deadlines: int
    workers: int
    workers_attached: int
    slots: int
    """Of attached workers."""
    slots_free: int
    leases_total: int
    recalls_total: int
    requeues_total: int
    settles_total: int


def snapshot(entry: Entry) -> Snapshot:
    """Return a job as it is now."""
    held = entry.held
    return Snapshot(
        job=entry.job.job,
        state=entry.state,
        attempt=entry.attempt,
        fence=entry.fence,
        worker=held.worker if held is not None else 0,
        settling=entry.settling,
        started_at_s=held.started_at_s if held is not None else None,
        lost_on=entry.lost_on,
    )


def worker_snapshot(worker: Worker) -> WorkerSnapshot:
    """Return a worker as it is now."""
    return WorkerSnapshot(
        worker=worker.worker,
        attached=worker.attached,
        cordoned=worker.cordoned,
        draining=worker.draining,
        silent=worker.silent,
        slots=worker.slots,
        free_slots=worker.free_slots,
        leased=len(worker),
        running=worker.running,
        prefetched=len(worker.prefetched),
        since_s=worker.since_s,
    )


def statistics(ledger: Ledger) -> Statistics:
    """Return counts of everything."""
    workers = list(ledger.workers.values())
    attached = [worker for worker in workers if worker.attached]
    held = sum(len(worker) for worker in workers)
    running = sum(worker.running for worker in workers)
    return Statistics(
        queued=len(ledger.jobs) - ledger.settling - held,
        backing_off=ledger.backing_off,
        leased=held - running,
        running=running,
        settling=ledger.settling,
        queues=len(ledger.placement.queues),
        programs=len(ledger.placement.estimates),
        deadlines=len(ledger.deadlines),
        workers=len(workers),
        workers_attached=len(attached),
        slots=sum(worker.slots for worker in attached),
        slots_free=sum(worker.free_slots for worker in attached),
        leases_total=ledger.leases_total,
        recalls_total=ledger.recalls_total,
        requeues_total=ledger.requeues_total,
        settles_total=ledger.settles_total,
    )


def sentence(now: Statistics) -> str:
    """Return counts as a sentence."""
    return (
        f"{now.queued} jobs queued, {now.leased} leased, {now.running} running, "
        f"{now.settling} settling; {now.workers_attached} of {now.workers} workers attached, "
        f"{now.slots_free} of {now.slots} slots free"
    )
