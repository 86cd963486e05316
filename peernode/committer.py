"""Waiting for a batch to be durable: the store's callbacks as an `await`."""

from collections.abc import Callable, Iterable

import trio

from storage.errors import StoreError
from storage.store import Batch, Conflict, Result, Store


class Pending:
    """A batch on its way to the disk; knows the task that waits for it, once one does."""

    __slots__ = ("_after", "_done", "_result", "_task")

    def __init__(self, after: Iterable[Callable[[], object]] = ()) -> None:
        self._after = after
        self._done = False
        self._result: Result = None
        self._task: trio.lowlevel.Task | None = None

    def settle(self, result: Result) -> None:
        """Take note of what became of the batch. Runs in the loop, between tasks."""
        self._done = True
        self._result = result
        if result is None:
            for after in self._after:
                after()
        if self._task is not None:
            trio.lowlevel.reschedule(self._task)

    async def wait(self) -> Conflict | None:
        """Return once the batch is durable, or with what prevented it. Not cancellable.

        Raises `StoreFull` or `StoreClosed`.
        """
        if not self._done:
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(_refuse_abort)
        if isinstance(self._result, StoreError):
            raise self._result
        return self._result


def _refuse_abort(_: object) -> trio.lowlevel.Abort:
    # Once queued a batch will be committed: whoever asked has to learn what became of it.
    return trio.lowlevel.Abort.FAILED


class Committer:
    """Writes batches durably. Cancellable until the batch is queued, and not after."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def begin(self, batch: Batch, after: Iterable[Callable[[], object]] = ()) -> Pending:
        """Queue `batch`; it will be committed whether or not anyone waits.

        `after` are called in order once it is durable, before any task learns that; they may not
        raise.
        """
        pending = Pending(after)
        self.store.submit(batch, pending.settle)
        return pending

    async def write(
        self, batch: Batch, after: Iterable[Callable[[], object]] = ()
    ) -> Conflict | None:
        """Return when `batch` is durable, or with the `Conflict` that prevented it.

        Raises `StoreFull` or `StoreClosed`.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        return await self.begin(batch, after).wait()
