"""Who may attach as a worker: a token once, then whoever holds the key it registered."""

from typing import Any

import pytest
import trio

from peernode.problems import Problem
from peernode.workers import PROOF_AGE_MAX_MS, prove
from storage.signing import Keypair
from tests.peernode.nodes import Lab, reopen, settle

KEYPAIR = Keypair.from_seed(b"w" * 32)
OTHER = Keypair.from_seed(b"x" * 32)


def text(key: bytes) -> str:
    import base64

    return base64.urlsafe_b64encode(key).decode().rstrip("=")


async def made(lab: Lab, **fields: Any) -> tuple[int, str]:
    answer = await lab.operator.post("/worker", fields, 201)
    return int(answer["id"]), answer["token"]


async def admit(lab: Lab, worker: int, credential: str, key: bytes = b"") -> int:
    return await lab.node.workers.admit(str(worker), f"Bearer {credential}", text(key))


async def register(lab: Lab) -> int:
    worker, token = await made(lab)
    assert await admit(lab, worker, token, KEYPAIR.public_key) == worker
    return worker


async def refused(lab: Lab, *arguments: Any) -> Problem:
    with pytest.raises(Problem) as problem:
        await admit(lab, *arguments)
    assert problem.value.code == "unauthenticated"
    return problem.value


async def test_a_token_is_good_for_one_attach_which_registers_a_key(lab: Lab) -> None:
    worker, token = await made(lab)
    await refused(lab, worker, token)  # No key: nothing is burnt.
    await admit(lab, worker, token, KEYPAIR.public_key)
    used = await refused(lab, worker, token, KEYPAIR.public_key)
    assert used.hint
    async with reopen(lab) as again:
        await refused(again, worker, token, OTHER.public_key)


async def test_of_two_that_show_one_token_at_once_one_is_taken(lab: Lab) -> None:
    worker, token = await made(lab)
    lab.disk.pause()
    results: list[object] = []

    async def attach(key: bytes) -> None:
        try:
            results.append(await admit(lab, worker, token, key))
        except Problem as problem:
            results.append(problem.code)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(attach, KEYPAIR.public_key)
        nursery.start_soon(attach, OTHER.public_key)
        await settle()
        lab.disk.resume()
    assert sorted(map(str, results)) == sorted([str(worker), "unauthenticated"])


async def test_a_proof_is_good_once_for_its_worker_near_its_date(lab: Lab) -> None:
    worker, now_ms = await register(lab), lab.clock.now_ms
    proof = prove(worker, KEYPAIR, now_ms)
    assert await admit(lab, worker, proof) == worker
    await refused(lab, worker, proof)
    await refused(lab, worker, prove(worker, KEYPAIR, now_ms - 1))
    assert await admit(lab, worker, prove(worker, KEYPAIR, now_ms + 1)) == worker
    for at_ms in (now_ms - PROOF_AGE_MAX_MS - 1, now_ms + PROOF_AGE_MAX_MS + 1):
        late = await refused(lab, worker, prove(worker, KEYPAIR, at_ms))
        assert "clock" in late.hint
    await refused(lab, worker, prove(worker, OTHER, now_ms + 2))
    other = await register(lab)
    stolen = prove(worker, KEYPAIR, now_ms + 3).replace(str(worker), str(other))
    await refused(lab, other, stolen)


@pytest.mark.parametrize(
    "credential", ["", "x", "pnw1", "pnw1..", "pnk1.1.2", "pnw1.{}.é", "pnk1.{}.99999.x"]
)
async def test_what_is_neither_token_nor_proof_is_refused(lab: Lab, credential: str) -> None:
    worker, _ = await made(lab)
    await refused(lab, worker, credential.format(worker))
    with pytest.raises(Problem):
        await lab.node.workers.admit("x", f"Bearer {credential}")
    with pytest.raises(Problem):
        await lab.node.workers.admit(str(worker), credential)


async def test_a_deleted_worker_stays_deleted(lab: Lab) -> None:
    worker = await lab.worker()
    job = await lab.job()
    await settle()
    assert worker.lease(job)
    await lab.operator.delete(f"/worker/{worker.id}")
    await settle()
    assert worker.ended == ["removed"]
    for method in ("drain", "resume"):
        await lab.operator.post(f"/worker/{worker.id}/{method}", status=404)
    with pytest.raises(Problem):
        await lab.node.workers.change(worker.id, name="back")
    async with reopen(lab) as again:
        await again.operator.get(f"/worker/{worker.id}", 404)
    assert (await lab.ada.get(f"/job/{job}"))["state"] == "queued"


async def test_changes_made_at_once_both_count(lab: Lab) -> None:
    worker, _ = await made(lab)
    lab.disk.pause()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lab.operator.post, f"/worker/{worker}", {"name": "fast"})
        nursery.start_soon(lab.operator.post, f"/worker/{worker}", {"labels": {"a": "b"}})
        await settle()
        lab.disk.resume()
    found = await lab.operator.get(f"/worker/{worker}")
    assert (found["name"], found["labels"]) == ("fast", {"a": "b"})
    async with reopen(lab) as again:
        shown = await again.operator.get(f"/worker/{worker}")
        assert (shown["name"], shown["labels"]) == ("fast", {"a": "b"})


async def test_a_local_workers_token_lives_as_long_as_its_process(lab: Lab) -> None:
    worker = await lab.node.local_worker()
    assert await lab.node.local_worker() == worker
    first = lab.node.workers.open_local(worker)
    assert await admit(lab, worker, first) == worker
    assert await admit(lab, worker, first) == worker
    second = lab.node.workers.open_local(worker)
    await refused(lab, worker, first)
    assert await admit(lab, worker, second) == worker
    async with reopen(lab) as again:
        assert again.node.workers.local == {worker}
        await refused(again, worker, second)


async def test_workers_are_the_operators(lab: Lab) -> None:
    worker, token = await made(lab, name="gpu", labels={"room": "3"})
    found = await lab.operator.get(f"/worker/{worker}")
    assert (found["name"], found["labels"], found["state"]) == ("gpu", {"room": "3"}, "detached")
    assert token not in str(found)
    await lab.ada.get(f"/worker/{worker}", 404)
    await lab.ada.post("/worker", {}, 403)
    await lab.ada.get("/worker", 403)
