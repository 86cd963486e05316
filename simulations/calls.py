"""Calls of a node's API, as the players of a scenario make them."""

from typing import TYPE_CHECKING, Any, Final

import trio

from simulations.world import Answer, NodeDown

if TYPE_CHECKING:
    from simulations.world import World

RETRY_S: Final = 1.0
"""Pause before a call is made again. Source: the node's own Retry-After."""


class Unexpected(Exception):
    """A node answered what no correct node does: a failure of the run."""

    def __init__(self, node: int, said: str) -> None:
        super().__init__(said)
        self.node = node


async def ask(
    world: "World",
    node: int,
    call: str,
    body: Any = None,
    *,
    token: str,
    headers: dict[str, str] | None = None,
    status: int = 200,
) -> Answer:
    """Call a node's API (`call` is method and path) until it answers with this status.

    Raises `Unexpected` for an answer that would not change.
    """
    method, _, path = call.partition(" ")
    while True:
        try:
            answer = await world.request(node, method, path, body, token=token, headers=headers)
            if answer.status == status:
                return answer
            if not is_passing(answer, node):
                raise Unexpected(node, f"{call} was answered {answer.status}, not {status}")
            await trio.sleep(RETRY_S)
        except NodeDown:
            await world.until_up(node)


def is_passing(answer: Answer, node: int) -> bool:
    """Tell whether a refusal is one that passes. Raises `Unexpected` for one that does not.

    404 is: what was made elsewhere may not have come to this node yet.
    """
    if 200 <= answer.status < 300:
        return False
    if answer.status in (404, 425, 429) or answer.status >= 500:
        return True
    said = answer.body[:300].decode("utf-8", "replace")
    raise Unexpected(node, f"a node answered {answer.status}: {said}")
