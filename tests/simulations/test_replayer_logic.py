"""The replayer's reasoning, run by Node.js without a browser; skipped where there is none."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from simulations import replaying, trace

HERE = Path(__file__).parent
APP = Path(replaying.__file__).parent / "replayer"
NODE_VERSION_MIN = 20


@pytest.mark.slow
def test_the_replayer_reasons_as_its_own_tests_say() -> None:
    program = shutil.which("node")
    if program is None:
        pytest.skip("node is not installed")
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    if int(version.stdout.lstrip("v").partition(".")[0]) < NODE_VERSION_MIN:
        pytest.skip(f"Node {NODE_VERSION_MIN} or later is needed, not {version.stdout.strip()}")
    done = subprocess.run(
        [program, "--test", "--test-reporter=tap", str(HERE / "replayer" / "logic.test.mjs")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout
    found = re.search(r"^# pass (\d+)$", done.stdout, re.MULTILINE)
    assert found is not None
    assert int(found[1]) > 0


def test_the_replayer_knows_the_kinds_of_events_that_a_trace_has() -> None:
    script = (APP / "events.js").read_text(encoding="utf-8")
    kinds = script.partition("const KINDS = [")[2].partition("]")[0]
    assert tuple(re.findall(r'"(\w+)"', kinds)) == tuple(trace.KINDS)


def test_the_page_names_each_of_its_scripts_once_and_nothing_else() -> None:
    html = (APP / "index.html").read_text(encoding="utf-8")
    named = re.findall(r'src="([^"]+)"', html)
    assert sorted(named) == sorted(path.name for path in APP.glob("*.js"))
    assert {path.name for path in APP.iterdir()} == {*named, "index.html", "style.css"}


@pytest.mark.parametrize("path", sorted(APP.iterdir()), ids=lambda path: path.name)
def test_no_file_of_the_page_makes_markup_of_text_or_names_an_address(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for word in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "http"):
        assert word not in text, word
    assert path.suffix != ".js" or "</script" not in text
    assert max(map(len, text.splitlines())) <= 100
