"""Many who want the same thing at once: one gets it, and nothing is torn."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.blackbox.daemon import PASSWORD, expect

pytestmark = pytest.mark.slow

MANY = 8


def at_once(call: Callable[[int], httpx.Response], count: int = MANY) -> list[int]:
    """Return the statuses of `count` calls made at once."""
    with ThreadPoolExecutor(count) as pool:
        return sorted(answer.status_code for answer in pool.map(call, range(count)))


def test_a_name_is_given_once(lab, anonymous):
    source = "def handler(input): ..."
    function = {"project": lab.project, "name": "same", "runtime": "python", "source": source}
    space = {"owner": {"project": lab.project}, "name": "same", "scope": "global"}
    once = [201] + [409] * (MANY - 1)
    user = {"name": "the-same-name", "password": PASSWORD}
    assert at_once(lambda _: anonymous.post("/user", json=user)) == once
    assert at_once(lambda _: lab.http.post("/project", json={"name": "same"})) == once
    assert at_once(lambda _: lab.http.post("/function", json=function)) == once
    assert at_once(lambda _: lab.http.post("/kv", json=space)) == once
    local = space | {"name": "local", "scope": "local"}
    assert at_once(lambda _: lab.http.post("/kv", json=local)) == once


def test_a_key_makes_one_object(lab, anonymous):
    key = {"Idempotency-Key": "one"}
    source = "def handler(input): ..."
    function = {"project": lab.project, "name": "same", "runtime": "python", "source": source}
    space = {"owner": {"project": lab.project}, "name": "same", "scope": "local"}
    user = {"name": "the-same-user", "password": PASSWORD}
    for http, path, body in (
        (anonymous, "/user", user),
        (lab.http, "/project", {"name": "same"}),
        (lab.http, "/function", function),
        (lab.http, "/kv", space),
    ):
        with ThreadPoolExecutor(MANY) as pool:
            answers = list(
                pool.map(
                    lambda _, http=http, path=path, body=body: http.post(
                        path, json=body, headers=key
                    ),
                    range(MANY),
                )
            )
        assert len({expect(answer, 201)["id"] for answer in answers}) == 1


def test_of_many_changes_to_one_revision_one_is_made(lab):
    blob = lab.person.blob(b"x", project=lab.project)["id"]
    space = {"owner": {"project": lab.project}, "name": "space"}
    bodies = {
        f"/user/{lab.person.id}": "display_name",
        f"/project/{lab.project}": "display_name",
        f"/function/{lab.echo}": "description",
        f"/blob/{blob}": "name",
    }
    for scope in ("local", "global"):
        made = lab.http.post("/kv", json=space | {"name": scope, "scope": scope})
        bodies[f"/kv/{expect(made, 201)['id']}"] = "display_name"
    for path, field in bodies.items():
        tag = {"If-Match": lab.http.get(path).headers["etag"]}
        statuses = at_once(
            lambda n, path=path, field=field, tag=tag: lab.http.post(
                path, json={field: f"change {n}"}, headers=tag
            )
        )
        assert statuses == [200] + [412] * (MANY - 1), path


def test_what_is_deleted_at_once_is_deleted_once(lab):
    blob = lab.person.blob(b"x", project=lab.project)["id"]
    job = lab.person.run(lab.echo)["id"]
    once = [204] + [404] * (MANY - 1)
    for path in (f"/blob/{blob}", f"/job/{job}", f"/function/{lab.echo}"):
        assert at_once(lambda _, path=path: lab.http.delete(path)) == once, path
    usage = expect(lab.http.post(f"/project/{lab.project}/usage"))
    assert (usage["blobs"], usage["blob_bytes"], usage["functions"]) == (0, 0, 0)


def test_versions_that_are_deployed_at_once_are_all_kept(lab):
    def deploy(n: int) -> httpx.Response:
        return lab.http.post(
            f"/function/{lab.echo}", json={"source": f"def handler(input): return {n}\n"}
        )

    assert at_once(deploy) == [200] * MANY
    found = expect(lab.http.get(f"/function/{lab.echo}"))
    assert [one["version"] for one in found["versions"]] == list(range(1, MANY + 2))
    results = {
        lab.person.run(lab.echo, function_version=version)["result"]
        for version in range(2, MANY + 2)
    }
    assert results == set(range(MANY))


def test_content_that_comes_and_goes_is_there_for_those_who_have_it(lab):
    content = b"the same bytes " * 150_000  # several chunks, shared by all

    def come_and_go(_: int) -> bool:
        for _ in range(8):
            blob = lab.person.blob(content)["id"]
            assert lab.http.get(f"/blob/{blob}/content").content == content
            assert lab.http.delete(f"/blob/{blob}").status_code == 204
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(come_and_go, range(4)))
    assert expect(lab.http.get("/blob"))["items"] == []


def test_a_cancel_and_an_end_that_race_leave_one_outcome(lab):
    for _ in range(10):
        job = lab.person.hand_in(lab.echo, 1)["id"]
        statuses = at_once(lambda _, job=job: lab.http.post(f"/job/{job}/cancel"), 2)
        ended = lab.person.ended(job)
        if ended["state"] == "succeeded":
            assert statuses == [409, 409]
        else:
            assert ended["state"] == "cancelled"
            assert statuses == [200, 200]
        assert [change["state"] for change in ended["history"]].count(ended["state"]) == 1


def test_a_quota_is_kept_by_many_at_once(lab, operator):
    path = f"/project/{lab.project}"
    quota = {"jobs_unfinished": 3, "blob_bytes": 10}
    expect(operator.post(path, json={"quota": quota}))
    body = {"function": lab.echo, "requires": {"labels": {"no": "worker"}}}
    statuses = at_once(lambda _: lab.http.post("/job", json=body))
    assert statuses == [202] * 3 + [429] * (MANY - 3)
    params = {"project": lab.project}
    statuses = at_once(lambda _: lab.http.post("/blob", params=params, content=b"1234"))
    assert statuses == [201] * 2 + [429] * (MANY - 2)
    used = expect(lab.http.post(f"{path}/usage"))
    assert (used["jobs_unfinished"], used["blob_bytes"]) == (3, 8)
