"""The writer: one thread that gathers batches and commits many of them at once.

Whoever submits a batch returns at once.  The thread takes all that has queued, has it committed,
and reports every result with *one* `deliver`.  While a commit waits for the disk the next one
gathers, so the rate of durable batches grows with the number of writers and not with the disk's
patience (DeWitt et al., "Implementation techniques for main memory database systems", 1984).

Rules:

1. Results come in the order of `submit`; a lazy batch wakes nobody and rides on the next commit.
2. An exception that leaves the commit means that nobody knows what the disk holds.  It is never
   tried again: `fail` is called, and by default ends the process, so that the next start reads
   what is true (Rebello et al., "Can applications recover from fsync failures?", 2020).

What it leaves out: how a group is committed, and that a group may be too large for the disk; that
is the store's.
"""

import functools
import itertools
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol, TypeAlias

from storage.batches import Deliver, measure, report
from storage.errors import StoreClosed, StoreError, StoreFull
from storage.store import Batch, Conflict, Done, Result

EXIT_STATUS = 70
"""The process's exit status after a commit that failed. Source: EX_SOFTWARE of sysexits.h."""

Entry: TypeAlias = tuple[Batch, Done | None, int]
"""A batch, its `done`, and the bytes it carries."""


def end_process(error: BaseException) -> None:
    """Say on standard error why, in one line, and end the process with `EXIT_STATUS`."""
    sys.stderr.write(f"peernode: the store failed and what it holds is unknown: {error!r}\n")
    sys.stderr.flush()
    os._exit(EXIT_STATUS)


class Writer(Protocol):
    """What takes batches in and has them committed."""

    closed: bool

    @property
    def queued_batches(self) -> int:
        """Batches that wait for a commit to begin."""
        ...

    def submit(self, batch: Batch, done: Done | None, *, lazy: bool) -> None:
        """Queue `batch`. Raises `ValueError` and `StoreClosed` as `Store.submit`."""
        ...

    def apply(self, batch: Batch) -> Conflict | None:
        """Return once `batch` is durable. Raises as `Store.apply`."""
        ...

    def close(self) -> None:
        """Commit and report what is queued, and end. A second call does nothing."""
        ...


class GroupCommit:
    """The queue of a store and the thread that empties it.

    `commit` is called in the thread with 1 to `batches_max` batches, fewer when they carry
    `size_max_bytes`, and returns the result of each.  At most `queue_batches_max` wait.
    """

    def __init__(
        self,
        commit: Callable[[list[Entry]], list[Result]],
        *,
        deliver: Deliver,
        fail: Callable[[BaseException], None],
        batches_max: int,
        size_max_bytes: int,
        queue_batches_max: int,
    ) -> None:
        self._commit = commit
        self._deliver = deliver
        self._fail = fail
        self._batches_max = batches_max
        self._size_max_bytes = size_max_bytes
        self._queue_batches_max = queue_batches_max
        self._queue: deque[Entry] = deque()
        self._wake = threading.Event()
        self._closing = threading.Lock()  # So that no thread's `apply` slips in behind `close`.
        self.closed = False
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    @property
    def queued_batches(self) -> int:
        """Batches that wait for a commit to begin."""
        return len(self._queue)

    def submit(self, batch: Batch, done: Done | None, *, lazy: bool) -> None:
        """Queue `batch`. Raises `ValueError` and `StoreClosed` as `Store.submit`."""
        if self.closed:
            raise StoreClosed("the store is closed")
        size_bytes = measure(batch)
        if len(self._queue) >= self._queue_batches_max:
            self._refuse(done)
            return
        self._queue.append((batch, done, size_bytes))
        if not lazy and not self._wake.is_set():
            self._wake.set()

    def apply(self, batch: Batch) -> Conflict | None:
        """Block until `batch` is durable; from any thread. Raises as `Store.apply`."""
        waiter = _Waiter()
        with self._closing:
            self.submit(batch, waiter, lazy=False)
        result = waiter.wait()
        if isinstance(result, StoreError):
            raise result
        return result

    def close(self) -> None:
        """Commit and report what is queued, and end the thread. A second call does nothing."""
        with self._closing:
            self.closed = True
        self._wake.set()
        self._thread.join()

    def _refuse(self, done: Done | None) -> None:
        if done is None:
            return
        full = StoreFull(f"{self._queue_batches_max} batches wait to be written")
        if isinstance(done, _Waiter):
            done(full)
        else:
            self._deliver(functools.partial(done, full))

    # In the thread.

    def _run(self) -> None:
        group: list[Entry] = []
        try:
            while True:
                self._wake.wait()
                self._wake.clear()
                # Read before the queue: nothing is queued after it is set.
                last = self.closed
                more = True
                while more:
                    group, more = self._take()
                    if group:
                        self._report(group, self._commit(group))
                if last:
                    return
        except BaseException as error:  # noqa: BLE001  (the thread's boundary)
            self.closed = True
            self._fail(error)
            unknown = StoreError(f"a commit failed; what became of the batch is unknown: {error}")
            for _, done, _ in itertools.chain(group, self._queue):
                if isinstance(done, _Waiter):
                    done(unknown)

    def _take(self) -> tuple[list[Entry], bool]:
        """Return the batches of the next commit, and whether the limits left some behind."""
        group: list[Entry] = []
        size_bytes = 0
        popleft = self._queue.popleft
        while len(group) < self._batches_max and size_bytes < self._size_max_bytes:
            try:
                entry = popleft()
            except IndexError:
                return group, False
            group.append(entry)
            size_bytes += entry[2]
        return group, True

    def _report(self, group: list[Entry], results: list[Result]) -> None:
        reports: list[tuple[Done, Result]] = []
        for (_, done, _), result in zip(group, results, strict=True):
            if type(done) is _Waiter:
                done(result)  # A thread waits for it, not the loop.
            elif done is not None:
                reports.append((done, result))
        if reports:
            self._deliver(functools.partial(report, reports))


class InlineCommit:
    """A writer without a thread: each batch is committed, and reported, before `submit` returns.

    For simulations, where nothing else may run meanwhile.  A lazy batch waits for the next one.
    """

    def __init__(
        self,
        commit: Callable[[list[Entry]], list[Result]],
        *,
        deliver: Deliver,
        fail: Callable[[BaseException], None],
        batches_max: int,
        size_max_bytes: int,
        queue_batches_max: int,
    ) -> None:
        """What is wrong with a commit is raised where it happens; limits do not matter here."""
        self._commit = commit
        self._deliver = deliver
        self._queue: deque[Entry] = deque()
        self.closed = False

    @property
    def queued_batches(self) -> int:
        """Batches that wait for a commit to begin."""
        return len(self._queue)

    def submit(self, batch: Batch, done: Done | None, *, lazy: bool) -> None:
        """Commit `batch` and what was lazy before it, or only queue it."""
        if self.closed:
            raise StoreClosed("the store is closed")
        self._queue.append((batch, done, measure(batch)))
        if not lazy:
            self._commit_all()

    def apply(self, batch: Batch) -> Conflict | None:
        """Commit `batch` now. Raises as `Store.apply`."""
        self.submit(batch, None, lazy=True)
        result = self._commit_all()
        if isinstance(result, StoreError):
            raise result
        return result

    def close(self) -> None:
        """Commit and report what is queued. A second call does nothing."""
        if not self.closed:
            self._commit_all()
            self.closed = True

    def _commit_all(self) -> Result:
        """Commit what is queued; return the last one's result."""
        result: Result = None
        while self._queue:
            group = list(self._queue)
            self._queue.clear()
            results = self._commit(group)
            result = results[-1]
            reports = [
                (done, each)
                for (_, done, _), each in zip(group, results, strict=True)
                if done is not None
            ]
            if reports:
                self._deliver(functools.partial(report, reports))
        return result


class _Waiter:
    """The `done` of a thread that blocks until the batch is durable."""

    __slots__ = ("_event", "_result")

    def __init__(self) -> None:
        self._event = threading.Event()
        self._result: Result = None

    def __call__(self, result: Result) -> None:
        self._result = result
        self._event.set()

    def wait(self) -> Result:
        self._event.wait()
        return self._result
