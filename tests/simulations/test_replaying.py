"""The page of a run, as a file: what is in it, what is left out, and that nothing gets out."""

import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from simulations.replaying import LINE_SIZE_MAX_BYTES, write_replay
from tests.simulations.made_runs import write_run


def event(at_s: float, kind: str = "message", **more: object) -> str:
    return json.dumps({"at_s": at_s, "kind": kind, **more})


def directory(place: Path, *lines: str) -> Path:
    (place / "events.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return place


def embedded(html: str, id: str) -> str:
    found = re.findall(rf'<script id="run-{id}" type="[a-z/]+">([^<]*)</script>', html)
    assert len(found) == 1
    return str(found[0])


def written(place: Path, **more: Any) -> tuple[list[str], dict[str, Any]]:
    """Return the events of the page of a run directory, and what was left out."""
    path = write_replay(place, **more)
    assert path is not None
    html = path.read_text()
    events = gzip.decompress(base64.b64decode(embedded(html, "events"))).decode()
    return events.splitlines(), json.loads(embedded(html, "about"))["left_out"]


def test_a_page_has_the_whole_run_in_it(tmp_path: Path) -> None:
    place = write_run(tmp_path, nodes=5, duration_s=5)
    events, left_out = written(place)
    assert events == (place / "events.jsonl").read_text().splitlines()
    assert left_out["one_of"] == 1
    assert left_out["cut_at_s"] is None
    html = (place / "replay.html").read_text()
    assert json.loads(embedded(html, "topology")) == json.loads(
        (place / "topology.json").read_text()
    )
    assert json.loads(embedded(html, "about"))["name"] == "two-cities"


def test_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    pages = []
    for name in ("one", "other"):
        path = write_replay(write_run(tmp_path / name, nodes=4, duration_s=3))
        assert path is not None
        pages.append(path.read_bytes())
    assert pages[0] == pages[1]


def test_a_page_loads_nothing_and_lets_nothing_else_run(tmp_path: Path) -> None:
    path = write_replay(write_run(tmp_path, nodes=4, duration_s=3))
    assert path is not None
    html = path.read_text()
    assert "src=" not in html
    assert "href=" not in html
    assert "<!-- policy -->" not in html
    assert "default-src 'none'" in html
    scripts = re.findall(r"<script>", html)
    assert len(re.findall(r"script-src((?: 'sha256-[^']+')+);", html)[0].split()) == len(scripts)


def test_words_of_a_run_cannot_leave_their_place(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><!--"
    place = directory(tmp_path, event(0, "node", node=evil, state=evil))
    (place / "topology.json").write_text(json.dumps({"nodes": [{"name": evil}], "links": []}))
    (place / "manifest.json").write_text(json.dumps({"name": evil, "left_out": evil}))
    events, left_out = written(place)
    assert json.loads(events[0])["node"] == evil
    assert left_out["events"] == 1
    html = (place / "replay.html").read_text()
    assert "alert(1)" in html
    assert evil not in html
    assert "<script>alert" not in html


def test_a_run_without_events_has_no_page(tmp_path: Path) -> None:
    assert write_replay(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [None, "", "{", "[]", '"x"'])
def test_topology_and_manifest_may_be_missing_or_broken(
    tmp_path: Path, content: str | None
) -> None:
    place = directory(tmp_path, event(0))
    if content is not None:
        for name in ("topology.json", "manifest.json"):
            (place / name).write_text(content)
    assert written(place)[0] == [event(0)]


def test_packed_events_are_read_as_well(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl.gz").write_bytes(gzip.compress(event(0).encode()))
    assert written(tmp_path)[0] == [event(0)]


def test_too_many_messages_are_thinned_out_evenly_and_all_else_stays(tmp_path: Path) -> None:
    lines = [event(n, lost=n % 2 == 0) for n in range(1000)]
    lines[500:500] = [event(499.5, "fault", what="crash", state="begins")] * 20
    events, left_out = written(directory(tmp_path, *lines), events_max=120)
    assert len(events) <= 120
    assert left_out == {"events": 1020, "limit": 120, "one_of": 10, "cut_at_s": None, "broken": 0}
    kept = [json.loads(line) for line in events]
    assert sum(found["kind"] == "fault" for found in kept) == 20
    messages = [found for found in kept if found["kind"] == "message"]
    assert [found["at_s"] // 10 for found in messages] == list(range(100))
    assert 35 <= sum(found["lost"] for found in messages) <= 65


def test_too_much_of_all_else_is_cut_and_the_page_knows_when(tmp_path: Path) -> None:
    lines = [line for n in range(100) for line in (event(n, "job", job=n), event(n + 0.5))]
    events, left_out = written(directory(tmp_path, *lines), events_max=40)
    assert len(events) <= 40
    kept = [json.loads(line) for line in events]
    jobs = [found["at_s"] for found in kept if found["kind"] == "job"]
    assert jobs == [float(n) for n in range(20)]
    assert left_out["cut_at_s"] == 20
    assert max(found["at_s"] for found in kept) < 20


def test_broken_lines_go_along_up_to_a_number(tmp_path: Path) -> None:
    lines = ["{", event(1), "\x00", "[]", '{"kind":"node"}', *["?"] * 200]
    events, left_out = written(directory(tmp_path, *lines))
    assert events[:2] == ["{", event(1)]
    assert len(events) == 101
    assert left_out["broken"] == 104


def test_a_line_that_is_too_long_is_one_broken_line(tmp_path: Path) -> None:
    long = event(1, what="x" * (3 * LINE_SIZE_MAX_BYTES))
    events, _ = written(directory(tmp_path, event(0), long, event(2)))
    assert [events[0], events[2]] == [event(0), event(2)]
    assert len(events) == 3
    assert len(events[1]) == LINE_SIZE_MAX_BYTES + 1  # What the page takes for too long.


def test_the_last_line_needs_no_end(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text(event(0) + "\n" + event(1))
    assert written(tmp_path)[0] == [event(0), event(1)]
