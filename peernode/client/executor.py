"""`concurrent.futures` on a mesh: code written for a process pool runs on other people's hardware.

    with Executor(client) as executor:
        futures = [executor.submit("vision/detect_faces", {"image": {"blob": i}}) for i in ids]
        for future in as_completed(futures): ...

One thread a job that is out; more jobs wait here.  Where we differ from the standard's words:
`cancel` also ends a job that is running, since a node can.
"""

from collections.abc import Callable
from concurrent import futures
from threading import Event, Lock
from typing import Any

from peernode.client.errors import ClientError, JobFailed, ProblemError
from peernode.client.sync_client import Client, Function, JobHandle

JOBS_OUT_MAX = 32
"""Jobs out at once unless said otherwise. Source: `ThreadPoolExecutor`'s own bound."""


class JobFuture(futures.Future[Any]):
    """The future of a job. `job` is its handle once it is handed in, which `handed_in` tells."""

    def __init__(self) -> None:
        super().__init__()
        self.job: JobHandle | None = None
        self.handed_in = Event()
        self._handing_in = Lock()

    def cancel(self) -> bool:
        """Cancel the job, waiting or running. False when it was over before that."""
        with self._handing_in:
            job = self.job
            if job is None:
                return super().cancel()
        try:
            state = job.cancel()["state"]
        except ProblemError:  # it is over
            state = ""
        return state == "cancelled" and (super().cancel() or self.cancelled())

    def hand_in(self, spawn: Callable[[], JobHandle]) -> JobHandle | None:
        """Hand the job in, unless it is cancelled: then return `None`."""
        with self._handing_in:
            if self.cancelled():
                return None
            self.job = spawn()
        self.handed_in.set()
        return self.job


class Executor(futures.Executor):
    """Submits jobs in place of calls."""

    def __init__(self, client: Client, *, jobs_out_max: int = JOBS_OUT_MAX) -> None:
        self._client = client
        self._threads = futures.ThreadPoolExecutor(jobs_out_max, "peernode-executor")
        self._pending: set[JobFuture] = set()

    def submit(  # type: ignore[override]  # ours take a function of the mesh and one input
        self, fn: str | Function, /, input: Any = None, **options: Any
    ) -> JobFuture:
        """Hand a job to a function, `"project/name"`, id or `Function`; return its future."""
        future = JobFuture()
        self._threads.submit(self._carry_out, future, fn, input, options)
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more; with `cancel_futures`, cancel what is not over."""
        if cancel_futures:
            for future in [*self._pending]:
                future.cancel()
        self._threads.shutdown(wait=wait)

    def _carry_out(
        self, future: JobFuture, fn: str | Function, input: Any, options: dict[str, Any]
    ) -> None:
        def spawn() -> JobHandle:
            function = self._client.function(fn) if isinstance(fn, str) else fn
            return function.spawn(input, **options)

        result: Any = None
        failure: Exception | None = None
        try:
            job = future.hand_in(spawn)
            if job is not None:
                result = job.result()
        except JobFailed as error:
            if error.state == "cancelled":
                futures.Future.cancel(future)
            failure = error
        except (ClientError, TypeError, ValueError) as error:
            failure = error
        # A cancelled future takes no outcome, but its waiters are told here.
        if not future.set_running_or_notify_cancel():
            return
        if failure is None:
            future.set_result(result)
        else:
            future.set_exception(failure)
