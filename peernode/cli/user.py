"""Users: making one, and getting a token."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from peernode.cli import options, output

app = typer.Typer(help="Users of a node.", no_args_is_help=True)

PasswordStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from the first line of stdin.")
]


NewNode = Annotated[
    bool, typer.Option("--new-node", help="Another node than before has this URL now.")
]


def login(
    name: Annotated[str, typer.Argument(help="User name (or id) at that node.")],
    url: options.Url = None,
    password_stdin: PasswordStdin = False,
    new_node: NewNode = False,
    as_json: options.Json = False,
) -> None:
    """Get a token for a node and keep it in ~/.config/peernode/config.toml."""
    password = _password(password_stdin, confirm=False)
    _meet(url, new_node)
    _login(name, password, url, as_json)


@app.command("create")
def create(
    name: Annotated[
        str, typer.Argument(help="Letters a-z, digits and . _ - (1 to 64, not all digits).")
    ],
    invite: Annotated[
        str | None, typer.Option(help="Invite of the node, unless its sign-up is open.")
    ] = None,
    url: options.Url = None,
    password_stdin: PasswordStdin = False,
    new_node: NewNode = False,
    as_json: options.Json = False,
) -> None:
    """Make a user at a node, and log in as that user."""
    password = _password(password_stdin, confirm=True)
    _meet(url, new_node)
    with options.stranger(url) as client:
        client.signup(name, password, invite=invite)
    _login(name, password, url, as_json)


@app.command("invite")
def invite(
    data: Annotated[Path, typer.Option("--data", help="The node's data directory.")],
    as_json: options.Json = False,
) -> None:
    """Print an invite with which one person can make a user at this node (operator)."""
    from peernode import invites
    from peernode.cli.options import operator_token
    from storage.clock import SystemClock, SystemEntropy

    text = invites.make(operator_token(data), SystemEntropy(), SystemClock())
    if as_json:
        output.print_json({"invite": text})
    else:
        print(text)


def _meet(url: str | None, is_new: bool) -> None:
    """Forget which node had a URL, if another has it now."""
    from peernode.client import settings

    if is_new:
        path = settings.config_path(os.environ)
        settings.forget(path, settings.target(url, None, os.environ, path).url)


def _login(name: str, password: str, url: str | None, as_json: bool) -> None:
    from peernode.client import settings

    with options.stranger(url) as client:
        answer = client.login(name, password)
        path = settings.config_path(os.environ)
        expires_at = str(answer["expires_at"])
        settings.remember(path, client.url, name, client.token, expires_at, key=client.key)
        if as_json:
            output.print_json({"url": client.url, "user": name, "expires_at": answer["expires_at"]})
        else:
            print(f"logged in to {client.url} as {name} until {answer['expires_at']}")


def _password(from_stdin: bool, *, confirm: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\n")
    if not sys.stdin.isatty():
        raise typer.BadParameter("there is no terminal to ask for the password: --password-stdin")
    password: str = typer.prompt("Password", hide_input=True, confirmation_prompt=confirm, err=True)
    return password
