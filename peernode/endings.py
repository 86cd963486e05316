"""How jobs end: outcomes, on their way to the disk.

An outcome is written once, in the batch that applies the job's buffered writes and deletes its
lease; until that batch is durable nobody sees it.  Outcomes that become known together are written
together.  A full disk loses nothing: the outcome is offered again until it fits.  A job that ends
before its request is durable ends on the condition that it becomes so.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import trio

from peernode import job_rows
from peernode.effects import Effects
from peernode.job_rows import Change, Outcome
from peernode.live_jobs import LiveJob, LiveJobs
from peernode.problems import Problem
from peernode.transactions import Transaction
from storage import ids
from storage.errors import StoreError
from storage.store import Batch, Conflict, Delete, Expect, Put, Result, Store, Table
from worker import events, protocol

RESULT_SIZE_MAX_BYTES: Final = 1 << 20
"""Largest inline result. Source: API contract; workers turn larger ones into blobs."""
STORE_RETRY_S: Final = 1.0
"""Pause before an outcome is offered again to a full disk. Source: guess."""
_NO_USAGE: Final = protocol.Usage(0, 0.0, 0.0, 0)


@dataclass(slots=True)
class Ending:
    """An outcome on its way to the disk."""

    live: LiveJob
    worker: int
    fence: int
    outcome: Outcome
    writes: Transaction | None = None
    wanted: Sequence[protocol.Write] = ()
    """What `writes` was prepared from, to prepare it again."""


def ending(
    effect: events.Settle,
    live: LiveJob,
    now_ms: int,
    finished: protocol.Finished | None,
    writes: Transaction | None,
    best_backend: str = "",
) -> Ending:
    """Return how a job ends: as `finished` says if that is what ended it, else as `effect` does.

    `best_backend` is the first that the worker offers, which another one may have stood in for.
    """
    own = finished if finished is not None and finished.job == effect.job else None
    usage = own.usage if own is not None else _NO_USAGE
    if own is not None and effect.state in ("succeeded", "failed"):
        code, payload = str(own.error_code or ""), own.payload
        traceback, backend = own.traceback, own.backend
    else:
        code, payload = effect.code, (live.cause or effect.detail).encode()
        traceback = backend = ""
    started_ms = _started_ms(live, usage.started_ms, now_ms)
    if started_ms and live.history()[-1].state != "running":
        live.note("running", started_ms, effect.attempt, effect.worker)
    last = Change(live.sequence + 1, effect.state, now_ms, effect.attempt, effect.worker, code)
    outcome = Outcome(
        effect.state,
        effect.attempt,
        effect.fence,
        effect.worker,
        code,
        payload,
        traceback,
        started_ms,
        now_ms,
        usage.wall_s,
        usage.cpu_s,
        usage.rss_max_bytes,
        backend,
        live.isolation,
        None if live.progress is None else list(live.progress),
        [list(change) for change in (*live.history(), last)],
        best_backend if backend not in ("", best_backend) else "",
    )
    made = Ending(live, effect.worker, effect.fence, outcome)
    if own is not None and writes is not None and effect.state == "succeeded":
        made.writes, made.wanted = writes, own.writes
    return made


def _started_ms(live: LiveJob, said_ms: int, now_ms: int) -> int:
    """Return when the last attempt started: as its worker says if that can be, or as was seen."""
    if said_ms:
        return min(max(said_ms, live.leased_ms), now_ms)
    last = live.history()[-1]
    return last.at_ms if last.state == "running" else 0


class Endings:
    """Outcomes that are decided and not durable yet."""

    def __init__(
        self,
        store: Store,
        jobs: LiveJobs,
        effects: Effects,
        durable: Callable[[list[Ending]], None],
        withdrawn: Callable[[Ending], None],
        spawn: Callable[..., None],
    ) -> None:
        self._store = store
        self._jobs = jobs
        self._effects = effects
        self._durable = durable
        self._withdrawn = withdrawn
        self._spawn = spawn
        self._waiting: list[Ending] = []
        self.is_held = False
        """Nothing new is written now: what was added waits."""

    def add(self, made: Ending) -> None:
        """Have an outcome written with the next `flush`."""
        self._waiting.append(made)

    def drop(self, job: int) -> None:
        """Have an outcome that was not written yet never written."""
        self._waiting = [made for made in self._waiting if made.live.job != job]

    def flush(self) -> None:
        """Write what was added: together, but for those that bring writes of their own."""
        if not self._waiting or self.is_held:
            return
        waiting, self._waiting = self._waiting, []
        together = [made for made in waiting if made.writes is None]
        if together:
            self._write(together)
        for made in waiting:
            if made.writes is not None:
                self._write([made])

    def _write(self, endings: list[Ending]) -> None:
        puts: list[Put] = []
        deletes: list[Delete] = []
        expects: list[Expect] = []
        for made in endings:
            key = ids.key(made.live.job)
            puts.append((Table.OUTCOMES, key, job_rows.encode(made.outcome)))
            deletes.append((Table.LIVE, key))
            if made.live.row:
                expects.append((Table.JOBS, key, made.live.row))
        writes = endings[0].writes
        if writes is None:
            batch = Batch(puts, deletes, expects=expects)
        else:
            for expect in expects:
                writes.expect(*expect)
            batch = writes.batch(puts, deletes)
        self._store.submit(batch, lambda result: self._written(endings, result))

    def _written(self, endings: list[Ending], result: Result) -> None:
        """Runs in the loop, between tasks: it must not raise and cannot wait."""
        if isinstance(result, Conflict) and result.table is Table.JOBS:
            self._leave_out(endings, result.key)
        elif isinstance(result, Conflict):
            self._rewrite(endings[0])
        elif isinstance(result, StoreError):
            self._spawn(self._write_later, endings)
        else:
            self._durable(endings)

    def _leave_out(self, endings: list[Ending], key: bytes) -> None:
        """The request of one of them did not fit the disk: that job never was."""
        rest: list[Ending] = []
        for made in endings:
            if ids.key(made.live.job) == key:
                self._withdrawn(made)
            else:
                rest.append(made)
        if rest:
            self._write(rest)

    def _rewrite(self, made: Ending) -> None:
        """Something the job's writes were based on has changed: base them on what is there."""
        request = self._jobs.request(made.live.job)
        if request is None:
            self._withdrawn(made)
            return
        try:
            made.writes = self._effects.prepare(made.live.job, request, made.wanted)
        except Problem as problem:
            made.writes = None
            *before, last = made.outcome.history
            refused = Change._make(last)._replace(state="failed", cause="write_refused")
            made.outcome = made.outcome._replace(
                state="failed",
                code="write_refused",
                payload=problem.detail.encode(),
                history=[*before, list(refused)],
            )
        self._write([made])

    async def _write_later(self, endings: list[Ending]) -> None:
        await trio.sleep(STORE_RETRY_S)
        if endings[0].writes is None:
            self._write(endings)
        else:  # Meanwhile others may have written where these would.
            self._rewrite(endings[0])


def checked(message: protocol.Finished) -> protocol.Finished:
    """Return `message`, or the same as an error if its result is not what one may be."""
    size = len(message.payload)
    if size > RESULT_SIZE_MAX_BYTES:
        why = f"an inline result of {size} bytes; at most {RESULT_SIZE_MAX_BYTES} are taken"
        return msgspec.structs.replace(
            message, error_code="result_invalid", payload=why.encode(), writes=[]
        )
    try:
        message.payload.decode()
        msgspec.json.decode(message.payload, type=msgspec.Raw)
    except (UnicodeDecodeError, msgspec.DecodeError) as error:
        return msgspec.structs.replace(
            message, error_code="result_invalid", payload=str(error).encode(), writes=[]
        )
    return message


def refused_writes(message: protocol.Finished, problem: Problem) -> protocol.Finished:
    """Return `message` as an error: its writes cannot be applied."""
    return msgspec.structs.replace(
        message, error_code="write_refused", payload=problem.detail.encode(), writes=[]
    )
