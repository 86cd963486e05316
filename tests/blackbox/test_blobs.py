"""Blobs: bytes in, the same bytes out, whole or in part, under the CID other tools print."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.blackbox.daemon import expect, refused

pytestmark = pytest.mark.slow

CIDS = {
    0: "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku",
    1: "bafkreihggk3qswyl6mwcmd5eyu46t7l3quwq3zcu5g7cn4snbvxzdudj2m",
    5: "bafkreido3slmpvvy5pooscwh525pq76jxjojedap6uo2dylneuviiqwp2q",
    1048575: "bafkreidbysqbs7wq5ujcqgpl357pqu3sfzs26onjtjscgtjprzdvxglpsy",
    1048576: "bafkreig6dssaoi7dgq3s2xwmr4z72ybhkhiaipfi744dlsxjboqelb4fhi",
    1048577: "bafybeid2ob3qygbhm34rhkfudgr3z43ewo5yme4jmgxjve6nuc2kfsga5u",
    10485760: "bafybeiaektln5ncm3khtc7hriyjng6lazcfjl45dev5oa5vpudke3bfede",
}
"""Size of `pattern` -> what Helia's importer prints for it (UnixFS profile unixfs-v1-2025)."""


def pattern(size_bytes: int) -> bytes:
    """Return the first bytes of sha256("peernode:0") + sha256("peernode:1") + ..."""
    count = -(-size_bytes // 32)
    hashes = (hashlib.sha256(b"peernode:%d" % i).digest() for i in range(count))
    return b"".join(hashes)[:size_bytes]


@pytest.fixture(scope="module")
def content() -> bytes:
    return pattern(max(CIDS))


@pytest.mark.parametrize("size_bytes", CIDS)
def test_a_cid_is_the_one_that_other_tools_print(lab, content, size_bytes):
    data = content[:size_bytes]
    answer = lab.http.post("/blob", content=data, headers={"Content-Type": "image/png"})
    blob = expect(answer, 201)
    assert answer.headers["location"] == f"/blob/{blob['id']}"
    assert (blob["cid"], blob["size_bytes"]) == (CIDS[size_bytes], size_bytes)
    assert blob["media_type"] == "image/png"
    assert expect(lab.http.get(f"/blob/{blob['id']}")) == blob
    read = lab.http.get(f"/blob/{blob['id']}/content")
    assert read.content == data
    assert read.headers["content-type"] == "image/png"
    assert read.headers["content-length"] == str(size_bytes)
    assert read.headers["etag"] == f'"{blob["cid"]}"'


def test_a_stream_of_unknown_length_is_the_same_blob(lab, content):
    def pieces() -> Iterator[bytes]:
        for start in range(0, 1048577, 77777):
            yield content[start : min(start + 77777, 1048577)]

    blob = expect(lab.http.post("/blob", content=pieces()), 201)
    assert blob["cid"] == CIDS[1048577]
    assert blob["media_type"] == "application/octet-stream"


@pytest.mark.parametrize(
    ("header", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=0-", 0, 1048576),
        ("bytes=1048570-1048580", 1048570, 1048576),
        ("bytes=1048575-1048576", 1048575, 1048576),
        ("bytes=1048576-", 1048576, 1048576),
        ("bytes=-1", 1048576, 1048576),
        ("bytes=-9999999", 0, 1048576),
        ("bytes=5-9999999999999999999", 5, 1048576),
    ],
)
def test_a_range_is_that_part(lab, content, header, first, last):
    data = content[:1048577]
    path = f"/blob/{lab.person.blob(data)['id']}/content"
    answer = lab.http.get(path, headers={"Range": header})
    assert answer.status_code == 206
    assert answer.headers["content-range"] == f"bytes {first}-{last}/1048577"
    assert answer.content == data[first : last + 1]
    head = lab.http.head(path, headers={"Range": header})
    assert (head.status_code, head.content) == (206, b"")


@pytest.mark.parametrize("header", ["bytes=5-", "bytes=5-9", "bytes=-0", "bytes=99-100"])
def test_a_range_outside_is_refused_with_the_size(lab, header):
    blob = lab.person.blob(b"12345")["id"]
    answer = lab.http.get(f"/blob/{blob}/content", headers={"Range": header})
    refused(answer, 416, "range_not_satisfiable")
    assert answer.headers["content-range"] == "bytes */5"
    empty = lab.person.blob(b"")["id"]
    answer = lab.http.get(f"/blob/{empty}/content", headers={"Range": "bytes=0-"})
    refused(answer, 416, "range_not_satisfiable")


@pytest.mark.parametrize(
    "header",
    ["bytes=3-1", "bytes=-", "bytes=a-b", "lines=0-1", "bytes=0-1,3-4", "bytes=0-" + "9" * 5000],
)
def test_what_is_no_single_range_is_answered_whole(lab, header):
    blob = lab.person.blob(b"12345")["id"]
    answer = lab.http.get(f"/blob/{blob}/content", headers={"Range": header})
    assert (answer.status_code, answer.content) == (200, b"12345")


def test_conditions_save_the_transfer(lab):
    blob = lab.person.blob(b"12345")
    path = f"/blob/{blob['id']}/content"
    tag = f'"{blob["cid"]}"'
    for value in (tag, f'"x", {tag}', "*", f"W/{tag}"):
        answer = lab.http.get(path, headers={"If-None-Match": value})
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["etag"] == tag
    assert lab.http.get(path, headers={"If-None-Match": '"x"'}).status_code == 200
    same = lab.http.get(path, headers={"Range": "bytes=1-2", "If-Range": tag})
    assert (same.status_code, same.content) == (206, b"23")
    other = lab.http.get(path, headers={"Range": "bytes=1-2", "If-Range": '"x"'})
    assert (other.status_code, other.content) == (200, b"12345")
    head = lab.http.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == "5"


def test_content_is_served_so_that_a_browser_runs_nothing(lab):
    answer = lab.http.post("/blob", content=b"<script>", headers={"Content-Type": "text/html"})
    read = lab.http.get(f"/blob/{expect(answer, 201)['id']}/content")
    assert read.headers["content-disposition"].startswith("attachment")
    assert read.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in read.headers["content-security-policy"]


@pytest.mark.parametrize(
    "kind", ["nonsense", "a/b\tc", "a/" + "b" * 200, "text/é", "/", "a/b;\x7f"]
)
def test_a_media_type_that_is_none_stores_nothing(lab, kind):
    headers = [(b"content-type", kind.encode("latin-1"))]
    answer = lab.http.post("/blob", content=b"x", headers=headers)
    assert answer.status_code in (400, 422)
    if answer.status_code == 422:
        refused(answer, 422, "invalid_field", field="Content-Type")
    assert expect(lab.http.get("/blob"))["items"] == []


@pytest.mark.parametrize("kind", ["text/plain; charset=utf-8", "text/plain ;charset=utf-8"])
def test_parameters_of_a_media_type_are_kept(lab, kind):
    answer = lab.http.post("/blob", content=b"x", headers={"Content-Type": kind})
    assert expect(answer, 201)["media_type"] == kind


def test_attributes_change_and_stale_ones_are_refused(lab):
    blob = lab.person.blob(b"12345", project=lab.project, name="first")
    path = f"/blob/{blob['id']}"
    assert blob["name"] == "first"
    tag = lab.http.get(path).headers["etag"]
    changed = expect(lab.http.post(path, json={"name": "second"}, headers={"If-Match": tag}))
    assert (changed["name"], changed["cid"]) == ("second", blob["cid"])
    stale = {"If-Match": tag}
    refused(lab.http.post(path, json={"name": "x"}, headers=stale), 412, "precondition_failed")
    refused(lab.http.delete(path, headers=stale), 412, "precondition_failed")
    refused(lab.http.post(path, json={"name": "x" * 256}), 422, "invalid_field", field="name")
    answer = lab.http.post(path, json={"media_type": "text/plain"})
    refused(answer, 422, "unknown_field", field="media_type")
    assert expect(lab.http.get(path))["name"] == "second"


def test_a_reader_is_told_when_attributes_change(lab):
    path = f"/blob/{lab.person.blob(b'12345')['id']}"
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lab.http.get, path, params={"wait": 30})
        for n in range(1000):  # until the reader has come, which nothing tells
            expect(lab.http.post(path, json={"name": f"name-{n}"}))
            if waiting.done():
                break
        assert expect(waiting.result())["name"].startswith("name-")


def test_a_blob_is_deleted_when_its_time_is_up(lab):
    blob = lab.person.blob(b"12345", project=lab.project)
    path = f"/blob/{blob['id']}"
    later = expect(lab.http.post(path, json={"delete_after": "2999-01-01T00:00:00Z"}))
    assert later["delete_after"] == "2999-01-01T00:00:00.000Z"
    never = expect(lab.http.post(path, json={"delete_after": None}))
    assert never["delete_after"] is None
    for wrong in ("tomorrow", "2999-01-01T00:00:00", 5, "9999-12-31T23:59:59-12:00"):
        answer = lab.http.post(path, json={"delete_after": wrong})
        refused(answer, 422, "invalid_field", field="delete_after")
    assert lab.http.get(f"{path}/content").content == b"12345"
    expect(lab.http.post(path, json={"delete_after": "2001-01-01T00:00:00+01:00"}))
    refused(lab.http.get(path), 404, "not_found")
    refused(lab.http.get(f"{path}/content"), 404, "not_found")
    assert expect(lab.http.get("/blob", params={"project": lab.project}))["items"] == []


def test_the_same_key_stores_once(lab):
    key = {"Idempotency-Key": "blob"}
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda _: lab.http.post("/blob", content=b"x", headers=key), range(16))
        )
    assert len({expect(answer, 201)["id"] for answer in answers}) == 1
    answer = lab.http.post("/blob", content=b"y", headers=key)
    refused(answer, 422, "idempotency_mismatch")
    assert len(expect(lab.http.get("/blob"))["items"]) == 1


def test_one_content_under_two_ids_outlives_one_of_them(lab, content):
    data = content[:1048577]
    one, two = lab.person.blob(data), lab.person.blob(data)
    assert one["id"] != two["id"]
    assert one["cid"] == two["cid"]
    assert lab.http.delete(f"/blob/{one['id']}").status_code == 204
    assert lab.http.get(f"/blob/{two['id']}/content").content == data
    assert lab.http.delete(f"/blob/{two['id']}").status_code == 204
    refused(lab.http.get(f"/blob/{two['id']}/content"), 404, "not_found")
    three = lab.person.blob(data)
    assert lab.http.get(f"/blob/{three['id']}/content").content == data


def test_a_cid_is_no_capability(lab, person, operator):
    eve = person()
    mine = lab.person.blob(b"secret content")
    hers = eve.blob(b"secret content")
    assert mine["cid"] == hers["cid"]
    for answer in (
        eve.http.get(f"/blob/{mine['id']}"),
        eve.http.get(f"/blob/{mine['id']}/content"),
        eve.http.post(f"/blob/{mine['id']}", json={"name": "x"}),
        eve.http.delete(f"/blob/{mine['id']}"),
        eve.http.get(f"/blob/{mine['cid']}/content"),
    ):
        refused(answer, 404, "not_found")
    answer = eve.http.post("/blob", params={"project": lab.project}, content=b"x")
    refused(answer, 404, "not_found")
    assert expect(operator.get(f"/blob/{mine['id']}"))["size_bytes"] == 14
    refused(operator.get(f"/blob/{mine['id']}/content"), 403, "forbidden")


def test_an_upload_that_breaks_off_stores_nothing(lab):
    def pieces() -> Iterator[bytes]:
        yield b"x" * 100_000
        raise RuntimeError("the client dies")

    with pytest.raises(RuntimeError, match="the client dies"):
        lab.http.post("/blob", content=pieces())
    assert expect(lab.http.get("/blob"))["items"] == []
    assert lab.person.blob(b"next")["size_bytes"] == 4


@pytest.mark.parametrize("project", ["x", "-1", "9" * 5000, "²", ""])
def test_a_project_that_is_none_stores_nothing(lab, project):
    answer = lab.http.post("/blob", params={"project": project}, content=b"x")
    refused(answer, 422, "invalid_field", field="project")
    assert expect(lab.http.get("/blob"))["items"] == []
