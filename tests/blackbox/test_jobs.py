"""Jobs: handed in, kept, waited for, followed, ended once."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.blackbox.conftest import Lab
from tests.blackbox.daemon import expect, refused

pytestmark = pytest.mark.slow

NOWHERE = {"labels": {"no": "worker"}}
"""What no worker here offers: jobs that need it stay queued."""
TALKER = """
import time
import edge

def handler(input):
    print("printed")
    edge.log("logged", n=1)
    for step in (1, 2, 3):
        edge.progress(step / 4, f"step {step}")
        time.sleep(0.15)
    if input == "stay":
        time.sleep(600)
    return "done"
"""


def events(
    http: httpx.Client, job: str, last: str | None = None
) -> Iterator[tuple[int, str, dict[str, object]]]:
    """Yield the events of a job as (id, name, data) until the stream ends."""
    headers = {"Last-Event-ID": last} if last is not None else {}
    with http.stream("GET", f"/job/{job}/events", headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream"
        fields: dict[str, str] = {}
        for line in answer.iter_lines():
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "id" in fields:
                yield int(fields["id"]), fields["event"], json.loads(fields["data"])
                fields = {}


def jobs(lab: Lab, **query: object) -> list[dict[str, object]]:
    return expect(lab.http.get("/job", params=query))["items"]


def test_a_job_is_accepted_at_once_and_says_where_it_is(lab):
    answer = lab.http.post("/job", json={"function": lab.echo, "input": {"a": [1, 2.5, None]}})
    job = expect(answer, 202)
    assert answer.headers["location"] == f"/job/{job['id']}"
    assert job["function"] == lab.echo
    assert job["caller"] == lab.person.id
    assert job["attempt"] in (0, 1)
    ended = lab.person.ended(job["id"])
    assert ended["state"] == "succeeded"
    assert ended["result"] == ended["input"] == {"a": [1, 2.5, None]}
    assert ended["request_cid"] == job["request_cid"]
    assert ended["error"] is None
    assert [change["state"] for change in ended["history"]] == [
        "queued",
        "leased",
        "running",
        "succeeded",
    ]
    assert ended["usage"]["wall_s"] >= 0
    assert ended["usage"]["rss_max_bytes"] > 0
    assert ended["created_at"] <= ended["started_at"] <= ended["finished_at"]
    assert ended["pending_reasons"] == []


@pytest.mark.parametrize("headers", [{"Prefer": "wait=20"}, {"Prefer": "respond-async, Wait=20"}])
def test_a_call_may_wait(lab, headers):
    job = expect(lab.http.post("/job", json={"function": lab.echo, "input": 1}, headers=headers))
    assert job["result"] == 1
    path = f"/function/{lab.echo}/call"
    assert expect(lab.http.post(path, json={"input": 2}, headers=headers))["result"] == 2
    assert expect(lab.http.post(path, json={"input": 3}, params={"wait": 20}))["result"] == 3
    assert expect(lab.http.post(path, params={"wait": 20}))["result"] is None


def test_a_wait_that_is_not_met_is_answered_202(lab):
    body = {"function": lab.echo, "requires": NOWHERE}
    job = expect(lab.http.post("/job", json=body, params={"wait": 0.05}), 202)
    assert (job["state"], job["finished_at"]) == ("queued", None)
    read = expect(lab.http.get(f"/job/{job['id']}", params={"wait": 0.05}))
    assert read["state"] == "queued"
    assert {reason["code"] for reason in read["pending_reasons"]}


@pytest.mark.parametrize("wait", ["-1", "soon", "nan", "inf", "1e9", "", "²"])
def test_a_wait_that_makes_no_sense_hands_nothing_in(lab, wait):
    answer = lab.http.post("/job", json={"function": lab.echo}, params={"wait": wait})
    refused(answer, 422, "invalid_field", field="wait")
    assert jobs(lab) == []
    answer = lab.http.post(f"/function/{lab.echo}/call", params={"wait": wait})
    refused(answer, 422, "invalid_field", field="wait")
    assert jobs(lab) == []


@pytest.mark.parametrize("prefer", [b"wait=\xb2", b"wait", b"wait=", b"wait=-1", b"=", b"wait=x"])
def test_a_preference_that_makes_no_sense_is_not_followed(lab, prefer):
    answer = lab.http.post("/job", json={"function": lab.echo}, headers=[(b"prefer", prefer)])
    expect(answer, 202)


def test_a_job_lives_on_when_the_call_that_made_it_dies(lab):
    function = lab.person.deploy(lab.project, "talker", TALKER)
    body = {"function": function}
    with pytest.raises(httpx.ReadTimeout):
        lab.http.post("/job", json=body, params={"wait": 20}, timeout=0.2)
    [job] = jobs(lab)
    assert lab.person.ended(str(job["id"]))["result"] == "done"


def test_the_same_key_hands_in_one_job(lab):
    key = {"Idempotency-Key": "once"}
    body = {"function": lab.echo, "input": "x"}
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: lab.http.post("/job", json=body, headers=key), range(32)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(jobs(lab)) == 1
    other = lab.http.post("/job", json=body | {"input": "y"}, headers=key)
    refused(other, 422, "idempotency_mismatch")
    assert len(jobs(lab)) == 1
    late = expect(lab.http.post("/job", json=body, headers=key, params={"wait": 20}))
    assert (late["id"], late["result"]) == (answers[0].json()["id"], "x")


def test_two_bodies_that_race_for_one_key_make_one_job(lab):
    key = {"Idempotency-Key": "race"}
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(
                lambda n: lab.http.post(
                    "/job", json={"function": lab.echo, "input": n % 2}, headers=key
                ),
                range(16),
            )
        )
    assert sorted(answer.status_code for answer in answers) == [202] * 8 + [422] * 8
    assert len(jobs(lab)) == 1


def test_the_same_key_at_another_function_is_another_request(lab):
    other = lab.person.deploy(lab.project, "other", "def handler(input):\n    return 'other'\n")
    key = {"Idempotency-Key": "same"}
    body = {"input": 1}
    expect(lab.http.post(f"/function/{lab.echo}/call", json=body, headers=key), 202)
    answer = lab.http.post(f"/function/{other}/call", json=body, headers=key)
    refused(answer, 422, "idempotency_mismatch")
    assert [job["function"] for job in jobs(lab)] == [lab.echo]


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_a_key_has_bounds(lab, key):
    answer = lab.http.post("/job", json={"function": lab.echo}, headers={"Idempotency-Key": key})
    refused(answer, 422, "invalid_field", field="Idempotency-Key", limit=255)
    assert jobs(lab) == []


def test_a_queued_job_is_cancelled_once(lab):
    job = lab.person.hand_in(lab.echo, requires=NOWHERE)
    path = f"/job/{job['id']}"
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(lab.person.ended, job["id"])
        cancelled = expect(lab.http.post(f"{path}/cancel"))
        assert waiting.result() == cancelled
    assert (cancelled["state"], cancelled["error"]["code"]) == ("cancelled", "cancelled")
    assert expect(lab.http.post(f"{path}/cancel")) == cancelled
    refused(lab.http.post(path, json={"priority": 1}), 409, "conflict")


def test_a_running_job_is_cancelled_with_all_it_started(lab):
    function = lab.person.deploy(lab.project, "talker", TALKER)
    job = lab.person.hand_in(function, "stay")
    seen = []
    for _, name, data in events(lab.http, job["id"]):
        seen.append(data["state"] if name == "state" else "progress")
        if seen[-1] == "running":
            expect(lab.http.post(f"/job/{job['id']}/cancel"))
    assert seen[0] == "queued"
    assert seen[-1] == "cancelled"
    ended = expect(lab.http.get(f"/job/{job['id']}"))
    assert ended["state"] == "cancelled"
    assert ended["result"] is None
    assert lab.person.run(lab.echo, "next")["result"] == "next"


def test_what_is_over_stays_over(lab):
    job = lab.person.run(lab.echo, 1)
    path = f"/job/{job['id']}"
    refused(lab.http.post(f"{path}/cancel"), 409, "conflict")
    refused(lab.http.post(path, json={"priority": 1}), 409, "conflict")
    assert expect(lab.http.get(path)) == job


def test_a_retry_is_a_new_job(lab):
    job = lab.person.run(lab.echo, {"again": True})
    key = {"Idempotency-Key": "again"}
    path = f"/job/{job['id']}/retry"
    answer = lab.http.post(path, headers=key)
    again = expect(answer, 202)
    assert answer.headers["location"] == f"/job/{again['id']}"
    assert (again["parent"], again["input"]) == (job["id"], job["input"])
    assert expect(lab.http.post(path, headers=key), 202)["id"] == again["id"]
    assert lab.person.ended(again["id"])["result"] == {"again": True}
    waiting = lab.person.hand_in(lab.echo, requires=NOWHERE)
    refused(lab.http.post(f"/job/{waiting['id']}/retry"), 409, "conflict")


def test_output_and_progress_are_kept(lab):
    function = lab.person.deploy(lab.project, "talker", TALKER)
    job = lab.person.run(function)
    assert job["progress"] == {"fraction": 0.75, "message": "step 3"}
    lines = expect(lab.http.get(f"/job/{job['id']}/logs"))["items"]
    assert [line["text"].split()[0] for line in lines] == ["printed", "logged"]
    text = lab.http.get(f"/job/{job['id']}/logs", headers={"Accept": "text/plain"})
    assert text.text.splitlines()[0] == "printed"


def test_events_go_on_where_a_reader_left(lab):
    function = lab.person.deploy(lab.project, "talker", TALKER)
    job = lab.person.hand_in(function)
    live = list(events(lab.http, job["id"]))
    sequences = [sequence for sequence, _, _ in live]
    assert sequences == sorted(set(sequences))
    states = [data["state"] for _, name, data in live if name == "state"]
    assert (states[0], states[-1]) == ("queued", "succeeded")
    progress = [data for _, name, data in live if name == "progress"]
    assert [one["message"] for one in progress] == ["step 1", "step 2", "step 3"]
    assert [one["fraction"] for one in progress] == [0.25, 0.5, 0.75]
    later = list(events(lab.http, job["id"], last=str(sequences[0])))
    assert [data["state"] for _, name, data in later if name == "state"] == states[1:]
    assert list(events(lab.http, job["id"], last=str(sequences[-1]))) == []
    assert list(events(lab.http, job["id"], last="9" * 19)) == []


@pytest.mark.parametrize("last", ["x", "-1", "9" * 20, "9" * 5000])
def test_an_event_id_that_is_none_is_refused(lab, last):
    job = lab.person.run(lab.echo)
    answer = lab.http.get(f"/job/{job['id']}/events", headers={"Last-Event-ID": last})
    refused(answer, 422, "invalid_field", field="Last-Event-ID")


def test_a_priority_is_set_while_a_job_is_queued(lab):
    job = lab.person.hand_in(lab.echo, requires=NOWHERE)
    path = f"/job/{job['id']}"
    tag = lab.http.get(path).headers["etag"]
    assert expect(lab.http.post(path, json={"priority": 7}))["priority"] == 7
    assert expect(lab.http.get(path))["priority"] == 7
    for wrong in (1001, -1001, 1 << 80):
        answer = lab.http.post(path, json={"priority": wrong})
        refused(answer, 422, "invalid_field", field="priority")
    for wrong in ("1", 1.5, None, True):
        answer = lab.http.post(path, json={"priority": wrong})
        refused(answer, 422, "invalid_field", field="priority")
    stale = lab.http.post(path, json={"priority": 8}, headers={"If-Match": tag})
    refused(stale, 412, "precondition_failed")
    assert expect(lab.http.get(path))["priority"] == 7


def test_lists_are_paged_and_stable_while_jobs_come_in(lab):
    ids = [lab.person.hand_in(lab.echo, n, requires=NOWHERE)["id"] for n in range(7)]
    found: list[str] = []
    cursor = ""
    for _ in range(4):
        page = expect(lab.http.get("/job", params={"limit": 2, "cursor": cursor}))
        found += [job["id"] for job in page["items"]]
        lab.person.hand_in(lab.echo, requires=NOWHERE)
        cursor = page["next"]
    assert found == ids[::-1]
    assert cursor is None


def test_lists_are_filtered_by_attributes(lab):
    other = lab.person.deploy(lab.project, "other", "def handler(input):\n    return 0\n")
    queued = lab.person.hand_in(lab.echo, requires=NOWHERE)["id"]
    done = lab.person.run(other)["id"]
    assert [job["id"] for job in jobs(lab, state="queued")] == [queued]
    assert [job["id"] for job in jobs(lab, function=other)] == [done]
    assert [job["id"] for job in jobs(lab, project=lab.project)] == [done, queued]
    assert jobs(lab, project=lab.echo) == []
    assert jobs(lab, state="poisoned") == []
    for name, wrong in (("limit", "0"), ("limit", "1001"), ("limit", "x"), ("cursor", "x")):
        refused(lab.http.get("/job", params={name: wrong}), 422, "invalid_field", field=name)
    answer = lab.http.get("/job", params={"colour": "red"})
    refused(answer, 422, "unknown_field", field="colour")
    answer = lab.http.get("/job", params={"project": "x"})
    refused(answer, 422, "invalid_field", field="project")


def test_a_job_that_is_over_can_be_deleted(lab):
    waiting = lab.person.hand_in(lab.echo, requires=NOWHERE)["id"]
    refused(lab.http.delete(f"/job/{waiting}"), 409, "conflict")
    function = lab.person.deploy(lab.project, "talker", TALKER)
    done = lab.person.run(function)
    path = f"/job/{done['id']}"
    stale = lab.http.delete(path, headers={"If-Match": '"0"'})
    refused(stale, 412, "precondition_failed")
    fresh = {"If-Match": f'"{done["revision"]}"'}
    assert lab.http.delete(path, headers=fresh).status_code == 204
    for answer in (
        lab.http.get(path),
        lab.http.get(f"{path}/logs"),
        lab.http.get(f"{path}/events"),
        lab.http.delete(path),
        lab.http.post(f"{path}/retry"),
        lab.http.post(f"{path}/cancel"),
    ):
        refused(answer, 404, "not_found")
    assert [job["id"] for job in jobs(lab)] == [waiting]


def test_jobs_of_others_are_not_there(lab, person, operator):
    eve = person()
    job = lab.person.run(lab.echo, "secret")
    path = f"/job/{job['id']}"
    missing = eve.http.get(f"/job/{int(job['id']) + 1}").json()
    for answer in (
        eve.http.get(path),
        eve.http.get(f"{path}/logs"),
        eve.http.get(f"{path}/events"),
        eve.http.delete(path),
        eve.http.post(path, json={"priority": 1}),
        eve.http.post(f"{path}/cancel"),
        eve.http.post(f"{path}/retry"),
    ):
        problem = refused(answer, 404, "not_found")
        assert problem["detail"].replace(job["id"], "") == missing["detail"].replace(
            str(int(job["id"]) + 1), ""
        )
    refused(eve.http.post("/job", json={"function": lab.echo}), 404, "not_found", field="function")
    refused(eve.http.post(f"/function/{lab.echo}/call"), 404, "not_found")
    assert expect(eve.http.get("/job", params={"project": lab.project}))["items"] == []
    seen = expect(operator.get(path))
    assert seen["state"] == "succeeded"
    assert (seen["input"], seen["result"]) == (None, None)
    refused(operator.get(f"{path}/logs"), 403, "forbidden")


def test_a_blob_named_in_an_input_must_be_readable(lab, person):
    eve = person()
    mine, hers = lab.person.blob(b"mine")["id"], eve.blob(b"hers")["id"]
    source = "def handler(input):\n    return input['file'].bytes().decode()\n"
    function = lab.person.deploy(lab.project, "read", source)
    assert lab.person.run(function, {"file": {"blob": mine}})["result"] == "mine"
    named = {"function": function, "inputs": {"file": {"blob": hers}}}
    inline = {"function": function, "input": {"file": {"blob": hers}}}
    for body in (named, inline):
        refused(lab.http.post("/job", json=body), 404, "not_found", field="input")
    raw = b'{"function":"%b","input":{"blob":1e999}}' % function.encode()
    refused(lab.http.post("/job", content=raw), 422, "invalid_field", field="input")
    assert len(jobs(lab)) == 1


@pytest.mark.parametrize("text", [b"1e999", b"-1e999", b"9" * 6000, b"1" + b"0" * 400])
def test_numbers_that_no_program_holds_end_as_a_job(lab, text):
    body = b'{"function":"%b","input":%b}' % (lab.echo.encode(), text)
    answer = lab.http.post("/job", params={"wait": 20}, content=body)
    job = json.loads(answer.content, parse_int=str)
    assert job["state"] in ("succeeded", "failed")
    if job["state"] == "failed":
        assert job["error"]["code"] in ("function_error", "result_invalid")


def test_limits_of_time_end_a_job_that_waits(lab):
    job = lab.person.hand_in(lab.echo, requires=NOWHERE, limits={"queue_s": 0.1})
    ended = lab.person.ended(job["id"])
    assert (ended["state"], ended["error"]["code"]) == ("expired", "queue_timeout")
    job = lab.person.hand_in(lab.echo, requires=NOWHERE, limits={"total_s": 0.1})
    ended = lab.person.ended(job["id"])
    assert (ended["state"], ended["error"]["code"]) == ("expired", "total_timeout")
