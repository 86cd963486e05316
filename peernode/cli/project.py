"""Projects: users who share functions, data and a quota."""

from typing import Annotated

import typer

from peernode.cli import options, output, secret

app = typer.Typer(help="Projects: users who share functions and data.", no_args_is_help=True)
app.add_typer(secret.app, name="secret")

Project = Annotated[str, typer.Argument(help="Project, by name or id.")]
User = Annotated[str, typer.Argument(help="User, by name at this node or id.")]


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Name, unique among your projects.")],
    url: options.Url = None,
    as_json: options.Json = False,
) -> None:
    """Make a project; you are its owner."""
    with options.client(url) as client:
        output.show(client.create_project(name), as_json, ("id", "name"))


@app.command("ls")
def ls(url: options.Url = None, as_json: options.Json = False) -> None:
    """List the projects you may see."""
    with options.client(url) as client:
        output.show_list(client.list("project"), as_json, ("id", "name", "home_node", "created_at"))


@app.command("add-member")
def add_member(
    project: Project,
    user: User,
    role: Annotated[str, typer.Option(help="admin, developer, invoker or viewer.")] = "developer",
    url: options.Url = None,
    as_json: options.Json = False,
) -> None:
    """Give a user a role in a project."""
    with options.client(url) as client:
        output.show(client.add_member(project, user, role), as_json, ("id", "name", "members"))


@app.command("remove-member")
def remove_member(
    project: Project,
    user: User,
    adopt: Annotated[
        bool, typer.Option(help="Keep what the user made in the project, as yours.")
    ] = True,
    url: options.Url = None,
    as_json: options.Json = False,
) -> None:
    """Take a user out of a project."""
    with options.client(url) as client:
        done = client.remove_member(project, user, adopt=adopt)
        output.show(done, as_json, ("id", "name", "members"))
