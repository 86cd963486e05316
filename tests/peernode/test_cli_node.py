"""The requester's, developer's and operator's day at the command line, against a real node."""

import io
import json
import subprocess
import sys
import time

import httpx
import pytest
import wasmtime

from peernode.cli import demo_node
from peernode.cli.app import run
from tests.blackbox.daemon import Daemon
from tests.worker.levels import missing_sandbox
from tests.worker.wasm_programs import ECHO
from tests.worker.wheel_files import NAME as WHEEL, make_wheel

pytestmark = pytest.mark.slow

SOURCE = 'def handler(input):\n    print("seen", input)\n    return {"answer": VERSION}\n'


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("node")
    with demo_node.open_node(path, 0):
        yield path


@pytest.fixture
def peernode(directory, monkeypatch, tmp_path_factory, capfd):
    """Run commands in this process; return what they print, as JSON where asked for."""
    url = json.loads((directory / "node" / "node.json").read_text())["url"]
    monkeypatch.setenv("XDG_CONFIG_HOME", str(directory / "config"))
    monkeypatch.setenv("PEERNODE_URL", url)
    monkeypatch.delenv("PEERNODE_TOKEN", raising=False)

    def command(*arguments: object, stdin: str | None = None, code: int = 0) -> object:
        if stdin is not None:
            monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        assert run([str(argument) for argument in arguments]) == code, capfd.readouterr().err
        shown = capfd.readouterr().out
        return json.loads(shown) if "--json" in arguments else shown

    return command


def test_a_day(peernode, directory, tmp_path):
    peernode("user", "create", "ada", "--password-stdin", stdin="correct horse battery\n")
    peernode("login", "ada", "--password-stdin", stdin="correct horse battery\n")
    peernode("login", "ada", "--password-stdin", stdin="wrong\n", code=1)
    peernode("project", "create", "lab")
    assert [p["name"] for p in peernode("project", "ls", "--json")] == ["lab"]

    source = tmp_path / "answer.py"
    for version in ("1", "2"):
        source.write_text(SOURCE.replace("VERSION", version))
        peernode("fn", "deploy", "lab/answer", source, "--limits", '{"run_s": 20}')
    assert peernode("run", "lab/answer", "--wait") == '{"answer": 2}\n'
    peernode("fn", "rollback", "lab/answer", "1")
    assert peernode("fn", "ls", "lab", "--json")[0]["name"] == "answer"
    done = peernode("run", "lab/answer", "--input", '{"x": 1}', "--wait", "--json")
    assert (done["state"], done["result"]) == ("succeeded", {"answer": 1})
    source.write_text("def handler(:")
    peernode("fn", "deploy", "lab/answer", source, code=1)
    binary = tmp_path / "echo.wasm"
    binary.write_bytes(wasmtime.wat2wasm(ECHO))
    peernode("fn", "deploy", "lab/module", binary, "--runtime", "wasm")
    assert peernode("run", "lab/module", "--input", "[1]", "--wait") == "[1]\n"

    wheel, broken = tmp_path / WHEEL, tmp_path / "broken-1.0-py3-none-any.whl"
    wheel.write_bytes(make_wheel())
    broken.write_bytes(make_wheel()[:-9])
    source.write_text("import greeting\ndef handler(input):\n    return greeting.greet()\n")
    peernode("fn", "deploy", "lab/greet", source, "--wheel", broken, code=1)
    peernode("fn", "deploy", "lab/greet", source, "--wheel", wheel)
    assert peernode("run", "lab/greet", "--wait") == '"hello"\n'

    assert "seen" in peernode("job", "logs", done["id"])
    assert done["id"] in peernode("job", "ls", "--state", "succeeded", "--project", "lab")
    assert done["id"] in peernode("job", "show", done["id"])
    assert "succeeded" in peernode("job", "why", done["id"])
    peernode("job", "cancel", done["id"], code=1)
    waiting = peernode("run", "lab/answer", "--requires", '{"gpu": 8}').strip()
    assert peernode("job", "why", waiting, "--json")["pending_reasons"]
    assert peernode("job", "cancel", waiting, "--json")["state"] == "cancelled"


def test_data(peernode, tmp_path):
    peernode("user", "create", "grace", "--password-stdin", stdin="correct horse battery\n")
    peernode("project", "create", "data")
    peernode("kv", "create", "data/settings")
    peernode("kv", "put", "data/settings", "model", '{"layers": [1, 2.5]}')
    assert json.loads(peernode("kv", "get", "data/settings", "model")) == {"layers": [1, 2.5]}
    assert "model" in peernode("kv", "ls", "data/settings")
    assert [space["name"] for space in peernode("kv", "ls", "--json")] == ["settings"]
    peernode("kv", "get", "data/settings", "nothing", code=1)

    picture = tmp_path / "picture.png"
    picture.write_bytes(bytes(range(256)) * 1000)
    blob = peernode("blob", "put", picture, "--project", "data", "--json")
    assert (blob["size_bytes"], blob["media_type"]) == (256_000, "image/png")
    peernode("blob", "get", blob["id"], tmp_path / "back.png")
    assert (tmp_path / "back.png").read_bytes() == picture.read_bytes()
    assert "picture.png" in peernode("blob", "ls", "data")
    peernode("blob", "rm", blob["id"])
    peernode("blob", "get", blob["id"], tmp_path / "gone.png", code=1)

    peernode("project", "add-member", "data", "grace", "--role", "nonsense", code=1)


def test_the_operators_day(peernode, directory):
    data = directory / "node"
    status = peernode("status", "--data", data, "--json")
    assert status["status"] == "ok"
    assert len(status["workers"]) == 1
    peernode("status", "--data", data)
    made = peernode("worker", "create", "--name", "bench", "--data", data, "--json")
    assert made["id"] in peernode("worker", "ls", "--data", data)
    of = (made["id"], "--data", data)
    assert peernode("worker", "cordon", *of, "--json")["cordoned"]
    assert "drain_until" in peernode("worker", "drain", *of, "--deadline-s", 5, "--wait")
    assert peernode("worker", "show", *of, "--json")["state"] == "detached"
    assert not peernode("worker", "resume", *of, "--json")["cordoned"]
    peernode("worker", "evict", *of)
    peernode("worker", "show", *of, code=1)
    local = peernode("status", "--data", data, "--json")["workers"][0]["id"]
    assert "name" in peernode("worker", "show", local, "--data", data)
    ends_s = time.monotonic() + 20  # its own worker looks at the machine before it attaches
    while all(worker["state"] != "attached" for worker in status["workers"]):
        assert time.monotonic() < ends_s
        time.sleep(0.02)
        status = peernode("status", "--data", data, "--json")
    findings = {item["subject"]: item for item in peernode("doctor", "--data", data, "--json")}
    assert findings["node"]["verdict"] == "ok"
    assert findings["workers"]["verdict"] == "ok", findings["workers"]
    assert findings["isolation process"]["verdict"] == "ok"
    assert findings["isolation wasm"]["verdict"] in ("ok", "note")
    sandbox = findings["isolation sandbox"]
    assert sandbox["verdict"] == ("note" if missing_sandbox() else "ok"), sandbox


def test_another_machines_worker_comes_and_comes_back(peernode, directory, tmp_path):
    data = directory / "node"
    url = json.loads((data / "node.json").read_text())["url"]
    made = peernode("worker", "create", "--data", data, "--json")
    peernode("user", "create", "edsger", "--password-stdin", stdin="correct horse battery\n")
    peernode("project", "create", "remote")
    source = tmp_path / "where.py"
    source.write_text("def handler(input):\n    return input\n")
    command = [
        sys.executable,
        "-m",
        "peernode",
        "worker",
        "attach",
        url,
        "--token",
        made["token"],
        "--slots",
        "1",
        "--label",
        "place=bench",
        "--directory",
        str(tmp_path / "worker"),
    ]
    peernode("fn", "deploy", "remote/where", source, "--requires", '{"labels": {"place": "bench"}}')
    for number in range(2):  # the second time with its own key: the token is burnt
        with subprocess.Popen(command) as worker:
            done = peernode(
                "run", "remote/where", "--input", number, "--wait", "--timeout-s", 30, "--json"
            )
            worker.terminate()
        assert worker.returncode == 0
        assert (done["result"], done["worker"]) == (number, made["id"])
    stolen = [*command[:-1], str(tmp_path / "thief")]
    thief = subprocess.run(stolen, capture_output=True, text=True, timeout=30)
    assert thief.returncode == 1
    assert "hint: a token is good for one first attach" in thief.stderr


def test_an_invite_of_the_operator_makes_one_user_and_no_second(tmp_path, capfd):
    with Daemon(tmp_path / "data", workers=0, arguments=["--signup", "invite"]) as node:
        assert run(["user", "invite", "--data", str(node.data)]) == 0
        invite = capfd.readouterr().out.strip()
        for name, status in (("ada", 201), ("bob", 403)):
            body = {"name": name, "password": "correct horse", "invite": invite}
            assert httpx.post(f"{node.url}/user", json=body).status_code == status
