"""Why a job waits: every reason, in words a person can act on.

Codes of `Reason`, those without a worker first: `backoff`, `behind`, `no_worker`; for each worker
what it lacks (`runtime`, `isolation`, `arch`, `cpu`, `memory`, `gpu`, `gpu_memory`, `label`), what
keeps it from taking any job (`disconnected`, `silent`, `cordoned`, `draining`, `returning`), and
what is in use (`slots_taken`, `memory_taken`, `gpus_taken`, `reserved`).  A job that waits has at
least one: if a worker had none of its own, the job would have been leased to it.
"""

from msgspec.structs import replace

from worker.attempts import Entry
from worker.capabilities import match
from worker.events import Reason, Requires
from worker.placement import Placement
from worker.queue import Queue
from worker.roster import Worker


def reasons(entry: Entry, placement: Placement, now: float) -> list[Reason]:
    """Return why this queued job waits, at `now` (seconds)."""
    requires = entry.job.requires
    queue = placement.queues.get(requires)
    found: list[Reason] = []
    if entry.place is None:
        wait_s = max(0.0, entry.ready_at_s - now)
        detail = f"attempt {entry.attempt + 1} starts in {wait_s:.1f} s at the earliest"
        found.append(Reason(code="backoff", detail=detail))
    ahead = _ahead(entry, queue, placement)
    if ahead:
        detail = f"behind {ahead} {'job' if ahead == 1 else 'jobs'} of equal or higher priority"
        found.append(Reason(code="behind", detail=detail))
    if not any(worker.attached for worker in placement.workers.values()):
        found.append(Reason(code="no_worker", detail="no worker is attached"))
    for worker in placement.workers.values():
        own = _reasons_of(worker, requires, queue)
        found.extend(replace(reason, worker=worker.worker) for reason in own)
    return found


def _ahead(entry: Entry, queue: Queue | None, placement: Placement) -> int:
    """Count the jobs served before this one by any worker that fits it."""
    if queue is None:
        return 0
    return sum(other.ahead(entry) for other in placement.rivals(queue))


def _reasons_of(worker: Worker, requires: Requires, queue: Queue | None) -> list[Reason]:
    found: list[Reason] = []

    def add(code: str, detail: str) -> None:
        found.append(Reason(code=code, detail=detail))

    if worker.offer is not None:
        found.extend(match(requires, worker.offer))
    lacks = bool(found)
    if not worker.attached:
        add("disconnected", "is not connected")
    if worker.silent:
        add("silent", "has not been heard of for too long")
    if worker.draining:
        add("draining", "is draining: it gets no new jobs")
    elif worker.cordoned:
        add("cordoned", "is cordoned: it gets no new jobs")
    if worker.paused:
        add("returning", "gave a job back and has not called for more")
    if lacks or queue is None or worker.offer is None:
        return found
    free_slots = 0 if worker.prefetched else worker.free_slots
    if requires.cpu > free_slots:
        taken = worker.slots - free_slots
        add("slots_taken", f"{taken} of {worker.slots} slots are taken, needs {requires.cpu}")
    if requires.memory_bytes > worker.free_memory_bytes:
        free = max(0, worker.free_memory_bytes)
        add("memory_taken", f"{free} bytes of memory are free, needs {requires.memory_bytes}")
    elif not worker.has_memory_and_gpus(queue):
        add("gpus_taken", f"{len(worker.free_gpus)} GPUs are free, needs {queue.gpu}")
    if worker.reserved is not None and worker.reserved is not queue:
        add("reserved", "is held free for a job that needs more and has waited longer")
    return found
