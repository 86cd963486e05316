"""What was run is kept and not run again; the page says all of it, failures first."""

import re
from pathlib import Path

import msgspec
import pytest

from simulations.evaluation import (
    NoEvaluation,
    Stored,
    evaluate,
    read_manifest,
    read_point,
    seeds,
)
from simulations.evaluation_page import compose, write_page
from simulations.experiments import experiments
from simulations.experiments.experiment import Size

SMALL = Size(3, 0.02)
BARE = "tests.simulations.bare_queue:simulate"
BAD = "tests.simulations.bare_queue:simulate_badly"
KEPT = Path(__file__).parent.parent.parent / "docs" / "evaluation" / "runs"


def run(directory: Path, simulator: str = BARE) -> list[tuple[str, int, int]]:
    told: list[tuple[str, int, int]] = []
    evaluate(
        directory,
        progress=lambda *step: told.append(step),
        size=SMALL,
        names=("e2",),
        simulator=simulator,
    )
    return told


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("evaluation")
    run(directory)
    return directory


def point(directory: Path, name: str) -> Stored:
    (experiment,) = experiments(SMALL, ("e2",))
    chosen = next(each for each in experiment.points if each.name == name)
    return read_point(directory, experiment, chosen)


def test_seeds_differ_between_points_and_are_the_same_each_time() -> None:
    assert seeds("e1", "u10", 3) == seeds("e1", "u10", 5)[:3]
    assert not {*seeds("e1", "u10", 20)} & {*seeds("e1", "u60", 20)}


@pytest.mark.slow
def test_what_was_run_is_kept_with_all_it_takes_to_run_it_again(kept: Path) -> None:
    assert read_manifest(kept).size == SMALL
    stored = point(kept, "mmc-0.5")
    assert [each.seed for each in stored.replications] == seeds("e2", "mmc-0.5", 3)
    assert all(each.measures["sojourn_s"] > 0 for each in stored.replications)
    assert stored.scenario.name == "e2-mmc-0.5"


@pytest.mark.slow
def test_what_is_there_is_not_run_again(kept: Path) -> None:
    (kept / "e2" / "mmc-0.3.json").unlink()
    assert run(kept) == [("e2", 1, 3), ("e2", 2, 3), ("e2", 3, 3)]
    assert run(kept) == []


@pytest.mark.slow
def test_another_scenario_is_not_taken_for_this_one(kept: Path) -> None:
    path = kept / "e2" / "mmc-0.7.json"
    before = path.read_bytes()
    stored = msgspec.json.decode(before, type=Stored)
    other = msgspec.structs.replace(stored.scenario, duration_s=1.0)
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(stored, scenario=other)))
    with pytest.raises(NoEvaluation, match="another scenario"):
        point(kept, "mmc-0.7")
    path.write_bytes(before)


def test_a_directory_without_one_is_said(tmp_path: Path) -> None:
    with pytest.raises(NoEvaluation, match=r"manifest\.json"):
        compose(tmp_path)


@pytest.mark.slow
def test_a_page_says_what_was_found_and_what_was_not_run(kept: Path) -> None:
    page = compose(kept, ("e1", "e2"))
    summary, text = page.summary, page.text
    assert not summary.passed
    assert f"**{summary.verdicts - summary.failed} of {summary.verdicts} verdicts pass" in text
    assert "| time in the node | 0.5 | " in text
    assert "`u10` was not run" in text
    assert "Nothing was measured." in text
    assert compose(kept, ("e1", "e2")).text == text, "a function of what was kept"


@pytest.mark.slow
def test_every_picture_of_the_page_is_there_and_no_other(kept: Path, tmp_path: Path) -> None:
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "old.svg").write_text("of another day")
    write_page(kept, tmp_path, ("e2",))
    text = (tmp_path / "evaluation.md").read_text("utf-8")
    pictures = sorted(path.name for path in (tmp_path / "evaluation").iterdir())
    assert pictures == sorted(re.findall(r"\(evaluation/(.*\.svg)\)", text))
    assert len(pictures) > 4
    drawn = (tmp_path / "evaluation" / "e2-mmc.svg").read_text("utf-8")
    assert "M/M/4" in drawn
    assert "date" not in drawn.lower()


@pytest.mark.slow
def test_a_broken_invariant_is_kept_and_said(tmp_path: Path) -> None:
    run(tmp_path, BAD)
    broken = [each for each in point(tmp_path, "mmc-0.5").replications if each.failure]
    assert broken
    assert broken[0].measures == {}
    text = compose(tmp_path, ("e2",)).text
    assert f"`mmc-0.5`, seed {broken[0].seed}: two and two are five (1.500 s, 0)" in text


@pytest.mark.slow
def test_what_cannot_be_run_is_said(tmp_path: Path) -> None:
    run(tmp_path, "tests.simulations.bare_queue:there_is_no_such_thing")
    assert "there_is_no_such_thing" in point(tmp_path, "mmc-0.5").error
    text = compose(tmp_path, ("e2",)).text
    assert "`mmc-0.5` could not be run: " in text


@pytest.mark.slow
def test_the_page_in_the_documents_is_made_of_what_is_kept_there() -> None:
    """`python -m simulations evaluate --out docs/evaluation/runs --docs docs` makes both anew."""
    written = KEPT.parent.parent / "evaluation.md"
    assert compose(KEPT).text == written.read_text("utf-8")
