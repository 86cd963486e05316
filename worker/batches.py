"""Which messages go to the node together: as many as are ready, within what one batch may be."""

from typing import Final

from worker.protocol import (
    BATCH_LENGTH_MAX,
    MESSAGE_SIZE_MAX_BYTES,
    Call,
    Finished,
    Log,
    Message,
)

MESSAGE_OVERHEAD_BYTES: Final = 256
"""What a message takes beside its texts. Source: the largest fixed part, doubled."""
BATCH_SIZE_BYTES: Final = MESSAGE_SIZE_MAX_BYTES // 4
"""A batch is full from here. Source: leaves room for one message of the largest kind."""


def take_batch(outbox: list[Message]) -> list[Message]:
    """Take the messages that go together from the beginning of `outbox`; return them."""
    size = count = 0
    for message in outbox[:BATCH_LENGTH_MAX]:
        size += _size_bytes(message)
        count += 1
        if size > BATCH_SIZE_BYTES:
            break
    batch = outbox[:count]
    del outbox[:count]
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
