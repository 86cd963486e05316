"""The library `edge`, called by real functions, answered by a node of dictionaries.

The same functions run at every level of isolation: what differs is listed in docs/functions.md.
"""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httptools
import pytest
import trio

from tests.worker.fake_node import FakeNode, Space, cid_of, open_worker
from worker.egress_addresses import parse_networks
from worker.process_tree import process_table
from worker.protocol import (
    BlobDelete,
    BlobKeep,
    Finished,
    Isolation,
    KvDelete,
    KvIncrement,
    KvPut,
    Limits,
    Progress,
)


@pytest.fixture(params=["process", "sandbox", "wasm"])
def level(request: pytest.FixtureRequest) -> Isolation:
    """Each level of Python functions, one after another."""
    wanted: Isolation = request.param
    return wanted


HEAD = "import edge, io, json\ndef handler(input):\n"


def function(*lines: str) -> str:
    return HEAD + "".join(f"    {line}\n" for line in lines)


async def result(node: FakeNode, *lines: str, **fields: Any) -> Any:
    """Run these lines as a function, and return its result."""
    finished = await node.run(function(*lines), **fields)
    assert finished.error_code is None, finished
    return json.loads(finished.payload)


async def failure(node: FakeNode, *lines: str, **fields: Any) -> Finished:
    finished = await node.run(function(*lines), **fields)
    assert finished.error_code == "function_error", finished
    assert finished.writes == []
    return finished


@asynccontextmanager
async def open_spaces(directory: Path, level: Isolation) -> AsyncIterator[FakeNode]:
    async with open_worker(directory, level=level) as (node, _):
        node.spaces["local"] = Space(values={"a": b'{"x":1}', "n": b"5", "b1": b"1", "b2": b"2"})
        node.spaces["shared"] = Space(scope="global")
        node.spaces["exact"] = Space(scope="global", mode="cas")
        node.spaces["far"] = Space(scope="global", mode="cas", home=7, values={"k": b"1"})
        yield node


# --- key-value namespaces ----------------------------------------------------------------------


@pytest.mark.slow
async def test_a_namespace_is_a_mapping(tmp_path: Path, level: Isolation) -> None:
    async with open_spaces(tmp_path, level) as node:
        assert await result(
            node,
            "ns = edge.kv('local')",
            "return [ns['a'], ns.get('a'), ns.get('z'), ns.get('z', 7), 'a' in ns, 'z' in ns,",
            "        ns.keys(), ns.keys('b'), list(ns)]",
        ) == [
            {"x": 1},
            {"x": 1},
            None,
            7,
            True,
            False,
            ["a", "b1", "b2", "n"],
            ["b1", "b2"],
            ["a", "b1", "b2", "n"],
        ]


@pytest.mark.slow
async def test_writes_wait_for_success_and_are_seen_by_the_job_itself(
    tmp_path: Path, level: Isolation
) -> None:
    async with open_spaces(tmp_path, level) as node:
        finished = await node.run(
            function(
                "ns = edge.kv('local')",
                "ns['new'] = [1]",
                "del ns['a']",
                "ns.increment('n', 2)",
                "ns.increment('n')",
                "ns.increment('fresh', -1)",
                "ns.put('ttl', None, ttl_s=60)",
                "ns['b1'] = 10",
                "ns.increment('b1', 5)",
                "del ns['b2']; ns.increment('b2', 3)",
                "return [ns['new'], ns.get('a', 'gone'), ns['n'], ns['fresh'], ns['ttl'],",
                "        ns['b1'], ns['b2'], ns.keys()]",
            )
        )
        assert json.loads(finished.payload) == [
            [1],
            "gone",
            8,
            -1,
            None,
            15,
            3,
            ["b1", "b2", "fresh", "n", "new", "ttl"],
        ]
        assert node.spaces["local"].values["a"] == b'{"x":1}', "not written yet"
        assert finished.writes == [
            KvPut(0, "new", b"[1]", None),
            KvDelete(0, "a"),
            KvIncrement(0, "n", 2),
            KvIncrement(0, "n", 1),
            KvIncrement(0, "fresh", -1),
            KvPut(0, "ttl", b"null", 60),
            KvPut(0, "b1", b"10", None),
            KvIncrement(0, "b1", 5),
            KvDelete(0, "b2"),
            KvIncrement(0, "b2", 3),
        ]


@pytest.mark.slow
async def test_a_failed_job_writes_nothing(tmp_path: Path, level: Isolation) -> None:
    async with open_spaces(tmp_path, level) as node:
        await failure(node, "edge.kv('local')['a'] = 1", "raise ValueError")
        assert await result(node, "return edge.kv('local')['a']") == {"x": 1}


@pytest.mark.slow
async def test_now_does_not_wait(tmp_path: Path, level: Isolation) -> None:
    async with open_spaces(tmp_path, level) as node:
        finished = await node.run(
            function(
                "now = edge.kv('exact').now",
                "now['k'] = 'v'; now['z'] = 1; del now['z']",
                "return [now.increment('n', 3), now.increment('n')]",
            )
        )
        assert finished.payload == b"[3,4]"
        assert finished.writes == []
        assert node.spaces["exact"].values == {"k": b'"v"', "n": b"4"}


@pytest.mark.slow
async def test_keys_of_another_node_are_read_and_written_now_at_a_version(
    tmp_path: Path, level: Isolation
) -> None:
    async with open_spaces(tmp_path, level) as node:
        finished = await node.run(
            function(
                "far = edge.kv('far')",
                "seen = [far.version('none'), far.version('k'), far['k'], far.get('z')]",
                "written = far.now.put('k', 2, if_version=seen[1])",
                "return [*seen, written, far['k'], far.now.increment('k')]",
            )
        )
        assert finished.payload == b'["0","1",1,null,"2",2,3]'


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("edge.kv('local')['z']", "KeyError: 'z'"),
        ("edge.kv('nowhere')", "NotFound: edge.kv('nowhere'): not_found"),
        ("edge.kv('shared').increment('n', 1)", "would lose increments"),
        ("edge.kv('far')['k'] = 1", "node 7 keeps these keys"),
        ("del edge.kv('far')['k']", "use edge.kv('far').now"),
        ("edge.kv('far').increment('k')", "use edge.kv('far').now"),
        ("edge.kv('local').increment('a', 1)\n    edge.kv('local')['a']", "not a whole number"),
        ("edge.kv('local').increment('n', 0.5)", "a step is a whole number"),
        ("edge.kv('local')['k' * 257] = 1", "1 to 256 bytes"),
        ("edge.kv('local')[''] = 1", "1 to 256 bytes"),
        ("edge.kv('local')[3] = 1", "a key is text"),
        ("edge.kv('local')['k'] = 'x' * 65536", "over 65536 bytes"),
        ("edge.kv('local')['k'] = float('inf')", "not JSON compliant"),
        ("edge.blob('nonsense')", "not the id of a blob"),
        ("edge.blob(999).bytes()", "NotFound: edge.blob('999'): not_found"),
        ("edge.put_blob(io.StringIO('text'))", "open it with 'rb'"),
        ("edge.progress(2)", "between 0 and 1"),
        ("edge.nonsense", "no attribute 'nonsense'"),
        ("edge.http('GET', 'http://example.org/', json=1, data=b'2')", "not both"),
    ],
)
async def test_mistakes_have_clear_names(
    tmp_path: Path, level: Isolation, line: str, message: str
) -> None:
    async with open_spaces(tmp_path, level) as node:
        assert message in (await failure(node, line)).payload.decode()


@pytest.mark.slow
async def test_writes_have_a_limit(tmp_path: Path, level: Isolation) -> None:
    async with open_spaces(tmp_path, level) as node:
        finished = await node.run(function("for n in range(10_001): edge.kv('local')[str(n)] = n"))
        assert finished.error_code == "output_limit"


# --- blobs -------------------------------------------------------------------------------------

LARGE = bytes(range(256)) * 4096 * 2 + b"end"


@pytest.mark.slow
async def test_blobs_arrive_from_the_input_and_by_id(tmp_path: Path, level: Isolation) -> None:
    async with open_worker(tmp_path, level=level) as (node, _):
        node.blobs[7] = (LARGE, "image/png")
        node.blobs[8] = (b"", "text/plain")
        assert await result(
            node,
            "blob = input['deep'][0]",
            "with blob.open() as file: head = list(file.read(3))",
            "return [blob.id, blob.cid, blob.media_type, blob.size_bytes, blob.name, head,",
            "        len(blob.bytes()), edge.blob(8).bytes() == b'', edge.blob('7') == blob,",
            "        input['not'], input['other']]",
            input={
                "deep": [{"blob": "7"}],
                "not": {"blob": "x7"},
                "other": {"blob": "7", "and": 1},
            },
        ) == [
            "7",
            cid_of(LARGE),
            "image/png",
            len(LARGE),
            "face",
            [0, 1, 2],
            len(LARGE),
            True,
            True,
            {"blob": "x7"},
            {"blob": "7", "and": 1},
        ]


@pytest.mark.slow
async def test_named_inputs_join_the_input(tmp_path: Path, level: Isolation) -> None:
    async with open_worker(tmp_path, level=level) as (node, _):
        node.blobs[7] = (b"seven", "text/plain")
        lines = ("return sorted(input), edge.inputs['image'].bytes().decode()",)
        blobs = {"image": 7}
        assert await result(node, *lines, input=None, blobs=blobs) == [["image"], "seven"]
        assert await result(node, *lines, input={"a": 1}, blobs=blobs) == [["a", "image"], "seven"]
        assert await result(node, "return input", input=[1], blobs=blobs) == [1]


@pytest.mark.slow
async def test_contents_are_fetched_once(tmp_path: Path, level: Isolation) -> None:
    async with open_worker(tmp_path, level=level) as (node, _):
        node.blobs[7] = (LARGE, "image/png")
        for _ in range(3):
            assert await result(node, "return len(edge.blob(7).bytes())") == len(LARGE)
        reads = [call for call in node.calls if call.operation == "blob.read"]
        assert [call.arguments["offset"] for call in reads] == [0, 1 << 20, 2 << 20]


@pytest.mark.slow
async def test_content_that_is_not_what_its_cid_says_is_refused(
    tmp_path: Path, level: Isolation
) -> None:
    async with open_worker(tmp_path, level=level) as (node, _):
        node.blobs[7] = (LARGE, "image/png")
        node._blob_read = lambda blob, offset, length: b"x" * length  # type: ignore[method-assign]
        finished = await failure(node, "edge.blob(7).bytes()")
        assert b"content_corrupt" in finished.payload
        assert [path.name for path in (tmp_path / "blobs").iterdir()] == []


@pytest.mark.slow
async def test_stored_blobs_are_kept_when_the_job_succeeds(
    tmp_path: Path, level: Isolation
) -> None:
    async with open_worker(tmp_path, level=level) as (node, _):
        node.blobs[7] = (LARGE, "image/png")
        finished = await node.run(
            function(
                "one = edge.put_blob(b'one', 'text/plain', 'name')",
                "two = edge.put_blob(edge.blob(7).open())",
                "edge.delete_blob(7)",
                "assert one.size_bytes == 3 and one.media_type == 'text/plain'",
                "return {'one': one, 'list': [two, b'three']}",
            )
        )
        value = json.loads(finished.payload)
        one, two, three = (
            int(found["blob"]) for found in (value["one"], value["list"][0], value["list"][1])
        )
        assert node.blobs[one] == (b"one", "text/plain")
        assert node.blobs[two][0] == LARGE
        assert node.blobs[three] == (b"three", "application/octet-stream")
        assert finished.writes == [BlobKeep(one), BlobKeep(two), BlobDelete(7), BlobKeep(three)]


@pytest.mark.slow
async def test_bytes_as_the_result_become_a_blob(tmp_path: Path, level: Isolation) -> None:
    async with open_worker(tmp_path, level=level) as (node, _):
        value = await result(node, "return b'raw'")
        assert node.blobs[int(value["blob"])][0] == b"raw"


@pytest.mark.slow
async def test_an_upload_begins_again_when_the_link_breaks(
    tmp_path: Path, level: Isolation
) -> None:
    async with open_worker(tmp_path, level=level) as (node, connector):
        node.answers = False
        await node.say(*node.lease(function("return edge.put_blob(bytes(3 << 20))")))
        job = node.number
        for _ in range(2):  # begin, and the first part
            await node.until(lambda: node.unanswered)
            await node.answer(node.unanswered.pop())
        await node.until(lambda: node.unanswered)
        node.answers = True
        await connector.cut()
        finished = await node.finished(job)
        assert finished.error_code is None, finished
        blob = int(json.loads(finished.payload)["blob"])
        assert node.blobs[blob][0] == bytes(3 << 20)


# --- everything else ---------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_job_knows_itself(tmp_path: Path, level: Isolation) -> None:
    async with open_worker(tmp_path, level=level) as (node, _):
        assert await result(
            node,
            "return [edge.job.id, edge.job.attempt, edge.job.deadline.isoformat()]",
            deadline_ms=1_700_000_000_000,
            attempt=2,
        ) == [str(node.number), 2, "2023-11-14T22:13:20+00:00"]
        assert await result(node, "return edge.job.deadline") is None


@pytest.mark.slow
async def test_progress_is_thinned_and_its_last_is_kept(tmp_path: Path, level: Isolation) -> None:
    async with open_worker(tmp_path, level=level) as (node, _):
        await result(node, "for n in range(10_001): edge.progress(n / 10_000, f'at {n}')")
        reports = node.said(Progress, node.number)
        assert len(reports) < 100
        assert reports[-1] == Progress(node.number, node.number, 1.0, "at 10000")


@pytest.mark.slow
async def test_a_child_job_is_handed_in(tmp_path: Path, level: Isolation) -> None:
    async with open_worker(tmp_path, level=level) as (node, _):
        job = await result(node, "return edge.call('other', {'n': 1})")
        assert job == str(node.number)
        assert node.calls[-1].arguments == {"function": "other", "input": b'{"n":1}'}


# --- secrets ------------------------------------------------------------------------------------

SECRET = 'pa"ss/wörd-3141592653'


@asynccontextmanager
async def open_secret(directory: Path, level: Isolation) -> AsyncIterator[FakeNode]:
    async with open_worker(directory, level=level) as (node, _):
        node.secrets["TOKEN"] = SECRET
        yield node


@pytest.mark.slow
async def test_a_secret_is_read_by_its_name(tmp_path: Path, level: Isolation) -> None:
    async with open_secret(tmp_path, level) as node:
        assert await result(node, "return edge.secret('TOKEN')") == SECRET, "a result is its own"
        assert node.calls[-1].arguments == {"name": "TOKEN"}
        lines = ("try: edge.secret('OTHER')", "except LookupError as error: return error.code")
        assert await result(node, *lines) == "not_found"
        assert (await failure(node, "edge.secret(3)")).payload.startswith(b"TypeError: the name")


@pytest.mark.slow
async def test_a_secret_is_in_nothing_that_a_job_says(tmp_path: Path, level: Isolation) -> None:
    async with open_secret(tmp_path, level) as node:
        finished = await failure(
            node,
            "import os, sys",
            "token = edge.secret('TOKEN')",
            "edge.log(token, token=token)",
            "sys.stdout.write('half ' + token[:9]); sys.stdout.flush()",
            "print(token[9:])",
            "print(repr(token), file=sys.stderr)",
            "os.write(2, b'raw ' + token.encode() + bytes([10]))",
            "edge.progress(0.5, 'with ' + token)",
            "raise ValueError(token)",
        )
        assert finished.payload == b"ValueError: ***"
        assert finished.traceback.rstrip().endswith("ValueError: ***")
        assert sorted(node.lines(finished.job)) == [
            ("log", '*** {"token": "***"}'),
            ("stderr", "'***'"),
            ("stderr", "raw ***"),
            ("stdout", "half ***"),
        ]
        assert [progress.message for progress in node.said(Progress)] == ["with ***"]
        said = repr(node.messages)
        assert not any(part in said for part in (SECRET, "3141592653"))


@pytest.mark.slow
async def test_a_secret_in_a_url_is_not_in_the_error(tmp_path: Path, level: Isolation) -> None:
    async with open_secret(tmp_path, level) as node:
        url = "'http://example.org/' + 'x' * 175 + edge.secret('TOKEN')"
        finished = await failure(node, f"edge.http('GET', {url})")
        assert finished.payload.endswith(b"xx***'): forbidden")
        assert "3141592653" not in finished.traceback


@pytest.mark.slow
async def test_a_secret_that_a_warm_process_has_kept_is_not_said_by_its_next_job(
    tmp_path: Path, level: Isolation
) -> None:
    source = (
        "import edge\nkept = []\ndef handler(input):\n    if input:\n"
        "        kept.append(edge.secret('TOKEN'))\n    print(kept)\n"
    )
    async with open_secret(tmp_path, level) as node:
        await node.run(source, True)
        finished = await node.run(source, False)
        shown = "[]" if level == "wasm" else "['***']"
        assert node.lines(finished.job) == [("stdout", shown)]


def visible(directory: Path) -> Iterator[bytes]:
    """Yield what other processes may see: environments, arguments, the worker's files."""
    paths = [
        Path(f"/proc/{pid}/{name}") for pid in process_table() for name in ("environ", "cmdline")
    ]
    for path in [*paths, *directory.rglob("*")]:
        with suppress(OSError):  # it has ended, is somebody else's, or no file
            yield path.read_bytes()


@pytest.mark.slow
async def test_a_secret_is_in_no_file_argument_or_environment(
    tmp_path: Path, level: Isolation
) -> None:
    async with open_secret(tmp_path, level) as node:
        messages = node.lease(
            function("token = edge.secret('TOKEN')", "while True: edge.kv('x').get('k')")
        )
        node.spaces["x"] = Space()
        await node.say(*messages)
        await node.until(lambda: any(call.operation == "kv.get" for call in node.calls))
        wanted = SECRET.encode()
        for data in visible(tmp_path):
            assert wanted not in data


@pytest.mark.slow
async def test_threads_of_a_function_may_call_too(tmp_path: Path, level: Isolation) -> None:
    if level == "wasm":
        pytest.skip("there are no threads")
    async with open_spaces(tmp_path, level) as node:
        assert await result(
            node,
            "from concurrent.futures import ThreadPoolExecutor",
            "ns = edge.kv('local')",
            "with ThreadPoolExecutor(8) as pool:",
            "    return list(pool.map(lambda n: ns['n'] + n, range(50)))",
        ) == list(range(5, 55))


@asynccontextmanager
async def open_server(answer: bytes) -> AsyncIterator[tuple[int, list[bytes]]]:
    """An HTTP server that gives one answer; yields its port and what it was asked."""
    asked: list[bytes] = []

    class Request:
        def __init__(self) -> None:
            self.over = False

        def on_message_complete(self) -> None:
            self.over = True

    async def serve(stream: trio.SocketStream) -> None:
        request = Request()
        parser = httptools.HttpRequestParser(request)
        whole = b""
        async with stream:
            while not request.over:
                data = await stream.receive_some()
                if not data:
                    return
                whole += data
                parser.feed_data(data)
            asked.append(whole)
            try:
                await stream.send_all(answer)
                await stream.receive_some()  # until the client is done
            except trio.BrokenResourceError:
                pass

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield listeners[0].socket.getsockname()[1], asked
        nursery.cancel_scope.cancel()


LOOPBACK = parse_networks("127.0.0.0/8")
OK = b'HTTP/1.1 200 OK\r\nContent-Length: 8\r\nX-Made-By: us\r\nConnection: close\r\n\r\n{"a": 1}'


@pytest.mark.slow
async def test_http_reaches_listed_hosts_through_the_agent(
    tmp_path: Path, level: Isolation
) -> None:
    async with (
        open_server(OK) as (port, asked),
        open_worker(tmp_path, level=level, egress_networks=LOOPBACK) as (node, _),
    ):
        value = await result(
            node,
            f"r = edge.http('post', 'http://127.0.0.1:{port}/x', json=[1], headers={{'X-Y': 'z'}})",
            "return [r.status, r.headers['x-made-by'], r.json(), r.text]",
            egress=[f"127.0.0.1:{port}"],
        )
        assert value == [200, "us", {"a": 1}, '{"a": 1}']
        assert asked[0].startswith(b"POST /x HTTP/1.1\r\n")
        assert asked[0].endswith(b"\r\n\r\n[1]")
        assert b"X-Y: z" in asked[0]


@pytest.mark.slow
async def test_http_reaches_no_private_address_though_it_is_listed(tmp_path: Path) -> None:
    async with open_server(OK) as (port, asked), open_worker(tmp_path) as (node, _):
        for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0x7f.1", "2130706433"):
            line = f"edge.http('GET', 'http://{host}:{port}/')"
            finished = await failure(node, line, egress=[f"{host}:{port}"])
            assert finished.payload.endswith(b": private_address"), host
        assert not asked


@pytest.mark.slow
async def test_http_does_not_follow_redirects(tmp_path: Path, level: Isolation) -> None:
    moved = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    async with (
        open_server(moved) as (port, _),
        open_worker(tmp_path, level=level, egress_networks=LOOPBACK) as (node, _),
    ):
        lines = f"return edge.http('GET', 'http://127.0.0.1:{port}/').status"
        assert await result(node, lines, egress=["127.0.0.1"]) == 302


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "egress", "problem"),
    [
        ("edge.http('GET', 'http://127.0.0.1:{port}/')", [], "forbidden"),
        ("edge.http('GET', 'http://127.0.0.1:{port}/')", ["127.0.0.1:1"], "forbidden"),
        ("edge.http('GET', 'file:///etc/passwd')", ["127.0.0.1"], "forbidden"),
        ("edge.http('GET', 'http://')", ["127.0.0.1"], "forbidden"),
        ("edge.http('GET', 'http://127.0.0.1:1/')", ["127.0.0.1"], "unreachable"),
        ("edge.http('BREW', 'http://127.0.0.1:{port}/')", ["127.0.0.1"], "invalid_request"),
        (
            "edge.http('GET', 'http://127.0.0.1:{port}/', headers={{'a b': 'c'}})",
            ["127.0.0.1"],
            "invalid_request",
        ),
        (
            "edge.http('GET', 'http://127.0.0.1:{port}/', timeout_s=1e9)",
            ["127.0.0.1"],
            "invalid_request",
        ),
    ],
)
async def test_http_that_is_not_allowed_or_fails(
    tmp_path: Path, level: Isolation, line: str, egress: list[str], problem: str
) -> None:
    async with (
        open_server(OK) as (port, _),
        open_worker(tmp_path, level=level, egress_networks=LOOPBACK) as (node, _),
    ):
        finished = await failure(node, line.format(port=port), egress=egress)
        assert finished.payload.decode().endswith(f": {problem}")


@pytest.mark.slow
async def test_http_bounds_time_and_size(tmp_path: Path, level: Isolation) -> None:
    endless = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n"
    async with (
        open_server(endless) as (slow, _),
        open_server(endless + bytes(9 << 20)) as (large, _),
        open_worker(tmp_path, level=level, egress_networks=LOOPBACK) as (node, _),
    ):
        allowed = ["127.0.0.1"]
        line = f"edge.http('GET', 'http://127.0.0.1:{slow}/', timeout_s=0.2)"
        assert (await failure(node, line, egress=allowed)).payload.endswith(b": timeout")
        line = f"edge.http('GET', 'http://127.0.0.1:{large}/')"
        assert (await failure(node, line, egress=allowed)).payload.endswith(b": too_large")


# --- inference ---------------------------------------------------------------------------------


def make_model() -> bytes:
    """Return an ONNX model, y = x + x, written by hand: a protobuf of a few fields."""

    def field(number: int, data: bytes | int) -> bytes:
        if isinstance(data, int):
            return bytes([number << 3, data])
        return bytes([number << 3 | 2, len(data)]) + data

    def tensor(name: bytes) -> bytes:
        shape = field(1, field(2, b"n"))
        kind = field(1, field(1, 1) + field(2, shape))
        return field(1, name) + field(2, kind)

    node = field(1, b"x") + field(1, b"x") + field(2, b"y") + field(4, b"Add")
    graph = field(1, node) + field(2, b"g") + field(11, tensor(b"x")) + field(12, tensor(b"y"))
    return field(1, 8) + field(7, graph) + field(8, field(2, 13))


@pytest.mark.slow
async def test_a_model_runs_on_the_workers_backend(
    tmp_path: Path, level: Isolation, backend: str
) -> None:
    async with open_worker(tmp_path, level=level, backends=[backend]) as (node, _):
        node.blobs[7] = (make_model(), "application/onnx")
        finished = await node.run(
            function(
                "y = edge.infer(input, {'x': [1, 2.5]}, strict=True)",
                "z = edge.infer('7', {'x': y['y']})",
                "return {'y': y, 'z': z['y']}",
            ),
            {"blob": "7"},
            limits=Limits(memory_bytes=4 << 30),
        )
        assert json.loads(finished.payload) == {"y": {"y": [2.0, 5.0]}, "z": [4.0, 10.0]}
        assert finished.backend == backend
        asked = [call.operation for call in node.calls]
        assert asked.count("blob.stat") <= 1, "a second inference asks nothing of the node"


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["CUDAExecutionProvider", "OpenVINO:GPU.7"])
async def test_strict_inference_refuses_a_fallback(
    tmp_path: Path, level: Isolation, backend: str, missing: str
) -> None:
    best = [missing, backend]
    async with open_worker(tmp_path, level=level, backends=best) as (node, _):
        node.blobs[7] = (make_model(), "application/onnx")
        limits = Limits(memory_bytes=4 << 30)
        strict = function("return edge.infer(input, {'x': [1]}, strict=True)")
        finished = await node.run(strict, {"blob": "7"}, limits=limits)
        assert finished.error_code == "backend_unavailable"
        lax = function("return edge.infer(input, {'x': [1]})['y']")
        finished = await node.run(lax, {"blob": "7"}, limits=limits)
        assert (finished.payload, finished.backend) == (b"[2.0]", backend)
        wrong = function("return edge.infer(input, {'w': [1]})")
        finished = await node.run(wrong, {"blob": "7"}, limits=limits)
        assert finished.error_code == "function_error"
        assert b"the model has no input ['w']: it has ['x']" in finished.payload
