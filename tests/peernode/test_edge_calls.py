"""What function code may do to this node's objects, with the right of its function's project."""

import json
from typing import Any

import pytest

from peernode.edge_calls import CHAIN_LENGTH_MAX, UPLOADS_MAX
from peernode.json_bodies import BODY_SIZE_MAX_BYTES
from storage.store import Table
from tests.peernode.nodes import ECHO, Caller, Lab, Worker, settle, sign_up
from worker import protocol


async def running(lab: Lab, worker: Worker, **fields: Any) -> protocol.Lease:
    job = await lab.job(**fields)
    await settle()
    return worker.lease(job)


@pytest.fixture
async def worker(lab: Lab) -> Worker:
    return await lab.worker(slots=16)


@pytest.fixture
async def lease(lab: Lab, worker: Worker) -> protocol.Lease:
    return await running(lab, worker)


def put(space: int, key: str, value: Any, ttl_s: float | None = None) -> dict[str, Any]:
    return {"space": space, "key": key, "value": json.dumps(value).encode(), "ttl_s": ttl_s}


async def elsewhere(lab: Lab) -> tuple[Caller, str]:
    """Return another user and a project of it."""
    bob = await sign_up(lab.node, "bob")
    return bob, (await bob.post("/project", {"name": "elsewhere"}, 201))["id"]


# --- every operation ------------------------------------------------------------------------------


async def test_every_operation_of_the_protocol_is_answered(lab: Lab) -> None:
    answered = lab.node.dispatch._effects._operations  # type: ignore[attr-defined]
    assert set(answered) == set(protocol.OPERATIONS)


async def test_kv_calls_take_effect_at_once(
    lab: Lab, worker: Worker, lease: protocol.Lease
) -> None:
    space = int(await lab.space("state"))
    opened = await worker.ask(lease, "kv.open", name="state")
    assert opened == {"space": space, "scope": "local", "mode": "lww"}
    assert await worker.ask(lease, "kv.get", space=space, key="k") is None
    first = await worker.ask(lease, "kv.put", **put(space, "k", [1.5]))
    got = await worker.ask(lease, "kv.get", space=space, key="k")
    assert got == {"value": b"[1.5]", "version": first["version"]}
    seen = await lab.ada.post(f"/kv/{space}/get", {"key": "k"})
    assert seen["value"] == [1.5]
    assert await worker.ask(lease, "kv.increment", space=space, key="n", by=3) == {"value": 3}
    assert await worker.ask(lease, "kv.delete", space=space, key="k") == {}
    assert await worker.ask(lease, "kv.delete", space=space, key="k") == {}
    listed = await worker.ask(lease, "kv.list", space=space, prefix="", cursor=None)
    assert listed == {"keys": ["n"], "cursor": None}


async def test_keys_are_listed_page_by_page(
    lab: Lab, worker: Worker, lease: protocol.Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peernode.edge_calls.KEYS_MAX", 2)
    space = int(await lab.space("state"))
    for key in ("a1", "a2", "a3", "b"):
        await worker.ask(lease, "kv.put", **put(space, key, 0))
    cursor, found = None, []
    while True:
        page = await worker.ask(lease, "kv.list", space=space, prefix="a", cursor=cursor)
        found += page["keys"]
        cursor = page["cursor"]
        if cursor is None:
            break
    assert found == ["a1", "a2", "a3"]


async def test_a_blob_is_written_read_and_described(
    lab: Lab, worker: Worker, lease: protocol.Lease
) -> None:
    data = bytes(range(256)) * 8
    blob = await worker.upload(lease, data, media_type="a/b", name="n")
    await worker.finish(lease, None, protocol.BlobKeep(blob))
    other = await running(lab, worker)
    stat = await worker.ask(other, "blob.stat", blob=blob)
    assert (stat["size_bytes"], stat["media_type"], stat["name"]) == (len(data), "a/b", "n")
    assert stat["cid"] == (await lab.ada.get(f"/blob/{blob}"))["cid"]
    assert await worker.ask(other, "blob.read", blob=blob, offset=10, length=20) == data[10:30]
    assert await worker.ask(other, "blob.read", blob=blob, offset=len(data), length=1) == b""


async def test_an_upload_of_many_pieces_is_one_blob(
    lab: Lab, worker: Worker, lease: protocol.Lease
) -> None:
    begun = await worker.ask(lease, "blob.begin", media_type="a/b", name="")
    upload = begun["upload"]
    for piece in (b"one ", b"", b"two"):
        assert await worker.ask(lease, "blob.append", upload=upload, data=piece) == {}
    done = await worker.ask(lease, "blob.finish", upload=upload)
    assert done["size_bytes"] == 7
    for operation, fields in (("append", {"data": b"x"}), ("finish", {})):
        code = await worker.refused(lease, f"blob.{operation}", upload=upload, **fields)
        assert code == "not_found"
    await worker.finish(lease, None, protocol.BlobKeep(done["blob"]))
    content = await lab.ada.http.get(f"/blob/{done['blob']}/content")
    assert content.content == b"one two"


async def test_a_job_hands_in_another(lab: Lab, worker: Worker, lease: protocol.Lease) -> None:
    made = await worker.ask(lease, "job.call", function="echo", input=b'{"n": 1}')
    child = await lab.ada.get(f"/job/{made['job']}")
    assert (child["parent"], child["function"], child["input"]) == (
        str(lease.job),
        lab.echo,
        {"n": 1},
    )
    for name in (lab.echo, "lab/echo"):
        await worker.ask(lease, "job.call", function=name, input=b"1")
    assert await worker.refused(lease, "job.call", function="none", input=b"1") == "not_found"
    assert await worker.refused(lease, "job.call", function="echo", input=b"{") == "invalid_json"


# --- what is malformed ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "arguments", "code"),
    [
        ("kv.fetch", {}, "unknown_method"),
        ("kv.open", {}, "invalid_field"),
        ("kv.open", {"name": 1}, "invalid_field"),
        ("kv.open", {"name": "state", "more": 1}, "invalid_field"),
        ("kv.get", {"space": "1", "key": "k"}, "invalid_field"),
        ("blob.read", {"blob": 1, "offset": 0}, "invalid_field"),
        ("kv.open", {"name": "nothing"}, "not_found"),
        ("kv.get", {"space": 0, "key": "k"}, "not_found"),
        ("kv.get", {"space": -1, "key": "k"}, "not_found"),
        ("kv.get", {"space": (1 << 64) - 1, "key": "k"}, "not_found"),
        ("blob.stat", {"blob": 0}, "not_found"),
        ("blob.stat", {"blob": -1}, "not_found"),
        ("blob.stat", {"blob": (1 << 64) - 1}, "not_found"),
        ("blob.append", {"upload": 1, "data": b""}, "not_found"),
        ("blob.finish", {"upload": 1}, "not_found"),
        ("job.call", {"function": "", "input": b"1"}, "not_found"),
        ("job.call", {"function": "0", "input": b"1"}, "invalid_field"),
        ("job.call", {"function": "\u00b2", "input": b"1"}, "invalid_field"),
    ],
)
async def test_what_is_malformed_is_refused_and_the_link_goes_on(
    worker: Worker, lease: protocol.Lease, operation: str, arguments: dict[str, Any], code: str
) -> None:
    assert await worker.refused(lease, operation, **arguments) == code
    assert worker.ended == []


async def test_limits_of_the_api_hold_for_function_code_too(
    lab: Lab, worker: Worker, lease: protocol.Lease
) -> None:
    space = int(await lab.space("state"))
    blob = int((await lab.ada.blob(b"abc", lab.project))["id"])
    deep = b"[" * 40 + b"]" * 40
    long = b'"' + b"x" * (1 << 16) + b'"'
    for operation, arguments, code in (
        ("kv.put", put(space, "k" * 257, 1), "too_large"),
        ("kv.put", put(space, "", 1), "invalid_field"),
        ("kv.put", {**put(space, "k", 1), "value": long}, "too_large"),
        ("kv.put", {**put(space, "k", 1), "value": deep}, "too_large"),
        ("kv.put", {**put(space, "k", 1), "value": b"\xff"}, "invalid_json"),
        ("kv.put", put(space, "k", 1, ttl_s=0.0), "invalid_field"),
        ("kv.put", put(space, "k", 1, ttl_s=float("inf")), "invalid_field"),
        ("kv.increment", {"space": space, "key": "n", "by": 1 << 60}, "invalid_field"),
        ("blob.read", {"blob": blob, "offset": 0, "length": (1 << 20) + 1}, "invalid_field"),
        ("blob.read", {"blob": blob, "offset": -1, "length": 1}, "invalid_field"),
        ("blob.read", {"blob": blob, "offset": 0, "length": -1}, "invalid_field"),
        ("job.call", {"function": "echo", "input": b" " * BODY_SIZE_MAX_BYTES + b"1"}, "too_large"),
        ("job.call", {"function": "echo", "input": deep}, "too_large"),
    ):
        assert await worker.refused(lease, operation, **arguments) == code, (operation, code)
    assert worker.ended == []
    assert (await lab.ada.post(f"/kv/{space}/list"))["items"] == []


async def test_a_job_writes_a_bounded_number_of_blobs_at_once(
    worker: Worker, lease: protocol.Lease
) -> None:
    for _ in range(UPLOADS_MAX):
        await worker.ask(lease, "blob.begin", media_type="a/b", name="")
    refused = await worker.refused(lease, "blob.begin", media_type="a/b", name="")
    assert refused == "too_large"


async def test_a_blob_over_the_size_limit_is_refused_and_its_upload_is_over(
    autojump_clock: Any,
) -> None:
    from tests.peernode.nodes import open_lab

    async with open_lab(blob_size_max_bytes=100) as lab:
        worker = await lab.worker()
        lease = await running(lab, worker)
        upload = (await worker.ask(lease, "blob.begin", media_type="a/b", name=""))["upload"]
        append = {"upload": upload, "data": b"x" * 60}
        await worker.ask(lease, "blob.append", **append)
        assert await worker.refused(lease, "blob.append", **append) == "too_large"
        assert await worker.refused(lease, "blob.append", **append) == "not_found"
        assert await worker.refused(lease, "blob.finish", upload=upload) == "not_found"
        assert worker.ended == []


async def test_jobs_that_hand_in_jobs_end_somewhere(lab: Lab, worker: Worker) -> None:
    lease = await running(lab, worker)
    for _ in range(CHAIN_LENGTH_MAX - 1):
        made = await worker.ask(lease, "job.call", function="echo", input=b"1")
        await settle()
        lease = worker.lease(made["job"])
    assert await worker.refused(lease, "job.call", function="echo", input=b"1") == "conflict"


async def test_a_childs_input_is_checked_like_any_other(
    lab: Lab, worker: Worker, lease: protocol.Lease
) -> None:
    await lab.function("strict", input_schema={"type": "object"})
    refused = await worker.refused(lease, "job.call", function="strict", input=b"1")
    assert refused == "input_mismatch"
    await worker.ask(lease, "job.call", function="strict", input=b"{}")


async def test_a_childs_job_counts_for_the_quota(
    lab: Lab, worker: Worker, lease: protocol.Lease
) -> None:
    await lab.operator.post(f"/project/{lab.project}", {"quota": {"jobs_unfinished": 1}})
    refused = await worker.refused(lease, "job.call", function="echo", input=b"1")
    assert refused == "quota_exceeded"


# --- rights ---------------------------------------------------------------------------------------


async def test_a_job_reaches_nothing_of_another_project(
    lab: Lab, worker: Worker, lease: protocol.Lease
) -> None:
    bob, project = await elsewhere(lab)
    owner = {"owner": {"project": project}, "name": "secrets", "scope": "local"}
    space = int((await bob.post("/kv", owner, 201))["id"])
    await bob.post(f"/kv/{space}/put", {"key": "k", "value": 1})
    blob = int((await bob.blob(b"secret", project))["id"])
    body = {"project": project, "name": "f", "runtime": "python", "source": ECHO}
    function = (await bob.post("/function", body, 201))["id"]
    # Ada is a member there too; her job is not.
    await bob.post(f"/project/{project}/add_member", {"user": "ada", "role": "admin"})
    await lab.ada.get(f"/blob/{blob}")
    for operation, arguments in (
        ("kv.open", {"name": "secrets"}),
        ("kv.get", {"space": space, "key": "k"}),
        ("kv.list", {"space": space, "prefix": "", "cursor": None}),
        ("kv.put", put(space, "k", 2)),
        ("kv.delete", {"space": space, "key": "k"}),
        ("kv.increment", {"space": space, "key": "k", "by": 1}),
        ("blob.stat", {"blob": blob}),
        ("blob.read", {"blob": blob, "offset": 0, "length": 3}),
        ("job.call", {"function": function, "input": b"1"}),
        ("job.call", {"function": "elsewhere/f", "input": b"1"}),
    ):
        assert await worker.refused(lease, operation, **arguments) == "not_found", operation
    for write in (
        protocol.KvPut(space, "k", b"2"),
        protocol.KvDelete(space, "k"),
        protocol.KvIncrement(space, "k", 1),
        protocol.BlobDelete(blob),
    ):
        current = await running(lab, worker)
        await worker.finish(current, None, write)
        assert (await lab.ada.get(f"/job/{current.job}"))["error"]["code"] == "write_refused"
    assert (await bob.post(f"/kv/{space}/get", {"key": "k"}))["value"] == 1
    await bob.get(f"/blob/{blob}")


async def test_a_job_reaches_nothing_of_whoever_handed_it_in(
    lab: Lab, worker: Worker, lease: protocol.Lease
) -> None:
    mine = {"owner": {"user": lab.ada.id}, "name": "mine", "scope": "local"}
    space = int((await lab.ada.post("/kv", mine, 201))["id"])
    blob = int((await lab.ada.blob(b"mine"))["id"])
    assert await worker.refused(lease, "kv.open", name="mine") == "not_found"
    assert await worker.refused(lease, "kv.get", space=space, key="k") == "not_found"
    assert await worker.refused(lease, "blob.stat", blob=blob) == "not_found"


async def test_a_blob_named_in_the_input_may_be_read_and_no_more(lab: Lab, worker: Worker) -> None:
    named = int((await lab.ada.blob(b"named"))["id"])
    passed = int((await lab.ada.blob(b"passed"))["id"])
    other = int((await lab.ada.blob(b"other"))["id"])
    lease = await running(
        lab,
        worker,
        input={"deep": [{"image": {"blob": str(named)}}]},
        inputs={"model": {"blob": str(passed)}},
    )
    for blob, data in ((named, b"named"), (passed, b"passed")):
        read = await worker.ask(lease, "blob.read", blob=blob, offset=0, length=100)
        assert read == data
        assert (await worker.ask(lease, "blob.stat", blob=blob))["size_bytes"] == len(data)
    assert await worker.refused(lease, "blob.stat", blob=other) == "not_found"
    await worker.finish(lease, None, protocol.BlobDelete(named))
    assert (await lab.ada.get(f"/job/{lease.job}"))["error"]["code"] == "write_refused"
    await lab.ada.get(f"/blob/{named}")
    # Another job of the same project may not.
    later = await running(lab, worker)
    assert await worker.refused(later, "blob.stat", blob=named) == "not_found"


async def test_a_child_may_read_what_its_parent_may(lab: Lab, worker: Worker) -> None:
    blob = int((await lab.ada.blob(b"named"))["id"])
    lease = await running(lab, worker, input={"image": {"blob": str(blob)}})
    made = await worker.ask(lease, "job.call", function="echo", input=b"null")
    await settle()
    child = worker.lease(made["job"])
    assert await worker.ask(child, "blob.read", blob=blob, offset=0, length=9) == b"named"


async def test_nobody_passes_a_job_a_blob_it_may_not_read_itself(lab: Lab) -> None:
    bob, project = await elsewhere(lab)
    secret = (await bob.blob(b"secret", project))["id"]
    for body in (
        {"input": {"blob": secret}},
        {"input": [[{"x": {"blob": secret}}]]},
        {"inputs": {"x": {"blob": secret}}},
        {"input": {"blob": "12345"}},
        {"input": {"blob": "x"}},
    ):
        refused = await lab.ada.post("/job", {"function": lab.echo, **body}, 404)
        assert refused["field"].startswith("input")


async def test_who_runs_a_job_again_passes_only_what_he_may_read_himself(
    lab: Lab, worker: Worker
) -> None:
    bob = await sign_up(lab.node, "bob")
    await lab.ada.post(f"/project/{lab.project}/add_member", {"user": "bob", "role": "invoker"})
    private = (await bob.blob(b"bob's own"))["id"]
    body = {"function": lab.echo, "input": {"blob": private}}
    job = (await bob.post("/job", body, 202))["id"]
    await settle()
    await worker.finish(worker.lease(job))
    await lab.ada.get(f"/job/{job}")  # The owner of the project sees it,
    await lab.ada.get(f"/blob/{private}", 404)
    await lab.ada.post(f"/job/{job}/retry", status=404)  # and cannot have it read again.
    again = await bob.post(f"/job/{job}/retry", status=202)
    assert again["input"] == body["input"]


async def test_an_attempt_that_is_over_is_answered_no_more(
    lab: Lab, worker: Worker, lease: protocol.Lease
) -> None:
    space = int(await lab.space("state"))
    upload = (await worker.ask(lease, "blob.begin", media_type="a/b", name=""))["upload"]
    await lab.ada.post(f"/job/{lease.job}/cancel")
    await settle()
    for operation, arguments in (
        ("kv.put", put(space, "k", 1)),
        ("blob.append", {"upload": upload, "data": b"x"}),
        ("job.call", {"function": "echo", "input": b"1"}),
    ):
        answer = await worker.call(lease, operation, **arguments)
        assert answer == protocol.Refused(lease.job, lease.fence)
    assert (await lab.ada.post(f"/kv/{space}/list"))["items"] == []
    assert lab.disk.snapshot()[Table.KV_LOCAL] == {}


async def test_an_attempt_never_sees_the_uploads_of_another(lab: Lab, worker: Worker) -> None:
    job = await lab.job(retry={"on": ["error"], "backoff_s": 0, "max_attempts": 2})
    await settle()
    first = worker.lease(job)
    blob = await worker.upload(first, b"first")
    await worker.fail(first)
    await settle()
    second = worker.lease(job)
    assert second.fence != first.fence
    await worker.finish(second, None, protocol.BlobKeep(blob))
    assert (await lab.ada.get(f"/job/{job}"))["error"]["code"] == "write_refused"
    await lab.ada.get(f"/blob/{blob}", 404)
