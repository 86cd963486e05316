"""The grammar of the HTTP API, and what every call of it has in common."""

import json
from typing import Any

import pytest
import trio

from peernode.classes import CLASSES
from peernode.json_bodies import BODY_SIZE_MAX_BYTES, DEPTH_MAX, check_depth
from peernode.problems import CODES, Problem
from tests.peernode.nodes import Caller, Exchange, Lab, exchange, open_lab, settle, sign_up
from worker import protocol


def body(data: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": data, "more_body": more}


async def call(lab: Lab, method: str, path: str, *messages: Any, **headers: str) -> Exchange:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named.setdefault("Authorization", f"Bearer {lab.ada.token}")
    return await exchange(lab.node.api, method, path, messages or (body(b""),), named)


def check_problem(found: Exchange, status: int, code: str) -> dict[str, Any]:
    problem: dict[str, Any] = found.json()
    assert (found.status, problem["code"]) == (status, code), problem
    assert found.headers[b"content-type"] == b"application/problem+json"
    assert found.headers[b"content-length"] == b"%d" % len(found.body)
    assert problem["status"] == status == CODES[code][0]
    assert problem["title"] == CODES[code][1]
    assert problem["type"] == f"urn:peernode:problem:{code}"
    assert problem["detail"]
    return problem


# --- the grammar ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(CLASSES))
async def test_every_class_has_the_six_calls(lab: Lab, name: str) -> None:
    one = {"user": lab.ada.id, "project": lab.project, "function": lab.echo}.get(name, "12345")
    for method, path, allowed in (
        ("PUT", f"/{name}", "GET, POST"),
        ("DELETE", f"/{name}", "GET, POST"),
        ("PATCH", f"/{name}/{one}", "GET, POST, DELETE"),
    ):
        found = await call(lab, method, path)
        check_problem(found, 405, "method_not_allowed")
        assert found.headers[b"allow"] == allowed.encode()
    answer = await call(lab, "GET", f"/{name}")
    assert answer.status == (403 if name == "worker" else 200)


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/jobs", "unknown_class"),
        ("POST", "/jobs/1/cancel", "unknown_class"),
        ("GET", "//job", "not_found"),
        ("POST", "/job/1/stop", "unknown_method"),
        ("POST", "/job/1/cancel/now", "not_found"),
        ("GET", "/job/0", "not_found"),
        ("GET", "/job/-1", "not_found"),
        ("GET", "/job/01", "not_found"),
        ("GET", "/job/9223372036854775808", "not_found"),
        ("GET", "/job/\uff11", "not_found"),
        ("GET", "/job/ada", "not_found"),
        ("GET", "/job/12345", "not_found"),
        ("GET", "/user/nobody", "not_found"),
        ("GET", "/no/such/page", "unknown_class"),
        ("GET", "/health/more", "not_found"),
    ],
)
async def test_what_is_not_there_is_404(lab: Lab, method: str, path: str, code: str) -> None:
    check_problem(await call(lab, method, path), 404, code)


async def test_methods_are_called_by_post_and_reads_by_get(lab: Lab) -> None:
    job = await lab.job()
    for method, name, allowed in (
        ("GET", "cancel", b"POST"),
        ("POST", "logs", b"GET"),
        ("DELETE", "logs", b"GET"),
    ):
        found = await call(lab, method, f"/job/{job}/{name}")
        check_problem(found, 405, "method_not_allowed")
        assert found.headers[b"allow"] == allowed


async def test_a_slash_at_the_end_of_a_class_is_the_class(lab: Lab) -> None:
    one, other = await call(lab, "GET", "/project"), await call(lab, "GET", "/project/")
    assert one.body == other.body


async def test_head_is_get(lab: Lab) -> None:
    for path in (f"/project/{lab.project}", "/job", "/health"):
        head, get = await call(lab, "HEAD", path), await call(lab, "GET", path)
        assert (head.status, head.headers) == (get.status, get.headers)
    check_problem(await call(lab, "HEAD", "/job/1/cancel"), 405, "method_not_allowed")


async def test_a_user_is_called_by_its_name_too(lab: Lab) -> None:
    assert await lab.ada.get("/user/ada") == await lab.ada.get(f"/user/{lab.ada.id}")


# --- bodies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "status", "code", "field"),
    [
        ('{"name": "a", "colour": "red"}', 422, "unknown_field", "colour"),
        ("{}", 422, "invalid_field", "name"),
        ('{"name": 1}', 422, "invalid_field", "name"),
        ('{"name": "A"}', 422, "invalid_field", "name"),
        ("[]", 422, "invalid_field", None),
        ("{", 400, "invalid_json", None),
        ('{"name": "a"} x', 400, "invalid_json", None),
        ('{"name": "a",}', 400, "invalid_json", None),
        ("nonsense", 400, "invalid_json", None),
    ],
)
async def test_a_mistake_in_a_body_names_its_field(
    lab: Lab, text: str, status: int, code: str, field: str | None
) -> None:
    problem = check_problem(await call(lab, "POST", "/project", body(text.encode())), status, code)
    assert problem.get("field") == field


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('{"function": "1", "limits": {"run_s": 0}}', "limits.run_s"),
        ('{"function": "1", "limits": {"speed": 1}}', "limits.speed"),
        ('{"function": "1", "inputs": {"a": {"id": "1"}}}', "inputs[...].id"),
        ('{"function": "1", "retry": {"on": ["never"]}}', "retry.on[0]"),
    ],
)
async def test_a_mistake_deep_in_a_body_names_its_place(lab: Lab, text: str, field: str) -> None:
    found = await call(lab, "POST", "/job", body(text.encode()))
    assert found.status == 422
    assert found.json()["field"].replace("[0]", "").replace("[...]", "") == field.replace(
        "[0]", ""
    ).replace("[...]", "")


async def test_a_body_that_is_no_utf_8_is_no_json(lab: Lab) -> None:
    for wrong in (b'"\xff"', b'{"\xc3": 1}'):
        text = b'{"function": "%b", "input": ' + wrong + b"}"
        found = await call(lab, "POST", "/job", body(text % lab.echo.encode()))
        check_problem(found, 400, "invalid_json")


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


async def test_a_body_nests_so_deep_and_no_deeper(lab: Lab) -> None:
    text = b'{"function": "%b", "input": %b}'
    fits = await call(lab, "POST", "/job", body(text % (lab.echo.encode(), nested(DEPTH_MAX - 1))))
    assert fits.status == 202
    for depth in (DEPTH_MAX, 100_000):
        found = await call(lab, "POST", "/job", body(text % (lab.echo.encode(), nested(depth))))
        problem = check_problem(found, 413, "too_large")
        assert problem["limit"] == DEPTH_MAX


def test_brackets_in_strings_do_not_count() -> None:
    check_depth(b'["' + b"[" * 1000 + b'"]')
    check_depth(b'["\\"' + b"[" * 1000 + b'"]')
    check_depth(b"[]" * 1000)
    with pytest.raises(Problem):
        check_depth(b'["\\\\"' + b"[" * 1000)


async def test_a_large_body_is_refused_whatever_was_announced(lab: Lab) -> None:
    most = json.dumps({"name": "big"}).encode().ljust(BODY_SIZE_MAX_BYTES)
    fits = await call(lab, "POST", "/project", body(most[:1000], more=True), body(most[1000:]))
    assert fits.status == 201
    whole = await call(lab, "POST", "/project", body(most + b" "))
    pieces = [body(b" " * 1000, more=True)] * 2000
    chunked = await call(lab, "POST", "/project", *pieces)
    for found in (whole, chunked):
        problem = check_problem(found, 413, "too_large")
        assert problem["limit"] == BODY_SIZE_MAX_BYTES
    assert chunked.received <= BODY_SIZE_MAX_BYTES // 1000 + 2, "the rest is not read"
    length = str(BODY_SIZE_MAX_BYTES + 1)
    announced = await call(lab, "POST", "/project", *pieces, Content_Length=length)
    check_problem(announced, 413, "too_large")
    assert announced.received == 0


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_a_body_of_another_kind_is_refused(lab: Lab, kind: str) -> None:
    found = await call(lab, "POST", "/project", body(b"name=a"), Content_Type=kind)
    check_problem(found, 415, "unsupported_media_type")


async def test_a_caller_who_leaves_before_the_body_has_asked_for_nothing(lab: Lab) -> None:
    job = await lab.job()
    for messages in (
        [{"type": "http.disconnect"}],
        [body(b"{", more=True), {"type": "http.disconnect"}],
    ):
        with pytest.raises(ConnectionResetError):
            await call(lab, "POST", f"/job/{job}/cancel", *messages)
    assert (await lab.ada.get(f"/job/{job}"))["state"] == "queued"


@pytest.mark.parametrize("query", [b"limit=%ff%", b"a=1&" * 100, b"limit=\xff"])
async def test_a_malformed_query_is_refused(lab: Lab, query: bytes) -> None:
    headers = {"Authorization": f"Bearer {lab.ada.token}"}
    found = await exchange(lab.node.api, "GET", "/job", [body(b"")], headers, query=query)
    assert found.status in (400, 422)
    assert found.json()["code"] in ("bad_request", "invalid_field")


# --- who asks -------------------------------------------------------------------------------------


async def test_without_a_token_and_with_a_wrong_one_nothing_is_told(lab: Lab) -> None:
    job = await lab.job()
    for path in ("/job", "/project", f"/project/{lab.project}", f"/function/{lab.echo}", "/worker"):
        found = await exchange(lab.node.api, "GET", path)
        check_problem(found, 401, "unauthenticated")
        assert found.headers[b"www-authenticate"] == b"Bearer"
    for token in ("x", "pn1.x.y", "pno1.wrong", ""):
        found = await call(lab, "GET", f"/job/{job}", Authorization=f"Bearer {token}")
        assert found.status == 401


async def test_what_one_may_not_see_is_not_there(lab: Lab) -> None:
    job, space = await lab.job(), await lab.space("state")
    blob = (await lab.ada.blob(b"x", lab.project))["id"]
    bob = await sign_up(lab.node, "bob")
    for path in (f"/project/{lab.project}", f"/function/{lab.echo}", f"/job/{job}", f"/kv/{space}",
                 f"/blob/{blob}", f"/blob/{blob}/content", f"/job/{job}/logs"):  # fmt: skip
        hidden = await bob.get(path, 404)
        missing = await bob.get(path.replace(path.split("/")[2], "12345"), 404)
        assert hidden["detail"].replace(path.split("/")[2], "12345") == missing["detail"]
    await bob.delete(f"/job/{job}", 404)
    await bob.post("/job", {"function": lab.echo}, 404)
    assert (await bob.get("/job"))["items"] == []
    assert (await bob.get("/blob"))["items"] == []


async def test_strangers_are_limited_by_their_address_and_this_machine_is_not(lab: Lab) -> None:
    near, far = Caller(lab.node), Caller(lab.node, client="192.0.2.1")
    statuses = [(await far.http.get("/job")).status_code for _ in range(70)]
    assert set(statuses) == {401, 429}
    assert (await Caller(lab.node, client="192.0.2.2").http.get("/job")).status_code == 401
    assert {(await near.http.get("/job")).status_code for _ in range(70)} == {401}
    known = Caller(lab.node, lab.ada.token, client="192.0.2.1")
    assert {(await known.http.get("/job")).status_code for _ in range(70)} == {200}


# --- load -----------------------------------------------------------------------------------------


async def test_a_busy_node_refuses_before_it_reads_the_body(autojump_clock: Any) -> None:
    async with open_lab(requests_active_max=2) as lab:
        lab.disk.gate.hold()
        for name in ("one", "two"):
            lab.nursery.start_soon(lab.ada.post, "/project", {"name": name}, 201)
        await settle()
        answers: list[Exchange] = []

        async def ask() -> None:
            answers.append(await call(lab, "POST", "/project", body(b'{"name": "three"}')))

        lab.nursery.start_soon(ask)
        await settle()
        assert answers, "it is refused at once"
        found = answers[0]
        problem = check_problem(found, 503, "overloaded")
        assert (found.received, problem["retryable"], problem["limit"]) == (0, True, 2)
        assert found.headers[b"retry-after"] == b"1"
        assert lab.node.api.shed == 1
        assert (await call(lab, "GET", "/health")).status == 200
        lab.disk.gate.release()
        await settle()
        assert (await call(lab, "POST", "/project", body(b'{"name": "three"}'))).status == 201


async def test_who_only_waits_does_not_count(autojump_clock: Any) -> None:
    async with open_lab(requests_active_max=1) as lab:
        job = await lab.job()
        for _ in range(3):
            lab.nursery.start_soon(lab.ada.get, f"/job/{job}?wait=60")
        await settle()
        await lab.ada.get("/job")
        await lab.ada.post(f"/job/{job}/cancel")


async def test_a_full_disk_is_507_and_reading_goes_on(lab: Lab) -> None:
    lab.disk.fill()
    found = await call(lab, "POST", "/project", body(b'{"name": "more"}'))
    problem = check_problem(found, 507, "storage_full")
    assert problem["retryable"] is True
    assert found.headers[b"retry-after"] == b"5"
    assert (await call(lab, "GET", f"/project/{lab.project}")).status == 200
    lab.disk.make_room()
    assert (await call(lab, "POST", "/project", body(b'{"name": "more"}'))).status == 201


# --- revisions ------------------------------------------------------------------------------------


async def test_a_change_can_ask_for_the_revision_it_was_made_for(lab: Lab) -> None:
    job = await lab.job()
    space, local = await lab.space("a", "global"), await lab.space("b")
    blob = (await lab.ada.blob(b"x", lab.project))["id"]
    for path, change in (
        (f"/user/{lab.ada.id}", {"display_name": "Ada"}),
        (f"/project/{lab.project}", {"display_name": "Lab"}),
        (f"/function/{lab.echo}", {"description": "Echo"}),
        (f"/kv/{space}", {"display_name": "A"}),
        (f"/kv/{local}", {"display_name": "B"}),
        (f"/blob/{blob}", {"name": "x.txt"}),
    ):
        answer = await lab.ada.http.get(path)
        tag = answer.headers["etag"]
        assert tag == f'"{answer.json()["revision"]}"'
        changed = await lab.ada.post(path, change, If_Match=tag)
        assert changed["revision"] != answer.json()["revision"], path
        refused = await lab.ada.post(path, change, 412, If_Match=tag)
        assert refused["code"] == "precondition_failed"
        await lab.ada.post(path, change, If_Match=f'"0", "{changed["revision"]}"')
        await lab.ada.post(path, change, If_Match="*")
        await lab.ada.delete(path, 412, If_Match=tag)
    stale = await lab.ada.post(f"/job/{job}", {"priority": 1}, 412, If_Match='"0"')
    assert stale["hint"]


async def test_waiting_for_a_change_answers_when_it_comes_or_the_time_is_up(lab: Lab) -> None:
    path, answers = f"/project/{lab.project}", []

    async def wait() -> None:
        answers.append(await lab.ada.get(f"{path}?wait=60"))

    lab.nursery.start_soon(wait)
    await settle()
    await lab.function("unrelated")
    await settle()
    assert answers == []
    changed = await lab.ada.post(path, {"display_name": "New"})
    await settle()
    assert answers == [changed]
    before = trio.current_time()
    await lab.ada.get(f"{path}?wait=5")
    assert trio.current_time() - before == 5
    refused = await lab.ada.get(f"{path}?wait=soon", 422)
    assert refused["field"] == "wait"


# --- pages ----------------------------------------------------------------------------------------


async def test_the_root_describes_classes_and_their_methods(lab: Lab) -> None:
    found = (await call(lab, "GET", "/")).json()
    assert set(found["classes"]) == set(CLASSES)
    for name, spec in CLASSES.items():
        assert set(found["classes"][name]["methods"]) == set(spec.methods)


async def test_health_says_who_the_node_is_and_that_it_stops(lab: Lab) -> None:
    found = await exchange(lab.node.api, "GET", "/health")
    assert found.json() == {
        "status": "ok",
        "node_id": "1",
        "peer_id": lab.node.identity.peer_id,
    }
    lab.node.jobs.draining = True
    found = await exchange(lab.node.api, "GET", "/health")
    assert (found.status, found.json()["status"]) == (503, "draining")


async def test_docs_name_every_call_and_every_problem(lab: Lab) -> None:
    text = (await exchange(lab.node.api, "GET", "/docs")).body.decode()
    for name, spec in CLASSES.items():
        for method in [*spec.methods, *spec.reads]:
            assert f"/{name}/:id/{method}" in text
    for code in CODES:
        assert code in text


async def test_pages_are_only_read(lab: Lab) -> None:
    for path in ("/", "/health", "/docs", "/metrics", "/openapi.json"):
        check_problem(await call(lab, "POST", path), 405, "method_not_allowed")


# --- lists ----------------------------------------------------------------------------------------


async def test_lists_show_newest_first_filter_and_page(lab: Lab) -> None:
    worker = await lab.worker()
    done = await lab.job()
    await settle()
    await worker.finish(worker.lease(done))
    await worker.detach()
    jobs = [done, *[await lab.job() for _ in range(3)]]
    found = await lab.ada.get("/job")
    assert [job["id"] for job in found["items"]] == jobs[::-1]
    page = await lab.ada.get("/job?limit=3")
    rest = await lab.ada.get(f"/job?limit=3&cursor={page['next']}")
    assert [job["id"] for job in page["items"] + rest["items"]] == jobs[::-1]
    ended = await lab.ada.get("/job?state=succeeded")
    assert [job["id"] for job in ended["items"]] == [done]
    assert (await lab.ada.get(f"/function?name=echo&project={lab.project}"))["items"]
    assert (await lab.ada.get("/job?project=12345"))["items"] == []
    await lab.ada.get("/job?colour=red", 422)


async def test_a_deleted_job_leaves_nothing(lab: Lab) -> None:
    worker = await lab.worker()
    before = lab.disk.snapshot()
    job = await lab.job()
    await settle()
    lease = worker.lease(job)
    await lab.ada.delete(f"/job/{job}", 409)
    await worker.say(protocol.Log(lease.job, lease.fence, [(1, "stdout", "x")]))
    await worker.finish(lease)
    await lab.ada.delete(f"/job/{job}")
    await lab.ada.get(f"/job/{job}", 404)
    assert (await lab.ada.get("/job"))["items"] == []
    assert lab.disk.snapshot()[2:] == before[2:]
