"""Load: jobs that arrive, who hands each in, and which node takes it.

Every choice is drawn from a generator of the load's own, in the order of arrivals: when a job
arrives, how long it takes and whom it asks do not depend on what the nodes do with it.

A balancer knows how many unfinished jobs each node has (`Board`), and how many it has sent there
that have not arrived: exactly, or as it was when the board was last looked at (`stale_s`).  Among
equals it takes any.  A node that is down is taken only if all are; but for `home`, everybody knows
which are.
"""

import random
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

import trio

from simulations.arrivals import arrivals
from simulations.clients import Client, Group
from simulations.distributions import draw
from simulations.errands import Desk, Errand
from simulations.scenario import Function

if TYPE_CHECKING:
    from simulations.world import World

DOWN: Final = 1 << 60
"""The load of a node that is down: worse than any other."""


class Board:
    """How much each node has to do, as a balancer knows it."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._seen: list[int] | None = None
        self._sent: Counter[int] = Counter()

    def load(self, node: int) -> int:
        """Return how many jobs of a node are not over."""
        return self._look(node) if self._seen is None else self._seen[node]

    def send(self, node: int) -> Callable[[], None]:
        """Take note of a job on its way to a node; return what to call when it is there."""
        self._sent[node] += 1

        def arrived() -> None:
            self._sent[node] -= 1

        return arrived

    async def keep(self, stale_s: float) -> None:
        """Look at all nodes each `stale_s`, and remember it until the next look."""
        while True:
            self._seen = [self._look(node) for node in range(self._world.size)]
            await trio.sleep(stale_s)

    def _look(self, node: int) -> int:
        opened = self._world.node(node)
        return DOWN if opened is None else len(opened.live) + self._sent[node]


def choose_node(
    balance: str, client: Client, board: Board, size: int, chance: random.Random
) -> int:
    """Return the node that takes a client's job, of `size` nodes."""
    if balance == "home":
        return client.home
    loads = [board.load(node) for node in range(size)]
    up = [node for node, load in enumerate(loads) if load < DOWN] or list(range(size))
    if balance == "random":
        return chance.choice(up)
    if balance == "two-choices" and len(up) > 1:
        one, other = chance.sample(up, 2)
        return other if loads[other] < loads[one] else one
    least = min(loads[node] for node in up)  # shortest, stale
    return chance.choice([node for node in up if loads[node] == least])


class Inputs(Protocol):
    """Makes the inputs of jobs."""

    async def __call__(self, node: int, duration_s: float, result_bytes: int) -> bytes:
        """Return JSON text for a job that is handed in at a node."""
        ...


async def simulated_input(node: int, duration_s: float, result_bytes: int) -> bytes:
    """Return the input of a simulated function."""
    return b'{"duration_s":%b,"result_bytes":%d}' % (repr(duration_s).encode(), result_bytes)


class LoadPlayer:
    """One `[[load]]` being played."""

    def __init__(
        self,
        desk: Desk,
        function: Function,
        group: Group,
        *,
        number: int,
        until_s: float,
        inputs: Inputs = simulated_input,
        directory: str = ".",
    ) -> None:
        """`number` tells loads apart; nothing arrives at or after `until_s`."""
        self.open: dict[Errand, None] = {}
        """Errands whose fate is not known, oldest first."""
        self._desk = desk
        self._function = function
        self._group = group
        self._number = number
        self._until_s = until_s
        self._inputs = inputs
        self._directory = directory
        self._board = Board(desk.world)

    async def run(self) -> None:
        """Have all jobs arrive and be done, one after another and side by side."""
        desk = self._desk
        world, load = desk.world, desk.load
        chance = world.chance("load", self._number)
        times = arrivals(load.arrivals, world.chance("arrivals", self._number), self._directory)
        began_s = trio.current_time() - world.now
        async with trio.open_nursery() as nursery:
            if load.balance == "stale" and load.stale_s > 0:
                desk.nursery.start_soon(self._board.keep, load.stale_s)
            for count, (at_s, duration_s) in enumerate(times):
                if at_s >= self._until_s:
                    break
                if duration_s is None:
                    duration_s = draw(self._function.duration_s, chance)
                result_bytes = round(draw(self._function.result_bytes, chance))
                await trio.sleep_until(began_s + at_s)
                client = self._group.choose(chance)
                if client is None:
                    desk.metrics.observe("load.dropped", world.now, 1.0, label=desk.label)
                    continue
                node = choose_node(load.balance, client, self._board, world.size, chance)
                key = f"{self._number}-{count}"
                errand = Errand(
                    desk=desk, client=client, node=node, key=key, accepted=self._board.send(node)
                )
                self.open[errand] = None
                nursery.start_soon(self._do, errand, duration_s, result_bytes)

    async def _do(self, errand: Errand, duration_s: float, result_bytes: int) -> None:
        errand.input = await self._inputs(errand.node, duration_s, result_bytes)
        await errand.run()
        del self.open[errand]

    def close(self) -> None:
        """The run is over: what is open failed."""
        for errand in list(self.open):
            errand.close("open")
