"""What a worker has to say to its node, in order, cut into batches that a link takes."""

from typing import Final

import trio

from worker.protocol import (
    BATCH_LENGTH_MAX,
    MESSAGE_SIZE_MAX_BYTES,
    Beat,
    Call,
    Finished,
    Log,
    Message,
)

MESSAGE_OVERHEAD_BYTES: Final = 256
"""What a message takes beside its texts. Source: the largest fixed part, doubled."""
BATCH_SIZE_BYTES: Final = MESSAGE_SIZE_MAX_BYTES // 4
"""A batch is full from here. Source: leaves room for one message of the largest kind."""


class Outbox:
    """Messages that wait for the link."""

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._wake = trio.lowlevel.ParkingLot()

    def say(self, message: Message) -> None:
        """Queue a message; never waits."""
        self._messages.append(message)
        self._wake.unpark()

    def renew(self, outcomes: list[Finished], calls: list[Call]) -> None:
        """A new link begins: what must be said again goes behind what was not said at all.

        What was said into the last link may not have arrived; the node knows what to ignore.
        """
        kept = [m for m in self._messages if not isinstance(m, Finished | Call | Beat)]
        self._messages = [*kept, *outcomes, *calls]

    async def batch(self) -> list[Message]:
        """Wait for messages and take as many as one batch holds, at least one."""
        while not self._messages:
            await self._wake.park()
        size = count = 0
        for message in self._messages[:BATCH_LENGTH_MAX]:
            size += _size_bytes(message)
            count += 1
            if size > BATCH_SIZE_BYTES:
                break
        batch = self._messages[:count]
        del self._messages[:count]
        return batch


def _size_bytes(message: Message) -> int:
    """Return about how large a message becomes."""
    match message:
        case Finished():
            size = len(message.payload) + len(message.traceback)
            for write in message.writes:
                size += len(getattr(write, "value", b"")) + MESSAGE_OVERHEAD_BYTES
            return size + MESSAGE_OVERHEAD_BYTES
        case Log():
            return sum(len(line[2]) + 32 for line in message.lines)
        case Call():
            values = message.arguments.values()
            texts = sum(len(value) for value in values if isinstance(value, bytes | str))
            return texts + MESSAGE_OVERHEAD_BYTES
        case _:
            return MESSAGE_OVERHEAD_BYTES
