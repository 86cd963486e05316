"""Runs that nobody simulated: directories with events of every kind, for what reads them."""

import json
import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

HEARTBEAT_S = 1.0
WHATS = ("publish", "ihave", "iwant", "sync", "fetch", "graft")
ENDINGS = ("succeeded",) * 18 + ("failed", "cancelled")


def write_run(
    directory: Path,
    *,
    nodes: int = 12,
    duration_s: float = 60.0,
    rate_per_s: float = 2.0,
    seed: int = 1,
    name: str = "two-cities",
) -> Path:
    """Write a run directory: nodes on a plane, floods, jobs, a partition, a crash, a check."""
    directory.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    topology = made_topology(nodes, rng)
    events = [*made_events(topology, duration_s, rate_per_s, rng)]
    events.sort(key=lambda event: event["at_s"])
    lines = [json.dumps(event, separators=(",", ":")) for event in events]
    (directory / "events.jsonl").write_text("\n".join(lines) + "\n")
    (directory / "topology.json").write_text(json.dumps(topology))
    manifest = {"name": name, "seed": seed, "trace_hash": f"{seed:064x}", "virtual_s": duration_s}
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return directory


def made_topology(count: int, rng: random.Random) -> dict[str, Any]:
    """Return nodes at random places, each linked with its nearest and one more."""
    places = [(rng.uniform(0, 1000), rng.uniform(0, 600)) for _ in range(count)]
    pairs: dict[tuple[int, int], float] = {}
    for one, place in enumerate(places):
        by_distance = sorted(
            (math.dist(place, other), number) for number, other in enumerate(places)
        )
        for distance_km, other in [*by_distance[1:4], rng.choice(by_distance[1:])]:
            pairs[min(one, other), max(one, other)] = distance_km
    return {
        "format": 1,
        "nodes": [{"name": f"n{number}", "x": x, "y": y} for number, (x, y) in enumerate(places)],
        "links": [
            {"one": one, "other": other, "latency_s": 0.02 + km / 2e5, "back_s": 0.02 + km / 2e5}
            for (one, other), km in pairs.items()
        ],
    }


def made_events(
    topology: dict[str, Any], duration_s: float, rate_per_s: float, rng: random.Random
) -> Iterator[dict[str, Any]]:
    """Yield events, not in order of time."""
    count = len(topology["nodes"])
    for node in range(count):
        yield {"at_s": 0.0, "kind": "node", "node": node, "state": "up"}
    away = sorted(rng.sample(range(count), max(1, count // 5)))
    cut = (duration_s * 0.35, duration_s * 0.55)
    yield from _faults(away, cut, duration_s, count)
    near: list[list[tuple[int, float]]] = [[] for _ in range(count)]
    for link in topology["links"]:
        near[link["one"]].append((link["other"], link["latency_s"]))
        near[link["other"]].append((link["one"], link["latency_s"]))
    at_s, number = 0.0, 0
    while (at_s := at_s + rng.expovariate(rate_per_s)) < duration_s - 1:
        number += 1
        yield from _flood(at_s, f"r{number}", near, away, cut, rng)
    yield from _jobs(count, duration_s, rng)
    broken_s = duration_s * 0.56
    yield {"at_s": broken_s, "kind": "check", "node": away[0], "what": "views differ after sync"}


def _faults(
    away: Sequence[int], cut: tuple[float, float], duration_s: float, count: int
) -> Iterator[dict[str, Any]]:
    named = ",".join(str(node) for node in away)
    for at_s, state in zip(cut, ("begins", "ends"), strict=True):
        fault = {"kind": "fault", "what": "partition", "nodes": named, "state": state}
        yield {"at_s": at_s, **fault}
        for node in away:
            after = "isolated" if state == "begins" else "syncing"
            yield {"at_s": at_s, "kind": "node", "node": node, "state": after}
            if state == "ends":
                yield {"at_s": at_s + 1.5, "kind": "node", "node": node, "state": "up"}
    victim = count - 1
    for share, state, fault in ((0.7, "down", "begins"), (0.8, "up", "ends")):
        at_s = duration_s * share
        yield {"at_s": at_s, "kind": "fault", "what": "crash", "nodes": str(victim), "state": fault}
        yield {"at_s": at_s, "kind": "node", "node": victim, "state": state}


def _flood(
    at_s: float,
    slot: str,
    near: Sequence[Sequence[tuple[int, float]]],
    away: Sequence[int],
    cut: tuple[float, float],
    rng: random.Random,
) -> Iterator[dict[str, Any]]:
    """Yield how something spreads from a random node."""
    what = rng.choices(WHATS, (10, 4, 2, 1, 1, 1))[0]
    first = rng.randrange(len(near))
    yield {"at_s": at_s, "kind": "record", "node": first, "slot": slot, "what": "made"}
    seen, waiting = {first}, [(at_s, first, 0)]
    while waiting:
        waiting.sort(reverse=True)
        now_s, node, hops = waiting.pop()
        for other, latency_s in near[node]:
            crosses = cut[0] <= now_s < cut[1] and (node in away) != (other in away)
            lost = crosses or rng.random() < 0.01
            arrives_s = now_s + latency_s * rng.uniform(0.9, 1.4)
            yield {
                "at_s": round(now_s, 9),
                "kind": "message",
                "source": node,
                "target": other,
                "what": what,
                "size_bytes": rng.randint(80, 900),
                "arrives_at_s": None if lost else round(arrives_s, 9),
                "lost": lost,
            }
            if not lost and other not in seen and hops < 12:
                seen.add(other)
                waiting.append((arrives_s, other, hops + 1))
                yield {
                    "at_s": round(arrives_s, 9),
                    "kind": "record",
                    "node": other,
                    "slot": slot,
                    "what": "seen",
                }


def _jobs(count: int, duration_s: float, rng: random.Random) -> Iterator[dict[str, Any]]:
    """Yield jobs of a queue with two workers at every third node."""
    for node in range(0, count, 3):
        free_s = {f"w{node}-a": 0.0, f"w{node}-b": 0.0}
        at_s, number = 0.0, 0
        while (at_s := at_s + rng.expovariate(0.9)) < duration_s * 0.9:
            number += 1
            worker = min(free_s, key=lambda name: free_s[name])
            starts_s = max(at_s, free_s[worker]) + 0.004
            ends_s = starts_s + rng.expovariate(1 / 1.9)
            free_s[worker] = ends_s
            job = {"kind": "job", "node": node, "job": f"{node}-{number}"}
            yield {"at_s": at_s, **job, "state": "queued", "worker": None, "attempt": 0}
            yield {
                "at_s": starts_s - 0.002,
                **job,
                "state": "leased",
                "worker": worker,
                "attempt": 1,
            }
            if ends_s > duration_s:
                continue
            yield {"at_s": starts_s, **job, "state": "running", "worker": worker, "attempt": 1}
            yield {
                "at_s": ends_s,
                **job,
                "state": rng.choice(ENDINGS),
                "worker": worker,
                "attempt": 1,
            }
