"""Both clients against a real node with a real worker: the SDK's words are the node's words."""

import os
import time
from concurrent.futures import CancelledError, as_completed
from importlib.util import find_spec

import pytest
import trio

from peernode.cli import demo_node
from peernode.client import (
    AsyncClient,
    Client,
    Executor,
    JobFailed,
    JobTimeout,
    NotFound,
    ProblemError,
    Unauthenticated,
)

pytestmark = pytest.mark.slow

SOURCE = """
import time
import edge

def handler(input):
    what = input.get("do")
    if what == "fail":
        raise ValueError("boom")
    if what == "log":
        print("printed")
        edge.log("logged", n=1)
        edge.progress(0.5, "half way")
    if what == "sleep":
        time.sleep(60)
    return {"got": input}
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    assert find_spec("peernode.daemon") is not None
    with demo_node.open_node(tmp_path_factory.mktemp("node"), 0) as url:
        with Client(url, "") as client:
            client.signup("ada", "correct horse battery")
            token = client.login("ada", "correct horse battery")["token"]
            client.create_project("lab")
            client.deploy("lab", "echo", SOURCE)
        yield url, token


@pytest.fixture
def client(node):
    with Client(*node) as client:
        yield client


@pytest.fixture
def echo(client):
    return client.function("lab/echo")


def until_running(job):
    with job.events() as events:
        assert any(event.data.get("state") == "running" for event in events)


def test_a_job_outlives_the_client_that_handed_it_in(node):
    with Client(*node) as client:
        job_id = client.function("lab/echo").spawn({"x": [1, 2.5, "three"]}).id
    with Client(*node) as client:
        assert client.job(job_id).result(timeout_s=20) == {"got": {"x": [1, 2.5, "three"]}}


def test_one_key_is_one_job(echo):
    first = echo.spawn({"x": 1}, idempotency_key="mine")
    assert echo.spawn({"x": 1}, idempotency_key="mine").id == first.id
    with pytest.raises(ProblemError) as caught:
        echo.spawn({"x": 2}, idempotency_key="mine")
    assert caught.value.code == "idempotency_mismatch"


def test_what_a_function_raises_reaches_its_caller(echo):
    with pytest.raises(JobFailed, match="boom") as caught:
        echo.call({"do": "fail"}, wait_s=20)
    assert caught.value.code == "function_error"
    assert 'raise ValueError("boom")' in caught.value.traceback


def test_output_and_events_are_kept(echo):
    job = echo.spawn({"do": "log"})
    job.wait(20)
    assert "printed" in job.logs()
    assert any("logged" in line["text"] for line in job.log_lines())
    with job.events() as events:
        states = [event.data["state"] for event in events if event.name == "state"]
    assert states[0] == "queued"
    assert states[-1] == "succeeded"


def test_a_running_job_is_cancelled(echo):
    job = echo.spawn({"do": "sleep"})
    until_running(job)
    assert job.cancel()["state"] == "cancelled"
    with pytest.raises(JobFailed) as caught:
        job.result(10)
    assert caught.value.state == "cancelled"


def test_patience_ends_before_the_job(echo):
    job = echo.spawn({"do": "sleep"})
    started_s = time.monotonic()
    with pytest.raises(JobTimeout):
        job.result(timeout_s=0.2)
    assert time.monotonic() - started_s < 5
    job.cancel()


def test_map_keeps_the_order(echo):
    inputs = [{"n": n} for n in range(40)]
    assert list(echo.map(inputs, in_flight_max=8)) == [{"got": each} for each in inputs]


def test_a_pool_of_the_mesh(client, echo):
    with Executor(client) as executor:
        futures = {executor.submit("lab/echo", {"n": n}): n for n in range(10)}
        found = {futures[future]: future.result()["got"]["n"] for future in as_completed(futures)}
        assert found == {n: n for n in range(10)}
        assert list(executor.map(echo, [{"n": 1}, {"n": 2}]))[1] == {"got": {"n": 2}}
        with pytest.raises(JobFailed, match="boom"):
            executor.submit(echo, {"do": "fail"}).result(20)
        with pytest.raises(NotFound):
            executor.submit("lab/nothing").result(20)


def test_a_future_is_cancelled_while_its_job_waits(client, echo):
    with Executor(client, jobs_out_max=3) as executor:
        running = [executor.submit(echo, {"do": "sleep"}) for _ in range(demo_node.SLOTS)]
        for future in running:
            assert future.handed_in.wait(10)
            until_running(future.job)
        waiting = executor.submit(echo, {"n": 1})
        assert waiting.handed_in.wait(10)
        unsent = executor.submit(echo, {"n": 2})
        assert unsent.cancel()
        assert waiting.cancel()
        with pytest.raises(CancelledError):
            waiting.result(10)
        assert waiting.job.status()["state"] == "cancelled"
        executor.shutdown(cancel_futures=True)
    assert all(future.cancelled() for future in running)


def test_a_namespace_keeps_json(client):
    space = client.create_namespace("settings", project="lab")
    space["model"] = {"id": "7", "scores": [0.5, None]}
    assert client.kv("lab/settings")["model"] == {"id": "7", "scores": [0.5, None]}
    space.put("m/1", 1)
    assert list(space.keys("m/")) == ["m/1"]
    del space["m/1"]
    assert "m/1" not in space
    with pytest.raises(KeyError):
        space["m/1"]
    counts = client.create_namespace("counts", project="lab", scope="local")
    counts.increment("n", 2)
    assert counts.increment("n")["value"] == 3


def test_blobs_go_and_come_back(client, tmp_path):
    content = os.urandom(3_000_000)
    (tmp_path / "noise.bin").write_bytes(content)
    made = client.put_blob(tmp_path / "noise.bin", project="lab", name="noise.bin")
    assert made["size_bytes"] == len(content)
    assert client.get_blob(made["id"]) == content
    part = tmp_path / f"again.bin.{made['id']}.part"
    part.write_bytes(content[:1_000_000])
    client.get_blob(made["id"], tmp_path / "again.bin")
    assert (tmp_path / "again.bin").read_bytes() == content
    client.delete("blob", made["id"])
    with pytest.raises(NotFound):
        client.get_blob(made["id"])


def test_versions_go_forth_and_back(client):
    source = "def handler(input):\n    return {version}\n"
    function = client.deploy("lab", "versions", source.format(version=1))
    client.deploy("lab", "versions", source.format(version=2))
    assert function.call(wait_s=20) == 2
    assert function.call(wait_s=20, function_version=1) == 1
    client.rollback("lab/versions", 1)
    assert function.call(wait_s=20) == 1
    with pytest.raises(ProblemError) as caught:
        client.deploy("lab", "versions", "def handler(:")
    assert caught.value.code == "invalid_source"


def test_members_come_and_go(client):
    client.signup("grace", "another horse battery")
    client.add_member("lab", "grace", "invoker")
    with Client(client.url, "") as other:
        other.login("grace", "another horse battery")
        assert other.function("lab/echo").call({"n": 1}, wait_s=20) == {"got": {"n": 1}}
        client.remove_member("lab", "grace")
        with pytest.raises(NotFound):
            other.function("lab/echo")


SECRET_SOURCE = """
import edge

def handler(input):
    token = edge.secret("TOKEN")
    print("it is", token)
    return len(token)
"""


def test_a_secret_is_set_and_used_and_never_shown(client):
    reader = client.deploy("lab", "reader", SECRET_SOURCE)
    made = client.set_secret("lab", "TOKEN", "pa55-phrase-of-the-lab")
    assert made["secrets"] == [{"name": "TOKEN", "nodes": [client.health()["node_id"]]}]
    job = reader.spawn(None)
    assert job.result(timeout_s=20) == 22
    assert "it is ***" in job.logs()
    assert client.remove_secret("lab", "TOKEN")["secrets"] == []
    with pytest.raises(JobFailed, match="has no secret 'TOKEN'"):
        reader.spawn(None).result(timeout_s=20)


def test_secrets_come_and_go_on_trio(node):
    async def main() -> None:
        async with AsyncClient(*node) as client:
            made = await client.set_secret("lab", "OTHER", "x", nodes=["1"])
            assert made["secrets"] == [{"name": "OTHER", "nodes": ["1"]}]
            assert (await client.remove_secret("lab", "OTHER"))["secrets"] == []

    trio.run(main)


def test_lists_are_walked_to_their_end(client, echo):
    handed_in = {echo.spawn({"n": n}).id for n in range(5)}
    assert handed_in <= {job["id"] for job in client.list("job", function=echo.id)}


def test_without_a_token_nothing_is_told(node):
    with Client(node[0], "") as client, pytest.raises(Unauthenticated):
        client.create_project("x")


async def test_the_client_on_trio(node):
    async with AsyncClient(*node) as client:
        function = await client.function("lab/echo")
        inputs = [{"n": n} for n in range(10)]
        found = [result async for result in function.map(inputs)]
        assert found == [{"got": each} for each in inputs]
        job = await function.spawn({"do": "log"})
        names = [event.name async for event in job.events()]
        assert "state" in names
        blob = await client.put_blob(b"bytes" * 1000, project="lab")
        assert await client.get_blob(blob["id"]) == b"bytes" * 1000
        space = await client.create_namespace("trio", project="lab")
        await space.put("a", 1)
        assert [key async for key in space.keys("")] == ["a"]


async def test_a_cancelled_wait_leaves_the_job_alone(node):
    async with AsyncClient(*node) as client:
        job = await (await client.function("lab/echo")).spawn({"do": "sleep"})
        with trio.move_on_after(0.2) as scope:
            await job.result()
        assert scope.cancelled_caught
        assert (await job.status())["state"] in {"queued", "leased", "running"}
        await job.cancel()
