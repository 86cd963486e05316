"""Which hosts a function may reach, and where their names may lead."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio

from worker.egress import Egress, EgressError, is_allowed
from worker.egress_addresses import is_reachable, parse_networks


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        (("https", "example.org", None), ["example.org"]),
        (("https", "example.org", 8443), ["example.org"]),
        (("https", "example.org", None), ["other.org", "example.org:443"]),
        (("http", "example.org", None), ["example.org:80"]),
        (("http", "EXAMPLE.org", 81), ["example.ORG:81"]),
        (("http", "::1", 8080), ["[::1]:8080"]),
    ],
)
def test_listed_hosts_are_allowed(url: tuple[str, str, int | None], allowed: list[str]) -> None:
    assert is_allowed(*url, allowed)


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        (("https", "example.org", None), []),
        (("https", "example.org", None), ["example.org:80"]),
        (("https", "example.org.evil.net", None), ["example.org"]),
        (("https", "evil-example.org", None), ["example.org"]),
        (("https", "sub.example.org", None), ["example.org"]),
        (("ftp", "example.org", None), ["example.org"]),
        (("http", "", None), [""]),
    ],
)
def test_others_are_not(url: tuple[str, str, int | None], allowed: list[str]) -> None:
    assert not is_allowed(*url, allowed)


# --- where a name may lead ---------------------------------------------------------------------


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"])
def test_public_addresses_are_reached(address: str) -> None:
    assert is_reachable(address, ())


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "10.1.2.3",
        "100.64.0.1",
        "127.0.0.1",
        "127.255.255.254",
        "169.254.169.254",
        "172.16.0.1",
        "192.0.2.1",
        "192.168.1.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::7f00:1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "64:ff9b:1::a00:1",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::",
        "2001:0:7f00:1::",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fe80::1%eth0",
        "ff02::1",
        "2001:db8::1",
        "example.org",
        "",
    ],
)
def test_all_others_are_not(address: str) -> None:
    assert not is_reachable(address, ())


def test_an_operator_names_networks_that_are() -> None:
    networks = parse_networks("10.1.0.0/16, fd00::/8,127.0.0.1/32")
    for address in ("10.1.2.3", "::ffff:10.1.2.3", "fd12::1", "127.0.0.1"):
        assert is_reachable(address, networks), address
    for address in ("10.2.0.1", "::1", "127.0.0.2", "169.254.169.254"):
        assert not is_reachable(address, networks), address


@pytest.mark.parametrize("text", ["10.0.0.1/8", "ten", "10.0.0.0/33", ",".join(["::1"] * 65)])
def test_networks_that_are_none_are_named(text: str) -> None:
    with pytest.raises(ValueError, match="network"):
        parse_networks(text)


@dataclass
class Names:
    """A name server that answers what it is told, one answer a question."""

    answers: list[list[str]]
    asked: list[tuple[str, int]] = field(default_factory=list)

    async def resolve(self, host: str, port: int) -> list[str]:
        self.asked.append((host, port))
        return self.answers[min(len(self.asked), len(self.answers)) - 1]


@asynccontextmanager
async def open_echo() -> AsyncIterator[tuple[int, list[bytes]]]:
    """Run an HTTP server on the loopback that keeps connections; yield its port, and requests."""
    heads: list[bytes] = []

    async def serve(stream: trio.SocketStream) -> None:
        unread = b""
        while data := await stream.receive_some():
            unread += data
            while b"\r\n\r\n" in unread:
                head, _, unread = unread.partition(b"\r\n\r\n")
                heads.append(head)
                await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield listener.socket.getsockname()[1], heads
        nursery.cancel_scope.cancel()


def ask(url: str) -> dict[str, object]:
    return {"method": "GET", "url": url, "headers": "{}", "body": b"", "timeout_s": 5.0}


@asynccontextmanager
async def open_egress(names: Names, networks: str = "127.0.0.0/8") -> AsyncIterator[Egress]:
    egress = Egress(parse_networks(networks), names.resolve)
    try:
        yield egress
    finally:
        await egress.aclose()


async def test_a_name_is_asked_for_once_and_stays_the_hosts_name() -> None:
    names = Names([["127.0.0.1"]])
    async with open_echo() as (port, heads), open_egress(names) as egress:
        url = f"http://example.org:{port}/"
        assert (await egress.request(ask(url), ["example.org"]))["content"] == b"ok"
        assert (await egress.request(ask(url), ["example.org"]))["content"] == b"ok"
        assert names.asked == [("example.org", port)]
        assert all(f"Host: example.org:{port}".encode() in head for head in heads)


async def test_a_name_that_is_bound_anew_between_two_answers_gains_nothing() -> None:
    """What is judged is what is connected to: there is no second question in between."""
    names = Names([["127.0.0.2"], ["127.0.0.1"]])
    async with open_echo() as (port, heads), open_egress(names, "127.0.0.2/32") as egress:
        for code in ("unreachable", "private_address"):
            with pytest.raises(EgressError, match=f"^{code}$"):
                await egress.request(ask(f"http://example.org:{port}/"), ["example.org"])
        assert not heads


async def test_of_several_addresses_only_reachable_ones_are_tried() -> None:
    names = Names([["169.254.169.254", "10.0.0.1", "127.0.0.1"]])
    async with open_echo() as (port, heads), open_egress(names) as egress:
        await egress.request(ask(f"http://example.org:{port}/"), ["example.org"])
        assert len(heads) == 1


@pytest.mark.parametrize(
    ("answers", "code"),
    [(["10.0.0.1", "::1"], "private_address"), ([], "unreachable"), (["127.0.0.1"], "unreachable")],
)
async def test_a_name_that_leads_nowhere_says_why(answers: list[str], code: str) -> None:
    names = Names([answers])
    async with open_egress(names) as egress:
        with pytest.raises(EgressError, match=f"^{code}$"):
            await egress.request(ask("http://example.org:1/"), ["example.org"])
