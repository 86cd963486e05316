"""A page that plays a run again: one file, which a browser opens from disk, without a server.

`simulations/replayer/` is the page.  Opened as it is, it asks for the files of a run;
`write_replay` makes a copy with one run in it: scripts and styles written out, `events.jsonl`
packed.  A browser lets no page from disk read the file beside it, so the run has to be inside.

Nothing of a run is trusted.  The events are base64, what else there is is JSON without a `<`, and
the page's policy lets only the scripts run whose hashes stand in it, and nothing be loaded at all.
A run with more events than `EVENTS_MAX` is thinned out, and the page says so: of messages, records
and requests, of which most runs consist, one of each so many stays, drawn without regard to what
became of it, so that shares are still right; all other events stay until there are too many.
"""

import base64
import gzip
import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any, Final
from zlib import crc32

import msgspec

EVENTS_MAX: Final = 200_000
"""In one page. Source: measured, a page of so many is 4 MB and opens in 2 s."""
LINE_SIZE_MAX_BYTES: Final = 64 * 1024
"""Longer lines are counted as broken. Source: the page's own limit; ours have some 120 bytes."""
BROKEN_MAX: Final = 100
"""Lines that are no events and are kept for the page to show."""
SIDE_FILE_SIZE_MAX_BYTES: Final = 16 * 1024 * 1024
"""Of a topology or a manifest. Source: guess; 10,000 nodes with 60,000 links have 6 MB."""
THINNED: Final = ("message", "record", "request")

_SCRIPT: Final = re.compile(r'<script src="([a-z]+\.js)"></script>')
_STYLE: Final = '<link rel="stylesheet" href="style.css">'
_POLICY: Final = "<!-- policy -->"
_RUN: Final = "<!-- run -->"


class _Head(msgspec.Struct):
    """What is looked at of an event here."""

    kind: str
    at_s: float


class _Plan(msgspec.Struct, frozen=True):
    """Which events of a run stay."""

    events: int
    one_of: int
    others_max: int


def write_replay(directory: Path, *, events_max: int = EVENTS_MAX) -> Path | None:
    """Write `replay.html` into a run directory and return its path; `None` if it has no events.

    Reads `events.jsonl` (or `events.jsonl.gz`), `topology.json` and `manifest.json`; the latter two
    may be missing.  The same files give the same bytes.
    """
    names = ("events.jsonl", "events.jsonl.gz")
    events = next((path for name in names if (path := directory / name).exists()), None)
    if events is None:
        return None
    packed, left_out = _pack(events, events_max)
    about = _read_json(directory / "manifest.json")
    about = about if isinstance(about, dict) else {}
    path = directory / "replay.html"
    path.write_text(
        page(packed, _read_json(directory / "topology.json"), about | {"left_out": left_out}),
        encoding="utf-8",
    )
    return path


def page(events_gz: bytes, topology: Any, about: Any) -> str:
    """Return the whole page: HTML with one run in it."""
    files = resources.files("simulations") / "replayer"
    html = (files / "index.html").read_text(encoding="utf-8")
    style = (files / "style.css").read_text(encoding="utf-8")
    scripts: list[str] = []

    def inline(found: re.Match[str]) -> str:
        scripts.append((files / found[1]).read_text(encoding="utf-8"))
        return f"<script>{scripts[-1]}</script>"

    html = _SCRIPT.sub(inline, html)
    policy = (
        f"default-src 'none'; script-src {' '.join(map(_source, scripts))}; "
        f"style-src {_source(style)}; base-uri 'none'; form-action 'none'"
    )
    html = html.replace(_STYLE, f"<style>{style}</style>")
    html = html.replace(_POLICY, f'<meta http-equiv="Content-Security-Policy" content="{policy}">')
    run = (
        f'<script id="run-about" type="application/json">{_json(about)}</script>\n'
        f'<script id="run-topology" type="application/json">{_json(topology)}</script>\n'
        f'<script id="run-events" type="text/plain">{base64.b64encode(events_gz).decode()}</script>'
    )
    return html.replace(_RUN, run)


def _source(text: str) -> str:
    """Return how a policy names an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _json(value: Any) -> str:
    """Return JSON that can stand inside an element of a page."""
    return msgspec.json.encode(value).decode().replace("<", "\\u003c")


def _read_json(path: Path) -> Any:
    """Return what a file holds, or `None` if that is nothing, no JSON, or too much."""
    try:
        if path.stat().st_size > SIDE_FILE_SIZE_MAX_BYTES:
            return None
        return msgspec.json.decode(path.read_bytes())
    except (FileNotFoundError, msgspec.DecodeError):
        return None


# --- events ----------------------------------------------------------------------------------


def _pack(path: Path, events_max: int) -> tuple[bytes, dict[str, Any]]:
    """Return the events that stay, packed, and what was left out."""
    counts: Counter[str] = Counter()
    for _, head in _lines(path):
        if head is not None:
            counts[head.kind] += 1
    plan = _plan(counts, events_max)
    out = io.BytesIO()
    # Without a time and a name in it, so that the same run gives the same page.
    with gzip.GzipFile("", "wb", 6, out, mtime=0) as packed:
        cut_at_s, broken = _keep(path, plan, packed)
    left_out = {
        "events": plan.events,
        "limit": events_max,
        "one_of": plan.one_of,
        "cut_at_s": cut_at_s,
        "broken": broken,
    }
    return out.getvalue(), left_out


def _plan(counts: Counter[str], events_max: int) -> _Plan:
    """Return which events stay if there is room for `events_max`."""
    events = counts.total()
    thin = sum(counts[kind] for kind in THINNED)
    others = events - thin
    if events <= events_max:
        return _Plan(events, 1, others)
    room = max(events_max - others, events_max // 2)  # Half of it is theirs whatever else there is.
    one_of = -(-thin // room) if thin else 1
    return _Plan(events, max(1, one_of), events_max - min(room, thin))


def _keep(path: Path, plan: _Plan, out: gzip.GzipFile) -> tuple[float | None, int]:
    """Write what stays. Returns the time of the first other event that does not, and how many
    lines that are no events were left out.
    """
    seen: Counter[str] = Counter()
    others = broken = 0
    cut_at_s: float | None = None
    for line, head in _lines(path):
        if head is None:
            broken += 1
            if broken > BROKEN_MAX:
                continue
        elif head.kind in THINNED:
            block, place = divmod(seen[head.kind], plan.one_of)
            seen[head.kind] += 1
            # One of each block, at a place that follows no pattern of the run's own.
            if cut_at_s is not None or place != crc32(b"%d" % block) % plan.one_of:
                continue
        else:
            others += 1
            if others > plan.others_max:
                cut_at_s = head.at_s if cut_at_s is None else cut_at_s
                continue
        out.write(line + b"\n")
    return cut_at_s, max(0, broken - BROKEN_MAX)


def _lines(path: Path) -> Iterator[tuple[bytes, _Head | None]]:
    """Yield each line, and what it says at its head, or `None` if it is no event."""
    decoder = msgspec.json.Decoder(_Head)
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
        while line := lines.readline(LINE_SIZE_MAX_BYTES + 1):
            head: _Head | None = None
            if line.endswith(b"\n") or len(line) <= LINE_SIZE_MAX_BYTES:
                line = line.strip()
                if not line:
                    continue
                with suppress(msgspec.DecodeError):
                    head = decoder.decode(line)
            else:
                while (rest := lines.readline(LINE_SIZE_MAX_BYTES)) and not rest.endswith(b"\n"):
                    pass
            yield line, head
