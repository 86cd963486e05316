"""Lines: order, bandwidth, delay, loss, and each direction by itself."""

import random
import statistics
import time

import pytest
from hypothesis import given, settings, strategies as st

from simulations.distributions import Exponential, Lognormal, Uniform
from simulations.links import RETRIES_MAX, Lines
from simulations.scenario import Complete, Link, Ring
from simulations.topology import Edge, Graph, build

PAIR = Graph(names=("a", "b"), edges=(Edge(0, 1, 0.1, 0.3),))
BANDWIDTH = 1000.0


def lines(link: Link, graph: Graph = PAIR, seed: int = 1) -> Lines:
    return Lines(graph, link, random.Random(seed))


links = st.builds(
    Link,
    jitter_s=st.sampled_from([0.0, Exponential(mean=0.5), Lognormal(median=0.1, sigma=2)]),
    bandwidth_bytes_per_s=st.sampled_from([None, BANDWIDTH]),
    loss=st.sampled_from([0.0, 0.3, 0.9]),
    loss_effect=st.sampled_from(["delay", "reset"]),
)
messages = st.lists(st.tuples(st.floats(0, 2), st.integers(0, 3000)), max_size=40)
"""Pauses and sizes."""


@settings(deadline=None)
@given(links, messages, st.integers(0, 99))
def test_messages_of_one_direction_arrive_in_order_and_not_before_they_could(
    link: Link, sent: list[tuple[float, int]], seed: int
) -> None:
    line = lines(link, seed=seed)
    now, last = 0.0, 0.0
    for pause_s, size_bytes in sent:
        now += pause_s
        arrives = line.arrival_s(0, 1, size_bytes, now)
        if arrives is not None:
            sending_s = size_bytes / BANDWIDTH if link.bandwidth_bytes_per_s else 0
            assert arrives >= last
            assert arrives >= now + 0.1 + sending_s - 1e-9
            last = arrives


@settings(deadline=None)
@given(links, messages, st.integers(0, 99))
def test_no_more_arrives_than_the_bandwidth_lets_through(
    link: Link, sent: list[tuple[float, int]], seed: int
) -> None:
    line = lines(link, seed=seed)
    now = 0.0
    done: list[tuple[float, float, int]] = []
    for pause_s, size_bytes in sent:
        now += pause_s
        arrives = line.arrival_s(0, 1, size_bytes, now)
        if arrives is not None and link.bandwidth_bytes_per_s:
            done.append((now, arrives, size_bytes))
            for number, (began, _, _) in enumerate(done):
                total_bytes = sum(size for _, _, size in done[number:])
                assert arrives >= began + 0.1 + total_bytes / BANDWIDTH - 1e-9


def test_a_full_line_is_full_and_an_idle_one_does_not_save_up() -> None:
    line = lines(Link(bandwidth_bytes_per_s=BANDWIDTH))
    assert [line.arrival_s(0, 1, 500, 0.0) for _ in range(4)] == pytest.approx([0.6, 1.1, 1.6, 2.1])
    assert line.arrival_s(0, 1, 500, 100.0) == pytest.approx(100.6)
    assert line.arrival_s(1, 0, 500, 100.0) == pytest.approx(100.8)  # the other way is idle


def test_a_plain_line_takes_its_latency() -> None:
    line = lines(Link())
    assert line.arrival_s(0, 1, 10**9, 5.0) == 5.1
    assert line.arrival_s(1, 0, 0, 5.0) == 5.3
    assert line.latency_s(1, 0) == 0.3


def test_jitter_is_added_to_each_message() -> None:
    line = lines(Link(jitter_s=Uniform(low=0.0, high=0.2)))
    delays = [line.arrival_s(0, 1, 1, float(now)) - now for now in range(20_000)]
    assert statistics.fmean(delays) == pytest.approx(0.2, rel=0.01)
    assert 0.1 <= min(delays) < 0.101
    assert 0.299 < max(delays) <= 0.3


def test_a_lost_message_comes_by_time_outs_that_double() -> None:
    loss = 0.2
    line = lines(Link(loss=loss, retransmit_s=0.5))
    delays = [line.arrival_s(0, 1, 1, 1e6 * now) - 1e6 * now for now in range(20_000)]
    extra = [round(delay - 0.1, 4) for delay in delays]
    share = [extra.count(0.5 * (2**tries - 1)) / len(extra) for tries in range(4)]
    assert share == pytest.approx([(1 - loss) * loss**tries for tries in range(4)], abs=0.01)
    # The mean of 0.5 (2^K - 1), K geometric: 0.5 loss / (1 - 2 loss).
    assert statistics.fmean(extra) == pytest.approx(0.5 * loss / (1 - 2 * loss), rel=0.05)


def test_a_lost_message_holds_up_those_behind_it_and_uses_bandwidth_again() -> None:
    line = lines(Link(loss=0.5, retransmit_s=10.0, bandwidth_bytes_per_s=BANDWIDTH), seed=3)
    arrivals = [line.arrival_s(0, 1, 100, 0.01 * number) for number in range(50)]
    assert len(set(arrivals)) < 50  # held up, then all at once
    first = next(number for number, at in enumerate(arrivals) if at > 10)
    assert arrivals[first + 1] >= arrivals[first]
    free = lines(Link(bandwidth_bytes_per_s=BANDWIDTH))
    for number in range(50):
        free.arrival_s(0, 1, 100, 0.01 * number)
    assert line.arrival_s(0, 1, 100, 3.0) > free.arrival_s(0, 1, 100, 3.0) + 1


def test_loss_may_break_the_link_instead() -> None:
    line = lines(Link(loss=0.25, loss_effect="reset"))
    arrivals = [line.arrival_s(0, 1, 1, float(now)) for now in range(10_000)]
    assert arrivals.count(None) / 10_000 == pytest.approx(0.25, abs=0.015)
    assert all(at is None or at == pytest.approx(now + 0.1) for now, at in enumerate(arrivals))


def test_who_always_loses_breaks_the_link_after_so_many_tries() -> None:
    line = lines(Link(loss=1.0))
    assert line.arrival_s(0, 1, 1, 0.0) is None
    assert RETRIES_MAX == 15


def test_a_broken_link_forgets_what_was_under_way() -> None:
    line = lines(Link(bandwidth_bytes_per_s=BANDWIDTH))
    for _ in range(10):
        line.arrival_s(0, 1, 1000, 0.0)
    line.reset(1, 0)
    assert line.arrival_s(0, 1, 1000, 0.5) == pytest.approx(1.6)


def test_what_happens_on_one_link_changes_nothing_on_another() -> None:
    link = Link(jitter_s=Exponential(mean=0.1), loss=0.1)
    graph = build(Ring(nodes=5), link, random.Random(2))
    alone = lines(link, graph)
    expected = [alone.arrival_s(0, 1, 10, float(now)) for now in range(100)]
    busy = lines(link, graph)
    found = []
    for now in range(100):
        for source, target in ((1, 0), (1, 2), (3, 4)):
            busy.arrival_s(source, target, 10, float(now))
        found.append(busy.arrival_s(0, 1, 10, float(now)))
    assert found == expected


def test_a_link_that_is_added_changes_nothing_on_the_others() -> None:
    link = Link(jitter_s=Exponential(mean=0.1))
    one = Graph(names=("a", "b", "c"), edges=(Edge(0, 1, 0.1, 0.1), Edge(1, 2, 0.1, 0.1)))
    more = Graph(names=one.names, edges=(one.edges[0], Edge(0, 2, 0.1, 0.1), one.edges[1]))
    first, second = lines(link, one), lines(link, more)
    assert [first.arrival_s(1, 2, 1, float(now)) for now in range(50)] == [
        second.arrival_s(1, 2, 1, float(now)) for now in range(50)
    ]


def test_lines_follow_from_their_seed() -> None:
    link = Link(jitter_s=Exponential(mean=0.1))
    of = {
        seed: [lines(link, seed=seed).arrival_s(0, 1, 1, float(now)) for now in range(5)]
        for seed in (1, 2)
    }
    assert of[1] == [lines(link, seed=1).arrival_s(0, 1, 1, float(now)) for now in range(5)]
    assert of[1] != of[2]


def test_nodes_without_a_link_have_the_latency_of_the_shortest_way() -> None:
    graph = Graph(
        names=("a", "b", "c", "d"),
        edges=(Edge(0, 1, 0.1, 0.2), Edge(0, 3, 5.0, 5.0), Edge(1, 2, 0.1, 0.2), Edge(2, 3, 1, 1)),
    )
    line = lines(Link(), graph)
    assert line.arrival_s(0, 2, 1, 0.0) == pytest.approx(0.2)
    assert line.arrival_s(2, 0, 1, 0.0) == pytest.approx(0.4)
    assert line.arrival_s(0, 3, 1, 0.0) == 5.0  # a link is used though a longer way is shorter
    assert line.arrival_s(1, 1, 1, 7.0) == 7.0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99))
def test_the_way_without_a_link_has_bandwidth_and_jitter_too(seed: int) -> None:
    link = Link(bandwidth_bytes_per_s=BANDWIDTH, jitter_s=Exponential(mean=0.1))
    line = lines(link, build(Ring(nodes=8), link, random.Random(seed)), seed)
    assert line.arrival_s(0, 4, 1000, 0.0) > 1.08
    assert line.arrival_s(0, 4, 1000, 0.0) > 2.08


@pytest.mark.slow
def test_a_message_costs_little() -> None:
    """0.14 us were measured; the bound is far above, so that a busy machine does not fail it."""
    line = lines(Link(), build(Complete(nodes=50), Link(), random.Random(1)))
    ways = [(number % 50, number * 7 % 50, float(number)) for number in range(20_000)]
    costs_s = []
    for _ in range(5):
        began_s = time.process_time()
        for source, target, now in ways:
            line.arrival_s(source, target, 100, now)
        costs_s.append((time.process_time() - began_s) / len(ways))
    assert min(costs_s) < 5e-6
