"""Workers: lending this machine to a node, and an operator's view of who lends theirs."""

import os
from pathlib import Path
from typing import Annotated

import typer

from peernode.cli import options, output

app = typer.Typer(help="Workers: attach this machine, make tokens, list.", no_args_is_help=True)

Labels = Annotated[
    list[str] | None, typer.Option("--label", metavar="NAME=VALUE", help="May be repeated.")
]
TOKEN_VARIABLE = "PEERNODE_WORKER_TOKEN"  # noqa: S105  (a name, not a token)


@app.command("attach")
def attach(
    url: Annotated[str, typer.Argument(help="URL of the node.")],
    token: Annotated[
        str, typer.Option(envvar=TOKEN_VARIABLE, help="What `worker create` gave for this machine.")
    ],
    slots: Annotated[int, typer.Option(min=0, help="Jobs at once; 0: one a core.")] = 0,
    label: Labels = None,
    directory: Annotated[
        Path | None, typer.Option(help="For scratch and cache [~/.cache/peernode/worker].")
    ] = None,
) -> None:
    """Lend this machine to a node, in the foreground."""
    from worker import agent

    base = os.environ.get("XDG_CACHE_HOME", "")
    place = (Path(base) if base else Path.home() / ".cache") / "peernode" / "worker"
    arguments = ["--url", attach_url(url, token), "--token-file", "-", "--slots", str(slots)]
    arguments += ["--directory", str(directory or place)]
    for name, value in options.pairs(label, "--label").items():
        arguments += ["--label", f"{name}={value}"]
    # The agent reads its token from the standard input, and so do no children of it.
    reader, writer = os.pipe()
    os.write(writer, token.encode() + b"\n")
    os.close(writer)
    os.dup2(reader, 0)
    os.close(reader)
    raise typer.Exit(agent.main(arguments))


def attach_url(url: str, token: str) -> str:
    """Return where the worker that `token` names attaches. Raises `typer.BadParameter`."""
    from peernode.client import settings

    parts = token.split(".")
    if len(parts) < 3 or not parts[1].isdigit():
        raise typer.BadParameter(
            "--token: not a worker's token; `peernode worker create` makes one"
        )
    return f"{settings.clean_url(url).replace('http', 'ws', 1)}/worker/{parts[1]}/attach"


@app.command("create")
def create(
    name: Annotated[str | None, typer.Option(help="Name for people.")] = None,
    label: Labels = None,
    data: options.Data = None,
    url: options.Url = None,
    as_json: options.Json = False,
) -> None:
    """Make a token with which a machine may attach (operator)."""
    body = {"name": name, "labels": options.pairs(label, "--label")}
    with options.operator(data, url) as client:
        made = client.create("worker", {key: value for key, value in body.items() if value})
        output.show(made, as_json, ("id", "token"))
        if not as_json:
            output.note(f"on the machine: peernode worker attach {client.url} --token TOKEN")


@app.command("ls")
def ls(data: options.Data = None, url: options.Url = None, as_json: options.Json = False) -> None:
    """List the workers of this node."""
    with options.operator(data, url) as client:
        columns = ("id", "name", "state", "running", "leased", "labels")
        output.show_list(client.list("worker"), as_json, columns)
