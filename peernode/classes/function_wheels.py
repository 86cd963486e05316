"""The wheels that a deployment brings: blobs, looked at and kept with the function.

What is looked at is the form, without unpacking anything: a worker compares the bytes with their
hashes when it installs them.
"""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from peernode import access
from peernode.attributes import Version
from peernode.blob_files import BlobFile
from peernode.calls import Call
from peernode.classes.function_bodies import Create, Set
from peernode.content import Content
from peernode.problems import Problem
from peernode.transactions import Transaction
from peernode.wheel_rows import Wheel
from worker.protocol import Isolation
from worker.wheel_names import WheelError, parse_name
from worker.wheels import SIZE_MAX_BYTES, WHEELS_MAX, check_clashes, read_wheel

if TYPE_CHECKING:
    from peernode.node import Node


@dataclass(frozen=True, slots=True)
class Brought:
    """A wheel, and the blob it comes from."""

    blob: int
    wheel: Wheel


async def brought(
    node: "Node", call: Call, project: int, runtime: str, body: Create | Set
) -> list[Brought]:
    """Return the wheels a body brings, checked; raises `Problem`."""
    if not body.wheels:
        return []
    if runtime != "python":
        raise _invalid(f"a function of runtime {runtime} brings none")
    if len(body.wheels) > WHEELS_MAX:
        raise Problem(
            "too_large", f"wheels: at most {WHEELS_MAX}", field="wheels", limit=WHEELS_MAX
        )
    found = [_brought(node, call, project, text) for text in dict.fromkeys(body.wheels)]
    if sum(one.wheel.size_bytes for one in found) > SIZE_MAX_BYTES:
        raise Problem(
            "too_large",
            f"wheels: over {SIZE_MAX_BYTES} bytes together",
            field="wheels",
            limit=SIZE_MAX_BYTES,
        )
    names = [parse_name(one.wheel.name).distribution.lower() for one in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise _invalid(f"{twice[0]!r} is there twice")
    try:
        await node.content.offload(_look, node.content, [one.wheel for one in found])
    except WheelError as error:
        raise _invalid(str(error)) from None
    return found


def check_level(isolation: Isolation | None, *, brings: bool) -> None:
    """Raise a `Problem` for a level at which no worker has a place for wheels."""
    if brings and isolation == "wasm":
        raise Problem(
            "invalid_field",
            "isolation: Python inside WebAssembly cannot import wheels",
            field="isolation",
            hint="sandbox, or a function without wheels",
        )


def keep(node: "Node", transaction: Transaction, function: int, found: Iterable[Brought]) -> None:
    """Keep wheels with their function; raises the `Problem` `not_found` if a blob has gone."""
    for one in found:
        if not node.content.keep_blob(transaction, function, one.blob, one.wheel.cid):
            raise _missing(str(one.blob))


def brings(version: Version, body: Set) -> bool:
    """Tell whether a function has wheels after a change."""
    return bool(version.wheels if body.wheels is None else body.wheels)


def _brought(node: "Node", call: Call, project: int, text: str) -> Brought:
    try:
        blob = access.readable_blob(node, call.actor, text)
    except Problem:
        raise _missing(text) from None
    row = node.content.row(blob)
    if row is None:
        raise _missing(text)
    if row.project != project:
        raise _invalid(f"blob {text} is not of the function's project")
    try:
        parse_name(row.name)
    except WheelError as error:
        raise _invalid(f"the name of blob {text}: {error}") from None
    return Brought(blob, Wheel(row.cid, row.size_bytes, row.name))


def _look(content: Content, wheels: list[Wheel]) -> None:
    """Look at wheels, in the calling thread. Raises `WheelError`, `BlobError`."""
    looked = []
    for wheel in wheels:
        with io.BufferedReader(BlobFile(content, wheel.cid, wheel.size_bytes)) as file:
            looked.append(read_wheel(file, wheel.name)[1])
    check_clashes(looked)


def _missing(text: str) -> Problem:
    return Problem(
        "not_found", f"wheels: there is no blob {text!r} that you may read", field="wheels"
    )


def _invalid(detail: str) -> Problem:
    return Problem("invalid_source", f"wheels: {detail}", field="wheels")
