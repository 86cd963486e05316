"""Bytes on their way between the interpreter and its host, which only text passes quickly.

Built into the component, and loaded by its path at the host: what one side sends the other reads.

Text is encoded (UTF-8) and decoded on its way.  Of ASCII that is a copy; any other character costs
a branch on either side, and more inside, where all code is slower.  So bytes are sent as the
characters of these numbers while few of them are beyond ASCII, as of pictures, and else, as of most
tensors, as hexadecimal digits.  Out and in together, for 3 MB: ASCII 11 ms, a picture's numbers 30,
noise 40 as digits and 89 as characters.  What remains is copying, three times on either side.

What it leaves out: lists of bytes.  wasmtime's Python converts them one by one, in 0.9 s a
mebibyte.
"""

from __future__ import annotations

import binascii

DIGITS = "#"
"""What the name of bytes that travel as digits begins with."""
BEYOND = bytes(range(128, 256))
STEP = 61
"""Every so many bytes one is looked at. Source: guess; a prime, since elements have 2, 4 or 8."""
SHARE = 8
"""Digits are sent if more than one in so many is beyond ASCII. Source: where both cost the same."""


def sent(name: str, data: bytes) -> tuple[str, str]:
    """Return the name and the text that named bytes travel as."""
    some = data[::STEP]
    beyond = len(some) - len(some.translate(None, BEYOND))
    if beyond * SHARE > len(some):
        return DIGITS + name, data.hex()
    return name, data.decode("latin-1")


def received(name: str, text: str) -> tuple[str, bytes]:
    """Return the name and the bytes that a text stands for. Raises `ValueError`."""
    if name.startswith(DIGITS):
        return name[1:], binascii.unhexlify(text)
    return name, text.encode("latin-1")
