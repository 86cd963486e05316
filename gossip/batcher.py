"""Many small records in few messages: a machine in front of `Mesh`.

A message costs each node a signature to check and each link a frame, whatever is in it; records
come in bursts.  Records of one topic are collected until a batch is full or its first record has
waited long enough; the driver publishes what comes out, in order.

A batch is a strict CBOR array of byte strings (`storage.codec`).  What a record is, is not known
here.  A record that is too large for a batch goes alone, at once.
"""

from collections.abc import Sequence
from typing import Final

from gossip.config import BatchConfig
from gossip.errors import RemoteProtocolError
from gossip.mesh_events import Publish
from storage import codec
from storage.errors import CodecError

_HEAD_SIZE_MAX_BYTES: Final = 5
"""Of the array, and of each record in it, below 4 GiB."""


class _Batch:
    __slots__ = ("due_at", "records", "size_bytes")

    def __init__(self, due_at: float) -> None:
        self.due_at = due_at
        self.records: list[bytes] = []
        self.size_bytes = _HEAD_SIZE_MAX_BYTES


class Batcher:
    """The records that wait for company, by topic."""

    def __init__(self, config: BatchConfig) -> None:
        self._config = config
        # In order of their first records, so that the first is due first.
        self._open: dict[str, _Batch] = {}

    def add(self, topic: str, record: bytes, now: float) -> list[Publish]:
        """Take in a record at `now` (monotonic seconds); return the messages that are ready."""
        config = self._config
        size = len(record) + _HEAD_SIZE_MAX_BYTES
        out: list[Publish] = []
        batch = self._open.get(topic)
        if batch is not None and batch.size_bytes + size > config.size_max_bytes:
            out.append(self._close(topic))
            batch = None
        if batch is None:
            while len(self._open) >= config.topics_max:
                out.append(self._close(next(iter(self._open))))
            batch = self._open[topic] = _Batch(now + config.delay_s)
        batch.records.append(record)
        batch.size_bytes += size
        full = batch.size_bytes >= config.size_max_bytes
        if full or len(batch.records) >= config.records_max:
            out.append(self._close(topic))
        return out

    def tick(self, now: float) -> list[Publish]:
        """Return the messages that are due."""
        due = [topic for topic, batch in self._open.items() if batch.due_at <= now]
        return [self._close(topic) for topic in due]

    def flush(self) -> list[Publish]:
        """Return whatever there is."""
        return [self._close(topic) for topic in list(self._open)]

    @property
    def deadline(self) -> float | None:
        """When to call `tick` next; `None`: nothing waits."""
        return next((batch.due_at for batch in self._open.values()), None)

    def check(self) -> None:
        """Assert that no batch is empty or full, and that they are in order."""
        due = [batch.due_at for batch in self._open.values()]
        assert due == sorted(due)
        assert len(self._open) <= self._config.topics_max
        for batch in self._open.values():
            assert 0 < len(batch.records) < self._config.records_max
            assert batch.size_bytes < self._config.size_max_bytes

    def __repr__(self) -> str:
        waiting = sum(len(batch.records) for batch in self._open.values())
        return f"<Batcher: {waiting} records of {len(self._open)} topics wait>"

    def _close(self, topic: str) -> Publish:
        return Publish(topic, pack(self._open.pop(topic).records))


def pack(records: Sequence[bytes]) -> bytes:
    """Return one message of these records."""
    return codec.encode(list(records))


def unpack(data: bytes, size_max_bytes: int, records_max: int) -> list[bytes]:
    """Return the records of a message. Raises `RemoteProtocolError` for whatever else it is."""
    try:
        records = codec.decode(data, size_max_bytes)
    except CodecError as error:
        raise RemoteProtocolError(f"not a batch: {error}") from None
    if not isinstance(records, list) or not 0 < len(records) <= records_max:
        raise RemoteProtocolError("not a batch of records, or of too many")
    if not all(isinstance(record, bytes) for record in records):
        raise RemoteProtocolError("a batch with something else than records")
    return records
