"""Experiments refer to what there is, keep what they should, and can be refuted."""

import math

import pytest

from simulations.checking import check
from simulations.experiments import NAMES, experiments
from simulations.experiments.experiment import (
    FULL,
    QUICK,
    Check,
    Dot,
    Experiment,
    Findings,
    Line,
    Point,
    Size,
    average,
    curve,
    measures,
    share,
)
from simulations.experiments.single_node import times
from simulations.metrics import Metrics, Observation
from simulations.observations import from_rows
from tests.simulations import bare_queue

SMALL = Size(2, 0.02)


@pytest.fixture(scope="module")
def all_of_them() -> list[Experiment]:
    return experiments(SMALL)


def point(name: str, of: str, size: Size = SMALL) -> Point:
    (experiment,) = experiments(size, (of,))
    return next(each for each in experiment.points if each.name == name)


def test_there_are_nine_in_order(all_of_them: list[Experiment]) -> None:
    assert [each.name for each in all_of_them] == list(NAMES)
    with pytest.raises(ValueError, match="no experiment: e10"):
        experiments(QUICK, ("e10",))


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_is_whole(name: str, all_of_them: list[Experiment]) -> None:
    experiment = all_of_them[NAMES.index(name)]
    points = [each.name for each in experiment.points]
    assert len(dict.fromkeys(points)) == len(points)
    for each in experiment.points:
        check(each.scenario)
    for _, _, dot in experiment.dots():
        assert dot.point in points
        if dot.check is not None:
            assert math.isfinite(dot.check.theory)
            assert dot.check.as_of in ("", *points)
    assert any(dot.check is not None for _, _, dot in experiment.dots())
    words = experiment.meaning(Findings({}))
    assert "nan" in words, "numbers in words come out of the findings"


def test_plots_have_names_of_their_own(all_of_them: list[Experiment]) -> None:
    names = [plot.name for experiment in all_of_them for plot in experiment.plots]
    assert len(dict.fromkeys(names)) == len(names)


def test_a_full_experiment_is_the_same_question_at_another_size() -> None:
    (small,), (full,) = experiments(SMALL, ("e2",)), experiments(FULL, ("e2",))
    assert [each.name for each in small.points] == [each.name for each in full.points]
    for one, other in zip(small.points, full.points, strict=True):
        assert one.scenario.duration_s < other.scenario.duration_s


def findings(point: Point, slower: float = 1.0, replications: int = 20) -> Findings:
    runs = [
        point.reduce(from_rows(bare_queue.play(point.scenario, seed, slower)), seed)
        for seed in range(replications)
    ]
    return Findings({point.name: runs})


def dots(experiment: str, name: str, size: Size) -> list[Dot]:
    (made,) = experiments(size, (experiment,))
    return [dot for _, _, dot in made.dots() if dot.point == name and dot.check is not None]


@pytest.mark.parametrize("name", ["mmc-0.3", "mmc-0.5"])
def test_a_queue_that_is_one_passes(name: str) -> None:
    found = findings(point(name, "e2", FULL))
    for dot in dots("e2", name, FULL):
        verdict = found.judge(dot)
        assert verdict is not None
        assert verdict.passed, verdict.reason


def test_a_queue_that_is_slower_than_it_says_is_refused() -> None:
    found = findings(point("mmc-0.5", "e2", FULL), slower=1.15)
    verdicts = [found.judge(dot) for dot in dots("e2", "mmc-0.5", FULL)]
    assert verdicts
    assert not any(verdict.passed for verdict in verdicts if verdict is not None)


def row(metric: str, at_s: float, value: float) -> Observation:
    return Observation(metric, at_s, value, label="job")


def job(ended_s: float, wait_s: float, stay_s: float) -> list[Observation]:
    return [
        row("job.succeeded", ended_s, 1.0),
        row("job.wait_s", ended_s, wait_s),
        row("job.sojourn_s", ended_s, stay_s),
        row("job.result_s", ended_s, stay_s),
    ]


def test_jobs_count_by_when_they_came_and_not_by_when_they_ended() -> None:
    rows = [*job(12.0, 4.0, 8.0), *job(13.0, 0.0, 2.0), *job(30.0, 1.0, 4.0)]
    found = times(from_rows(rows), "job", 10.0)
    assert found == pytest.approx({"wait_s": 0.5, "waited": 0.5, "sojourn_s": 3.0, "jobs": 2.0})


def test_a_run_that_left_jobs_open_says_nothing() -> None:
    assert times(from_rows([*job(12.0, 4.0, 8.0), row("job.succeeded", 50.0, 0.0)]), "job", 0) == {}
    assert times(from_rows([]), "job", 0.0) == {"jobs": 0.0}


def test_work_is_counted_by_model_and_length() -> None:
    metrics = Metrics()
    for label, worked_s, wasted_s, succeeded in (
        ("sync 60", 60.0, 0.0, 1.0),
        ("sync 60", 20.0, 20.0, 0.0),
        ("async 60", 60.0, 0.0, 1.0),
    ):
        metrics.observe("job.succeeded", 100.0, succeeded, label=label)
        metrics.observe("job.run_s", 100.0, worked_s, label=label)
        metrics.observe("job.wasted_s", 100.0, wasted_s, label=label)
    found = point("u60", "e1").reduce(from_rows(metrics), 1)
    assert found["sync 60 succeeded"] == 0.5
    assert found["sync 60 wasted"] == pytest.approx(0.25)
    assert found["async 60 wasted"] == 0.0
    assert "sync 5 succeeded" not in found


def test_a_mesh_that_does_not_heal_counts_as_all_the_time_there_was() -> None:
    reduce = point("cut-60", "e7").reduce
    healed = [Observation("heal.converged_s", 80.0, 4.5, label="partition")]
    assert reduce(from_rows(healed), 1)["heals_s"] == 4.5
    never = reduce(from_rows([Observation("write.lost", 170.0, 1.0)]), 1)
    assert never["heals_s"] > 60
    assert never["healed"] == 0.0
    assert never["lost"] == 1.0


def test_reads_are_told_apart_by_what_they_asked() -> None:
    rows = []
    for read_s, fetched in ((0.3, 1.0), (0.1, 0.0), (0.0, 0.0)):
        rows.append(Observation("blob.read_s", 1.0, read_s))
        rows.append(Observation("blob.fetched", 1.0, fetched))
        rows.append(Observation("blob.fetched_bytes", 1.0, 5e5 * fetched))
    found = point("8-0", "e6").reduce(from_rows(rows), 1)
    assert found == {"fetched_mb": 0.5, "first_s": 0.3, "again_s": 0.1, "home_s": 0.0}


def test_copies_count_by_what_a_node_was_told() -> None:
    """Two records of node 0: it was told none of them, node 1 both, three and two times."""
    rows = [Observation("update.refused", 1.0, 0.0, node="0")] * 2
    rows += [Observation("mesh.copies", 9.0, 2.5, node="1")]
    assert point("50-4", "e5").reduce(from_rows(rows), 1)["copies"] == 2.5
    rows += [Observation("update.refused", 1.0, 0.0, node="1")]
    rows += [Observation("mesh.copies", 9.0, 4.0, node="0")]
    found = point("50-4", "e5").reduce(from_rows(rows), 1)
    assert found["copies"] == pytest.approx((2 * 2.5 + 1 * 4.0) / 3)


# --- what was found --------------------------------------------------------------------------

FOUND = Findings(
    {"one": [{"x": 1.0, "y": 5.0}, {"x": 1.2}, {"x": 0.8, "y": math.nan}], "two": [{"x": 2.0}] * 3}
)


def test_a_measure_is_what_the_runs_gave_that_could_say() -> None:
    measured = FOUND.interval("one", "x")
    assert measured is not None
    assert measured.mean == pytest.approx(1.0)
    assert measured.replications == 3
    assert FOUND.values("one", "y") == [5.0]
    assert FOUND.interval("one", "z") is None
    assert FOUND.interval("three", "x") is None
    assert math.isnan(FOUND.mean("three", "x"))


def test_what_was_not_measured_does_not_pass() -> None:
    verdict = FOUND.judge(Dot(1, "three", "x", Check(1.0)))
    assert verdict is not None
    assert not verdict.passed
    assert FOUND.judge(Dot(1, "one", "x")) is None


def test_a_dot_may_be_compared_with_another_point() -> None:
    grown = FOUND.judge(Dot(2, "two", "x", Check(1.5, "at most", as_of="one")))
    steady = FOUND.judge(Dot(2, "two", "x", Check(2.5, "at most", as_of="one")))
    assert grown is not None
    assert steady is not None
    assert (grown.passed, steady.passed) == (False, True)


@pytest.mark.parametrize(
    ("check", "passes"),
    [
        (Check(1.0), True),
        (Check(1.2), False),
        (Check(0.9, "at least"), True),
        (Check(1.0, "at least"), False),
        (Check(1.1, "at most"), True),
        (Check(1.0, "at most"), False),
        (share(1.0), True),
        (Check(0.95, "always at least"), True),
        (Check(0.96, "always at least"), False),
        (Check(1.05, "always at most"), True),
        (Check(1.04, "always at most"), False),
    ],
)
def test_checks_can_fail(check: Check, passes: bool) -> None:
    assert check.judge([0.95, 1.0, 1.05] * 7).passed is passes


def test_theory_between_dots_is_drawn_where_it_is_an_equality() -> None:
    dots = (Dot(1, "a", "x", Check(3.0)), Dot(2, "b", "x", Check(4.0, "at least")))
    assert Line("line", dots).theory() == ((1, 3.0),)
    exact = curve(lambda x: 2 * x, 1, 10)
    assert Line("line", dots, exact).theory() == exact
    assert exact[0] == (1, 2)
    assert exact[-1] == pytest.approx((10, 20))


def test_nothing_is_no_measure() -> None:
    assert math.isnan(average([]))
    assert measures(a=1.0, b=math.nan, c=math.inf) == {"a": 1.0}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "name"),
    [("e1", "u600"), ("e2", "mmc-0.3"), ("e3", "kinds-1-1"), ("e5", "50-4"), ("e8", "50")],
)
def test_the_product_gives_every_measure(experiment: str, name: str) -> None:
    from simulations.simulate import simulate

    wanted = [dot.measure for dot in dots(experiment, name, SMALL)]
    assert wanted
    chosen = point(name, experiment)
    result = simulate(chosen.scenario, 1)
    assert result.failure is None
    found = chosen.reduce(from_rows(result.metrics), 1)
    assert [measure for measure in wanted if measure not in found] == []
