"""Deploying functions: a new one, a new version, an old version again."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from peernode.client import blobs
from peernode.client.effects import Object, Operation, send
from peernode.client.errors import ConfigurationError, ProblemError
from peernode.client.objects import (
    change,
    create,
    everything,
    only,
    path_of,
    post,
    resolve_function,
    resolve_project,
)

SOURCE_INLINE_MAX_BYTES = 512 * 1024
"""Larger programs are deployed as a blob. Source: half the JSON body limit, for its escapes."""

WHEEL_MEDIA_TYPE = "application/zip"


def code_of(source: str | Path | None, blob: str | None) -> dict[str, str]:
    """Return a function's code as the API takes it: `{"source": TEXT}` or `{"blob": ID}`."""
    if (source is None) == (blob is None):
        raise ConfigurationError("a function is deployed from a source or from a blob, one of both")
    if blob is not None:
        return {"blob": blob}
    assert source is not None
    if isinstance(source, Path):
        try:
            source = source.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"cannot read {source}: {error}") from error
    if len(source.encode()) > SOURCE_INLINE_MAX_BYTES:
        raise ConfigurationError(
            f"the source is over {SOURCE_INLINE_MAX_BYTES} bytes",
            hint="store it as a blob first, and deploy with blob=ID",
        )
    return {"source": source}


def deploy(
    project: str,
    name: str,
    code: Mapping[str, str],
    runtime: str,
    settings: Mapping[str, Any],
) -> Operation[Object]:
    """Create a function, or give the one of that name a new version."""
    project_id = yield from resolve_project(project)
    found = yield from everything("function", {"project": project_id, "name": name})
    if settings.get("wheels"):
        settings = {**settings, "wheels": (yield from _stored(project_id, settings["wheels"]))}
    if not found:
        body = {"project": project_id, "name": name, "runtime": runtime, **code, **settings}
        try:
            return (yield from create("function", body))
        except ProblemError as problem:
            if problem.code != "name_taken":
                raise
            # Somebody else deployed it between the two calls: ours becomes the next version.
            found = yield from everything("function", {"project": project_id, "name": name})
    return (yield from change("function", only("function", name, found), {**code, **settings}))


def _stored(project: str, wheels: Iterable[str | Path]) -> Operation[list[str]]:
    """Return the blob ids of wheels, of which the files are uploaded."""
    found = []
    for wheel in wheels:
        if isinstance(wheel, Path):
            with blobs.opened(wheel) as file:
                upload = blobs.as_upload(file, None)
                made = yield from blobs.put(upload, project, WHEEL_MEDIA_TYPE, wheel.name)
            found.append(str(made["id"]))
        else:
            found.append(wheel)
    return found


def rollback(function: str, version: int) -> Operation[Object]:
    """Make an earlier version the current one."""
    function_id = yield from resolve_function(function)
    body = {"version": version}
    request = post(path_of("function", function_id, "rollback"), body, repeatable=True)
    return (yield from send(request)).object()
