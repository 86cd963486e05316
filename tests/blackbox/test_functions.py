"""Functions: versions that never change, checked when they are deployed."""

import pytest

from tests.blackbox.daemon import expect, refused

pytestmark = pytest.mark.slow

ONE = "def handler(input):\n    return 1\n"
TWO = "def handler(input):\n    return 2\n"


def test_versions_stay_callable_and_the_current_one_moves(lab):
    function = lab.person.deploy(lab.project, "versioned", ONE)
    path = f"/function/{function}"
    second = expect(lab.http.post(path, json={"source": TWO}))
    assert second["version"] == 2
    assert [version["version"] for version in second["versions"]] == [1, 2]
    assert lab.person.run(function)["result"] == 2
    assert lab.person.run(function, function_version=1)["result"] == 1
    back = expect(lab.http.post(f"{path}/rollback", json={"version": 1}))
    assert (back["version"], len(back["versions"])) == (1, 2)
    assert back["source"] == ONE
    job = lab.person.run(function)
    assert (job["result"], job["function_version"]) == (1, 1)
    third = expect(lab.http.post(path, json={"source": TWO}))
    assert third["version"] == 3
    called = lab.http.post(f"{path}/call", params={"wait": 20}, json={"function_version": 1})
    assert expect(called)["result"] == 1


@pytest.mark.parametrize("version", [0, 3, -1, 1 << 70])
def test_a_version_that_is_not_there_is_named(lab, version):
    path = f"/function/{lab.echo}"
    answer = lab.http.post(f"{path}/rollback", json={"version": version})
    refused(answer, 404, "not_found", field="version")
    body = {"function": lab.echo, "function_version": version}
    refused(lab.http.post("/job", json=body), 404, "not_found", field="function_version")
    assert expect(lab.http.get("/job"))["items"] == []


@pytest.mark.parametrize(
    "source",
    [
        "def handler(input)\n    return 1\n",
        "x = 1\n",
        "",
        "\0",
        "(" * 300 + ")" * 300,
        "-" * 200_000 + "1",
        "a" + ".a" * 50_000,
        "def handler(input):\n\treturn 1\n        return 2\n",
    ],
)
def test_a_source_that_cannot_run_is_refused_when_it_is_deployed(lab, source):
    body = {"project": lab.project, "name": "wrong", "runtime": "python", "source": source}
    refused(lab.http.post("/function", json=body), 422, "invalid_source", field="source")
    answer = lab.http.post(f"/function/{lab.echo}", json={"source": source})
    refused(answer, 422, "invalid_source", field="source")
    found = expect(lab.http.get("/function"))["items"]
    assert [(one["name"], one["version"]) for one in found] == [("echo", 1)]


def test_a_syntax_error_names_its_line(lab):
    body = {"project": lab.project, "name": "wrong", "runtime": "python", "source": "\n\nif"}
    problem = refused(lab.http.post("/function", json=body), 422, "invalid_source")
    assert "line 3" in problem["detail"]


def test_a_runtime_that_nobody_knows_is_refused(lab):
    body = {"project": lab.project, "name": "later", "runtime": "cobol", "source": ONE}
    refused(lab.http.post("/function", json=body), 422, "invalid_field", field="runtime")


def test_another_entry_and_a_blob_as_source(lab):
    blob = lab.person.blob(b"def other(input):\n    return 'other'\n", project=lab.project)
    body = {
        "project": lab.project,
        "name": "other",
        "runtime": "python",
        "blob": blob["id"],
        "entry": "other",
    }
    function = expect(lab.http.post("/function", json=body), 201)
    assert lab.person.run(function["id"])["result"] == "other"
    both = body | {"name": "both", "source": ONE}
    refused(lab.http.post("/function", json=both), 422, "invalid_field", field="source")
    missing = body | {"name": "missing", "blob": lab.echo}
    refused(lab.http.post("/function", json=missing), 404, "not_found")


def test_an_input_schema_is_checked_when_a_job_is_handed_in(lab):
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    function = lab.person.deploy(lab.project, "schema", ONE, input_schema=schema)
    assert lab.person.run(function, {"n": 1})["result"] == 1
    answer = lab.http.post("/job", json={"function": function, "input": {"n": "one"}})
    refused(answer, 422, "input_mismatch", field="input.n")
    for text in (b"null", b'{"n":1e999}', b'{"n":' + b"9" * 6000 + b".5}"):
        body = b'{"function":"%b","input":%b}' % (function.encode(), text)
        assert lab.http.post("/job", content=body).status_code == 422
    assert len(expect(lab.http.get("/job", params={"function": function}))["items"]) == 1


@pytest.mark.parametrize(
    "schema",
    [{"type": 5}, {"multipleOf": 0}, {"$ref": "http://example.org/"}, {"pattern": "(a+)+$"}],
)
def test_a_schema_that_cannot_be_checked_is_refused(lab, schema):
    body = {"project": lab.project, "name": "s", "runtime": "python", "source": ONE}
    answer = lab.http.post("/function", json=body | {"input_schema": schema})
    refused(answer, 422, "invalid_field", field="input_schema")


def test_a_schema_that_never_ends_harms_only_its_own_calls(lab):
    function = lab.person.deploy(lab.project, "endless", ONE, input_schema={"$ref": "#"})
    answer = lab.http.post("/job", json={"function": function, "input": 1})
    refused(answer, 422, "input_mismatch")
    unknown = lab.person.deploy(lab.project, "unknown", ONE, input_schema={"$ref": "#/$defs/no"})
    answer = lab.http.post("/job", json={"function": unknown, "input": 1})
    refused(answer, 422, "input_mismatch")


def test_terms_change_without_a_new_version(lab):
    path = f"/function/{lab.echo}"
    changed = expect(lab.http.post(path, json={"limits": {"run_s": 5}, "description": "echo"}))
    assert (changed["version"], changed["limits"]["run_s"]) == (1, 5)
    assert changed["description"] == "echo"
    answer = lab.http.post(path, json={"entry": "other"})
    refused(answer, 422, "invalid_field", field="entry")
    answer = lab.http.post(path, json={"name": "other"})
    refused(answer, 422, "unknown_field", field="name")


@pytest.mark.parametrize(
    ("terms", "field"),
    [
        ({"limits": {"run_s": 0}}, "limits.run_s"),
        ({"limits": {"run_s": -1}}, "limits.run_s"),
        ({"limits": {"memory_bytes": 1}}, "limits.memory_bytes"),
        ({"limits": {"processes": 0}}, "limits.processes"),
        ({"limits": {"speed": 1}}, "limits.speed"),
        ({"limits": []}, "limits"),
        ({"retry": {"max_attempts": 0}}, "retry.max_attempts"),
        ({"retry": {"on": ["never"]}}, "retry.on[0]"),
        ({"requires": {"cpu": "two"}}, "requires.cpu"),
        ({"isolation": "none"}, "isolation"),
    ],
)
def test_terms_have_bounds_and_names(lab, terms, field):
    body = {"function": lab.echo, **terms}
    answer = lab.http.post("/job", json=body)
    assert answer.json()["code"] in ("invalid_field", "unknown_field")
    refused(answer, 422, answer.json()["code"], field=field)
    answer = lab.http.post(f"/function/{lab.echo}", json=terms)
    refused(answer, 422, answer.json()["code"], field=field)
    assert expect(lab.http.get("/job"))["items"] == []


def test_the_same_key_deploys_once(lab):
    body = {"project": lab.project, "name": "once", "runtime": "python", "source": ONE}
    key = {"Idempotency-Key": "deploy"}
    first = expect(lab.http.post("/function", json=body, headers=key), 201)
    again = expect(lab.http.post("/function", json=body, headers=key), 201)
    assert again["id"] == first["id"]
    other = lab.http.post("/function", json=body | {"source": TWO}, headers=key)
    refused(other, 422, "idempotency_mismatch")
    taken = lab.http.post("/function", json=body)
    refused(taken, 409, "name_taken", field="name")


def test_a_stale_revision_deploys_nothing(lab):
    path = f"/function/{lab.echo}"
    tag = lab.http.get(path).headers["etag"]
    fresh = {"If-Match": tag}
    expect(lab.http.post(path, json={"source": ONE}, headers=fresh))
    for answer in (
        lab.http.post(path, json={"source": TWO}, headers=fresh),
        lab.http.post(f"{path}/rollback", json={"version": 1}, headers=fresh),
        lab.http.delete(path, headers=fresh),
    ):
        refused(answer, 412, "precondition_failed")
    assert expect(lab.http.get(path))["version"] == 2


def test_a_deleted_function_is_gone_and_its_name_is_free(lab):
    job = lab.person.run(lab.echo, 1)
    assert lab.http.delete(f"/function/{lab.echo}").status_code == 204
    refused(lab.http.get(f"/function/{lab.echo}"), 404, "not_found")
    answer = lab.http.post("/job", json={"function": lab.echo})
    refused(answer, 404, "not_found", field="function")
    refused(lab.http.post(f"/job/{job['id']}/retry"), 404, "not_found")
    assert expect(lab.http.get(f"/job/{job['id']}"))["result"] == 1
    assert lab.person.deploy(lab.project, "echo", ONE) != lab.echo


def test_a_job_of_a_function_that_is_deleted_meanwhile_ends(lab):
    waiting = lab.person.hand_in(lab.echo, requires={"labels": {"no": "worker"}})
    assert lab.http.delete(f"/function/{lab.echo}").status_code == 204
    expect(lab.http.post(f"/job/{waiting['id']}/cancel"))
    assert lab.person.ended(waiting["id"])["state"] == "cancelled"


def test_a_large_source_is_checked_too(lab):
    filler = "\n".join(f"x{n} = {n}" for n in range(4000))
    body = {"project": lab.project, "name": "large", "runtime": "python"}
    good = filler + "\ndef handler(input):\n    return 'large'\n"
    function = expect(lab.http.post("/function", json={**body, "source": good}), 201)
    job = expect(lab.http.post("/job?wait=30", json={"function": function["id"]}), 200)
    assert job["result"] == "large"
    bad = filler + "\ndef handler(:\n"
    answer = lab.http.post("/function", json={**body, "name": "broken", "source": bad})
    refused(answer, 422, "invalid_source", field="source")
