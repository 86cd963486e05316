"""Settings: where they come from, who wins, and what a mistake is called."""

from pathlib import Path

import pytest

from peernode.config import Config, ConfigError, load

P2P = "/ip4/0.0.0.0/tcp/4001"


def test_without_any_source_the_defaults_hold() -> None:
    assert load() == Config()
    assert load(flags={"http": None}) == Config()


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('http = "127.0.0.1:1"\nmesh_name = "file"\ndrain_s = 1.5\nworkers = 3\n')
    environment = {"PEERNODE_HTTP": "127.0.0.1:2", "PEERNODE_MESH_NAME": "environment"}
    config = load(file, environment, {"http": "127.0.0.1:3", "mesh_name": None})
    assert (config.http, config.mesh_name) == ("127.0.0.1:3", "environment")
    assert (config.drain_s, config.workers) == (1.5, 3)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("workers", "auto", "auto"),
        ("workers", "4", 4),
        ("behind_proxy", "true", True),
        ("behind_proxy", "0", False),
        ("lease_s", "2.5", 2.5),
        ("data", "/var/lib/peernode", Path("/var/lib/peernode")),
        ("signup", "open", "open"),
    ],
)
def test_text_from_the_environment_becomes_what_the_setting_is(
    name: str, text: str, value: object
) -> None:
    config = load(environment={f"PEERNODE_{name.upper()}": text, "HOME": "/root"})
    assert getattr(config, name) == value


def test_variables_of_the_client_are_no_settings() -> None:
    environment = {"PEERNODE_URL": "http://x", "PEERNODE_TOKEN": "t", "PEERNODE_CONFIG": "f"}
    assert load(environment=environment) == Config()


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"htpp": "x"}, "htpp"),
        ({"signup": "closed"}, "signup"),
        ({"lease_s": "long"}, "lease_s"),
        ({"workers": 1025}, "workers"),
        ({"job_memory_max_bytes": (16 << 20) - 1}, "job_memory_max_bytes"),
        ({"job_output_max_bytes": 0}, "job_output_max_bytes"),
        ({"job_output_max_bytes": 1 << 51}, "job_output_max_bytes"),
        ({"workers": -1}, "workers"),
        ({"workers": "many"}, "workers"),
        ({"http": "localhost"}, "http"),
        ({"http": "127.0.0.1:99999"}, "http"),
        ({"http": "0.0.0.0:80"}, "http"),
        ({"tls": "only-a-certificate"}, "tls"),
        ({"announce": "/dns4/node.example/tcp/4001"}, "announce: .*p2p"),
        ({"p2p": P2P, "announce": "node.example:4001"}, "announce"),
        (
            {"p2p": P2P, "announce": "/ip4/192.0.2.7/tcp/1,/ip4/0.0.0.0/tcp/4001"},
            r"announce: /ip4/0\.",
        ),
        ({"p2p": P2P, "announce": "/ip4/192.0.2.7/tcp/0"}, "announce"),
        ({"p2p": P2P, "announce": ",".join(["/ip4/192.0.2.7/tcp/1"] * 9)}, "announce"),
    ],
)
def test_a_mistake_is_named(flags: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        load(flags=flags)


def test_a_node_may_be_found_elsewhere_than_where_it_listens() -> None:
    assert load(flags={"p2p": P2P}).announced == ()
    told = "/dns4/node.example/tcp/4001,/ip6/2001:db8::7/tcp/4001"
    config = load(environment={"PEERNODE_P2P": P2P, "PEERNODE_ANNOUNCE": told})
    assert config.announced == ("/dns4/node.example/tcp/4001", "/ip6/2001:db8::7/tcp/4001")


def test_a_variable_that_is_no_setting_is_named() -> None:
    with pytest.raises(ConfigError, match="lease"):
        load(environment={"PEERNODE_LEASE": "3"})


@pytest.mark.parametrize("text", ["http = ", 'http = "a', "\0"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "node.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"node\.toml"):
        load(file)
    with pytest.raises(ConfigError, match="missing"):
        load(tmp_path / "missing.toml")


def test_plain_http_stays_on_this_machine_unless_it_is_meant() -> None:
    for http in ("127.0.0.1:0", "localhost:1", "[::1]:1", "127.8.8.8:1"):
        assert load(flags={"http": http}).on_loopback
    for extra in ({"behind_proxy": True}, {"tls": "c,k"}):
        assert not load(flags={"http": "0.0.0.0:1", **extra}).on_loopback


def test_an_address_has_a_host_and_a_port() -> None:
    assert Config(http="[::1]:80").http_address == ("::1", 80)
    assert Config(http=":80").http_address == ("127.0.0.1", 80)


def test_slots_are_as_many_as_said_or_as_cores() -> None:
    assert Config(workers=3).slots == 3
    assert int(Config().slots) >= 1
