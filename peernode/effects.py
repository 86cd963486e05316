"""The seam between the driver of jobs and what function code may do to a node's objects."""

from collections.abc import Sequence
from typing import Protocol

from peernode.job_rows import Request
from peernode.transactions import Transaction
from worker import protocol


class Effects(Protocol):
    """What function code may do besides computing, with its job's rights."""

    def prepare(self, job: int, request: Request, writes: Sequence[protocol.Write]) -> Transaction:
        """Return what `writes` come to now; raises `Problem` when one is refused."""
        ...

    async def call(self, job: int, request: Request, call: protocol.Call) -> object:
        """Return the answer to `call`; raises `Problem`."""
        ...

    def forget(self, job: int, fence: int) -> None:
        """Drop what the attempt began and did not keep."""
        ...
