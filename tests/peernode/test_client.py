"""One contract, both clients, over real sockets to a server that follows a script.

The server answers what a node would; some answers are cut in the middle, some never come.  That a
node does answer so is shown by the tests against a real node (`test_examples`, `test_cli`).
"""

import inspect
import io
import random

import pytest

from peernode import client as sdk
from peernode.client import async_client, sync_client
from tests.peernode.scripted_server import CUT, Answer, scripted

JOB = {"id": "9", "state": "queued"}
DONE = {"id": "9", "state": "succeeded", "result": {"faces": 2}}
FAILED = {
    "id": "9",
    "state": "failed",
    "error": {"code": "function_error", "message": "boom", "traceback": "Traceback ..."},
}


class Hands:
    """Either client, used the same way: what can be awaited is awaited."""

    def __init__(self, kind) -> None:
        self.kind = kind
        self.slept_s = []

    def open(self, url, token="secret"):
        options = {"rng": random.Random(1), "new_key": iter("abcdefgh").__next__}
        if self.kind == "blocking":
            return sdk.Client(url, token, sleep=self.slept_s.append, **options)

        async def sleep(delay_s) -> None:
            self.slept_s.append(delay_s)

        return sdk.AsyncClient(url, token, sleep=sleep, **options)

    async def close(self, client):
        await settle(client.close() if self.kind == "blocking" else client.aclose())


async def settle(value):
    return await value if inspect.isawaitable(value) else value


async def collect(stream):
    if hasattr(stream, "__anext__"):
        return [item async for item in stream]
    return [*stream]


@pytest.fixture(params=["blocking", "trio"])
def hands(request):
    return Hands(request.param)


@pytest.fixture(autouse=True)
def no_settings(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("PEERNODE_URL", raising=False)
    monkeypatch.delenv("PEERNODE_TOKEN", raising=False)


async def test_requests_carry_the_token_and_answers_are_objects(hands):
    with scripted(Answer(value={"id": "7", "name": "x"})) as server:
        client = hands.open(server.url)
        assert await settle(client.get("project", "7")) == {"id": "7", "name": "x"}
        await hands.close(client)
    (received,) = server.received
    assert (received.method, received.path) == ("GET", "/project/7")
    assert received.headers["authorization"] == "Bearer secret"


async def test_a_refusal_arrives_whole(hands):
    problem = {
        "title": "Not allowed",
        "status": 413,
        "code": "too_large",
        "detail": "too much",
        "hint": "less",
        "limit": 10,
        "retryable": False,
    }
    with scripted(Answer(413, problem)) as server:
        client = hands.open(server.url)
        with pytest.raises(sdk.ProblemError, match="too much") as caught:
            await settle(client.create_project("x"))
        await hands.close(client)
    error = caught.value
    assert (error.status, error.code, error.hint, error.limit) == (413, "too_large", "less", 10)


@pytest.mark.parametrize(
    ("status", "kind"), [(401, sdk.Unauthenticated), (404, sdk.NotFound), (409, sdk.ProblemError)]
)
async def test_refusals_that_callers_catch_have_a_class(hands, status, kind):
    with scripted(Answer(status, {"code": "c", "detail": "d"})) as server:
        client = hands.open(server.url)
        with pytest.raises(kind):
            await settle(client.get("job", "1"))
        await hands.close(client)


async def test_a_page_of_somebody_else_is_no_traceback(hands):
    with scripted(Answer(502, body=b"<h1>Bad Gateway</h1>"), Answer(body=b"<html>")) as server:
        client = hands.open(server.url)
        with pytest.raises(sdk.ProblemError, match="Bad Gateway"):
            await settle(client.get("job", "1"))
        with pytest.raises(sdk.ProblemError, match="not JSON"):
            await settle(client.get("job", "1"))
        await hands.close(client)


async def test_nobody_there_is_a_failed_connection(hands):
    with scripted() as server:
        url = server.url
    client = hands.open(url)
    with pytest.raises(sdk.ConnectionFailed, match="cannot reach") as caught:
        await settle(client.health())
    assert not caught.value.sent
    assert len(hands.slept_s) == 5
    await hands.close(client)


async def test_a_job_handed_in_over_a_bad_line_is_handed_in_once(hands):
    busy = Answer(503, {"code": "overloaded"}, headers={"retry-after": "2"})
    with scripted(CUT, busy, Answer(202, JOB)) as server:
        client = hands.open(server.url)
        function = await function_of(client, hands)
        job = await settle(function.spawn({"x": 1}, limits={"run_s": 5}, inputs={"pic": "3"}))
        assert job.id == "9"
        await hands.close(client)
    assert [request.headers["idempotency-key"] for request in server.received] == ["a"] * 3
    assert server.received[0].json == {
        "function": "4",
        "input": {"x": 1},
        "limits": {"run_s": 5},
        "inputs": {"pic": {"blob": "3"}},
    }
    assert hands.slept_s[1] == 2


async def function_of(client, hands):
    if hands.kind == "blocking":
        return sync_client.Function(client._wire, "4", "p/f")
    return async_client.AsyncFunction(client._wire, "4", "p/f")


async def test_an_increment_that_may_have_arrived_is_not_repeated(hands):
    with scripted(Answer(value={"items": [{"id": "5"}], "next": None}), CUT) as server:
        client = hands.open(server.url)
        space = await settle(client.kv("counts"))
        with pytest.raises(sdk.ConnectionFailed) as caught:
            await settle(space.increment("n"))
        assert caught.value.sent
        await hands.close(client)


async def test_names_are_resolved_through_lists(hands):
    script = [
        Answer(value={"items": [{"id": "2"}], "next": None}),
        Answer(value={"items": [], "next": "c"}),
        Answer(value={"items": [{"id": "4"}], "next": None}),
    ]
    with scripted(*script) as server:
        client = hands.open(server.url)
        assert (await settle(client.function("vision/detect"))).id == "4"
        await hands.close(client)
    assert [(r.path, r.query.get("name")) for r in server.received] == [
        ("/project", "vision"),
        ("/function", "detect"),
        ("/function", "detect"),
    ]
    assert server.received[1].query["project"] == "2"
    assert server.received[2].query["cursor"] == "c"


async def test_a_vague_name_is_refused_with_the_ids(hands):
    with scripted(Answer(value={"items": [{"id": "2"}, {"id": "3"}], "next": None})) as server:
        client = hands.open(server.url)
        with pytest.raises(sdk.ConfigurationError) as caught:
            await settle(client.resolve("project", "vision"))
        assert caught.value.hint.endswith("2, 3")
        await hands.close(client)


async def test_deploying_makes_a_function_or_a_version(hands):
    none, one = ({"items": found, "next": None} for found in ([], [{"id": "4"}]))
    script = [
        Answer(value=none),
        Answer(201, {"id": "4", "version": 1}),
        Answer(value=one),
        Answer(value={"id": "4", "version": 2}),
        Answer(value=none),
        Answer(409, {"code": "name_taken", "detail": "d"}),
        Answer(value=one),
        Answer(value={"id": "4", "version": 3}),
    ]
    with scripted(*script) as server:
        client = hands.open(server.url)
        for version in (1, 2, 3):
            made = await settle(client.deploy("2", "f", "def handler(x): ...", entry="handler"))
            assert made.attributes["version"] == version
        await hands.close(client)
    posts = [request for request in server.received if request.method == "POST"]
    assert [request.path for request in posts] == [
        "/function",
        "/function/4",
        "/function",
        "/function/4",
    ]
    assert posts[1].json == {"source": "def handler(x): ...", "entry": "handler"}


async def test_wheels_are_stored_before_the_function_that_brings_them(hands, tmp_path):
    wheel = tmp_path / "greeting-1.0-py3-none-any.whl"
    wheel.write_bytes(b"PK")
    script = [
        Answer(value={"items": [], "next": None}),
        Answer(201, {"id": "7"}),
        Answer(201, {"id": "4", "version": 1}),
    ]
    with scripted(*script) as server:
        client = hands.open(server.url)
        source = "def handler(x): ..."
        await settle(client.deploy("2", "f", source, wheels=[wheel, "8"]))
        await hands.close(client)
    stored, made = (request for request in server.received if request.method == "POST")
    assert (stored.path, stored.query["name"], stored.body) == ("/blob", wheel.name, b"PK")
    assert made.json["wheels"] == ["7", "8"]


async def test_a_result_is_waited_for_in_slices(hands):
    with scripted(Answer(value=JOB), CUT, Answer(value=DONE)) as server:
        client = hands.open(server.url)
        assert await settle((await settle(client.job("9"))).result()) == {"faces": 2}
        await hands.close(client)
    assert {request.query["wait"] for request in server.received} == {"25.000"}


async def test_a_failed_job_raises_what_the_function_raised(hands):
    with scripted(Answer(value=FAILED)) as server:
        client = hands.open(server.url)
        with pytest.raises(sdk.JobFailed, match="boom") as caught:
            await settle(client.job("9").result())
        await hands.close(client)
    assert (caught.value.code, caught.value.traceback) == ("function_error", "Traceback ...")


async def test_patience_ends_and_the_job_lives_on(hands):
    with scripted(Answer(value=JOB)) as server:
        client = hands.open(server.url)
        with pytest.raises(TimeoutError, match="still queued") as caught:
            await settle(client.job("9").result(timeout_s=0))
        assert caught.value.job_id == "9"
        await hands.close(client)


async def test_a_quick_call_is_one_round_trip(hands):
    with scripted(Answer(value=DONE)) as server:
        client = hands.open(server.url)
        function = await function_of(client, hands)
        assert await settle(function.call(1)) == {"faces": 2}
        await hands.close(client)
    assert server.received[0].query == {"wait": "25"}


async def test_map_keeps_the_order_and_its_bound(hands):
    def result(n) -> Answer:
        return Answer(value={"id": str(n), "state": "succeeded", "result": n})

    script = [
        Answer(202, {"id": "0"}),
        Answer(202, {"id": "1"}),
        result(0),
        Answer(202, {"id": "2"}),
        result(1),
        Answer(value=FAILED),
    ]
    with scripted(*script) as server:
        client = hands.open(server.url)
        function = await function_of(client, hands)
        found = await collect(function.map([0, 1, 2], in_flight_max=2, return_errors=True))
        await hands.close(client)
    assert found[:2] == [0, 1]
    assert isinstance(found[2], sdk.JobFailed)
    assert [request.method for request in server.received] == [
        "POST",
        "POST",
        "GET",
        "POST",
        "GET",
        "GET",
    ]


async def test_events_go_on_after_the_last_one_seen(hands):
    first = b'id: 1\nevent: state\ndata: {"state":"running"}\n\nid: 2\ndata: {"half'
    rest = b'id: 2\nevent: state\ndata: {"state":"succeeded"}\n\n'
    script = [
        Answer(body=first + b" " * 100, cut_after=len(first)),
        Answer(body=rest),
        Answer(value=DONE),
    ]
    with scripted(*script) as server:
        client = hands.open(server.url)
        events = await collect(client.job("9").events())
        await hands.close(client)
    assert [event.data["state"] for event in events] == ["running", "succeeded"]
    assert "last-event-id" not in server.received[0].headers
    assert server.received[1].headers["last-event-id"] == "1"


async def test_a_download_goes_on_where_it_was_cut(hands, tmp_path):
    content = random.Random(1).randbytes(100_000)
    script = [
        Answer(body=content, cut_after=30_000),
        CUT,
        Answer(
            206,
            body=content[30_000:],
            cut_after=20_000,
            headers={"content-range": "bytes 30000-99999/100000"},
        ),
        Answer(206, body=content[50_000:], headers={"content-range": "bytes 50000-99999/100000"}),
    ]
    seen = []
    with scripted(*script) as server:
        client = hands.open(server.url)
        target = tmp_path / "picture"
        progress = lambda done, total: seen.append((done, total))  # noqa: E731
        await settle(client.get_blob("3", target, progress=progress))
        await hands.close(client)
    assert target.read_bytes() == content
    assert seen[-1] == (100_000, 100_000)
    assert [request.headers.get("range") for request in server.received] == [
        None,
        "bytes=30000-",
        "bytes=30000-",
        "bytes=50000-",
    ]
    assert [entry.name for entry in tmp_path.iterdir()] == ["picture"]


async def test_a_download_goes_on_from_an_earlier_process(hands, tmp_path):
    (tmp_path / "picture.3.part").write_bytes(b"abc")
    part = Answer(206, body=b"def", headers={"content-range": "bytes 3-5/6"})
    with scripted(part) as server:
        client = hands.open(server.url)
        await settle(client.get_blob("3", tmp_path / "picture"))
        await hands.close(client)
    assert (tmp_path / "picture").read_bytes() == b"abcdef"
    assert server.received[0].headers["range"] == "bytes=3-"


async def test_a_server_that_knows_no_ranges_is_put_up_with(hands):
    with scripted(Answer(body=b"abcdef", cut_after=2), Answer(body=b"abcdef")) as server:
        client = hands.open(server.url)
        assert await settle(client.get_blob("3")) == b"abcdef"
        await hands.close(client)


async def test_an_upload_is_streamed_and_repeated_from_its_start(hands):
    content = random.Random(1).randbytes(600_000)
    file = io.BytesIO(b"before" + content)
    file.seek(6)
    seen = []
    with scripted(CUT, Answer(201, {"id": "3"})) as server:
        client = hands.open(server.url)
        made = await settle(
            client.put_blob(
                file, project="2", name="x.jpg", progress=lambda done, total: seen.append(done)
            )
        )
        await hands.close(client)
    assert made == {"id": "3"}
    assert [request.body for request in server.received] == [content] * 2
    first = server.received[0]
    assert first.headers["content-type"] == "image/jpeg"
    assert first.headers["content-length"] == "600000"
    assert first.query == {"project": "2", "name": "x.jpg"}
    assert seen[-1] == 600_000


async def test_what_cannot_be_measured_is_sent_in_chunks(hands):
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    with scripted(Answer(201, {"id": "3"})) as server:
        client = hands.open(server.url)
        await settle(client.put_blob(Pipe(b"piped"), project="2"))
        await hands.close(client)
    assert server.received[0].body == b"piped"


async def test_a_delete_that_a_cut_hid_counts(hands):
    gone = Answer(404, {"code": "not_found", "detail": "d"})
    with scripted(CUT, gone, gone) as server:
        client = hands.open(server.url)
        await settle(client.delete("blob", "3"))
        with pytest.raises(sdk.NotFound):
            await settle(client.delete("blob", "3"))
        await hands.close(client)


async def test_a_client_at_another_node_has_a_token_from_the_home(hands):
    health = Answer(value={"status": "ok", "node_id": "2", "peer_id": "p"})
    login, other = (Answer(value={"token": text, "expires_at": "x"}) for text in ("t1", "t2"))
    with scripted(login, other) as home, scripted(health, Answer(value={})) as there:
        client = hands.open(home.url, token="")
        await settle(client.login("ada", "pw"))
        away = await settle(client.at(there.url))
        await settle(away.get("project", "1"))
        await hands.close(away)
        await hands.close(client)
    assert home.received[1].path == "/user/ada/delegate"
    assert home.received[1].json == {"audience": ["2"]}
    assert home.received[1].headers["authorization"] == "Bearer t1"
    assert "authorization" not in there.received[0].headers
    assert there.received[1].headers["authorization"] == "Bearer t2"


async def test_a_token_of_nobody_in_particular_gets_no_other(hands):
    client = hands.open("http://127.0.0.1:1", token="secret")
    with pytest.raises(sdk.ConfigurationError, match="whose token"):
        await settle(client.token_for("2"))
    await hands.close(client)


async def test_how_old_an_answer_is_stands_in_its_headers(hands):
    with scripted(Answer(value={"id": "9"}, headers={"Stale": "as-of x"})) as server:
        client = hands.open(server.url)
        reply = await settle(client.get_reply("job", "9"))
        await hands.close(client)
    assert reply.object() == {"id": "9"}
    assert reply.headers["stale"] == "as-of x"


async def test_login_gives_the_token_of_later_calls(hands):
    with scripted(Answer(value={"token": "t", "expires_at": "x"}), Answer(value={})) as server:
        client = hands.open(server.url, token="")
        await settle(client.login("ada", "pw", ttl_s=60))
        await settle(client.get("project", "1"))
        await hands.close(client)
    assert server.received[0].path == "/user/ada/login"
    assert server.received[0].json == {"password": "pw", "ttl_s": 60}
    assert "authorization" not in server.received[0].headers
    assert server.received[1].headers["authorization"] == "Bearer t"


def test_a_namespace_is_a_mapping():
    entry = Answer(value={"key": "a", "value": 1, "version": "1"})
    absent = Answer(404, {"code": "not_found", "detail": "d", "field": "key"})
    keys = Answer(value={"items": ["a", "b"], "next": None})
    script = [Answer(value={"key": "a", "version": "1"}), entry, absent, absent, keys]
    with scripted(*script) as server, sdk.Client(server.url, "t") as client:
        space = client.kv("5")
        space["a"] = 1
        assert space["a"] == 1
        assert space.get("nothing", 0) == 0
        assert "nothing" not in space
        assert list(space) == ["a", "b"]
    assert [request.path for request in server.received] == [
        "/kv/5/put",
        "/kv/5/get",
        "/kv/5/get",
        "/kv/5/get",
        "/kv/5/list",
    ]


@pytest.mark.parametrize(
    "pair",
    [
        (sdk.Client, sdk.AsyncClient),
        (sdk.Function, sdk.AsyncFunction),
        (sdk.JobHandle, sdk.AsyncJobHandle),
        (sdk.Namespace, sdk.AsyncNamespace),
    ],
    ids=lambda pair: pair[0].__name__,
)
def test_the_twins_take_the_same_arguments(pair):
    def surface(kind) -> dict:
        members = inspect.getmembers(kind, inspect.isfunction)
        public = {name: value for name, value in members if not name.startswith("_")}
        return {
            name.replace("aclose", "close"): [
                (p.name, p.kind, p.default) for p in inspect.signature(value).parameters.values()
            ]
            for name, value in public.items()
        }

    assert surface(pair[0]) == surface(pair[1])
