"""The API does what its own description says, whatever is sent to it.

Schemathesis makes calls from `/openapi.json`, sound and unsound ones; half of them are about
objects that exist.  No answer may be a fault of the node, and each has to match its schema.
"""

from dataclasses import dataclass
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import strategies
from schemathesis.specs.openapi import checks as openapi_checks

from tests.blackbox.conftest import ECHO
from tests.blackbox.daemon import Daemon, expect

pytestmark = [
    pytest.mark.slow,
    # Schemathesis' own, about what this Python does without it too.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

EXAMPLES_MAX = 12
WAIT_S = 0.01
"""Instead of what a strategy comes up with, which may be an hour."""
LAST = ("/revoke", "/rotate", "/remove_member")
"""Calls after which others would have nothing to work with, like DELETE."""
CHECKS = (
    schemathesis.checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_headers_conformance,
    openapi_checks.response_schema_conformance,
)


@dataclass(frozen=True)
class World:
    """A user's token, the operator's, and one object of each class."""

    tokens: dict[str, str]
    known: dict[str, str]


@pytest.fixture(scope="module")
def world(node: Daemon) -> World:
    ada = node.sign_up("schema")
    project = ada.project("schema")
    function = ada.deploy(project, "echo", ECHO)
    space = {"owner": {"project": project}, "name": "space", "scope": "local"}
    blob = ada.http.post("/blob", content=b"x", headers={"Content-Type": "image/png"})
    with node.operator() as operator:
        worker = expect(operator.post("/worker", json={}), 201)["id"]
    known = {
        "user": ada.id,
        "project": project,
        "function": function,
        "kv": expect(ada.http.post("/kv", json=space), 201)["id"],
        "blob": expect(blob, 201)["id"],
        "job": ada.run(function, {"n": 1})["id"],
        "worker": worker,
    }
    return World({"user": ada.token, "operator": node.operator_token}, known)


def enrich(case: Any, known: dict[str, str], real: bool) -> None:
    """Have a call wait for little, and if it is to be `real`, be about what there is."""
    if isinstance(case.query, dict) and "wait" in case.query:
        case.query["wait"] = WAIT_S
    if not real:
        return
    class_name = case.operation.path.split("/")[1]
    if "id" in (case.path_parameters or {}):
        case.path_parameters["id"] = known[class_name]
    if isinstance(case.body, dict):
        for name in ("project", "function", "user"):
            if name in case.body:
                case.body[name] = known[name]
        if "owner" in case.body:
            case.body["owner"] = {"project": known["project"]}


@pytest.mark.parametrize("who", ["operator", "user"])
def test_every_call_is_answered_as_described(node: Daemon, world: World, who: str) -> None:
    schema = schemathesis.openapi.from_url(f"{node.url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 50
    operations.sort(key=lambda one: (one.method == "delete", one.path.endswith(LAST)))
    headers = {"Authorization": f"Bearer {world.tokens[who]}"}
    for operation in operations:
        strategy = operation.as_strategy(headers=headers)

        @hypothesis.seed(20261129)
        @hypothesis.settings(
            max_examples=EXAMPLES_MAX,
            deadline=None,
            database=None,
            phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(case=strategy, real=strategies.booleans())
        def call(case: Any, real: bool) -> None:
            enrich(case, world.known, real)
            case.call_and_validate(headers=headers, checks=CHECKS, timeout=30)

        call()
    assert "Traceback" not in node.log.read_text()
