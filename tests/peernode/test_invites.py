"""Invites: made without the node, good once, at one node, for a while."""

from typing import Any

import pytest

from peernode import invites
from tests.peernode.nodes import (
    PASSWORD,
    SECRETS,
    Caller,
    Disk,
    SeededEntropy,
    WallClock,
    open_memory_node,
)


def invite(clock: WallClock, seed: str = "", token: str = SECRETS.operator_token) -> str:
    return invites.make(token, SeededEntropy(f"invite{seed}"), clock)


def body(name: str, text: str) -> dict[str, str]:
    return {"name": name, "password": PASSWORD, "invite": text}


async def test_an_invite_is_good_once_also_after_a_restart(autojump_clock: Any) -> None:
    clock, disk = WallClock(), Disk()
    text = invite(clock)
    async with open_memory_node(disk, clock, signup="invite") as node:
        caller = Caller(node)
        missing = await caller.post("/user", {"name": "ada", "password": PASSWORD}, 403)
        assert missing["field"] == "invite"
        await caller.post("/user", body("ada", text), 201)
        used = await caller.post("/user", body("bob", text), 403)
        assert "used" in used["detail"]
        copy = disk.copy()
    async with open_memory_node(copy, clock, signup="invite") as node:
        await Caller(node).post("/user", body("bob", text), 403)
        await Caller(node).post("/user", body("bob", invite(clock, "2")), 201)


async def test_a_name_that_is_taken_burns_no_invite(autojump_clock: Any) -> None:
    clock = WallClock()
    async with open_memory_node(None, clock, signup="invite") as node:
        caller = Caller(node)
        await caller.post("/user", body("ada", invite(clock)), 201)
        second = invite(clock, "2")
        await caller.post("/user", body("ada", second), 409)
        await caller.post("/user", body("bob", second), 201)


async def test_an_invite_ends(autojump_clock: Any) -> None:
    clock = WallClock()
    async with open_memory_node(None, clock, signup="invite") as node:
        text = invite(clock)
        clock.now_ms += invites.TTL_DEFAULT_MS + 1
        late = await Caller(node).post("/user", body("ada", text), 403)
        assert "expired" in late["detail"]


@pytest.mark.parametrize("text", ["", "pni1.", "pni1.AAAA", "pni1.é", "x" * 500])
async def test_what_is_no_invite_of_this_node_is_refused(autojump_clock: Any, text: str) -> None:
    clock = WallClock()
    good = invite(clock)
    foreign = invite(clock, token="pno1.another")
    changed = good[:10] + ("A" if good[10] != "A" else "B") + good[11:]
    async with open_memory_node(None, clock, signup="invite") as node:
        for wrong in (text, foreign, changed):
            refused = await Caller(node).post("/user", body("ada", wrong), 403)
            assert (refused["code"], refused["field"]) == ("forbidden", "invite")


async def test_the_operator_needs_none(autojump_clock: Any) -> None:
    async with open_memory_node(None, signup="invite") as node:
        operator = Caller(node, SECRETS.operator_token)
        await operator.post("/user", {"name": "ada", "password": PASSWORD}, 201)
