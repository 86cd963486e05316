"""A scenario: what a run is made of, as one TOML file.

    name = "two-cities"
    driver = "world"
    duration_s = 600

    [topology]
    kind = "regular"
    nodes = 10
    degree = 4

    [link]
    latency_s = { kind = "lognormal", median = 0.02, sigma = 0.3 }

    [[workers]]
    nodes = "all"

    [[functions]]
    name = "short"
    duration_s = { kind = "exponential", mean = 0.2 }

    [[load]]
    function = "short"
    arrivals = { kind = "poisson", rate_per_s = 5 }

    [[pass]]
    metric = "job.succeeded"
    statistic = "mean"
    at_least = 0.999

Every table is one of the structs below, and their docstrings are its manual.  A word that is none
of theirs is refused with the place where it stands.  docs/simulation.md is the tour.
"""

from typing import Any, Literal

import msgspec

from simulations.distributions import Distribution, NotNegative, Positive, Share
from simulations.faults import Fault
from simulations.tables import Kind, Nodes, Table

# --- topology --------------------------------------------------------------------------------


class Complete(Kind, frozen=True, kw_only=True, tag="complete"):
    """Each node is linked with each."""

    nodes: int


class Regular(Kind, frozen=True, kw_only=True, tag="regular"):
    """Random, and each node has `degree` links."""

    nodes: int
    degree: int = 6


class Geometric(Kind, frozen=True, kw_only=True, tag="geometric"):
    """Nodes at random places in a square of `side_km`, linked if within `radius_km`."""

    nodes: int
    radius_km: Positive
    side_km: Positive = 1000.0


class Ring(Kind, frozen=True, kw_only=True, tag="ring"):
    """Each node is linked with two."""

    nodes: int


class Star(Kind, frozen=True, kw_only=True, tag="star"):
    """Node 0 is linked with all."""

    nodes: int


class Topohub(Kind, frozen=True, kw_only=True, tag="topohub"):
    """A real network out of the `topohub` package: `name = "topozoo/Abilene"`, with distances."""

    name: str


class Graphml(Kind, frozen=True, kw_only=True, tag="graphml"):
    """A GraphML file; edges may have `latency_s`, or nodes `x` and `y` in km. Nodes are called by
    their `label`, or else their id; of parallel edges the fastest counts."""

    path: str


class Matrix(Kind, frozen=True, kw_only=True, tag="matrix"):
    """A CSV of one-way latencies in ms: the header names the nodes, row i column j is i to j. An
    empty cell, or `-`, is no link."""

    path: str


Topology = Complete | Regular | Geometric | Ring | Star | Topohub | Graphml | Matrix


class Link(Table, frozen=True, kw_only=True):
    """What all links are like, unless the topology knows better.

    Latency is drawn once for each link, jitter for each message; messages of one direction keep
    their order and queue for the bandwidth.  A stream's bytes are never lost: with `loss_effect`
    "delay" a lost message comes a retransmission later, with "reset" the link breaks.
    """

    latency_s: Distribution = 0.02
    """One way, drawn for each link. Where the topology knows distances: added to what they take, as
    the access network."""
    km_per_s: Positive = 200_000.0
    """For distances. Source: light in glass."""
    jitter_s: Distribution = 0.0
    """Drawn for each message, and added."""
    bandwidth_bytes_per_s: Positive | None = None
    """Of each direction. Left out: without limit."""
    backward_factor: Positive = 1.0
    """How many times longer the second direction takes."""
    loss: Share = 0.0
    """How likely it is that a message is lost on its first try."""
    loss_effect: Literal["delay", "reset"] = "delay"
    """The message comes later, with all behind it; or the link breaks, and is dialled again."""
    retransmit_s: Positive = 0.2
    """What a lost message waits, twice as long each time it is lost again. Source: TCP's least
    time-out on Linux."""


# --- what nodes have -------------------------------------------------------------------------


class Costs(Table, frozen=True, kw_only=True):
    """What a node's own work takes of virtual time (world only); none, unless it is said here.

    A node does one thing after another, so who is busy lets others wait.  docs/validation.md says
    what these were on one machine.
    """

    call_s: Distribution = 0.0
    """Each call of the API."""
    frame_s: Distribution = 0.0
    """Each frame that arrives: unpacking it, verifying what is signed, and what follows."""
    commit_s: Distribution = 0.0
    """Each commit of a node's disk; meanwhile its node does other things."""


class Workers(Table, frozen=True, kw_only=True):
    """A group of like workers, `count` at each of the nodes."""

    nodes: Nodes = "all"
    count: int = 1
    """At each of the nodes."""
    slots: int = 1
    """How many jobs one of them runs at a time."""
    speed: Positive = 1.0
    """A job of `duration_s` 1 takes 1 / speed."""
    memory_bytes: int = 1 << 30
    gpus: int = 0
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    """What functions may require or prefer: `{ room = "lab" }`."""
    crash_mean_s: Positive | None = None
    """Mean time until a worker is lost, exponential; it comes back after `back_s`. Left out: never.
    """
    back_s: Distribution = 1.0


class Function(Table, frozen=True, kw_only=True):
    """A function: simulated (it takes `duration_s`), or one of the shipped examples."""

    name: str
    duration_s: Distribution = 0.1
    """At speed 1. Drawn for each job when it is handed in."""
    example: str | None = None
    """A function of `peernode/examples/functions`, deployed as it is: "detect_faces"."""
    requires: dict[str, Any] = msgspec.field(default_factory=dict)
    """As in the API: `{ gpu = 1, labels = { room = "lab" } }`."""
    prefers: dict[str, Any] = msgspec.field(default_factory=dict)
    """As in the API: `{ labels = { "room=lab" = 10 } }`."""
    result_bytes: Distribution = 16
    retries_max: int | None = None
    """How often a job is tried again when its worker was lost. Left out: as the API has it."""


# --- who uses them ---------------------------------------------------------------------------


class Poisson(Kind, frozen=True, kw_only=True, tag="poisson"):
    """Independent arrivals."""

    rate_per_s: Positive


class Bursty(Kind, frozen=True, kw_only=True, tag="bursty"):
    """Poisson whose rate changes between two values (a two-state MMPP), dwelling exponentially."""

    low_per_s: NotNegative
    high_per_s: Positive
    low_mean_s: Positive
    high_mean_s: Positive


class Periodic(Kind, frozen=True, kw_only=True, tag="periodic"):
    """One each so many seconds."""

    interval_s: Positive


class AtOnce(Kind, frozen=True, kw_only=True, tag="at_once"):
    """So many at one time."""

    count: int
    at_s: NotNegative = 0.0


class AzureTrace(Kind, frozen=True, kw_only=True, tag="azure"):
    """Rows `app,func,end_timestamp,duration` of the Azure Functions trace of 2021.

    Each row is a job that arrives at `end_timestamp - duration`, divided by `speed_up`, and takes
    its duration; the function's own is not used.
    """

    path: str
    speed_up: Positive = 1.0
    jobs_max: int = 100_000


Arrivals = Poisson | Bursty | Periodic | AtOnce | AzureTrace


class Clients(Table, frozen=True, kw_only=True):
    """A group of clients, each with a home node; each is up and down by turns."""

    name: str
    count: int
    nodes: Nodes = "all"
    """Where they are; in turn."""
    up_s: Distribution | None = None
    """How long one stays. Left out: for ever."""
    down_s: Distribution = 5.0
    """How long one is away."""
    latency_s: NotNegative = 0.0
    """One way to its node."""


class Load(Table, frozen=True, kw_only=True):
    """Jobs that arrive.

    `model` is how the client gets its answer:

    * "async": hands in and leaves; asks when it is up (`notify`, or each `poll_s`);
    * "sync": holds a connection, and the job is cancelled when that breaks (or after
      `time_limit_s`);
    * "sync-retry": as sync, begins anew when it is up again;
    * "sync-resume": holds a connection with an idempotency key: the job goes on, and the client
      asks for the same job when it is back. The best that a synchronous interface can be.
    """

    function: str
    arrivals: Arrivals
    clients: str | None = None
    """The group. Left out: clients that are always up, at `nodes`."""
    nodes: Nodes = "all"
    """In turn."""
    model: Literal["async", "sync", "sync-retry", "sync-resume"] = "async"
    balance: Literal["home", "random", "two-choices", "shortest", "stale"] = "home"
    """Which node takes a job: the client's own, any, the better of two, the best of all, or the
    best of all by loads that are `stale_s` old."""
    stale_s: NotNegative = 0.0
    """Of balance "stale"."""
    poll_s: NotNegative = 0.0
    """0: told at once when the job has ended, or when the client is up again."""
    time_limit_s: Positive | None = None
    """Of the synchronous models. Left out: none."""
    label: str = ""
    """Of the metrics; the function's name if empty."""


class Updates(Table, frozen=True, kw_only=True):
    """Changes that the whole mesh must see, or objects that are read where they are not."""

    what: Literal["kv", "function", "project", "user", "blob", "counter", "member"]
    """Blobs are fetched where they are read, all else is pushed to every node. A counter is
    incremented, set if it is at the version last heard of, and deleted, by turns, each second one
    in a local namespace. A member of the project writes a key, is removed, is taken in again, and
    has its key replaced as one that was stolen."""
    arrivals: Arrivals
    nodes: Nodes = "all"
    """Where they are made; in turn."""
    keys: int = 100
    """How many things change."""
    zipf: NotNegative = 0.0
    """How unequal they are, for changes and reads: the k-th has a weight of 1 / k ^ zipf."""
    size_bytes: Distribution = 100
    reads: Arrivals | None = None
    """Reads at random nodes of things that there are."""
    replaces: bool = False
    """Each new blob has the one before it deleted."""
    quota_bytes: int | None = None
    """How much a node keeps of blobs of the project beyond the first ones. Left out: no limit."""


# --- what is asked of it ---------------------------------------------------------------------


class Pass(Table, frozen=True, kw_only=True):
    """A condition on a metric, over all replications together.

    "sum" and "count" are of one replication, on average over them.
    """

    metric: str
    """See below."""
    statistic: Literal["mean", "p50", "p95", "p99", "max", "min", "sum", "count"] = "mean"
    label: str | None = None
    """Left out: all of them together."""
    at_least: float | None = None
    at_most: float | None = None


class Probe(Table, frozen=True, kw_only=True):
    """What is looked at each so many seconds, at every node."""

    metrics: list[str]
    """See below."""
    each_s: Positive = 10.0


class Scenario(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What stands before the first table. All times are virtual seconds."""

    name: str
    """As a file could be called: a-z, 0-9, `-`."""
    summary: str = ""
    """One line, for lists."""
    driver: Literal["swarm", "world"] = "world"
    """Whole daemons, hundreds of them; or their gossip machines alone, thousands of them."""
    duration_s: Positive
    """How long things arrive and break."""
    warm_up_s: NotNegative = 0.0
    """What is observed before this time does not count."""
    drain_s: NotNegative = 0.0
    """After `duration_s` nothing new arrives or breaks; what is under way has so long to end."""
    topology: Topology
    link: Link = Link()
    costs: Costs = Costs()
    node: dict[str, Any] = {}
    """Settings of a node, as in its configuration file (world only)."""
    store: Literal["memory", "lmdb"] = "memory"
    """`lmdb`: the real store, in a directory in memory where there is one."""
    workers: list[Workers] = []
    functions: list[Function] = []
    clients: list[Clients] = []
    load: list[Load] = []
    updates: list[Updates] = []
    faults: list[Fault] = []
    probes: list[Probe] = []
    passes: list[Pass] = msgspec.field(name="pass", default_factory=list)
