"""Jobs: handing in, following, asking why one waits."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from peernode.cli import options, output

if TYPE_CHECKING:
    from peernode.client import JobHandle

app = typer.Typer(
    help="Jobs: list, show, read logs, cancel, ask why one waits.", no_args_is_help=True
)

JobId = Annotated[str, typer.Argument(help="Id of the job.")]
JsonText = Annotated[str | None, typer.Option(metavar="JSON|@FILE")]

SHOWN = (
    "id",
    "state",
    "attempt",
    "function",
    "function_version",
    "worker",
    "backend",
    "backend_fallback_from",
    "isolation",
    "progress",
    "result",
    "error",
    "usage",
    "created_at",
    "started_at",
    "finished_at",
)


def run(
    function: Annotated[str, typer.Argument(help="Function, as PROJECT/NAME or id.")],
    input: Annotated[
        str, typer.Option("--input", metavar="JSON|@FILE|-", help="What the function is given.")
    ] = "null",
    blob: Annotated[
        list[str] | None, typer.Option(metavar="NAME=ID", help="A blob as an input of that name.")
    ] = None,
    version: Annotated[int | None, typer.Option(help="Version of the function.")] = None,
    isolation: Annotated[str | None, typer.Option(help="wasm, sandbox or process.")] = None,
    requires: JsonText = None,
    prefers: JsonText = None,
    limits: JsonText = None,
    retry: JsonText = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="Two runs under one key are one job.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until it is over.")] = False,
    timeout_s: Annotated[float | None, typer.Option(help="Longest wait; the job goes on.")] = None,
    url: options.Url = None,
    as_json: options.Json = False,
) -> None:
    """Hand in a job. Prints its id, or with --wait what the function returned."""
    stated: dict[str, Any] = {
        "function_version": version,
        "isolation": isolation,
        "requires": options.json_object(requires, "--requires"),
        "prefers": options.json_object(prefers, "--prefers"),
        "limits": options.json_object(limits, "--limits"),
        "retry": options.json_object(retry, "--retry"),
        "inputs": options.pairs(blob, "--blob") or None,
        "idempotency_key": idempotency_key,
    }
    given = options.json_argument(input, "--input")
    stated = {name: value for name, value in stated.items() if value is not None}
    with options.client(url) as client:
        job = client.function(function).spawn(given, **stated)
        if not wait:
            output.show(job.status(), as_json) if as_json else print(job.id)
            return
        output.note(f"job {job.id}")
        result = follow(job, timeout_s)
        output.print_json(job.status() if as_json else result)


def follow(job: "JobHandle", timeout_s: float | None) -> Any:
    """Wait for a job with its progress shown; return its result."""
    import sys

    if timeout_s is not None or not sys.stderr.isatty():
        return job.result(timeout_s)
    with output.progress(f"job {job.id}", "") as move, job.events() as events:
        for event in events:
            if isinstance(event.data, dict):
                fraction, message = event.data.get("fraction"), event.data.get("message")
                total = None if fraction is None else 1.0
                move(fraction or 0.0, total, output.text(message or event.data.get("state")))
    return job.result()


@app.command("ls")
def ls(
    state: Annotated[str | None, typer.Option(help="Only in this state.")] = None,
    project: Annotated[str | None, typer.Option(help="Only of this project.")] = None,
    function: Annotated[str | None, typer.Option(help="Only of this function.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most jobs to list, newest first.")] = 50,
    url: options.Url = None,
    as_json: options.Json = False,
) -> None:
    """List jobs, newest first."""
    from itertools import islice

    with options.client(url) as client:
        filters = {} if state is None else {"state": state}
        if project is not None:
            filters["project"] = client.resolve("project", project)
        if function is not None:
            filters["function"] = client.resolve("function", function)
        columns = ("id", "state", "function", "attempt", "created_at", "finished_at")
        output.show_list(islice(client.list("job", **filters), limit), as_json, columns)


@app.command("show")
def show(job: JobId, url: options.Url = None, as_json: options.Json = False) -> None:
    """Print a job as it stands."""
    with options.client(url) as client:
        output.show(client.job(job).status(), as_json, SHOWN)


@app.command("logs")
def logs(job: JobId, url: options.Url = None, as_json: options.Json = False) -> None:
    """Print what a job has written so far."""
    with options.client(url) as client:
        if as_json:
            output.print_json(client.job(job).log_lines())
        else:
            print(client.job(job).logs(), end="")


@app.command("cancel")
def cancel(job: JobId, url: options.Url = None, as_json: options.Json = False) -> None:
    """End a job and everything it started, waiting or running."""
    with options.client(url) as client:
        output.show(client.job(job).cancel(), as_json, ("id", "state"))


@app.command("why")
def why(job: JobId, url: options.Url = None, as_json: options.Json = False) -> None:
    """Say every reason why a job waits, or where it stands."""
    with options.client(url) as client:
        found = client.job(job).status()
    if as_json:
        names = ("state", "pending_reasons", "estimated_start_at")
        output.print_json({name: found.get(name) for name in names})
        return
    print(f"job {job} is {found['state']}, attempt {found['attempt']}")
    if found.get("estimated_start_at"):
        print(f"  starts at about {found['estimated_start_at']} (an estimate)")
    for reason in found["pending_reasons"]:
        worker = f" (worker {reason['worker']})" if reason.get("worker") else ""
        print(output.text(f"  {reason['code']}: {reason['detail']}{worker}"))
    if found.get("error"):
        print(output.text(f"  {found['error'].get('code')}: {found['error'].get('message')}"))
    for change in found.get("history", []):
        cause = f", {change['cause']}" if change.get("cause") else ""
        print(output.text(f"  {change['at']}  {change['state']}{cause}"))
