"""How a request becomes httpx's, and httpx's answers and failures become ours.

`wire` (blocking) and `async_wire` (trio) differ in `await` and in nothing else; whatever they can
share is here.  All httpx errors are translated here and nowhere else.  Redirects are not followed:
a node does not send any, and a token must not travel.
"""

import random
import secrets
import time
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from peernode.client import effects, proof
from peernode.client.effects import Course, Operation, Reply, Request, Upload
from peernode.client.errors import ConnectionFailed
from peernode.client.retries import Policy, retrying
from peernode.client.settings import Target

CONNECT_TIMEOUT_S: Final = 5.0
"""Source: guess; a SYN is repeated after 1 and 3 s."""
WRITE_TIMEOUT_S: Final = 60.0
"""Source: guess; a node that is busy writing an upload to disk reads no further."""
CONNECTIONS_MAX: Final = 128
"""Source: guess, above the jobs an `Executor` has out at once."""
UPLOAD_PIECE_BYTES: Final = 256 * 1024
"""Source: guess; larger pieces move no faster on loopback."""


def http_options(target: Target, timeout_s: float = effects.TIMEOUT_S) -> dict[str, Any]:
    """Return the arguments for an httpx client."""
    loopback = urlsplit(target.url).hostname in {"127.0.0.1", "localhost", "::1"}
    return {
        "base_url": target.url,
        "headers": {"user-agent": "peernode-python"},
        "timeout": timeouts(timeout_s),
        "limits": httpx.Limits(max_connections=CONNECTIONS_MAX),
        "trust_env": not loopback,  # a proxy cannot reach this machine's own loopback
    }


def timeouts(timeout_s: float) -> httpx.Timeout:
    """Return httpx's time-outs for an answer that may take `timeout_s`."""
    return httpx.Timeout(
        timeout_s, connect=CONNECT_TIMEOUT_S, write=WRITE_TIMEOUT_S, pool=timeout_s
    )


def head(request: Request, token: str) -> dict[str, Any]:
    """Return httpx's description of a request but for its body."""
    headers = list(request.headers)
    if token:
        headers.append(("authorization", f"Bearer {token}"))
    content = request.content
    if isinstance(content, Upload) and content.size_bytes is not None:
        headers.append(("content-length", str(content.size_bytes)))
    return {
        "method": request.method,
        "url": request.path,
        "params": list(request.query),
        "headers": headers,
        "timeout": timeouts(request.timeout_s),
    }


def reply_of(response: httpx.Response, content: bytes) -> Reply:
    """Return httpx's response as a value."""
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Reply(status=response.status_code, headers=headers, content=content)


def translate(error: httpx.RequestError, url: str) -> ConnectionFailed:
    """Return what an httpx error means to the caller."""
    unsent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
    reason = str(error) or type(error).__name__
    if unsent:
        hint = "is the node running there? `peernode up` starts one, `peernode doctor` looks"
        return ConnectionFailed(f"cannot reach {url}: {reason}", sent=False, hint=hint)
    return ConnectionFailed(f"the connection to {url} was lost: {reason}", sent=True)


class Transport:
    """What both wires hold: where to, as whom, and the sources of time and chance."""

    def __init__(
        self,
        target: Target,
        *,
        policy: Policy | None = None,
        rng: random.Random | None = None,
        new_key: Callable[[], str] = lambda: secrets.token_hex(16),
        new_challenge: Callable[[], bytes] = lambda: secrets.token_bytes(32),
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = target.url
        self.token = target.token
        self.user = target.user
        self.key = target.key
        self._checked = ""
        """The token for which the node has proved to be the right one."""
        self._policy = Policy() if policy is None else policy
        self._rng = random.Random() if rng is None else rng
        self._new_key = new_key
        self._new_challenge = new_challenge
        self._now_s = now_s

    def unproven(self) -> proof.Wanted | None:
        """Return what the node is to prove before the token is sent; nothing, if it has."""
        if self.token == self._checked:
            return None
        keys = proof.audience(self.token) or self._kept_key()
        wanted = proof.want(self.url, keys, self._new_challenge())
        if wanted is None:
            self._checked = self.token
        return wanted

    def unproven_for_login(self) -> proof.Wanted | None:
        """Return what the node is to prove before a password is sent, if it is known."""
        return proof.want(self.url, self._kept_key(), self._new_challenge())

    def take_proof(self, wanted: proof.Wanted, reply: Reply) -> None:
        """Take a node's answer. Raises `WrongNode`."""
        proof.check(wanted, reply)
        self._checked = self.token

    def lost(self) -> None:
        """Take note that a connection failed: who answers next has proved nothing."""
        self._checked = ""

    def _kept_key(self) -> tuple[bytes, ...]:
        try:
            return (bytes.fromhex(self.key),) if self.key else ()
        except ValueError:
            return ()

    def course(self, operation: Operation[Any]) -> Course:
        """Return the operation under way, its exchanges retried."""
        return Course(retrying(operation, self._policy))

    def at_once(self, effect: effects.Now | effects.Draw | effects.NewKey) -> Any:
        """Carry out an effect that takes no time."""
        match effect:
            case effects.Now():
                return self._now_s()
            case effects.Draw():
                return self._rng.random()
            case effects.NewKey():
                return self._new_key()
