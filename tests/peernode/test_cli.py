"""What the command line says, to whom, and with which exit code."""

import importlib.util
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from rich.text import Text

from peernode.cli.app import app, run
from peernode.cli.worker import attach_url, read_token
from peernode.client import settings
from tests.peernode.scripted_server import Answer, scripted

JOB = {
    "id": "9",
    "state": "queued",
    "attempt": 0,
    "function": "4",
    "pending_reasons": [{"code": "no_gpu", "detail": "needs 1 GPU", "worker": "7"}],
    "history": [{"at": "2026-01-01T00:00:00Z", "state": "queued", "cause": None}],
}
DONE = JOB | {"state": "succeeded", "result": {"faces": 1}}
FAILED = JOB | {
    "state": "failed",
    "error": {"code": "function_error", "message": "boom", "traceback": "Traceback: line 3"},
}


@pytest.fixture(autouse=True)
def config_home(monkeypatch, tmp_path):
    for name in ("PEERNODE_URL", "PEERNODE_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def page(*items: object) -> Answer:
    return Answer(value={"items": [*items], "next": None})


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["run"],
        ["job", "show"],
        ["job", "ls", "--limit", "many"],
        ["fn", "deploy", "x"],
        ["run", "4", "--input", "{broken"],
        ["run", "4", "--limits", "[]"],
        ["kv", "create", "x"],
        ["project", "secret", "set", "lab", "TOKEN", "a value is no argument"],
        ["run", "4", "--blob", "x"],
        ["run", "4", "--input", "@/nowhere"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_2(arguments, capsys):
    assert run(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Traceback" not in shown.err


@pytest.mark.slow
def test_nobody_there_is_3(capsys):
    with scripted() as server:
        url = server.url
    assert run(["status", "--url", url]) == 3
    shown = capsys.readouterr()
    assert shown.err.startswith(f"error: cannot reach {url}")
    assert "hint: is the node running" in shown.err


def test_a_refusal_is_1_with_its_hint(capsys):
    problem = {"code": "forbidden", "detail": "not yours", "hint": "ask the owner"}
    with scripted(Answer(403, problem)) as server:
        assert run(["job", "show", "9", "--url", server.url]) == 1
    shown = capsys.readouterr()
    assert shown.err == "error: not yours\nhint: ask the owner\n"
    assert shown.out == ""


def test_a_refusal_can_be_had_as_json(capsys):
    with scripted(Answer(403, {"code": "forbidden", "detail": "not yours"})) as server:
        assert run(["job", "show", "9", "--json", "--url", server.url]) == 1
    assert json.loads(capsys.readouterr().err) == {"code": "forbidden", "detail": "not yours"}


def test_running_prints_the_id_alone(capsys):
    with scripted(Answer(202, JOB), Answer(value=JOB)) as server:
        assert run(["run", "4", "--input", '{"x": 1}', "--url", server.url]) == 0
    assert capsys.readouterr().out == "9\n"
    assert server.received[0].json == {"function": "4", "input": {"x": 1}}


def test_a_secret_comes_from_stdin_and_is_not_printed(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("s3cret-wörd\n\n".encode())))
    project = {"id": "4", "name": "lab", "secrets": [{"name": "TOKEN", "nodes": ["2"]}]}
    with scripted(Answer(value=project)) as server:
        command = ["project", "secret", "set", "4", "TOKEN", "--node", "2", "--url", server.url]
        assert run(command) == 0
    body = {"name": "TOKEN", "value": "s3cret-wörd\n", "nodes": ["2"]}
    assert server.received[0].json == body
    shown = capsys.readouterr()
    assert "TOKEN" in shown.out
    assert "s3cret" not in shown.out + shown.err


def test_secrets_are_listed_by_name_and_node(capsys):
    project = {"id": "4", "name": "lab", "secrets": [{"name": "TOKEN", "nodes": ["2", "3"]}]}
    with scripted(Answer(value=project)) as server:
        assert run(["project", "secret", "ls", "4", "--json", "--url", server.url]) == 0
    assert json.loads(capsys.readouterr().out) == project["secrets"]


def test_running_and_waiting_prints_the_result_alone(capsys, tmp_path):
    (tmp_path / "input.json").write_text("[1, 2]")
    with scripted(Answer(202, JOB), Answer(value=DONE)) as server:
        command = ["run", "4", "--input", f"@{tmp_path / 'input.json'}", "--wait"]
        assert run([*command, "--blob", "pic=3", "--url", server.url]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"faces": 1}
    assert shown.err == "job 9\n"
    assert server.received[0].json == {
        "function": "4",
        "input": [1, 2],
        "inputs": {"pic": {"blob": "3"}},
    }


def test_a_failed_job_is_1_and_shows_where_the_function_failed(capsys):
    with scripted(Answer(202, JOB), Answer(value=FAILED)) as server:
        assert run(["run", "4", "--wait", "--url", server.url]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "job 9\nTraceback: line 3\nerror: job 9 failed: boom\n"


def test_why_says_every_reason(capsys):
    waiting = JOB | {"estimated_start_at": "2026-01-01T00:01:00Z"}
    with scripted(Answer(value=waiting)) as server:
        assert run(["job", "why", "9", "--url", server.url]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "job 9 is queued, attempt 0",
        "  starts at about 2026-01-01T00:01:00Z (an estimate)",
        "  no_gpu: needs 1 GPU (worker 7)",
        "  2026-01-01T00:00:00Z  queued",
    ]


def test_a_list_is_lines_for_a_pipe_and_json_for_a_program(capsys):
    item = {"id": "2", "name": "vision", "home_node": 1, "created_at": "x", "other": [1]}
    with scripted(page(item), page(item)) as server:
        assert run(["project", "ls", "--url", server.url]) == 0
        assert capsys.readouterr().out == "id\tname\thome_node\tcreated_at\n2\tvision\t1\tx\n"
        assert run(["project", "ls", "--json", "--url", server.url]) == 0
    assert json.loads(capsys.readouterr().out) == [item]


def test_control_characters_do_not_reach_the_terminal(capsys):
    item = {"id": "2", "name": "\x1b[2Jx\ny", "home_node": 1, "created_at": "x"}
    with scripted(page(item)) as server:
        assert run(["project", "ls", "--url", server.url]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_login_keeps_the_token_for_later_commands(capsys, config_home, monkeypatch):
    monkeypatch.setattr("sys.stdin", _Lines("secret\n"))
    answer = Answer(value={"token": "t", "expires_at": "2026-01-01T00:00:00Z"})
    with scripted(answer, page()) as server:
        assert run(["login", "ada", "--password-stdin", "--url", server.url]) == 0
        assert run(["project", "ls"]) == 0
        assert "secret" not in capsys.readouterr().out
    assert server.received[0].json == {"password": "secret"}
    assert server.received[1].headers["authorization"] == "Bearer t"
    kept = settings.load(config_home / "peernode" / "config.toml")
    assert kept["default"] == server.url


def test_without_a_terminal_a_password_is_not_asked_for(monkeypatch):
    monkeypatch.setattr("sys.stdin", _Lines(""))
    assert run(["login", "ada"]) == 2


class _Lines:
    def __init__(self, text) -> None:
        self.text = text

    def readline(self) -> str:
        return self.text

    def isatty(self) -> bool:
        return False


def test_a_missing_key_is_1(capsys):
    absent = Answer(404, {"code": "not_found", "detail": "d", "field": "key"})
    with scripted(absent) as server:
        assert run(["kv", "get", "5", "k", "--url", server.url]) == 1
    assert capsys.readouterr().err == "error: there is no key 'k' in 5\n"


def test_a_blob_goes_to_stdout_untouched(capfdbinary):
    content = bytes(range(256))
    with scripted(Answer(body=content)) as server:
        assert run(["blob", "get", "3", "--url", server.url]) == 0
    assert capfdbinary.readouterr().out == content


def test_an_operator_speaks_with_the_nodes_own_token(tmp_path, capsys):
    with scripted(Answer(value={"id": "7", "token": "pnw1.7.x"})) as server:
        (tmp_path / "operator.token").write_text("op\n")
        (tmp_path / "node.json").write_text(json.dumps({"url": server.url, "pid": 1}))
        assert run(["worker", "create", "--label", "a=b", "--data", str(tmp_path)]) == 0
    assert server.received[0].headers["authorization"] == "Bearer op"
    assert server.received[0].json == {"labels": {"a": "b"}}
    assert "pnw1.7.x" in capsys.readouterr().out


def test_a_data_directory_without_a_node_is_explained(tmp_path, capsys):
    assert run(["status", "--data", str(tmp_path)]) == 1
    shown = capsys.readouterr().err
    assert "no node has run" in shown
    assert f"peernode up --data {tmp_path}" in shown


PIN = "A" * 43


def test_a_worker_attaches_where_its_token_says():
    assert read_token("pnw1.77.secret") == (77, "")
    assert read_token(f"pnw1.77.secret.{PIN}") == (77, PIN)
    assert read_token(f"pnw1.77.secret..{PIN}") == (77, f"n{PIN}")
    assert attach_url("http://127.0.0.1:1", 77, f"n{PIN}") == "ws://127.0.0.1:1/worker/77/attach"
    assert attach_url("https://node:1/", 77, PIN) == "wss://node:1/worker/77/attach"
    assert attach_url("http://127.0.0.1:1", 77, "") == "ws://127.0.0.1:1/worker/77/attach"


@pytest.mark.parametrize(
    ("url", "token", "says"),
    [
        ("https://node:1", "secret", "not a worker's token"),
        ("https://node:1", "pnw1.77.secret.short", "copy all of it"),
        ("http://127.0.0.1:1", "pnw1.77.secret..short", "copy all of it"),
        ("http://127.0.0.1:1", f"pnw1.77.secret..{PIN}.x", "copy all of it"),
        ("http://node:1", "pnw1.77.secret", "plain HTTP to another machine"),
        ("http://127.0.0.1:1", f"pnw1.77.secret.{PIN}", "speaks TLS"),
        ("https://node:1", "", "does not hold the key of one worker (none)"),
    ],
)
def test_a_worker_does_not_attach_unsafely(url, token, says, tmp_path, capsys):
    command = ["worker", "attach", url, "--token", token, "--directory", str(tmp_path)]
    assert run(command) == 2
    assert says in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_a_kept_pin_is_not_taken_away_by_a_token_without_one(tmp_path, capsys):
    (tmp_path / "worker-77.pin").write_text(PIN)
    (tmp_path / "worker-77.key").write_bytes(b"k" * 32)
    for token in ("", "pnw1.77.secret"):
        command = ["worker", "attach", "http://127.0.0.1:1", "--directory", str(tmp_path)]
        assert run([*command, "--token", token]) == 2
        assert "speaks TLS" in capsys.readouterr().err
    (tmp_path / "worker-77.pin").write_text("nonsense")
    assert run(["worker", "attach", "https://127.0.0.1:1", "--directory", str(tmp_path)]) == 1
    assert "not the pin of a certificate" in capsys.readouterr().err


def test_wrong_settings_of_a_node_are_wrong_usage(tmp_path, capsys):
    assert run(["up", "--data", str(tmp_path), "--http", "0.0.0.0:80"]) == 2
    assert "without TLS" in capsys.readouterr().err


def test_the_doctor_finds_what_is_wrong(tmp_path, capsys, config_home):
    path = config_home / "peernode" / "config.toml"
    settings.remember(path, "http://127.0.0.1:1", "ada", "t", "x")
    path.chmod(0o644)
    refused = Answer(401, {"code": "token_expired", "detail": "the token has expired"})
    with scripted(Answer(value={"status": "ok", "node_id": "1"}), refused) as server:
        settings.remember(config_home / "x.toml", server.url, "ada", "t", "x")
        path.write_text((config_home / "x.toml").read_text())
        assert run(["doctor", "--json"]) == 1
    found = {item["subject"]: item["verdict"] for item in json.loads(capsys.readouterr().out)}
    is_here = importlib.util.find_spec("openvino") is not None
    assert found["openvino"] == ("ok" if is_here else "note")
    assert found["settings"] == "wrong"
    assert found["node"] == "ok"
    assert found["token"] == "wrong"


@pytest.mark.slow
def test_help_needs_nothing_heavy():
    """`--help` in under 0.3 s: shown by what is not imported, which no busy machine can upset."""
    code = (
        "import sys; from peernode.cli.app import run; run(['--help']);"
        "print([name for name in ('httpx', 'trio', 'msgspec', 'lmdb', 'starlette', 'PIL', 'libp2p')"
        " if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
    for command in ("up", "login", "run", "job", "blob", "kv", "demo", "worker"):
        assert f" {command} " in done.stdout


ENTRY = """
[peernode.commands]
more = more_commands:app
status = more_commands:app
"""
MORE = """
import typer

app = typer.Typer(help="More commands.", no_args_is_help=True)


@app.command()
def add(one: int, other: int) -> None:
    print(one + other)


@app.command()
def nothing() -> None:
    pass
"""


@pytest.fixture
def more_commands(monkeypatch, tmp_path):
    """Another distribution, installed, whose commands belong to `peernode`."""
    information = tmp_path / "more-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: more\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(ENTRY)
    (tmp_path / "more_commands.py").write_text(MORE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("more_commands", None)


def test_commands_of_other_packages_are_found_by_their_entry_points(more_commands, capsys):
    assert run(["more", "add", "1", "2"]) == 0
    assert capsys.readouterr().out == "3\n"
    assert run(["--help"]) == 0
    assert "More commands." in capsys.readouterr().out


def test_no_other_package_takes_a_command_of_ours(more_commands, capsys):
    assert run(["status", "--help"]) == 0
    assert "Say how the node is" in capsys.readouterr().out


def test_other_packages_are_loaded_only_when_they_are_asked_for(more_commands):
    run(["job", "--help"])
    assert "more_commands" not in sys.modules


def test_no_words_of_help_are_taken_for_markup():
    def helps(command: Any, name: str) -> Iterator[tuple[str, str]]:
        yield name, command.help or ""
        for parameter in command.params:
            yield f"{name} {parameter.name}", getattr(parameter, "help", None) or ""
        for below, child in getattr(command, "commands", {}).items():
            yield from helps(child, f"{name} {below}")

    for name, text in helps(typer.main.get_command(app), "peernode"):
        assert Text.from_markup(text).plain == text, name
