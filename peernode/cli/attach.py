"""A worker on its own: who it is towards its node, and a process around the agent.

The operator's token is good for one first attach, which shows the node this worker's public key;
from then on the worker proves that it holds the key.  The key lies in the worker's directory, one
for each worker id.  Each attach tries the proof first: before the key is registered that costs one
refused request, and no state has to say which of the two is due, not even after a crash between.
"""

import base64
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from peernode.client import ConfigurationError
from peernode.workers import prove
from storage.clock import Clock, Entropy, SystemClock, SystemEntropy
from storage.signing import SEED_SIZE_BYTES, Keypair
from worker.agent import Config, run_agent
from worker.link import Link, LinkRefused
from worker.offer import measure_offer
from worker.process_tree import become_subreaper
from worker.protocol import Isolation
from worker.wasm import interpreter_path, user_cache
from worker.websocket_link import open_websocket_link


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a worker attaches with."""

    worker: int
    token: str
    keypair: Keypair

    @property
    def key_header(self) -> tuple[bytes, bytes]:
        """The header that registers the public key."""
        text = base64.urlsafe_b64encode(self.keypair.public_key).rstrip(b"=")
        return (b"peernode-worker-key", text)


def load_keypair(directory: Path, worker: int, entropy: Entropy) -> Keypair:
    """Return the key of this worker, made if it is new. Raises `ConfigurationError`."""
    path = directory / f"worker-{worker}.key"
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            new = path.with_suffix(f".{os.getpid()}")
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(entropy.token_bytes(SEED_SIZE_BYTES))
                file.flush()
                os.fsync(file.fileno())  # the node will know this key and no other
            new.rename(path)
        return Keypair.from_seed(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"cannot use {path}: {error}") from error


def link_factory(url: str, credentials: Credentials, clock: Clock) -> Callable[[], Awaitable[Link]]:
    """Return what connects the worker: by proof, or the first time by token."""

    async def connect() -> Link:
        proof = prove(credentials.worker, credentials.keypair, clock.wall_ms())
        try:
            return await open_websocket_link(url, proof)
        except LinkRefused:
            return await open_websocket_link(
                url, credentials.token, headers=(credentials.key_header,)
            )

    return connect


@dataclass(frozen=True, slots=True)
class Settings:
    """What a machine lends, and how."""

    slots: int
    directory: Path
    labels: dict[str, str]
    isolation: Isolation | None
    """Weakest level it gives; `None`: none but for strangers' code."""


def attach(url: str, worker: int, token: str, lent: Settings) -> int:
    """Be a worker of the node until told to stop; return the exit code."""
    clock = SystemClock()
    keypair = load_keypair(lent.directory, worker, SystemEntropy())
    connect = link_factory(url, Credentials(worker, token, keypair), clock)
    offer = measure_offer(lent.slots, lent.directory, lent.labels, lent.isolation)
    if not offer.isolation:
        print("note: this machine can give none of the isolation levels asked for", file=sys.stderr)
        print("hint: `peernode doctor` says what is missing", file=sys.stderr)
    become_subreaper()
    interpreter = interpreter_path(user_cache())
    config = Config(directory=lent.directory, adopts_orphans=True, interpreter=interpreter)
    refusals: list[LinkRefused] = []

    async def run() -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with trio.open_nursery() as nursery:

                async def stop() -> None:
                    async for _ in signals:
                        nursery.cancel_scope.cancel()

                nursery.start_soon(stop)
                try:
                    await run_agent(connect, offer, config, clock=clock)
                except LinkRefused as error:
                    refusals.append(error)
                nursery.cancel_scope.cancel()

    trio.run(run)
    for error in refusals:
        print(f"error: {error}", file=sys.stderr)
        print(
            "hint: a token is good for one first attach; `peernode worker create` makes one",
            file=sys.stderr,
        )
    return 1 if refusals else 0
