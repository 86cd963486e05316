"""Calls of a node's API, as the players of a scenario make them."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import trio

from simulations.world import Answer, NodeDown

if TYPE_CHECKING:
    from simulations.world import World

RETRY_S: Final = 1.0
"""Pause before a call is made again. Source: the node's own Retry-After."""


LOOK_S: Final = 0.1
"""Pause between two looks whether nodes know what they must. Source: guess."""
SET_UP_MAX_S: Final = 600.0
"""Longest virtual time to wait for that. Source: guess; some sync intervals."""


class SetUpError(Exception):
    """The nodes did not come to know what a run needs."""


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
            if answer.status == 401 or not is_passing(answer, node):
                raise Unexpected(node, f"{call} was answered {answer.status}, not {status}")
            await trio.sleep(RETRY_S)
        except NodeDown:
            await world.until_up(node)


async def wait_for(is_so: Callable[[], bool]) -> None:
    """Return when something is so that no one event tells. Raises `SetUpError`."""
    with trio.move_on_after(SET_UP_MAX_S) as scope:
        while not is_so():  # noqa: ASYNC110  (see above)
            await trio.sleep(LOOK_S)
    if scope.cancelled_caught:
        raise SetUpError(f"after {SET_UP_MAX_S} s not every node knows what it must")


def is_passing(answer: Answer, node: int) -> bool:
    """Tell whether a refusal is one that passes. Raises `Unexpected` for one that does not.

    404 is: what was made elsewhere may not have come to this node yet.  401 is too: a token is not
    good at a node whose clock is far off.
    """
    if 200 <= answer.status < 300:
        return False
    if answer.status in (401, 404, 425, 429) or answer.status >= 500:
        return True
    said = answer.body[:300].decode("utf-8", "replace")
    raise Unexpected(node, f"a node answered {answer.status}: {said}")
