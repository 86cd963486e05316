"""A whole node: what its block owns, and what is left when it ends."""

from typing import Any

import httpx
import pytest
import trio

from peernode.config import Config
from peernode.node import IDS_MARK, TIMESTAMPS_MARK, Seams, open_node
from peernode.problems import Problem
from storage.errors import StoreClosed
from storage.store import Table
from tests.peernode.nodes import (
    CONFIG,
    PASSWORD,
    SECRETS,
    Caller,
    Disk,
    Lab,
    SeededEntropy,
    WallClock,
    inline,
    open_lab,
    open_memory_node,
    reopen,
    settle,
    sign_up,
)
from worker import protocol


async def test_a_first_start_founds_a_mesh_and_every_start_is_counted(autojump_clock: Any) -> None:
    disk, clock = Disk(), WallClock()
    async with open_memory_node(disk, clock) as node:
        first = node.identity
        copy = disk.copy()
    async with open_memory_node(copy, clock) as node:
        assert node.identity.genesis == first.genesis
        assert (first.boot, node.identity.boot) == (1, 2)
        assert node.identity.peer_id == first.peer_id


async def test_the_store_is_closed_with_the_node(autojump_clock: Any) -> None:
    disk = Disk()
    async with open_memory_node(disk):
        pass
    with pytest.raises(StoreClosed):
        disk.get(Table.META, b"mesh")


async def test_ids_and_timestamps_grow_over_restarts_whatever_the_clock_does(
    autojump_clock: Any,
) -> None:
    disk, clock = Disk(), WallClock()
    ids, stamps = [], []
    for step_ms in (0, -3_600_000, 0, 1000):
        clock.now_ms += step_ms
        async with open_memory_node(disk, clock) as node:
            ids += [node.ids.next() for _ in range(300)]
            stamps += [node.timestamps.tick() for _ in range(300)]
            disk = disk.copy()
    assert ids == sorted(set(ids))
    assert stamps == sorted(set(stamps))
    for mark in (IDS_MARK, TIMESTAMPS_MARK):
        assert disk.get(Table.META, mark)


async def test_two_nodes_with_the_same_seams_do_the_same(autojump_clock: Any) -> None:
    rows = []
    for _ in range(2):
        disk = Disk()
        async with open_lab(disk, WallClock()) as lab:
            await lab.job({"x": 1})
            rows.append(disk.snapshot())
    assert rows[0] == rows[1]


async def test_secrets_never_reach_the_disk(lab: Lab) -> None:
    body = {"name": "bob", "password": "a password that is not kept"}
    await lab.ada.post("/user", body, 201, Idempotency_Key="signup")
    everything = b"".join(
        key + value for rows in lab.disk.snapshot() for key, value in rows.items()
    )
    for secret in (b"a password that is not kept", SECRETS.seed, SECRETS.pepper):
        assert secret not in everything
    assert lab.ada.token.split(".")[2].encode() not in everything


async def test_what_is_kept_of_a_sign_up_is_no_help_in_guessing_its_password(lab: Lab) -> None:
    import hashlib

    body = b'{"name": "bob", "password": "correct horse"}'
    headers = {"Idempotency-Key": "k"}
    await lab.ada.call("POST", "/user", 201, content=body, headers=headers)
    plain = hashlib.blake2b(body, digest_size=16).digest()
    assert all(plain not in row for row in lab.disk.snapshot()[Table.IDEMPOTENCY].values())
    again = await lab.ada.call("POST", "/user", 201, content=body, headers=headers)
    assert again["name"] == "bob"


async def test_draining_lets_running_jobs_end_and_takes_no_more(lab: Lab) -> None:
    worker = await lab.worker()
    job, waiting = await lab.job(), await lab.job()
    await settle()
    lease = worker.lease(job)
    await worker.started(lease)
    drained: list[float] = []

    async def drain() -> None:
        await lab.node.drain()
        drained.append(trio.current_time())

    lab.nursery.start_soon(drain)
    await settle()
    assert drained == []
    await lab.ada.post("/job", {"function": lab.echo}, 503)
    await worker.finish(lease, 1)
    assert len(drained) == 1
    assert (await lab.ada.get(f"/job/{job}"))["state"] == "succeeded"
    assert (await lab.ada.get(f"/job/{waiting}"))["state"] == "queued"
    assert len(worker.all(protocol.Lease)) <= 2


async def test_draining_does_not_wait_for_ever(lab: Lab) -> None:
    worker = await lab.worker()
    job = await lab.job()
    await settle()
    await worker.started(worker.lease(job))
    before = trio.current_time()
    await lab.node.drain()
    assert trio.current_time() - before == lab.node.config.drain_s


async def test_closing_a_node_at_work_loses_nothing(lab: Lab) -> None:
    worker = await lab.worker()
    jobs = [await lab.job(number) for number in range(3)]
    async with reopen(lab) as second:
        running = await second.worker()
        await settle()
        await running.started(running.lease())
        disk = second.disk
    async with reopen(lab, disk.copy()) as third:
        for job in jobs:
            assert (await third.ada.get(f"/job/{job}"))["state"] in ("queued", "leased", "running")
    assert worker.ended == []


async def test_a_node_that_closes_with_outcomes_on_their_way_keeps_them(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk()
    async with open_lab(disk) as lab:
        worker = await lab.worker()
        blob = int((await lab.ada.blob(b"old", lab.project))["id"])
        job = await lab.job()
        await settle()
        disk.pause()
        await worker.finish(worker.lease(job), 1, protocol.BlobDelete(blob))
        monkeypatch.setattr(disk, "let_go", lambda: None)  # The node itself has to.
    async with reopen(lab, disk.copy()) as again:
        assert (await again.ada.get(f"/job/{job}"))["result"] == 1
        await again.ada.get(f"/blob/{blob}", 404)


async def test_two_sign_ups_at_once_make_one_user(lab: Lab) -> None:
    statuses: list[int] = []

    async def post() -> None:
        body = {"name": "bob", "password": "correct horse"}
        statuses.append((await Caller(lab.node).http.post("/user", json=body)).status_code)

    lab.disk.pause()
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(post)
        await settle()
        lab.disk.resume()
    assert sorted(statuses) == [201, 409, 409]


async def test_of_two_key_rotations_at_once_one_counts_and_the_password_still_works(
    lab: Lab,
) -> None:
    answers: list[httpx.Response] = []

    async def rotate() -> None:
        body = {"password": "correct horse battery"}
        answers.append(await lab.ada.http.post(f"/user/{lab.ada.id}/rotate", json=body))

    lab.disk.pause()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rotate)
        nursery.start_soon(rotate)
        await settle()
        lab.disk.resume()
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    login = {"password": "correct horse battery"}
    token = (await Caller(lab.node).post("/user/ada/login", login))["token"]
    caller = Caller(lab.node, token)
    assert (await caller.get("/user/ada"))["epoch"] == 1
    await caller.post(f"/project/{lab.project}", {"display_name": "Still hers"})


async def test_passwords_are_tried_a_few_at_a_time(autojump_clock: Any) -> None:
    now = most = 0

    async def slow(function: Any, /, *args: Any) -> Any:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await trio.sleep(1)
        now -= 1
        return function(*args)

    seams = Seams(
        clock=WallClock(),
        entropy=SeededEntropy(),
        offload=slow,
        store=Disk(),
        secrets=SECRETS,
    )
    async with open_node(CONFIG, seams) as node, trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(sign_up, node, f"user-{number}")
        await trio.sleep(60)
        assert most == 2
        assert now == 0


@pytest.mark.slow
async def test_the_default_seams_are_the_real_world(tmp_path: Any) -> None:
    config = Config(
        data=tmp_path / "node", workers=0, signup="open", password_memory_bytes=8192,
        password_passes=1,
    )  # fmt: skip
    async with open_node(config) as node:
        ada = await sign_up(node, "ada")
        made = await ada.blob(b"x" * 200_000)
        content = await ada.http.get(f"/blob/{made['id']}/content")
        assert content.content == b"x" * 200_000
    assert (config.data.stat().st_mode & 0o777) == 0o700
    async with open_node(config) as node:
        assert node.identity.boot == 2
        assert await Caller(node, ada.token).get(f"/blob/{made['id']}") == made


async def test_a_local_caller_is_the_operators_unless_a_proxy_stands_in_front(
    autojump_clock: Any,
) -> None:
    async with open_memory_node() as node:
        assert node.is_local("127.0.0.1")
        assert not node.is_local("192.0.2.1")
    async with open_memory_node(behind_proxy=True) as node:
        assert not node.is_local("127.0.0.1")
        refused = 0
        for _ in range(100):
            try:
                node.admit_anonymous("127.0.0.1")
            except Problem:
                refused += 1
        assert refused > 0


async def test_the_environment_of_children_has_none_of_ours(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEERNODE_TOKEN", "secret")
    monkeypatch.setenv("HARMLESS", "yes")
    environment = lab.node.child_environment
    assert "PEERNODE_TOKEN" not in environment
    assert environment["HARMLESS"] == "yes"


def test_inline_is_no_thread() -> None:
    import threading

    async def main() -> int:
        return await inline(threading.get_ident)

    assert trio.run(main) == threading.get_ident()


async def test_a_clock_that_was_put_back_an_hour_ends_no_session(lab: Lab) -> None:
    """What a token says of its beginning was true once, and the node knows that it was."""
    lab.clock.advance(-3600)
    assert (await lab.ada.get(f"/project/{lab.project}"))["id"] == lab.project
    again = {"password": PASSWORD}
    token = (await lab.ada.post(f"/user/{lab.ada.id}/login", again))["token"]
    lab.clock.advance(3600)
    assert await Caller(lab.node, token).get(f"/project/{lab.project}")
