"""Key-value namespaces: three kinds, one grammar, and no update lost where none may be."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from tests.blackbox.conftest import Lab
from tests.blackbox.daemon import expect, refused

pytestmark = pytest.mark.slow

KINDS = [
    {"scope": "local"},
    {"scope": "global", "mode": "cas"},
    {"scope": "global", "mode": "lww"},
]
EXACT = KINDS[:2]
WRITERS = 8


def space(lab: Lab, kind: dict[str, str], name: str = "space") -> str:
    """Return the path of a new namespace."""
    body = {"owner": {"project": lab.project}, "name": name, **kind}
    return f"/kv/{expect(lab.http.post('/kv', json=body), 201)['id']}"


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_put_is_got(lab, kind):
    path = space(lab, kind)
    for value in ({"a": [1, 2.5, None, "é"]}, None, False, 0, "", "x" * 65534):
        put = expect(lab.http.post(f"{path}/put", json={"key": "k", "value": value}))
        got = expect(lab.http.post(f"{path}/get", json={"key": "k"}))
        assert got == {**put, "value": value, "expires_at": None}
    deleted = expect(lab.http.post(f"{path}/delete", json={"key": "k"}))
    assert int(deleted["version"]) > int(put["version"])
    refused(lab.http.post(f"{path}/get", json={"key": "k"}), 404, "not_found", field="key")
    refused(lab.http.post(f"{path}/delete", json={"key": "k"}), 404, "not_found", field="key")
    again = expect(lab.http.post(f"{path}/put", json={"key": "k", "value": 1}))
    assert int(again["version"]) > int(deleted["version"])


@pytest.mark.parametrize("kind", KINDS)
def test_keys_and_values_have_limits(lab, kind):
    path = space(lab, kind)
    longest = "é" * 128
    expect(lab.http.post(f"{path}/put", json={"key": longest, "value": 1}))
    assert expect(lab.http.post(f"{path}/get", json={"key": longest}))["value"] == 1
    for method in ("put", "get", "delete"):
        body = {"key": longest + "a"} | ({"value": 1} if method == "put" else {})
        refused(lab.http.post(f"{path}/{method}", json=body), 413, "too_large", field="key")
        body["key"] = ""
        refused(lab.http.post(f"{path}/{method}", json=body), 422, "invalid_field", field="key")
    answer = lab.http.post(f"{path}/put", json={"key": "k", "value": "x" * 65535})
    refused(answer, 413, "too_large", field="value", limit=65536)
    answer = lab.http.post(f"{path}/put", json={"key": "k"})
    refused(answer, 422, "invalid_field", field="value")
    assert expect(lab.http.post(f"{path}/list"))["items"] == [longest]


@pytest.mark.parametrize("kind", EXACT)
def test_a_version_guards_a_write(lab, kind):
    path = space(lab, kind)
    put = f"{path}/put"
    first = expect(lab.http.post(put, json={"key": "k", "value": 1, "if_version": "0"}))
    answer = lab.http.post(put, json={"key": "k", "value": 2, "if_version": "0"})
    refused(answer, 409, "version_mismatch", version=first["version"])
    body = {"key": "k", "value": 2, "if_version": first["version"]}
    second = expect(lab.http.post(put, json=body))
    refused(lab.http.post(put, json=body), 409, "version_mismatch")
    stale = {"key": "k", "if_version": first["version"]}
    refused(lab.http.post(f"{path}/delete", json=stale), 409, "version_mismatch")
    expect(lab.http.post(f"{path}/delete", json={"key": "k", "if_version": second["version"]}))
    answer = lab.http.post(put, json={"key": "k", "value": 3, "if_version": second["version"]})
    refused(answer, 409, "version_mismatch", version="0")
    for wrong in ("x", "-1", "", "1" * 30, "01"):
        answer = lab.http.post(put, json={"key": "k", "value": 3, "if_version": wrong})
        refused(answer, 422, "invalid_field", field="if_version")


@pytest.mark.parametrize("kind", EXACT)
def test_of_many_who_write_at_once_one_wins(lab, kind):
    path = space(lab, kind)

    def write(value: int) -> int:
        body = {"key": "k", "value": value, "if_version": "0"}
        return lab.http.post(f"{path}/put", json=body).status_code

    with ThreadPoolExecutor(WRITERS) as pool:
        statuses = list(pool.map(write, range(WRITERS)))
    assert sorted(statuses) == [200] + [409] * (WRITERS - 1)
    got = expect(lab.http.post(f"{path}/get", json={"key": "k"}))
    assert got["value"] == statuses.index(200)


@pytest.mark.parametrize("kind", EXACT)
def test_no_increment_is_lost(lab, kind):
    path = space(lab, kind)

    def add(by: int) -> int:
        answer = lab.http.post(f"{path}/increment", json={"key": "n", "by": by})
        return int(expect(answer)["value"])

    with ThreadPoolExecutor(WRITERS) as pool:
        values = list(pool.map(add, [1] * 200))
    assert sorted(values) == list(range(1, 201))
    assert add(-200) == 0
    assert expect(lab.http.post(f"{path}/increment", json={"key": "n"}))["value"] == 1


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize(
    "held", ['"one"', "1.5", "null", "true", "[1]", "1e999", "9" * 6000, "-" + "9" * 100]
)
def test_what_is_no_number_is_not_added_to(lab, kind, held):
    path = space(lab, kind)
    body = b'{"key":"k","value":%b}' % held.encode()
    expect(lab.http.post(f"{path}/put", content=body))
    answer = lab.http.post(f"{path}/increment", json={"key": "k", "by": 1})
    assert answer.status_code in (409, 422)
    assert answer.json()["code"] in ("conflict", "invalid_field")
    got = lab.http.post(f"{path}/get", json={"key": "k"})
    assert f'"value":{held},' in got.text


@pytest.mark.parametrize("kind", EXACT)
def test_a_counter_stays_a_number_that_json_carries(lab, kind):
    path = space(lab, kind)
    most = (1 << 53) - 1
    assert (
        expect(lab.http.post(f"{path}/increment", json={"key": "n", "by": most}))["value"] == most
    )
    answer = lab.http.post(f"{path}/increment", json={"key": "n", "by": 1})
    refused(answer, 422, "invalid_field", field="by", limit=most)
    for wrong in ("1", 1.5, None, 1 << 60):
        answer = lab.http.post(f"{path}/increment", json={"key": "n", "by": wrong})
        refused(answer, 422, "invalid_field", field="by")


def test_what_would_lose_updates_is_refused(lab):
    path = space(lab, {"scope": "global", "mode": "lww"})
    put = expect(lab.http.post(f"{path}/put", json={"key": "k", "value": 1}))
    body = {"key": "k", "value": 2, "if_version": put["version"]}
    refused(lab.http.post(f"{path}/put", json=body), 422, "would_lose_updates", field="if_version")
    body = {"key": "k", "if_version": put["version"]}
    answer = lab.http.post(f"{path}/delete", json=body)
    refused(answer, 422, "would_lose_updates", field="if_version")
    answer = lab.http.post(f"{path}/increment", json={"key": "k"})
    refused(answer, 422, "would_lose_updates", field="increment")
    assert expect(lab.http.post(f"{path}/get", json={"key": "k"}))["value"] == 1


@pytest.mark.parametrize("kind", KINDS)
def test_keys_are_listed_by_prefix_in_pages(lab, kind):
    path = space(lab, kind)
    keys = sorted([f"a{n:02}" for n in range(12)] + ["b", "é", "日", "\U0001f600"], key=str.encode)
    with ThreadPoolExecutor(4) as pool:
        bodies = [{"key": key, "value": 1} for key in keys]
        list(pool.map(lambda body: expect(lab.http.post(f"{path}/put", json=body)), bodies))
    assert expect(lab.http.post(f"{path}/list", json={})) == {"items": keys, "next": None}
    found: list[str] = []
    cursor = None
    while True:
        body = {"prefix": "a", "limit": 5} | ({"cursor": cursor} if cursor else {})
        page = expect(lab.http.post(f"{path}/list", json=body))
        found += page["items"]
        if (cursor := page["next"]) is None:
            break
        expect(lab.http.post(f"{path}/put", json={"key": found[0] + "x", "value": 1}))
    assert found == keys[:12]
    assert all(one < other for one, other in pairwise(found))
    assert expect(lab.http.post(f"{path}/list", json={"prefix": "é"}))["items"] == ["é"]
    assert expect(lab.http.post(f"{path}/list", json={"prefix": "zz"}))["items"] == []
    for wrong in (0, 1001, "5"):
        answer = lab.http.post(f"{path}/list", json={"limit": wrong})
        refused(answer, 422, "invalid_field", field="limit")


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_ends_when_its_time_is_up(lab, kind):
    path = space(lab, kind)
    body = {"key": "k", "value": 1, "ttl_s": 3600}
    expect(lab.http.post(f"{path}/put", json=body))
    assert expect(lab.http.post(f"{path}/get", json={"key": "k"}))["expires_at"].endswith("Z")
    expect(lab.http.post(f"{path}/put", json=body | {"ttl_s": 0.001}))
    for _ in range(1000):  # each of them takes longer than the time that the key has
        if lab.http.post(f"{path}/get", json={"key": "k"}).status_code == 404:
            break
    refused(lab.http.post(f"{path}/get", json={"key": "k"}), 404, "not_found", field="key")
    assert expect(lab.http.post(f"{path}/list"))["items"] == []
    for wrong in (0, -1, "1"):
        answer = lab.http.post(f"{path}/put", json=body | {"ttl_s": wrong})
        refused(answer, 422, "invalid_field", field="ttl_s")


def test_names_are_unique_within_an_owner(lab):
    path = space(lab, KINDS[0])
    body = {"owner": {"project": lab.project}, "name": "space", "scope": "global"}
    refused(lab.http.post("/kv", json=body), 409, "name_taken", field="name")
    key = {"Idempotency-Key": "space"}
    body["name"] = "other"
    made = expect(lab.http.post("/kv", json=body, headers=key), 201)
    assert expect(lab.http.post("/kv", json=body, headers=key), 201)["id"] == made["id"]
    of_function = body | {"owner": {"function": lab.echo}, "name": "space"}
    mine = body | {"owner": {"user": lab.person.id}, "name": "space", "scope": "local"}
    made = [expect(lab.http.post("/kv", json=one), 201) for one in (of_function, mine)]
    assert [one["owner"] for one in made] == [{"function": lab.echo}, {"user": lab.person.id}]
    assert len(expect(lab.http.get("/kv"))["items"]) == 4
    listed = expect(lab.http.get("/kv", params={"project": lab.project, "name": "space"}))
    assert [f"/kv/{one['id']}" for one in listed["items"]] == [f"/kv/{made[0]['id']}", path]
    assert lab.http.delete(path).status_code == 204
    expect(lab.http.post("/kv", json=body | {"name": "space"}), 201)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"owner": {}}, "owner"),
        ({"owner": {"project": "1" * 18, "user": "1" * 18}}, "owner"),
        ({"owner": {"project": "x"}}, "owner.project"),
        ({"owner": {"team": "x"}}, "owner.team"),
        ({"owner": "me"}, "owner"),
        ({"scope": "nowhere"}, "scope"),
        ({"scope": "local", "mode": "cas"}, "mode"),
        ({"mode": "fast"}, "mode"),
        ({"name": "UPPER"}, "name"),
        ({"name": 5}, "name"),
    ],
)
def test_a_namespace_that_makes_no_sense_is_not_made(lab, body, field):
    good = {"owner": {"project": lab.project}, "name": "space", "scope": "global"}
    answer = lab.http.post("/kv", json=good | body)
    assert answer.json()["code"] in ("invalid_field", "unknown_field")
    refused(answer, 422, answer.json()["code"], field=field)
    assert expect(lab.http.get("/kv"))["items"] == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_namespace_is_changed_waited_for_and_deleted(lab, kind):
    path = space(lab, kind)
    expect(lab.http.post(f"{path}/put", json={"key": "k", "value": 1}))
    tag = lab.http.get(path).headers["etag"]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lab.http.get, path, params={"wait": 30})
        for n in range(1000):  # until the reader has come, which nothing tells
            expect(lab.http.post(path, json={"display_name": f"Space {n}"}))
            if waiting.done():
                break
        assert expect(waiting.result())["display_name"].startswith("Space ")
    refused(lab.http.delete(path, headers={"If-Match": tag}), 412, "precondition_failed")
    answer = lab.http.post(path, json={"display_name": "x"}, headers={"If-Match": tag})
    refused(answer, 412, "precondition_failed")
    assert lab.http.delete(path).status_code == 204
    refused(lab.http.get(path), 404, "not_found")
    refused(lab.http.post(f"{path}/get", json={"key": "k"}), 404, "not_found")
    refused(lab.http.post(f"{path}/put", json={"key": "k", "value": 1}), 404, "not_found")


@pytest.mark.parametrize("kind", KINDS)
def test_namespaces_of_others_are_not_there(lab, person, operator, kind):
    eve = person()
    path = space(lab, kind)
    for method, body in (
        ("put", {"key": "k", "value": 1}),
        ("get", {"key": "k"}),
        ("delete", {"key": "k"}),
        ("list", {}),
        ("increment", {"key": "k"}),
    ):
        refused(eve.http.post(f"{path}/{method}", json=body), 404, "not_found")
        refused(operator.post(f"{path}/{method}", json=body), 403, "forbidden")
    refused(eve.http.get(path), 404, "not_found")
    refused(eve.http.delete(path), 404, "not_found")
    body = {"owner": {"project": lab.project}, "name": "hers", "scope": "local"}
    refused(eve.http.post("/kv", json=body), 404, "not_found")
    body = {"owner": {"user": lab.person.id}, "name": "hers", "scope": "local"}
    refused(eve.http.post("/kv", json=body), 403, "forbidden")
    expect(
        lab.http.post(f"/project/{lab.project}/add_member", json={"user": eve.id, "role": "viewer"})
    )
    refused(eve.http.post(f"{path}/put", json={"key": "k", "value": 1}), 403, "forbidden")
    assert expect(eve.http.post(f"{path}/list"))["items"] == []


def test_writes_of_a_job_take_effect_when_it_succeeds(lab):
    path = space(lab, KINDS[0], "results")
    source = (
        "import edge\n\ndef handler(input):\n    ns = edge.kv('results')\n"
        "    ns['answer'] = input\n    ns.now['tried'] = True\n"
        "    if input == 'bad':\n        raise ValueError(input)\n    return ns['answer']\n"
    )
    function = lab.person.deploy(lab.project, "writer", source)
    assert lab.person.run(function, "bad")["state"] == "failed"
    refused(lab.http.post(f"{path}/get", json={"key": "answer"}), 404, "not_found", field="key")
    assert expect(lab.http.post(f"{path}/get", json={"key": "tried"}))["value"] is True
    assert lab.person.run(function, "good")["result"] == "good"
    assert expect(lab.http.post(f"{path}/get", json={"key": "answer"}))["value"] == "good"
