"""The replayer as a researcher has it: in a real browser, from disk, with nothing to reach."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from simulations import replaying
from simulations.replaying import write_replay
from tests.simulations.browser import Browser
from tests.simulations.made_runs import write_run

pytestmark = pytest.mark.slow

EMPTY = Path(replaying.__file__).parent / "replayer" / "index.html"
PICTURE_MAX_MS = 200
"""Of a page with 1000 nodes, the best of some. Source: five a second; a tenth of it is usual."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"), nodes=12, duration_s=30)


@pytest.fixture
def page(browser: Browser, made: Path) -> Iterator[Browser]:
    """Open the page of a small run; afterwards nothing has gone wrong in it."""
    path = write_replay(made)
    assert path is not None
    browser.errors.clear()
    browser.open(path)
    yield browser
    assert browser.errors == []
    assert browser.requests == [path.as_uri()]


def text(page: Browser, id: str) -> str:
    return str(page.run(f"document.getElementById({json.dumps(id)}).innerText"))


def inks(page: Browser, id: str) -> int:
    """Return how many colours a drawing has."""
    return int(
        page.run(
            f"""(() => {{
                const canvas = document.getElementById({json.dumps(id)});
                const {{ data }} = canvas.getContext("2d")
                    .getImageData(0, 0, canvas.width, canvas.height);
                return new Set(new Uint32Array(data.buffer)).size;
            }})()"""
        )
    )


def box(page: Browser, id: str) -> dict[str, float]:
    expression = f"document.getElementById({json.dumps(id)}).getBoundingClientRect().toJSON()"
    found: dict[str, float] = page.run(expression)
    return found


def now(page: Browser) -> float:
    return float(page.run("Replay.app.player.now"))


def test_a_run_opens_from_disk_and_is_drawn(page: Browser, made: Path) -> None:
    events = len((made / "events.jsonl").read_text().splitlines())
    assert page.run("Replay.app.run.log.events.length") == events
    assert text(page, "name") == "two-cities"
    assert text(page, "seed") == "seed 1"
    assert text(page, "notices") == ""
    for canvas in ("map", "spacetime", "timeline"):
        assert inks(page, canvas) > 10, canvas


def test_time_runs_while_it_plays_and_stands_when_it_does_not(page: Browser) -> None:
    page.key(" ")
    page.until("Replay.app.player.now > 0.05")
    assert page.run("document.getElementById('play').textContent") == "Pause"
    page.key(" ")
    before = now(page)
    page.drawn()
    assert now(page) == before
    page.key(" ")
    page.key("End")
    page.until("!Replay.app.player.isPlaying")
    assert now(page) == page.run("Replay.app.run.to")
    assert page.run("document.getElementById('play').textContent") == "Play"


def test_steps_go_from_event_to_event_of_the_kinds_that_are_shown(page: Browser) -> None:
    for kind in ("node", "message", "record", "job", "check"):
        page.run(
            f"""[...document.querySelectorAll('.chip')]
                .find((chip) => chip.textContent.startsWith({json.dumps(kind)})).click()"""
        )
    times = []
    for _ in range(4):
        page.key("ArrowRight")
        times.append(round(now(page), 6))
    assert times == [10.5, 16.5, 21, 24]
    page.key("ArrowLeft")
    assert round(now(page), 6) == 21
    assert "Event: fault" in text(page, "details")


def test_keys_go_to_the_next_trouble_and_back(page: Browser) -> None:
    page.key("n")
    assert now(page) == pytest.approx(10.5)
    page.key("n")
    assert now(page) == pytest.approx(16.8)  # The invariant that did not hold.
    page.key("p")
    assert now(page) == pytest.approx(10.5)


def test_a_click_on_the_strip_sets_the_time(page: Browser) -> None:
    strip = box(page, "timeline")
    page.click(strip["x"] + strip["width"] / 2, strip["y"] + 20)
    assert now(page) == pytest.approx(page.run("(Replay.app.run.from + Replay.app.run.to) / 2"))


def test_a_node_of_the_map_tells_of_itself(page: Browser) -> None:
    page.run("Replay.app.seek(12)")
    page.drawn()
    at = box(page, "map")
    x, y = page.run("[Replay.app.topology.x[4], Replay.app.topology.y[4]]")
    page.click(at["x"] + x, at["y"] + y)
    shown = text(page, "details")
    assert "Node n4" in shown
    assert "n4 → " in shown
    page.run("document.querySelector('#details input').click()")
    page.drawn()
    assert page.run("Replay.app.spacetime.rows[0]") == 4
    assert page.run("Replay.app.spacetime.rows.length < 12")
    page.key("Escape")
    assert "This run" in text(page, "details")


def test_a_line_of_the_diagram_tells_of_its_message(page: Browser) -> None:
    page.run("Replay.app.span.show(0, 4); Replay.app.dirty()")
    page.drawn()
    at = box(page, "spacetime")
    number, x, y = page.run(
        """(() => {
            const view = Replay.app.spacetime;
            const i = view.lines[5];
            const [x1, y1, x2, y2] = view._ends(i);
            return [i, (x1 + x2) / 2, y1 + (y2 - y1) * 0.43];
        })()"""
    )
    page.click(at["x"] + x, at["y"] + y)
    assert page.run("Replay.app.selection.type") == "message"
    near = page.run("Replay.app.selection.index")
    sent = page.run(f"[{number}, {near}].map((i) => Replay.app.run.messages.sent[i])")
    assert sent[0] == pytest.approx(sent[1], abs=0.1)
    assert "sent at" in text(page, "details")


def test_a_bar_of_the_jobs_tells_of_its_job(page: Browser) -> None:
    page.key("2")
    assert inks(page, "jobs") > 5
    at = box(page, "jobs")
    name, x, y = page.run(
        """(() => {
            const view = Replay.app.jobs;
            const row = Replay.app.run.rows.findIndex((each) => each.worker !== null);
            const lane = Replay.app.run.rows[row];
            const longest = lane.spans.reduce((a, b) => (b.to - b.from > a.to - a.from ? b : a));
            return [longest.job.name, view.x((longest.from + longest.to) / 2), view.top(row) + 9];
        })()"""
    )
    page.click(at["x"] + x, at["y"] + y)
    shown = text(page, "details")
    assert f"Job {name}" in shown
    assert "queued" in shown


def test_the_wheel_zooms_where_the_pointer_is(page: Browser) -> None:
    at = box(page, "spacetime")
    x = at["width"] * 0.7
    before = page.run(f"Replay.app.spacetime.time({x})")
    page.wheel(at["x"] + x, at["y"] + 200, -400)
    assert page.run("Replay.app.span.width") < 0.6 * page.run("Replay.app.run.to")
    pixel_s = page.run("Replay.app.span.width / Replay.app.spacetime.plotWidth")
    assert page.run(f"Replay.app.spacetime.time({x})") == pytest.approx(before, abs=pixel_s)
    page.key("0")
    assert page.run("Replay.app.span.isWhole")


def test_events_are_listed_until_now(page: Browser) -> None:
    page.run("Replay.app.seek(10.5)")
    page.key("3")
    first = page.run("document.querySelector('#events li').innerText")
    assert "10.50" in first
    assert page.run("document.querySelectorAll('#events li').length") == 200
    page.run("document.querySelectorAll('#events button')[3].click()")
    assert page.run("Replay.app.selection !== null")


@pytest.mark.parametrize("dark", [False, True])
def test_it_is_light_or_dark_as_the_system_is_and_can_be_turned(
    browser: Browser, made: Path, dark: bool
) -> None:
    path = write_replay(made)
    assert path is not None
    browser.open(path, dark=dark)
    themes = [browser.run("document.documentElement.dataset.theme")]
    for _ in range(3):
        browser.key("t")
        themes.append(browser.run("document.documentElement.dataset.theme"))
    system = "dark" if dark else "light"
    assert themes == [system, "light", "dark", system]


def test_what_a_run_says_stays_text(browser: Browser, tmp_path: Path) -> None:
    evil = "<img src=x onerror='window.broken = 1'></script><script>window.broken = 1</script>"
    events: list[Any] = [
        {"at_s": 0, "kind": "node", "node": evil, "state": evil},
        {"at_s": 0.5, "kind": evil, evil: evil, "node": evil},
        {"at_s": 1, "kind": "message", "source": evil, "target": "b", "what": evil},
        {"at_s": 1.5, "kind": "job", "node": evil, "job": evil, "worker": evil, "state": evil},
        {"at_s": 1.6, "kind": "job", "node": {}, "job": [], "worker": {}, "state": None},
        {"at_s": 2, "kind": "fault", "what": evil, "nodes": evil, "state": "begins"},
        {"at_s": 2, "kind": "link", "one": "__proto__", "other": "constructor", "state": "down"},
        {"at_s": 3, "kind": "check", "what": evil, "node": "constructor"},
        {"at_s": 4, "kind": "message", "source": "b", "target": "b", "arrives_at_s": -1},
        {"at_s": 5, "kind": "message", "source": None, "target": 1e300, "lost": "yes"},
        {"at_s": 6, "kind": "client", "client": evil, "state": [[[[{}]]]]},
    ]
    lines = [json.dumps(event) for event in events]
    lines[3:3] = ["{", evil, "7", '{"at_s": 1}', "\u202etxet", "[" * 5000]
    (tmp_path / "events.jsonl").write_text("\n".join(lines))
    (tmp_path / "manifest.json").write_text(json.dumps({"name": evil, "seed": {"a": evil}}))
    path = write_replay(tmp_path)
    assert path is not None
    browser.errors.clear()
    browser.open(path)
    assert browser.run("Replay.app.run.log.events.length") == len(events)
    assert "6 lines are no events" in text(browser, "notices")
    assert "not JSON" in text(browser, "details")
    for _ in events:
        browser.key("ArrowRight")
    for selection in (
        {"type": "node", "index": 0},
        {"type": "job", "index": evil},
        {"type": "message", "index": 0},
    ):
        browser.run(f"Replay.app.select({json.dumps(selection)})")
        browser.drawn()
    for view in "123":
        browser.key(view)
    assert browser.run("document.querySelectorAll('img, script[src]').length") == 0
    assert browser.run("window.broken === undefined")
    assert browser.errors == []


def test_a_thousand_nodes_are_drawn_at_the_speed_of_a_hand(
    browser: Browser, tmp_path: Path
) -> None:
    path = write_replay(
        write_run(tmp_path, nodes=1000, duration_s=20, rate_per_s=1), events_max=50_000
    )
    assert path is not None
    browser.errors.clear()
    browser.open(path)
    assert browser.run("Replay.app.run.nodes.length") == 1000
    assert "Only one of" in text(browser, "notices")
    slowest = browser.run(
        """(() => {
            let slowest = 0;
            const { app } = Replay;
            app.player.isPlaying = true;
            for (const at of [2, 8, 14]) {
                app.player.now = at;
                let best = Infinity; // The rest of the machine has a part in the others.
                for (let i = 0; i < 8; i += 1) {
                    const began = performance.now();
                    app.topology.draw();
                    app.spacetime.draw();
                    app.timeline.draw();
                    best = Math.min(best, performance.now() - began);
                }
                slowest = Math.max(slowest, best);
            }
            app.player.isPlaying = false;
            return slowest;
        })()"""
    )
    assert slowest < PICTURE_MAX_MS
    assert browser.errors == []


def test_an_empty_run_opens_too(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text("")
    path = write_replay(tmp_path)
    assert path is not None
    browser.errors.clear()
    browser.open(path)
    for key in ("ArrowRight", "ArrowLeft", "n", " ", "2", "3", "1", "+", "-", "End"):
        browser.key(key)
    assert browser.errors == []


def test_the_page_without_a_run_takes_the_files_of_one(browser: Browser, made: Path) -> None:
    browser.errors.clear()
    browser.open(EMPTY)
    assert "Choose or drop" in text(browser, "start")
    root = browser.call("DOM.getDocument")["root"]["nodeId"]
    node = browser.call("DOM.querySelector", nodeId=root, selector="#files")["nodeId"]
    names = ("manifest.json", "topology.json", "events.jsonl")
    files = [str(made / name) for name in names]
    browser.call("DOM.setFileInputFiles", nodeId=node, files=files)
    browser.until("document.body.classList.contains('ready')")
    assert text(browser, "name") == "two-cities"
    assert browser.run("Replay.app.run.nodes[0].name") == "n0"
    assert browser.errors == []


def test_files_without_events_are_refused_in_words(browser: Browser, made: Path) -> None:
    browser.open(EMPTY)
    root = browser.call("DOM.getDocument")["root"]["nodeId"]
    node = browser.call("DOM.querySelector", nodeId=root, selector="#files")["nodeId"]
    browser.call("DOM.setFileInputFiles", nodeId=node, files=[str(made / "topology.json")])
    browser.until("document.getElementById('wrong').textContent !== ''")
    assert "no events.jsonl" in text(browser, "wrong")
