"""One function, several machines: the same version runs on whatever backend a worker has."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from peernode.client import Client
from peernode.examples import face_detection
from tests.blackbox.daemon import Daemon, Person, end_with_parent, expect

pytestmark = [
    pytest.mark.slow,
    *(
        pytest.mark.skipif(find_spec(package) is None, reason=f"{package} is not installed")
        for package in ("onnxruntime", "openvino", "PIL")
    ),
]

BACKENDS = ("CPUExecutionProvider", "OpenVINO")
OVERLAP_MIN = 0.999
"""Intersection over union of the boxes. Source: measured 1.0; boxes are rounded to 0.1 pixels."""
SCORE_TOLERANCE = 1e-4
"""Source: scores are rounded to this; the maps differ by 1e-7."""


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, Person]]:
    """A node without a worker of its own, and two others that have one backend each."""
    place = tmp_path_factory.mktemp("machines")
    with Daemon(place / "node", workers=0) as node, ExitStack() as stack:
        operator = node.operator()
        for backend in BACKENDS:
            body = {"name": backend, "labels": {"machine": backend}}
            made = expect(operator.post("/worker", json=body), 201)
            command = [sys.executable, "-m", "peernode", "worker", "attach", node.url]
            command += ["--slots", "1", "--token", made["token"], "--backends", backend]
            command += ["--directory", str(place / backend)]
            process = subprocess.Popen(command, preexec_fn=end_with_parent)
            stack.callback(process.wait, 10)
            stack.callback(process.terminate)
            path = f"/worker/{made['id']}"
            while (seen := expect(operator.get(path, params={"wait": 1})))["offer"] is None:
                assert process.poll() is None
            assert seen["offer"]["backends"] == [backend]
        yield node, node.sign_up("ada")


def overlap(one: list[float], other: list[float]) -> float:
    """Return the intersection over the union of two boxes of x, y, width, height."""
    across = (
        min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0]),
        min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1]),
    )
    shared = max(0.0, across[0]) * max(0.0, across[1])
    return shared / (one[2] * one[3] + other[2] * other[3] - shared)


def test_the_same_function_finds_the_same_face_on_both(machines: tuple[Daemon, Person]) -> None:
    node, ada = machines
    jobs: list[dict[str, Any]] = []
    with Client(node.url, ada.token) as client:
        face_detection.prepare(client, "vision")
        project = client.resolve("project", "vision")
        picture = client.put_blob(face_detection.ASTRONAUT, project=project)["id"]
    path = face_detection.HERE / "functions" / "detect_faces.py"
    function = ada.deploy(project, "find_faces", path.read_text())
    for backend in BACKENDS:
        for terms in (
            {"prefers": {"backends": {backend: 1}}},
            {"requires": {"labels": {"machine": backend}}},
        ):
            job = ada.run(function, {"picture": {"blob": picture}}, wait_s=60, **terms)
            assert job["state"] == "succeeded", job
            assert job["backend"] == backend
            assert job["backend_fallback_from"] is None
            jobs.append(job)
    assert len({job["worker"] for job in jobs}) == 2
    assert {job["function_version"] for job in jobs} == {1}
    (first,) = jobs[0]["result"]["faces"]
    for job in jobs:
        (face,) = job["result"]["faces"]
        assert overlap(face["box"], first["box"]) >= OVERLAP_MIN
        assert abs(face["score"] - first["score"]) <= SCORE_TOLERANCE


def test_a_backend_that_is_not_here_ends_an_attach(machines: tuple[Daemon, Person]) -> None:
    node, _ = machines
    made = expect(node.operator().post("/worker", json={}), 201)
    command = [sys.executable, "-m", "peernode", "worker", "attach", node.url]
    command += ["--token", made["token"], "--backends", "Abacus"]
    command += ["--directory", str(node.data.parent / "abacus")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "error: --backends: Abacus is not here; what is here: CPU" in done.stderr


def test_a_node_lends_the_backends_that_it_is_told(tmp_path: Path) -> None:
    with Daemon(tmp_path / "node", arguments=("--backends", "OpenVINO")) as node:
        operator = node.operator()
        (local,) = expect(operator.get("/worker"))["items"]
        path = f"/worker/{local['id']}"
        while (seen := expect(operator.get(path, params={"wait": 1})))["offer"] is None:
            pass
        assert seen["offer"]["backends"] == ["OpenVINO"]
    command = [*node.command, "--backends", "Abacus"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "backends: Abacus is not here" in done.stderr
