"""What is revoked and shown all the same ends a run; what was signed again does not."""

from typing import Any

import pytest
import trio

from peernode.node import Node
from simulations.committed import Broken
from simulations.world import PASSWORD, Caller, World
from storage.authority import Authority
from storage.places import Class
from storage.records import Record
from tests.simulations.test_invariants import play_checked
from tests.simulations.test_kept import node_of
from tests.simulations.test_world import create


async def let_in(world: World, ada: Caller) -> tuple[Caller, str, str]:
    """Return a member of a project, the project, and a namespace whose key `k` is the member's."""
    project = await create(world, 0, "p", ada)
    bob = await world.sign_up("bob", 1)
    await trio.sleep(1)
    body: dict[str, Any] = {"user": bob.id, "role": "developer"}
    path = f"/project/{project}/add_member"
    added = await world.request(0, "POST", path, body, token=ada.tokens[0])
    assert added.status == 200, added.body
    body = {"owner": {"project": project}, "name": "space", "scope": "global"}
    await trio.sleep(1)
    made = await world.request(1, "POST", "/kv", body, token=bob.tokens[1])
    assert made.status == 201, made.body
    space = str(made.json()["id"])
    put = {"key": "k", "value": 1}
    answer = await world.request(1, "POST", f"/kv/{space}/put", put, token=bob.tokens[1])
    assert answer.status == 200, answer.body
    await trio.sleep(1)
    return bob, project, space


async def remove(world: World, ada: Caller, bob: Caller, project: str, *, adopt: bool) -> None:
    body = {"user": bob.id, "adopt": adopt}
    path = f"/project/{project}/remove_member"
    removed = await world.request(0, "POST", path, body, token=ada.tokens[0])
    assert removed.status == 200, removed.body
    await trio.sleep(5)


def shows(node: Node, space: str) -> bool:
    return node.registry.get(Class.KV_SPACE, int(space)) is not None


@pytest.mark.parametrize("adopt", [True, False])
def test_what_a_removed_member_made_is_gone_or_somebody_else_s(adopt: bool) -> None:
    async def act(world: World, ada: Caller) -> None:
        bob, project, space = await let_in(world, ada)
        await remove(world, ada, bob, project, adopt=adopt)
        assert [shows(node_of(world, number), space) for number in range(2)] == [adopt] * 2
        for number in range(2):
            await world.crash(number)
            await world.start(number)
        await trio.sleep(5)
        assert world.invariants is not None
        world.invariants.at_end()

    play_checked(act)


async def rotate(world: World, bob: Caller) -> None:
    body = {"password": PASSWORD, "strict": True}
    path = f"/user/{bob.id}/rotate"
    rotated = await world.request(1, "POST", path, body, token=bob.tokens[1])
    assert rotated.status == 200, rotated.body
    await trio.sleep(5)


def test_what_was_signed_again_with_a_new_key_stays() -> None:
    async def act(world: World, ada: Caller) -> None:
        bob, _, space = await let_in(world, ada)
        await rotate(world, bob)
        assert all(shows(node_of(world, number), space) for number in range(2))

    play_checked(act)


def test_a_removed_member_s_object_that_is_shown_ends_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def act(world: World, ada: Caller) -> None:
        bob, project, _ = await let_in(world, ada)
        monkeypatch.setattr(Authority, "admissible", lambda *_: True)
        await remove(world, ada, bob, project, adopt=False)

    with pytest.raises(Broken, match=r"node 0: KV_SPACE [0-9]+ is shown, and .* is revoked"):
        play_checked(act)


def test_an_entry_of_a_key_that_a_strict_one_disowns_ends_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    admissible = Authority.admissible

    def forgiving(self: Authority, record: Record) -> bool:
        return record.body.place.class_ is Class.KV_ENTRY or admissible(self, record)

    async def act(world: World, ada: Caller) -> None:
        bob, _, _ = await let_in(world, ada)
        monkeypatch.setattr(Authority, "admissible", forgiving)
        await rotate(world, bob)

    with pytest.raises(Broken, match=r"key b'k' of namespace [0-9]+ is shown"):
        play_checked(act)


def test_what_is_shown_of_no_record_ends_the_run() -> None:
    async def act(world: World, ada: Caller) -> None:
        bob, project, space = await let_in(world, ada)
        await remove(world, ada, bob, project, adopt=True)
        registry = node_of(world, 0).registry
        entry = registry._view[Class.KV_SPACE][int(space)]
        object.__setattr__(entry, "written_at", entry.written_at + 1)
        registry._tell(Class.KV_SPACE, int(space))

    with pytest.raises(Broken, match=r"KV_SPACE [0-9]+ is shown"):
        play_checked(act)
