"""The worker itself: keeps a link to its node, takes leases, runs them, reports.

One `Agent` lives as long as the worker; links come and go under it.  While the link is down jobs
run on, and what they end with is kept: every `Finished` is sent again on each new link until the
node says `Acked`.  `Hello` names all attempts held, and the node says which of them are stale.
Everything ready when the link is free goes out as one batch.

What it leaves out: which job comes when (`worker.Scheduler`, at the node) and what runs where on
this machine (`worker.supervision`; a simulation brings its own).

As a program (`python -m worker.agent`) it is described in `worker.program`.
"""

import random
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, assert_never

import trio

from storage.clock import Clock
from worker import frames
from worker.blob_cache import SIZE_MAX_BYTES, BlobCache
from worker.capabilities import levels
from worker.child import Attempt, LoadedProgram, make_attempt
from worker.egress import Egress
from worker.egress_addresses import Network
from worker.gateway import Calls, Gateway
from worker.interpreter import Interpreter
from worker.link import Link, LinkBroken, LinkClosed, LinkError, LinkRefused
from worker.outbox import Outbox
from worker.output import Line
from worker.preparing import Preparing
from worker.protocol import (
    VERSION,
    Acked,
    Beat,
    Call,
    Drain,
    Finished,
    Held,
    Hello,
    Kill,
    Lease,
    Log,
    Message,
    Offer,
    Program,
    Progress,
    Recall,
    Refused,
    Reply,
    Returned,
    Started,
    ToWorker,
    Usage,
    Welcome,
)
from worker.reports import Outcome
from worker.scratch import open_scratch
from worker.supervision import Open, Supervision
from worker.supervisor import Config as SupervisorConfig, open_supervisor
from worker.wasm import COMPILE_TIME_MAX_S

BACKOFF_MIN_S: Final = 0.1
"""First wait before another try to connect. Source: guess."""
BACKOFF_MAX_S: Final = 10.0
"""Longest such wait. Source: guess, a third of the reconnect window."""
WELCOME_TIMEOUT_S: Final = 10.0
"""Longest wait for the node's first message. Source: guess."""
PROGRAMS_SIZE_MAX_BYTES: Final = 256 * 1024 * 1024
"""Most source kept for one link; over it the link is renewed, which begins anew. Source: guess."""

LinkFactory = Callable[[], Awaitable[Link]]
"""Connects, or raises a `LinkError`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """How an agent works."""

    directory: Path
    """For scratch directories, the cache and measurements; one agent's own. May be relative."""
    adopts_orphans: bool = False
    """This process is a worker and nothing else: see `supervisor.Config`."""
    reconnects: bool = True
    """Connect again for ever; otherwise return when the first link is over."""
    cache_size_max_bytes: int = SIZE_MAX_BYTES
    child_idle_max_s: float = 60.0
    egress_networks: tuple[Network, ...] = ()
    """Networks that `edge.http` may reach beside public addresses."""
    compile_time_max_s: int = COMPILE_TIME_MAX_S
    interpreter: Path | None = None
    """Where Python for level `wasm` lies, or will when it is built; `None`: not here."""


class Agent:
    """See the module. Make it with `run_agent`."""

    def __init__(
        self,
        offer: Offer,
        config: Config,
        *,
        clock: Clock,
        rng: random.Random,
        supervise: Open = open_supervisor,
    ) -> None:
        self._offer, self._config, self._supervise = offer, config, supervise
        self._clock = clock
        self._rng = rng
        self._programs: dict[str, LoadedProgram] = {}
        self._programs_bytes = 0
        self._attempts: dict[int, Attempt] = {}
        """By job: what waits or runs."""
        self._finished: dict[tuple[int, int], Finished] = {}
        """By job and fence: what the node has not acknowledged."""
        self._outbox = Outbox()
        self.online = False
        self._calls = Calls(self._send_call)
        self._egress = Egress(config.egress_networks)
        self._cache = BlobCache(config.directory.absolute() / "blobs", config.cache_size_max_bytes)
        self._gateway = Gateway(self._calls, self._cache, self._egress)
        self._supervisor: Supervision | None = None
        self._nursery: trio.Nursery | None = None
        self._preparing = Preparing(
            config.directory.absolute() / "compiled",
            self._cache,
            self._calls.ask,
            self._submit,
            self._refuse,
            config.compile_time_max_s,
        )
        self._interpreter = Interpreter(config.interpreter)

    async def run(self, link_factory: LinkFactory) -> None:
        """Work until cancelled, or until the node refuses this worker (`LinkRefused`)."""
        with open_scratch(self._config.directory.absolute()) as scratch:
            config = SupervisorConfig(
                slots=self._offer.slots,
                scratch=scratch,
                levels=tuple(self._offer.isolation),
                backends=tuple(self._offer.backends),
                adopts_orphans=self._config.adopts_orphans,
                child_idle_max_s=self._config.child_idle_max_s,
            )
            refusal: LinkRefused | None = None
            async with self._supervise(config, self, self._clock) as supervisor:
                self._supervisor = supervisor
                self._preparing.open(scratch, supervisor.packages)
                try:
                    async with trio.open_nursery() as self._nursery:
                        if self._config.reconnects:
                            self._nursery.start_soon(self._interpreter.build, supervisor.knowing)
                        try:
                            await self._stay_connected(link_factory)
                        except LinkRefused as error:
                            refusal = error
                        self._nursery.cancel_scope.cancel()
                finally:
                    with trio.CancelScope(shield=True):
                        await self._egress.aclose()
            if refusal is not None:
                raise refusal

    # --- links --------------------------------------------------------------------------------

    async def _stay_connected(self, link_factory: LinkFactory) -> None:
        backoff_s = BACKOFF_MIN_S
        while True:
            try:
                link = await link_factory()
                try:
                    beat_interval_s = await self._greet(link)
                    backoff_s = BACKOFF_MIN_S
                    await self._converse(link, beat_interval_s)
                finally:
                    self._disconnected()
                    with trio.CancelScope(shield=True):
                        await link.aclose()
            except LinkRefused:
                raise
            except LinkError:
                if not self._config.reconnects:
                    return
            # Spread, so that the workers of a node that was restarted do not come all at once.
            await trio.sleep(backoff_s * self._rng.uniform(0.5, 1.5))
            backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)

    async def _greet(self, link: Link) -> float:
        """Say `Hello` and await `Welcome`; return the interval of beats in seconds."""
        held = [Held(job, attempt.lease.fence) for job, attempt in self._attempts.items()]
        held += [Held(job, fence) for job, fence in self._finished]
        self._offer = self._interpreter.offered(self._offer)
        await link.send([Hello(VERSION, self._offer, held)])
        with trio.move_on_after(WELCOME_TIMEOUT_S):
            first, *rest = await link.receive()
            if not isinstance(first, Welcome):
                raise LinkBroken(f"a {type(first).__name__} before Welcome")
            if first.version != VERSION:
                raise LinkRefused(f"the node speaks version {first.version}, this is {VERSION}")
            self._connected()
            self._take(rest)
            return first.beat_interval_s
        raise LinkClosed("no welcome in time")

    def _connected(self) -> None:
        self._programs.clear()
        self._programs_bytes = 0
        self._outbox.renew(list(self._finished.values()), self._calls.unanswered())
        self.online = True

    def _disconnected(self) -> None:
        self.online = False
        self._calls.lost()

    async def _converse(self, link: Link, beat_interval_s: float) -> None:
        """Exchange messages until the link is over."""
        over: list[LinkError] = []
        async with trio.open_nursery() as nursery:

            async def until_over(work: Callable[[], Awaitable[None]]) -> None:
                try:
                    await work()
                except LinkError as error:
                    over.append(error)
                    nursery.cancel_scope.cancel()

            async def receive() -> None:
                while True:
                    self._take(await link.receive())

            async def beat() -> None:
                while True:
                    await trio.sleep(beat_interval_s)
                    self._say(Beat())

            nursery.start_soon(until_over, receive)
            nursery.start_soon(until_over, lambda: self._send(link))
            nursery.start_soon(until_over, lambda: self._interpreter.news(self._offer))
            nursery.start_soon(beat)
        raise over[0]

    async def _send(self, link: Link) -> None:
        while True:
            await link.send(await self._outbox.batch())

    def _say(self, message: Message) -> None:
        self._outbox.say(message)

    # --- what the node says ---------------------------------------------------------------------

    def _take(self, messages: list[Message]) -> None:
        for message in messages:
            self._take_one(message)  # type: ignore[arg-type]
        self._working.pump()

    def _take_one(self, message: ToWorker) -> None:
        match message:
            case Lease():
                self._lease(message)
            case Program():
                self._load(message)
            case Acked():
                for held in message.attempts:
                    self._finished.pop((held.job, held.fence), None)
            case Kill() | Refused():
                self._stop(message.job, message.fence)
            case Recall():
                attempt = self._find(message.job, message.fence)
                if attempt is not None and (
                    self._preparing.take_back(attempt) or self._working.take_back(attempt)
                ):
                    self._give_back(attempt)
            case Drain():
                for attempt in [*self._working.drain(), *self._preparing.drain()]:
                    self._give_back(attempt)
            case Reply():
                self._calls.take(message)
            case Welcome():
                raise LinkBroken("a second Welcome")
            case _:
                assert_never(message)

    @property
    def _working(self) -> Supervision:
        assert self._supervisor is not None
        return self._supervisor

    def _load(self, program: Program) -> None:
        self._programs[program.program] = LoadedProgram(program)
        self._programs_bytes += len(program.source)
        if self._programs_bytes > PROGRAMS_SIZE_MAX_BYTES:
            raise LinkClosed("too many programs on one link")

    def _lease(self, lease: Lease) -> None:
        known = self._attempts.get(lease.job)
        if known is not None:
            if known.lease.fence >= lease.fence:
                return
            self._stop(lease.job, known.lease.fence)  # the node gave up on that one
        program = self._programs.get(lease.program)
        if program is None:
            raise LinkBroken(f"a lease before its program {lease.program}")
        attempt = make_attempt(lease, program)
        self._attempts[lease.job] = attempt
        runtime = program.program.runtime
        if runtime not in self._offer.runtimes:
            self._refuse(attempt, f"this worker has no runtime {runtime!r}")
        elif lease.isolation not in levels(self._offer, runtime):
            self._refuse(attempt, f"this worker cannot isolate {runtime!r} as {lease.isolation!r}")
        else:
            if attempt.runtime == "wasm-python":
                attempt.artifact = self._interpreter.path
            assert self._nursery is not None
            if not self._preparing.take(attempt, self._nursery, self._working.knowing):
                self._working.submit(attempt)

    def _submit(self, attempt: Attempt) -> None:
        """Run an attempt whose program has been made ready."""
        self._working.submit(attempt)
        self._working.pump()

    def _refuse(self, attempt: Attempt, why: str) -> None:
        usage = Usage(self._clock.wall_ms(), 0.0, 0.0, 0)
        self.finished(attempt, Outcome("setup_failed", why.encode(), usage))

    def _stop(self, job: int, fence: int) -> None:
        """End an attempt and say nothing more of it."""
        self._finished.pop((job, fence), None)
        attempt = self._find(job, fence)
        if attempt is not None:
            del self._attempts[job]
            if not self._preparing.take_back(attempt):
                self._working.kill(attempt)
            self._gateway.release(attempt)

    def _find(self, job: int, fence: int) -> Attempt | None:
        attempt = self._attempts.get(job)
        return attempt if attempt is not None and attempt.lease.fence == fence else None

    def _give_back(self, attempt: Attempt) -> None:
        del self._attempts[attempt.lease.job]
        self._say(Returned(attempt.lease.job, attempt.lease.fence))

    # --- what the supervisor says ---------------------------------------------------------------

    def started(self, attempt: Attempt, elapsed_s: float) -> None:
        """Report that an attempt runs."""
        self._say(Started(attempt.lease.job, attempt.lease.fence, elapsed_s))

    def progressed(self, attempt: Attempt, fraction: float | None, message: str) -> None:
        """Report progress."""
        self._say(Progress(attempt.lease.job, attempt.lease.fence, fraction, message))

    def printed(self, attempt: Attempt, lines: list[Line]) -> None:
        """Report output."""
        self._say(Log(attempt.lease.job, attempt.lease.fence, lines))

    def finished(self, attempt: Attempt, outcome: Outcome) -> None:
        """Report an outcome, and keep it."""
        message = outcome.message(attempt.lease)
        if self._attempts.get(message.job) is attempt:
            del self._attempts[message.job]
        self._gateway.release(attempt)
        self._finished[message.job, message.fence] = message
        self._say(message)

    async def answer(self, attempt: Attempt, request: frames.Request) -> frames.Reply:
        """Answer a request of a child."""
        return await self._gateway.answer(attempt, request)

    def _send_call(self, call: Call) -> None:
        if self.online:  # otherwise it is among the unanswered of the next link
            self._say(call)


async def run_agent(
    link_factory: LinkFactory,
    offer: Offer,
    config: Config,
    *,
    clock: Clock,
    rng: random.Random | None = None,
    supervise: Open = open_supervisor,
) -> None:
    """Be a worker until cancelled; at the end all its children are dead.

    Raises `LinkRefused` when the node does not want this worker.
    """
    rng = rng or random.Random()
    await Agent(offer, config, clock=clock, rng=rng, supervise=supervise).run(link_factory)


if __name__ == "__main__":
    from worker.program import main

    sys.exit(main())
