"""A node of the demo's own: a real one, in a process of its own, that always stops."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peernode.client import ClientError
from worker.sandbox.probe import measure_levels

START_TIMEOUT_S = 30.0
"""Source: guess, ten times what a slow machine takes."""
STOP_TIMEOUT_S = 15.0
"""Source: a node's own time to drain, 10 s, with room."""
POLL_INTERVAL_S = 0.05
SLOTS = 2


@contextmanager
def open_node(
    directory: Path, port: int, *, name: str = "node", p2p: str = "", slots: int = SLOTS
) -> Iterator[str]:
    """Run a node in `directory/name` for as long as the block lasts; yield its URL.

    Its log is `directory/name.log`.  Raises `ClientError` when it does not start.
    """
    data = directory / name
    command = [
        sys.executable,
        "-m",
        "peernode",
        "up",
        "--data",
        str(data),
        "--http",
        f"127.0.0.1:{port}",
        "--signup",
        "open",
        "--workers",
        str(slots),
        "--egress-networks",
        "127.0.0.1/32",  # where the example's cloud is
        *(["--p2p", p2p] if p2p else []),
        # What the demo runs is ours: where a machine has no sandbox it does without.
        *(["--isolation", "process"] if measure_levels(directory)["sandbox"] else []),
    ]
    with (directory / f"{name}.log").open("ab") as log:
        # A session of its own: Ctrl-C is ours to hear, and the node is stopped by us.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment(),
            start_new_session=True,
        )
    try:
        yield _url(process, data / "node.json")
    finally:
        _stop(process)


def environment() -> dict[str, str]:
    """Return the environment without what a user has set for nodes of their own."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PEERNODE_")}


def _url(process: "subprocess.Popen[bytes]", address: Path) -> str:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline_s:
        try:
            found: dict[str, Any] = json.loads(address.read_text("utf-8"))
            return str(found["url"])
        except (FileNotFoundError, ValueError):
            time.sleep(POLL_INTERVAL_S)
    if process.returncode is None:
        raise ClientError(f"the node was not ready after {START_TIMEOUT_S:g} s")
    raise ClientError(f"the node ended at once, with exit code {process.returncode}")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
