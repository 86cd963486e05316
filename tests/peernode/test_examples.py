"""The examples run as they are printed, and the demo tells its whole story."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from peernode.cli import demo_node
from peernode.client import Client, JobFailed, NotFound

pytestmark = pytest.mark.slow

PIL_Image = pytest.importorskip("PIL.Image")
pytest.importorskip("onnxruntime")

from peernode.examples import preprocessing  # noqa: E402  (it needs PIL)

DEMO_MAX_S = 60.0


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    with demo_node.open_node(tmp_path_factory.mktemp("node"), 0) as url:
        with Client(url, "") as client:
            client.signup("ada", "correct horse battery")
            token = client.login("ada", "correct horse battery")["token"]
        yield url, token


def example(name, node, *arguments: str) -> str:
    url, token = node
    command = [sys.executable, "-m", f"peernode.examples.{name}", "--url", url, *arguments]
    environment = {"PEERNODE_TOKEN": token, "PATH": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_astronauts_face_is_found_and_drawn(node, tmp_path):
    picture = tmp_path / "faces.png"
    told = example("face_detection", node, "--out", str(picture))
    found = re.search(r"face at (\[.*\]), score (\S+)", told)
    x, y, width, height = json.loads(found[1])
    # Measured by eye: her face fills this part of the 512 x 512 picture.
    assert x < 225 < x + width
    assert y < 120 < y + height
    assert float(found[2]) > 0.6
    image = PIL_Image.open(io.BytesIO(picture.read_bytes()))
    assert image.getpixel((round(x + width / 2), round(y))) == (0, 255, 0)


def test_only_findings_reach_the_cloud(node):
    told = example("preprocessing", node, "--project", "camera")
    assert "coffee.jpg: 0 found, nothing sent, picture deleted" in told
    assert "astronaut.jpg: 1 found, findings sent, picture deleted" in told
    findings = json.loads(told[told.index("\n{") :])
    assert findings["picture"]["width"] == findings["picture"]["height"] == 512
    (face,) = findings["faces"]
    x, y, width, height = face["box"]
    assert x < 225 < x + width
    assert y < 120 < y + height
    with Client(*node) as client:
        with pytest.raises(NotFound):
            client.get("blob", findings["picture"]["id"])
        assert kept_sizes(client, "camera") == sizes("centerface.onnx")


def test_a_picture_stays_when_the_cloud_is_away(node):
    with preprocessing.open_cloud() as cloud:
        gone = cloud.url
    with Client(*node) as client:
        preprocessing.prepare(client, "away", gone)
        with pytest.raises(JobFailed, match="unreachable"):
            list(preprocessing.watch(client, "away", [preprocessing.ASTRONAUT]))
        assert kept_sizes(client, "away") == sizes("astronaut.jpg", "centerface.onnx")


def kept_sizes(client, project):
    """The sizes of a project's blobs, sorted."""
    blobs = client.list("blob", project=client.resolve("project", project))
    return sorted(blob["size_bytes"] for blob in blobs)


def sizes(*names: str):
    return sorted((preprocessing.HERE / "data" / name).stat().st_size for name in names)


def test_examples_can_be_run_again(node, tmp_path):
    for _ in range(2):
        assert "1 found" in example("face_detection", node, "--out", str(tmp_path / "x.png"))


def test_the_demo_tells_its_story_in_a_minute(tmp_path):
    started_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "peernode", "demo", "--keep", str(tmp_path / "kept")],
        capture_output=True,
        text=True,
        timeout=DEMO_MAX_S * 2,
    )
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started_s < DEMO_MAX_S
    assert "connection is closed" in done.stdout
    assert "succeeded on worker" in done.stdout
    assert re.search(r"coffee\.jpg +64,474 bytes +0 +nothing +deleted \(404\)", done.stdout)
    assert re.search(r"astronaut\.jpg +60,270 bytes +1 +\d+ bytes +deleted \(404\)", done.stdout)
    assert re.search(r"all that arrived at http://127\.0\.0\.1:\d+/findings:\n +{", done.stdout)
    assert (tmp_path / "kept" / "faces.png").exists()
    assert not (tmp_path / "kept" / "node" / "node.json").exists()  # it stopped, and in order


def test_a_demo_that_cannot_start_its_node_says_where_to_look(tmp_path):
    with demo_node.open_node(tmp_path, 0) as url:
        port = url.rpartition(":")[2]
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "peernode",
                "demo",
                "--keep",
                str(tmp_path / "kept"),
                "--port",
                port,
            ],
            capture_output=True,
            text=True,
            timeout=DEMO_MAX_S,
        )
    assert done.returncode == 1
    assert "error: step 'A node starts" in done.stderr
    assert str(tmp_path / "kept" / "node.log") in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_a_demo_that_is_interrupted_stops_its_node(tmp_path, number):
    command = [sys.executable, "-m", "peernode", "demo", "--keep", str(tmp_path / "kept")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as demo:
        for line in demo.stdout:
            if line.startswith(b"2. "):
                break
        process = json.loads((tmp_path / "kept" / "node" / "node.json").read_text())["pid"]
        demo.send_signal(number)
        told = demo.stdout.read()
    assert demo.returncode == 130
    assert b"stopped; what there was is in" in told
    assert b"Traceback" not in told
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
