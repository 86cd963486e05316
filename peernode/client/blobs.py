"""Blobs to and from the node, streamed, however large.

An upload from something that can be read twice is repeated after a lost connection, under its
idempotency key.  A download goes on where it was cut: a blob's content never changes under its id.
"""

import io
import mimetypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

from peernode.client.effects import (
    Close,
    Emit,
    Headers,
    Object,
    Operation,
    Request,
    Upload,
    Wait,
    new_key,
    open_answer,
    read,
    send,
)
from peernode.client.errors import ConfigurationError, ConnectionFailed, ProblemError
from peernode.client.objects import path_of, resolve_project

CUTS_MAX = 8
"""Cuts of a download in a row, without a byte between them, before giving up. Source: guess."""

CUT_DELAY_S = 0.25
"""Pause after a cut. Source: guess; the connection's own policy waits longer if it persists."""

MEDIA_TYPE_DEFAULT = "application/octet-stream"

Progress = Callable[[int, int | None], None]
"""Called with bytes done and bytes in all, `None` when unknown."""


@contextmanager
def opened(content: bytes | str | Path | BinaryIO) -> Iterator[BinaryIO]:
    """Yield a binary file of the content; a path is opened and closed, a file is left open."""
    if isinstance(content, bytes):
        yield io.BytesIO(content)
    elif isinstance(content, str | Path):
        with _open(Path(content), "rb") as file:
            yield file
    else:
        yield content


def name_of(content: object, name: str | None) -> str | None:
    """Return a blob's name: the one given, else that of the file it is read from."""
    return Path(content).name if name is None and isinstance(content, str | Path) else name


def media_type_of(content: object, name: str | None) -> str:
    """Return the media type that a file's name suggests."""
    path = name or (str(content) if isinstance(content, str | Path) else "")
    return mimetypes.guess_type(path)[0] or MEDIA_TYPE_DEFAULT


def as_upload(file: BinaryIO, progress: Progress | None) -> Upload:
    """Return what is left of a binary file as an upload."""
    if not file.seekable():
        return Upload(file=file, start=None, size_bytes=None, progress=progress)
    start = file.tell()
    size_bytes = file.seek(0, io.SEEK_END) - start
    file.seek(start)
    return Upload(file=file, start=start, size_bytes=size_bytes, progress=progress)


def put(upload: Upload, project: str, media_type: str, name: str | None) -> Operation[Object]:
    """Store a blob; returns `{id, cid, size_bytes, media_type, ...}`."""
    query = [("project", (yield from resolve_project(project)))]
    if name is not None:
        query.append(("name", name))
    request = Request(
        method="POST",
        path="/blob",
        query=tuple(query),
        headers=(
            ("content-type", media_type),
            ("idempotency-key", (yield from new_key())),
        ),
        content=upload,
        repeatable=True,
        timeout_s=300.0,  # the answer comes after the last byte is on disk
    )
    return (yield from send(request)).object()


def content(blob_id: str, offset: int = 0, progress: Progress | None = None) -> Operation[int]:
    """Emit a blob's bytes from `offset` to the end, in pieces; return its size."""
    position, cuts = offset, 0
    while True:
        headers: Headers = (("accept-encoding", "identity"),)
        if position:
            headers += (("range", f"bytes={position}-"),)
        request = Request(
            method="GET",
            path=path_of("blob", blob_id, "content"),
            headers=headers,
            repeatable=True,
        )
        try:
            reply = yield from open_answer(request)
            skip = position if reply.status != 206 else 0  # the whole came, though a part was asked
            total = _total_bytes(reply.headers, position - skip)
            while piece := (yield from read()):
                fresh = piece[skip:]
                skip = max(0, skip - len(piece))
                if fresh:
                    position, cuts = position + len(fresh), 0
                    yield Emit(fresh)
                    if progress is not None:
                        progress(position, total)
            if total is None or position >= total:
                return position
            raise ConnectionFailed("the content ended early", sent=True)
        except ConnectionFailed:
            cuts += 1
            if cuts > CUTS_MAX:
                raise
        except ProblemError as problem:
            if problem.status == 416 and position:  # everything was there already
                return position
            raise
        yield Close()
        yield Wait(CUT_DELAY_S * cuts)


def _total_bytes(headers: dict[str, str], start: int) -> int | None:
    _, _, total = headers.get("content-range", "").rpartition("/")
    if total.isdigit():
        return int(total)
    length = headers.get("content-length", "")
    return start + int(length) if length.isdigit() else None


def part_path(path: Path, blob_id: str) -> Path:
    """Return where a download is collected until it is whole."""
    return path.with_name(f"{path.name}.{blob_id}.part")


@contextmanager
def part_file(part: Path) -> Iterator[tuple[BinaryIO, int]]:
    """Yield the partial download, open for appending, and how many bytes it holds."""
    with _open(part, "ab") as file:
        yield file, file.tell()


def _open(path: Path, mode: Literal["rb", "ab"]) -> BinaryIO:
    try:
        return path.open(mode)
    except OSError as error:
        raise ConfigurationError(f"cannot open {path}: {error.strerror}") from error
