"""Wheels, the packages that a Python function brings: looked at, and unpacked, never run.

A wheel is a zip file with its files where they belong, and a `RECORD` that lists each with its
hash.  Installing one is copying: nothing is built, no script of it is run, nothing is asked of the
network.  Its `purelib` and `platlib` are taken; scripts, headers and data are left out.

A wheel is hostile.  Its directory is bounded before the zip library reads it (which would keep as
many entries as there are), so are names, sizes and how much more comes out than is there; links,
ways out of the directory, and what `RECORD` does not vouch for are refused.  The node looks at the
form when a function is deployed (`read_wheel`); the worker unpacks in a process of its own with
limits (`main`), into a directory that is moved to its place when all is right.

Which Pythons a wheel is for is `worker.wheel_names`' affair.
"""

import base64
import csv
import ctypes
import hashlib
import io
import json
import os
import re
import resource
import shutil
import stat
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from worker.wheel_names import NAME_LENGTH_MAX, WheelError, WheelName, parse_name

WHEELS_MAX: Final = 16
"""Most wheels of one function. Source: guess; each is a few lines in the function's record."""
SIZE_MAX_BYTES: Final = 256 << 20
"""Most bytes of all wheels of one function. Source: guess; numpy has 17 MB, opencv 60."""
UNPACKED_MAX_BYTES: Final = 1 << 30
"""Most bytes of all their files. Source: guess, four times what they travel as."""
RATIO_MAX: Final = 100
"""How much larger a wheel's files may be than the wheel. Source: guess; code shrinks to a fifth."""
RATIO_FREE_BYTES: Final = 1 << 20
"""Files that may come out of any wheel. Source: guess; a small wheel may hold a blank table."""
ENTRIES_MAX: Final = 10_000
"""Most entries of a wheel. Source: guess; scipy has 2000."""
DIRECTORY_MAX_BYTES: Final = 2 << 20
"""Largest directory of a zip file. Source: formula, 200 bytes an entry."""
RECORD_MAX_BYTES: Final = 2 << 20
"""Largest `RECORD`. Source: formula, 200 bytes an entry."""
PATH_LENGTH_MAX: Final = 512
DEPTH_MAX: Final = 32
UNPACK_TIME_MAX_S: Final = 60
"""CPU time of unpacking. Source: guess; a gigabyte is hashed and written in ten seconds."""
UNPACK_MEMORY_MAX_BYTES: Final = 512 << 20
MESSAGE_LENGTH_MAX: Final = 1024
READ_SIZE_BYTES: Final = 1 << 20
RESERVED: Final = frozenset({"edge"})
"""Modules that are ours, and that no wheel may bring."""
PR_SET_PDEATHSIG: Final = 1
SIGKILL: Final = 9

_END: Final = struct.Struct("<4s4H2LH")
"""The end of a zip file: mark, disks, entries (twice), size and place of its directory, comment."""
_HASHES: Final = frozenset({"sha256", "sha384", "sha512"})


@dataclass(frozen=True, slots=True)
class Contents:
    """What a wheel's directory says."""

    files: dict[str, zipfile.ZipInfo]
    """By the path at which each is installed."""
    hashes: dict[str, tuple[str, bytes]]
    """Algorithm and digest, by the path within the wheel."""
    size_bytes: int
    """Of all files together."""


# --- looking ------------------------------------------------------------------------------------


def read_wheel(file: BinaryIO, name: str) -> tuple[zipfile.ZipFile, Contents]:
    """Return an open wheel, all but the bytes of its files checked. Raises `WheelError`."""
    said = parse_name(name)
    _check_end(file)
    try:
        archive = zipfile.ZipFile(file)
        entries = archive.infolist()
        if len(entries) > ENTRIES_MAX:
            raise WheelError(f"{name}: over {ENTRIES_MAX} entries")
        by_name = {}
        for entry in entries:
            _check_entry(entry)
            if entry.filename in by_name:
                raise WheelError(f"{entry.filename!r} is there twice")
            if not entry.is_dir():
                by_name[entry.filename] = entry
        size_bytes = sum(entry.file_size for entry in by_name.values())
        packed_bytes = file.seek(0, os.SEEK_END)
        if size_bytes > min(UNPACKED_MAX_BYTES, RATIO_FREE_BYTES + RATIO_MAX * packed_bytes):
            raise WheelError(f"{size_bytes} bytes would come out of {packed_bytes}")
        record = _record(archive, by_name)
        return archive, Contents(_places(by_name, said), record, size_bytes)
    except WheelError as error:
        raise WheelError(f"{name}: {error}") from None
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError) as error:
        raise WheelError(f"{name}: not a zip file that can be read: {error}") from None
    except (ValueError, RuntimeError, OverflowError, struct.error) as error:
        raise WheelError(f"{name}: not a zip file that can be read: {error}") from None


def check_clashes(wheels: Iterable[Contents]) -> None:
    """Raise `WheelError` unless the files of several wheels can stand side by side."""
    files: set[str] = set()
    size_bytes = 0
    for contents in wheels:
        size_bytes += contents.size_bytes
        for path in contents.files:
            if path in files:
                raise WheelError(f"two wheels bring {path!r}")
            files.add(path)
    for path in sorted(files):
        if any(above in files for above in _above(path)):
            raise WheelError(f"{path!r} lies in what is a file")
    if size_bytes > UNPACKED_MAX_BYTES:
        raise WheelError(f"the wheels have over {UNPACKED_MAX_BYTES} bytes of files")


def _above(path: str) -> Iterator[str]:
    at = path.rfind("/")
    while at > 0:
        path = path[:at]
        yield path
        at = path.rfind("/")


def _check_end(file: BinaryIO) -> None:
    """Bound the directory of a zip file: it ends the file, and nothing stands before or behind."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _END.size))
    end = file.read(_END.size)
    if len(end) < _END.size or not end.startswith(b"PK\5\6"):
        raise WheelError("not a zip file, or not all of it")
    _, disk, first, here, entries, length, place, comment = _END.unpack(end)
    if disk or first or here != entries or comment or place + length + _END.size != size:
        raise WheelError("a zip file of a kind that wheels are not")
    if entries > ENTRIES_MAX or length > DIRECTORY_MAX_BYTES:
        raise WheelError(f"over {ENTRIES_MAX} entries, or {DIRECTORY_MAX_BYTES} bytes of names")


def _check_entry(entry: zipfile.ZipInfo) -> None:
    path, shown = entry.filename, repr(entry.orig_filename[:80])
    parts = path.removesuffix("/").split("/")
    if (
        path != entry.orig_filename
        or not path.isprintable()
        or "\\" in path
        or ":" in path
        or any(part in ("", ".", "..") for part in parts)
    ):
        raise WheelError(f"{shown} is not a path within a wheel")
    if len(path.encode()) > PATH_LENGTH_MAX or len(parts) > DEPTH_MAX:
        raise WheelError(f"{shown} is too long")
    if max(len(part.encode()) for part in parts) > NAME_LENGTH_MAX:
        raise WheelError(f"{shown} is too long")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFDIR if entry.is_dir() else stat.S_IFREG):
        raise WheelError(f"{shown} is a link or a device")
    if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise WheelError(f"{shown} is encrypted, or packed in an unusual way")


def _record(
    archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo]
) -> dict[str, tuple[str, bytes]]:
    """Return what `RECORD` says of each file; it must name them all, and no other."""
    found = [path for path in entries if re.fullmatch(r"[^/]+\.dist-info/RECORD", path)]
    if len(found) != 1:
        raise WheelError("it has no RECORD, or several")
    home = found[0].removesuffix("RECORD")
    if home + "WHEEL" not in entries or home + "METADATA" not in entries:
        raise WheelError("it lacks WHEEL or METADATA")
    if entries[found[0]].file_size > RECORD_MAX_BYTES:
        raise WheelError(f"RECORD: over {RECORD_MAX_BYTES} bytes")
    unsigned = {found[0], home + "RECORD.jws", home + "RECORD.p7s"}
    hashes = {}
    try:
        text = archive.read(found[0]).decode()
        for path, digest, size in csv.reader(io.StringIO(text), strict=True):
            if path in unsigned:
                continue
            algorithm, _, value = digest.partition("=")
            if path not in entries or algorithm not in _HASHES or path in hashes:
                raise WheelError(f"RECORD: what it says of {path[:80]!r} cannot be")
            if size and size != str(entries[path].file_size):
                raise WheelError(f"RECORD: {path[:80]!r} has another size")
            hashes[path] = (algorithm, base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)))
    except (csv.Error, ValueError) as error:
        raise WheelError(f"RECORD cannot be read: {error}") from None
    missing = [path for path in entries if path not in hashes and path not in unsigned]
    if missing:
        raise WheelError(f"RECORD does not name {missing[0][:80]!r}")
    return hashes


def _places(entries: dict[str, zipfile.ZipInfo], said: WheelName) -> dict[str, zipfile.ZipInfo]:
    """Return the files that are installed, by where; raises `WheelError` for what is ours."""
    data = f"{said.distribution}-{said.version}.data/"
    places: dict[str, zipfile.ZipInfo] = {}
    for path, entry in entries.items():
        place = path
        if path.startswith(data):
            kind, _, place = path.removeprefix(data).partition("/")
            if kind not in ("purelib", "platlib"):
                continue
        if re.split(r"[./]", place, maxsplit=1)[0] in RESERVED:
            raise WheelError(f"{place!r}: that module is the platform's")
        if place in places:
            raise WheelError(f"{place!r} is there twice")
        places[place] = entry
    return places


# --- unpacking ----------------------------------------------------------------------------------


def unpack(wheels: Iterable[tuple[str, str]], target: Path) -> None:
    """Unpack wheels, `(path, name)` each, into `target`, which is not there yet.

    Raises `WheelError` and `OSError`; then nothing is there.
    """
    part = target.with_name(f"{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of one that was killed
    try:
        part.mkdir(mode=0o755)
        with ExitStack() as files:
            opened = [read_wheel(files.enter_context(open(p, "rb")), n) for p, n in wheels]
            check_clashes([contents for _, contents in opened])
            for archive, contents in opened:
                for place, entry in contents.files.items():
                    _copy(archive, entry, contents, part / place)
        part.chmod(0o755)
        part.rename(target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _copy(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, contents: Contents, to: Path) -> None:
    """Write one file, and compare it with what `RECORD` says."""
    algorithm, expected = contents.hashes.get(entry.filename, ("", b""))
    digest = hashlib.new(algorithm) if algorithm else None
    to.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    try:
        with archive.open(entry) as packed, open(os.open(to, flags, 0o444), "wb") as file:
            while data := packed.read(READ_SIZE_BYTES):
                file.write(data)
                if digest is not None:
                    digest.update(data)
            if file.tell() != entry.file_size:
                raise WheelError(f"{entry.filename!r} has another size")
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError) as error:
        raise WheelError(f"{entry.filename!r} cannot be unpacked: {error}") from None
    if digest is not None and digest.digest() != expected:
        raise WheelError(f"{entry.filename!r} is not what RECORD says")


def main(arguments: list[str]) -> int:
    """Unpack what standard input names (JSON: `[[path, name], ...]`) into the first argument."""
    if "--die-with-parent" in arguments:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    os.nice(10)
    os.umask(0o022)
    for name, most in (
        (resource.RLIMIT_CPU, UNPACK_TIME_MAX_S),
        (resource.RLIMIT_DATA, UNPACK_MEMORY_MAX_BYTES),
        (resource.RLIMIT_FSIZE, UNPACKED_MAX_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(name, (most, most))
    try:
        wheels = [(str(path), str(name)) for path, name in json.load(sys.stdin.buffer)]
        unpack(wheels, Path(arguments[0]))
    except (WheelError, OSError, MemoryError) as error:
        # Not more than a pipe takes: nobody reads it before the end.
        sys.stdout.write((str(error) or type(error).__name__)[:MESSAGE_LENGTH_MAX])
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
