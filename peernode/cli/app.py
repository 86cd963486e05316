"""All commands in one tree, and the one place where errors become exit codes."""

import json
import sys
from typing import Final

import typer

from peernode.cli import blob, function, job, kv, mesh, node, project, user, worker
from peernode.cli.commands import Commands

OK: Final = 0
FAILED: Final = 1
UNREACHABLE: Final = 3
INTERRUPTED: Final = 130

app = typer.Typer(
    name="peernode",
    cls=Commands,
    help="Hand long computations to nearby machines, leave, and come back for the answer.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 node unreachable.",
)
app.command("up")(node.up)
app.command("status")(node.status)
app.command("doctor")(node.doctor)
app.command("peers")(mesh.peers)
app.command("invite")(mesh.invite)
app.command("join")(mesh.join)
app.command("evict")(mesh.evict)
app.command("resolve")(mesh.resolve)
app.command("demo")(node.demo)
app.command("login")(user.login)
app.command("run")(job.run)
app.add_typer(user.app, name="user")
app.add_typer(project.app, name="project")
app.add_typer(function.app, name="fn")
app.add_typer(job.app, name="job")
app.add_typer(blob.app, name="blob")
app.add_typer(kv.app, name="kv")
app.add_typer(worker.app, name="worker")


def run(arguments: list[str]) -> int:
    """Run one command line; return its exit code."""
    as_json = "--json" in arguments
    try:
        app(arguments, prog_name="peernode")
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else OK
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # `peernode job ls | head`: the reader has seen enough
        sys.stderr.close()
        return OK
    except Exception as error:  # noqa: BLE001  the command line's boundary: nothing passes it
        return report(error, as_json)
    return OK


def report(error: Exception, as_json: bool) -> int:
    """Tell the user about an error; return the exit code."""
    from peernode.client import errors

    hint, extra = "", {}
    match error:
        case errors.ConnectionFailed():
            text, code, hint = str(error), UNREACHABLE, error.hint
        case errors.JobFailed():
            text, code = str(error), FAILED
            extra = {"code": error.code, "state": error.state, "traceback": error.traceback}
        case errors.Unauthenticated():
            text, code, hint = str(error), FAILED, error.hint or "`peernode login` gets a token"
            extra = error.body
        case errors.ProblemError():
            text, code, hint, extra = str(error), FAILED, error.hint, error.body
        case errors.ClientError():
            text, code, hint = str(error), FAILED, error.hint
        case _:
            text, code = f"{type(error).__name__}: {error}", FAILED
            hint = f"this is a fault of peernode; please report it, with {write_down(error)}"
    if as_json:
        body = {"detail": text, "hint": hint, **extra}
        print(json.dumps({key: value for key, value in body.items() if value}), file=sys.stderr)
        return code
    if isinstance(error, errors.JobFailed) and error.traceback:
        print(error.traceback.rstrip(), file=sys.stderr)
    print(f"error: {text}", file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)
    return code


def write_down(error: Exception) -> str:
    """Write all that is known of a fault of ours into a file; return its path."""
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile(
        "w", prefix="peernode-fault-", suffix=".txt", encoding="utf-8", delete=False
    ) as file:
        traceback.print_exception(error, file=file)
    return file.name
