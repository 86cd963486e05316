"""Blobs: their bytes, who refers to them, what they count for, and when they go."""

from datetime import UTC, datetime
from typing import Any

import pytest

from peernode.content import METER_BLOB_BYTES, METER_BLOBS
from storage.cid import CHUNK_SIZE_BYTES, Cid
from storage.store import Table
from tests.peernode.nodes import Lab, exchange, reopen

BIG = bytes(range(256)) * (CHUNK_SIZE_BYTES // 256) * 2 + b"and the rest"


def references(lab: Lab) -> dict[bytes, int]:
    rows = lab.disk.snapshot()[Table.BLOCK_REFS]
    return {cid: int.from_bytes(row, "big", signed=True) for cid, row in rows.items()}


def use(lab: Lab) -> tuple[int, int]:
    content, project = lab.node.content, int(lab.project)
    return content.usage(project, METER_BLOBS), content.usage(project, METER_BLOB_BYTES)


def at(now_ms: int) -> str:
    return datetime.fromtimestamp(now_ms / 1000, UTC).isoformat().replace("+00:00", "Z")


@pytest.mark.parametrize("data", [b"", b"abc", BIG], ids=["empty", "small", "tree"])
async def test_what_is_stored_is_read_back(lab: Lab, data: bytes) -> None:
    made = await lab.ada.blob(data, lab.project, Content_Type="text/plain")
    assert (made["size_bytes"], made["media_type"]) == (len(data), "text/plain")
    answer = await lab.ada.http.get(f"/blob/{made['id']}/content")
    assert answer.content == data
    assert answer.headers["etag"] == f'"{made["cid"]}"'
    assert answer.headers["content-length"] == str(len(data))


async def test_equal_content_is_kept_once_and_goes_with_its_last_blob(lab: Lab) -> None:
    before = references(lab)
    one = await lab.ada.blob(BIG, lab.project)
    kept = references(lab)
    other = await lab.ada.blob(BIG, lab.project)
    assert one["cid"] == other["cid"]
    assert set(references(lab)) == set(kept)
    assert use(lab) == (2, 2 * len(BIG))
    await lab.ada.delete(f"/blob/{one['id']}")
    assert references(lab) == kept
    assert (await lab.ada.http.get(f"/blob/{other['id']}/content")).content == BIG
    await lab.ada.delete(f"/blob/{other['id']}")
    assert references(lab) == before
    assert use(lab) == (0, 0)
    assert Table.USAGE not in [t for t, rows in enumerate(lab.disk.snapshot()) if rows]


async def test_a_deleted_blob_is_gone_for_ever(lab: Lab) -> None:
    made = await lab.ada.blob(b"abc", lab.project)
    await lab.ada.delete(f"/blob/{made['id']}")
    for path in ("", "/content"):
        await lab.ada.get(f"/blob/{made['id']}{path}", 404)
    await lab.ada.delete(f"/blob/{made['id']}", 404)
    assert lab.disk.get(Table.DEAD, int(made["id"]).to_bytes(8, "big")) is not None


async def test_a_quota_is_kept_by_what_arrives_whatever_was_announced(lab: Lab) -> None:
    await lab.operator.post(f"/project/{lab.project}", {"quota": {"blob_bytes": 10}})
    refused = await lab.ada.blob(b"x" * 11, lab.project, 429)
    assert (refused["code"], refused["limit"]) == ("quota_exceeded", 10)

    headers = {"Authorization": f"Bearer {lab.ada.token}"}
    pieces = [{"type": "http.request", "body": b"x" * 6, "more_body": i == 0} for i in (0, 1)]
    query = f"project={lab.project}".encode()
    found = await exchange(lab.node.api, "POST", "/blob", pieces, headers, query=query)
    assert (found.status, found.json()["code"]) == (429, "quota_exceeded")
    assert use(lab) == (0, 0)
    assert references(lab).keys() == {Cid(lab_source(lab))}

    await lab.ada.blob(b"x" * 10, lab.project)
    usage = await lab.ada.post(f"/project/{lab.project}/usage")
    assert (usage["blobs"], usage["blob_bytes"]) == (1, 10)
    await lab.ada.blob(b"x", lab.project, 429)
    await lab.ada.blob(b"x")  # Her own, in no project.


def lab_source(lab: Lab) -> bytes:
    """The CID of the source of the lab's only function."""
    (cid,) = lab.disk.snapshot()[Table.BLOCK_REFS]
    return cid


async def test_an_upload_that_is_broken_off_leaves_nothing(lab: Lab) -> None:
    before = lab.disk.snapshot()
    headers = {"Authorization": f"Bearer {lab.ada.token}"}
    pieces = [{"type": "http.request", "body": BIG, "more_body": True}]
    with pytest.raises(ConnectionResetError):
        await exchange(lab.node.api, "POST", "/blob", pieces, headers)
    assert lab.disk.snapshot() == before


async def test_a_blob_over_the_size_limit_is_refused_before_and_while_it_is_read(
    autojump_clock: Any,
) -> None:
    from tests.peernode.nodes import open_lab

    async with open_lab(blob_size_max_bytes=100) as lab:
        refused = await lab.ada.blob(b"x" * 101, status=413)
        assert (refused["code"], refused["limit"]) == ("too_large", 100)
        headers = {"Authorization": f"Bearer {lab.ada.token}"}
        pieces = [{"type": "http.request", "body": b"x" * 101, "more_body": False}]
        found = await exchange(lab.node.api, "POST", "/blob", pieces, headers)
        assert (found.status, found.json()["code"]) == (413, "too_large")
        await lab.ada.blob(b"x" * 100)


async def test_delete_after_hides_at_once_and_the_sweeper_frees(lab: Lab) -> None:
    from peernode.sweeper import sweep

    before = references(lab)
    made = await lab.ada.blob(b"abc", lab.project)
    path = f"/blob/{made['id']}"
    when = lab.clock.now_ms + 1000
    shown = await lab.ada.post(path, {"delete_after": at(when)})
    assert shown["delete_after"].startswith(at(when)[:19])
    assert shown["revision"] != made["revision"]
    lab.clock.advance(0.999)
    await lab.ada.get(path)
    lab.clock.advance(0.001)
    await lab.ada.get(path, 404)
    assert (await lab.ada.get("/blob"))["items"] == []
    while await sweep(lab.node):
        pass
    assert references(lab) == before
    assert use(lab) == (0, 0)


async def test_a_date_that_was_changed_or_taken_back_deletes_nothing(lab: Lab) -> None:
    from peernode.sweeper import sweep

    later, never = await lab.ada.blob(b"1", lab.project), await lab.ada.blob(b"2", lab.project)
    for made in (later, never):
        path = f"/blob/{made['id']}"
        await lab.ada.post(path, {"delete_after": at(lab.clock.now_ms + 1000)})
    future = at(lab.clock.now_ms + 60_000)
    await lab.ada.post(f"/blob/{later['id']}", {"delete_after": future})
    cleared = await lab.ada.post(f"/blob/{never['id']}", {"delete_after": None})
    assert cleared["delete_after"] is None
    lab.clock.advance(30)
    while await sweep(lab.node):
        pass
    for made in (later, never):
        await lab.ada.get(f"/blob/{made['id']}")
    refused = await lab.ada.post(
        f"/blob/{never['id']}", {"delete_after": "2027-01-01T00:00:00"}, 422
    )
    assert refused["field"] == "delete_after"


@pytest.mark.parametrize(
    ("header", "status", "wanted"),
    [
        ("bytes=0-3", 206, BIG[:4]),
        ("bytes=5-", 206, BIG[5:]),
        ("bytes=-4", 206, BIG[-4:]),
        (f"bytes={CHUNK_SIZE_BYTES - 2}-{CHUNK_SIZE_BYTES + 1}", 206, b"\xfe\xff\x00\x01"),
        ("bytes=0-999999999", 206, BIG),
        ("bytes=3-1", 200, BIG),
        ("bytes=0-1,4-5", 200, BIG),
        ("lines=0-1", 200, BIG),
        ("bytes=-", 200, BIG),
    ],
)
async def test_a_range_is_what_was_asked_for(
    lab: Lab, header: str, status: int, wanted: bytes
) -> None:
    made = await lab.ada.blob(BIG)
    path = f"/blob/{made['id']}/content"
    answer = await lab.ada.http.get(path, headers={"Range": header})
    assert (answer.status_code, answer.content) == (status, wanted)
    assert ("content-range" in answer.headers) == (status == 206)


@pytest.mark.parametrize("header", [f"bytes={len(BIG)}-", "bytes=-0"])
async def test_a_range_outside_says_how_long_the_content_is(lab: Lab, header: str) -> None:
    made = await lab.ada.blob(BIG)
    answer = await lab.ada.http.get(f"/blob/{made['id']}/content", headers={"Range": header})
    assert answer.status_code == 416
    assert answer.headers["content-range"] == f"bytes */{len(BIG)}"


async def test_who_has_the_content_is_told_so(lab: Lab) -> None:
    made = await lab.ada.blob(b"abc")
    path, tag = f"/blob/{made['id']}/content", f'"{made["cid"]}"'
    for header in (tag, f'"x", {tag}', "*"):
        answer = await lab.ada.http.get(path, headers={"If-None-Match": header})
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["etag"] == tag
    partial = {"Range": "bytes=0-0", "If-Range": '"another"'}
    assert (await lab.ada.http.get(path, headers=partial)).status_code == 200
    partial = {"Range": "bytes=0-0", "If-Range": tag}
    assert (await lab.ada.http.get(path, headers=partial)).status_code == 206


@pytest.mark.parametrize("kind", ["text", "text/", "a/b\u00e9", "x/" + "y" * 126])
async def test_a_media_type_is_one(lab: Lab, kind: str) -> None:
    answer = await lab.ada.http.post(
        "/blob", content=b"", headers={"Content-Type": kind.encode("latin-1")}
    )
    assert answer.status_code == 422
    assert answer.json()["field"] == "Content-Type"


async def test_the_same_upload_with_a_key_is_one_blob(lab: Lab) -> None:
    first = await lab.ada.blob(b"abc", lab.project, Idempotency_Key="k")
    again = await lab.ada.blob(b"abc", lab.project, Idempotency_Key="k")
    assert again["id"] == first["id"]
    assert use(lab) == (1, 3)
    await lab.ada.blob(b"abcd", lab.project, 422, Idempotency_Key="k")
    assert use(lab) == (1, 3)


async def test_blobs_survive_a_restart(lab: Lab) -> None:
    made = await lab.ada.blob(BIG, lab.project)
    async with reopen(lab) as again:
        assert await again.ada.get(f"/blob/{made['id']}") == made
        assert (await again.ada.http.get(f"/blob/{made['id']}/content")).content == BIG
