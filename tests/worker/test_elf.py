"""Executable files are looked at, and never believed."""

import struct
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from worker.elf import MACHINES, machine


def executable_file(
    number: int = 62, kind: int = 2, segments: tuple[int, ...] = (1,), bits: int = 2, order: int = 1
) -> bytes:
    """Return a file with these segments and no content."""
    head = b"\x7fELF" + bytes([bits, order, 1]) + bytes(9)
    head += struct.pack(
        "<HHIQQQIHHHHHH", kind, number, 1, 0, 64, 0, 0, 64, 56, len(segments), 0, 0, 0
    )
    return head + b"".join(struct.pack("<I52x", segment) for segment in segments)


@pytest.mark.parametrize("number", MACHINES)
@pytest.mark.parametrize("kind", [2, 3])
def test_a_static_executable_says_its_machine(number: int, kind: int) -> None:
    assert machine(executable_file(number, kind, (6, 1, 4))) == MACHINES[number]


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (b"", "begins with"),
        (b"MZ" + bytes(100), "begins with"),
        (b"\x7fELF\2\1\1", "cut off"),
        (executable_file(bits=1), "64-bit"),
        (executable_file(order=2), "64-bit"),
        (executable_file(number=243), "ELF machine 243; workers are x86_64, aarch64"),
        (executable_file(kind=1), "type 1"),
        (executable_file(segments=()), "table"),
        (executable_file(segments=(4,)), "no segment to load"),
        (executable_file(segments=(1, 3)), "-static"),
        (executable_file(segments=(1, 1))[:-1], "table"),
    ],
)
def test_anything_else_is_named(code: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        machine(code)


def test_an_ordinary_program_of_this_machine_is_linked_dynamically() -> None:
    with pytest.raises(ValueError, match="dynamically"):
        machine(Path("/bin/true").resolve().read_bytes())


@given(at=st.integers(0, 119), value=st.binary(min_size=1, max_size=8), cut=st.integers(0, 200))
def test_whatever_a_file_says_it_is_judged(at: int, value: bytes, cut: int) -> None:
    code = bytearray(executable_file())
    code[at : at + len(value)] = value
    with suppress(ValueError):
        assert machine(bytes(code[:cut])) in MACHINES.values()
