"""Secrets of a project: they go in by stdin or a prompt, and never come out."""

import sys
from typing import Annotated

import typer

from peernode.cli import options, output

app = typer.Typer(
    help="Secrets that only functions of a project read: edge.secret(NAME).", no_args_is_help=True
)

Project = Annotated[str, typer.Argument(help="Project, by name or id.")]
Name = Annotated[str, typer.Argument(help="[A-Za-z_][A-Za-z0-9_.-]*, 64 characters at most.")]


@app.command("set")
def set_(
    project: Project,
    name: Name,
    node: Annotated[
        list[str] | None,
        typer.Option(help="Node that may read it, by id or peer id; repeatable. Default: this."),
    ] = None,
    url: options.Url = None,
    as_json: options.Json = False,
) -> None:
    """Set a secret, from stdin (without its last line end) or a prompt."""
    value = _value()
    with options.client(url) as client:
        made = client.set_secret(project, name, value, node or ())
        output.show(made, as_json, ("id", "name", "secrets"))


@app.command("ls")
def ls(project: Project, url: options.Url = None, as_json: options.Json = False) -> None:
    """List the secrets of a project, and the nodes that can read each."""
    with options.client(url) as client:
        found = client.get("project", client.resolve("project", project))
        output.show_list(found["secrets"], as_json, ("name", "nodes"))


@app.command("rm")
def rm(
    project: Project, name: Name, url: options.Url = None, as_json: options.Json = False
) -> None:
    """Remove a secret. Whoever has read it still knows it: give it a new value where it is used."""
    with options.client(url) as client:
        left = client.remove_secret(project, name)
        output.show(left, as_json, ("id", "name", "secrets"))


def _value() -> str:
    if sys.stdin.isatty():
        value: str = typer.prompt("Value", hide_input=True, confirmation_prompt=True, err=True)
        return value
    try:
        text = sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise typer.BadParameter("stdin: not UTF-8; encode bytes as text first") from error
    return text.removesuffix("\n").removesuffix("\r")
