"""Which node, with which token: arguments, then environment, then the file a login wrote.

The file is `~/.config/peernode/config.toml` (or under `XDG_CONFIG_HOME`), mode 0600:

    default = "http://127.0.0.1:8440"

    [node."http://127.0.0.1:8440"]
    user = "ada"
    token = "..."
    expires_at = "2026-01-01T00:00:00Z"
    key = "..."

A token is good at one node, so it is kept under that node's URL and sent nowhere else.
"""

import os
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from peernode.client.errors import ConfigurationError

URL_DEFAULT = "http://127.0.0.1:8440"
"""Where `peernode up` listens unless told otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The node to talk to, and the token for it (empty: none)."""

    url: str
    token: str
    user: str = ""
    """Whose token it is, where a login said so."""
    key: str = ""
    """The node's public key in hex, where it is known: it proves to have it (`proof`)."""


def clean_url(url: str) -> str:
    """Return a node's URL without a trailing slash. Raises `ConfigurationError`."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname)
        _ = parts.port  # raises when it is no port
    except ValueError:
        usable = False
    if not usable:
        raise ConfigurationError(f"{url!r} is not the URL of a node", hint=f"such as {URL_DEFAULT}")
    return url.rstrip("/")


def config_path(environment: Mapping[str, str]) -> Path:
    """Return where the settings file lies."""
    base = environment.get("XDG_CONFIG_HOME", "")
    return (Path(base) if base else Path.home() / ".config") / "peernode" / "config.toml"


def load(path: Path) -> dict[str, Any]:
    """Return the settings in the file, none if there is none. Raises `ConfigurationError`."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"cannot read {path}: {error}") from error


def target(
    url: str | None,
    token: str | None,
    environment: Mapping[str, str],
    path: Path,
    key: str = "",
) -> Target:
    """Return the node and token to use, by the order above. Raises `ConfigurationError`."""
    environment_url = environment.get("PEERNODE_URL", "")
    kept = {} if url and token else load(path)
    chosen = clean_url(url or environment_url or str(kept.get("default", "")) or URL_DEFAULT)
    if token is not None:
        return Target(url=chosen, token=token, key=key)
    environment_token = environment.get("PEERNODE_TOKEN", "")
    if environment_token and (not environment_url or clean_url(environment_url) == chosen):
        return Target(url=chosen, token=environment_token)
    node = kept.get("node", {})
    entry = node.get(chosen, {}) if isinstance(node, dict) else {}
    if not isinstance(entry, dict):
        return Target(url=chosen, token="")
    kept_key = key or str(entry.get("key", ""))
    token, user = str(entry.get("token", "")), str(entry.get("user", ""))
    return Target(url=chosen, token=token, user=user, key=kept_key)


def remember(
    path: Path,
    url: str,
    user: str,
    token: str,
    expires_at: str,
    *,
    is_default: bool = True,
    key: str = "",
) -> None:
    """Keep a token for a node; it becomes the default one if so. Raises `ConfigurationError`."""
    kept = load(path)
    nodes = dict(kept.get("node", {}))
    nodes[url] = {"user": user, "token": token, "expires_at": expires_at}
    if key:
        nodes[url]["key"] = key
    _write(path, nodes, url if is_default else str(kept.get("default", "")))


def forget(path: Path, url: str) -> None:
    """Keep nothing of a node any more. Raises `ConfigurationError`."""
    kept = load(path)
    nodes = dict(kept.get("node", {}))
    if nodes.pop(url, None) is not None:
        _write(path, nodes, str(kept.get("default", "")))


def _write(path: Path, nodes: Mapping[str, Mapping[str, Any]], default: str) -> None:
    lines = [f"default = {_quoted(default)}"] if default else []
    for name, entry in sorted(nodes.items()):
        lines += ["", f"[node.{_quoted(name)}]"]
        lines += [f"{key} = {_quoted(str(value))}" for key, value in sorted(entry.items())]
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # A new file (mode 0600) that takes the old one's place: no reader sees half of it.
        descriptor, new = tempfile.mkstemp(dir=path.parent, prefix=".config-")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
        Path(new).replace(path)
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error}") from error


def _quoted(text: str) -> str:
    """Return a TOML basic string; JSON's escapes are a subset of TOML's, but for DEL."""
    return msgspec.json.encode(text).decode().replace("\x7f", "\\u007f")
