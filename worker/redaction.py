"""Secrets taken out of what leaves the worker: each is `***` in lines, progress and errors.

One `Redaction` belongs to a child process and to all jobs that it runs: what one of them was given,
a warm process may say in the next.  It knows a value as it is, as JSON,
Python and URLs write it, and each of its lines, as output is cut into lines.

What it leaves out: other encodings (base64, a hash, letter by letter), values and lines of less
than `LENGTH_MIN` characters, which would be found everywhere, and results, which are the function's
own.  It is against carelessness: no function can be held from telling what it knows.
"""

import json
import re
from typing import Final
from urllib.parse import quote

LENGTH_MIN: Final = 4
"""Shorter values, and lines of values, are not looked for. Source: guess."""
VALUES_MAX: Final = 64
"""Most values of one process; over it the oldest is forgotten. Source: twice what a project has."""
CUT_FROM_CHARACTERS: Final = 1024
"""From this length a text may have been cut, in the middle of a value. Source: the shortest bound
of what a child says (`edge.MESSAGE_SIZE_MAX_CHARACTERS`)."""
REPLACEMENT: Final = "***"

_GAP: Final = "\n...\n"
"""Where the middle of a long traceback was (`runtimes.handling`)."""


class Redaction:
    """The values that a process was given."""

    def __init__(self) -> None:
        self.longest_bytes = 0
        """Of all that is looked for; 0: nothing is."""
        self._values: dict[str, list[str]] = {}
        """Value -> how it may be written, in the order in which they were given."""
        self._parts: list[str] = []
        self._in_text: re.Pattern[str] | None = None
        self._in_bytes: re.Pattern[bytes] | None = None

    @property
    def values(self) -> list[str]:
        """Return what is taken out, oldest first."""
        return list(self._values)

    def add(self, value: str) -> None:
        """Take out `value` from now on."""
        written = self._values.pop(value, None)
        self._values[value] = _spellings(value) if written is None else written
        if written is not None:
            return
        while len(self._values) > VALUES_MAX:
            del self._values[next(iter(self._values))]
        found = {part for parts in self._values.values() for part in parts}
        # The longest first: one may be the beginning of another.
        self._parts = sorted(found, key=lambda part: (-len(part), part))
        encoded = sorted((part.encode() for part in found), key=lambda part: (-len(part), part))
        self.longest_bytes = max(map(len, encoded), default=0)
        if encoded:
            self._in_text = re.compile("|".join(map(re.escape, self._parts)))
            self._in_bytes = re.compile(b"|".join(map(re.escape, encoded)))

    def adopt(self, other: "Redaction") -> None:
        """Take out what `other` does too."""
        for value in other.values:
            self.add(value)

    def line(self, data: bytes) -> bytes:
        """Return a whole line without what must not be seen."""
        if self._in_bytes is None:
            return data
        return self._in_bytes.sub(REPLACEMENT.encode(), data)

    def cut(self, data: bytes, wanted: int) -> int:
        """Return where to cut a line that goes on: at `wanted`, or behind a value that it is in.

        At least `wanted + longest_bytes` bytes of the line have to be there.
        """
        if self._in_bytes is None:
            return wanted
        for found in self._in_bytes.finditer(data):
            if found.start() >= wanted:
                break
            if found.end() > wanted:
                return found.end()
        return wanted

    def text(self, text: str) -> str:
        """Return a text without what must not be seen, halves of it at its cuts included."""
        if self._in_text is None:
            return text
        pieces = text.split(_GAP)
        for number, piece in enumerate(pieces):
            whole = self._in_text.sub(REPLACEMENT, piece)
            if number:
                whole = self._without_end_of_value(whole)
            if number < len(pieces) - 1 or len(text) >= CUT_FROM_CHARACTERS:
                whole = self._without_beginning_of_value(whole)
            pieces[number] = whole
        return _GAP.join(pieces)

    def _without_beginning_of_value(self, text: str) -> str:
        """Replace what a cut has left of a value at the end of a text."""
        least = len(text)
        for part in self._parts:
            begin = part[:LENGTH_MIN]
            at = text.find(begin, max(0, len(text) - len(part) + 1))
            while at != -1 and not part.startswith(text[at:]):
                at = text.find(begin, at + 1)
            if at != -1:
                least = min(least, at)
        return text if least == len(text) else text[:least] + REPLACEMENT

    def _without_end_of_value(self, text: str) -> str:
        """Replace what a cut has left of a value at the beginning of a text."""
        most = 0
        for part in self._parts:
            end = part[-LENGTH_MIN:]
            at = text.rfind(end, 0, len(part) - 1)
            while at != -1 and not part.endswith(text[: at + LENGTH_MIN]):
                at = text.rfind(end, 0, at + LENGTH_MIN - 1)
            if at != -1:
                most = max(most, at + LENGTH_MIN)
        return REPLACEMENT + text[most:] if most else text


def _spellings(value: str) -> list[str]:
    """Return what to look for so that `value` is not seen."""
    lines = [value, *(line.strip() for line in value.splitlines())]
    found = {
        spelling
        for line in lines
        for spelling in (
            line,
            json.dumps(line)[1:-1],
            json.dumps(line, ensure_ascii=False)[1:-1],
            repr(line)[1:-1],
            quote(line),
            quote(line, safe=""),
        )
    }
    return sorted(spelling for spelling in found if len(spelling) >= LENGTH_MIN)
