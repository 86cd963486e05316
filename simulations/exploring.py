"""Looks for what breaks: random scenarios, every invariant checked, what is found made small.

    found = explore(Search(first=1, count=1000, jobs=2))

Each seed is a scenario (`simulations.random_scenarios`) and its chance.  An invariant that does not
hold, or an exception that nobody expected, is a finding; it is repeated with ever less in it
(`simulations.shrinking`) and printed as one line that `sim replay` takes.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from simulations import provenance, random_scenarios, references, shrinking
from simulations.errors import ScenarioError
from simulations.replica import SIMULATE, Task
from simulations.replications import Outcome, perform
from simulations.scenario import Scenario
from simulations.simulate import Failure

BATCH_MAX: Final = 64
"""Seeds handed out at a time. Source: half a minute of two cores; then what was found is shown."""
FINDINGS_MAX: Final = 10
"""After so many an exploration ends. Source: guess; somebody has to look at them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What to look through."""

    first: int = 1
    count: int | None = None
    """`None`: until the time is over."""
    for_s: float | None = None
    """Real seconds; `None`: until all seeds are done."""
    jobs: int = 2
    tries_max: int = shrinking.TRIES_MAX
    """Of making one finding smaller."""
    simulator: str = SIMULATE


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that broke."""

    seed: int
    failure: Failure
    """Of the smaller scenario."""
    scenario: Scenario
    line: str
    """For `sim replay`."""


@dataclass(slots=True, kw_only=True)
class Found:
    """What a search gave."""

    runs: int = 0
    cpu_s: float = 0.0
    virtual_s: float = 0.0
    events: int = 0
    last: int = 0
    """The last seed that was run."""
    findings: list[Finding] = field(default_factory=list)


Tell = Callable[[Found], None]
"""Is told how far a search is, after each batch."""
Show = Callable[[Finding], None]
"""Is given each finding when it is found and made small."""


def explore(search: Search, tell: Tell | None = None, show: Show | None = None) -> Found:
    """Run seed after seed. Raises as `replications.perform` does."""
    ends_at = None if search.for_s is None else time.monotonic() + search.for_s
    found, kinds = Found(last=search.first - 1), dict[str, None]()
    seed = search.first
    end = None if search.count is None else search.first + search.count
    while (end is None or seed < end) and len(found.findings) < FINDINGS_MAX:
        if ends_at is not None and time.monotonic() >= ends_at:
            break
        until = seed + BATCH_MAX if end is None else min(end, seed + BATCH_MAX)
        tasks = [_task(random_scenarios.draw(one), one, search) for one in range(seed, until)]
        for task, outcome in zip(tasks, perform(tasks, jobs=search.jobs), strict=True):
            found.runs += 1
            found.cpu_s += outcome.cpu_s
            found.virtual_s += outcome.virtual_s
            found.events += outcome.events
            if outcome.failure is None or kind_of(outcome.failure) in kinds:
                continue
            kinds[kind_of(outcome.failure)] = None
            found.findings.append(_smaller(task, outcome, search))
            if show is not None:
                show(found.findings[-1])
        seed = until
        found.last = seed - 1
        if tell is not None:
            tell(found)
    return found


def kind_of(failure: Failure) -> str:
    """Return what tells one way to fail from another: its words, numbers and names left out."""
    first = failure.what.splitlines()[0] if failure.what else ""
    return re.sub(r"[0-9a-f]{8,}|[0-9]+(\.[0-9]+)?|'[^']*'", "#", first)


def _task(scenario: Scenario, seed: int, search: Search) -> Task:
    return Task(scenario=scenario, seed=seed, checking=True, simulator=search.simulator)


def _smaller(task: Task, outcome: Outcome, search: Search) -> Finding:
    """Return a finding with as little in it as could be had."""
    assert outcome.failure is not None
    wanted, failure = kind_of(outcome.failure), outcome.failure

    def still_fails(scenario: Scenario) -> bool:
        nonlocal failure
        try:
            (again,) = perform([_task(scenario, task.seed, search)], jobs=1)
        except ScenarioError:
            return False
        if again.failure is None or kind_of(again.failure) != wanted:
            return False
        failure = again.failure
        return True

    small = shrinking.shrink(task.scenario, still_fails, tries_max=search.tries_max)
    source = references.embed(small, ".")
    line = references.line_of(source, task.seed, provenance.commit().name)
    return Finding(seed=task.seed, failure=failure, scenario=small, line=line)
