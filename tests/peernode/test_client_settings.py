"""Arguments win over the environment, that over the file; tokens stay with their node."""

import stat

import pytest
from hypothesis import given, strategies as st

from peernode.client import settings
from peernode.client.errors import ConfigurationError

HERE = "http://127.0.0.1:8440"
THERE = "https://node.example:8443"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "config" / "config.toml"


def target(path, url=None, token=None, **environment: str):
    found = settings.target(url, token, environment, path)
    return found.url, found.token


def test_without_anything_it_is_the_local_node_without_a_token(path):
    assert target(path) == (HERE, "")


def test_a_login_is_remembered_for_its_node_alone(path):
    settings.remember(path, THERE, "ada", "secret", "2026-01-01T00:00:00Z")
    assert target(path) == (THERE, "secret")
    assert target(path, url=HERE) == (HERE, "")
    assert target(path, url=THERE + "/") == (THERE, "secret")


def test_several_nodes_are_kept_side_by_side(path):
    settings.remember(path, THERE, "ada", "there", "x")
    settings.remember(path, HERE, "ada", "here", "x")
    assert target(path) == (HERE, "here")
    assert target(path, url=THERE) == (THERE, "there")


def test_the_environment_wins_over_the_file(path):
    settings.remember(path, HERE, "ada", "kept", "x")
    assert target(path, PEERNODE_URL=THERE) == (THERE, "")
    assert target(path, PEERNODE_URL=THERE, PEERNODE_TOKEN="t") == (THERE, "t")
    assert target(path, PEERNODE_TOKEN="t") == (HERE, "t")


def test_arguments_win_over_all(path):
    assert target(path, url=THERE, token="mine", PEERNODE_TOKEN="t") == (THERE, "mine")


def test_the_environments_token_is_not_sent_to_another_node(path):
    assert target(path, url=HERE, PEERNODE_URL=THERE, PEERNODE_TOKEN="t") == (HERE, "")


def test_the_file_is_its_owners_alone(path):
    settings.remember(path, HERE, "ada", "secret", "x")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["config.toml"]


@given(name=st.text(), token=st.text())
def test_any_text_can_be_kept(tmp_path_factory, name, token):
    path = tmp_path_factory.mktemp("settings") / "config.toml"
    settings.remember(path, HERE, name, token, "x")
    assert settings.load(path)["node"][HERE] == {"user": name, "token": token, "expires_at": "x"}


@pytest.mark.parametrize(
    "url", ["", "node", "ftp://node", "http://", "http://node:port", "http://node:99999"]
)
def test_what_is_no_url_of_a_node_is_refused(url, path):
    with pytest.raises(ConfigurationError, match="not the URL"):
        settings.clean_url(url)


def test_a_broken_file_is_named(path):
    path.parent.mkdir()
    path.write_text("default = ")
    with pytest.raises(ConfigurationError, match=r"config\.toml"):
        target(path)


def test_the_files_place_follows_the_xdg_rules(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert settings.config_path({}) == tmp_path / ".config" / "peernode" / "config.toml"
    assert settings.config_path({"XDG_CONFIG_HOME": "/x"}).parts[:2] == ("/", "x")
