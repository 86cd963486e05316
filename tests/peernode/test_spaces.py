"""Namespaces: what each scope and mode allows, and what versions promise."""

from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings, strategies as st

from peernode.problems import Problem
from peernode.space_limits import (
    KEY_SIZE_MAX_BYTES,
    VALUE_SIZE_MAX_BYTES,
    check_key,
    check_ttl,
)
from storage.places import Class
from storage.store import Table
from tests.peernode.nodes import Lab, reopen, settle, sign_up

KINDS = [("local", {}), ("global", {"mode": "lww"}), ("global", {"mode": "cas"})]
EXACT = [("local", {}), ("global", {"mode": "cas"})]


@pytest.mark.parametrize(("scope", "fields"), KINDS)
async def test_what_is_put_is_got_listed_and_deleted_in_every_kind(
    lab: Lab, scope: str, fields: dict[str, Any]
) -> None:
    path = f"/kv/{await lab.space('state', scope, **fields)}"
    put = await lab.ada.post(f"{path}/put", {"key": "a/b", "value": {"x": [1.5, None, "é"]}})
    got = await lab.ada.post(f"{path}/get", {"key": "a/b"})
    assert got == {
        "key": "a/b",
        "value": {"x": [1.5, None, "é"]},
        "version": put["version"],
        "expires_at": None,
    }
    assert (await lab.ada.post(f"{path}/list"))["items"] == ["a/b"]
    await lab.ada.post(f"{path}/delete", {"key": "a/b"})
    refused = await lab.ada.post(f"{path}/get", {"key": "a/b"}, 404)
    assert refused["field"] == "key"
    assert (await lab.ada.post(f"{path}/list"))["items"] == []
    await lab.ada.post(f"{path}/delete", {"key": "a/b"}, 404)


@pytest.mark.parametrize(("scope", "fields"), EXACT)
async def test_an_exact_namespace_counts_and_compares(
    lab: Lab, scope: str, fields: dict[str, Any]
) -> None:
    path = f"/kv/{await lab.space('state', scope, **fields)}"
    for value in (1, 3, 0):
        by = {1: 1, 3: 2, 0: -3}[value]
        assert (await lab.ada.post(f"{path}/increment", {"key": "n", "by": by}))["value"] == value
    version = (await lab.ada.post(f"{path}/get", {"key": "n"}))["version"]
    new = await lab.ada.post(f"{path}/put", {"key": "n", "value": 5, "if_version": version})
    stale = {"key": "n", "value": 6, "if_version": version}
    refused = await lab.ada.post(f"{path}/put", stale, 409)
    assert (refused["code"], refused["version"]) == ("version_mismatch", new["version"])
    await lab.ada.post(f"{path}/delete", {"key": "n", "if_version": version}, 409)
    await lab.ada.post(f"{path}/delete", {"key": "n", "if_version": new["version"]})


async def test_where_the_last_writer_wins_nothing_may_depend_on_what_is_there(lab: Lab) -> None:
    path = f"/kv/{await lab.space('state', 'global')}"
    await lab.ada.post(f"{path}/put", {"key": "n", "value": 1})
    for method, body in (
        ("increment", {"key": "n"}),
        ("put", {"key": "n", "value": 2, "if_version": "0"}),
        ("delete", {"key": "n", "if_version": "1"}),
    ):
        refused = await lab.ada.post(f"{path}/{method}", body, 422)
        assert refused["code"] == "would_lose_updates", method
        assert refused["hint"]


@pytest.mark.parametrize(("scope", "fields"), KINDS)
async def test_a_version_grows_through_deletion_and_never_comes_back(
    lab: Lab, scope: str, fields: dict[str, Any]
) -> None:
    path = f"/kv/{await lab.space('state', scope, **fields)}"
    versions = []
    for value in range(3):
        put = await lab.ada.post(f"{path}/put", {"key": "k", "value": value})
        gone = await lab.ada.post(f"{path}/delete", {"key": "k"})
        versions += [int(put["version"]), int(gone["version"])]
    async with reopen(lab) as again:
        put = await again.ada.post(f"{path}/put", {"key": "k", "value": 9})
        versions.append(int(put["version"]))
    assert versions == sorted(set(versions))


@pytest.mark.parametrize(("scope", "fields"), EXACT)
async def test_version_0_means_that_there_is_no_such_key(
    lab: Lab, scope: str, fields: dict[str, Any]
) -> None:
    path = f"/kv/{await lab.space('state', scope, **fields)}"
    await lab.ada.post(f"{path}/put", {"key": "k", "value": 1, "if_version": "0"})
    await lab.ada.post(f"{path}/put", {"key": "k", "value": 2, "if_version": "0"}, 409)
    await lab.ada.post(f"{path}/delete", {"key": "k"})
    await lab.ada.post(f"{path}/put", {"key": "k", "value": 3, "if_version": "0"})
    refused = await lab.ada.post(f"{path}/put", {"key": "k", "value": 4, "if_version": "x"}, 422)
    assert refused["field"] == "if_version"


@pytest.mark.parametrize(("scope", "fields"), EXACT)
async def test_concurrent_increments_are_exact(
    lab: Lab, scope: str, fields: dict[str, Any]
) -> None:
    path = f"/kv/{await lab.space('state', scope, **fields)}"
    lab.disk.pause()
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(lab.ada.post, f"{path}/increment", {"key": "n"})
        await settle()
        lab.disk.resume()
    assert (await lab.ada.post(f"{path}/get", {"key": "n"}))["value"] == 10


async def test_of_two_that_saw_the_same_version_one_wins(lab: Lab) -> None:
    path = f"/kv/{await lab.space('state')}"
    statuses: list[int] = []

    async def put(value: int) -> None:
        body = {"key": "k", "value": value, "if_version": "0"}
        answer = await lab.ada.http.post(f"{path}/put", json=body)
        statuses.append(answer.status_code)

    lab.disk.pause()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(put, 1)
        nursery.start_soon(put, 2)
        await settle()
        lab.disk.resume()
    assert sorted(statuses) == [200, 409]


@pytest.mark.parametrize(("scope", "fields"), KINDS)
async def test_a_key_that_expires_is_gone_when_it_does(
    lab: Lab, scope: str, fields: dict[str, Any]
) -> None:
    path = f"/kv/{await lab.space('state', scope, **fields)}"
    await lab.ada.post(f"{path}/put", {"key": "k", "value": 1, "ttl_s": 10})
    assert (await lab.ada.post(f"{path}/get", {"key": "k"}))["expires_at"] is not None
    lab.clock.advance(9.999)
    await lab.ada.post(f"{path}/get", {"key": "k"})
    lab.clock.advance(0.001)
    await lab.ada.post(f"{path}/get", {"key": "k"}, 404)
    assert (await lab.ada.post(f"{path}/list"))["items"] == []


@pytest.mark.parametrize("ttl_s", [0, -1, 1e12, float("nan"), float("inf")])
def test_a_life_has_bounds(ttl_s: float) -> None:
    with pytest.raises(Problem) as refused:
        check_ttl(ttl_s)
    assert refused.value.field == "ttl_s"
    assert check_ttl(None) is None


async def test_a_local_namespace_never_becomes_a_record(lab: Lab) -> None:
    before = lab.disk.snapshot()
    path = f"/kv/{await lab.space('state')}"
    await lab.ada.post(f"{path}/put", {"key": "k", "value": 1, "ttl_s": 60})
    await lab.ada.post(f"{path}/increment", {"key": "n"})
    await lab.ada.post(path, {"display_name": "State"})
    await lab.ada.post(f"{path}/delete", {"key": "k"})
    await lab.ada.delete(path)
    after = lab.disk.snapshot()
    for table in (Table.RECORDS, Table.ENTRIES, Table.FACTS, Table.KV_KEYS):
        assert after[table] == before[table], table


async def test_a_global_entry_is_a_record_and_no_local_row(lab: Lab) -> None:
    path = f"/kv/{await lab.space('state', 'global')}"
    await lab.ada.post(f"{path}/put", {"key": "k", "value": 1})
    assert len(lab.disk.snapshot()[Table.ENTRIES]) == 1
    assert lab.disk.snapshot()[Table.KV_LOCAL] == {}


async def test_keys_are_listed_by_prefix_in_the_order_of_their_bytes_page_by_page(
    lab: Lab,
) -> None:
    for scope in ("local", "global"):
        path = f"/kv/{await lab.space(f'state-{scope}', scope)}"
        names = ["a", "a/1", "a/2", "a/é", "b", "b/1"]
        for name in reversed(names):
            await lab.ada.post(f"{path}/put", {"key": name, "value": 0})
        found: list[str] = []
        cursor = None
        pages = 0
        while True:
            pages += 1
            body = {"prefix": "a", "limit": 2, "cursor": cursor}
            page = await lab.ada.post(f"{path}/list", body)
            found += page["items"]
            cursor = page["next"]
            if cursor is None:
                break
        assert (found, pages) == (["a", "a/1", "a/2", "a/é"], 2)


async def test_two_namespaces_never_see_each_others_keys(lab: Lab) -> None:
    one, other = await lab.space("one"), await lab.space("other")
    await lab.ada.post(f"/kv/{one}/put", {"key": "k", "value": 1})
    await lab.ada.post(f"/kv/{other}/get", {"key": "k"}, 404)
    assert (await lab.ada.post(f"/kv/{other}/list"))["items"] == []


@pytest.mark.parametrize("size", [0, KEY_SIZE_MAX_BYTES + 1])
def test_a_key_has_a_length_in_bytes(size: int) -> None:
    with pytest.raises(Problem) as refused:
        check_key("k" * size)
    assert (refused.value.field, refused.value.limit) == ("key", KEY_SIZE_MAX_BYTES)
    assert check_key("é" * 128) == "é".encode() * 128


@pytest.mark.parametrize("scope", ["local", "global"])
async def test_a_value_has_a_size(lab: Lab, scope: str) -> None:
    path = f"/kv/{await lab.space('state', scope)}"
    most = "x" * (VALUE_SIZE_MAX_BYTES - 2)
    await lab.ada.post(f"{path}/put", {"key": "k", "value": most})
    assert (await lab.ada.post(f"{path}/get", {"key": "k"}))["value"] == most
    refused = await lab.ada.post(f"{path}/put", {"key": "k", "value": most + "x"}, 413)
    assert (refused["field"], refused["limit"]) == ("value", VALUE_SIZE_MAX_BYTES)


@pytest.mark.parametrize("value", ['"one"', "1.5", "null", "1e999"])
async def test_only_whole_numbers_are_counted(lab: Lab, value: str) -> None:
    path = f"/kv/{await lab.space('state')}"
    body = b'{"key": "k", "value": %b}' % value.encode()
    await lab.ada.call("POST", f"{path}/put", 200, content=body)
    assert (await lab.ada.post(f"{path}/increment", {"key": "k"}, 409))["field"] == "key"


async def test_a_counter_ends_where_json_is_exact(lab: Lab) -> None:
    path = f"/kv/{await lab.space('state')}"
    most = (1 << 53) - 1
    await lab.ada.post(f"{path}/increment", {"key": "k", "by": most})
    refused = await lab.ada.post(f"{path}/increment", {"key": "k", "by": 1}, 422)
    assert (refused["field"], refused["limit"]) == ("by", most)


async def test_nothing_is_written_into_a_namespace_that_is_being_deleted(lab: Lab) -> None:
    space = await lab.space("state")
    lab.disk.pause()
    lab.nursery.start_soon(lab.ada.delete, f"/kv/{space}")
    await settle()
    statuses: list[int] = []

    async def call(path: str, body: dict[str, Any]) -> None:
        statuses.append((await lab.ada.http.post(path, json=body)).status_code)

    lab.nursery.start_soon(call, f"/kv/{space}/put", {"key": "k", "value": 1})
    lab.nursery.start_soon(call, f"/kv/{space}", {"display_name": "Still here"})
    await settle()
    lab.disk.resume()
    await settle()
    assert statuses == [404, 404]
    assert lab.disk.snapshot()[Table.KV_LOCAL] == lab.disk.snapshot()[Table.KV_SPACES] == {}
    async with reopen(lab) as again:
        await again.ada.get(f"/kv/{space}", 404)


async def test_local_namespaces_and_their_entries_survive_a_restart(lab: Lab) -> None:
    space = await lab.space("state", display_name="State")
    put = await lab.ada.post(f"/kv/{space}/put", {"key": "k", "value": [1]})
    shown = await lab.ada.get(f"/kv/{space}")
    async with reopen(lab) as again:
        assert await again.ada.get(f"/kv/{space}") == shown
        got = await again.ada.post(f"/kv/{space}/get", {"key": "k"})
        assert (got["value"], got["version"]) == ([1], put["version"])


async def test_a_functions_own_namespace_is_found_before_its_projects(lab: Lab) -> None:
    own = {"owner": {"function": lab.echo}, "name": "state", "scope": "local"}
    shared = int(await lab.space("state"))
    function = int((await lab.ada.post("/kv", own, 201))["id"])
    spaces, project = lab.node.spaces, int(lab.project)
    assert spaces.named("state", project, int(lab.echo)).id == function  # type: ignore[union-attr]
    assert spaces.named("state", project, 12345).id == shared  # type: ignore[union-attr]
    assert spaces.named("nothing", project, int(lab.echo)) is None
    await lab.ada.post("/kv", own, 409)
    assert [space.id for space in spaces.owned(project)] == [function, shared]


async def test_a_users_own_namespace_is_its_own(lab: Lab) -> None:
    body = {"owner": {"user": lab.ada.id}, "name": "mine", "scope": "global"}
    space = (await lab.ada.post("/kv", body, 201))["id"]
    assert lab.node.spaces.get(int(space)).owner_class is Class.USER  # type: ignore[union-attr]
    bob = await sign_up(lab.node, "bob")
    await bob.get(f"/kv/{space}", 404)
    await bob.post(f"/kv/{space}/get", {"key": "k"}, 404)
    await bob.post("/kv", body, 403)


KEYS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(names=st.sets(KEYS, max_size=8), limit=st.integers(1, 4), prefix=st.text(max_size=1))
def test_pages_of_keys_are_the_keys_whatever_they_are_called(
    names: set[str], limit: int, prefix: str
) -> None:
    from tests.peernode.nodes import open_lab

    async def main() -> None:
        async with open_lab() as lab:
            space = lab.node.spaces.get(int(await lab.space("state")))
            assert space is not None
            for name in names:
                await lab.ada.post(f"/kv/{space.id}/put", {"key": name, "value": 1})
            found: list[bytes] = []
            after: bytes | None = b""
            while after is not None:
                keys, after = await lab.node.spaces.keys(space, prefix.encode(), after, limit)
                found += keys
            wanted = sorted(name.encode() for name in names if name.startswith(prefix))
            assert found == wanted

    trio.run(main)


@pytest.mark.parametrize("scope", ["local", "global"])
async def test_a_list_goes_on_past_thousands_of_keys_that_are_gone(
    lab: Lab, scope: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peernode.spaces.KEYS_AT_ONCE", 10)
    monkeypatch.setattr("peernode.spaces.KEYS_LOOKED_AT_MAX", 40)
    path, pages = f"/kv/{await lab.space('state', scope)}", 0
    for number in range(100):
        await lab.ada.post(f"{path}/put", {"key": f"k{number:03}", "value": 1, "ttl_s": 0.5})
    await lab.ada.post(f"{path}/put", {"key": "last", "value": 1})
    lab.clock.now_ms += 1000
    found: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = await lab.ada.post(f"{path}/list", {"cursor": cursor} if cursor else {})
        found, cursor, pages = [*found, *page["items"]], page["next"], pages + 1
    assert (found, pages) == (["last"], 3)


async def test_a_long_list_lets_others_run(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peernode.spaces.KEYS_AT_ONCE", 10)
    made, turns = await lab.space("state"), 0
    for number in range(50):
        await lab.ada.post(f"/kv/{made}/put", {"key": f"k{number:03}", "value": 1})

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    space = lab.node.spaces.get(int(made))
    assert space is not None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        keys, _ = await lab.node.spaces.keys(space, b"", b"", 50)
        nursery.cancel_scope.cancel()
    assert (len(keys), turns >= 3) == (50, True)
