"""The filter of system calls: what a job may not ask the kernel for at all.

Allowed is what is not denied, because numerical libraries use most of the interface; but only
among the calls of known numbers.  What a newer kernel adds is answered `ENOSYS`, as an older one
would; a call of another architecture ends the process.  Denied calls are answered `EPERM`.

* no sockets of any family; a `socketpair` of the Unix family, which reaches nobody, is allowed
  (`asyncio` needs one), and out-of-band data is not, the buggiest corner of that family;
* no program is run (where the job is a program, by an open descriptor only: what can be opened to
  be run is Landlock's affair, and nothing can), no namespace entered, nothing mounted, no other
  process looked into;
* nothing that holds memory which no limit counts: System V and POSIX message queues, shared memory,
  memory files;
* no corner of the kernel that exploits like and functions do not need: bpf, io_uring, keys, perf
  events, userfaultfd, modules, clocks;
* a job may not undo that it dies with its worker (`PR_SET_PDEATHSIG`).

The program is classic BPF, made here by hand: 8 bytes an instruction, three kinds of them.
"""

import errno
import struct
from collections.abc import Mapping
from typing import Final

_LOAD, _EQUAL, _GREATER, _ANY_BIT, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16
_ALLOW: Final = 0x7FFF0000
_KILL: Final = 0x80000000
_ERROR: Final = 0x00050000

ARCHITECTURES: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""Machines with a table here -> their `AUDIT_ARCH`."""
NUMBER_MAX: Final = 462
"""Last call known here, `mseal`. Source: Linux 6.10."""

_NAMESPACES: Final = 0x7E020080
"""All `CLONE_NEW...`."""
_UNIX: Final = 1
_OUT_OF_BAND: Final = 1
_PDEATHSIG: Final = 1
_EMPTY_PATH: Final = 0x1000

DENIED: Final[Mapping[str, tuple[int | None, int | None]]] = {
    "socket": (41, 198),
    "connect": (42, 203),
    "accept": (43, 202),
    "accept4": (288, 242),
    "bind": (49, 200),
    "listen": (50, 201),
    "execve": (59, 221),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "mount_setattr": (442, 442),
    "statmount": (457, 457),
    "listmount": (458, 458),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "shmdt": (67, 197),
    "semget": (64, 190),
    "semop": (65, 193),
    "semctl": (66, 191),
    "semtimedop": (220, 192),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "mq_timedsend": (242, 182),
    "mq_timedreceive": (243, 183),
    "mq_notify": (244, 184),
    "mq_getsetattr": (245, 185),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "bpf": (321, 280),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "vmsplice": (278, 75),
    "remap_file_pages": (216, 234),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "create_module": (174, None),
    "query_module": (178, None),
    "get_kernel_syms": (177, None),
    "acct": (163, 89),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "personality": (135, 92),
    "lookup_dcookie": (212, 18),
    "syslog": (103, 116),
    "vhangup": (153, 58),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "nfsservctl": (180, 42),
    "uselib": (134, None),
    "_sysctl": (156, None),
    "sysfs": (139, None),
    "ustat": (136, None),
    "lsm_get_self_attr": (459, 459),
    "lsm_set_self_attr": (460, 460),
    "lsm_list_modules": (461, 461),
}
"""Calls that are always denied -> their numbers on x86-64 and arm64."""

_EXECVEAT: Final = (322, 281)
_CLONE: Final = (56, 220)
_CLONE3: Final = (435, 435)
_PRCTL: Final = (157, 167)
_SOCKETPAIR: Final = (53, 199)
_FLAGS: Final = {
    "sendto": ((44, 206), 3),
    "sendmsg": ((46, 211), 2),
    "sendmmsg": ((307, 269), 3),
    "recvfrom": ((45, 207), 3),
    "recvmsg": ((47, 212), 2),
    "recvmmsg": ((299, 243), 3),
}
"""Calls whose flags can ask for out-of-band data -> their numbers, and which argument that is."""


def filter_program(machine: str, *, runs_program: bool = False) -> bytes:
    """Return the filter for a machine of `ARCHITECTURES`.

    `runs_program`: a program may be run by its open descriptor.
    """
    column = list(ARCHITECTURES).index(machine)
    denied = _return(_ERROR | errno.EPERM)
    unknown = _return(_ERROR | errno.ENOSYS)
    rows = [_load(_ARCHITECTURE_AT), _skip_if(_EQUAL, ARCHITECTURES[machine]), _return(_KILL)]
    # The x32 calls of x86-64 have a high bit set, and so are beyond the known ones.
    rows += [_load(_NUMBER_AT), _skip_unless(_GREATER, NUMBER_MAX), unknown]
    for numbers in DENIED.values():
        number = numbers[column]
        if number is not None:
            rows += [_skip_unless(_EQUAL, number), denied]
    # Who is told that there is no `clone3` uses `clone`, whose flags can be judged.
    rows += [_skip_unless(_EQUAL, _CLONE3[column]), unknown]
    by_descriptor = [_skip_if(_EQUAL, _EMPTY_PATH)] if runs_program else []
    rows += _argument(_EXECVEAT[column], 4, [*by_descriptor, denied])
    rows += _argument(_CLONE[column], 0, [_skip_unless(_ANY_BIT, _NAMESPACES), denied])
    rows += _argument(_SOCKETPAIR[column], 0, [_skip_if(_EQUAL, _UNIX), denied])
    rows += _argument(_PRCTL[column], 0, [_skip_unless(_EQUAL, _PDEATHSIG), denied])
    for both, place in _FLAGS.values():
        rows += _argument(both[column], place, [_skip_unless(_ANY_BIT, _OUT_OF_BAND), denied])
    return b"".join([*rows, _return(_ALLOW)])


def _argument(number: int, place: int, rows: list[bytes]) -> list[bytes]:
    """Return what judges the low half of an argument of one call, which `rows` may deny."""
    judged = [_load(_ARGUMENTS_AT + 8 * place), *rows, _return(_ALLOW)]
    return [_row(_EQUAL, number, 0, len(judged)), *judged]


def _row(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    return struct.pack("=HBBI", code, then, otherwise, value)


def _load(offset: int) -> bytes:
    return _row(_LOAD, offset)


def _return(value: int) -> bytes:
    return _row(_RETURN, value)


def _skip_if(code: int, value: int) -> bytes:
    return _row(code, value, 1, 0)


def _skip_unless(code: int, value: int) -> bytes:
    return _row(code, value, 0, 1)
