"""Workers of a node with a certificate that no authority knows: the token says whom to trust."""

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from tests.blackbox.daemon import Daemon, Person, end_with_parent, expect
from tests.worker.certificates import new_key, server_context, write_pair

pytestmark = pytest.mark.slow

ECHO = "def handler(input):\n    return input\n"


@contextmanager
def attached(url: str, token: str, directory: Path) -> "Iterator[subprocess.Popen[str]]":
    command = [sys.executable, "-m", "peernode", "worker", "attach", url, "--slots", "1"]
    command += ["--directory", str(directory), *(["--token", token] if token else [])]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, preexec_fn=end_with_parent
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return int(server.getsockname()[1])


@contextmanager
def impostor(pair: str) -> Iterator[tuple[str, list[bytes]]]:
    """Answer TLS with another certificate; yield where, and what was heard."""
    heard: list[bytes] = []
    server = socket.create_server(("127.0.0.1", 0))
    context = server_context(pair)

    def serve() -> None:
        with ExitStack() as stack:
            while True:
                try:
                    accepted, _ = server.accept()
                except OSError:
                    return
                stack.enter_context(accepted)
                try:
                    with context.wrap_socket(accepted, server_side=True) as stream:
                        while data := stream.recv(4096):
                            heard.append(data)
                except OSError:
                    pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.getsockname()[1]}", heard
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(10)


def again(node: Daemon, person: Person) -> Person:
    """Return the user, logged in at a node that was started anew."""
    token = node.login(person.name)
    return Person(person.id, person.name, token, node.client(token))


def begin(node: Daemon) -> tuple[Person, str]:
    person = node.sign_up("ada")
    return person, person.deploy(person.project("p"), "echo", ECHO)


def test_a_pinned_worker_comes_back_over_a_renewed_certificate_and_to_nobody_else(
    tmp_path: Path,
) -> None:
    key, http, directory = new_key(), f"127.0.0.1:{free_port()}", tmp_path / "worker"

    def node(pair: str) -> Daemon:
        return Daemon(
            tmp_path / "data", workers=0, arguments=["--tls", pair], http=http, verify=False
        )

    with node(write_pair(tmp_path, key)) as first:
        person, echo = begin(first)
        made = expect(first.operator().post("/worker", json={}), 201)
        assert made["token"].count(".") == 3, "the token carries the pin"
        wrong = made["token"].rpartition(".")[0] + "." + "A" * 43
        with attached(first.url, wrong, tmp_path / "other") as refused:
            assert refused.wait(30) == 1
            assert refused.stderr is not None
            said = refused.stderr.read()
            assert "does not have the key that the token names" in said
            assert "`peernode worker create`" in said
        with attached(first.url, made["token"], directory):
            assert person.run(echo, 1)["worker"] == made["id"], "no token was burnt before"
        pair = write_pair(tmp_path, new_key(), "impostor")
        with impostor(pair) as (url, heard), attached(url, "", directory) as process:
            assert process.wait(30) == 1
            assert heard == []
    with node(write_pair(tmp_path, key, "renewed")) as second:
        person = again(second, person)
        with attached(second.url, "", directory):  # its own key and the kept pin are enough
            assert person.run(echo, 2)["worker"] == made["id"]
            second.stop()
            with node(write_pair(tmp_path, new_key(), "other")) as third:
                # Who is attached already goes on trying: somebody else may only be in between.
                person = again(third, person)
                waiting = person.hand_in(echo, 3)["id"]
                found = expect(person.http.get(f"/job/{waiting}", params={"wait": 1}))
                assert found["state"] == "queued"
            second.start()
            person = again(second, person)
            assert person.ended(waiting)["worker"] == made["id"]


def test_the_operator_of_a_node_with_tls_uses_its_own_door(tmp_path: Path) -> None:
    pair = write_pair(tmp_path, new_key())
    with Daemon(tmp_path / "data", workers=0, arguments=["--tls", pair], verify=False) as node:
        command = [sys.executable, "-m", "peernode", "worker", "create", "--data", str(node.data)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert f"peernode worker attach {node.url} --token" in done.stderr + done.stdout
