"""From a scenario that fails to a smaller one that fails in the same way.

Steps are tried from the coarse to the fine, again and again, until none helps: leave a table out,
halve the time, take a node away, make a line ideal, make an arrival rare.  What "fails in the same
way" means is the caller's question; nothing here runs anything.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from simulations.scenario import Complete, Costs, Link, Scenario

TRIES_MAX: Final = 200
"""Source: guess; at half a second each, under two minutes."""
LISTS: Final = ("faults", "load", "updates", "clients", "workers", "functions", "probes", "passes")
TIME_MIN_S: Final = 1.0

replace = msgspec.structs.replace


def shrink(
    scenario: Scenario, still_fails: Callable[[Scenario], bool], *, tries_max: int = TRIES_MAX
) -> Scenario:
    """Return a scenario, as small as could be found, of which `still_fails` is true as well.

    `still_fails` is asked `tries_max` times at most, and never of the same scenario twice; it may
    be asked of one that cannot be run, and then says no.
    """
    seen = [msgspec.json.encode(scenario)]
    smaller = True
    while smaller and len(seen) <= tries_max:
        smaller = False
        for candidate in _candidates(scenario):
            key = msgspec.json.encode(candidate)
            if key in seen or len(seen) > tries_max:
                continue
            seen.append(key)
            if still_fails(candidate):
                scenario, smaller = candidate, True
                break
    return scenario


def _candidates(scenario: Scenario) -> Iterator[Scenario]:
    yield from _fewer_tables(scenario)
    yield from _less_time(scenario)
    yield from _fewer_nodes(scenario)
    yield from _plainer(scenario)


def _fewer_tables(scenario: Scenario) -> Iterator[Scenario]:
    for name in LISTS:
        items: list[Any] = getattr(scenario, name)
        if len(items) > 1:
            yield replace(scenario, **{name: []})
        for index in range(len(items)):
            yield replace(scenario, **{name: items[:index] + items[index + 1 :]})


def _less_time(scenario: Scenario) -> Iterator[Scenario]:
    for share in (0.5, 0.8):
        shorter_s = round(scenario.duration_s * share, 1)
        if shorter_s >= TIME_MIN_S:
            yield replace(scenario, duration_s=shorter_s)
    if scenario.drain_s:
        yield replace(scenario, drain_s=0.0)
        yield replace(scenario, drain_s=round(scenario.drain_s * 0.5, 1))


def _fewer_nodes(scenario: Scenario) -> Iterator[Scenario]:
    """The last node goes, from all lists of nodes; of a topology that has a number of them."""
    count: int | None = getattr(scenario.topology, "nodes", None)
    if count is None:
        return
    if not isinstance(scenario.topology, Complete):
        yield replace(scenario, topology=Complete(nodes=count))
    for fewer in dict.fromkeys((count // 2, count - 1)):
        if fewer >= 1:
            topology = replace(scenario.topology, nodes=fewer)
            yield replace(
                scenario,
                topology=topology,
                **{name: _without(getattr(scenario, name), fewer) for name in LISTS},
            )
    for name in LISTS:
        items: list[Any] = getattr(scenario, name)
        for index, item in enumerate(items):
            nodes = getattr(item, "nodes", None)
            if isinstance(nodes, list) and len(nodes) > 1:
                for at in range(len(nodes)):
                    less = replace(item, nodes=nodes[:at] + nodes[at + 1 :])
                    yield replace(scenario, **{name: [*items[:index], less, *items[index + 1 :]]})


def _without(items: list[Any], count: int) -> list[Any]:
    """Return tables that name no node from `count` on; one that names no other is left out."""
    kept: list[Any] = []
    for item in items:
        nodes = getattr(item, "nodes", None)
        if isinstance(nodes, list):
            nodes = [node for node in nodes if node < count]
            if not nodes:
                continue
            kept.append(replace(item, nodes=nodes))
        else:
            kept.append(item)
    return kept


def _plainer(scenario: Scenario) -> Iterator[Scenario]:
    if scenario.link != Link():
        yield replace(scenario, link=Link())
    if scenario.costs != Costs():
        yield replace(scenario, costs=Costs())
    if scenario.store != "memory":
        yield replace(scenario, store="memory")
    if scenario.node:
        yield replace(scenario, node={})
    for name in ("workers", "functions", "clients", "load", "updates"):
        items: list[Any] = getattr(scenario, name)
        for index, item in enumerate(items):
            plain = _plain(item)
            if plain != item:
                yield replace(scenario, **{name: [*items[:index], plain, *items[index + 1 :]]})


def _plain(item: Any) -> Any:
    """Return a table with defaults for all that has one, but for which nodes it is of."""
    kept = {"nodes", "clients"}
    changes = {
        field.name: field.default
        for field in msgspec.structs.fields(item)
        if field.name not in kept and field.default is not msgspec.NODEFAULT
    }
    return replace(item, **changes)
