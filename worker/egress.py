"""`edge.http`: the agent asks other servers in a function's name, and only those allowed to it.

The function's process needs no network for it.  A host is allowed when the project lists it, as
`host` (any port) or `host:port`, and where it leads is an address that this worker's operator
lets functions reach (`worker.egress_addresses`).  Redirects are answers like any other, never
followed: each host must be on the list.  Sizes and times are bounded, proxies of the environment
are ignored.
"""

import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec
import trio

from worker.egress_addresses import Network, is_reachable

if TYPE_CHECKING:
    import httpx

Resolve: TypeAlias = Callable[[str, int], Awaitable[list[str]]]
"""Host and port to addresses, best first. Raises `OSError`."""

RESPONSE_SIZE_MAX_BYTES: Final = 8 * 1024 * 1024
"""Largest answer. Source: guess; more belongs into a blob."""

REQUEST_SIZE_MAX_BYTES: Final = 8 * 1024 * 1024
"""Largest body sent. Source: as above."""

TIMEOUT_MAX_S: Final = 600.0
"""Longest time for one exchange. Source: guess."""

CONNECTIONS_MAX: Final = 32
"""Connections at once, idle ones included. Source: guess."""

ADDRESSES_TRIED_MAX: Final = 3
"""Most addresses of one name that are tried. Source: guess; two families and one that is down."""

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class EgressError(Exception):
    """An exchange failed; the first argument is the problem code."""


async def resolve(host: str, port: int) -> list[str]:
    """Ask the operating system. Raises `OSError`."""
    rows = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(row[4][0]) for row in rows))


class Egress:
    """The HTTP client of one worker, opened when first used."""

    def __init__(self, networks: Sequence[Network] = (), resolve: Resolve = resolve) -> None:
        """`networks` may be reached beside public addresses."""
        self._networks = networks
        self._resolve = resolve
        self._client: httpx.AsyncClient | None = None

    async def request(self, arguments: dict[str, Any], allowed: Sequence[str]) -> dict[str, Any]:
        """Make the exchange that `edge.http` asked for; return `status`, `headers`, `content`.

        Raises `EgressError` for everything that goes wrong.
        """
        # A tenth of a second that only workers pay whose functions use it.
        import httpx

        try:
            url = httpx.URL(arguments["url"])
            headers = msgspec.json.decode(arguments["headers"], type=dict[str, str])
        except (httpx.InvalidURL, msgspec.DecodeError) as error:
            raise EgressError("invalid_request") from error
        if not is_allowed(url.scheme, url.host, url.port, allowed):
            raise EgressError("forbidden")
        if arguments["method"] not in METHODS or len(arguments["body"]) > REQUEST_SIZE_MAX_BYTES:
            raise EgressError("invalid_request")
        timeout_s = arguments["timeout_s"]
        if not 0 < timeout_s <= TIMEOUT_MAX_S:
            raise EgressError("invalid_request")
        if self._client is None:
            self._client = self._open()
        request = (arguments["method"], url, headers, arguments["body"])
        try:
            with trio.fail_after(timeout_s):
                return await _exchange(self._client, *request)
        except trio.TooSlowError as error:
            raise EgressError("timeout") from error
        except (httpx.NetworkError, httpx.RemoteProtocolError) as error:
            raise EgressError("unreachable") from error
        except (httpx.HTTPError, UnicodeError, ValueError) as error:
            raise EgressError("invalid_request") from error

    def _open(self) -> "httpx.AsyncClient":
        import httpx

        from worker.egress_transport import Transport

        return httpx.AsyncClient(
            transport=Transport(self._find, CONNECTIONS_MAX),
            trust_env=False,
            follow_redirects=False,
            timeout=None,  # noqa: S113  (one deadline over all, in `request`)
        )

    async def _find(self, host: str, port: int) -> list[str]:
        """Return where a listed host may be reached. Raises `EgressError`."""
        try:
            found = await self._resolve(host, port)
        except (OSError, UnicodeError) as error:
            raise EgressError("unreachable") from error
        reachable = [address for address in found if is_reachable(address, self._networks)]
        if not reachable:
            raise EgressError("private_address" if found else "unreachable")
        return reachable[:ADDRESSES_TRIED_MAX]

    async def aclose(self) -> None:
        """Close all connections."""
        if self._client is not None:
            await self._client.aclose()


async def _exchange(
    client: "httpx.AsyncClient", method: str, url: "httpx.URL", headers: dict[str, str], body: bytes
) -> dict[str, Any]:
    content = bytearray()
    async with client.stream(method, url, headers=headers, content=body or None) as response:
        with trio.CancelScope() as scope:
            async for data in response.aiter_bytes():
                if len(content) + len(data) <= RESPONSE_SIZE_MAX_BYTES:
                    content += data
                else:
                    # Leaving the loop would leave the client's own generators unfinished; this
                    # ends the innermost first.
                    scope.cancel()
        if scope.cancel_called:
            raise EgressError("too_large")
        return {
            "status": response.status_code,
            "headers": {name.lower(): value for name, value in response.headers.items()},
            "content": bytes(content),
        }


def is_allowed(scheme: str, host: str, port: int | None, allowed: Sequence[str]) -> bool:
    """Return whether an address is on the list of hosts."""
    if scheme not in ("http", "https") or not host:
        return False
    name = f"[{host}]" if ":" in host else host
    number = port or (443 if scheme == "https" else 80)
    wanted = {name.lower(), f"{name}:{number}".lower()}
    return any(entry.lower() in wanted for entry in allowed)
