"""Workers: lending this machine to a node, and an operator's view of who lends theirs."""

import os
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from peernode.cli import options, output

app = typer.Typer(help="Workers: attach this machine, make tokens, list.", no_args_is_help=True)

Labels = Annotated[
    list[str] | None, typer.Option("--label", metavar="NAME=VALUE", help="May be repeated.")
]
WorkerId = Annotated[str, typer.Argument(metavar="WORKER", help="Its id.")]
COLUMNS = (
    "id",
    "name",
    "state",
    "running",
    "leased",
    "slots",
    "arch",
    "memory",
    "accelerators",
    "speed_rounds_per_s",
    "labels",
)
STANDING = ("id", "name", "state", "running", "leased", "drain_until")
LOOK_AGAIN_S = 0.5
"""Between two looks at a worker that drains. Source: guess; a person waits."""
TOKEN_VARIABLE = "PEERNODE_WORKER_TOKEN"  # noqa: S105  (a name, not a token)


@app.command("attach")
def attach(
    url: Annotated[str, typer.Argument(help="URL of the node.")],
    token: Annotated[
        str,
        typer.Option(
            envvar=TOKEN_VARIABLE,
            help="What `worker create` gave for this machine; needed once.",
        ),
    ] = "",
    slots: Annotated[int, typer.Option(min=0, help="Jobs at once; 0: one a core.")] = 0,
    label: Labels = None,
    isolation: Annotated[
        str | None,
        typer.Option(
            metavar="wasm|sandbox|process",
            help="Weakest level it gives, default sandbox; process: for your own functions only.",
        ),
    ] = None,
    directory: Annotated[
        Path | None, typer.Option(help="For key, scratch and cache [~/.cache/peernode/worker].")
    ] = None,
    egress_networks: Annotated[
        str,
        typer.Option(metavar="NETWORK,...", help="Private networks that functions may reach."),
    ] = "",
    backends: Annotated[
        str, typer.Option(metavar="NAME,...", help="What may run models, best first; default all.")
    ] = "",
) -> None:
    """Lend this machine to a node, in the foreground."""
    from peernode.cli import attach as process
    from worker.backends import parse_backends
    from worker.egress_addresses import parse_networks

    base = os.environ.get("XDG_CACHE_HOME", "")
    place = directory or (Path(base) if base else Path.home() / ".cache") / "peernode" / "worker"
    worker, pin = _worker_of(token, place)
    where = attach_url(url, worker, pin)
    credentials = process.load_credentials(place, worker, token, pin)
    labels = options.pairs(label, "--label")
    try:
        networks = parse_networks(egress_networks)
    except ValueError as error:
        raise typer.BadParameter(f"--egress-networks: {error}") from None
    try:
        chosen = parse_backends(backends)
    except ValueError as error:
        raise typer.BadParameter(f"--{error}") from None
    lent = process.Settings(
        slots=slots,
        directory=place,
        labels=labels,
        isolation=options.level(isolation),
        egress_networks=networks,
        backends=chosen,
    )
    raise typer.Exit(process.attach(where, credentials, lent))


def _worker_of(token: str, directory: Path) -> tuple[int, str]:
    """Return the worker to be, and its node's pin: as the token says, or as was kept."""
    from peernode.cli import attach as process

    if token:
        worker, pin = read_token(token)
    else:
        known = process.known_workers(directory)
        if len(known) != 1:
            found = ", ".join(str(worker) for worker in known) or "none"
            raise typer.BadParameter(
                f"--token: needed, since {directory} does not hold the key of one worker ({found})"
            )
        worker, pin = known[0], ""
    # A token without a pin does not take one away: who changes the text could read what follows.
    return worker, pin or process.kept_pin(directory, worker)


def read_token(token: str) -> tuple[int, str]:
    """Return the worker that a token names, and the pin in it or "".

    Raises `typer.BadParameter`.
    """
    from peernode.workers import pin_in, pinned_key
    from worker.certificate_pin import is_pin

    parts = token.split(".")
    if len(parts) < 3 or not parts[1].isdigit():
        raise typer.BadParameter(
            "--token: not a worker's token; `peernode worker create` makes one"
        )
    pin = pin_in(token)
    if pin and not (is_pin(pin) or pinned_key(pin)):
        raise typer.BadParameter(
            "--token: its last part should be the pin of the node: copy all of it"
        )
    return int(parts[1]), pin


def attach_url(url: str, worker: int, pin: str) -> str:
    """Return where `worker` attaches. Raises `typer.BadParameter`."""
    from peernode.client import settings
    from peernode.workers import pinned_key
    from worker.websocket_link import check_address

    base = settings.clean_url(url)
    try:
        check_address(base, "" if pinned_key(pin) else pin)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return f"{base.replace('http', 'ws', 1)}/worker/{worker}/attach"


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
            where = options.public_url(data, url) or client.url
            output.note(f"on the machine: peernode worker attach {where} --token TOKEN")


@app.command("ls")
def ls(data: options.Data = None, url: options.Url = None, as_json: options.Json = False) -> None:
    """List the workers of this node."""
    with options.operator(data, url) as client:
        workers = client.list("worker")
        output.show_list(workers if as_json else map(_row, workers), as_json, COLUMNS)


@app.command("show")
def show(
    worker: WorkerId,
    data: options.Data = None,
    url: options.Url = None,
    as_json: options.Json = False,
) -> None:
    """Show a worker, and all that it measured about its machine."""
    with options.operator(data, url) as client:
        found = client.get("worker", worker)
    if not as_json:
        offer = found.pop("offer") or {}
        offer.pop("labels", None)
        found |= {f"offer.{name}": value for name, value in offer.items()}
    output.show(found, as_json)


@app.command("cordon")
def cordon(
    worker: WorkerId,
    data: options.Data = None,
    url: options.Url = None,
    as_json: options.Json = False,
) -> None:
    """Give a worker no new jobs; what it holds stays there."""
    with options.operator(data, url) as client:
        output.show(client.method("worker", worker, "cordon"), as_json, STANDING)


@app.command("drain")
def drain(
    worker: WorkerId,
    deadline_s: Annotated[
        float | None,
        typer.Option(min=0, help="What still runs then goes elsewhere; default never."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until it holds nothing.")] = False,
    data: options.Data = None,
    url: options.Url = None,
    as_json: options.Json = False,
) -> None:
    """Empty a worker: no new jobs, and back with what has not started."""
    stated = {} if deadline_s is None else {"deadline_s": deadline_s}
    with options.operator(data, url) as client:
        found = client.method("worker", worker, "drain", stated)
        while wait and found["state"] == "draining":
            time.sleep(LOOK_AGAIN_S)
            found = client.get("worker", worker)
        output.show(found, as_json, STANDING)


@app.command("resume")
def resume(
    worker: WorkerId,
    data: options.Data = None,
    url: options.Url = None,
    as_json: options.Json = False,
) -> None:
    """Give a worker jobs again."""
    with options.operator(data, url) as client:
        output.show(client.method("worker", worker, "resume"), as_json, STANDING)


@app.command("evict")
def evict(worker: WorkerId, data: options.Data = None, url: options.Url = None) -> None:
    """Send a worker away for good: token and key are worth nothing, its jobs go elsewhere."""
    with options.operator(data, url) as client:
        client.delete("worker", worker)
        output.note(f"worker {worker} is gone")


def _row(worker: dict[str, Any]) -> dict[str, Any]:
    """Return what one line shows of a worker and its machine."""
    offer = worker["offer"] or {}
    kinds = Counter(str(one["kind"]) for one in offer.get("accelerators", []))
    accelerators = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    memory = f"{offer['memory_bytes'] / (1 << 30):.1f} GiB" if offer else ""
    shown = {name: offer.get(name) for name in ("slots", "arch", "speed_rounds_per_s")}
    return {**worker, **shown, "memory": memory, "accelerators": accelerators}
