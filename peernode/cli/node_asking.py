"""Whether it is its node that a worker reached over plain HTTP, before it says who it is.

Any program on this machine may have the node's port while the node is down.  So the worker asks for
the proof that other clients ask for (`peernode.node_proof`), of the key that its token names, on
the very connection that it will use: `GET /health?challenge=`, and the upgrade after it.
"""

from typing import Any, Final

import msgspec
import trio

from peernode.node_proof import CHALLENGE_SIZE_BYTES, is_signed_by
from storage.clock import Entropy
from worker.link import LinkClosed
from worker.websocket_link import Ask, WrongNode

ANSWER_SIZE_MAX_BYTES: Final = 16 * 1024
"""Longest answer, head included. Source: guess; a node says some hundred bytes."""
_END: Final = b"\r\n\r\n"
_LENGTH: Final = b"\r\ncontent-length:"


class _Health(msgspec.Struct):
    proof: str = ""


def ask(key: bytes, entropy: Entropy) -> Ask:
    """Return what has the node of this key prove itself. It raises `WrongNode`, `LinkClosed`."""

    async def ask_node(stream: trio.abc.Stream, host: str) -> None:
        challenge = entropy.token_bytes(CHALLENGE_SIZE_BYTES)
        target = f"/health?challenge={challenge.hex()}"
        await stream.send_all(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        try:
            health: Any = msgspec.json.decode(await _body(stream), type=_Health)
            signature = bytes.fromhex(health.proof)
        except (msgspec.DecodeError, ValueError):
            signature = b""
        if not is_signed_by(key, challenge, host, signature):
            raise WrongNode(
                f"{host} does not prove that it is the node that the token names; nothing was said"
            )

    return ask_node


async def _body(stream: trio.abc.Stream) -> bytes:
    """Return the body of the only answer. Raises `LinkClosed`, `ValueError`."""
    data = b""
    while _END not in data:
        data += await _more(stream, len(data))
    head, _, body = data.partition(_END)
    _, found, rest = head.lower().partition(_LENGTH)
    length = int(rest.partition(b"\r\n")[0]) if found else 0
    while len(body) < length:
        body += await _more(stream, len(head) + len(body))
    if len(body) > length:
        raise ValueError("more than one answer")
    return body


async def _more(stream: trio.abc.Stream, size_bytes: int) -> bytes:
    if size_bytes > ANSWER_SIZE_MAX_BYTES:
        raise ValueError("too much of an answer")
    data = bytes(await stream.receive_some(4096))
    if not data:
        raise LinkClosed("the connection was closed before it was known who answered")
    return data
