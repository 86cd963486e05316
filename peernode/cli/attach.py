"""A worker on its own: who it is towards its node, and a process around the agent.

The operator's token is good for one first attach, which shows the node this worker's public key;
from then on the worker proves that it holds the key.  The key lies in the worker's directory, one
for each worker id, and beside it the node's pin, so that later attaches need no token.  Each attach
tries the proof first: before the key is registered that costs one refused request, and no state has
to say which of the two is due, not even after a crash between.

Another node than the pinned one ends a first attach: something is wrong that a person has to look
at.  A worker that was attached once says so and goes on trying: who can step in between for a
moment must not be able to take a fleet's workers away for good.
"""

import base64
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from peernode.cli import node_asking
from peernode.client import ConfigurationError
from peernode.workers import pinned_key, prove
from storage.clock import Clock, Entropy, SystemClock, SystemEntropy
from storage.signing import SEED_SIZE_BYTES, Keypair
from worker.agent import Config, run_agent
from worker.certificate_pin import is_pin
from worker.egress_addresses import Network
from worker.link import Link, LinkBroken, LinkClosed, LinkRefused
from worker.offer import measure_offer
from worker.process_tree import become_subreaper
from worker.protocol import Isolation
from worker.wasm import interpreter_path, user_cache
from worker.websocket_link import WrongNode, open_websocket_link

PIN_HINT = (
    "either something stands between here and the node, or the node has a new key: then give it "
    "its old key again, or make a new token with `peernode worker create`"
)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a worker attaches with."""

    worker: int
    token: str
    """Empty when its key is registered."""
    keypair: Keypair
    pin: str = ""
    """Of the node's certificate, or its key; empty: the system says whom to trust."""

    @property
    def key_header(self) -> tuple[bytes, bytes]:
        """The header that registers the public key."""
        text = base64.urlsafe_b64encode(self.keypair.public_key).rstrip(b"=")
        return (b"peernode-worker-key", text)


def known_workers(directory: Path) -> list[int]:
    """Return the workers that have a key in this directory."""
    names = [path.stem.removeprefix("worker-") for path in directory.glob("worker-*.key")]
    return sorted(int(name) for name in names if name.isdigit())


def kept_pin(directory: Path, worker: int) -> str:
    """Return the pin kept beside a worker's key, or "". Raises `ConfigurationError`."""
    path = _pin_path(directory, worker)
    try:
        pin = path.read_text("ascii").strip()
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"cannot read {path}: {error}") from error
    if not (is_pin(pin) or pinned_key(pin)):
        raise ConfigurationError(f"{path}: not the pin of a certificate, nor of a node")
    return pin


def keep_pin(directory: Path, worker: int, pin: str) -> None:
    """Keep the pin of a node that was reached. Raises `ConfigurationError`."""
    path = _pin_path(directory, worker)
    try:
        new = path.with_suffix(f".{os.getpid()}")
        new.write_text(pin + "\n", "ascii")
        new.replace(path)
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error}") from error


def _pin_path(directory: Path, worker: int) -> Path:
    return directory / f"worker-{worker}.pin"


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


def load_credentials(directory: Path, worker: int, token: str, pin: str) -> Credentials:
    """Return what `worker` attaches with; its key is made if it is new.

    Raises `ConfigurationError`.
    """
    return Credentials(worker, token, load_keypair(directory, worker, SystemEntropy()), pin)


def link_factory(
    url: str,
    credentials: Credentials,
    clock: Clock,
    entropy: Entropy,
    *,
    reached: Callable[[], None] = lambda: None,
    warn: Callable[[str], None] = lambda text: None,
) -> Callable[[], Awaitable[Link]]:
    """Return what connects the worker: by proof, or the first time by token.

    `reached` is called when the node took it for the first time, `warn` with each new reason why it
    cannot be reached.
    """
    attached = False
    said = ""

    key = pinned_key(credentials.pin)
    pin = "" if key else credentials.pin
    ask = node_asking.ask(key, entropy) if key else None

    async def open_one() -> Link:
        proof = prove(credentials.worker, credentials.keypair, clock.wall_ms())
        try:
            return await open_websocket_link(url, proof, pin=pin, ask=ask)
        except LinkRefused:
            if not credentials.token:
                raise
            headers = (credentials.key_header,)
            return await open_websocket_link(
                url, credentials.token, headers=headers, pin=pin, ask=ask
            )

    async def connect() -> Link:
        nonlocal attached, said
        try:
            link = await open_one()
        except (LinkClosed, LinkBroken) as error:
            if isinstance(error, WrongNode) and not attached:
                raise LinkRefused(str(error)) from error
            if str(error) != said:
                said = str(error)
                warn(f"{said}; trying again")
            raise
        said = ""
        if not attached:
            attached = True
            reached()
        return link

    return connect


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a machine lends, and how."""

    slots: int
    directory: Path
    labels: dict[str, str]
    isolation: Isolation | None
    """Weakest level it gives; `None`: none but for strangers' code."""
    egress_networks: tuple[Network, ...]
    """Networks that `edge.http` may reach beside public addresses."""
    backends: tuple[str, ...] = ()
    """The only ones that may run models, best first; empty: all that are here."""


def attach(url: str, credentials: Credentials, lent: Settings) -> int:
    """Be a worker of the node until told to stop; return the exit code."""
    clock = SystemClock()

    def reached() -> None:
        if credentials.pin:
            try:
                keep_pin(lent.directory, credentials.worker, credentials.pin)
            except ConfigurationError as error:
                warn(f"{error}: the next attach needs the token again")

    def warn(text: str) -> None:
        print(f"warning: {text}", file=sys.stderr)

    connect = link_factory(url, credentials, clock, SystemEntropy(), reached=reached, warn=warn)
    try:
        offer = measure_offer(
            lent.slots, lent.directory, lent.labels, lent.isolation, lent.backends
        )
    except ValueError as unusable:
        print(f"error: --{unusable}", file=sys.stderr)
        return 2
    if not offer.isolation:
        print("note: this machine can give none of the isolation levels asked for", file=sys.stderr)
        print("hint: `peernode doctor` says what is missing", file=sys.stderr)
    become_subreaper()
    config = Config(
        directory=lent.directory,
        adopts_orphans=True,
        egress_networks=lent.egress_networks,
        interpreter=interpreter_path(user_cache()),
    )
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
        wrong = isinstance(error.__cause__, WrongNode)
        hint = "a token is good for one first attach; `peernode worker create` makes one"
        print(f"error: {error}", file=sys.stderr)
        print(f"hint: {PIN_HINT if wrong else hint}", file=sys.stderr)
    return 1 if refusals else 0
