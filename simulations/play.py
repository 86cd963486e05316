"""Plays a World scenario from its start to its end.

    set up, then   0 ............ duration_s .......... duration_s + drain_s
                   loads, updates, faults, probes       what is under way ends

Clients and workers come and go to the end; faults and arrivals stop at `duration_s`.
"""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from simulations.breaking import Breaker
from simulations.clients import Group, always_up, open_group
from simulations.errands import Desk
from simulations.faults import ClockStep
from simulations.inline_functions import Models
from simulations.load import LoadPlayer
from simulations.metrics import Metrics
from simulations.probing import Prober, honest_nodes
from simulations.scenario import Link, Load, Scenario
from simulations.sightings import Sightings
from simulations.stage import Stage, set_up
from simulations.trace import Trace
from simulations.updates import UpdatesPlayer
from simulations.virtual_workers import Ledger, Machine

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulations.world import Caller, World

PROGRESS_STEPS: Final = 200
"""How often in a run its virtual time is told. Source: finer than a progress bar shows."""
REST_S: Final = 120.0
"""How long after its last fault a mesh has all in common. Source: two sync intervals, with room."""
RESTLESS_S: Final = 600.0
"""The same, where links break with each message that is lost, then too. Source: measured; with a
tenth lost a link is up for ten messages, and a ring of six took up to 240 s."""
CLOCKS_OFF_MAX_S: Final = 50.0
"""Source: records over 60 s ahead of a node's clock wait until they are not."""


def rest_s(link: Link) -> float:
    """Return how long after the last fault a mesh with such links has all in common."""
    return RESTLESS_S if link.loss and link.loss_effect == "reset" else REST_S


class Play:
    """One run. `world` is open; everything ends with `run`."""

    def __init__(
        self,
        world: "World",
        scenario: Scenario,
        trace: Trace,
        metrics: Metrics,
        *,
        directory: str = ".",
        progress: "Callable[[float], None] | None" = None,
    ) -> None:
        """`directory`: what paths in the scenario are relative to."""
        self._world = world
        self._scenario = scenario
        self._trace = trace
        self._metrics = metrics
        self._directory = directory
        self._progress = progress
        self.ledger = Ledger(self._told)
        self._honest = honest_nodes(scenario.faults, world.size)
        self._sightings = Sightings(world, metrics, trace, self._honest)
        self._updates = [
            UpdatesPlayer(
                described,
                world,
                metrics,
                number=number,
                until_s=scenario.duration_s,
                honest=self._honest,
                directory=directory,
            )
            for number, described in enumerate(scenario.updates)
        ]

    async def run(self) -> None:
        """Play it. Raises `SetUpError`, `Unexpected`."""
        self._sightings.listen()
        with tempfile.TemporaryDirectory() as directory:
            async with trio.open_nursery() as nursery:
                stage = await set_up(
                    self._world,
                    self._scenario,
                    self.ledger,
                    Models(),
                    Path(directory),
                    nursery,
                    self._prepare,
                )
                self._world.begin()
                await self._perform(stage, nursery)
                nursery.cancel_scope.cancel()

    async def _perform(self, stage: Stage, nursery: trio.Nursery) -> None:
        scenario, world = self._scenario, self._world
        groups = {
            described.name: open_group(described, world, self._trace)
            for described in scenario.clients
        }
        players = [
            self._load(load, number, stage, groups, nursery)
            for number, load in enumerate(scenario.load)
        ]
        self._sightings.begin()
        ends_s = scenario.duration_s + scenario.drain_s
        breaker = Breaker(world, self._metrics, self._trace, self._honest, scenario.duration_s)
        for number, fault in enumerate(scenario.faults):
            nursery.start_soon(breaker.play, number, fault)
        for probe in scenario.probes:
            Prober(probe, world, self._metrics, stage.workers, self._honest).begin(ends_s)
        for player in players:
            nursery.start_soon(player.run)
        for changes in self._updates:
            nursery.start_soon(changes.run)
        if self._progress is not None:
            self._tell_progress(self._progress, 0)
        await world.sleep_until(ends_s)
        if world.invariants is not None:
            world.invariants.at_end()
            if self._is_at_rest(players):
                world.invariants.at_rest()
        for group in groups.values():
            group.is_over = True
        for player in players:
            player.close()
        for changes in self._updates:
            changes.close()
        self._sightings.close()

    def _is_at_rest(self, players: list[LoadPlayer]) -> bool:
        """Tell whether all has had the time to come to rest, and nothing stands in the way."""
        scenario, world = self._scenario, self._world
        off_s = sum(abs(f.step_s) for f in scenario.faults if isinstance(f, ClockStep))
        return (
            scenario.drain_s >= rest_s(scenario.link)
            and off_s <= CLOCKS_OFF_MAX_S
            and len(self._honest) == world.size
            and all(world.node(number) is not None for number in range(world.size))
            and not any(player.open for player in players)
        )

    async def _prepare(self, caller: "Caller", project: str) -> list[int]:
        """Make what will change; return the ids that all have to know."""
        known = []
        for player in self._updates:
            known += await player.set_up(caller, project)
        return known

    def _load(
        self,
        load: Load,
        number: int,
        stage: Stage,
        groups: dict[str, Group],
        nursery: trio.Nursery,
    ) -> LoadPlayer:
        staged = stage.functions[load.function]
        group = groups.get(load.clients or "") or always_up(load.nodes, self._world.size)
        desk = Desk(
            load=load,
            label=load.label or load.function,
            function=staged.id,
            tokens=stage.caller.tokens,
            world=self._world,
            ledger=self.ledger,
            metrics=self._metrics,
            trace=self._trace,
            nursery=nursery,
        )
        return LoadPlayer(
            desk,
            staged.described,
            group,
            number=number,
            until_s=self._scenario.duration_s,
            inputs=staged.inputs,
            directory=self._directory,
        )

    def _tell_progress(self, progress: "Callable[[float], None]", count: int) -> None:
        """Tell it now, and from now on. No task: being watched changes nothing."""
        world, scenario = self._world, self._scenario
        progress(world.now)
        if count < PROGRESS_STEPS:
            at_s = (scenario.duration_s + scenario.drain_s) * (count + 1) / PROGRESS_STEPS
            due_s = world.journal.clock_time(at_s)
            world.clock.call_at(due_s, self._tell_progress, progress, count + 1)

    def _told(self, job: int, what: str, machine: Machine, attempt: int) -> None:
        """A worker began a job, or it was taken from it; a node says how jobs end."""
        state = {"running": "running", "stopped": "queued"}.get(what)
        if state is not None:
            self._trace.record(
                self._world.now,
                "job",
                node=machine.node,
                job=str(job),
                state=state,
                worker=machine.name,
                attempt=attempt,
            )
