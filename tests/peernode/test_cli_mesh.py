"""What the commands about the mesh send, say and refuse. Joining for real is in `blackbox`."""

import json

import pytest

from peernode import mesh_invites
from peernode.cli.app import run
from storage.signing import Keypair
from tests.peernode.nodes import SeededEntropy, WallClock
from tests.peernode.scripted_server import Answer, scripted

INVITE = {
    "invite": "pnm1.AAAA",
    "peer_id": "12D3KooWme",
    "addresses": ["/ip4/192.0.2.7/tcp/1"],
    "expires_at": "2027-01-16T08:00:00.000Z",
}
PEERS = {
    "items": [
        {
            "node_id": "1",
            "peer_id": "12D3KooWme",
            "state": "self",
            "addresses": ["/ip4/192.0.2.7/tcp/1"],
            "latency_s": None,
            "seen_at": None,
            "synced_at": None,
            "admitted_by": "1",
        },
        {
            "node_id": "2",
            "peer_id": "12D3KooWyou",
            "state": "up",
            "addresses": ["/ip4/192.0.2.8/tcp/1", "/dns4/you.example/tcp/1"],
            "latency_s": 0.0123,
            "seen_at": "2027-01-15T08:00:00.000Z",
            "synced_at": "2027-01-15T08:00:01.000Z",
            "admitted_by": "1",
        },
    ]
}


@pytest.fixture(autouse=True)
def config_home(monkeypatch, tmp_path):
    for name in ("PEERNODE_URL", "PEERNODE_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def data(tmp_path):
    """Return a data directory; its node is wherever the test says."""
    directory = tmp_path / "peernode-data"
    directory.mkdir()
    (directory / "operator.token").write_text("pno1.secret\n")
    return directory


def at(data, server):
    (data / "node.json").write_text(json.dumps({"url": server.url, "pid": 1}))


def good_invite():
    keys = (Keypair.from_seed(seed * 32).public_key for seed in (b"i",))
    return mesh_invites.write(
        mesh_invites.make("pno1.x", b"m" * 32, *keys, (), SeededEntropy(), WallClock())
    )


def test_the_invite_is_the_first_line_and_alone(data, capsys):
    with scripted(Answer(201, INVITE)) as server:
        at(data, server)
        address = ["--address", "/ip4/1.2.3.4/tcp/5"]
        assert run(["invite", "--data", str(data), "--ttl-s", "60", *address]) == 0
        (sent,) = server.received
        assert (sent.method, sent.path) == ("POST", "/mesh/invite")
        assert json.loads(sent.body) == {"ttl_s": 60.0, "addresses": ["/ip4/1.2.3.4/tcp/5"]}
        assert sent.headers["authorization"] == "Bearer pno1.secret"
    shown = capsys.readouterr()
    assert shown.out.splitlines()[0] == "pnm1.AAAA"
    assert "12D3KooWme" in shown.err
    assert "2027-01-16" in shown.err


def test_without_data_it_is_the_directory_that_up_would_take(data, capsys):
    with scripted(Answer(201, INVITE)) as server:
        at(data, server)
        assert run(["invite", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == INVITE


def test_an_invite_for_a_person_needs_no_node(data, capsys):
    assert run(["invite", "--user", "--data", str(data)]) == 0
    assert capsys.readouterr().out.startswith("pni1.")


def test_peers_are_a_table_or_json(data, capsys):
    with scripted(Answer(200, PEERS), Answer(200, PEERS)) as server:
        at(data, server)
        assert run(["peers"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert run(["peers", "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == PEERS["items"]
    assert lines[0].split("\t")[:3] == ["node_id", "state", "latency"]
    assert lines[1].split("\t")[:3] == ["1", "self", ""]
    assert lines[2].split("\t")[:3] == ["2", "up", "12.3 ms"]
    assert "/ip4/192.0.2.8/tcp/1 /dns4/you.example/tcp/1" in lines[2]


def test_evicting_says_who_is_out(data, capsys):
    with scripted(Answer(200, PEERS["items"][1] | {"state": "evicted"})) as server:
        at(data, server)
        assert run(["evict", "2", "--reason", "left", "--distrust"]) == 0
        (sent,) = server.received
        assert (sent.method, sent.path) == ("POST", "/mesh/evict")
        assert json.loads(sent.body) == {"node": "2", "reason": "left", "distrust": True}
    assert "evicted" in capsys.readouterr().out


def test_resolving_says_how_the_node_is(data, capsys):
    with scripted(Answer(200, PEERS["items"][0])) as server:
        at(data, server)
        assert run(["resolve"]) == 0
        (sent,) = server.received
        assert (sent.method, sent.path) == ("POST", "/mesh/resolve")
    assert "self" in capsys.readouterr().out


def test_a_node_that_does_not_run_is_exit_code_3(data, capsys):
    (data / "node.json").write_text(json.dumps({"url": "http://127.0.0.1:9", "pid": 1}))
    assert run(["peers"]) == 3
    assert run(["peers", "--data", str(data / "nowhere")]) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [("hello", "not an invite"), ("pni1.AAAA", "for a user"), ("pnm1.AAAA", "not copied whole")],
)
def test_what_is_no_invite_is_said_before_anything_is_made(text, says, tmp_path, capsys):
    assert run(["join", text, "--data", str(tmp_path / "new")]) == 1
    assert says in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_an_invite_that_names_no_address_reaches_nobody(tmp_path, capsys):
    data = str(tmp_path / "new")
    assert run(["join", good_invite(), "--data", data, "--timeout-s", "0.1", "--json"]) == 1
    said = json.loads(capsys.readouterr().err)
    assert "no admission" in said["detail"]
