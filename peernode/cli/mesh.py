"""The mesh: letting another node in, joining, shutting a node out, seeing who is there."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import segno
import typer

from peernode.cli import options, output

if TYPE_CHECKING:
    from peernode.client import Client

DATA_DEFAULT = Path("peernode-data")
"""Where `peernode up` keeps its data unless told otherwise."""
JOIN_TIMEOUT_S = 10.0
"""Source: the command line's contract; a member in under ten seconds, or a reason."""

Data = Annotated[
    Path | None, typer.Option("--data", help="Data directory of the node [./peernode-data].")
]


def invite(
    user: Annotated[
        bool, typer.Option("--user", help="For a person, to make a user, not for a node.")
    ] = False,
    ttl_s: Annotated[
        float | None,
        typer.Option("--ttl-s", metavar="SECONDS", help="Good for this long; a day unless said."),
    ] = None,
    address: Annotated[
        list[str] | None,
        typer.Option(metavar="MULTIADDR", help="Where others reach this node; may be repeated."),
    ] = None,
    data: Data = None,
    url: options.Url = None,
    as_json: options.Json = False,
) -> None:
    """Print an invite with which one other node can join the mesh (operator)."""
    if user:
        from peernode.cli.user import invite as invite_user

        invite_user(data or DATA_DEFAULT, as_json)
        return
    body: dict[str, object] = {} if ttl_s is None else {"ttl_s": ttl_s}
    if address:
        body["addresses"] = address
    with _operator(data, url) as client:
        made = client.set("mesh", "invite", body)
    if as_json:
        output.print_json(made)
        return
    print(made["invite"])
    if sys.stderr.isatty():  # for a camera; whoever pipes the invite gets one line
        segno.make_qr(made["invite"], error="l").terminal(sys.stderr, compact=True)
    output.note(f"fingerprint {made['peer_id']}, good once until {made['expires_at']}")


def join(
    invite: Annotated[str, typer.Argument(help="What `peernode invite` printed at another node.")],
    data: Data = None,
    timeout_s: Annotated[
        float, typer.Option("--timeout-s", min=0.1, metavar="SECONDS", help="Give up after.")
    ] = JOIN_TIMEOUT_S,
    as_json: options.Json = False,
) -> None:
    """Make the node of a data directory, which is stopped and empty, a member of a mesh."""
    from peernode import joining, mesh_invites
    from peernode.client import ClientError
    from storage.errors import InvalidData, StorageError

    directory = data or DATA_DEFAULT
    try:
        joined = joining.join(directory, mesh_invites.read(invite), timeout_s)
    except joining.NotEmpty as error:
        raise ClientError(
            f"{directory}: {error}, so it stays in the mesh it is in",
            hint=f"join with a fresh directory: --data {_fresh(directory)}",
        ) from error
    except (joining.JoinError, InvalidData, StorageError) as error:
        raise ClientError(str(error)) from error
    found = {
        "node_id": str(joined.number),
        "peer_id": joined.peer_id,
        "mesh": joined.mesh.hex(),
        "inviter": joined.inviter,
    }
    output.show(found, as_json)
    if not as_json:
        where = "" if data is None else f" --data {data}"
        output.note(f"a member now: peernode up{where} --p2p /ip4/ADDRESS/tcp/PORT")


def evict(
    node: Annotated[str, typer.Argument(help="Number or peer id, as `peernode peers` shows.")],
    reason: Annotated[str, typer.Option(help="Why, for the other operators.")] = "",
    distrust: Annotated[
        bool, typer.Option("--distrust", help="Also disregard what the node wrote itself.")
    ] = False,
    data: Data = None,
    url: options.Url = None,
    as_json: options.Json = False,
) -> None:
    """Shut a node out of the mesh, for good and everywhere (operator)."""
    body = {"node": node, "reason": reason, "distrust": distrust}
    with _operator(data, url) as client:
        found = client.set("mesh", "evict", body)
    output.show(found, as_json, ("node_id", "peer_id", "state"))


def resolve(data: Data = None, url: options.Url = None, as_json: options.Json = False) -> None:
    """Say that no other copy of this node runs any more, so that this one goes on (operator)."""
    with _operator(data, url) as client:
        found = client.set("mesh", "resolve", {})
    output.show(found, as_json, ("node_id", "peer_id", "state"))


def peers(data: Data = None, url: options.Url = None, as_json: options.Json = False) -> None:
    """Say who is in the mesh, how far and how fresh (operator)."""
    with _operator(data, url) as client:
        items = client.get("mesh", "peers")["items"]
    if not as_json:
        for item in items:
            latency_s = item.pop("latency_s")
            item["latency"] = "" if latency_s is None else f"{latency_s * 1000:.1f} ms"
            item["address"] = " ".join(item["addresses"])
    columns = ("node_id", "state", "latency", "synced_at", "seen_at", "address", "peer_id")
    output.show_list(items, as_json, columns)


def _operator(data: Path | None, url: str | None) -> "Client":
    return options.operator(data or (DATA_DEFAULT if url is None else None), url)


def _fresh(directory: Path) -> Path:
    """Return a directory beside this one that is not there."""
    number = 2
    while (found := directory.with_name(f"{directory.name}-{number}")).exists():
        number += 1
    return found
