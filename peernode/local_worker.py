"""The worker a node brings along: a child process, started again when it dies.

It lives and dies with the node, and its jobs with it: a node that starts after a crash knows that
what was out on its local worker is not running any more.
"""

import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from peernode.node import Node

RESTART_DELAY_S: Final = 0.2
RESTART_DELAY_MAX_S: Final = 10.0
"""Pause before a local worker that died is started again, doubled each time. Source: guess."""
STEADY_S: Final = 30.0
"""A worker that lived this long starts with the short pause again. Source: guess."""
STOP_TIMEOUT_S: Final = 3.0


class LocalWorker:
    """Supervises the child process."""

    def __init__(self, node: "Node", worker: int, url: str, slots: int) -> None:
        self._node = node
        self._worker = worker
        self._url = url
        self._slots = slots

    async def run(self) -> None:
        """Keep the worker running until cancelled, then stop it."""
        delay_s = RESTART_DELAY_S
        while True:
            started_s = trio.current_time()
            status = await self._run_once()
            self._node.attachments.remove(self._worker)
            if trio.current_time() - started_s > STEADY_S:
                delay_s = RESTART_DELAY_S
            self._node.log.warning("local worker ended", status=status, restart_in_s=delay_s)
            await trio.sleep(delay_s)
            delay_s = min(delay_s * 2, RESTART_DELAY_MAX_S)

    async def _run_once(self) -> int:
        token = self._node.workers.open_local(self._worker)
        directory = self._node.config.data / "worker"
        command = [
            sys.executable,
            "-m",
            "worker.agent",
            "--url",
            f"{self._url}/worker/{self._worker}/attach",
            "--slots",
            str(self._slots),
            "--directory",
            str(directory),
            "--isolation",
            self._node.config.policy.isolation,
            "--token-file",
            "-",
            "--egress-networks",
            self._node.config.egress_networks,
            "--backends",
            self._node.config.backends,
            "--die-with-parent",
        ]
        # The token goes through the pipe, where no list of processes shows it; the pipe's end is
        # how the child learns that we are gone.
        process = await trio.lowlevel.open_process(
            command,
            env=self._node.child_environment,
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stdin is not None
        with suppress(trio.BrokenResourceError):
            await process.stdin.send_all(token.encode() + b"\n")
        try:
            return await process.wait()
        finally:
            if process.returncode is None:
                with trio.CancelScope(shield=True):
                    process.terminate()
                    with trio.move_on_after(STOP_TIMEOUT_S):
                        await process.wait()
                    if process.returncode is None:
                        process.kill()
                        await process.wait()
