"""Connections of `edge.http`: httpx's, but to addresses that were found and judged here.

The name stays the connection's name, for the certificate and the `Host` header; only where it leads
is decided by `find`, once for each connection.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeAlias

import httpcore
import httpx

Find: TypeAlias = Callable[[str, int], Awaitable[list[str]]]
"""Host and port to the addresses to try, in order."""


class Backend(httpcore.AsyncNetworkBackend):
    """Connects by `find` instead of by the operating system's choice."""

    def __init__(self, find: Find) -> None:
        self._find = find
        self._backend = httpcore.TrioBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  (httpcore's name)
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address that answers. Raises what `find` does, or `ConnectError`."""
        failure: httpcore.ConnectError | None = None
        for address in await self._find(host, port):
            try:
                return await self._backend.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except httpcore.ConnectError as error:
                failure = error
        raise failure or httpcore.ConnectError("no address")

    async def sleep(self, seconds: float) -> None:
        """Wait, between tries."""
        await self._backend.sleep(seconds)


class Transport(httpx.AsyncHTTPTransport):
    """httpx's transport over a `Backend`."""

    def __init__(self, find: Find, connections_max: int) -> None:
        super().__init__()
        # httpx has no argument for this; a test reaches for a private address to see that it holds.
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=httpx.create_ssl_context(trust_env=False),
            max_connections=connections_max,
            network_backend=Backend(find),
        )
