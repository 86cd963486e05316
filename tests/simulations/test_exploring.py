"""The search for what breaks: with simulators that are quick, and once with the real one."""

import pytest

from simulations import repeating
from simulations.exploring import Finding, Found, Search, explore, kind_of
from simulations.random_scenarios import draw
from simulations.simulate import Failure
from tests.simulations.stand_ins import HERE

BREAKING = f"{HERE}:breaking"
STEADY = f"{HERE}:steady"
FEW = 6
"""In each run of the tests. Source: half a second each."""


def failure(what: str) -> Failure:
    return Failure(at_s=1.0, node="n0", what=what)


def test_failures_are_of_one_kind_whatever_their_numbers_are() -> None:
    one = failure("I2: job 253027808316489984 of node 3 has 2 ends\nmore")
    other = failure("I2: job 4 of node 1 has 7 ends")
    assert kind_of(one) == kind_of(other)
    assert kind_of(one) != kind_of(failure("I3: fence 3 of job 4 was there before"))


@pytest.mark.slow
def test_what_breaks_is_found_once_made_small_and_named_by_a_line_that_repeats_it() -> None:
    told: list[tuple[int, int]] = []

    def tell(found: Found) -> None:
        told.append((found.runs, len(found.findings)))

    search = Search(first=4, count=3, simulator=BREAKING, tries_max=8)
    shown: list[Finding] = []
    found = explore(search, tell, shown.append)
    assert (found.runs, found.last) == (3, 6)
    (finding,) = found.findings  # seeds 4 and 6 break in one way
    assert shown == [finding]
    assert (finding.seed, finding.failure.what) == (4, "I2: job 7 has two ends")
    assert len(finding.scenario.faults) < len(draw(4).faults)
    assert told[-1] == (3, 1)
    line, source = repeating.parse(finding.line)
    assert (line.seed, source.scenario) == (4, finding.scenario)
    again = repeating.repeat(line, source, simulator=BREAKING)
    assert again.outcome.failure is not None


@pytest.mark.slow
def test_where_nothing_breaks_nothing_is_found() -> None:
    found = explore(Search(count=5, simulator=STEADY))
    assert (found.runs, found.findings) == (5, [])
    assert found.events > 0


@pytest.mark.slow
def test_it_ends_when_its_time_is_over() -> None:
    found = explore(Search(for_s=0.0, simulator=STEADY))
    assert found.runs == 0


@pytest.mark.slow
def test_a_few_real_ones_hold() -> None:
    found = explore(Search(first=1, count=FEW))
    assert not found.findings, [finding.line for finding in found.findings]
    assert found.runs == FEW


@pytest.mark.torture
def test_a_thousand_real_ones_hold() -> None:
    found = explore(Search(first=1, count=1000))
    assert not found.findings, [finding.line for finding in found.findings]
