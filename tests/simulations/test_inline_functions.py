from typing import Any

import msgspec
import trio

from simulations.inline_functions import Ending, Models, answer_http, run_inline
from worker import frames
from worker.child import Attempt, LoadedProgram, make_attempt
from worker.protocol import KvPut, Lease, Limits, Program


def attempt(source: str, input: Any = None, **limits: Any) -> Attempt:
    program = Program("1.1", "python", "handler", source.encode(), ["cloud.example"])
    text = msgspec.json.encode(input)
    lease = Lease(7, 1, 1, "1.1", text, {}, Limits(**limits), "process", None)
    return make_attempt(lease, LoadedProgram(program))


def ran(source: str, answers: dict[str, Any] | None = None, input: Any = None) -> Ending:
    """Run a handler; `answers` are the node's, by operation."""
    asked: list[str] = []

    async def answer(request: frames.Request) -> frames.Reply:
        await trio.lowlevel.checkpoint()
        asked.append(request.operation)
        found = (answers or {}).get(request.operation)
        return frames.Reply(request.number, "" if found is not None else "not_found", found)

    async def main() -> Ending:
        return await run_inline(attempt(source, input), answer, Models())

    ending = trio.run(main)
    assert len(asked) == len(dict.fromkeys(asked))  # each is asked once, however often it runs
    return ending


def test_a_handler_returns_json() -> None:
    ended = ran("def handler(input):\n    return {'twice': input * 2}\n", input=21)
    assert (ended.error_code, ended.payload) == (None, b'{"twice":42}')


def test_a_handler_that_asks_goes_on_with_the_answer() -> None:
    source = """
import edge

def handler(input):
    space = edge.kv("names")
    space["b"] = space["a"] + 1
    return space["b"]
"""
    answers = {
        "kv.open": {"space": 5, "scope": "local", "mode": "lww"},
        "kv.get": {"value": b"1", "version": 3},
    }
    ended = ran(source, answers)
    assert (ended.error_code, ended.payload) == (None, b"2")
    assert ended.writes == (KvPut(5, "b", b"2", None),)


def test_an_exception_is_a_function_error_with_its_traceback() -> None:
    ended = ran("def handler(input):\n    return 1 / 0\n")
    assert ended.error_code == "function_error"
    assert "ZeroDivisionError" in ended.payload.decode()
    assert "line 2" in ended.traceback


def test_what_a_node_refuses_is_raised_in_the_function() -> None:
    source = "import edge\ndef handler(input):\n    return edge.kv('nothing')['a']\n"
    assert b"NotFound" in ran(source).payload


def test_what_is_printed_is_said_once_however_often_the_handler_runs() -> None:
    source = """
import edge

def handler(input):
    print("begin")
    edge.log("asking")
    edge.progress(0.5, "half")
    edge.kv("names")
    print("end")
"""
    answers = {"kv.open": {"space": 5, "scope": "local", "mode": "lww"}}
    ended = ran(source, answers)
    assert ended.error_code is None
    assert ended.printed == ((0, b"asking\n"), (1, b"begin\nend\n"))
    assert ended.progress == (0.5, "half")


def test_a_function_that_asks_for_something_else_each_time_fails() -> None:
    source = """
import itertools
import sys
import edge

def handler(input):
    turn = sys.modules.setdefault("turns", itertools.count())
    edge.kv(f"names{next(turn)}")
"""
    ended = ran(source, {"kv.open": {"space": 5, "scope": "local", "mode": "lww"}})
    assert ended.error_code == "function_error"
    assert b"something else each time" in ended.payload


def test_a_function_that_catches_everything_does_not_get_away() -> None:
    source = """
import edge

def handler(input):
    try:
        edge.kv("names")
    except BaseException:
        return "caught"
    return "known"
"""
    ended = ran(source, {"kv.open": {"space": 5, "scope": "local", "mode": "lww"}})
    assert ended.payload == b'"known"'


def test_a_module_is_new_for_each_job() -> None:
    source = "seen = []\ndef handler(input):\n    seen.append(1)\n    return len(seen)\n"
    assert ran(source).payload == ran(source).payload == b"1"


def test_the_made_up_internet_takes_what_goes_to_a_listed_host() -> None:
    listed = answer_http({"url": "https://cloud.example/x"}, ["cloud.example"])
    assert listed == ("", {"status": 204, "headers": {}, "content": b""})
    for url in ("https://other.example/", "ftp://cloud.example/", "nonsense"):
        assert answer_http({"url": url}, ["cloud.example"]) == ("forbidden", None)
