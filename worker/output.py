"""What a job prints: bytes of three streams made into lines, within bounds and without secrets.

Bytes are text as far as they are UTF-8 and replacement characters where not; a longer line is cut
into several; over the bound of a job the rest is counted and dropped, and one line says so.
"""

from typing import Final

from worker.redaction import Redaction

LINE_SIZE_MAX_BYTES: Final = 8192
"""Longest line. Source: guess, the page of most log viewers."""

LOG_SIZE_MAX_BYTES: Final = 1024 * 1024
"""Most bytes of lines kept of one job. Source: an inline result's size."""

LINE_OVERHEAD_BYTES: Final = 32
"""What a line counts beside its text: its time and its stream. Source: its CBOR, rounded up."""

BATCH_LINES_MAX: Final = 512
"""Most lines in one message. Source: 64 KiB of lines of usual length."""

BATCH_SIZE_MAX_BYTES: Final = 256 * 1024
"""Most bytes of lines in one message. Source: a sixteenth of the largest link message."""

STREAMS: Final = ("log", "stdout", "stderr")
"""Names of the streams, by the number a child uses for them."""

Line = tuple[int, str, str]
"""`(wall ms, stream, text)`, as in `protocol.Log`."""


class Output:
    """Lines of one job. `total_bytes` counts everything printed, kept or not."""

    def __init__(self) -> None:
        self.redaction = Redaction()
        """What is taken out of it."""
        self.total_bytes = 0
        self._kept_bytes = 0
        self._partial = [b"", b"", b""]
        self._lines: list[Line] = []
        self._full = False

    def feed(self, stream: int, data: bytes, wall_ms: int) -> None:
        """Take what the job printed on a stream (an index of `STREAMS`)."""
        self.total_bytes += len(data)
        if self._full:
            return
        # More than what can still be kept need not be split into lines.
        data = self._partial[stream] + data[: LOG_SIZE_MAX_BYTES + 1]
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._keep(stream, line, wall_ms)
        # A value that is to be taken out may have begun, and not have ended yet.
        while len(rest) >= LINE_SIZE_MAX_BYTES + self.redaction.longest_bytes:
            cut = self.redaction.cut(rest, LINE_SIZE_MAX_BYTES)
            self._keep(stream, rest[:cut], wall_ms)
            rest = rest[cut:]
        self._partial[stream] = rest

    def close(self, wall_ms: int) -> None:
        """End the last lines, which have no line end."""
        for stream, rest in enumerate(self._partial):
            if rest:
                self._keep(stream, rest, wall_ms)
            self._partial[stream] = b""

    def take(self) -> list[list[Line]]:
        """Return the lines since the last call, in batches fit for one message each."""
        batches: list[list[Line]] = []
        size = BATCH_SIZE_MAX_BYTES
        for line in self._lines:
            size += len(line[2]) * 3 + LINE_OVERHEAD_BYTES
            if size > BATCH_SIZE_MAX_BYTES or len(batches[-1]) >= BATCH_LINES_MAX:
                batches.append([])
                size = len(line[2]) * 3 + LINE_OVERHEAD_BYTES
            batches[-1].append(line)
        self._lines = []
        return batches

    def _keep(self, stream: int, line: bytes, wall_ms: int) -> None:
        line = self.redaction.line(line)
        start = 0
        while not self._full:
            part = line[start : start + LINE_SIZE_MAX_BYTES]
            self._kept_bytes += len(part) + LINE_OVERHEAD_BYTES
            if self._kept_bytes > LOG_SIZE_MAX_BYTES:
                self._full = True
                text = f"the rest is dropped: over {LOG_SIZE_MAX_BYTES} bytes of output"
                self._lines.append((wall_ms, "log", text))
                return
            self._lines.append((wall_ms, STREAMS[stream], part.decode("utf-8", "replace")))
            start += LINE_SIZE_MAX_BYTES
            if start >= len(line):
                return
