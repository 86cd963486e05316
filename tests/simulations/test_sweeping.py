"""A sweep: each choice of values is a scenario, checked before anything is run."""

from pathlib import Path

import pyarrow.csv
import pyarrow.parquet
import pytest

from simulations import references, sweep_files, sweeping
from simulations.distributions import Exponential
from simulations.errors import ScenarioError
from simulations.scenario import Scenario
from simulations.sweeping import Setting, parse_setting
from tests.simulations import small


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("duration_s=100,200", (100, 200)),
        ("load[0].model=async,sync", ("async", "sync")),
        ("a=true,1.5,null", (True, 1.5, None)),
        ('a={"kind":"exponential","mean":2},3', ({"kind": "exponential", "mean": 2}, 3)),
        ("a=[1,2],[3]", ([1, 2], [3])),
        ('a="x,y",z', ("x,y", "z")),
    ],
)
def test_values_are_parted_by_commas_outside_of_brackets(
    text: str, values: tuple[object, ...]
) -> None:
    assert parse_setting(text) == Setting(text.partition("=")[0], values)


@pytest.mark.parametrize("text", ["", "duration_s", "=1", "duration_s="])
def test_what_is_no_setting_is_refused(text: str) -> None:
    with pytest.raises(ScenarioError, match="PLACE=VALUE"):
        parse_setting(text)


def changed(place: str, value: object) -> Scenario:
    """Return the small scenario with one place set."""
    source = references.embed(small.scenario(), ".")
    (point,) = sweeping.grid(source, [Setting(place, (value,))])
    return point.source.scenario


def test_a_place_is_written_as_in_the_file() -> None:
    assert changed("load[0].arrivals.rate_per_s", 2).load[0].arrivals.rate_per_s == 2
    assert changed("node.drain_s", 1).node == {"drain_s": 1}
    drawn = {"kind": "exponential", "mean": 2}
    assert changed("functions[0].duration_s", drawn).functions[0].duration_s == Exponential(mean=2)
    assert changed("name", "another") == small.scenario(name="another")
    assert changed("link.bandwidth_bytes_per_s", None) == small.scenario()


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        ("loads[0].model", "sync", "no loads there; there is name,"),
        ("load[3].model", "sync", r"no \[3\] there: there are 1"),
        ("load[0].modell", "sync", "no field 'modell'; near it: model"),
        ("load[0].model", "fax", "load.0..model=fax: load.0..model: must be"),
        ("duration_s[0]", 1, "there are none"),
        ("duration_s", float("inf"), "duration_s=Infinity: duration_s: inf is not a number"),
        ("name.x", 1, "nothing is called x there"),
        ("load..x", 1, "is no place"),
    ],
)
def test_a_place_or_value_that_is_none_is_refused(place: str, value: object, says: str) -> None:
    with pytest.raises(ScenarioError, match=says):
        changed(place, value)


def source(tmp_path: Path, at_most: float = 1.0) -> references.Source:
    return references.find(str(small.write(tmp_path, at_most=at_most)))


def test_a_grid_has_every_choice_and_the_last_changes_first(tmp_path: Path) -> None:
    settings = [Setting("duration_s", (50, 100)), Setting("load[0].model", ("async", "sync"))]
    points = sweeping.grid(source(tmp_path), settings)
    assert [point.values for point in points] == [
        (50, "async"),
        (50, "sync"),
        (100, "async"),
        (100, "sync"),
    ]
    assert points[3].source.scenario.load[0].model == "sync"
    assert references.find(points[3].source.reference).scenario == points[3].source.scenario


def test_a_point_that_makes_no_sense_is_told_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"load\[0\].function=none: load\[0\].function"):
        sweeping.grid(source(tmp_path), [Setting("load[0].function", ("short", "none"))])
    many = tuple(range(1, 41))
    with pytest.raises(ScenarioError, match="1600 points; at most 1000"):
        sweeping.grid(source(tmp_path), [Setting("duration_s", many), Setting("drain_s", many)])


@pytest.mark.slow
def test_a_sweep_writes_a_row_and_a_dot_for_each_point(tmp_path: Path) -> None:
    settings = [Setting("duration_s", (50, 100)), Setting("load[0].model", ("async", "sync"))]
    origin = source(tmp_path)
    found = sweeping.sweep(
        origin,
        settings,
        sweeping.grid(origin, settings),
        seed=3,
        replications=2,
        jobs=1,
        simulator=small.stand_in("steady"),
    )
    sweep_files.write(found, tmp_path)
    rows = pyarrow.csv.read_csv(tmp_path / "sweep.csv").to_pylist()
    assert len(rows) == 4 * 3
    sojourn = [row for row in rows if row["metric"] == "job.sojourn_s"]
    assert [(row["duration_s"], row["load[0].model"]) for row in sojourn] == [
        (50, "async"),
        (50, "sync"),
        (100, "async"),
        (100, "sync"),
    ]
    assert all(row["low"] < row["mean"] < row["high"] for row in sojourn)
    # The same seeds at every point: what does not depend on a setting is the same.
    assert sojourn[0]["mean"] == sojourn[1]["mean"] != sojourn[2]["mean"]
    table = pyarrow.parquet.read_table(tmp_path / "metrics.parquet")
    assert set(table["point"].to_pylist()) == {0, 1, 2, 3}
    assert set(table["replication"].to_pylist()) == {0, 1}
    svg = (tmp_path / "plots" / "job.sojourn_s.svg").read_text()
    assert "short, model sync" in svg
    page = (tmp_path / "report.html").read_text()
    assert "--set duration_s=50,100 --set &#x27;load[0].model=async,sync&#x27;" in page
