"""The gallery: every scenario loads, has its page, and teaches what it says."""

import random
from pathlib import Path

import pytest

from simulations import gallery_pages, loading
from simulations.conditions import judge, name_of
from simulations.faults import Fault
from simulations.loading import gallery, load
from simulations.metrics import METRICS
from simulations.observations import from_rows
from simulations.scenario import Arrivals, Topology
from simulations.simulate import Options, simulate
from simulations.topology import build, count_nodes
from tests.simulations.make_trace import text

DOCS = Path(__file__).parents[2] / "docs/gallery"
NAMES = sorted(gallery())


@pytest.mark.parametrize("name", NAMES)
def test_a_scenario_is_named_as_its_file_and_says_what_it_is(name: str) -> None:
    path = gallery()[name]
    scenario = load(path)
    assert scenario.name == name
    assert 20 < len(scenario.summary) < 100
    assert scenario.passes
    assert path.read_text("utf-8").startswith("# ")
    graph = build(scenario.topology, scenario.link, random.Random(1), path.parent)
    assert graph.size == count_nodes(scenario.topology, path.parent)


@pytest.mark.parametrize("name", NAMES)
def test_a_scenario_has_its_page_with_its_conditions(name: str) -> None:
    page = (DOCS / f"{name}.md").read_text("utf-8")
    assert page.startswith(f"# {name}\n")
    for heading in ("The set-up", "What to look at", "What theory says", "What was seen"):
        assert f"\n## {heading}\n" in page
    shown = gallery_pages.wanted(page)
    assert all(metric in METRICS for metric, _ in shown)
    for condition in load(gallery()[name]).passes:
        assert f"| {name_of(condition)} |" in page  # else: python -m simulations.gallery_pages
    assert "**no**" not in page


def test_every_page_is_of_a_scenario_and_the_list_has_all() -> None:
    assert sorted(path.stem for path in DOCS.glob("*.md") if path.stem != "README") == NAMES
    readme = (DOCS / "README.md").read_text("utf-8")
    assert gallery_pages.renewed_index(readme) == readme


def test_every_kind_of_network_fault_and_arrival_is_shown_somewhere() -> None:
    scenarios = [load(path) for path in gallery().values()]
    faults = {type(fault) for scenario in scenarios for fault in scenario.faults}
    assert faults == set(Fault.__args__)
    topologies = {type(scenario.topology) for scenario in scenarios}
    assert topologies == set(Topology.__args__)
    arrivals = {
        type(part.arrivals)
        for scenario in scenarios
        for part in (*scenario.load, *scenario.updates)
    }
    assert arrivals == set(Arrivals.__args__)
    assert {load.model for scenario in scenarios for load in scenario.load} == {
        "async",
        "sync",
        "sync-retry",
        "sync-resume",
    }


def test_the_made_up_trace_is_what_its_program_makes() -> None:
    assert (loading.GALLERY / "azure-day.csv").read_text("utf-8") == text()


@pytest.mark.torture
def test_a_page_is_made_anew_of_runs() -> None:
    path = gallery()["first-steps"]
    scenario, page = load(path), (DOCS / "first-steps.md").read_text("utf-8")
    result = simulate(scenario, 1, Options(directory=str(path.parent)))
    made = gallery_pages.seen(scenario, [from_rows(result.metrics)], page)
    assert "| job.succeeded mean ≥ 1 | 1 | yes |" in made
    assert "| `job.wait_s` | hello | mean | 0.00" in made
    assert gallery_pages.wanted(made) == gallery_pages.wanted(page)


@pytest.mark.torture
@pytest.mark.parametrize("name", NAMES)
def test_a_scenario_passes_and_repeats(name: str) -> None:
    path = gallery()[name]
    scenario, options = load(path), Options(directory=str(path.parent), checking=True)
    first, second = simulate(scenario, 1, options), simulate(scenario, 1, options)
    assert first.failure is None
    assert first.trace_hash == second.trace_hash
    for verdict in judge(scenario, [from_rows(first.metrics)]):
        assert verdict.passed, f"{verdict.name}: {verdict.why}"
