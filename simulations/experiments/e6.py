"""E6: blobs fetched on demand, against copying them everywhere.

The paper has users, projects and functions distributed when they change, and data fetched only when
somebody asks for it.  What does that save, and what does it cost the first who asks?
"""

from functools import partial
from typing import Final

from simulations.experiments.experiment import (
    Check,
    Curve,
    Dot,
    Experiment,
    Findings,
    Line,
    Measures,
    Plot,
    Point,
    Relation,
    Size,
    average,
    curve,
    measures,
)
from simulations.observations import Observations
from simulations.scenario import AtOnce, Complete, Link, Poisson, Scenario, Updates
from simulations.theory import copies

NODES: Final = 10
BLOBS: Final = 20
SIZE_BYTES: Final = 200_000
LATENCY_S: Final = 0.05
BANDWIDTH_BYTES_PER_S: Final = 2_000_000.0
READS: Final = (2, 8, 25)
"""Mean reads of each blob."""
ZIPFS: Final = (0.0, 1.0)
READING_S: Final = 120.0
TALK_BYTES: Final = 2000
"""What a question and its answer may have beside a blob's bytes. Source: guess; certificates,
attributes and signatures of a few hundred each."""
LOCAL_S: Final = 1e-6
"""What takes longer has asked another node. Source: far below the way to one."""


def experiment(size: Size) -> Experiment:
    """Return the experiment."""
    del size  # The number of reads is what is varied.
    return Experiment(
        name="e6",
        title="Fetching on demand, and copying everywhere",
        question=(
            "How many bytes does fetching on demand move, and how long does a first read take?"
        ),
        set_up=(
            f"{NODES} nodes, each linked with each ({LATENCY_S * 1000:g} ms one way, "
            f"{BANDWIDTH_BYTES_PER_S / 1e6:g} MB/s), {BLOBS} blobs of {SIZE_BYTES / 1000:g} kB at "
            "homes in turn; reads by chance at any node, of blobs that are all equally popular or "
            "follow Zipf's law. A node keeps what it has fetched."
        ),
        points=tuple(_point(reads, zipf) for zipf in ZIPFS for reads in READS),
        plots=(_bytes(), _times()),
        meaning=_meaning,
        limits=(
            "Blobs do not change here: one that did would be another blob. Caches are larger than "
            "all blobs. What copying everywhere costs is computed; it is not built."
        ),
    )


def _point(reads: int, zipf: float) -> Point:
    scenario = Scenario(
        name=f"e6-{reads}-{zipf:g}",
        topology=Complete(nodes=NODES),
        link=Link(latency_s=LATENCY_S, bandwidth_bytes_per_s=BANDWIDTH_BYTES_PER_S),
        updates=[
            Updates(
                what="blob",
                # One that nobody reads any more: there have to be changes.
                arrivals=AtOnce(count=1, at_s=READING_S * 0.9999),
                keys=BLOBS,
                zipf=zipf,
                size_bytes=float(SIZE_BYTES),
                reads=Poisson(rate_per_s=reads * BLOBS / READING_S),
            )
        ],
        duration_s=READING_S,
        drain_s=20.0,
    )
    return Point(f"{reads}-{zipf:g}", scenario, _reduce)


def _reduce(run: Observations, seed: int) -> Measures:
    read_s, fetched = run.values("blob.read_s"), run.values("blob.fetched")
    return measures(
        fetched_mb=float(sum(run.values("blob.fetched_bytes"))) / 1e6,
        first_s=average(read_s[fetched > 0]),
        again_s=average(read_s[(fetched == 0) & (read_s > LOCAL_S)]),
        home_s=average(read_s[(fetched == 0) & (read_s <= LOCAL_S)]),
        failed=average(run.values("blob.failed")),
    )


def _bytes() -> Plot:
    def fetched_mb(zipf: float, reads: float) -> float:
        return copies.demand_bytes(NODES, BLOBS, reads * BLOBS, SIZE_BYTES, zipf) / 1e6

    everywhere_mb = copies.everywhere_bytes(NODES, BLOBS, SIZE_BYTES) / 1e6
    return Plot(
        name="e6-bytes",
        title="What is sent between nodes",
        x_label="mean reads of a blob",
        y_label="sent (MB)",
        lines=tuple(
            Line(
                label,
                tuple(
                    Dot(reads, f"{reads}-{zipf:g}", "fetched_mb", Check(fetched_mb(zipf, reads)))
                    for reads in READS
                ),
                curve(partial(fetched_mb, zipf), 1, 30, log=True),
            )
            for zipf, label in zip(ZIPFS, ("all equally popular", "Zipf's law"), strict=True)
        ),
        curves=(Curve("copied everywhere", ((1, everywhere_mb), (30, everywhere_mb))),),
        log_x=True,
        y_from=0.0,
    )


def _times() -> Plot:
    def read_s(round_trips: int, size_bytes: int) -> float:
        return copies.first_read_s(
            LATENCY_S, size_bytes, BANDWIDTH_BYTES_PER_S, round_trips=round_trips
        )

    def line(label: str, measure: str, relation: Relation, theory_s: float) -> Line:
        check = Check(theory_s, relation)
        return Line(label, tuple(Dot(reads, f"{reads}-0", measure, check) for reads in READS))

    once_s, twice_s = read_s(1, SIZE_BYTES), read_s(2, SIZE_BYTES + 2 * TALK_BYTES)
    return Plot(
        name="e6-reads",
        title="How long a read takes",
        x_label="mean reads of a blob",
        y_label="time (s)",
        lines=(
            line("first read at a node", "first_s", "at least", once_s),
            line(
                "again, at a node that has fetched it", "again_s", "always at least", read_s(1, 0)
            ),
            line("first read at a node, at most ask and fetch", "first_s", "at most", twice_s),
            line(
                "again, where it was fetched, at most ask",
                "again_s",
                "always at most",
                read_s(1, TALK_BYTES),
            ),
            Line(
                "at its home",
                tuple(Dot(n, f"{n}-0", "home_s", Check(0.0, absolute_max=0.001)) for n in READS),
            ),
        ),
        curves=(
            Curve("there, back and the bytes (bound)", ((1, once_s), (30, once_s))),
            Curve("two round trips and the bytes (bound)", ((1, twice_s), (30, twice_s))),
        ),
        log_x=True,
        y_from=-0.01,
    )


def _meaning(found: Findings) -> str:
    everywhere_mb = copies.everywhere_bytes(NODES, BLOBS, SIZE_BYTES) / 1e6
    few, many = (found.mean(f"{reads}-0", "fetched_mb") for reads in (READS[0], READS[-1]))
    popular = found.mean(f"{READS[1]}-1", "fetched_mb")
    even = found.mean(f"{READS[1]}-0", "fetched_mb")
    first_s = found.mean(f"{READS[1]}-0", "first_s")
    again_s = found.mean(f"{READS[1]}-0", "again_s")
    least_s = copies.first_read_s(LATENCY_S, SIZE_BYTES, BANDWIDTH_BYTES_PER_S)
    return (
        f"Copying everywhere sends {everywhere_mb:.0f} MB; fetching what is asked for sends "
        f"{few:.1f} MB when each blob is read {READS[0]} times, and {many:.1f} MB when it is read "
        f"{READS[-1]} times, almost everywhere by then. It never sends more. The more unequal the "
        f"interest the better: {popular:.1f} MB against {even:.1f} MB for {READS[1]} reads each on "
        f"average. The price is the first read: {first_s:.2f} s, where {least_s:.2f} s is the "
        "least that latency and bandwidth allow; the node asks the home what the blob is and "
        "whether the caller may have it, and then for the bytes. That question is put at every "
        f"read ({again_s:.2f} s): bytes that are here are no leave to read them."
    )
