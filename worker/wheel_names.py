"""Which Pythons a wheel is for: what its file name says (PEP 427), against what a worker offers.

It knows CPython and the GNU C library: a wheel for another interpreter, or for musl, fits nowhere.
"""

import re
from typing import Final, NamedTuple

from worker.protocol import Offer

NAME_LENGTH_MAX: Final = 240
"""Longest file name of a wheel. Source: the protocol's longest word."""

_NAME: Final = re.compile(
    r"(?P<distribution>[A-Za-z0-9](?:[A-Za-z0-9._]*[A-Za-z0-9])?)-(?P<version>[A-Za-z0-9._!+]+)"
    r"(?:-[0-9][A-Za-z0-9._]*)?-(?P<python>[a-z0-9_.]+)-(?P<abi>[a-z0-9_.]+)"
    r"-(?P<platform>[A-Za-z0-9_.]+)\.whl",
    re.ASCII,
)
_GNU: Final = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}
_MANYLINUX: Final = re.compile(r"manylinux_([0-9]{1,3})_([0-9]{1,3})_(.+)", re.ASCII)


class WheelError(Exception):
    """A file is no wheel that can be installed; the argument says why."""


class WheelName(NamedTuple):
    """What a wheel's file name says."""

    distribution: str
    version: str
    tags: str
    """`"<python>-<abi>-<platform>"`, each one or several with dots between."""


def parse_name(text: str) -> WheelName:
    """Return what a file name says. Raises `WheelError` if it is not a wheel's (PEP 427)."""
    found = _NAME.fullmatch(text) if len(text) <= NAME_LENGTH_MAX else None
    if found is None:
        raise WheelError(
            f"{text[:80]!r} is not a wheel's name: NAME-VERSION-PYTHON-ABI-PLATFORM.whl"
        )
    tags = "-".join((found["python"], found["abi"], found["platform"]))
    return WheelName(found["distribution"], found["version"], tags)


def fits(tags: str, offer: Offer) -> bool:
    """Tell whether a worker's Python can load a wheel with these tags (see `WheelName`)."""
    pythons, abis, platforms = tags.split("-")
    minor = _minor(offer.python)
    return any(
        _python_fits(python, abi, minor) for python in pythons.split(".") for abi in abis.split(".")
    ) and any(_platform_fits(platform, offer) for platform in platforms.split("."))


def _minor(version: str) -> int:
    """Return the y of Python 3.y.z, or -1 where that is not known."""
    major, _, rest = version.partition(".")
    minor = rest.partition(".")[0]
    return int(minor) if major == "3" and minor.isdigit() and minor.isascii() else -1


def _python_fits(python: str, abi: str, minor: int) -> bool:
    if python == "py3":
        return abi == "none"
    wanted = python[3:]
    if not (wanted.isdigit() and wanted.isascii() and len(wanted) < 4) or minor < 0:
        return False
    match python[:3], abi:
        case ("py3", "none") | ("cp3", "abi3"):
            return int(wanted) <= minor
        case "cp3", _:
            return int(wanted) == minor and abi in ("none", f"cp3{minor}")
        case _:
            return False


def _platform_fits(platform: str, offer: Offer) -> bool:
    if platform == "any":
        return True
    if offer.system not in ("", "Linux"):
        return False
    if platform == f"linux_{offer.arch}":
        return True
    found = _MANYLINUX.fullmatch(platform)
    if found is not None:
        needed, arch = (int(found[1]), int(found[2])), found[3]
    else:
        old, _, arch = platform.partition("_")
        if old not in _GNU:
            return False
        needed = _GNU[old]
    return arch == offer.arch and needed <= _gnu_version(offer.libc)


def _gnu_version(libc: str) -> tuple[int, int]:
    found = re.fullmatch(r"glibc ([0-9]{1,3})\.([0-9]{1,3}).*", libc, re.ASCII)
    return (int(found[1]), int(found[2])) if found else (0, 0)
