"""What is due is removed, and nothing else is."""

from typing import Any

import pytest
import trio

from peernode import sweeper
from peernode.idempotency import KEPT_MS
from peernode.problems import Problem
from peernode.sweeper import INTERVAL_S, sweep
from storage.store import Table
from tests.peernode.nodes import Caller, Lab, sign_up


async def sweep_all(lab: Lab) -> None:
    while await sweep(lab.node):
        pass


def rows(lab: Lab, table: Table) -> dict[bytes, bytes]:
    return lab.disk.snapshot()[table]


async def test_claims_go_after_a_day(lab: Lab) -> None:
    body = {"function": lab.echo, "input": 1}
    first = await lab.ada.post("/job", body, 202, Idempotency_Key="k")
    lab.clock.now_ms += KEPT_MS - 1
    await sweep_all(lab)
    assert (await lab.ada.post("/job", body, 202, Idempotency_Key="k"))["id"] == first["id"]
    lab.clock.now_ms += 1
    await sweep_all(lab)
    assert rows(lab, Table.IDEMPOTENCY) == {}
    anew = await lab.operator.get("/health")
    assert anew["status"] == "ok"


async def test_local_entries_go_when_they_expire_and_not_if_they_were_written_again(
    lab: Lab,
) -> None:
    path = f"/kv/{await lab.space('state')}"
    for key in ("gone", "kept", "longer"):
        await lab.ada.post(f"{path}/put", {"key": key, "value": 1, "ttl_s": 10})
    await lab.ada.post(f"{path}/put", {"key": "kept", "value": 2})
    await lab.ada.post(f"{path}/put", {"key": "longer", "value": 2, "ttl_s": 100})
    lab.clock.advance(10)
    await sweep_all(lab)
    assert (await lab.ada.post(f"{path}/list"))["items"] == ["kept", "longer"]
    assert len(rows(lab, Table.KV_LOCAL)) == 2
    lab.clock.advance(90)
    await sweep_all(lab)
    assert (await lab.ada.post(f"{path}/list"))["items"] == ["kept"]
    assert len(rows(lab, Table.KV_LOCAL)) == 1


async def test_tokens_and_revocations_go_when_they_end(lab: Lab) -> None:
    bob = await sign_up(lab.node, "bob")
    vault = rows(lab, Table.VAULT)
    assert len(vault) == 4, "a row for each user and each token"
    await bob.post(f"/user/{bob.id}/revoke", status=204)
    assert len(rows(lab, Table.VAULT)) == 3
    assert await bob.get(f"/user/{bob.id}", 401)
    lab.clock.advance(25 * 3600)
    await trio.sleep(INTERVAL_S + 1)
    assert len(rows(lab, Table.VAULT)) == 2
    assert any(key.startswith(b"revoked:") for key in rows(lab, Table.META))
    lab.clock.advance(25 * 3600)
    await trio.sleep(INTERVAL_S + 1)
    assert not any(key.startswith(b"revoked:") for key in rows(lab, Table.META))


async def test_many_due_rows_go_some_at_a_time(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeper, "ROWS_MAX", 3)
    path = f"/kv/{await lab.space('state')}"
    for number in range(7):
        await lab.ada.post(f"{path}/put", {"key": str(number), "value": 1, "ttl_s": 1})
    lab.clock.advance(1)
    assert [await sweep(lab.node) for _ in range(4)] == [3, 3, 1, 0]
    assert rows(lab, Table.KV_LOCAL) == {}


async def test_a_node_sweeps_by_itself(lab: Lab) -> None:
    path = f"/kv/{await lab.space('state')}"
    await lab.ada.post(f"{path}/put", {"key": "k", "value": 1, "ttl_s": 1})
    lab.clock.advance(1)
    assert len(rows(lab, Table.KV_LOCAL)) == 1
    await trio.sleep(INTERVAL_S + 1)
    assert rows(lab, Table.KV_LOCAL) == {}


@pytest.mark.parametrize("error", [Problem("overloaded", "x"), None])
async def test_a_sweep_that_fails_is_made_again_and_takes_nothing_with_it(
    lab: Lab, error: Exception | None, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    blob = await lab.ada.blob(b"abc", lab.project)
    late = "2027-01-15T08:00:01Z"
    await lab.ada.post(f"/blob/{blob['id']}", {"delete_after": late})
    lab.clock.advance(2)
    if error is None:
        lab.disk.fill(-1000)
    else:
        real, tries = sweeper.sweep, iter(range(1))

        async def failing(node: Any) -> int:
            if next(tries, None) is not None:
                raise error
            return await real(node)

        monkeypatch.setattr(sweeper, "sweep", failing)
    await trio.sleep(INTERVAL_S + 1)
    lab.disk.make_room()
    await trio.sleep(INTERVAL_S + 1)
    assert rows(lab, Table.BLOBS) == {}
    assert (await Caller(lab.node).get("/health"))["status"] == "ok"
