"""The operator's day: running a node, looking at it, finding out what is wrong."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from peernode.cli import options, output


def up(
    data: Annotated[Path | None, typer.Option(help="Data directory [./peernode-data].")] = None,
    http: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="HTTP API [127.0.0.1:8440].")
    ] = None,
    p2p: Annotated[str | None, typer.Option(metavar="MULTIADDR", help="For other nodes.")] = None,
    announce: Annotated[
        str | None,
        typer.Option(metavar="MULTIADDR,...", help="Where others reach it, if not at --p2p."),
    ] = None,
    signup: Annotated[
        str | None, typer.Option(metavar="open|invite", help="Who may make users; default invite.")
    ] = None,
    workers: Annotated[
        str | None, typer.Option(metavar="N|auto", help="Slots of the local worker; default auto.")
    ] = None,
    isolation: Annotated[
        str | None,
        typer.Option(
            metavar="auto|wasm|sandbox|process", help="Weakest level of any job; default auto."
        ),
    ] = None,
    backends: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help="What may run models here, best first; default all."),
    ] = None,
    tls: Annotated[str | None, typer.Option(metavar="CERT,KEY", help="PEM files.")] = None,
    behind_proxy: Annotated[
        bool, typer.Option("--behind-proxy", help="A proxy in front ends TLS.")
    ] = False,
    egress_networks: Annotated[
        str | None,
        typer.Option(metavar="NETWORK,...", help="Private networks that functions may reach."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file of settings.")] = None,
    log_level: Annotated[
        str | None, typer.Option(metavar="debug|info|warning|error", help="Default info.")
    ] = None,
) -> None:
    """Run a node in the foreground. SIGTERM drains it."""
    from peernode.config import ConfigError, load

    flags = {
        "data": data,
        "http": http,
        "p2p": p2p,
        "announce": announce,
        "signup": signup,
        "workers": workers,
        "isolation": isolation,
        "backends": backends,
        "tls": tls,
        "behind_proxy": behind_proxy or None,
        "egress_networks": egress_networks,
        "log_level": log_level,
    }
    try:
        settings = load(config, os.environ, flags)
    except ConfigError as error:
        output.note(f"error: {error}")
        raise typer.Exit(2) from None
    from peernode.daemon import run

    raise typer.Exit(run(settings))


def status(
    data: options.Data = None, url: options.Url = None, as_json: options.Json = False
) -> None:
    """Say how the node is; with --data, its workers too."""
    with options.operator(data, url) as client:
        found = {"url": client.url, **client.health()}
        if data is not None:
            found["workers"] = [*client.list("worker")]
    if as_json:
        output.print_json(found)
        return
    workers = found.pop("workers", None)
    output.show(found, as_json)
    if workers is not None:
        output.show_list(workers, as_json, ("id", "name", "state", "running", "leased", "labels"))


def doctor(
    data: options.Data = None, url: options.Url = None, as_json: options.Json = False
) -> None:
    """Look for what is wrong here and at the node, and say what to do about it."""
    from peernode.cli import checks

    findings = checks.examine(data, url, os.environ)
    if as_json:
        output.print_json([finding.as_object() for finding in findings])
    else:
        for finding in findings:
            print(f"{finding.verdict:<5} {finding.subject}: {output.text(finding.detail)}")
            if finding.hint:
                print(f"      -> {finding.hint}")
    if any(finding.verdict == "wrong" for finding in findings):
        raise typer.Exit(1)


def demo(
    nodes: Annotated[
        int, typer.Option(metavar="1|3", help="1: jobs and data at a node. 3: a mesh of nodes.")
    ] = 1,
    keep: Annotated[
        Path | None, typer.Option(help="Keep nodes and pictures in this new directory.")
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="HTTP port of the node; 0: free.")
    ] = 0,
    keep_running: Annotated[
        bool, typer.Option("--keep-running", help="Leave all up until Ctrl-C.")
    ] = False,
) -> None:
    """Show the whole story on this machine, in under a minute."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # it is a text file
    if nodes == 3:
        from peernode.cli import demo_mesh

        raise typer.Exit(demo_mesh.tell(keep, port, keep_running=keep_running))
    if nodes != 1:
        raise typer.BadParameter("--nodes: there is a story for 1, and one for 3")
    from peernode.cli.checks import missing_inference

    if missing := missing_inference():
        output.note(f"error: the demo needs {', '.join(missing)}")
        output.note("hint: pip install 'peernode[inference]'")
        raise typer.Exit(1)
    from peernode.cli import demo as story  # it draws, so it needs pillow

    raise typer.Exit(story.tell(keep, port, keep_running=keep_running))
