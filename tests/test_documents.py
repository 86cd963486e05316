"""The documents tell the truth of today: their tables are the code's, their commands run."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from peernode.problems import CODES, RETRYABLE
from tests.blackbox.daemon import CHEAP_PASSWORDS, Daemon

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?://)([^)#]+)\)")
DOCUMENTS = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").glob("*.md"))]


def block(language: str) -> str:
    """Return the one block of README.md in this language."""
    (found,) = [text for name, text in BLOCKS if name == language]
    return str(found)


def test_every_problem_is_documented_with_its_status() -> None:
    text = (ROOT / "docs" / "problems.md").read_text("utf-8")
    for code, (status, title) in CODES.items():
        again = "yes" if code in RETRYABLE else ""
        assert f"| `{code}` | {status} | {title} | {again} |" in text


def test_every_reason_why_a_job_waits_is_documented() -> None:
    text = (ROOT / "docs" / "problems.md").read_text("utf-8")
    code = re.compile(r"""(?:code=|add\(|miss\()"(\w+)\"""")
    found = {
        name
        for module in ("reasons", "capabilities")
        for name in code.findall((ROOT / "worker" / f"{module}.py").read_text("utf-8"))
    }
    assert len(found) > 15
    assert not [name for name in sorted(found) if f"`{name}`" not in text]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in LINK.findall(document.read_text("utf-8")):
        assert (document.parent / target).exists(), target


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("tour") / "data", workers=1) as daemon:
        yield daemon


@pytest.mark.slow
def test_the_tour_with_curl_and_then_with_the_sdk_runs_as_it_stands(
    node: Daemon, tmp_path: Path
) -> None:
    tour = block("bash").replace("http://127.0.0.1:8440", node.url)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", tour],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "{'words': 5}" in done.stdout
    assert "counting" in done.stdout
    assert done.stdout.rstrip().endswith("hello")

    sdk = block("python").replace("http://127.0.0.1:8440", node.url)
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", sdk],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].endswith(" 144")
    assert done.stdout.splitlines()[1] == "[0, 1, 4, 9, 16]"


@pytest.mark.slow
def test_the_tour_with_two_machines_runs_as_it_stands(tmp_path: Path) -> None:
    tour = block("sh")
    ports = {port: str(free_port()) for port in ("8451", "8452", "4451", "4452")}
    # In one pass: a port that was drawn may have one of these in it.
    tour = re.sub(r"\b(8451|8452|4451|4452)\b", lambda found: ports[found[1]], tour)
    programs = Path(sys.executable).parent
    process = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", tour],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, **CHEAP_PASSWORDS, "PATH": f"{programs}:{os.environ['PATH']}"},
        start_new_session=True,
    )
    try:
        told, errors = process.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):  # all of it ended, as it should
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, (told, errors)
    assert re.search(r"^2\tup\t", told, re.MULTILINE), told
    lines = told.splitlines()
    assert [line for line in lines if line in ("AT B", "some bytes", "A IS OFF")] == [
        "AT B",
        "some bytes",
        "A IS OFF",
    ]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
