"""`peernode up`: one node in the foreground, from its data directory to its last answer."""

import gc
import json
import os
import random
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec
import trio

from peernode import http_server
from peernode.config import Config, ConfigError
from peernode.identity import load_secrets
from peernode.libp2p_config import Libp2pConfig
from peernode.libp2p_network import open_libp2p_network
from peernode.local_worker import LocalWorker
from peernode.logs import Log
from peernode.node import Node, Seams, open_node
from peernode.vault import SecretFileError
from storage.clock import Clock, SystemClock, SystemEntropy
from storage.errors import StorageError
from worker.backends import choose_backends, measure_backends, parse_backends
from worker.sandbox.probe import measure_levels

SWITCH_INTERVAL_S: Final = 0.0005
"""How long the loop may keep the writer thread from the interpreter. Source: measured; with the
default of 5 ms a busy loop makes a durable write take 20 ms, with this 2.4 ms."""
GC_ALLOCATIONS: Final = 20_000
"""Allocations before the youngest objects are looked through for cycles. Source: measured; a job
leaves no cycle, and Python's 700 spends 4 % of the loop on looking."""
EXIT_OK: Final = 0
EXIT_REFUSED: Final = 1
ADDRESS_FILE: Final = "node.json"
"""Tells commands on this machine where the running node answers."""


def run(config: Config, clock: Clock | None = None) -> int:
    """Run a node, by the system's clock if by no other, until it is told to stop.

    Returns the process' exit code.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.set_threshold(GC_ALLOCATIONS, 20, 50)
    refusals: list[BaseException] = []
    try:
        trio.run(_main, settled(config), clock or SystemClock())
    except* (ConfigError, StorageError, SecretFileError, OSError) as group:
        refusals = _leaves(group)
    for error in refusals:
        print(f"peernode: {error}", file=sys.stderr)  # noqa: T201
    return EXIT_REFUSED if refusals else EXIT_OK


def settled(config: Config) -> Config:
    """Return the settings with the isolation level chosen that `auto` means on this machine.

    Raises `ConfigError` for backends that are not here.
    """
    if config.backends and config.slots:
        try:
            here = measure_backends(config.data / "worker")
            choose_backends(parse_backends(config.backends), here)
        except ValueError as error:
            raise ConfigError(str(error)) from None
    if config.isolation != "auto":
        return config
    config.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    missing = measure_levels(config.data / "worker")["sandbox"]
    if missing:
        Log(config.log_level).warning("no job runs at level sandbox here", missing=missing)
    return msgspec.structs.replace(config, isolation="wasm" if missing else "sandbox")


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


async def _main(config: Config, clock: Clock) -> None:
    # Signals count from the first moment: a node told to stop while it starts stops.
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with open_daemon(config, clock) as (node, url):
            gc.collect()
            gc.freeze()  # What a node is made of stays: no collection looks at it again.
            ready = f"ready {url} node_id={node.identity.number} peer_id={node.identity.peer_id}"
            print(ready, flush=True)  # noqa: T201
            async for _ in signals:
                break
            node.log.info("stopping", jobs=len(node.live))
            await node.drain()


@asynccontextmanager
async def open_daemon(config: Config, clock: Clock) -> AsyncIterator[tuple[Node, str]]:
    """Own a node, its HTTP server and its local worker; yield the node and its URL."""
    tls = _tls(config)
    host, port = config.http_address
    async with AsyncExitStack() as stack:
        seams = Seams(clock=clock)
        door_keeper = DoorKeeper()
        if config.p2p:
            seams = await stack.enter_async_context(_open_network(config, clock, door_keeper))
        node = await stack.enter_async_context(open_node(config, seams))
        door_keeper.node = node
        nursery = await stack.enter_async_context(trio.open_nursery())
        server = await stack.enter_async_context(
            http_server.open_server(
                node.api, host, port, _limits(config), tls=tls, on_error=node.log.failed
            )
        )
        shown = f"[{host}]" if ":" in host else host
        url = f"{'https' if tls else 'http'}://{shown}:{server.port}"
        door = server
        if tls is not None or not config.on_loopback:
            # The local worker, and this machine's operator, come in by a door of their own, without
            # TLS and on the loopback only.
            door = await stack.enter_async_context(
                http_server.open_server(
                    node.api, "127.0.0.1", 0, _limits(config), on_error=node.log.failed
                )
            )
        address_file = config.data / ADDRESS_FILE
        local_url = f"http://127.0.0.1:{door.port}"
        _write_address(address_file, url, local_url, node.identity.peer_id)
        try:
            if config.slots:
                if node.lives.opened.is_set():
                    await node.local_worker()  # It is there from the ready line on.
                nursery.start_soon(_run_local_worker, node, door.port)
            yield node, url
        finally:
            address_file.unlink(missing_ok=True)
            nursery.cancel_scope.cancel()


async def _run_local_worker(node: Node, port: int) -> None:
    await node.lives.opened.wait()
    worker = await node.local_worker()
    await LocalWorker(node, worker, f"ws://127.0.0.1:{port}", node.config.slots).run()


class DoorKeeper:
    """Tells the network, which is there before the node, who may be a peer: until then nobody."""

    def __init__(self) -> None:
        self.node: Node | None = None

    def allowed(self, public_key: bytes) -> bool:
        """Tell whether the owner of this key may be a peer."""
        return self.node is not None and self.node.membership.is_member(public_key)

    def report(self, peer: str, error: Exception) -> None:
        """Take note of a fault of a handler of ours."""
        if self.node is not None:
            self.node.log.failed(error)


@asynccontextmanager
async def _open_network(
    config: Config, clock: Clock, door_keeper: DoorKeeper
) -> AsyncIterator[Seams]:
    """Own the way to other nodes; yield what a node needs to go it."""
    config.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    entropy = SystemEntropy()
    secrets = load_secrets(config.data, entropy)
    chance = random.Random(entropy.token_bytes(32))
    async with open_libp2p_network(
        secrets.seed,
        config.p2p,
        door_keeper.allowed,
        chance,
        report=door_keeper.report,
        config=Libp2pConfig(announced=config.announced),
    ) as network:
        yield Seams(
            clock=clock, secrets=secrets, network=network, traffic=network.traffic, chance=chance
        )


def _write_address(path: Path, url: str, local_url: str, peer_id: str) -> None:
    temporary = path.with_suffix(".tmp")
    address = {"url": url, "local_url": local_url, "pid": os.getpid(), "peer_id": peer_id}
    temporary.write_text(json.dumps(address), "utf-8")
    temporary.replace(path)


def _tls(config: Config) -> ssl.SSLContext | None:
    if not config.tls:
        return None
    certificate, key = config.tls.split(",")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"tls: {config.tls}: {error}") from None
    return context


def _limits(config: Config) -> http_server.Config:
    """Return the server's limits: callers behind a proxy, or on this machine, share an address."""
    limits = http_server.Config()
    if config.behind_proxy or config.on_loopback:
        return replace(limits, connections_per_address_max=limits.connections_max)
    return limits
