"""What no class is to blame for: paths, bodies, headers, and what a refusal looks like."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.blackbox.conftest import Lab
from tests.blackbox.daemon import Daemon, expect, refused

pytestmark = pytest.mark.slow

CLASSES = ("user", "project", "function", "kv", "blob", "job", "worker")


@contextmanager
def nothing_stored(lab: Lab) -> Iterator[None]:
    """Fail unless all that a user can list is as it was before the block."""

    def all_there_is() -> dict[str, object]:
        return {
            name: expect(lab.http.get(f"/{name}"))["items"] for name in CLASSES if name != "worker"
        }

    before = all_there_is()
    yield
    assert all_there_is() == before


def exchange(node: Daemon, request: bytes) -> bytes:
    """Return all that the node answers to `request` on a connection of its own."""
    host, _, port = node.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as link:
        link.sendall(request)
        link.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: link.recv(65536), b""))


def test_pages_describe_the_node(node, anonymous):
    root = expect(anonymous.get("/"))
    assert set(root["classes"]) == set(CLASSES)
    assert "cancel" in root["classes"]["job"]["methods"]
    health = expect(anonymous.get("/health"))
    assert health == {"status": "ok", "node_id": node.node_id, "peer_id": node.peer_id}
    schema = expect(anonymous.get("/openapi.json"))
    assert schema["openapi"].startswith("3.1")
    assert {path.split("/")[1] for path in schema["paths"]} == {*CLASSES, "mesh"}
    docs = anonymous.get("/docs")
    assert docs.headers["content-type"].startswith("text/html")
    assert "/job/:id/cancel" in docs.text
    metrics = anonymous.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    assert "\npeernode_" in metrics.text
    refused(anonymous.post("/health"), 405, "method_not_allowed")
    refused(anonymous.get("/health/more"), 404, "not_found")


def test_every_operation_of_the_contract_is_described(anonymous):
    paths = expect(anonymous.get("/openapi.json"))["paths"]
    for name in CLASSES:
        assert {"get", "post"} <= set(paths[f"/{name}"])
        assert {"get", "post", "delete"} <= set(paths[f"/{name}/{{id}}"])
    for call in (  # noqa: SIM905
        "user/login user/delegate user/rotate user/revoke project/add_member project/remove_member "
        "project/set_secret project/remove_secret project/usage function/rollback function/call "
        "job/cancel job/retry kv/put kv/get "
        "kv/delete kv/list kv/increment worker/cordon worker/drain worker/resume"
    ).split():
        name, _, method = call.partition("/")
        assert "post" in paths[f"/{name}/{{id}}/{method}"]
    for path in ("/job/{id}/logs", "/job/{id}/events", "/blob/{id}/content"):
        assert "get" in paths[path]


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "PUT", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", ["/nothing", "/jobs", "/Job", "/nothing/1", "/nothing/1/x"])
def test_an_unknown_class_is_named(old_lab, method, path):
    answer = old_lab.http.request(method, path)
    problem = refused(answer, 404, "unknown_class")
    assert "job" in problem["hint"]


@pytest.mark.parametrize("class_name", CLASSES)
@pytest.mark.parametrize(
    "id_text", ["x!", "-1", "1.5", "01", "9" * 19, "9" * 5000, "%00", "²", "%F0"]
)
def test_a_malformed_id_is_not_found(old_lab, class_name, id_text):
    for answer in (
        old_lab.http.get(f"/{class_name}/{id_text}"),
        old_lab.http.post(f"/{class_name}/{id_text}", json={"name": "x"}),
        old_lab.http.delete(f"/{class_name}/{id_text}"),
    ):
        if id_text in ("%00", "%F0"):
            refused_by_the_server(answer)
        else:
            refused(answer, 404, "not_found")


def refused_by_the_server(answer) -> None:
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "bad_request"


def test_methods_that_are_not_there_are_named(lab):
    job = lab.person.run(lab.echo)
    path = f"/job/{job['id']}"
    problem = refused(lab.http.post(f"{path}/explode"), 404, "unknown_method")
    assert "cancel" in problem["hint"]
    answer = lab.http.get(f"{path}/cancel")
    refused(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"
    refused(lab.http.put(path), 405, "method_not_allowed")
    refused(lab.http.patch("/job"), 405, "method_not_allowed")
    refused(lab.http.delete("/job"), 405, "method_not_allowed")
    refused(lab.http.post(f"{path}/cancel/more"), 404, "not_found")


WRONG_BODIES = [
    (b"", 422, "invalid_field"),
    (b"{", 400, "invalid_json"),
    (b"nonsense", 400, "invalid_json"),
    (b"[]", 422, "invalid_field"),
    (b"null", 422, "invalid_field"),
    (b"\xff\xfe", 400, "invalid_json"),
    (b'{"name": NaN}', 400, "invalid_json"),
    (b'{"name": Infinity}', 400, "invalid_json"),
    (b'{"name": "\xff"}', 400, "invalid_json"),
    (b'{"name": "\\ud800"}', 400, "invalid_json"),
    (b'{"name": "\xed\xa0\x80"}', 400, "invalid_json"),
    (b'{"name": "a\nb"}', 400, "invalid_json"),
    (b"[" * 33 + b"]" * 33, 413, "too_large"),
    (b"[" * 100_000, 413, "too_large"),
    (b'{"a":' * 40 + b"1" + b"}" * 40, 413, "too_large"),
    (b'{"name": "' + b"x" * (1 << 20) + b'"}', 413, "too_large"),
    (b'{"colour": 1}', 422, "unknown_field"),
]


@pytest.mark.parametrize(
    ("call", "field"),
    [("/project", b"name"), ("/function", b"name"), ("/job", b"function"), ("/kv", b"name")],
)
@pytest.mark.parametrize(("body", "status", "code"), WRONG_BODIES)
def test_a_body_that_cannot_be_read_stores_nothing(old_lab, call, field, body, status, code):
    with nothing_stored(old_lab):
        problem = refused(
            old_lab.http.post(call, content=body.replace(b"name", field)), status, code
        )
    if code == "too_large":
        assert problem["limit"] in (32, 1 << 20)
    if code == "unknown_field":
        assert problem["field"] == "colour"


@pytest.mark.parametrize(
    "literal", [b"NaN", b"-Infinity", b'"\\udead"', b'"\xff"', b"01", b"'x'", b"undefined", b".5"]
)
def test_what_is_no_json_is_found_deep_inside_too(old_lab, literal):
    body = b'{"input":{"a":[%b]},"function":"%b"}' % (literal, old_lab.echo.encode())
    with nothing_stored(old_lab):
        refused(old_lab.http.post("/job", content=body), 400, "invalid_json")


def test_json_may_be_32_deep_and_a_mebibyte_long(lab):
    deepest = "[" * 31 + "]" * 31
    body = f'{{"function":"{lab.echo}","input":{deepest}}}'
    job = expect(lab.http.post("/job", params={"wait": 20}, content=body))
    assert job["result"] == json.loads(deepest)
    head = b'{"function":"%b","input":"' % lab.echo.encode()
    body = head + b"x" * ((1 << 20) - len(head) - 2) + b'"}'
    assert len(body) == 1 << 20
    assert expect(lab.http.post("/job", params={"wait": 20}, content=body))["state"] == "succeeded"


def test_a_body_without_a_length_has_the_same_limit(lab):
    def pieces() -> Iterator[bytes]:
        yield b'{"name": "'
        for _ in range(20):
            yield b"x" * 65536
        yield b'"}'

    with nothing_stored(lab):
        refused(lab.http.post("/project", content=pieces()), 413, "too_large", limit=1 << 20)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "x"])
def test_a_body_of_another_type_is_refused(lab, kind):
    with nothing_stored(lab):
        answer = lab.http.post("/project", content=b'{"name":"x"}', headers={"Content-Type": kind})
        refused(answer, 415, "unsupported_media_type")
    kind = "Application/JSON; charset=utf-8"
    answer = lab.http.post("/project", content=b'{"name":"x"}', headers={"Content-Type": kind})
    expect(answer, 201)


@pytest.mark.parametrize(
    ("call", "body", "field"),
    [
        ("/project", {"name": 5}, "name"),
        ("/project", {"name": "x", "display_name": "x" * 257}, "display_name"),
        ("/project", {"name": "x", "owner": "1"}, "owner"),
        ("/function", {"project": 1}, "project"),
        ("/function", {"project": "x", "name": "x", "runtime": "python"}, "project"),
        ("/job", {"function": 1}, "function"),
        ("/job", {"function": "x"}, "function"),
        ("/job", {"function": "1", "function_version": "1"}, "function_version"),
        ("/job", {"function": "1", "inputs": {"a": {"blob": 1}}}, "inputs[...].blob"),
        ("/job", {"function": "1", "inputs": {"a": {"url": "x"}}}, "inputs[...].url"),
        ("/job", {"state": "succeeded"}, "state"),
    ],
)
def test_a_field_that_is_wrong_is_named(old_lab, call, body, field):
    with nothing_stored(old_lab):
        answer = old_lab.http.post(call, json=body)
        refused(answer, 422, answer.json()["code"], field=field)


def test_a_header_that_is_too_large_is_refused_with_its_limit(node):
    request = b"GET /health HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 40_000 + b"\r\n\r\n"
    head, _, body = exchange(node, request).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 ")
    problem = json.loads(body)
    assert (problem["status"], problem["code"]) == (431, "headers_too_large")
    assert problem["limit"] == 32 * 1024


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"GET /job HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET /job HTTP/1.1\r\nHost: x\r\nBad Header: x\r\n\r\n",
        b"POST /job HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        b"POST /job HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /job HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST /job HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /job HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /job HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer\r\n\r\n",
        b"GET /job?%zz=\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /job?" + b"&".join([b"a=1"] * 100) + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /job?limit=%ff HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_malformed_http_is_refused_and_harms_nobody(node, anonymous, request_bytes):
    answer = exchange(node, request_bytes)
    assert answer[:10] in (b"HTTP/1.1 4", b"HTTP/1.1 5")
    assert not answer.startswith(b"HTTP/1.1 500")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head.lower()
    assert json.loads(body)["status"] == int(answer[9:12])
    expect(anonymous.get("/health"))


def test_a_refusal_has_no_trace_of_the_code(lab):
    answer = lab.http.post("/job", json={"function": "1"})
    assert "File " not in answer.text
    assert "python" not in answer.text.lower()


def test_every_object_has_what_the_contract_says(lab, node):
    lab.person.blob(b"x")
    body = {"owner": {"project": lab.project}, "name": "space", "scope": "global"}
    expect(lab.http.post("/kv", json=body), 201)
    lab.person.run(lab.echo)
    for name in CLASSES[:-1]:
        [found] = expect(lab.http.get(f"/{name}"))["items"]
        assert found["class"] == name
        assert found["id"].isdigit()
        assert str(found["home_node"]) == node.node_id
        assert found["created_at"].endswith("Z")
        read = lab.http.get(f"/{name}/{found['id']}")
        assert read.headers["etag"] == f'"{found["revision"]}"'
        assert expect(read)["id"] == found["id"]
        head = lab.http.head(f"/{name}/{found['id']}")
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["etag"] == read.headers["etag"]


def test_what_may_not_be_seen_and_what_is_not_there_are_told_alike(lab, person, operator):
    eve = person()
    body = {"owner": {"project": lab.project}, "name": "space", "scope": "global"}
    local = body | {"name": "local", "scope": "local"}
    there = {
        ("project", "usage"): lab.project,
        ("function", "call"): lab.echo,
        ("job", "cancel"): lab.person.run(lab.echo)["id"],
        ("blob", "content"): lab.person.blob(b"x")["id"],
        ("kv", "list"): expect(lab.http.post("/kv", json=body), 201)["id"],
        ("kv", "get"): expect(lab.http.post("/kv", json=local), 201)["id"],
        ("worker", "drain"): expect(operator.post("/worker", json={}), 201)["id"],
    }
    for (class_name, method), id_text in there.items():
        other = str(int(id_text) ^ 1)
        calls = (
            ("GET", "", None),
            ("POST", "", {}),
            ("DELETE", "", None),
            ("GET" if method == "content" else "POST", f"/{method}", None),
            ("POST", "/nothing", None),
        )
        for verb, suffix, json_body in calls:
            answers = [
                eve.http.request(verb, f"/{class_name}/{one}{suffix}", json=json_body)
                for one in (id_text, other)
            ]
            told = [
                (answer.status_code, answer.text.replace(one, "ID"))
                for answer, one in zip(answers, (id_text, other), strict=True)
            ]
            assert told[0] == told[1], (class_name, verb, suffix)
            assert told[0][0] in (404, 405, 422)


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("class_name", CLASSES)
def test_nothing_is_told_without_a_token(anonymous, old_lab, method, class_name):
    for id_text in (old_lab.person.id, old_lab.project, old_lab.echo, "1" * 18):
        answer = anonymous.request(method, f"/{class_name}/{id_text}", json={})
        assert answer.status_code in (401, 422)
        if answer.status_code == 401:
            refused(answer, 401, "unauthenticated")
    refused(anonymous.get(f"/{class_name}"), 401, "unauthenticated")
