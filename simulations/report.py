"""One page about a run that needs no other file: open it, send it, print it.

It asks nothing of the network, and follows the reader's light or dark.  Pictures are the SVG files
with their colours made variables of the page, so that they follow, too.
"""

import re
import shlex
from collections.abc import Sequence
from html import escape
from string import Template
from typing import TYPE_CHECKING, Final

from simulations import plots, provenance, summaries
from simulations.conditions import Verdict
from simulations.metrics import METRICS
from simulations.observations import is_same
from simulations.statistics import Interval

if TYPE_CHECKING:
    from simulations.runs import Run

DARK: Final = {
    plots.INK: "#e4e4e4",
    plots.FAINT: "#8f8f8f",
    plots.PAPER: "#1b1b1d",
    plots.GRID: "#3a3a3d",
    plots.COLOURS[0]: "#4fa8dd",
    plots.COLOURS[1]: "#f0803c",
    plots.COLOURS[2]: "#2cc295",
    plots.COLOURS[3]: "#dd9cc0",
    plots.COLOURS[4]: "#f0b429",
    plots.COLOURS[5]: "#8cccf2",
    plots.COLOURS[6]: "#b08ad0",
    plots.COLOURS[7]: "#a8a8a8",
    plots.PASSED: "#3ecb96",
    plots.FAILED: "#ff7b72",
}
"""What each colour of a picture becomes on dark paper."""

PAGE: Final = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
:root { $light }
@media (prefers-color-scheme: dark) { :root { $dark } }
@media print { :root { $light } }
body { background: var(--paper); color: var(--ink); margin: 2rem auto; max-width: 60rem;
  padding: 0 1rem; font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
p { max-width: 44rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .8rem .25rem 0; text-align: left; border-bottom: 1px solid var(--grid);
  white-space: nowrap; }
td.words { white-space: normal; min-width: 14rem; }
th { font-weight: 600; }
td.number, th.number { text-align: right; }
.pass { color: var(--pass); font-weight: 600; }
.fail { color: var(--fail); font-weight: 600; }
.faint { color: var(--faint); }
pre, code { font: 13px/1.45 ui-monospace, monospace; }
pre { background: var(--grid); padding: .7rem .9rem; border-radius: 4px; overflow-x: auto; }
figure { margin: 1.2rem 0; }
figcaption { color: var(--faint); margin: -.3rem 0 0 .3rem; }
figure svg { max-width: 100%; height: auto; }
</style>
</head>
<body>
$body
</body>
</html>
""")


def of_run(run: "Run", drawn: Sequence[tuple[str, str]], *, has_replay: bool = False) -> str:
    """Return the page of a run; `drawn` are its pictures, each a name and an SVG."""
    scenario = run.scenario
    parts = [_head(run), _conditions(run.verdicts), _failures(run)]
    if has_replay:
        parts.append('<p><a href="replay.html">Watch the first replication</a></p>')
    pictures = [picture(svg, name) for name, svg in drawn]
    parts += [_measured(run), section("Pictures", *pictures, _same(run))]
    parts += [_replications(run), _again(run)]
    parts.append(section("Scenario", f"<pre>{escape(run.request.source.text)}</pre>"))
    return page(scenario.name, parts)


def page(title: str, parts: Sequence[str]) -> str:
    """Return a whole page of parts that are HTML already."""
    body = "\n".join(part for part in parts if part)
    return PAGE.substitute(
        title=escape(title), body=body, light=_variables(dark=False), dark=_variables(dark=True)
    )


def section(title: str, *parts: str) -> str:
    """Return a headline and what stands below it, or nothing if nothing does."""
    return "\n".join([f"<h2>{escape(title)}</h2>", *parts]) if any(parts) else ""


def table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], words: Sequence[str] = ()
) -> str:
    """Return a table without its empty columns; numbers stand to the right, `words` are wide."""
    filled = [i for i in range(len(columns)) if any(row[i] not in (None, "") for row in rows)]
    classes = {i: "number" for i in filled if all(_is_number(row[i]) for row in rows)}
    classes |= {i: "words" for i in filled if columns[i] in words}
    heads = "".join(f"<th{_class(classes.get(i))}>{escape(columns[i])}</th>" for i in filled)
    lines = ['<div class="scroll"><table>', f"<tr>{heads}</tr>"]
    for row in rows:
        cells = "".join(f"<td{_class(classes.get(i))}>{cell(row[i])}</td>" for i in filled)
        lines.append(f"<tr>{cells}</tr>")
    return "\n".join([*lines, "</table></div>"])


def cell(value: object) -> str:
    """Return a value as HTML: truth as pass or fail, numbers short, intervals as a range."""
    match value:
        case None:
            return ""
        case bool():
            word = "pass" if value else "fail"
            return f'<span class="{word}">{word}</span>'
        case float():
            return number(value)
        case Interval():
            return range_of(value)
        case _:
            return escape(str(value))


def number(value: float) -> str:
    """Return a number with what digits say something."""
    if abs(value) < 1e6 and value == int(value):
        return str(int(value))
    return f"{value:.4g}"


def range_of(interval: Interval | None) -> str:
    """Return an interval in words: `0.1 to 0.3`."""
    if interval is None:
        return ""
    return f"{number(interval.low)} to {number(interval.high)}"


def picture(svg: str, name: str) -> str:
    """Return an SVG file of `plots.save` as a figure of the page, with what its metric is."""
    inner = svg[svg.index("<svg") :]
    inner = re.sub(r"<metadata>.*?</metadata>", "", inner, flags=re.DOTALL)
    prefix = re.sub(r"\W", "-", name)
    inner = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', inner)
    inner = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", inner)
    inner = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', inner)
    for colour, variable in _names().items():
        inner = inner.replace(colour, f"var(--{variable})")
    inner = inner.replace("<svg", f'<svg role="img" aria-label="{escape(name)}"', 1)
    said = f"<figcaption>{escape(METRICS[name])}</figcaption>" if name in METRICS else ""
    return f"<figure>{inner}{said}</figure>"


def _head(run: "Run") -> str:
    scenario, done = run.scenario, len(run.outcomes)
    verdict = (
        '<span class="pass">passed</span>' if run.passed else '<span class="fail">failed</span>'
    )
    if not run.verdicts and run.passed:
        verdict = "no conditions"
    said = f"<p>{escape(scenario.summary)}</p>" if scenario.summary else ""
    many = f"{done} replication{'' if done == 1 else 's'}"
    return (
        f"<h1>{escape(scenario.name)}</h1>\n{said}\n<p>{verdict} · {escape(scenario.driver)} · "
        f"{many} of {number(scenario.duration_s + scenario.drain_s)} virtual seconds, "
        f"seed {run.request.seed}</p>"
    )


def _conditions(verdicts: Sequence[Verdict]) -> str:
    rows = [
        (
            verdict.name,
            verdict.passed,
            verdict.value,
            range_of(verdict.interval),
            "; ".join(
                [
                    *([] if verdict.passed else [verdict.why]),
                    *([] if verdict.sure else ["not sure: the interval reaches the limit"]),
                ]
            ),
        )
        for verdict in verdicts
    ]
    columns = ("condition", "verdict", "value", "99 % interval", "why")
    return section("Conditions", table(columns, rows, ("why",))) if rows else ""


def _failures(run: "Run") -> str:
    parts = []
    for outcome in run.failures:
        failure = outcome.failure
        assert failure is not None
        line = run.line(outcome.seed)
        parts.append(
            f'<p class="fail">{escape(failure.what)}</p><p>at {failure.at_s:g} s'
            f"{', node ' + escape(failure.node) if failure.node else ''}; this repeats it:</p>"
            f"<pre>peernode sim replay {escape(shlex.quote(line))}</pre>"
            + (f"<pre>{escape(failure.traceback)}</pre>" if failure.traceback else "")
        )
    return section("An invariant did not hold", *parts)


def _measured(run: "Run") -> str:
    rows = [
        (
            row.metric,
            row.label,
            row.count,
            row.mean,
            range_of(row.interval),
            row.p50,
            row.p95,
            row.p99,
            row.greatest,
        )
        for row in summaries.summarize(run.observations, run.scenario.warm_up_s)
    ]
    columns = ("metric", "label", "count", "mean", "99 % interval", "p50", "p95", "p99", "max")
    alone = " One replication has no interval; twenty have a narrow one."
    note = (
        '<p class="faint">The unit is the last part of a name. Count is of one replication, '
        "quantiles are of all together; the interval is of the mean, over replications."
        f"{alone if len(run.outcomes) == 1 else ''}</p>"
    )
    return section("Measured", table(columns, rows), note) if rows else ""


def _same(run: "Run") -> str:
    """Return what has no picture, since it was one number throughout."""
    rows = summaries.summarize(run.observations)
    least: dict[str, list[float]] = {}
    for row in rows:
        least.setdefault(row.metric, []).extend([row.least, row.greatest])
    same = [f"{metric} {number(values[0])}" for metric, values in least.items() if is_same(values)]
    if not same:
        return ""
    return f'<p class="faint">The same throughout: {escape(", ".join(same))}.</p>'


def _replications(run: "Run") -> str:
    rows = [
        (
            outcome.seed,
            outcome.trace_hash[:16],
            outcome.events,
            outcome.virtual_s,
            round(outcome.cpu_s, 2),
            outcome.memory_peak_bytes / 1e6,
        )
        for outcome in run.outcomes
    ]
    columns = ("seed", "trace hash", "events", "virtual time (s)", "CPU (s)", "memory (MB)")
    return section("Replications", table(columns, rows))


def _again(run: "Run") -> str:
    request = run.request
    first = run.outcomes[0]
    command = (
        f"peernode sim run {request.source.reference} --seed {request.seed} "
        f"--replications {request.replications}"
    )
    versions = ", ".join(f"{name} {text}" for name, text in provenance.versions().items() if text)
    commit = f"commit {run.commit}" if run.commit.name else "no commit known"
    return section(
        "To make it again",
        f"<pre>{escape(command)}</pre>",
        f"<p>The first replication then has the trace hash <code>{first.trace_hash}</code>: "
        "the same scenario, seed and code give the same events, in the same order.</p>",
        f'<p class="faint">{escape(commit)}; {escape(versions)}</p>',
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | None) and not isinstance(value, bool)


def _class(name: str | None) -> str:
    return f' class="{name}"' if name else ""


def _names() -> dict[str, str]:
    """Return the name of the page's variable for each colour of a picture."""
    named = {
        plots.INK: "ink",
        plots.FAINT: "faint",
        plots.PAPER: "paper",
        plots.GRID: "grid",
        plots.PASSED: "pass",
        plots.FAILED: "fail",
    }
    return named | {colour: f"series-{i}" for i, colour in enumerate(plots.COLOURS)}


def _variables(*, dark: bool) -> str:
    return " ".join(
        f"--{name}: {DARK[colour] if dark else colour};" for colour, name in _names().items()
    )
