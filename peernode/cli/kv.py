"""Key-value namespaces: reading, writing, listing."""

from typing import Annotated

import typer

from peernode.cli import options, output

app = typer.Typer(help="Key-value namespaces.", no_args_is_help=True)

Space = Annotated[str, typer.Argument(help="Namespace, as PROJECT/NAME or id.")]
Key = Annotated[str, typer.Argument(help="Key in the namespace.")]


@app.command("create")
def create(
    space: Annotated[str, typer.Argument(help="Namespace to make, as PROJECT/NAME.")],
    scope: Annotated[str, typer.Option(help="global: on every node; local: on this one.")] = (
        "global"
    ),
    mode: Annotated[str | None, typer.Option(help="lww (default) or cas.")] = None,
    url: options.Url = None,
    as_json: options.Json = False,
) -> None:
    """Make a namespace of a project."""
    project, separator, name = space.rpartition("/")
    if not separator:
        raise typer.BadParameter(f"{space!r} is not PROJECT/NAME")
    with options.client(url) as client:
        made = client.create_namespace(name, scope=scope, mode=mode, project=project)
        output.show(client.get("kv", made.id), as_json, ("id", "name", "scope", "mode"))


@app.command("put")
def put(
    space: Space,
    key: Key,
    value: Annotated[str, typer.Argument(help="JSON, @FILE, or - for stdin.")],
    if_version: Annotated[
        str | None, typer.Option(help="Only if the key still has this version.")
    ] = None,
    ttl_s: Annotated[float | None, typer.Option(help="Forget it after so many seconds.")] = None,
    url: options.Url = None,
    as_json: options.Json = False,
) -> None:
    """Set a key."""
    parsed = options.json_argument(value, "VALUE")
    with options.client(url) as client:
        made = client.kv(space).put(key, parsed, if_version=if_version, ttl_s=ttl_s)
        output.show(made, as_json, ("key", "version"))


@app.command("get")
def get(space: Space, key: Key, url: options.Url = None, as_json: options.Json = False) -> None:
    """Print a key's value as JSON; with --json, its version and the rest too."""
    with options.client(url) as client:
        try:
            entry = client.kv(space).entry(key)
        except KeyError:
            output.note(f"error: there is no key {key!r} in {space}")
            raise typer.Exit(1) from None
        output.print_json(entry if as_json else entry["value"])


@app.command("ls")
def ls(
    space: Annotated[
        str | None, typer.Argument(help="Namespace whose keys to list; else list namespaces.")
    ] = None,
    prefix: Annotated[str, typer.Option(help="Only keys that begin so.")] = "",
    url: options.Url = None,
    as_json: options.Json = False,
) -> None:
    """List namespaces, or the keys of one."""
    with options.client(url) as client:
        if space is None:
            columns = ("id", "name", "owner", "scope", "mode")
            output.show_list(client.list("kv"), as_json, columns)
        else:
            keys = client.kv(space).keys(prefix)
            if as_json:
                output.print_json([*keys])
                return
            for key in keys:
                print(output.text(key))
