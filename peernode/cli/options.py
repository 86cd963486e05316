"""Options that many commands share, and what their texts mean."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from peernode.client import Client
    from worker.protocol import Isolation

Url = Annotated[
    str | None,
    typer.Option("--url", help="Node to talk to; else PEERNODE_URL, else the last login's."),
]
Json = Annotated[bool, typer.Option("--json", help="Answer with JSON on stdout.")]
Data = Annotated[
    Path | None,
    typer.Option("--data", help="Speak as this node's operator: its data directory."),
]

ATTEMPTS_MAX = 3
"""How often a command tries a request. Source: guess; half a second, since somebody watches."""


def client(url: str | None) -> "Client":
    """Return a client of the node the user means, with a token for it, if one can be had."""
    from peernode.cli import tokens
    from peernode.client import Policy

    return tokens.with_token(stranger(url), Policy(attempts_max=ATTEMPTS_MAX))


def stranger(url: str | None) -> "Client":
    """Return a client of the node the user means, with no token but one kept for it."""
    from peernode.client import Client, Policy

    return Client(url, policy=Policy(attempts_max=ATTEMPTS_MAX))


def operator(data: Path | None, url: str | None) -> "Client":
    """Return a client that speaks as the operator of the node in `data`, if it is given."""
    if data is None:
        return stranger(url)
    from peernode.client import Client, Policy

    token = operator_token(data)
    address = json.loads(_read(data, "node.json")) if url is None else {"url": url}
    key = _key(str(address.get("peer_id", "")))
    # The door for this machine, where nobody has to know by which authority a certificate is.
    found = str(address.get("local_url") or address["url"])
    return Client(found, token, key=key, policy=Policy(attempts_max=ATTEMPTS_MAX))


def public_url(data: Path | None, url: str | None) -> str:
    """Return where others reach the node in `data`, or "" if that is not known."""
    if url is not None or data is None:
        return url or ""
    return str(json.loads(_read(data, "node.json"))["url"])


def _key(peer_id: str) -> str:
    """Return a node's public key in hex, if its peer id was kept."""
    if not peer_id:
        return ""
    from storage.errors import InvalidData
    from storage.signing import parse_peer_id

    try:
        return parse_peer_id(peer_id).hex()
    except InvalidData:
        return ""


def operator_token(data: Path) -> str:
    """Return the operator's token of the node in `data`."""
    return _read(data, "operator.token").strip()


def _read(data: Path, name: str) -> str:
    from peernode.client import ConfigurationError

    try:
        return (data / name).read_text("utf-8")
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"{error.filename} is not there: no node has run in {data}",
            hint=f"`peernode up --data {data}` starts one",
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"cannot read {data}: {error}") from error


def json_argument(text: str, option: str) -> Any:
    """Return the JSON in `text`, in the file after an `@`, or on stdin for `-` or `@-`."""
    if text in {"-", "@-"}:
        text = sys.stdin.read()
    elif text.startswith("@"):
        try:
            text = Path(text[1:]).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise typer.BadParameter(f"{option}: cannot read {text[1:]}: {error}") from error
    try:
        return json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(
            f"{option}: not JSON ({error}); a text needs its own quotes: '\"text\"'"
        ) from error


def json_object(text: str | None, option: str) -> dict[str, Any] | None:
    """Return the JSON object in `text`, as `json_argument` finds it; `None` stays so."""
    if text is None:
        return None
    value = json_argument(text, option)
    if not isinstance(value, dict):
        raise typer.BadParameter(f"{option}: not a JSON object")
    return value


def level(text: str | None) -> "Isolation | None":
    """Return the isolation level of that name; `None` stays so."""
    from worker.capabilities import LEVELS

    for known in LEVELS:
        if text == known:
            return known
    if text is not None:
        raise typer.BadParameter(f"--isolation: {text!r} is none of {', '.join(LEVELS)}")
    return None


def pairs(texts: list[str] | None, option: str) -> dict[str, str]:
    """Return `NAME=VALUE` texts as a mapping."""
    found = {}
    for text in texts or []:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise typer.BadParameter(f"{option}: {text!r} is not NAME=VALUE")
        found[name] = value
    return found
