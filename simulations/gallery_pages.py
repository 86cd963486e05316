"""What docs/gallery says was seen, made of runs, so that nobody types a number.

    python -m simulations.gallery_pages docs/gallery [NAME...]

runs each scenario with a few seeds and writes the table of its page anew, between two marks.  The
first mark says what the table shows beside the scenario's conditions:

    <!-- seen: job.result_s mean p95; queue.length max -->

A metric is shown for each of its labels.  docs/gallery/README.md is made of the scenarios alone.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, get_args

from simulations.conditions import Statistic, estimate, judge, name_of
from simulations.loading import gallery, load
from simulations.observations import Observations, from_rows
from simulations.scenario import Scenario
from simulations.simulate import Options, simulate
from simulations.topology import count_nodes

SEEDS: Final = (1, 2, 3)
BEGIN: Final = re.compile(r"<!-- seen:(.*?)-->\n")
END: Final = "<!-- end of what was seen -->"
INDEX_BEGIN: Final = "<!-- made by simulations.gallery_pages: -->"
INDEX_END: Final = "<!-- end of what is made -->"


def wanted(page: str) -> list[tuple[str, list[Statistic]]]:
    """Return the metrics that a page shows, each with its statistics. Raises `ValueError`."""
    mark = BEGIN.search(page)
    if mark is None or END not in page:
        raise ValueError(f"the page needs <!-- seen: --> and {END}")
    found: list[tuple[str, list[Statistic]]] = []
    for part in filter(None, (part.split() for part in mark.group(1).split(";"))):
        statistics: list[Statistic] = []
        for word in part[1:]:
            known = [name for name in get_args(Statistic) if name == word]
            if not known:
                raise ValueError(f"no statistic: {word}")
            statistics += known
        found.append((part[0], statistics))
    return found


def seen(scenario: Scenario, runs: Sequence[Observations], page: str) -> str:
    """Return a page with its table made anew of these runs."""
    lines = ["| condition | seen | holds |", "|---|---|---|"]
    for verdict in judge(scenario, runs):
        value = "nothing" if verdict.value is None else f"{verdict.value:.4g}"
        lines.append(f"| {name_of(verdict.condition)} | {value} | {_word(verdict.passed)} |")
    shown = [
        row
        for metric, statistics in wanted(page)
        for row in _rows(scenario, runs, metric, statistics)
    ]
    if shown:
        lines += ["", "| metric | label | statistic | seen |", "|---|---|---|---|", *shown]
    many = f"{len(runs)} runs" if len(runs) > 1 else "One run"
    table = "\n".join([f"{many}, all values together:", "", *lines])
    before, mark, after = _parts(page)
    return f"{before}{mark}\n{table}\n\n{END}{after}"


def index() -> str:
    """Return the list of all scenarios, as Markdown."""
    lines = ["| scenario | | driver | nodes |", "|---|---|---|---|"]
    for name, path in gallery().items():
        scenario = load(path)
        nodes = count_nodes(scenario.topology, path.parent)
        lines.append(f"| [{name}]({name}.md) | {scenario.summary} | {scenario.driver} | {nodes} |")
    return "\n".join(lines)


def renewed_index(page: str) -> str:
    """Return the page of the list with its list made anew. Raises `ValueError`."""
    before, begin, rest = page.partition(INDEX_BEGIN)
    _, end, after = rest.partition(INDEX_END)
    if not begin or not end:
        raise ValueError(f"the page needs {INDEX_BEGIN} and {INDEX_END}")
    return f"{before}{begin}\n\n{index()}\n\n{end}{after}"


def _rows(
    scenario: Scenario, runs: Sequence[Observations], metric: str, statistics: Sequence[Statistic]
) -> list[str]:
    labels = dict.fromkeys(row.label for run in runs for row in run if row.metric == metric)
    rows = []
    for label in labels:
        for statistic in statistics:
            value, _ = estimate(metric, statistic, runs, label=label, since_s=scenario.warm_up_s)
            if value is not None:
                rows.append(f"| `{metric}` | {label} | {statistic} | {value:.4g} |")
    return rows


def _parts(page: str) -> tuple[str, str, str]:
    mark = BEGIN.search(page)
    assert mark is not None
    return page[: mark.start()], mark.group(), page[page.index(END) + len(END) :]


def _word(passed: bool) -> str:
    return "yes" if passed else "**no**"


def main(directory: Path, names: Sequence[str], seeds: Sequence[int] = SEEDS) -> None:
    """Make the pages of these scenarios anew, of all if none is named, and the list."""
    for name, path in gallery().items():
        if names and name not in names:
            continue
        scenario, page = load(path), directory / f"{name}.md"
        options = Options(directory=str(path.parent))
        runs = [from_rows(simulate(scenario, seed, options).metrics) for seed in seeds]
        page.write_text(seen(scenario, runs, page.read_text("utf-8")), "utf-8")
    readme = directory / "README.md"
    readme.write_text(renewed_index(readme.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
