"""Errands: one client's wish for one result, from the first call until its fate is known.

Four ways to get it, all over the node's real API, as `scenario.Load` names them:

* **async**: hand in, leave, be told.  The job is kept by its node whatever becomes of the client.
  Being told costs no connection (a push, or a poll each `poll_s` of which only the last, that
  brings the result, is made); a client that is down is told when it is back.
* **sync**: one connection from the call to the result.  When it breaks, because the client left,
  its node died or `time_limit_s` is over, the job is cancelled: what it did is wasted.
* **sync-retry**: the same, begun anew when the client is back, until it succeeds.
* **sync-resume**: a connection whose break cancels nothing; with the same idempotency key the
  client asks for the same job when it is back.

A call that meets a node that is down, or too busy, is made again after `RETRY_S` by the models that
can (all but sync).  Each job has an idempotency key, as the client library gives it one.

The metrics of an errand are observed once, when its fate is known: see `Errand.close`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, assert_never

import msgspec
import trio

from simulations.calls import RETRY_S, is_passing
from simulations.clients import Client
from simulations.metrics import Metrics
from simulations.scenario import Load
from simulations.trace import Trace
from simulations.virtual_workers import Ledger
from simulations.world import NodeDown

if TYPE_CHECKING:
    from simulations.world import World

WAIT_S: Final = 3600
"""Longest wait asked for in one call. Source: `peernode.config.Config.wait_max_s`."""
TERMINAL: Final = frozenset({"succeeded", "failed", "cancelled", "expired", "poisoned"})


class JobState(msgspec.Struct):
    """What an errand reads of a job."""

    id: str
    state: str


decode_job = msgspec.json.Decoder(JobState).decode


class _Gone(Exception):
    """A job was accepted, and its node does not know it any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What all errands of one load share."""

    load: Load
    label: str
    function: str
    """Its id."""
    tokens: Sequence[str]
    """The caller's, one a node."""
    world: "World"
    ledger: Ledger
    metrics: Metrics
    trace: Trace
    nursery: trio.Nursery
    """For what outlives a connection: cancelling."""


@dataclass(slots=True, eq=False)
class Errand:
    """One client's wish for one result."""

    desk: Desk
    client: Client
    node: int
    """Which takes the job."""
    key: str
    input: bytes = b"null"
    """JSON text."""
    begun_s: float = field(default_factory=trio.current_time)
    accepted_s: float = 0.0
    connected_s: float = 0.0
    tries: int = 0
    jobs: list[int] = field(default_factory=list)
    """All that were made for it, the newest last."""
    is_open: bool = True
    accepted: Callable[[], None] | None = None
    """Is called once, when its node has it, or never will."""

    async def run(self) -> None:
        """Do it, and observe how it went."""
        match self.desk.load.model:
            case "async":
                state = await self._leave()
            case "sync":
                state = await self._hold()
            case "sync-retry":
                state = await self._hold()
                while state != "succeeded":
                    await self._come_back()
                    state = await self._hold()
            case "sync-resume":
                state = await self._resume()
            case _:
                assert_never(self.desk.load.model)
        self.close(state)

    # --- models -----------------------------------------------------------------------------

    async def _leave(self) -> str:
        """Hand in, leave, and be told."""
        job = await self._insist()
        try:
            state = await self._until_ended(job)
            ended_s = trio.current_time()
            await self._until_asked(ended_s)
            if trio.current_time() > ended_s or self.desk.load.poll_s:
                await self._read(job)
            else:
                await _pass(self.client.latency_s)
        except _Gone:
            return "lost"
        return state

    async def _until_asked(self, ended_s: float) -> None:
        """Return when the client next looks, being up."""
        poll_s = self.desk.load.poll_s
        if poll_s and self.client.is_up:
            looks = int((ended_s - self.accepted_s) / poll_s) + 1
            await trio.sleep_until(self.accepted_s + looks * poll_s)
        await self.client.until_up()

    async def _hold(self) -> str:
        """Hold one connection; return how the job ended, or what broke it."""
        self.tries += 1
        begun_s = trio.current_time()
        deadline_s = begun_s + (self.desk.load.time_limit_s or float("inf"))
        state = "left"
        job: int | None = None
        try:
            with trio.move_on_at(min(self.client.leaves_at_s, deadline_s)):
                await _pass(self.client.latency_s)
                # Whoever leaves now has handed in: their node learns of it afterwards.
                with trio.CancelScope(shield=True):
                    job = await self._hand_in(f"{self.key}-{self.tries}")
                if job is not None:
                    state = await self._until_ended(job, once=True)
                    await _pass(self.client.latency_s)
                    return state
                state = "refused"
        except NodeDown:
            state = "broken"
        except _Gone:
            return "lost"
        finally:
            self.connected_s += trio.current_time() - begun_s
        if job is not None:
            self.desk.nursery.start_soon(self._cancel, job)
        return "left" if state == "succeeded" else state

    async def _come_back(self) -> None:
        """Wait for the client; if it never left, for a moment."""
        if self.client.is_up:
            await trio.sleep(RETRY_S)
        await self.client.until_up()

    async def _resume(self) -> str:
        """Hold connections for one job until one of them brings its result."""
        while True:
            begun_s = trio.current_time()
            state = ""
            try:
                with trio.move_on_at(self.client.leaves_at_s):
                    await _pass(self.client.latency_s)
                    with trio.CancelScope(shield=True):
                        job = await self._hand_in(self.key)
                    if job is not None:
                        state = await self._until_ended(job, once=True)
                        await _pass(self.client.latency_s)
                        return state
            except NodeDown:
                pass
            except _Gone:
                return "lost"
            finally:
                self.tries += 1
                self.connected_s += trio.current_time() - begun_s
            await self._come_back()

    # --- calls ------------------------------------------------------------------------------

    async def _insist(self) -> int:
        """Hand in until it is accepted, whenever the client is up; return the job."""
        while True:
            await self.client.until_up()
            begun_s = trio.current_time()
            self.tries += 1
            try:
                await _pass(self.client.latency_s)
                job = await self._hand_in(self.key)
                await _pass(self.client.latency_s)
                if job is not None:
                    return job
            except NodeDown:
                pass
            finally:
                self.connected_s += trio.current_time() - begun_s
            await trio.sleep(RETRY_S)

    async def _hand_in(self, key: str) -> int | None:
        """Hand in once; return the job, or nothing if the node cannot take it now.

        Raises `NodeDown`, `Unexpected`.
        """
        desk = self.desk
        world, node = desk.world, self.node
        body = b'{"function":"%b","input":%b}' % (desk.function.encode(), self.input)
        begun_s = trio.current_time()
        status = 0
        try:
            answer = await world.request(
                node,
                "POST",
                "/job",
                body,
                token=desk.tokens[node],
                headers={"idempotency-key": key},
            )
            status = answer.status
        finally:
            took_s = trio.current_time() - begun_s + 2 * self.client.latency_s
            failed = float(not 200 <= status < 300)
            self._observe("request.failed", failed)
            if not failed:
                self._observe("request.latency_s", took_s)
            client, call = self.client.name, "POST /job"
            desk.trace.record(
                world.now, "request", client=client, node=node, call=call, status=status
            )
        if is_passing(answer, node):
            return None
        job = decode_job(answer.body)
        number = int(job.id)
        if number not in self.jobs[-1:]:
            self.jobs.append(number)
            self.accepted_s = trio.current_time()
            self._settle()
            if not desk.ledger.has_run(number):
                self._tell(number, "queued")
        return number

    async def _until_ended(self, job: int, *, once: bool = False) -> str:
        """Return how a job ended, when it has; `once`: raise `NodeDown` when its node dies.

        Raises `_Gone`, `Unexpected`.
        """
        world, node = self.desk.world, self.node
        path, token = f"/job/{job}?wait={WAIT_S}", self.desk.tokens[node]
        while True:
            try:
                answer = await world.request(node, "GET", path, token=token)
            except NodeDown:
                if once:
                    raise
                await world.until_up(node)
                continue
            if answer.status == 404:
                raise _Gone
            if is_passing(answer, node):
                await trio.sleep(RETRY_S)
                continue
            state = decode_job(answer.body).state
            if state in TERMINAL:
                self._tell(job, state)
                return state

    async def _read(self, job: int) -> None:
        """Fetch the result, whenever client and node are up."""
        world, node = self.desk.world, self.node
        while True:
            await self.client.until_up()
            begun_s = trio.current_time()
            try:
                await _pass(self.client.latency_s)
                token = self.desk.tokens[node]
                answer = await world.request(node, "GET", f"/job/{job}", token=token)
                await _pass(self.client.latency_s)
                if answer.status == 404:
                    raise _Gone
                if not is_passing(answer, node):
                    return
            except NodeDown:
                pass
            finally:
                self.connected_s += trio.current_time() - begun_s
            await trio.sleep(RETRY_S)

    async def _cancel(self, job: int) -> None:
        """Have a job end whose connection broke: what a synchronous node does by itself."""
        world, node = self.desk.world, self.node
        await _pass(self.client.latency_s)
        while True:
            try:
                token = self.desk.tokens[node]
                answer = await world.request(node, "POST", f"/job/{job}/cancel", token=token)
                if answer.status in (200, 404, 409):  # 409: it has ended meanwhile
                    self._tell(job, "cancelled")
                    break
                is_passing(answer, node)
                await trio.sleep(RETRY_S)
            except NodeDown:
                await world.until_up(node)
        if self.desk.load.model == "sync":
            self._observe_waste(job)

    # --- what is said of it -------------------------------------------------------------------

    def close(self, state: str) -> None:
        """Observe how it went; `state` of the job, or `left`, `broken`, `refused`, `lost`, `open`.

        `job.wait_s` is from acceptance to the first start at a worker, `job.sojourn_s` from
        acceptance to the end of the last run, `job.result_s` from the first call until the client
        has the result, `job.extra_s` from the end of the last run until then.  `job.run_s` counts
        all runs, `job.wasted_s` those that brought nothing; of an errand that failed they are
        observed when its job has been stopped.
        """
        if not self.is_open:
            return
        self.is_open = False
        self._settle()
        now_s = trio.current_time()
        self._observe("job.succeeded", float(state == "succeeded"))
        if state == "open":
            return
        self._observe("job.lost", float(state == "lost"))
        self._observe("job.tries", float(self.tries))
        self._observe("job.connected_s", self.connected_s)
        if state in ("left", "broken", "refused"):
            if not self.jobs:
                self._observe_waste(None)
            return
        taken = [runs for job in self.jobs if (runs := self.desk.ledger.take(job)) is not None]
        total_s = sum(runs.total_s for runs in taken)
        starts = sum(runs.starts for runs in taken)
        self._observe("job.run_s", total_s)
        self._observe("job.attempts", float(starts))
        if state != "succeeded" or not taken or taken[-1].ended_at_s is None:
            self._observe("job.wasted_s", total_s)
            return
        last = taken[-1]
        ended_s = last.ended_at_s or now_s
        self._observe("job.wasted_s", max(0.0, total_s - (ended_s - last.last_at_s)))
        self._observe("job.reexecutions", float(last.starts - 1))
        self._observe("job.wait_s", max(0.0, last.first_at_s - self.accepted_s))
        self._observe("job.sojourn_s", ended_s - self.accepted_s)
        self._observe("job.result_s", now_s - self.begun_s)
        self._observe("job.extra_s", now_s - ended_s)

    def _settle(self) -> None:
        accepted, self.accepted = self.accepted, None
        if accepted is not None:
            accepted()

    def _observe_waste(self, job: int | None) -> None:
        runs = None if job is None else self.desk.ledger.take(job)
        total_s = 0.0 if runs is None else runs.total_s
        self._observe("job.run_s", total_s)
        self._observe("job.wasted_s", total_s)
        self._observe("job.attempts", 0.0 if runs is None else float(runs.starts))

    def _observe(self, metric: str, value: float) -> None:
        desk = self.desk
        at_s, node = desk.world.now, str(self.node)
        desk.metrics.observe(metric, at_s, value, node=node, label=desk.label)

    def _tell(self, job: int, state: str) -> None:
        self.desk.trace.record(
            self.desk.world.now, "job", node=self.node, job=str(job), state=state
        )


async def _pass(latency_s: float) -> None:
    if latency_s:
        await trio.sleep(latency_s)
