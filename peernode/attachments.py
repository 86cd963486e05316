"""Attached workers: serving their links, from Hello to the end.

What a worker says about attempts goes to the scheduler (`dispatch`); output and progress go to the
job's readers; calls of function code are answered by `Effects`, each in a task of its own.
"""

from collections.abc import Mapping, Sequence
from typing import Final, assert_never

import msgspec
import trio

from peernode.dispatch import Dispatch
from peernode.effects import Effects
from peernode.live_jobs import LiveJobs
from peernode.problems import Problem
from peernode.worker_links import Receive, Send, WorkerLink
from storage import codec, ids
from storage.clock import Clock
from storage.errors import StoreError
from storage.store import Batch, Store, Table
from worker import events, protocol
from worker.link import LinkBroken

LOG_SIZE_MAX_BYTES: Final = 1 << 20
"""Log text kept of one job. Source: a page a person can still open."""
HELLO_TIMEOUT_S: Final = 10.0
"""How long a worker may take to say Hello. Source: guess."""
CALLS_ACTIVE_MAX: Final = 256
"""Calls of function code at work at once on one link. Source: guess."""


class Attachments:
    """Serves the links of all workers."""

    def __init__(
        self,
        dispatch: Dispatch,
        jobs: LiveJobs,
        store: Store,
        clock: Clock,
        effects: Effects,
        beat_interval_s: float,
    ) -> None:
        self._dispatch = dispatch
        self._jobs = jobs
        self._store = store
        self._clock = clock
        self._effects = effects
        self._beat_interval_s = beat_interval_s
        self._offers: dict[int, protocol.Offer] = {}

    def offer(self, worker: int) -> protocol.Offer | None:
        """Return what `worker` last said of its machine."""
        return self._offers.get(worker)

    async def serve(
        self,
        worker: int,
        receive: Receive,
        send: Send,
        labels: Mapping[str, str],
        *,
        hold: events.Cordon | events.Drain | None = None,
    ) -> str:
        """Serve the link of `worker` until it ends; return why it did.

        `labels` are what the operator says of it; they win over its own.  `hold` is what keeps
        jobs from it.  Raises `LinkBroken`, and `TooSlowError` if it does not say Hello.
        """
        link = WorkerLink(worker, receive, send)
        with trio.fail_after(HELLO_TIMEOUT_S):
            hello, rest = await link.receive_hello()
        if hello.version != protocol.VERSION:
            return f"protocol version {hello.version} is not {protocol.VERSION}"
        dispatch = self._dispatch
        if (old := dispatch.links.get(worker)) is not None:
            old.close("another link of this worker took over")
        dispatch.links[worker] = link
        link.post(protocol.Welcome(protocol.VERSION, worker, self._beat_interval_s))
        offer = msgspec.structs.replace(hello.offer, labels={**hello.offer.labels, **labels})
        self._offers[worker] = link.offer = offer
        if hold is not None:
            dispatch.handle(hold)
        dispatch.handle(events.Attach(worker, offer, tuple(hello.held)))
        dispatch.flush()
        broken: LinkBroken | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_end_when_closed, link, nursery.cancel_scope)
                nursery.start_soon(link.pump)
                try:
                    await self._read(link, rest, nursery)
                except LinkBroken as error:
                    broken = error  # Raised below, where no nursery wraps it into a group.
                nursery.cancel_scope.cancel()
        finally:
            if dispatch.links.get(worker) is link:
                del dispatch.links[worker]
                dispatch.handle(events.Detach(worker))
                dispatch.flush()
        if broken is not None:
            raise broken
        return link.reason

    def remove(self, worker: int) -> None:
        """Take note that `worker` is gone for good."""
        if (link := self._dispatch.links.pop(worker, None)) is not None:
            link.close("removed")
        self._offers.pop(worker, None)
        self._dispatch.handle(events.Remove(worker))
        self._dispatch.flush()

    def close(self, worker: int, reason: str) -> None:
        """Close the link of `worker`, which may attach again at once."""
        if (link := self._dispatch.links.get(worker)) is not None:
            link.close(reason)

    def evict(self, worker: int) -> None:
        """Have all that `worker` holds go elsewhere, at nobody's fault, and forget it for good."""
        self._dispatch.handle(events.Drain(worker, 0.0))
        self.remove(worker)

    def hold(self, event: events.Cordon | events.Drain | events.Uncordon) -> None:
        """Lease nothing more to a worker, or lease to it again."""
        self._dispatch.handle(event)
        self._dispatch.flush()

    async def _read(
        self, link: WorkerLink, first: Sequence[protocol.FromWorker], nursery: trio.Nursery
    ) -> None:
        limit = trio.CapacityLimiter(CALLS_ACTIVE_MAX)
        batch: Sequence[protocol.FromWorker] | None = first
        while batch is not None:
            self._dispatch.handle(events.Beat(link.worker))
            for message in batch:
                if isinstance(message, protocol.Call):
                    nursery.start_soon(self._call, link, message, limit)
                else:
                    self._take(link.worker, message)
            self._dispatch.flush()
            batch = await link.receive()

    def _take(self, worker: int, message: protocol.FromWorker) -> None:
        match message:
            case protocol.Finished():
                self._dispatch.finished(worker, message)
            case protocol.Started(job, fence, elapsed_s):
                self._dispatch.handle(events.Start(worker, job, fence, elapsed_s))
            case protocol.Progress(job, fence, fraction, text):
                self._dispatch.handle(events.Heartbeat(worker, job, fence))
                if (live := self._dispatch.current(job, fence)) is not None:
                    live.report(fraction, text)
            case protocol.Log():
                self._log(message)
            case protocol.Returned(job, fence):
                self._dispatch.handle(events.Return(worker, job, fence))
            case protocol.Beat() | protocol.Hello() | protocol.Call():
                pass
            case _:
                assert_never(message)

    def _log(self, message: protocol.Log) -> None:
        live = self._dispatch.current(message.job, message.fence)
        if live is None or live.log_bytes >= LOG_SIZE_MAX_BYTES:
            return
        lines = [list(line) for line in message.lines]
        live.log_bytes += sum(len(text.encode()) + 1 for _, _, text in message.lines)
        if live.log_bytes >= LOG_SIZE_MAX_BYTES:
            lines.append([self._clock.wall_ms(), "log", "(the rest of the log was dropped)"])
        key = ids.key(live.job) + live.log_sequence.to_bytes(8, "big")
        live.log_sequence += 1
        self._store.submit(Batch([(Table.LOGS, key, codec.dump_row(lines))]))

    async def _call(
        self, link: WorkerLink, call: protocol.Call, limit: trio.CapacityLimiter
    ) -> None:
        async with limit:
            current = self._dispatch.current(call.job, call.fence)
            request = self._jobs.request(call.job) if current is not None else None
            if request is None:
                link.post(protocol.Refused(call.job, call.fence))
                return
            try:
                answer = await self._effects.call(call.job, request, call)
            except Problem as problem:
                link.post(protocol.Reply(call.call, problem.code, problem.detail))
            except StoreError as error:
                link.post(protocol.Reply(call.call, "storage_full", str(error)))
            else:
                link.post(protocol.Reply(call.call, "", answer))


async def _end_when_closed(link: WorkerLink, scope: trio.CancelScope) -> None:
    await link.closed.wait()
    scope.cancel()
