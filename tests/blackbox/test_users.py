"""Users and their tokens, as anybody who only knows the contract sees them."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.blackbox.conftest import Lab
from tests.blackbox.daemon import PASSWORD, Daemon, Person, expect, refused

pytestmark = pytest.mark.slow

OTHER_PASSWORD = "another battery staple"
FOREIGN_NODE = 4711


def test_a_user_is_made_and_is_called_by_id_or_name(node, person):
    ada = person()
    by_name = expect(ada.http.get(f"/user/{ada.name}"))
    assert by_name == expect(ada.http.get(f"/user/{ada.id}"))
    assert by_name["class"] == "user"
    assert by_name["name"] == ada.name
    assert str(by_name["home_node"]) == node.node_id
    assert len(bytes.fromhex(by_name["public_key"])) == 32


def test_creation_names_the_new_object(anonymous):
    answer = anonymous.post("/user", json={"name": "located", "password": PASSWORD})
    made = expect(answer, 201)
    assert answer.headers["location"] == f"/user/{made['id']}"
    assert answer.headers["etag"] == f'"{made["revision"]}"'
    assert "password" not in answer.text


def test_names_are_unique_and_of_one_shape(anonymous, person):
    ada = person()
    taken = anonymous.post("/user", json={"name": ada.name, "password": PASSWORD})
    refused(taken, 409, "name_taken", field="name")
    for name in ("", "UPPER", "-dash", "123", "a" * 65, "with space", "nul\0", "é"):
        answer = anonymous.post("/user", json={"name": name, "password": PASSWORD})
        refused(answer, 422, "invalid_field", field="name")


def test_passwords_have_bounds(anonymous):
    for password in ("short", "x" * 1025):
        answer = anonymous.post("/user", json={"name": "never", "password": password})
        refused(answer, 422, "invalid_field", field="password")
    refused(anonymous.post("/user", json={"name": "never"}), 422, "invalid_field", field="password")


def test_a_wrong_password_and_a_missing_user_cannot_be_told_apart(anonymous, person):
    ada = person()
    answers = [
        anonymous.post(f"/user/{who}/login", json={"password": "not the password"})
        for who in (ada.name, ada.id, "nobody-at-all")
    ]
    problems = [refused(answer, 401, "wrong_credentials") for answer in answers]
    assert problems[0] == problems[1] == problems[2]


def test_a_password_at_a_node_that_is_not_the_home_is_misdirected(anonymous, person):
    at_home = int(person().id)
    elsewhere = (at_home >> 22 << 22) | (FOREIGN_NODE << 8) | (at_home & 0xFF)
    answer = anonymous.post(f"/user/{elsewhere}/login", json={"password": PASSWORD})
    refused(answer, 421, "misdirected", homes=[str(FOREIGN_NODE)])


def test_a_token_can_be_narrowed(node, lab):
    answer = lab.http.post(
        f"/user/{lab.person.id}/delegate", json={"scopes": ["job", "function:call"], "ttl_s": 60}
    )
    with node.client(expect(answer)["token"]) as narrow:
        job = narrow.post("/job", params={"wait": 20}, json={"function": lab.echo, "input": 1})
        assert expect(job)["result"] == 1
        refused(narrow.post("/project", json={"name": "more"}), 403, "forbidden")
        wider = narrow.post(f"/user/{lab.person.id}/delegate", json={"scopes": ["*"]})
        refused(wider, 404, "not_found")


def test_a_narrow_token_makes_no_wider_one(node, lab):
    body = {"scopes": ["user", "job"]}
    narrow_token = expect(lab.http.post(f"/user/{lab.person.id}/delegate", json=body))["token"]
    with node.client(narrow_token) as narrow:
        wider = narrow.post(f"/user/{lab.person.id}/delegate", json={"scopes": ["*"]})
        refused(wider, 403, "forbidden")
        same = narrow.post(f"/user/{lab.person.id}/delegate", json={"scopes": ["job"]})
        expect(same)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"scopes": ["nonsense"]}, "scopes"),
        ({"scopes": []}, "scopes"),
        ({"ttl_s": 0.5}, "ttl_s"),
        ({"ttl_s": 91 * 86400}, "ttl_s"),
        ({"ttl_s": -1}, "ttl_s"),
        ({"audience": []}, "audience"),
        ({"audience": ["4711"]}, "audience"),
        ({"audience": ["²"]}, "audience"),
        ({"audience": ["9" * 5000]}, "audience"),
        ({"audience": ["here"]}, "audience"),
    ],
)
def test_a_login_names_what_it_refuses(anonymous, person, body, field):
    answer = anonymous.post(f"/user/{person().name}/login", json={"password": PASSWORD, **body})
    refused(answer, 422, "invalid_field", field=field)


def test_a_revoked_token_is_dead_and_others_live(node, person):
    ada = person()
    other = node.login(ada.name)
    answer = ada.http.post(f"/user/{ada.id}/revoke", json={"token": other})
    assert answer.status_code == 204
    with node.client(other) as dead:
        refused(dead.get(f"/user/{ada.id}"), 401, "unauthenticated")
    expect(ada.http.get(f"/user/{ada.id}"))
    assert ada.http.post(f"/user/{ada.id}/revoke").status_code == 204
    refused(ada.http.get(f"/user/{ada.id}"), 401, "unauthenticated")


def test_rotation_replaces_the_key_and_the_old_password_still_logs_in(node, person):
    ada = person()
    before = expect(ada.http.get(f"/user/{ada.id}"))
    answer = ada.http.post(f"/user/{ada.id}/rotate", json={"password": PASSWORD, "strict": True})
    with node.client(expect(answer)["token"]) as fresh:
        after = expect(fresh.get(f"/user/{ada.id}"))
        assert after["public_key"] != before["public_key"]
        assert after["epoch"] == before["epoch"] + 1
        refused(ada.http.get(f"/user/{ada.id}"), 401, "unauthenticated")
        fresh_token = node.login(ada.name)
    with node.client(fresh_token) as again:
        expect(again.post("/project", json={"name": "after"}), 201)


def test_a_new_password_needs_the_old_one(anonymous, person):
    ada = person()
    path = f"/user/{ada.id}"
    missing = ada.http.post(path, json={"password": OTHER_PASSWORD})
    refused(missing, 422, "invalid_field", field="old_password")
    wrong = ada.http.post(path, json={"password": OTHER_PASSWORD, "old_password": "wrong one"})
    refused(wrong, 401, "wrong_credentials")
    expect(ada.http.post(path, json={"password": OTHER_PASSWORD, "old_password": PASSWORD}))
    login = f"{path}/login"
    refused(anonymous.post(login, json={"password": PASSWORD}), 401, "wrong_credentials")
    expect(anonymous.post(login, json={"password": OTHER_PASSWORD}))


def test_keys_that_are_changed_at_once_leave_a_user_who_can_log_in(node, person):
    ada = person()
    path = f"/user/{ada.id}"
    bodies = [
        (f"{path}/rotate", {"password": PASSWORD}),
        (f"{path}/rotate", {"password": PASSWORD}),
        (path, {"password": OTHER_PASSWORD, "old_password": PASSWORD}),
    ]
    with ThreadPoolExecutor(len(bodies)) as pool:
        answers = list(pool.map(lambda call: ada.http.post(call[0], json=call[1]), bodies))
    done = [answer.status_code for answer in answers]
    assert 200 in done
    assert set(done) <= {200, 401, 409}
    password = OTHER_PASSWORD if done[2] == 200 else PASSWORD
    with node.client() as client:
        token = expect(client.post(f"{path}/login", json={"password": password}))["token"]
    with node.client(token) as client:
        expect(client.post("/project", json={"name": "still-here"}), 201)


def test_a_user_changes_only_itself(person):
    ada, eve = person(), person()
    expect(ada.http.post(f"/user/{ada.id}", json={"display_name": "Ada"}))
    assert expect(eve.http.get(f"/user/{ada.id}"))["display_name"] == "Ada"
    answer = eve.http.post(f"/user/{ada.id}", json={"display_name": "Eve"})
    refused(answer, 403, "forbidden")
    answer = ada.http.post(f"/user/{ada.id}", json={"name": "eve"})
    refused(answer, 422, "unknown_field", field="name")
    assert [one["id"] for one in expect(eve.http.get("/user"))["items"]] == [eve.id]


def test_the_operator_sees_all_users_and_is_none_of_them(operator, person):
    ada = person()
    found = expect(operator.get("/user", params={"limit": 1000}))["items"]
    assert ada.id in [user["id"] for user in found]
    refused(operator.post("/project", json={"name": "mine"}), 403, "forbidden")
    answer = operator.post(f"/user/{ada.id}", json={"display_name": "taken over"})
    refused(answer, 403, "forbidden")


def test_a_deleted_user_is_gone_for_ever(anonymous, person):
    ada, eve = person(), person()
    project = ada.project("mine")
    refused(ada.http.delete(f"/user/{ada.id}"), 409, "conflict")
    assert ada.http.delete(f"/project/{project}").status_code == 204
    assert ada.http.delete(f"/user/{ada.id}").status_code == 204
    refused(ada.http.get(f"/user/{ada.id}"), 401, "unauthenticated")
    refused(eve.http.get(f"/user/{ada.id}"), 404, "not_found")
    answer = anonymous.post(f"/user/{ada.id}/login", json={"password": PASSWORD})
    refused(answer, 401, "wrong_credentials")


@pytest.mark.parametrize("token", ["x", "pn1.AAAA.AAAA", "pno1.AAAA", "pn1." + "A" * 7000])
def test_what_is_no_token_is_refused(node, token):
    answer = httpx.get(f"{node.url}/job", headers={"Authorization": f"Bearer {token}"})
    problem = refused(answer, 401, "unauthenticated")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert token not in problem["detail"].split()


def test_a_call_without_a_token_says_what_to_do(anonymous):
    answer = anonymous.get("/job")
    assert "login" in refused(answer, 401, "unauthenticated")["hint"]
    assert answer.headers["www-authenticate"] == "Bearer"


def test_members_share_a_project_by_role(node: Daemon, lab: Lab, person: Callable[[], Person]):
    eve, mallory = person(), person()
    path = f"/project/{lab.project}"
    refused(eve.http.get(path), 404, "not_found")
    expect(lab.http.post(f"{path}/add_member", json={"user": eve.name, "role": "invoker"}))
    assert expect(eve.http.get(path))["name"] == "lab"
    assert eve.run(lab.echo, "hello")["result"] == "hello"
    assert expect(eve.http.get(f"/function/{lab.echo}"))["source"] is None
    answer = eve.http.post(
        "/function",
        json={
            "project": lab.project,
            "name": "no",
            "runtime": "python",
            "source": "def handler(i): ...",
        },
    )
    refused(answer, 403, "forbidden")
    for body in (
        {"user": mallory.id, "role": "viewer"},
        {"user": eve.id, "role": "admin"},
        {"user": lab.person.id, "role": "viewer"},
    ):
        refused(eve.http.post(f"{path}/add_member", json=body), 403, "forbidden")
    expect(lab.http.post(f"{path}/remove_member", json={"user": eve.id}))
    refused(eve.http.get(path), 404, "not_found")
    refused(eve.http.post("/job", json={"function": lab.echo}), 404, "not_found", field="function")


@pytest.mark.parametrize("user", ["nobody-at-all", "0", "²", "9" * 50, "9" * 5000, "", "1" * 19])
def test_a_member_to_be_has_to_exist(lab, user):
    path = f"/project/{lab.project}"
    before = expect(lab.http.get(path))
    answer = lab.http.post(f"{path}/add_member", json={"user": user, "role": "viewer"})
    refused(answer, 404, "not_found", field="user")
    answer = lab.http.post(f"{path}/remove_member", json={"user": user})
    refused(answer, 404, "not_found", field="user")
    answer = lab.http.post(f"{path}/add_member", json={"user": lab.person.id, "role": "owner"})
    refused(answer, 422, "invalid_field", field="role")
    assert expect(lab.http.get(path)) == before


def test_the_owner_cannot_leave_and_a_member_can(lab, person):
    eve = person()
    path = f"/project/{lab.project}"
    expect(lab.http.post(f"{path}/add_member", json={"user": eve.id, "role": "viewer"}))
    answer = lab.http.post(f"{path}/remove_member", json={"user": lab.person.id})
    refused(answer, 409, "conflict")
    expect(eve.http.post(f"{path}/remove_member", json={"user": eve.id}))
    refused(eve.http.get(path), 404, "not_found")


def test_usage_is_counted_and_the_quota_is_the_operators(lab, operator):
    path = f"/project/{lab.project}"
    lab.person.blob(b"12345", project=lab.project)
    used = expect(lab.http.post(f"{path}/usage"))
    assert (used["blobs"], used["blob_bytes"], used["functions"]) == (1, 5, 1)
    refused(lab.http.post(path, json={"quota": {"blob_bytes": 1}}), 403, "forbidden")
    expect(operator.post(path, json={"quota": {"blob_bytes": 8}}))
    assert expect(lab.http.get(path))["quota"]["blob_bytes"] == 8
    refused(operator.post(path, json={"display_name": "no"}), 403, "forbidden")
    over = lab.http.post("/blob", params={"project": lab.project}, content=b"1234")
    refused(over, 429, "quota_exceeded", field="blob_bytes", limit=8)
    streamed = lab.http.post("/blob", params={"project": lab.project}, content=iter([b"12", b"34"]))
    refused(streamed, 429, "quota_exceeded", field="blob_bytes", limit=8)
    lab.person.blob(b"123", project=lab.project)
    assert expect(lab.http.post(f"{path}/usage"))["blob_bytes"] == 8


def test_a_quota_of_unfinished_jobs_holds(lab, operator):
    expect(operator.post(f"/project/{lab.project}", json={"quota": {"jobs_unfinished": 1}}))
    waiting = lab.person.hand_in(lab.echo, requires={"labels": {"no": "worker"}})
    over = lab.http.post("/job", json={"function": lab.echo})
    refused(over, 429, "quota_exceeded", field="jobs_unfinished", limit=1)
    assert len(expect(lab.http.get("/job"))["items"]) == 1
    expect(lab.http.post(f"/job/{waiting['id']}/cancel"))
    assert lab.person.run(lab.echo, 1)["state"] == "succeeded"


def test_project_attributes_change_and_stale_ones_are_refused(lab):
    path = f"/project/{lab.project}"
    read = lab.http.get(path)
    tag = read.headers["etag"]
    expect(lab.http.post(path, json={"display_name": "Lab"}, headers={"If-Match": tag}))
    answer = lab.http.post(path, json={"display_name": "Again"}, headers={"If-Match": tag})
    refused(answer, 412, "precondition_failed")
    refused(lab.http.delete(path, headers={"If-Match": tag}), 412, "precondition_failed")
    assert expect(lab.http.get(path))["display_name"] == "Lab"
    egress = ["example.org", "*.example.org"]
    refused(lab.http.post(path, json={"egress": egress}), 422, "invalid_field", field="egress[1]")
    expect(lab.http.post(path, json={"egress": egress[:1]}))
    assert expect(lab.http.get(path))["egress"] == egress[:1]


def test_a_project_with_functions_stays(lab):
    refused(lab.http.delete(f"/project/{lab.project}"), 409, "conflict")
    assert lab.http.delete(f"/function/{lab.echo}").status_code == 204
    assert lab.http.delete(f"/project/{lab.project}").status_code == 204
    refused(lab.http.get(f"/project/{lab.project}"), 404, "not_found")
    expect(lab.http.post("/project", json={"name": "lab"}), 201)
