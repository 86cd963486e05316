"""Two tasks that pass things on: one makes the next while the other deals with the last."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import TypeVar

import trio

T = TypeVar("T")


@asynccontextmanager
async def ahead(items: AsyncGenerator[T, None]) -> AsyncIterator[AsyncIterator[T]]:
    """Own a task that takes from `items`, one ahead of whoever reads what is yielded.

    What goes wrong, on either side, leaves as itself and not in a group; `items` is closed when the
    block ends, however it does.
    """
    sender, receiver = trio.open_memory_channel[T](1)

    async def take() -> None:
        # Closed last, and without a checkpoint: who reads to the end must not overtake an error.
        with sender:
            async with aclosing(items) as source:
                async for item in source:
                    try:
                        await sender.send(item)
                    except trio.BrokenResourceError:
                        return  # Nobody reads any more.

    try:
        async with trio.open_nursery() as nursery, receiver:
            nursery.start_soon(take)
            yield receiver
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise _only(group) from None


def _only(error: BaseException) -> BaseException:
    """Return what went wrong, if it is one thing."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
