"""Arrivals and popularity: what is drawn is distributed as it says, what is read is what is there.

The seeds are fixed, so that a statistical test says the same each time.
"""

import contextlib
import itertools
import random
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats

from simulations.arrivals import arrivals, expected, mean_rate_per_s, read_azure
from simulations.errors import ScenarioError
from simulations.popularity import Zipf
from simulations.scenario import Arrivals, AtOnce, AzureTrace, Bursty, Periodic, Poisson

BURSTY = Bursty(low_per_s=1, high_per_s=20, low_mean_s=30, high_mean_s=10)


def times(kind: Arrivals, until_s: float, seed: int = 1) -> list[float]:
    drawn = arrivals(kind, random.Random(seed))
    return [at for at, _ in itertools.takewhile(lambda arrival: arrival[0] < until_s, drawn)]


def gaps(at_s: list[float]) -> list[float]:
    return [later - earlier for earlier, later in itertools.pairwise([0.0, *at_s])]


@pytest.mark.parametrize("seed", range(3))
def test_gaps_of_poisson_arrivals_are_exponential_and_independent(seed: int) -> None:
    found = gaps(times(Poisson(rate_per_s=5), 2000, seed))
    assert stats.kstest(found, "expon", args=(0, 1 / 5)).pvalue > 0.01
    assert abs(stats.pearsonr(found[:-1], found[1:]).statistic) < 0.03


def test_counts_of_poisson_arrivals_vary_as_much_as_their_mean() -> None:
    at_s = times(Poisson(rate_per_s=5), 10_000)
    counts = [0] * 1000
    for at in at_s:
        counts[int(at / 10)] += 1
    assert stats.tmean(counts) == pytest.approx(50, rel=0.02)
    assert stats.tvar(counts) / stats.tmean(counts) == pytest.approx(1, abs=0.1)


def test_bursts_have_the_mean_rate_and_vary_more() -> None:
    at_s = times(BURSTY, 40_000)
    assert mean_rate_per_s(BURSTY) == pytest.approx((30 * 1 + 10 * 20) / 40)
    assert len(at_s) / 40_000 == pytest.approx(mean_rate_per_s(BURSTY), rel=0.05)
    counts = [0] * 4000
    for at in at_s:
        counts[int(at / 10)] += 1
    # Index of dispersion of a two-state MMPP for long windows (Fischer and Meier-Hellstern).
    low, high = 1 / 30, 1 / 10  # rates of leaving
    limit = 1 + 2 * low * high * (20 - 1) ** 2 / ((low + high) ** 2 * (1 * high + 20 * low))
    assert 1 + (limit - 1) / 4 < stats.tvar(counts) / stats.tmean(counts) < limit


def test_with_one_rate_bursts_are_poisson() -> None:
    kind = Bursty(low_per_s=4, high_per_s=4, low_mean_s=1, high_mean_s=1)
    assert stats.kstest(gaps(times(kind, 2000)), "expon", args=(0, 1 / 4)).pvalue > 0.01


def test_bursts_may_have_pauses_without_any() -> None:
    kind = Bursty(low_per_s=0, high_per_s=10, low_mean_s=50, high_mean_s=50)
    found = gaps(times(kind, 5000))
    assert max(found) > 50
    assert stats.tmean([gap for gap in found if gap < 2]) == pytest.approx(0.1, rel=0.1)


def test_periodic_arrivals_do_not_drift() -> None:
    assert times(Periodic(interval_s=0.1), 1000)[-1] == 9999 * 0.1
    assert len(times(Periodic(interval_s=0.1), 1000)) == 10_000


def test_those_at_once_are_at_once() -> None:
    assert times(AtOnce(count=3, at_s=2.5), 10) == [2.5, 2.5, 2.5]


@pytest.mark.parametrize(
    "kind", [Poisson(rate_per_s=3), BURSTY, Periodic(interval_s=0.3), AtOnce(count=9)]
)
def test_as_many_arrive_as_are_expected(kind: Arrivals) -> None:
    counts = [len(times(kind, 1000, seed)) for seed in range(20)]
    assert stats.tmean(counts) == pytest.approx(expected(kind, 1000), rel=0.1)
    assert times(kind, 1000, 1) == times(kind, 1000, 1)


# --- traces ----------------------------------------------------------------------------------

HEADER = "app,func,end_timestamp,duration\n"


def trace(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "trace.csv"
    path.write_text(text, "utf-8")
    return path


def test_calls_of_a_trace_begin_at_0_in_order_with_their_durations(tmp_path: Path) -> None:
    trace(tmp_path, HEADER + "a,f,110.5,0.5\na,g,109.0,4\n\nb,f,120,0\n")
    kind = AzureTrace(path="trace.csv", speed_up=2)
    found = list(arrivals(kind, random.Random(1), tmp_path))
    assert found == [(0.0, 4.0), (2.5, 0.5), (7.5, 0.0)]
    short = AzureTrace(path="trace.csv", jobs_max=1)
    assert list(arrivals(short, random.Random(1), tmp_path)) == [(0.0, 0.5)]


def test_columns_may_stand_in_any_order(tmp_path: Path) -> None:
    path = trace(tmp_path, "\ufeffduration,x,func,app,end_timestamp\n1,?,f,a,5\n")
    assert read_azure(path, 10) == [(4.0, 1.0)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "line 1: columns must be app, func, end_timestamp, duration"),
        ("app,func,end\n", "line 1: columns must be"),
        (HEADER + "a,f,1,1\na,f,2\n", "line 3: 3 fields, must be 4"),
        (HEADER + "a,f,1,-1\n", "line 2: end_timestamp '1', duration '-1': must be seconds"),
        (HEADER + "a,f,nan,1\n", "line 2"),
        (HEADER + "a,f,soon,1\n", "line 2: end_timestamp 'soon'"),
        (HEADER + "a,f,1,1e12\n", "line 2"),
        (HEADER + "a,f,1,inf\n", "line 2"),
        (HEADER + '"' + "a" * 200_000 + '",f,1,1\n', "field larger than field limit"),
    ],
)
def test_a_wrong_row_is_told_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ScenarioError, match=says):
        read_azure(trace(tmp_path, text), 100)


def test_a_trace_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="No such file"):
        read_azure(tmp_path / "none.csv", 100)
    (tmp_path / "binary.csv").write_bytes(b"\xff\x00")
    with pytest.raises(ScenarioError, match="can't decode"):
        read_azure(tmp_path / "binary.csv", 100)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet='af,1\n-. "\r\0e', max_size=60))
def test_whatever_a_trace_is_it_is_read_or_refused(tmp_path_factory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "trace.csv"
    path.write_text(HEADER + text, "utf-8", newline="")
    with contextlib.suppress(ScenarioError):
        read_azure(path, 100)


# --- popularity ------------------------------------------------------------------------------


@pytest.mark.parametrize("exponent", [0.0, 0.7, 1.0, 2.0])
def test_keys_are_as_popular_as_zipf_has_it(exponent: float) -> None:
    zipf, rng = Zipf(50, exponent), random.Random(4)
    counts = [0] * 50
    for _ in range(20_000):
        counts[zipf.draw(rng)] += 1
    weights = [(rank + 1) ** -exponent for rank in range(50)]
    wanted = [20_000 * weight / sum(weights) for weight in weights]
    assert stats.chisquare(counts, wanted).pvalue > 0.01
    assert zipf.probability(9) == pytest.approx(weights[9] / sum(weights))


@settings(deadline=None)
@given(st.integers(1, 300), st.floats(0, 50), st.integers(0, 99))
def test_only_keys_that_there_are_are_drawn(keys: int, exponent: float, seed: int) -> None:
    zipf, rng = Zipf(keys, exponent), random.Random(seed)
    assert all(0 <= zipf.draw(rng) < keys for _ in range(20))
