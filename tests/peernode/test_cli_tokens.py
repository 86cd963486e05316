"""A command that speaks to another node of the mesh has a token for it, from the user's home."""

import pytest

from peernode.cli.app import run
from peernode.client import settings
from tests.peernode.scripted_server import Answer, scripted

LATER, BEFORE = "2099-01-01T00:00:00.000Z", "2020-01-01T00:00:00.000Z"
PAGE = Answer(value={"items": [], "next": None})
HEALTH = Answer(value={"status": "ok", "node_id": "2", "peer_id": "12D3KooWyou"})


@pytest.fixture(autouse=True)
def path(monkeypatch, tmp_path):
    for name in ("PEERNODE_URL", "PEERNODE_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "peernode" / "config.toml"


def token(text, expires_at=LATER):
    return Answer(value={"token": text, "expires_at": expires_at})


def authorizations(server):
    return [each.headers.get("authorization") for each in server.received]


def test_it_is_fetched_once_and_the_home_stays_the_home(path):
    with scripted(token("for-2")) as home, scripted(HEALTH, PAGE, PAGE) as other:
        settings.remember(path, home.url, "ada", "at-home", LATER)
        for _ in range(2):
            assert run(["project", "ls", "--url", other.url]) == 0
    (asked,) = home.received
    assert (asked.path, asked.json) == ("/user/ada/delegate", {"audience": ["2"]})
    assert authorizations(home) == ["Bearer at-home"]
    assert authorizations(other) == [None, "Bearer for-2", "Bearer for-2"]
    assert settings.load(path)["default"] == home.url


def test_one_that_has_ended_is_fetched_again(path):
    with scripted(token("new")) as home, scripted(HEALTH, PAGE) as other:
        settings.remember(path, other.url, "ada", "old", BEFORE)
        settings.remember(path, home.url, "ada", "at-home", LATER)
        assert run(["project", "ls", "--url", other.url]) == 0
    assert authorizations(other)[-1] == "Bearer new"


def test_a_token_of_the_environment_is_left_alone(path, monkeypatch):
    with scripted() as home, scripted(PAGE) as other:
        settings.remember(path, home.url, "ada", "at-home", LATER)
        monkeypatch.setenv("PEERNODE_TOKEN", "mine")
        assert run(["project", "ls", "--url", other.url]) == 0
    assert home.received == []
    assert authorizations(other) == ["Bearer mine"]


def test_a_home_that_gives_none_is_said_and_the_node_decides(path, capsys):
    problem = {"status": 400, "code": "invalid_field", "title": "x", "detail": "no node '2'"}
    with scripted(Answer(400, value=problem)) as home, scripted(HEALTH, PAGE) as other:
        settings.remember(path, home.url, "ada", "at-home", LATER)
        assert run(["project", "ls", "--url", other.url]) == 0
    assert authorizations(other) == [None, None]
    assert "no node '2'" in capsys.readouterr().err


def test_a_login_asks_no_home(path, monkeypatch):
    monkeypatch.setattr("sys.stdin.readline", lambda: "pw\n", raising=False)
    with scripted() as home, scripted(token("t")) as other:
        settings.remember(path, home.url, "ada", "at-home", LATER)
        assert run(["login", "ada", "--password-stdin", "--url", other.url]) == 0
    assert home.received == []
    assert settings.load(path)["default"] == other.url
