"""What a scenario may not say though each word of it is right: names, numbers, limits, sense.

The first thing that is wrong is told, with its place as the file has it and what is allowed there.
Nothing here runs or draws; files that a scenario names are looked for, and of a topology read.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, assert_never

import msgspec

from peernode import config
from peernode.terms import PrefersBody, RequiresBody
from simulations import arrivals, topology
from simulations.bounds import (
    check_at_most,
    check_distribution,
    check_lasting,
    check_name,
    check_names,
    check_nodes,
    check_turns,
    check_whole,
    count,
)
from simulations.distributions import mean
from simulations.errors import ScenarioError, unknown
from simulations.faults import (
    Byzantine,
    Churn,
    ClockSkew,
    ClockStep,
    Crash,
    DiskFull,
    Fault,
    Flapping,
    Partition,
    SlowDisk,
)
from simulations.fitting import misfit
from simulations.metrics import METRICS, PROBED
from simulations.scenario import (
    Arrivals,
    AtOnce,
    AzureTrace,
    Bursty,
    Costs,
    Function,
    Load,
    Scenario,
    Workers,
)
from simulations.tables import Nodes

DURATION_MAX_S: Final = 366 * 86_400.0
"""Source: guess; a year."""
WORLD_NODES_MAX: Final = 2_000
"""Source: 1,000 idle daemons take 4 GB; there may be a machine with twice that."""
ARRIVALS_MAX: Final = 1_000_000
"""Jobs and updates together, on average. Source: some 2 KB each in trace, metrics and nodes."""
SAMPLES_MAX: Final = 10_000_000
"""What probes observe. Source: 100 bytes each."""
MEMBERS_MAX: Final = 100_000
"""Clients, and workers, of all groups. Source: a few KB each."""
TABLES_MAX: Final = 1_000
"""Of one kind: functions, groups, loads, faults. Source: guess."""
COUNT_MAX: Final = 1 << 20
"""Slots and GPUs of a worker, keys, what arrives at once. Source: guess."""
QUOTA_MAX_BYTES: Final = 1 << 53
"""Source: the API's limit."""
NOT_SETTINGS: Final = (
    *("announce", "backends", "behind_proxy", "data", "egress_networks"),
    *("http", "isolation", "log_level", "mesh_name", "p2p", "tls", "workers"),
)
"""Settings of a node that a simulation sets itself, or that mean nothing in it."""
EXAMPLES: Final = Path(config.__file__).parent / "examples" / "functions"


def check(scenario: Scenario, directory: str | Path = ".") -> None:
    """Raise `ScenarioError` for a scenario that cannot be run as it stands."""
    _check_head(scenario)
    nodes = topology.count_nodes(scenario.topology, directory)
    if scenario.driver == "world":
        if nodes > WORLD_NODES_MAX:
            raise ScenarioError(
                "topology", f'{nodes} nodes; driver "world" takes {WORLD_NODES_MAX} at most'
            )
        _check_settings(scenario.node)
    else:
        _check_swarm(scenario)
    for name in Costs.__struct_fields__:
        check_distribution(f"costs.{name}", getattr(scenario.costs, name))
    check_distribution("link.latency_s", scenario.link.latency_s)
    check_distribution("link.jitter_s", scenario.link.jitter_s)
    if scenario.link.loss >= 1:
        raise ScenarioError("link.loss", "1 loses all there is; must be below 1")
    _check_nodes_everywhere(scenario, nodes)
    _check_workers(scenario, nodes)
    _check_functions(scenario.functions)
    _check_clients(scenario)
    for number, load in enumerate(scenario.load):
        _check_load(f"load[{number}]", load, scenario, directory)
    _check_updates(scenario)
    _check_total(scenario)
    for number, fault in enumerate(scenario.faults):
        _check_fault(f"faults[{number}]", fault, scenario, nodes)
    _check_probes(scenario, nodes)
    _check_passes(scenario)


# --- the whole -------------------------------------------------------------------------------


def _check_head(scenario: Scenario) -> None:
    check_name("name", scenario.name)
    check_at_most("duration_s", scenario.duration_s, DURATION_MAX_S)
    check_at_most("drain_s", scenario.drain_s, DURATION_MAX_S)
    if scenario.warm_up_s >= scenario.duration_s:
        raise ScenarioError("warm_up_s", f"must be below duration_s, {scenario.duration_s:g}")
    for place, tables in _tables(scenario):
        check_at_most(place, len(tables), TABLES_MAX)


def _tables(scenario: Scenario) -> Iterator[tuple[str, list[Any]]]:
    yield "workers", scenario.workers
    yield "functions", scenario.functions
    yield "clients", scenario.clients
    yield "load", scenario.load
    yield "updates", scenario.updates
    yield "faults", scenario.faults
    yield "probes", scenario.probes
    yield "pass", scenario.passes


def _check_swarm(scenario: Scenario) -> None:
    """A swarm has gossip only: no daemon, so no jobs, no disks and no settings."""
    for place, tables in _tables(scenario):
        if tables and place in ("workers", "functions", "clients", "load"):
            raise ScenarioError(place, 'driver "swarm" runs no jobs; driver = "world" does')
    if scenario.costs != Costs():
        raise ScenarioError("costs", 'driver "swarm" has no daemons; driver = "world" does')
    if scenario.node:
        raise ScenarioError("node", 'driver "swarm" has no daemons; driver = "world" does')
    if scenario.store != "memory":
        raise ScenarioError("store", 'driver "swarm" has no store; driver = "world" does')
    for number, updates in enumerate(scenario.updates):
        if updates.reads is not None and updates.what != "blob":
            raise ScenarioError(
                f"updates[{number}].reads", 'driver "swarm" reads only blobs; driver = "world" does'
            )
        if updates.what in ("counter", "member"):
            raise ScenarioError(
                f"updates[{number}].what", 'driver "swarm" has no API; driver = "world" does'
            )
        if updates.replaces or updates.quota_bytes is not None:
            raise ScenarioError(
                f"updates[{number}]", 'driver "swarm" deletes no blobs; driver = "world" does'
            )
    for number, fault in enumerate(scenario.faults):
        if isinstance(fault, SlowDisk | DiskFull | ClockStep | ClockSkew):
            raise ScenarioError(
                f"faults[{number}]",
                'driver "swarm" has no disks and no wall clocks; driver = "world" does',
            )
    for number, probe in enumerate(scenario.probes):
        for metric in probe.metrics:
            if metric in ("queue.length", "worker.busy"):
                raise ScenarioError(
                    f"probes[{number}].metrics", f'driver "swarm" runs no jobs: no {metric}'
                )


def _check_settings(settings: dict[str, Any]) -> None:
    for name in settings:
        if name in NOT_SETTINGS:
            raise ScenarioError(f"node.{name}", "is set by the simulation itself")
    allowed = [name for name in config.Config.__struct_fields__ if name not in NOT_SETTINGS]
    for name in settings:
        if name not in allowed:
            raise ScenarioError(f"node.{name}", unknown("setting", name, allowed))
    try:
        config.load(flags=settings)
    except config.ConfigError as error:
        raise ScenarioError("node", str(error)) from None


# --- nodes, and what they have ---------------------------------------------------------------


def _check_nodes_everywhere(scenario: Scenario, nodes: int) -> None:
    for place, tables in _tables(scenario):
        for number, table in enumerate(tables):
            which: Nodes = getattr(table, "nodes", "all")
            check_nodes(f"{place}[{number}].nodes", which, nodes)


def _check_workers(scenario: Scenario, nodes: int) -> None:
    total, turns = 0, 0.0
    for number, group in enumerate(scenario.workers):
        place = f"workers[{number}]"
        check_whole(f"{place}.count", group.count, 1, MEMBERS_MAX)
        check_whole(f"{place}.slots", group.slots, 1, COUNT_MAX)
        check_whole(f"{place}.memory_bytes", group.memory_bytes, 1, 1 << 50)
        check_whole(f"{place}.gpus", group.gpus, 0, 64)
        check_distribution(f"{place}.back_s", group.back_s)
        here = group.count * count(group.nodes, nodes)
        total += here
        turns += _turns(scenario, group, here)
    if total > MEMBERS_MAX:
        raise ScenarioError("workers", f"{total} workers; at most {MEMBERS_MAX}")
    check_turns("workers", turns)


def _turns(scenario: Scenario, group: Workers, members: int) -> float:
    if group.crash_mean_s is None:
        return 0.0
    return members * scenario.duration_s / (group.crash_mean_s + mean(group.back_s))


def _check_functions(functions: list[Function]) -> None:
    check_names("functions", [function.name for function in functions])
    for number, function in enumerate(functions):
        place = f"functions[{number}]"
        if function.name.isdigit():
            raise ScenarioError(f"{place}.name", "all digits are an id; add a letter")
        check_distribution(f"{place}.duration_s", function.duration_s)
        check_distribution(f"{place}.result_bytes", function.result_bytes)
        _check_body(f"{place}.requires", function.requires, RequiresBody)
        _check_body(f"{place}.prefers", function.prefers, PrefersBody)
        if function.retries_max is not None:
            check_whole(f"{place}.retries_max", function.retries_max, 0, 999)
        examples = sorted(path.stem for path in EXAMPLES.glob("*.py"))
        if function.example is not None and function.example not in examples:
            raise ScenarioError(f"{place}.example", unknown("example", function.example, examples))


def _check_body(place: str, value: dict[str, Any], kind: type[msgspec.Struct]) -> None:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        fields = ", ".join(kind.__struct_fields__)
        raise ScenarioError(place, f"{error}; there is {fields}") from None


# --- who uses them ---------------------------------------------------------------------------


def _check_clients(scenario: Scenario) -> None:
    check_names("clients", [group.name for group in scenario.clients])
    turns = 0.0
    for number, group in enumerate(scenario.clients):
        place = f"clients[{number}]"
        check_whole(f"{place}.count", group.count, 1, MEMBERS_MAX)
        check_distribution(f"{place}.down_s", group.down_s)
        if group.up_s is not None:
            check_lasting(f"{place}.up_s", group.up_s)
            turns += group.count * scenario.duration_s / (mean(group.up_s) + mean(group.down_s))
    total = sum(group.count for group in scenario.clients)
    if total > MEMBERS_MAX:
        raise ScenarioError("clients", f"{total} clients; at most {MEMBERS_MAX}")
    check_turns("clients", turns)


def _check_load(place: str, load: Load, scenario: Scenario, directory: str | Path) -> None:
    functions = [function.name for function in scenario.functions]
    if load.function not in functions:
        raise ScenarioError(f"{place}.function", unknown("function", load.function, functions))
    groups = [group.name for group in scenario.clients]
    if load.clients is not None and load.clients not in groups:
        raise ScenarioError(f"{place}.clients", unknown("group of clients", load.clients, groups))
    if load.clients is not None and load.nodes != "all":
        raise ScenarioError(f"{place}.nodes", "the clients' own are used; leave one of the two out")
    if not scenario.workers:
        raise ScenarioError(place, "no [[workers]]: nobody would run it")
    function = scenario.functions[functions.index(load.function)]
    if (why := misfit(function, scenario.workers)) is not None:
        raise ScenarioError(f"{place}.function", f"no worker fits {function.name!r}: {why}")
    if load.time_limit_s is not None and load.model == "async":
        raise ScenarioError(
            f"{place}.time_limit_s", 'model "async" holds no connection that could end'
        )
    if load.poll_s and load.model != "async":
        raise ScenarioError(f"{place}.poll_s", 'only model "async" asks now and then')
    if (load.balance == "stale") != (load.stale_s > 0):
        raise ScenarioError(f"{place}.stale_s", 'goes with balance = "stale", and is above 0 there')
    _check_arrivals(f"{place}.arrivals", load.arrivals, scenario.duration_s, directory)


def _check_updates(scenario: Scenario) -> None:
    for number, updates in enumerate(scenario.updates):
        place = f"updates[{number}]"
        check_whole(f"{place}.keys", updates.keys, 1, COUNT_MAX)
        check_distribution(f"{place}.size_bytes", updates.size_bytes)
        for name in ("arrivals", "reads"):
            value: Arrivals | None = getattr(updates, name)
            if isinstance(value, AzureTrace):
                raise ScenarioError(f"{place}.{name}", "a trace is of jobs; it goes into [[load]]")
            if value is not None:
                _check_arrivals(f"{place}.{name}", value, scenario.duration_s, ".")
        if updates.reads is not None and updates.what not in ("blob", "kv"):
            raise ScenarioError(f"{place}.reads", "only of kv and blob")
        if updates.what != "blob" and (updates.replaces or updates.quota_bytes is not None):
            raise ScenarioError(place, "replaces and quota_bytes go with blobs only")
        if updates.quota_bytes is not None:
            check_whole(f"{place}.quota_bytes", updates.quota_bytes, 0, QUOTA_MAX_BYTES)


def _check_arrivals(place: str, value: Arrivals, duration_s: float, directory: str | Path) -> None:
    if isinstance(value, AtOnce):
        check_whole(f"{place}.count", value.count, 1, COUNT_MAX)
        if value.at_s >= duration_s:
            raise ScenarioError(f"{place}.at_s", f"after the end, {duration_s:g}")
    if isinstance(value, Bursty):
        check_turns(place, duration_s / (value.low_mean_s + value.high_mean_s))
    if isinstance(value, AzureTrace):
        check_whole(f"{place}.jobs_max", value.jobs_max, 1, ARRIVALS_MAX)
        if not (Path(directory) / value.path).is_file():
            raise ScenarioError(f"{place}.path", f"{value.path}: no such file")


def _check_total(scenario: Scenario) -> None:
    places = {f"load[{n}].arrivals": load.arrivals for n, load in enumerate(scenario.load)}
    for number, updates in enumerate(scenario.updates):
        places[f"updates[{number}].arrivals"] = updates.arrivals
        if updates.reads is not None:
            places[f"updates[{number}].reads"] = updates.reads
    total = 0.0
    for place, value in places.items():
        total += arrivals.expected(value, scenario.duration_s)
        if total > ARRIVALS_MAX:
            raise ScenarioError(place, f"{total:.3g} arrivals so far; at most {ARRIVALS_MAX}")


# --- what goes wrong, and what is looked at --------------------------------------------------


def _check_fault(place: str, fault: Fault, scenario: Scenario, nodes: int) -> None:
    if fault.at_s >= scenario.duration_s:
        raise ScenarioError(f"{place}.at_s", f"after the end, {scenario.duration_s:g}")
    some = count(fault.nodes, nodes)
    match fault:
        case Crash(for_s=for_s):
            if for_s is not None:
                check_distribution(f"{place}.for_s", for_s)
        case Churn(up_s=up_s, down_s=down_s) | Flapping(up_s=up_s, down_s=down_s):
            check_lasting(f"{place}.up_s", up_s)
            check_distribution(f"{place}.down_s", down_s)
            check_turns(place, some * scenario.duration_s / (mean(up_s) + mean(down_s)))
        case Partition():
            if some == nodes:
                raise ScenarioError(f"{place}.nodes", "all of them: nobody is on the other side")
        case SlowDisk(commit_s=commit_s):
            check_distribution(f"{place}.commit_s", commit_s)
        case Byzantine(rate_per_s=rate_per_s, behaviours=behaviours):
            if some == nodes:
                raise ScenarioError(f"{place}.nodes", "all of them: nobody is left to be hurt")
            if not behaviours:
                raise ScenarioError(f"{place}.behaviours", "is empty; name at least one")
            check_turns(place, some * scenario.duration_s * rate_per_s)
        case ClockSkew(drift_ppm=drift_ppm):
            if abs(drift_ppm) > 1e5:
                raise ScenarioError(f"{place}.drift_ppm", "not -100000 to 100000")
        case ClockStep(step_s=step_s):
            if abs(step_s) > DURATION_MAX_S:
                raise ScenarioError(f"{place}.step_s", "more than a year")
        case DiskFull():
            pass
        case _:
            assert_never(fault)


def _check_probes(scenario: Scenario, nodes: int) -> None:
    samples = 0.0
    for number, probe in enumerate(scenario.probes):
        place = f"probes[{number}]"
        if not probe.metrics:
            raise ScenarioError(f"{place}.metrics", f"is empty; there is {', '.join(PROBED)}")
        for metric in probe.metrics:
            if metric not in PROBED:
                raise ScenarioError(f"{place}.metrics", unknown("metric", metric, PROBED))
        ends_s = scenario.duration_s + scenario.drain_s
        samples += len(probe.metrics) * nodes * ends_s / probe.each_s
        if samples > SAMPLES_MAX:
            raise ScenarioError(
                f"{place}.each_s", f"{samples:.3g} observations so far; at most {SAMPLES_MAX}"
            )


def _check_passes(scenario: Scenario) -> None:
    for number, condition in enumerate(scenario.passes):
        place = f"pass[{number}]"
        if condition.metric not in METRICS:
            raise ScenarioError(f"{place}.metric", unknown("metric", condition.metric, METRICS))
        least, most = condition.at_least, condition.at_most
        if least is None and most is None:
            raise ScenarioError(place, "needs at_least or at_most")
        if least is not None and most is not None and least > most:
            raise ScenarioError(place, f"at_least {least:g} is above at_most {most:g}")
