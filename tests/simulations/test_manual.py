"""The manual: its tables are those of the code, its scenario runs as it is printed."""

import re
from pathlib import Path

import pytest

from simulations import conditions, loading, manual
from simulations.simulate import simulate

PAGE = Path(__file__).parents[2] / "docs/simulation.md"


def test_the_tables_of_the_page_are_those_of_the_code() -> None:
    """If it fails: python -m simulations.manual docs/simulation.md"""
    page = PAGE.read_text("utf-8")
    assert manual.renewed(page) == page


def test_a_page_without_its_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="the page needs"):
        manual.renewed("no marks")


def test_every_field_of_a_scenario_is_in_the_manual() -> None:
    made = manual.tables()
    for field in (
        "`rate_per_s`",
        "`drift_ppm`",
        "`bandwidth_bytes_per_s`",
        "`pass`",
        "`share_long`",
    ):
        assert f"\n| {field} |" in made
    for kind in ("ring", "poisson", "byzantine", "pareto", "azure"):
        assert f'**`kind = "{kind}"`**: ' in made


def newcomers_scenario() -> str:
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    return str(text)


@pytest.mark.slow
def test_the_scenario_that_a_newcomer_writes_passes_as_the_page_says() -> None:
    scenario = loading.parse(newcomers_scenario(), "my-first.toml")
    result = simulate(scenario, 1)
    assert result.failure is None
    verdicts = conditions.judge(scenario, [result.metrics])
    assert [verdict.passed for verdict in verdicts] == [True, True]


@pytest.mark.torture
def test_the_changes_that_the_page_proposes_do_what_it_says() -> None:
    text = newcomers_scenario()
    everywhere = loading.parse(text.replace("nodes = [1, 2]", "nodes = [0, 1, 2, 3, 4]"))
    verdicts = conditions.judge(everywhere, [simulate(everywhere, 1).metrics])
    assert [verdict.passed for verdict in verdicts] == [True, True]
    longer = loading.parse(
        text.replace('duration_s = { kind = "exponential", mean = 0.5 }', "duration_s = 5")
    )
    verdicts = conditions.judge(longer, [simulate(longer, 1).metrics])
    assert not verdicts[1].passed


def test_the_error_that_the_page_shows_is_the_one_there_is() -> None:
    wrong = newcomers_scenario().replace('function = "resize"', 'function = "rezise"')
    with pytest.raises(loading.ScenarioError) as caught:
        loading.parse(wrong, "my-first.toml")
    assert f"```\n{caught.value}\n```" in PAGE.read_text("utf-8")
