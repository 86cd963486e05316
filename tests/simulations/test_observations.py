"""Observations in columns are the rows they were made of."""

from pathlib import Path

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
from hypothesis import given, settings, strategies as st

from simulations import observations
from simulations.metrics import Metrics, Observation

texts = st.sampled_from(["", "a", "b", "job.sojourn_s", "ü,\n\"'"])
numbers = st.floats(allow_nan=False)
rows = st.lists(st.builds(Observation, texts, numbers, numbers, texts, texts), max_size=50)


@settings(deadline=None)
@given(rows)
def test_rows_come_back_as_they_were(given: list[Observation]) -> None:
    assert list(observations.from_rows(given)) == given


@settings(deadline=None)
@given(rows, texts, st.none() | texts, numbers)
def test_a_selection_is_that_of_the_rows(
    given: list[Observation], metric: str, label: str | None, since_s: float
) -> None:
    metrics = Metrics()
    for row in given:
        metrics.observe(row.metric, row.at_s, row.value, node=row.node, label=row.label)
    columns = observations.from_rows(given)
    expected = metrics.values(metric, label=label, since_s=since_s)
    assert columns.values(metric, label=label, since_s=since_s).tolist() == expected
    assert columns.names() == metrics.names()
    at_s, values = columns.series(metric, label=label, since_s=since_s)
    assert values.tolist() == expected
    assert len(at_s) == len(values)


@settings(deadline=None)
@given(rows, rows)
def test_the_hash_of_observations_is_that_of_their_rows(
    one: list[Observation], other: list[Observation]
) -> None:
    same = [str(row) for row in one] == [str(row) for row in other]  # -0.0 is not 0.0 here
    digests = [observations.from_rows(each).digest() for each in (one, other)]
    assert (digests[0] == digests[1]) is same
    assert observations.from_rows(one).digest() == digests[0]


def test_labels_are_those_of_one_metric() -> None:
    columns = observations.from_rows(
        [
            Observation("a", 1.0, 1.0, label="x"),
            Observation("b", 1.0, 1.0, label="y"),
            Observation("a", 2.0, 1.0, label="z"),
        ]
    )
    assert columns.labels("a") == ["x", "z"]
    assert columns.labels("c") == []


@settings(deadline=None)
@given(rows)
def test_what_is_written_for_another_process_is_read_there(given: list[Observation]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "rows"
        observations.write(observations.from_rows(given), path)
        assert list(observations.read(path)) == given


def test_csv_and_parquet_hold_every_row_of_every_run_with_its_number(tmp_path: Path) -> None:
    one = observations.from_rows([Observation("a", 1.0, 0.1, "n0", "x")])
    two = observations.from_rows([Observation("b", 2.0, 1e300, "", 'ü, "')])
    none = observations.from_rows([])
    numbered = [({"replication": i}, run) for i, run in enumerate((one, none, two))]
    observations.write_files(numbered, tmp_path / "metrics")
    expected = [
        {"metric": "a", "at_s": 1.0, "value": 0.1, "node": "n0", "label": "x", "replication": 0},
        {"metric": "b", "at_s": 2.0, "value": 1e300, "node": "", "label": 'ü, "', "replication": 2},
    ]
    assert pyarrow.parquet.read_table(tmp_path / "metrics.parquet").to_pylist() == expected
    assert pyarrow.csv.read_csv(tmp_path / "metrics.csv").to_pylist() == expected


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_where_nothing_can_be_written_the_system_says_why() -> None:
    many = observations.from_rows([Observation("a", 1.0, 1.0)] * 100_000)
    with pytest.raises(OSError, match="No space") as caught:
        observations.write(many, Path("/dev/full"))
    assert caught.value.errno == 28


def test_a_million_rows_are_selected_in_no_time() -> None:
    at_s = np.arange(1000.0)
    columns = observations.from_rows(Observation("a", t, t, label="x") for t in at_s)
    assert columns.values("a", label="x", since_s=500.0).sum() == at_s[500:].sum()
