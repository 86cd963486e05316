"""Functions: deploying, listing, rolling back."""

from pathlib import Path
from typing import Annotated

import typer

from peernode.cli import options, output

app = typer.Typer(help="Functions: deploy, list, roll back.", no_args_is_help=True)

HEAD_BYTES = 4096
"""How much of a file is looked at. Source: a module begins with 8 bytes that tell it."""

Name = Annotated[str, typer.Argument(help="Function, as PROJECT/NAME.")]
JsonText = Annotated[str | None, typer.Option(metavar="JSON|@FILE")]


@app.command("deploy")
def deploy(
    name: Name,
    source: Annotated[Path | None, typer.Argument(help="Source file; none with --blob.")] = None,
    blob: Annotated[str | None, typer.Option(help="Id of the blob that holds the program.")] = None,
    runtime: Annotated[str, typer.Option(help="python, wasm, onnx or exec.")] = "python",
    entry: Annotated[str | None, typer.Option(help="Name of the function to call.")] = None,
    isolation: Annotated[str | None, typer.Option(help="wasm, sandbox or process.")] = None,
    wheel: Annotated[
        list[Path] | None, typer.Option(help="Wheel that it imports; may be said several times.")
    ] = None,
    requires: JsonText = None,
    prefers: JsonText = None,
    limits: JsonText = None,
    retry: JsonText = None,
    input_schema: JsonText = None,
    url: options.Url = None,
    as_json: options.Json = False,
) -> None:
    """Make a function, or give it a new version."""
    project, separator, function = name.rpartition("/")
    if not separator:
        raise typer.BadParameter(f"{name!r} is not PROJECT/NAME")
    if (source is None) == (blob is None):
        raise typer.BadParameter("give a source file or --blob, one of both")
    attributes = {
        "entry": entry,
        "isolation": isolation,
        "wheels": wheel or None,
        "requires": options.json_object(requires, "--requires"),
        "prefers": options.json_object(prefers, "--prefers"),
        "limits": options.json_object(limits, "--limits"),
        "retry": options.json_object(retry, "--retry"),
        "input_schema": options.json_object(input_schema, "--input-schema"),
    }
    stated = {key: value for key, value in attributes.items() if value is not None}
    with options.client(url) as client:
        if source is not None and _is_binary(source):
            blob, source = str(client.put_blob(source, project=project)["id"]), None
        made = client.deploy(project, function, source, blob=blob, runtime=runtime, **stated)
        output.show(made.attributes, as_json, ("id", "name", "version", "runtime"))


def _is_binary(source: Path) -> bool:
    """Return whether a file is a module or model that no JSON text can hold."""
    try:
        with source.open("rb") as file:
            return b"\0" in file.read(HEAD_BYTES)
    except OSError:
        return False  # said better by who reads it next


@app.command("ls")
def ls(
    project: Annotated[str | None, typer.Argument(help="Only this project's.")] = None,
    url: options.Url = None,
    as_json: options.Json = False,
) -> None:
    """List functions."""
    with options.client(url) as client:
        filters = {} if project is None else {"project": client.resolve("project", project)}
        columns = ("id", "name", "project", "version", "runtime", "created_at")
        output.show_list(client.list("function", **filters), as_json, columns)


@app.command("rollback")
def rollback(
    name: Name,
    version: Annotated[int, typer.Argument(help="Version to make the current one.")],
    url: options.Url = None,
    as_json: options.Json = False,
) -> None:
    """Make an earlier version the current one."""
    with options.client(url) as client:
        output.show(client.rollback(name, version), as_json, ("id", "name", "version"))
