"""Networks that somebody wrote down: of the `topohub` package, in GraphML, as a table of latencies.

Each reader returns a `Plan`: names, places if there are any, and of each link what is known of it.
The files may be anybody's, so all that is wrong with one is a `ScenarioError` that says where.

`topohub` (MIT) packs the Internet Topology Zoo (Knight et al., 2011), SNDlib, backbones of the
world and Gabriel graphs, with places and lengths; who publishes with one of them cites its source.
"""

import csv
import importlib.resources
import io
import json
import math
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final
from xml.etree.ElementTree import ParseError

import networkx

from simulations.errors import ScenarioError, unknown

FILE_BYTES_MAX: Final = 64 << 20
"""Source: a matrix of some 3,000 nodes."""
KM_PER_DEGREE: Final = 111.2
"""Of latitude. Source: 2 pi 6371 km / 360."""
LATENCY_MAX_S: Final = 3600.0
"""Source: guess; above is a wrong unit."""


@dataclass(slots=True)
class Known:
    """What is known of a link; `None` is to be drawn."""

    forth_s: float | None = None
    """From the node of the lower number."""
    back_s: float | None = None
    apart_km: float = 0.0


@dataclass(slots=True)
class Plan:
    """What a file says: links are keyed by pairs of nodes, the lower number first."""

    names: tuple[str, ...]
    links: dict[tuple[int, int], Known] = field(default_factory=dict)
    positions_km: tuple[tuple[float, float], ...] | None = None


def read_file(directory: str | Path, path: str, place: str) -> str:
    """Return the text of a file that a scenario names. Raises `ScenarioError`."""
    whole = Path(directory) / path
    try:
        with whole.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
        if len(data) > FILE_BYTES_MAX:
            raise ScenarioError(place, f"{path}: more than {FILE_BYTES_MAX} bytes")
        return data.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ScenarioError(place, f"{path}: {reason}") from None


# --- topohub ---------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def topohub_names() -> tuple[str, ...]:
    """Return what the installed package has: `topozoo/Abilene`, `gabriel/25/0`, ..., in order."""
    try:
        top = Path(str(importlib.resources.files("topohub"))) / "data"
    except ModuleNotFoundError:
        raise ScenarioError(
            "topology", "needs the package topohub: pip install peernode[sim]"
        ) from None
    found = (path.relative_to(top).with_suffix("").as_posix() for path in top.rglob("*.json"))
    return tuple(sorted(found))


def read_topohub(name: str) -> Plan:
    """Return a network of the package, its links with their lengths."""
    if name not in topohub_names():
        raise ScenarioError("topology.name", unknown("network", name, topohub_names()))
    text = (importlib.resources.files("topohub") / f"data/{name}.json").read_text("utf-8")
    content = json.loads(text)
    nodes = content["nodes"]
    numbers = {node["id"]: number for number, node in enumerate(nodes)}
    plan = Plan(_distinct([str(node.get("name", node["id"])) for node in nodes]))
    plan.positions_km = _flat([node["pos"] for node in nodes])
    for edge in content["edges"]:
        one, other = sorted((numbers[edge["source"]], numbers[edge["target"]]))
        if one != other:
            plan.links[one, other] = Known(apart_km=float(edge["dist"]))
    return plan


def _flat(degrees: list[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Return places on a plane, for pictures: east and north of the middle, by its latitude."""
    longitude = sum(east for east, _ in degrees) / len(degrees)
    latitude = sum(north for _, north in degrees) / len(degrees)
    narrow = math.cos(math.radians(latitude))
    return tuple(
        (
            round((east - longitude) * KM_PER_DEGREE * narrow, 3),
            round((north - latitude) * KM_PER_DEGREE, 3),
        )
        for east, north in degrees
    )


# --- GraphML ---------------------------------------------------------------------------------


def read_graphml(directory: str | Path, path: str) -> Plan:
    """Return the graph of a GraphML file; of parallel links the fastest counts."""
    text = read_file(directory, path, "topology.path")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ScenarioError("topology.path", f"{path}: has a DTD, which is not read")
    try:
        graph = networkx.parse_graphml(text)
    except ParseError as error:
        raise ScenarioError("topology.path", f"{path}: {error}") from None
    except (networkx.NetworkXException, LookupError, TypeError, ValueError) as error:
        raise ScenarioError("topology.path", f"{path}: is not GraphML: {error!r}") from None
    numbers = {node: number for number, node in enumerate(graph.nodes)}
    names = [str(row.get("label", node)) for node, row in graph.nodes(data=True)]
    plan = Plan(_distinct(names), positions_km=_places(path, graph))
    for source, target, row in graph.edges(data=True):
        if source != target:
            here = f"{path}: link {source!r} to {target!r}"
            _add_link(plan, numbers[source], numbers[target], _latency(row, here))
    return plan


def _places(path: str, graph: Any) -> tuple[tuple[float, float], ...] | None:
    """Return `x` and `y` of all nodes, or `None` if none has them."""
    placed = [node for node, row in graph.nodes(data=True) if "x" in row or "y" in row]
    if not placed:
        return None
    places = []
    for node, row in graph.nodes(data=True):
        here = f"{path}: node {node!r}"
        for axis in ("x", "y"):
            if axis not in row:
                raise ScenarioError("topology.path", f"{here} has no {axis}, others have")
        places.append((_number(row["x"], f"{here}, x"), _number(row["y"], f"{here}, y")))
    return tuple(places)


def _latency(row: dict[str, Any], here: str) -> float | None:
    if "latency_s" not in row:
        return None
    return _seconds(_number(row["latency_s"], f"{here}, latency_s"), f"{here}, latency_s")


def _add_link(plan: Plan, source: int, target: int, latency_s: float | None) -> None:
    """Add a way; without a latency its length counts, where places are known."""
    pair = (source, target) if source < target else (target, source)
    known = plan.links.setdefault(pair, Known())
    if latency_s is None:
        if plan.positions_km is not None:
            known.apart_km = math.dist(plan.positions_km[source], plan.positions_km[target])
    elif source < target:
        known.forth_s = min(latency_s, known.forth_s if known.forth_s is not None else math.inf)
    else:
        known.back_s = min(latency_s, known.back_s if known.back_s is not None else math.inf)


# --- a table ---------------------------------------------------------------------------------


def read_matrix(directory: str | Path, path: str) -> Plan:
    """Return the network of a CSV of one-way latencies in ms.

    The first row names the nodes; if it begins with an empty cell, so does the first column. An
    empty cell, or `-`, is no link; the diagonal is not read.
    """
    text = read_file(directory, path, "topology.path")
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    except csv.Error as error:
        raise ScenarioError("topology.path", f"{path}: {error}") from None
    if not rows:
        raise ScenarioError("topology.path", f"{path}: is empty")
    is_labelled = not rows[0][0].strip()
    names = [cell.strip() for cell in rows[0][is_labelled:]]
    if not all(names) or len(dict.fromkeys(names)) < len(names):
        raise ScenarioError("topology.path", f"{path}, row 1: names must be there and differ")
    if len(rows) - 1 != len(names):
        raise ScenarioError(
            "topology.path", f"{path}: {len(names)} names, {len(rows) - 1} rows; must be as many"
        )
    plan = Plan(tuple(names))
    for source, row in enumerate(rows[1:]):
        here = f"{path}, row {source + 2}"
        if is_labelled and row[0].strip() != names[source]:
            raise ScenarioError(
                "topology.path", f"{here}: is of {row[0]!r}, must be of {names[source]!r}"
            )
        cells = row[is_labelled:]
        if len(cells) != len(names):
            raise ScenarioError(
                "topology.path", f"{here}: {len(cells)} cells, must be {len(names)}"
            )
        _read_row(plan, source, cells, here)
    return plan


def _read_row(plan: Plan, source: int, cells: list[str], here: str) -> None:
    for target, cell in enumerate(cells):
        written = cell.strip()
        if target != source and written not in ("", "-"):
            place = f"{here}, column {plan.names[target]!r}"
            _add_link(plan, source, target, _seconds(_number(written, place) / 1000, place))


# --- what all of them have -------------------------------------------------------------------


def _number(value: object, here: str) -> float:
    if isinstance(value, str | int | float):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    raise ScenarioError("topology.path", f"{here}: {value!r} is not a number")


def _seconds(value: float, here: str) -> float:
    if not 0 <= value <= LATENCY_MAX_S:
        raise ScenarioError("topology.path", f"{here}: {value:g} s is not 0 to {LATENCY_MAX_S:g} s")
    return value


def _distinct(names: list[str]) -> tuple[str, ...]:
    """Return names that differ: the second `Berlin` is `Berlin 2`."""
    taken: dict[str, None] = dict.fromkeys(names)
    seen: dict[str, int] = {}
    found = []
    for name in names:
        number = seen[name] = seen.get(name, 0) + 1
        new = name
        while number > 1:
            new = f"{name} {number}"
            if new not in taken:
                break
            number += 1
        taken[new] = None
        found.append(new)
    return tuple(found)
