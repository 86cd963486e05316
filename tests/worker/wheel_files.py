"""Wheels for tests, right and wrong ones."""

import base64
import hashlib
import io
import zipfile
from collections.abc import Mapping

NAME = "greeting-1.0-py3-none-any.whl"
GREETING = {"greeting/__init__.py": b"def greet():\n    return 'hello'\n"}


def hash_of(data: bytes) -> str:
    digest = hashlib.sha256(data).digest()
    return "sha256=" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def make_wheel(
    files: Mapping[str, bytes] = GREETING,
    *,
    home: str = "greeting-1.0.dist-info",
    record: str | None = None,
    lies: Mapping[str, str] | None = None,
    extra: Mapping[zipfile.ZipInfo | str, bytes] | None = None,
    compression: int = zipfile.ZIP_DEFLATED,
) -> bytes:
    """Return a wheel of these files; `lies`: lines of `RECORD` by path, `extra`: not in it."""
    inside = {
        **files,
        f"{home}/METADATA": b"Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n",
        f"{home}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    lines = {path: f"{path},{hash_of(data)},{len(data)}" for path, data in inside.items()}
    lines |= lies or {}
    text = "\n".join([*lines.values(), f"{home}/RECORD,,", ""]) if record is None else record
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for path, data in inside.items():
            archive.writestr(path, data)
        for entry, data in (extra or {}).items():
            archive.writestr(entry, data)
        archive.writestr(f"{home}/RECORD", text)
    return file.getvalue()


def link(path: str) -> zipfile.ZipInfo:
    """Return an entry that is a symbolic link."""
    entry = zipfile.ZipInfo(path)
    entry.external_attr = 0o120777 << 16
    return entry


def hostile_wheels() -> dict[str, tuple[bytes, str]]:
    """Return wheels that are refused, and what the refusal says, by what is wrong with them."""
    good = make_wheel()
    zeros = bytes(64 << 20)
    declared = bytearray(make_wheel({"greeting.py": b"x" * 50}))
    place = declared.rindex(b"greeting.py", 0, declared.rindex(b"METADATA")) - 46 + 24
    declared[place : place + 4] = (1 << 30).to_bytes(4, "little")
    return {
        "nothing": (b"", "not a zip file"),
        "no zip file": (b"#!/bin/sh\n" * 100, "not a zip file"),
        "half of one": (good[: len(good) // 2], "not a zip file"),
        "one with a tail": (good + b"tail", "not a zip file"),
        "one behind something": (b"#!/bin/sh\n" + good, "of a kind"),
        "one with a comment": (good[:-2] + b"\x04\x00tail", "not a zip file"),
        "a way up": (make_wheel(GREETING | {"../escape.py": b""}), "not a path"),
        "a way up inside": (make_wheel(GREETING | {"a/../../escape.py": b""}), "not a path"),
        "an absolute path": (make_wheel(GREETING | {"/tmp/escape.py": b""}), "not a path"),
        "a drive": (make_wheel(GREETING | {"C:escape.py": b""}), "not a path"),
        "a backslash": (make_wheel(GREETING | {"..\\escape.py": b""}), "not a path"),
        "a control character": (make_wheel(GREETING | {"a\nb.py": b""}), "not a path"),
        "a long name": (make_wheel(GREETING | {"a" * 250: b""}), "too long"),
        "a deep path": (make_wheel(GREETING | {"a/" * 40 + "b": b""}), "too long"),
        "a link": (make_wheel(extra={link("greeting/link"): b"/etc/passwd"}), "a link"),
        "a bomb": (make_wheel(GREETING | {"zeros": zeros}), "would come out"),
        "a declared bomb": (bytes(declared), "would come out"),
        "many entries": (make_wheel({f"{n}.py": b"" for n in range(10_001)}), "over 10000"),
        "another packing": (make_wheel(compression=zipfile.ZIP_LZMA), "unusual way"),
        "edge": (make_wheel({"edge.py": b""}), "platform's"),
        "edge as a package": (make_wheel({"edge/__init__.py": b""}), "platform's"),
        "edge in its data": (
            make_wheel({"greeting-1.0.data/purelib/edge.py": b""}),
            "platform's",
        ),
        "the same file twice": (
            make_wheel(GREETING | {"greeting-1.0.data/purelib/greeting/__init__.py": b""}),
            "twice",
        ),
        "a file that is a directory": (
            make_wheel({"greeting": b"", "greeting/__init__.py": b""}),
            "what is a file",
        ),
        "no RECORD": (make_wheel(home="greeting"), "no RECORD"),
        "a RECORD that is no table": (make_wheel(record="one\n"), "RECORD cannot be read"),
        "a RECORD of bytes": (make_wheel(record="\0\0"), "RECORD"),
        "a file that RECORD leaves out": (make_wheel(extra={"more.py": b""}), "does not name"),
        "a file that RECORD makes up": (make_wheel(lies={"x": "x.py,sha256=,0"}), "cannot be"),
        "a weak hash": (
            make_wheel(lies={"greeting/__init__.py": "greeting/__init__.py,md5=AA,32"}),
            "cannot be",
        ),
        "another size": (
            make_wheel(lies={"greeting/__init__.py": "greeting/__init__.py,sha256=AA,9"}),
            "another size",
        ),
    }
