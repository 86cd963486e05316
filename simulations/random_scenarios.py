"""Scenarios that nobody thought of: small, short, and with much going wrong.

A scenario is drawn from one number.  Most of what there is, is left out of each (so that what is in
it happens often, and together): a run of everything at once finds less than many of a few things.
They are small, because what breaks in a large mesh nearly always breaks in one of four nodes too,
and then a person can follow it.

Source of the idea: "swarm testing" (Groce et al., ISSTA 2012), and the simulators of FoundationDB
and TigerBeetle.
"""

import random
from collections.abc import Callable
from typing import Any, Final, Literal

from simulations import chance
from simulations.distributions import Distribution, Exponential, Lognormal, Pareto, Uniform
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
from simulations.play import rest_s
from simulations.scenario import (
    Arrivals,
    AtOnce,
    Bursty,
    Clients,
    Complete,
    Costs,
    Function,
    Geometric,
    Link,
    Load,
    Periodic,
    Poisson,
    Regular,
    Ring,
    Scenario,
    Star,
    Topology,
    Updates,
    Workers,
)

NODES_MAX: Final = 6
SWARM_NODES_MAX: Final = 40
"""Source: see the module; a world costs 0.1 s of processor time a node."""
DURATION_S: Final = (20.0, 60.0)
"""Source: longer than leases, greetings and reconciliation take to come round."""
RESULTS: Final[tuple[Distribution, ...]] = (16, Uniform(low=0, high=20_000), 1_100_000)
"""The last is over what a result may be in itself, so it becomes a blob."""
RESULT_WEIGHTS: Final = (0.76, 0.2, 0.04)
LATENCY_MAX_S: Final = 0.3
"""Source: formula; four round trips of a link three times as slow on its way back take the 5 s that
a dial may, and over a slower one no two nodes ever meet."""
SWARM_SHARE: Final = 0.15
LMDB_SHARE: Final = 0.05
COSTS_SHARE: Final = 0.3
"""Of worlds whose nodes take time: about as docs/validation.md has it, but varying."""
FAULTS_MAX: Final = 5
What = Literal["kv", "function", "project", "user", "blob", "counter", "member"]
UPDATES: Final[tuple[What, ...]] = (
    *("kv", "function", "project", "user", "blob", "counter", "member"),
)
MODELS: Final[tuple[Literal["async", "sync", "sync-retry", "sync-resume"], ...]] = (
    *("async", "sync", "sync-retry", "sync-resume"),
)
BALANCES: Final[tuple[Literal["home", "random", "two-choices", "shortest", "stale"], ...]] = (
    *("home", "random", "two-choices", "shortest", "stale"),
)


def draw(seed: int) -> Scenario:
    """Return the scenario of this number; always the same, and one that can be run."""
    return _Draw(chance.named(seed, "scenario")).scenario(f"explored-{seed}")


class _Draw:
    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._swarm = rng.random() < SWARM_SHARE
        self._nodes = rng.randint(4, SWARM_NODES_MAX) if self._swarm else rng.randint(1, NODES_MAX)
        self._duration_s = float(round(rng.uniform(*DURATION_S)))

    def scenario(self, name: str) -> Scenario:
        topology, link = self._topology(), self._link()
        common: dict[str, Any] = {
            "name": name,
            "duration_s": self._duration_s,
            "drain_s": rest_s(link),  # At its end views are compared.
            "topology": topology,
            "link": link,
        }
        if self._swarm:
            return Scenario(
                **common, driver="swarm", updates=[self._update("kv")], faults=self._faults()
            )
        functions, clients = self._functions(), self._clients()
        workers = self._workers()
        loads = [self._load(functions, clients) for _ in range(self._rng.randint(0, 2))]
        kinds = self._rng.sample(UPDATES, self._rng.randint(0 if loads else 1, 2))
        return Scenario(
            **common,
            store="lmdb" if self._likely(LMDB_SHARE) else "memory",
            functions=functions,
            workers=workers,
            clients=clients,
            load=loads,
            updates=[self._update(what) for what in kinds],
            faults=self._faults(),
            costs=self._costs(),
        )

    def _likely(self, share: float) -> bool:
        return self._rng.random() < share

    # --- who there is ---------------------------------------------------------------------

    def _topology(self) -> Topology:
        count = self._nodes
        kinds: list[Callable[[], Topology]] = [lambda: Complete(nodes=count)]
        if count >= 3:
            kinds += [lambda: Ring(nodes=count), lambda: Star(nodes=count)]
            kinds.append(lambda: Geometric(nodes=count, radius_km=900.0))
        if count >= 5:
            kinds.append(lambda: Regular(nodes=count, degree=4))
        return self._rng.choice(kinds)()

    def _link(self) -> Link:
        rng = self._rng
        spread = Lognormal(median=0.05, sigma=1.0, maximum=LATENCY_MAX_S)
        latencies: list[Distribution] = [0.001, 0.02, 0.2, spread]
        return Link(
            latency_s=rng.choice(latencies),
            jitter_s=Exponential(mean=0.02) if self._likely(0.3) else 0.0,
            bandwidth_bytes_per_s=rng.choice([2e4, 1e6]) if self._likely(0.3) else None,
            backward_factor=3.0 if self._likely(0.2) else 1.0,
            loss=rng.choice([0.01, 0.1]) if self._likely(0.3) else 0.0,
            loss_effect=rng.choice(["delay", "reset"]),
        )

    def _costs(self) -> Costs:
        if not self._likely(COSTS_SHARE):
            return Costs()
        return Costs(
            call_s=Exponential(mean=0.003),
            frame_s=Exponential(mean=0.002),
            commit_s=Lognormal(median=0.005, sigma=1.0),
        )

    def _workers(self) -> list[Workers]:
        rng = self._rng
        return [
            Workers(
                nodes=self._some(),
                slots=rng.randint(1, 3),
                speed=rng.choice([0.5, 1.0, 4.0]),
                crash_mean_s=rng.choice([5.0, 30.0]) if self._likely(0.3) else None,
                back_s=Exponential(mean=3.0),
            )
            for _ in range(rng.randint(1, 2))
        ]

    def _functions(self) -> list[Function]:
        kinds: list[Distribution] = [
            *(0.0, 0.2, Exponential(mean=2.0), Pareto(minimum=0.2, shape=1.5, maximum=60.0)),
        ]
        return [
            Function(
                name=name,
                duration_s=self._rng.choice(kinds),
                result_bytes=self._rng.choices(RESULTS, RESULT_WEIGHTS)[0],
                retries_max=self._rng.choice([None, 0, 3]),
            )
            for name in ("one", "two")[: self._rng.randint(1, 2)]
        ]

    def _clients(self) -> list[Clients]:
        if not self._likely(0.5):
            return []
        return [
            Clients(
                name="callers",
                count=self._rng.randint(1, 5),
                nodes=self._some(),
                up_s=Exponential(mean=self._rng.choice([3.0, 20.0])),
                down_s=Exponential(mean=4.0),
                latency_s=self._rng.choice([0.0, 0.05]),
            )
        ]

    # --- what they do ---------------------------------------------------------------------

    def _arrivals(self) -> Arrivals:
        rng = self._rng
        kinds: list[Arrivals] = [
            Poisson(rate_per_s=rng.choice([0.2, 2.0])),
            Bursty(low_per_s=0.1, high_per_s=10.0, low_mean_s=10.0, high_mean_s=1.0),
            Periodic(interval_s=rng.choice([0.5, 5.0])),
            AtOnce(count=rng.randint(1, 30), at_s=self._at()),
        ]
        return rng.choice(kinds)

    def _load(self, functions: list[Function], clients: list[Clients]) -> Load:
        rng, balance = self._rng, self._rng.choice(BALANCES)
        model, named = rng.choice(MODELS), bool(clients) and self._likely(0.7)
        return Load(
            function=rng.choice(functions).name,
            arrivals=self._arrivals(),
            clients=clients[0].name if named else None,
            nodes="all" if named else self._some(),
            model=model,
            balance=balance,
            stale_s=5.0 if balance == "stale" else 0.0,
            poll_s=rng.choice([0.0, 3.0]) if model == "async" else 0.0,
            time_limit_s=10.0 if model != "async" and self._likely(0.3) else None,
        )

    def _update(self, what: What) -> Updates:
        reads = what in ("kv", "blob") and not self._swarm and self._likely(0.5)
        sizes: list[Distribution] = [20, Uniform(low=0, high=30_000)]
        return Updates(
            what=what,
            arrivals=self._arrivals(),
            nodes=self._some(),
            keys=self._rng.choice([1, 3, 20]),
            size_bytes=self._rng.choice(sizes),
            reads=self._arrivals() if reads else None,
            replaces=what == "blob" and self._likely(0.5),
            quota_bytes=50_000 if what == "blob" and self._likely(0.3) else None,
        )

    # --- what goes wrong ------------------------------------------------------------------

    def _faults(self) -> list[Fault]:
        kinds: list[Callable[[], Fault]] = [self._crash, self._churn]
        if self._nodes > 1:
            kinds += [self._partition, self._flapping, self._byzantine]
        if not self._swarm:
            kinds += [self._slow_disk, self._disk_full, self._clock_step, self._clock_skew]
        chosen = self._rng.sample(kinds, self._rng.randint(1, len(kinds)))
        return [self._rng.choice(chosen)() for _ in range(self._rng.randint(0, FAULTS_MAX))]

    def _at(self) -> float:
        return round(self._rng.uniform(0, self._duration_s - 1), 1)

    def _for(self) -> float:
        return round(self._rng.expovariate(1 / 8) + 0.1, 1)

    def _some(self) -> list[int]:
        count = self._rng.randint(1, self._nodes)
        return sorted(self._rng.sample(range(self._nodes), count))

    def _not_all(self) -> list[int]:
        return self._some()[: self._nodes - 1]

    def _crash(self) -> Fault:
        for_s = None if self._likely(0.1) else self._for()
        return Crash(at_s=self._at(), nodes=self._some(), for_s=for_s)

    def _churn(self) -> Fault:
        up, down = Exponential(mean=15.0), Exponential(mean=3.0)
        return Churn(at_s=self._at(), nodes=self._some(), up_s=up, down_s=down)

    def _partition(self) -> Fault:
        one_way = self._likely(0.3)
        return Partition(at_s=self._at(), for_s=self._for(), nodes=self._not_all(), one_way=one_way)

    def _flapping(self) -> Fault:
        up, down = Exponential(mean=3.0), Exponential(mean=3.0)
        return Flapping(
            at_s=self._at(), for_s=self._for(), nodes=self._some(), up_s=up, down_s=down
        )

    def _byzantine(self) -> Fault:
        return Byzantine(at_s=self._at(), nodes=self._not_all(), rate_per_s=2.0)

    def _slow_disk(self) -> Fault:
        slow = Exponential(mean=self._rng.choice([0.05, 1.0]))
        return SlowDisk(at_s=self._at(), for_s=self._for(), nodes=self._some(), commit_s=slow)

    def _disk_full(self) -> Fault:
        return DiskFull(at_s=self._at(), for_s=self._for(), nodes=self._some())

    def _clock_step(self) -> Fault:
        step_s = self._rng.choice([-3600.0, -5.0, 5.0, 30.0, 3600.0])
        return ClockStep(at_s=self._at(), nodes=self._some(), step_s=step_s)

    def _clock_skew(self) -> Fault:
        return ClockSkew(nodes=self._some(), drift_ppm=self._rng.choice([-5e4, -200.0, 200.0, 5e4]))
