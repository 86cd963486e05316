"""A node proves that it is the one a token is for, before the token is sent."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, strategies as st

from peernode import client as sdk, node_proof, sessions
from peernode.cli.app import run
from peernode.client import proof, settings
from peernode.client.effects import Reply
from storage import signing
from storage.clock import SystemClock, SystemEntropy
from storage.signing import Keypair
from tests.peernode.nodes import SECRETS, Caller, Lab, open_lab
from tests.peernode.scripted_server import Answer, ScriptedServer, scripted

NODE, OTHER = Keypair.from_seed(b"n" * 32), Keypair.from_seed(b"o" * 32)
USER = Keypair.from_seed(b"u" * 32)
CHALLENGE = bytes(range(32))
LATER = "2099-01-01T00:00:00.000Z"
PAGE = Answer(value={"items": [], "next": None})


def token_for(*nodes: Keypair) -> str:
    audience = [node.public_key for node in nodes]
    token, _ = sessions.issue(
        1 << 40, 0, USER, audience, mesh=b"m" * 32, clock=SystemClock(), entropy=SystemEntropy()
    )
    return token


class Proving(ScriptedServer):
    """A server that proves to be a node when it is asked, besides what its script says."""

    node: Keypair | None = NODE
    host = ""
    """What it signs for; empty: what it is asked as."""

    def answer_to(self, received: Any) -> Answer | None:
        challenge = received.query.get("challenge")
        if challenge is None:
            return None
        if self.node is None:
            return Answer(value={"status": "ok"})
        host = self.host or received.headers["host"]
        signature = node_proof.sign(self.node, bytes.fromhex(challenge), host)
        return Answer(value={"status": "ok", "proof": signature.hex()})


@pytest.fixture(autouse=True)
def path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in ("PEERNODE_URL", "PEERNODE_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "peernode" / "config.toml"


def sent(server: ScriptedServer) -> list[str]:
    """Return what a server was shown of tokens, request by request."""
    return [each.headers.get("authorization", "") for each in server.received]


# --- the statement --------------------------------------------------------------------------------


def test_a_proof_is_good_for_one_node_challenge_and_host() -> None:
    signature = node_proof.sign(NODE, CHALLENGE, "127.0.0.1:8440")
    key = NODE.public_key
    assert node_proof.is_signed_by(key, CHALLENGE, "127.0.0.1:8440", signature)
    assert not node_proof.is_signed_by(OTHER.public_key, CHALLENGE, "127.0.0.1:8440", signature)
    assert not node_proof.is_signed_by(key, bytes(32), "127.0.0.1:8440", signature)
    assert not node_proof.is_signed_by(key, CHALLENGE, "127.0.0.1:8441", signature)
    assert not node_proof.is_signed_by(key, CHALLENGE, "127.0.0.1:8440", signature[:-1])
    assert not node_proof.is_signed_by(b"", CHALLENGE, "127.0.0.1:8440", signature)


def test_golden_signature() -> None:
    """Clients of other versions check this. A new layout is a new version."""
    assert node_proof.sign(NODE, CHALLENGE, "Node.example").hex() == GOLDEN_SIGNATURE


GOLDEN_SIGNATURE = (
    "614a7d0b0343de18c6fc7eb130a5385ce1ba8307a1e9356d056ab85faf0d0d65"
    "a5a3045a868a1b7d17ada8d80668df250a22bc04fa0a6d2ae4dae922d990bc05"
)


@pytest.mark.parametrize(
    ("host", "address", "scheme", "expected"),
    [
        ("127.0.0.1:8440", ("127.0.0.1", 8440), "http", True),
        ("localhost:8440", ("127.0.0.1", 8440), "http", True),
        ("LOCALHOST:8440", ("::1", 8440), "http", True),
        ("[::1]:8440", ("::1", 8440), "http", True),
        ("192.0.2.7", ("192.0.2.7", 80), "http", True),
        ("192.0.2.7", ("::ffff:192.0.2.7", 80), "http", True),
        ("node.example:8440", ("192.0.2.7", 8440), "http", True),
        ("node.example", ("192.0.2.7", 443), "https", True),
        ("127.0.0.1:8441", ("127.0.0.1", 8440), "http", False),
        ("127.0.0.2:8440", ("127.0.0.1", 8440), "http", False),
        ("127.0.0.1:8440", ("192.0.2.7", 8440), "http", False),
        ("localhost:8440", ("192.0.2.7", 8440), "http", False),
        ("node.example", ("192.0.2.7", 8440), "http", False),
        ("", ("127.0.0.1", 8440), "http", False),
        ("a b:8440", ("127.0.0.1", 8440), "http", False),
        ("x" * 400 + ":8440", ("127.0.0.1", 8440), "http", False),
    ],
)
def test_a_node_signs_only_for_where_it_can_be(
    host: str, address: tuple[str, int], scheme: str, expected: bool
) -> None:
    assert node_proof.can_be(host, address, scheme) is expected


@given(st.text(max_size=60), st.text(max_size=40), st.integers(0, 1 << 16))
def test_no_host_breaks_the_rule(host: str, address: str, port: int) -> None:
    assert node_proof.can_be(host, (address, port), "http") in (True, False)


# --- what a node answers --------------------------------------------------------------------------


async def health(lab: Lab, host: str, server: tuple[str, int], challenge: str) -> httpx.Response:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await lab.node.api({**scope, "server": server}, receive, send)

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as http:
        return await http.get("/health", params={"challenge": challenge})


async def test_health_answers_a_challenge_where_the_node_can_be(autojump_clock: Any) -> None:
    key = Keypair.from_seed(SECRETS.seed).public_key
    async with open_lab() as lab:
        where = "127.0.0.1", 8440
        answer = await health(lab, "127.0.0.1:8440", where, CHALLENGE.hex())
        signature = bytes.fromhex(answer.json()["proof"])
        assert node_proof.is_signed_by(key, CHALLENGE, "127.0.0.1:8440", signature)
        assert answer.json()["peer_id"] == signing.peer_id(key)
        elsewhere = await health(lab, "127.0.0.1:9999", where, CHALLENGE.hex())
        assert (elsewhere.status_code, "proof" in elsewhere.json()) == (200, False)
        for wrong in ("", "00", CHALLENGE.hex().upper(), "zz" * 32, CHALLENGE.hex() + "00"):
            refused = await health(lab, "127.0.0.1:8440", where, wrong)
            assert (refused.status_code, refused.json()["field"]) == (422, "challenge")
        assert "proof" not in await Caller(lab.node).get("/health")


async def test_behind_a_proxy_a_node_signs_for_the_proxys_host(autojump_clock: Any) -> None:
    async with open_lab(behind_proxy=True) as lab:
        answer = await health(lab, "node.example", ("127.0.0.1", 8440), CHALLENGE.hex())
        assert "proof" in answer.json()


# --- what a client does ---------------------------------------------------------------------------


def test_a_token_is_sent_to_the_node_that_it_is_for_and_asked_once() -> None:
    token = token_for(OTHER, NODE)
    with scripted(PAGE, PAGE, kind=Proving) as server, sdk.Client(server.url, token) as client:
        for _ in range(2):
            assert [*client.list("project")] == []
        assert sent(server) == ["", f"Bearer {token}", f"Bearer {token}"]


@pytest.mark.parametrize(
    ("node", "host"), [(OTHER, ""), (None, ""), (NODE, "127.0.0.1:1"), (NODE, "localhost")]
)
def test_whoever_is_not_that_node_sees_no_token(node: Keypair | None, host: str) -> None:
    with scripted(PAGE, kind=Proving) as server:
        server.node, server.host = node, host
        with sdk.Client(server.url, token_for(NODE)) as client:
            for _ in range(2):
                with pytest.raises(sdk.WrongNode, match="did not prove"):
                    [*client.list("project")]
            with pytest.raises(sdk.WrongNode):
                client.job("1").logs()
        assert set(sent(server)) == {""}


async def test_the_client_on_trio_asks_too() -> None:
    token = token_for(NODE)
    with scripted(PAGE, kind=Proving) as server:
        async with sdk.AsyncClient(server.url, token) as client:
            assert [item async for item in client.list("project")] == []
        assert sent(server) == ["", f"Bearer {token}"]
    with scripted(PAGE, kind=Proving) as server:
        server.node = OTHER
        async with sdk.AsyncClient(server.url, token) as client:
            with pytest.raises(sdk.WrongNode):
                await client.get("project", "1")
        assert sent(server) == [""]


def test_after_a_lost_connection_it_is_asked_again() -> None:
    token = token_for(NODE)
    with scripted(Answer(cut_after=0), PAGE, kind=Proving) as server:
        with sdk.Client(server.url, token, sleep=lambda _: None) as client:
            assert [*client.list("project")] == []
        shown = f"Bearer {token}"
        assert sent(server) == ["", shown, "", shown]


def test_a_token_that_names_no_node_is_sent_as_it_is() -> None:
    with scripted(PAGE, kind=Proving) as server, sdk.Client(server.url, "secret") as client:
        assert [*client.list("project")] == []
        assert sent(server) == ["Bearer secret"]


def test_over_tls_nothing_is_asked() -> None:
    assert proof.want("https://node.example", (NODE.public_key,), CHALLENGE) is None
    assert proof.want("http://node.example", (), CHALLENGE) is None
    assert proof.want("http://node.example", (NODE.public_key,), CHALLENGE) is not None


@given(st.binary(max_size=200))
def test_noise_is_no_proof(content: bytes) -> None:
    wanted = proof.want("http://node.example", (NODE.public_key,), CHALLENGE)
    assert wanted is not None
    with pytest.raises(sdk.WrongNode):
        proof.check(wanted, Reply(status=200, headers={}, content=content))


@given(st.text(max_size=80))
def test_any_text_may_be_a_token(text: str) -> None:
    assert proof.audience(text) == proof.audience("pn1." + text) == ()


# --- what the commands do -------------------------------------------------------------------------


def test_a_command_gives_no_token_to_whoever_claims_to_be_another_node(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    claim = Answer(value={"status": "ok", "node_id": "2", "peer_id": "12D3KooWyou"})
    made = Answer(value={"token": token_for(NODE), "expires_at": LATER})
    with scripted(made) as home, scripted(claim, PAGE, kind=Proving) as other:
        other.node = OTHER
        settings.remember(path, home.url, "ada", "at-home", LATER)
        assert run(["project", "ls", "--url", other.url]) == 0
        assert set(sent(other)) == {""}
        assert other.url not in settings.load(path)["node"]
    assert "did not prove" in capsys.readouterr().err


def login(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    monkeypatch.setattr("sys.stdin.readline", lambda: "pw\n", raising=False)
    return run(["login", "ada", "--password-stdin", "--url", server.url, *options])


def test_a_password_goes_to_the_node_that_was_logged_in_at_before(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = Answer(value={"token": token_for(NODE), "expires_at": LATER})
    new = Answer(value={"token": token_for(OTHER), "expires_at": LATER})
    with scripted(mine, mine, new, kind=Proving) as server:
        assert login(server, monkeypatch) == 0  # The first time it is believed,
        assert settings.load(path)["node"][server.url]["key"] == NODE.public_key.hex()
        assert login(server, monkeypatch) == 0  # from then on it is the same,
        server.node = OTHER
        before = len(server.received)
        assert login(server, monkeypatch) != 0  # and another gets nothing,
        assert [each.path for each in server.received[before:]] == ["/health"]
        assert "--new-node" in capsys.readouterr().err
        assert login(server, monkeypatch, "--new-node") == 0  # unless that is meant.
        assert settings.load(path)["node"][server.url]["key"] == OTHER.public_key.hex()


def test_an_operators_token_goes_to_the_node_of_its_directory(tmp_path: Path) -> None:
    (tmp_path / "operator.token").write_text("pno1.secret\n")
    for node, shown in ((NODE, ["", "Bearer pno1.secret"]), (OTHER, [""])):
        with scripted(Answer(value={"items": []}), kind=Proving) as server:
            server.node = node
            peer_id = signing.peer_id(NODE.public_key)
            address = {"url": server.url, "pid": 1, "peer_id": peer_id}
            (tmp_path / "node.json").write_text(json.dumps(address))
            code = run(["peers", "--data", str(tmp_path), "--json"])
            assert (code == 0) is (node is NODE)
            assert sent(server) == shown
