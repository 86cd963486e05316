"""Blobs: storing and fetching files."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from peernode.cli import options, output

app = typer.Typer(help="Blobs: store and fetch files.", no_args_is_help=True)

BlobId = Annotated[str, typer.Argument(help="Id of the blob.")]


@app.command("put")
def put(
    file: Annotated[Path, typer.Argument(help="File to store; - is stdin.")],
    project: Annotated[str, typer.Option(help="Project it belongs to, by name or id.")],
    name: Annotated[str | None, typer.Option(help="Name; the file's own unless said.")] = None,
    media_type: Annotated[str | None, typer.Option(help="Guessed from the name.")] = None,
    url: options.Url = None,
    as_json: options.Json = False,
) -> None:
    """Store a file as a blob."""
    from_stdin = str(file) == "-"
    content = sys.stdin.buffer if from_stdin else file
    name = name or (None if from_stdin else file.name)
    with options.client(url) as client, output.progress(f"storing {file}", "bytes") as move:
        made = client.put_blob(
            content,
            project=project,
            media_type=media_type,
            name=name,
            progress=lambda done, total: move(done, total, ""),
        )
    output.show(made, as_json, ("id", "cid", "size_bytes", "media_type"))


@app.command("get")
def get(
    blob: BlobId,
    to: Annotated[
        Path | None, typer.Argument(help="Where to write it; stdout unless said.")
    ] = None,
    url: options.Url = None,
    as_json: options.Json = False,
) -> None:
    """Fetch a blob; a fetch to a file goes on where an earlier one was cut."""
    if as_json:
        with options.client(url) as client:
            output.print_json(client.get("blob", blob))
            if to is None:
                return
    with options.client(url) as client, output.progress(f"fetching {blob}", "bytes") as move:
        if to is None:
            for piece in client.read_blob(blob):
                sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
        else:
            client.get_blob(blob, to, progress=lambda done, total: move(done, total, ""))


@app.command("ls")
def ls(
    project: Annotated[str | None, typer.Argument(help="Only this project's.")] = None,
    url: options.Url = None,
    as_json: options.Json = False,
) -> None:
    """List blobs."""
    with options.client(url) as client:
        filters = {} if project is None else {"project": client.resolve("project", project)}
        columns = ("id", "name", "size_bytes", "media_type", "cid")
        output.show_list(client.list("blob", **filters), as_json, columns)


@app.command("rm")
def rm(blob: BlobId, url: options.Url = None, as_json: options.Json = False) -> None:
    """Delete a blob, for ever."""
    with options.client(url) as client:
        client.delete("blob", blob)
    if as_json:
        output.print_json({"id": blob, "deleted": True})
