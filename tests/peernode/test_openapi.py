"""The API's description: complete, valid, and true of what the API answers."""

import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import msgspec
import pytest
from jsonschema import Draft202012Validator

from peernode import openapi
from peernode.classes import CLASSES
from peernode.mesh_operations import OPERATIONS
from peernode.problems import CODES
from tests.peernode.nodes import Caller, Lab, exchange, settle


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    encoded = msgspec.json.encode(openapi.describe(CLASSES, OPERATIONS, "peernode", "1.2.3"))
    found: dict[str, Any] = msgspec.json.decode(encoded)
    return found


def calls(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, described in methods.items():
            yield method, path, described


def test_every_operation_is_described(document: dict[str, Any]) -> None:
    described = {(method, path) for method, path, _ in calls(document)}
    for name, spec in CLASSES.items():
        one = f"/{name}/{{id}}"
        expected = {("get", f"/{name}"), ("post", f"/{name}"), ("get", one), ("post", one)}
        expected |= {("delete", one)}
        expected |= {("post", f"{one}/{method}") for method in spec.methods}
        expected |= {("get", f"{one}/{read}") for read in spec.reads}
        assert expected <= described
        described -= expected
    posts = {("post", f"/mesh/{name}") for name in ("invite", "evict", "resolve")}
    assert described == {("get", "/mesh/peers"), *posts}


def test_every_field_of_every_body_and_answer_is_described(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for spec in CLASSES.values():
        for _, operation in openapi.operations(spec):
            for kind in (operation.body, operation.answer):
                if kind is None:
                    continue
                name = next(
                    name for name in schemas
                    if set(schemas[name].get("properties", {}))
                    == set(kind.__struct_encode_fields__)
                )  # fmt: skip
                assert schemas[name]["type"] == "object"


def test_references_lead_somewhere_and_ids_are_unique(document: dict[str, Any]) -> None:
    text = msgspec.json.encode(document).decode()
    schemas = document["components"]["schemas"]
    for name in re.findall(r'"#/components/schemas/([^"]+)"', text):
        assert name in schemas
    ids = [described["operationId"] for _, _, described in calls(document)]
    assert len(ids) == len(set(ids))
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)


def test_what_may_go_wrong_is_described(document: dict[str, Any]) -> None:
    for method, path, described in calls(document):
        statuses = described["responses"]
        assert "default" in statuses, (method, path)
        assert {"401", "503"} <= set(statuses)
        if "{id}" in path:
            assert described["parameters"][0]["name"] == "id"
    codes = document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"]
    assert codes == list(CODES)


async def test_the_node_serves_it(lab: Lab, document: dict[str, Any]) -> None:
    found = (await exchange(lab.node.api, "GET", "/openapi.json")).json()
    assert found["paths"] == document["paths"]


class Checker:
    """Calls the API and checks each answer against the description."""

    def __init__(self, lab: Lab, document: dict[str, Any]) -> None:
        self._lab = lab
        self._document = document
        self.called: set[tuple[str, str]] = set()

    async def __call__(self, method: str, path: str, body: Any = None, **fields: Any) -> Any:
        caller = fields.get("caller", self._lab.ada)
        arguments: dict[str, Any] = {"headers": fields.get("headers", {})}
        if isinstance(body, bytes):
            arguments["content"] = body
        elif method == "POST":
            arguments["json"] = {} if body is None else body
        answer = await caller.http.request(method, path, **arguments)
        template = path.partition("?")[0]
        if template not in self._document["paths"]:
            template = re.sub(r"^/(\w+)/[^/?]+", r"/\1/{id}", template)
        described = self._document["paths"][template][method.lower()]["responses"]
        self.called.add((method.lower(), template))
        found = described.get(str(answer.status_code), described["default"])
        kind = answer.headers.get("content-type", "").partition(";")[0]
        if not answer.content:
            return None
        content = found["content"]
        schema = content.get(kind, next(iter(content.values())))["schema"]
        if "json" in kind:
            self._validate(schema, answer.json())
            return answer.json()
        return answer.content

    def _validate(self, schema: dict[str, Any], value: Any) -> None:
        whole = {**schema, "components": self._document["components"]}
        error = jsonschema.exceptions.best_match(Draft202012Validator(whole).iter_errors(value))
        assert error is None, (error, value)


async def test_answers_are_as_described(lab: Lab, document: dict[str, Any]) -> None:
    call = Checker(lab, document)
    worker = await lab.worker()
    project, function, operator = lab.project, lab.echo, lab.operator
    await call("POST", "/user", {"name": "bob", "password": "correct horse"})
    for path in ("/user", "/user/ada", "/project", f"/project/{project}", "/function",
                 f"/function/{function}", "/user/nobody", "/job/12345"):  # fmt: skip
        await call("GET", path)
    await call("POST", "/user/ada/login", {"password": "wrong password"})
    await call("POST", "/user/ada/login", {"password": "correct horse battery"})
    await call("POST", f"/user/{lab.ada.id}", {"display_name": "Ada"})
    await call("POST", f"/user/{lab.ada.id}/delegate", {"scopes": ["job"]})
    await call("POST", "/project", {"name": "second"})
    await call("POST", f"/project/{project}", {"egress": ["example.org"]})
    await call("POST", f"/project/{project}/add_member", {"user": "bob", "role": "viewer"})
    await call("POST", f"/project/{project}/remove_member", {"user": "bob"})
    await call("POST", f"/project/{project}/set_secret", {"name": "TOKEN", "value": "x"})
    await call("POST", f"/project/{project}/remove_secret", {"name": "TOKEN"})
    await call("POST", f"/project/{project}/usage")
    await call("POST", f"/project/{project}", {"quota": {"blob_bytes": 100}}, caller=operator)
    limits = {
        "limits": {"run_s": 5},
        "retry": {"on": ["error"]},
        "requires": {"cpu": 1},
        "prefers": {"arch": {"x86_64": 2}},
    }
    source = {"source": "def handler(input): return 1", "input_schema": {"type": "object"}}
    body = {"project": project, "name": "f", "runtime": "python"} | source | limits
    made = await call("POST", "/function", body)
    await call("POST", f"/function/{made['id']}", source)
    await call("POST", f"/function/{made['id']}/rollback", {"version": 1})
    await call("POST", f"/function/{made['id']}/call", {"input": 1})
    await call("POST", f"/function/{made['id']}/call", {"input": {}})
    job = await call("POST", "/job", {"function": function, "input": [1]})
    await call("POST", f"/job/{job['id']}", {"priority": 3})
    await settle()
    while worker.all(type(worker.lease()))[-1].job != int(job["id"]):
        await worker.finish(worker.lease())
        await settle()
    await call("GET", f"/job/{job['id']}")
    await worker.fail(worker.lease(job["id"]))
    for path in (f"/job/{job['id']}", "/job", f"/job/{job['id']}/logs", f"/job/{job['id']}/events"):
        await call("GET", path)
    again = await call("POST", f"/job/{job['id']}/retry")
    await call("POST", f"/job/{again['id']}/cancel")
    await call("DELETE", f"/job/{again['id']}")
    blob = await call("POST", f"/blob?project={project}", b"bytes")
    await call("POST", f"/blob/{blob['id']}", {"delete_after": "2030-01-01T00:00:00Z"})
    for path in (f"/blob/{blob['id']}", "/blob", f"/blob/{blob['id']}/content"):
        await call("GET", path)
    await call("DELETE", f"/blob/{blob['id']}")
    body = {"owner": {"project": project}, "name": "s", "scope": "local"}
    space = await call("POST", "/kv", body)
    path = f"/kv/{space['id']}"
    await call("POST", f"{path}/put", {"key": "k", "value": {"x": 1}, "ttl_s": 60})
    await call("POST", f"{path}/increment", {"key": "n"})
    for method in ("get", "delete", "get"):
        await call("POST", f"{path}/{method}", {"key": "k"})
    await call("POST", f"{path}/list")
    await call("POST", path, {"display_name": "S"})
    await call("GET", "/kv")
    await call("GET", path)
    await call("DELETE", path)
    other = await call("POST", "/worker", {"labels": {"a": "b"}}, caller=operator)
    path = f"/worker/{other['id']}"
    for method in ("cordon", "drain", "resume"):
        await call("POST", f"{path}/{method}", caller=operator)
    await call("POST", path, {"name": "w"}, caller=operator)
    for path in ("/worker", f"/worker/{worker.id}"):
        await call("GET", path, caller=operator)
    await call("DELETE", f"/worker/{other['id']}", caller=operator)
    await call("DELETE", f"/function/{made['id']}")
    await call("DELETE", f"/project/{project}")
    await call("POST", f"/user/{lab.ada.id}/rotate", {"password": "correct horse battery"})
    await call("POST", f"/user/{lab.ada.id}/revoke")
    await call("DELETE", f"/user/{lab.ada.id}")
    for caller in (operator, lab.ada, Caller(lab.node)):
        await call("GET", "/mesh/peers", caller=caller)
        await call("POST", "/mesh/invite", {"addresses": ["/ip4/127.0.0.1/tcp/1"]}, caller=caller)
        await call("POST", "/mesh/evict", {"node": "1"}, caller=caller)
        await call("POST", "/mesh/resolve", {}, caller=caller)
    everything = {(method, path) for method, path, _ in calls(document)}
    assert everything == call.called
