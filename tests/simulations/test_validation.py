"""What a World and real processes do alike, and what is said of it."""

from pathlib import Path

import msgspec
import pytest

from simulations import residuals as beside, trials, validation
from simulations.residuals import (
    FIGURES,
    TOLERANCE,
    Real,
    Runs,
    Simulated,
    Stored,
    collect,
    costs_of,
    latency_of,
    residuals,
    statistic,
)
from simulations.scenario import Costs
from simulations.trials import LATENCY_S, TRIALS, Samples, in_world
from simulations.validation import render

DOCS = Path(validation.__file__).parent.parent / "docs"


def stored(real_s: float, simulated_s: float) -> Stored:
    """Return what is stored if every observation is the same."""

    def runs(value_s: float) -> Runs:
        found: Runs = {"control": {beside.CONTROL: [[2 * LATENCY_S]]}}
        for figure in FIGURES:
            found.setdefault(figure.trial, {})[figure.metric] = [[value_s] * 3] * 2
        alone = {"call.read_s": 0.25, "call.change_s": 0.375, "job.first_read_s": 0.75}
        found[beside.NO_DELAY] = {metric: [[value]] * 2 for metric, value in alone.items()}
        found[beside.NO_DELAY]["key.visible_s"] = [[value_s]] * 2
        return found

    real = Real(
        "abc",
        2,
        "Linux",
        [0.5, 0.5],
        in_memory=True,
        goes_first=False,
        seeds=[1, 2],
        runs=runs(real_s),
    )
    return Stored(2, real, Simulated("abc", runs(simulated_s), runs(simulated_s)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "metric", "least_s", "most_s"),
    [
        ("visibility", "key.visible_s", LATENCY_S, 3 * LATENCY_S),
        ("short partition", "heal.short_s", LATENCY_S, 6 * LATENCY_S),
        ("first read", "job.first_read_s", 2 * LATENCY_S, 2 * LATENCY_S),
        ("long partition", "heal.long_s", 2 * LATENCY_S, trials.HEALS_MAX_S),
    ],
)
def test_a_world_takes_what_its_lines_and_machines_take(
    name: str, metric: str, least_s: float, most_s: float
) -> None:
    samples = in_world(TRIALS[name], 1)
    assert list(samples) == [metric]
    found = [round(value, 9) for value in samples[metric]]
    assert least_s <= min(found) <= max(found) <= most_s
    assert in_world(TRIALS[name], 1) == samples


@pytest.mark.slow
def test_jobs_of_the_trial_are_a_queue_with_two_servers() -> None:
    free_at_s = [0.0] * trials.SLOTS
    expected_s = []
    for at_s, duration_s in trials.jobs_of(1):  # first come, first served
        ends_s = max(at_s, free_at_s[0]) + duration_s
        free_at_s = sorted([ends_s, *free_at_s[1:]])
        expected_s.append(ends_s - at_s)
    found = in_world(trials.sojourn, 1)["job.sojourn_s"]
    assert len(expected_s) > 400
    assert sorted(found) == pytest.approx(sorted(expected_s), abs=1e-6)


def test_what_a_step_costs_is_what_it_took_by_itself() -> None:
    real = stored(1.0, 1.0).real
    assert costs_of(real) == Costs(call_s=0.25, commit_s=0.125, frame_s=0.25)
    assert latency_of(real) == LATENCY_S


@pytest.mark.slow
def test_a_world_with_such_costs_takes_by_itself_what_was_measured() -> None:
    costs = Costs(call_s=0.002, commit_s=0.005, frame_s=0.001)

    def took_s(name: str) -> dict[str, float]:
        samples = in_world(trials.WITHOUT_DELAY[name], 1, latency_s=0.0, costs=costs)
        return {metric: statistic("p50", values) for metric, values in samples.items()}

    assert took_s("alone") == {
        "call.read_s": pytest.approx(0.002),
        "call.change_s": pytest.approx(0.007),
    }
    assert took_s("first read") == {"job.first_read_s": pytest.approx(0.002 + 2 * 0.001)}


def test_every_trial_has_a_figure_and_every_figure_its_trial() -> None:
    assert {figure.trial for figure in FIGURES} == set(TRIALS)


def test_the_word_validated_stands_only_where_the_difference_is_small() -> None:
    for share, word in ((TOLERANCE * 0.99, "validated"), (TOLERANCE * 1.01, "not validated")):
        for sign in (-1, 1):
            page = render(stored(1.0, 1.0 + sign * share))
            rows = [line for line in page.splitlines() if line.endswith("validated |")]
            assert len(rows) == len(FIGURES)
            assert all(line.endswith(f"| {word} |") for line in rows)


def test_a_difference_has_its_likely_cause_in_the_page() -> None:
    far, near = render(stored(1.0, 2.0)), render(stored(1.0, 1.0))
    for cause in {figure.cause for figure in FIGURES}:
        assert cause in far
        assert cause not in near
    assert f"{len(FIGURES)} of {len(FIGURES)}" in near
    assert f"0 of {len(FIGURES)}" in far


def test_each_run_is_compared_with_the_world_of_its_seed_and_none_may_differ_much() -> None:
    found = stored(1.0, 1.0)
    found.real.runs["visibility"]["key.visible_s"] = [[2.0], [0.5]]
    first = residuals(found)[0]
    assert first.shares == [-0.5, 1.0]
    assert not first.is_validated
    both = "-50.0% to +100.0%"
    row = f"| 2.00 s, 500 ms | 1.00 s, 1.00 s | {both} | {both} | not validated |"
    assert row in render(found)


def test_runs_of_few_observations_are_taken_together() -> None:
    found = stored(1.0, 1.0)
    found.real.runs["long partition"]["heal.long_s"] = [[1.0, 1.0], [1.0, 9.0]]
    last = residuals(found)[-1]
    assert last.figure.statistic == "max"
    assert (last.real_s, last.simulated_s) == ([9.0], [1.0])


def test_statistics_are_what_their_names_say() -> None:
    values = [float(value) for value in range(101)]
    assert [statistic(name, values) for name in ("p50", "p95", "mean", "max")] == [50, 95, 50, 100]


def test_nothing_is_compared_that_was_not_simulated() -> None:
    found = stored(1.0, 1.0)
    found.simulated = None
    with pytest.raises(KeyError, match="nothing is simulated"):
        residuals(found)


def test_runs_are_collected_by_trial_and_metric() -> None:
    runs: Runs = {}
    some: list[Samples] = [{"a_s": [0.123456789]}, {"a_s": [2.0], "b_s": []}]
    collect(runs, "one", some)
    assert runs == {"one": {"a_s": [[0.12346], [2.0]], "b_s": [[]]}}


def test_the_page_says_what_is_stored_and_no_number_is_typed() -> None:
    kept = msgspec.json.decode((DOCS / "validation.json").read_bytes(), type=Stored)
    assert (DOCS / "validation.md").read_text(encoding="utf-8") == render(kept)
