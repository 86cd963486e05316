"""How large messages become, estimated: enough to fill batches, cheap enough to do for each."""

from typing import Final

from worker.protocol import Call, Finished, Log, Message

MESSAGE_OVERHEAD_BYTES: Final = 256
"""What a message takes beside its texts. Source: the largest fixed part, doubled."""


def size_bytes(message: Message) -> int:
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
