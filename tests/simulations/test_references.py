"""How a run is named: what is found by a name is what was meant."""

import shlex
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from simulations import loading, references
from simulations.errors import ScenarioError
from simulations.references import Line
from tests.simulations import small


def test_a_file_and_a_name_of_the_gallery_are_found(tmp_path: Path) -> None:
    path = small.write(tmp_path)
    source = references.find(str(path))
    assert source.scenario == small.scenario()
    assert source.text == path.read_text()
    assert source.directory == str(tmp_path)
    assert references.find("first-steps").scenario.name == "first-steps"


@pytest.mark.parametrize("name", sorted(loading.gallery()))
def test_every_scenario_of_the_gallery_survives_being_embedded(name: str) -> None:
    source = references.find(name)
    embedded = references.embed(source.scenario, source.directory)
    again = references.find(embedded.reference, source.directory)
    assert again.scenario == source.scenario
    assert again.digest == source.digest


def test_a_name_that_is_none_says_what_is_near_it() -> None:
    with pytest.raises(ScenarioError, match=r"'first-step'; near it: first-steps"):
        references.find("first-step")


def test_a_file_that_is_not_there_and_a_directory_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="is not there"):
        references.find(str(tmp_path / "none.toml"))
    with pytest.raises(ScenarioError, match="is a directory"):
        references.find(str(tmp_path))


def test_comments_and_spelling_make_no_other_digest(tmp_path: Path) -> None:
    path = small.write(tmp_path)
    before = references.find(str(path)).digest
    path.write_text("# a comment\n" + small.TEXT.replace("duration_s = 100", "duration_s = 1e2"))
    assert references.find(str(path)).digest == before
    path.write_text(small.TEXT.replace("duration_s = 100", "duration_s = 101"))
    assert references.find(str(path)).digest != before


@settings(deadline=None)
@given(
    st.text(st.characters(codec="utf-8", exclude_categories=("C",)), min_size=1),
    st.integers(0, 1 << 60),
    st.sampled_from(["", "22ce3405a1b2c3d4"]),
)
def test_a_line_is_read_as_it_was_written(reference: str, seed: int, commit: str) -> None:
    source = references.Source(
        reference=reference, scenario=small.scenario(), text="", directory="."
    )
    line = references.line_of(source, seed, commit)
    assert references.parse_line(line) == Line(
        reference=reference, seed=seed, scenario=source.digest, commit=commit[:8]
    )
    assert shlex.split(shlex.quote(line)) == [line]


def test_an_embedded_scenario_with_files_says_where_they_are(tmp_path: Path) -> None:
    source = references.find("campus")
    embedded = references.embed(source.scenario, source.directory)
    line = references.parse_line(references.line_of(embedded, 1, ""))
    assert line.directory == source.directory
    assert references.find(line.reference, line.directory).scenario == source.scenario


@pytest.mark.parametrize(
    "text",
    ["", "two-cities", "two-cities seed=x", "two-cities seed=1 colour=red", "a b seed=1", "'"],
)
def test_what_is_no_line_is_refused(text: str) -> None:
    with pytest.raises(ScenarioError, match="is not `SCENARIO seed=N"):
        references.parse_line(text)


@settings(deadline=None)
@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda data: data.hex()))
def test_no_rubbish_is_taken_for_an_embedded_scenario(rubbish: str) -> None:
    with pytest.raises(ScenarioError, match="embedded:"):
        references.find(references.EMBEDDED + rubbish)


def test_an_embedded_scenario_does_not_unpack_into_gigabytes() -> None:
    import base64
    import zlib

    bomb = base64.urlsafe_b64encode(zlib.compress(b"[" * (1 << 24))).decode()
    with pytest.raises(ScenarioError, match="longer than"):
        references.find(references.EMBEDDED + bomb)


def test_half_an_embedded_scenario_is_refused() -> None:
    whole = references.embed(small.scenario(), ".").reference
    with pytest.raises(ScenarioError, match="embedded:"):
        references.find(whole[: len(whole) // 2])
