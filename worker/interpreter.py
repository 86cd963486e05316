"""Python for level `wasm` at this worker: built in the background, offered when it is there.

Building takes some twenty seconds once a user and version (`worker.wasm`), so nothing waits for
it.  A worker that got it while attached says so by renewing its link: `Hello` carries an offer, and
what runs goes on.
"""

import os
from pathlib import Path

import msgspec
import trio

from worker import wasm
from worker.capabilities import LEVELS
from worker.link import LinkClosed
from worker.preparing import Knowing, run_apart
from worker.protocol import Offer

BUILD_TIMEOUT_S = 1800.0
"""Longest time by the clock, waiting for another worker's build included. Source: guess."""


class Interpreter:
    """Where it lies and whether it is there."""

    def __init__(self, path: Path | None) -> None:
        self.path = str(path or "")
        self._ready = trio.Event()
        if path is not None and wasm.trusted(path):
            self._ready.set()
            os.utime(path)

    async def build(self, knowing: Knowing) -> None:
        """Build it if it is missing; without it, this worker merely offers less."""
        if not self.path or self._ready.is_set():
            return
        with open(os.devnull, "rb") as nothing:  # noqa: ASYNC230
            arguments = ("interpreter", self.path)
            if not await run_apart(arguments, nothing.fileno(), knowing, BUILD_TIMEOUT_S):
                self._ready.set()

    def offered(self, offer: Offer) -> Offer:
        """Return an offer with Python at level `wasm` added, once it is there."""
        if not self._ready.is_set() or "wasm" in offer.levels.get("python", ()):
            return offer
        return msgspec.structs.replace(
            offer,
            levels={**offer.levels, "python": [*offer.levels.get("python", ()), "wasm"]},
            isolation=[level for level in LEVELS if level in (*offer.isolation, "wasm")],
        )

    async def news(self, offer: Offer) -> None:
        """End the link, by `LinkClosed`, when there is more to offer than `offer`."""
        await self._ready.wait()
        if self.offered(offer) is not offer:
            raise LinkClosed("there is more to offer")
