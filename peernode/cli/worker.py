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
    isolation: Annotated[
        str | None,
        typer.Option(
            metavar="wasm|sandbox|process",
            help="Weakest level it gives [sandbox]; process: for your own functions only.",
        ),
    ] = None,
    directory: Annotated[
        Path | None, typer.Option(help="For key, scratch and cache [~/.cache/peernode/worker].")
    ] = None,
) -> None:
    """Lend this machine to a node, in the foreground."""
    from peernode.cli import attach as process

    where, worker = attach_url(url, token)
    base = os.environ.get("XDG_CACHE_HOME", "")
    place = (Path(base) if base else Path.home() / ".cache") / "peernode" / "worker"
    labels = options.pairs(label, "--label")
    lent = process.Settings(slots, directory or place, labels, options.level(isolation))
    raise typer.Exit(process.attach(where, worker, token, lent))


def attach_url(url: str, token: str) -> tuple[str, int]:
    """Return where the worker that `token` names attaches, and its id.

    Raises `typer.BadParameter`.
    """
    from peernode.client import settings

    parts = token.split(".")
    if len(parts) < 3 or not parts[1].isdigit():
        raise typer.BadParameter(
            "--token: not a worker's token; `peernode worker create` makes one"
        )
    base = settings.clean_url(url).replace("http", "ws", 1)
    return f"{base}/worker/{parts[1]}/attach", int(parts[1])


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
