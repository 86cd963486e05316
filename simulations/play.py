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
from simulations.inline_functions import Models
from simulations.load import LoadPlayer
from simulations.metrics import Metrics
from simulations.probing import Prober
from simulations.scenario import Load, Scenario
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
        self._sightings = Sightings(world, metrics, trace)
        self._updates = [
            UpdatesPlayer(
                described,
                world,
                metrics,
                number=number,
                until_s=scenario.duration_s,
                directory=directory,
            )
            for number, described in enumerate(scenario.updates)
        ]

    async def run(self) -> None:
        """Play it. Raises `SetUpError`, `Unexpected`."""
        self._sightings.listen()
        with tempfile.TemporaryDirectory() as directory:
            stage = await set_up(
                self._world,
                self._scenario,
                self.ledger,
                Models(),
                Path(directory),
                prepare=self._prepare,
            )
            self._world.begin()
            async with trio.open_nursery() as nursery:
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
        breaker = Breaker(world, self._metrics, self._trace, scenario.duration_s)
        for number, fault in enumerate(scenario.faults):
            nursery.start_soon(breaker.play, number, fault)
        for probe in scenario.probes:
            prober = Prober(probe, world, self._metrics, stage.workers)
            nursery.start_soon(prober.run, ends_s)
        for player in players:
            nursery.start_soon(player.run)
        for changes in self._updates:
            nursery.start_soon(changes.run)
        if self._progress is not None:
            nursery.start_soon(self._tell_progress, self._progress)
        await world.sleep_until(ends_s)
        for player in players:
            player.close()
        for changes in self._updates:
            changes.close()
        self._sightings.close()

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

    async def _tell_progress(self, progress: "Callable[[float], None]") -> None:
        step_s = (self._scenario.duration_s + self._scenario.drain_s) / PROGRESS_STEPS
        while True:
            progress(self._world.now)
            await trio.sleep(step_s)

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
