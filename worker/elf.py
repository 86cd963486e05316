"""Executable files: which machine one is for, and whether it needs nothing but a kernel.

A program of runtime `exec` is a 64-bit ELF file without an interpreter (`PT_INTERP`): statically
linked, position-independent or not.  It is looked at twice, by the node that keeps it and in the
process that runs it; only headers are read, nothing is believed, and nothing but the standard
library is imported, because the second reader loads this file by its path.
"""

import struct

MACHINES = {62: "x86_64", 183: "aarch64"}
"""`e_machine` -> the machine as `uname` has it. Source: those of `sandbox.seccomp`."""
_HEAD = struct.Struct("<4sBBB9xHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<II48x")
_LITTLE, _BITS_64, _CURRENT = 1, 2, 1
_EXECUTABLE, _SHARED = 2, 3
_LOAD, _INTERPRETER = 1, 3


def machine(code: bytes) -> str:
    """Return the machine of a static executable. Raises `ValueError`, which says what it is not."""
    if code[:4] != b"\x7fELF":
        raise ValueError("an executable begins with \\x7fELF")
    if len(code) < _HEAD.size:
        raise ValueError("the ELF header is cut off")
    head = _HEAD.unpack_from(code)
    bits, order, version, kind, number = head[1:6]
    if (bits, order, version) != (_BITS_64, _LITTLE, _CURRENT):
        raise ValueError("the executable is not a 64-bit little-endian ELF file")
    if number not in MACHINES:
        known = ", ".join(MACHINES.values())
        raise ValueError(f"the executable is for ELF machine {number}; workers are {known}")
    if kind not in (_EXECUTABLE, _SHARED):
        raise ValueError(f"the ELF file is of type {kind}: an object or core, not an executable")
    at, size, count = head[8], head[12], head[13]
    if size != _SEGMENT.size or not count or at + size * count > len(code):
        raise ValueError("the table of ELF segments is not in the file")
    kinds = {_SEGMENT.unpack_from(code, at + size * place)[0] for place in range(count)}
    if _INTERPRETER in kinds:
        raise ValueError("the executable is linked dynamically: link it statically (-static)")
    if _LOAD not in kinds:
        raise ValueError("the executable has no segment to load")
    return MACHINES[number]
