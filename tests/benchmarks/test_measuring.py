"""What measures is right itself: a figure that is wrong is worse than none."""

import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from simulations.trials import LATENCY_S
from tests.benchmarks import daemon, figures, load, real_town
from tests.benchmarks.real_town import echoing
from tests.blackbox.lines import UP, Kind, Line, Lines


def test_an_answer_is_taken_when_it_is_complete() -> None:
    whole = b"HTTP/1.1 202 Accepted\r\nContent-LENGTH: 5\r\nX: y\r\n\r\nhello"
    for cut in range(len(whole)):
        assert load.answer(whole[:cut]) is None
    assert load.answer(whole) == (202, b"hello", b"")
    assert load.answer(whole + b"HTTP") == (202, b"hello", b"HTTP")
    assert load.answer(b"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n") == (204, b"", b"")


def test_a_request_has_the_length_of_its_body() -> None:
    content = load.request("POST", "/job", "secret", {"input": "ä"}, unique=True)
    head, _, body = content.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert b"Authorization: Bearer secret" in head
    assert b"Idempotency-Key: " in head
    assert json.loads(body) == {"input": "ä"}
    assert b"Content-Length" not in load.request("GET", "/job/1", "secret")


@pytest.mark.slow
def test_many_requests_are_answered_over_few_connections() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        accepted: list[socket.socket] = []

        def serve(link: socket.socket) -> None:
            while request := link.recv(1 << 16):
                number = request.split()[1]
                # In two parts, so that half an answer is seen too.
                link.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(number))
                link.sendall(number)
            link.close()

        def accept() -> None:
            for _ in range(3):
                link, _ = server.accept()
                accepted.append(link)
                threading.Thread(target=serve, args=(link,)).start()

        thread = threading.Thread(target=accept)
        thread.start()
        requests = [load.request("GET", f"/{number}", "") for number in range(100)]
        answers = load.many(server.getsockname(), requests, connections=3)
        thread.join()
    assert sorted(answers) == sorted((200, f"/{number}".encode()) for number in range(100))
    assert len(accepted) == 3


def test_a_figure_is_the_median_with_its_range(capsys: pytest.CaptureFixture[str]) -> None:
    figures.emit("speed", [3.0, 1.0, 200.00001], "m/s", wind="none")
    line = json.loads(capsys.readouterr().out)
    expected = {"name": "speed", "value": 3.0, "unit": "m/s", "runs": 3, "low": 1.0, "high": 200.0}
    assert line == expected | {"wind": "none"}
    assert figures.percentile(range(1, 101), 0.5) == 51
    assert figures.percentile([1.0], 0.99) == 1.0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_is_charged_for_itself_and_its_children() -> None:
    before = daemon.process_clock_s(os.getpid()), time.process_time()
    while time.process_time() - before[1] < 0.02:
        pass
    used = daemon.process_clock_s(os.getpid()) - before[0]
    assert used == pytest.approx(time.process_time() - before[1], abs=0.01)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert child.pid in daemon.descendants(os.getpid())
        assert daemon.memory_bytes(child.pid)["VmRSS"] > 1 << 20
        child.communicate(b"\n")
    assert child.pid not in daemon.descendants(os.getpid())


@pytest.mark.slow
def test_a_line_that_holds_gives_everything_when_it_is_another() -> None:
    with Lines() as lines, echoing() as port:
        lines.set(Line(Kind.HOLD), ("", "held"), ("held", ""))
        links = {
            name: socket.create_connection(("127.0.0.1", lines.door(name, port)), timeout=30)
            for name in ("held", "free")
        }
        links["held"].sendall(b"abc")
        for _ in range(20):
            links["free"].sendall(b"x")
            assert links["free"].recv(1) == b"x"
        assert lines.carried["", "held"] == 0
        lines.set(UP, ("", "held"), ("held", ""))
        assert links["held"].recv(3, socket.MSG_WAITALL) == b"abc"
        for link in links.values():
            link.close()


@pytest.mark.slow
def test_a_line_is_as_long_as_it_is_told() -> None:
    (took_s,) = real_town.echo(5).values()
    assert len(took_s) == 5
    assert min(took_s) >= 2 * LATENCY_S
