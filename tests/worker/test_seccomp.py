"""The filter of system calls, run on paper: every denied call, on both machines."""

import errno
import struct

import pytest
from hypothesis import given, settings, strategies as st

from worker.sandbox.seccomp import ARCHITECTURES, DENIED, NUMBER_MAX, filter_program

ALLOW, KILL = 0x7FFF0000, 0x80000000
EPERM, ENOSYS = 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
MACHINES = pytest.mark.parametrize("machine", ARCHITECTURES)
CALLS = {  # name -> numbers on x86-64 and arm64
    "clone": (56, 220),
    "clone3": (435, 435),
    "execve": (59, 221),
    "execveat": (322, 281),
    "prctl": (157, 167),
    "socketpair": (53, 199),
    "sendto": (44, 206),
    "sendmsg": (46, 211),
    "recvfrom": (45, 207),
    "read": (0, 63),
    "write": (1, 64),
    "openat": (257, 56),
    "mmap": (9, 222),
    "futex": (202, 98),
    "kill": (62, 129),
    "exit_group": (231, 94),
    "waitid": (247, 95),
}


def judge(
    machine: str,
    number: int,
    *arguments: int,
    architecture: int | None = None,
    runs_program: bool = False,
) -> int:
    """Return what the filter says of a call: the five instructions of classic BPF that it uses."""
    data = struct.pack(
        "=IIQ6Q",
        number,
        ARCHITECTURES[machine] if architecture is None else architecture,
        0,
        *[*arguments, 0, 0, 0, 0, 0, 0][:6],
    )
    program = filter_program(machine, runs_program=runs_program)
    rows = list(struct.iter_unpack("=HBBI", program))
    at = loaded = 0
    while True:
        code, then, otherwise, value = rows[at]
        at += 1
        match code:
            case 0x20:
                (loaded,) = struct.unpack_from("=I", data, value)
            case 0x15:
                at += then if loaded == value else otherwise
            case 0x25:
                at += then if loaded > value else otherwise
            case 0x45:
                at += then if loaded & value else otherwise
            case 0x06:
                return int(value)
            case _:
                raise AssertionError(code)


def number(machine: str, name: str) -> int:
    return CALLS[name][list(ARCHITECTURES).index(machine)]


@MACHINES
def test_what_is_denied_is_denied_whatever_its_arguments(machine: str) -> None:
    column = list(ARCHITECTURES).index(machine)
    for name, numbers in DENIED.items():
        if numbers[column] is not None:
            assert judge(machine, numbers[column], 1, 2, 3) == EPERM, name


@MACHINES
@pytest.mark.parametrize("name", ["read", "write", "openat", "mmap", "futex", "kill", "waitid"])
def test_what_functions_need_is_allowed(machine: str, name: str) -> None:
    assert judge(machine, number(machine, name)) == ALLOW


@MACHINES
@given(call=st.integers(NUMBER_MAX + 1, 2**32 - 1))
def test_calls_that_nobody_knew_are_not_there(machine: str, call: int) -> None:
    assert judge(machine, call) == ENOSYS


@MACHINES
@given(architecture=st.integers(0, 2**32 - 1))
def test_calls_of_another_machine_end_the_process(machine: str, architecture: int) -> None:
    ours = architecture == ARCHITECTURES[machine]
    verdict = judge(machine, number(machine, "read"), architecture=architecture)
    assert verdict == (ALLOW if ours else KILL)


@MACHINES
@pytest.mark.parametrize(
    ("name", "arguments", "verdict"),
    [
        ("clone", (17,), ALLOW),
        ("clone", (0x3D0F00,), ALLOW),  # a thread
        ("clone", (0x10000000 | 17,), EPERM),
        ("clone", (0x20000,), EPERM),
        ("clone", (0x40000000,), EPERM),
        ("clone3", (), ENOSYS),
        ("socketpair", (1, 1), ALLOW),
        ("socketpair", (30, 1), EPERM),
        ("prctl", (15,), ALLOW),
        ("prctl", (1, 0), EPERM),
        ("sendto", (3, 0, 0, 0x4000), ALLOW),
        ("sendto", (3, 0, 0, 1), EPERM),
        ("sendmsg", (3, 0, 1), EPERM),
        ("sendmsg", (3, 0, 0), ALLOW),
        ("recvfrom", (3, 0, 0, 0x41), EPERM),
    ],
)
def test_some_depend_on_their_arguments(
    machine: str, name: str, arguments: tuple[int, ...], verdict: int
) -> None:
    assert judge(machine, number(machine, name), *arguments) == verdict
    high = tuple(argument | 1 << 40 for argument in arguments)
    assert judge(machine, number(machine, name), *high) == verdict, "the kernel looks no higher"


@MACHINES
@settings(deadline=None)
@given(call=st.integers(0, NUMBER_MAX), flags=st.integers(0, 2**32 - 1))
def test_a_job_that_is_a_program_may_run_what_it_holds_open_and_nothing_else_is_changed(
    machine: str, call: int, flags: int
) -> None:
    execute = number(machine, "execveat")
    asked = (call, 3, 0, 0, 0, flags)
    if call != execute:
        assert judge(machine, *asked, runs_program=True) == judge(machine, *asked)
    for said in (flags, 0, 0x1000, 0x1100):
        verdict = judge(machine, execute, 3, 0, 0, 0, said, runs_program=True)
        assert verdict == (ALLOW if said == 0x1000 else EPERM)
        assert judge(machine, execute, 3, 0, 0, 0, said) == EPERM
    assert judge(machine, number(machine, "execve"), runs_program=True) == EPERM


def test_no_jump_is_longer_than_an_instruction_can_say() -> None:
    for machine in ARCHITECTURES:
        size = len(filter_program(machine))
        assert size % 8 == 0
        assert size // 8 < 4096, "the kernel takes no more"
