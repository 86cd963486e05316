"""What a member has made stays when the membership changes, as somebody else's word."""

from typing import Any

import trio

from storage.places import Class
from tests.peernode.federated import Federated, open_federated
from tests.peernode.nodes import Caller, Lab, sign_up

SOURCE = "def handler(input): return 1"


async def let_in(lab: Lab, name: str, role: str) -> Caller:
    caller = await sign_up(lab.node, name)
    await lab.ada.post(f"/project/{lab.project}/add_member", {"user": name, "role": role})
    return caller


async def deploy(caller: Caller, project: str, name: str) -> str:
    body = {"project": project, "name": name, "runtime": "python", "source": SOURCE}
    return str((await caller.post("/function", body, 201))["id"])


async def space(caller: Caller, project: str, name: str, **fields: Any) -> str:
    body = {"owner": {"project": project}, "name": name, "scope": "global", **fields}
    return str((await caller.post("/kv", body, 201))["id"])


async def test_a_removed_members_functions_and_entries_stay(lab: Lab) -> None:
    bob = await let_in(lab, "bob", "developer")
    function, keys = await deploy(bob, lab.project, "bobs"), await space(bob, lab.project, "keys")
    for number in range(3):
        await bob.post(f"/kv/{keys}/put", {"key": f"k{number}", "value": number})
    before = await lab.ada.get(f"/function/{function}")
    held = await lab.ada.post(f"/kv/{keys}/get", {"key": "k1"})
    await lab.ada.post(f"/project/{lab.project}/remove_member", {"user": "bob"})
    assert await lab.ada.get(f"/function/{function}") == before
    assert await lab.ada.post(f"/kv/{keys}/get", {"key": "k1"}) == held
    assert len((await lab.ada.post(f"/kv/{keys}/list", {}))["items"]) == 3
    await bob.get(f"/function/{function}", 404)


async def test_without_adoption_all_goes_with_the_member(lab: Lab) -> None:
    bob = await let_in(lab, "bob", "developer")
    function = await deploy(bob, lab.project, "bobs")
    body = {"user": "bob", "adopt": False}
    await lab.ada.post(f"/project/{lab.project}/remove_member", body)
    await lab.ada.get(f"/function/{function}", 404)


async def test_who_leaves_by_himself_takes_along_what_he_made(lab: Lab) -> None:
    bob = await let_in(lab, "bob", "developer")
    function = await deploy(bob, lab.project, "bobs")
    await bob.post(f"/project/{lab.project}/remove_member", {"user": bob.id})
    await lab.ada.get(f"/function/{function}", 404)


async def test_a_new_role_hides_nothing_that_was_made_under_the_old_one(lab: Lab) -> None:
    bob = await let_in(lab, "bob", "developer")
    function, keys = await deploy(bob, lab.project, "bobs"), await space(bob, lab.project, "keys")
    await bob.post(f"/kv/{keys}/put", {"key": "k", "value": 1})
    for role in ("admin", "developer", "viewer"):
        body = {"user": "bob", "role": role}
        await lab.ada.post(f"/project/{lab.project}/add_member", body)
        assert (await bob.get(f"/function/{function}"))["name"] == "bobs"
        assert (await bob.post(f"/kv/{keys}/get", {"key": "k"}))["value"] == 1
    # As a viewer he writes no more; what stands is another's word, and can be changed by it.
    await bob.post(f"/function/{function}", {"description": "mine"}, 403)
    await lab.ada.post(f"/function/{function}", {"description": "ours"})


async def test_what_the_member_deleted_stays_deleted(lab: Lab) -> None:
    keys = await space(lab.ada, lab.project, "keys")
    function = await deploy(lab.ada, lab.project, "old")
    await lab.ada.post(f"/kv/{keys}/put", {"key": "k", "value": "ada's"})
    bob = await let_in(lab, "bob", "admin")
    await bob.post(f"/kv/{keys}/delete", {"key": "k"})
    await bob.delete(f"/function/{function}")
    await lab.ada.post(f"/project/{lab.project}/remove_member", {"user": "bob"})
    await lab.ada.post(f"/kv/{keys}/get", {"key": "k"}, 404)
    await lab.ada.get(f"/function/{function}", 404)


async def test_what_others_wrote_since_is_not_touched(lab: Lab) -> None:
    keys = await space(lab.ada, lab.project, "keys")
    bob = await let_in(lab, "bob", "developer")
    await bob.post(f"/kv/{keys}/put", {"key": "k", "value": "bob's"})
    newest = await lab.ada.post(f"/kv/{keys}/put", {"key": "k", "value": "ada's"})
    await lab.ada.post(f"/project/{lab.project}/remove_member", {"user": "bob"})
    held = await lab.ada.post(f"/kv/{keys}/get", {"key": "k"})
    assert (held["value"], held["version"]) == ("ada's", newest["version"])


async def test_whom_a_removed_admin_let_in_stays_and_so_does_what_they_made(lab: Lab) -> None:
    bob = await let_in(lab, "bob", "admin")
    eve = await sign_up(lab.node, "eve")
    body = {"user": "eve", "role": "developer"}
    await bob.post(f"/project/{lab.project}/add_member", body)
    function = await deploy(eve, lab.project, "eves")
    await lab.ada.post(f"/project/{lab.project}/remove_member", {"user": "bob"})
    assert (await eve.get(f"/function/{function}"))["name"] == "eves"
    await eve.post(f"/function/{function}", {"description": "still mine"})
    await bob.get(f"/function/{function}", 404)


async def test_without_adoption_whom_an_admin_let_in_falls_with_him(lab: Lab) -> None:
    bob = await let_in(lab, "bob", "admin")
    eve = await sign_up(lab.node, "eve")
    body = {"user": "eve", "role": "developer"}
    await bob.post(f"/project/{lab.project}/add_member", body)
    gone = {"user": "bob", "adopt": False}
    await lab.ada.post(f"/project/{lab.project}/remove_member", gone)
    await eve.get(f"/project/{lab.project}", 404)


async def test_it_is_the_same_everywhere(autojump_clock: trio.testing.MockClock) -> None:
    async with open_federated(3) as mesh:
        ada, bob = await mesh.sign_up("ada", "a"), await mesh.sign_up("bob", "b")
        project = str((await ada.post("/project", {"name": "lab"}, 201))["id"])
        body = {"user": bob.id, "role": "developer"}
        await trio.sleep(2)
        await ada.post(f"/project/{project}/add_member", body)
        await trio.sleep(2)
        function, keys = await deploy(bob, project, "bobs"), await space(bob, project, "keys")
        await trio.sleep(2)
        await bob.post(f"/kv/{keys}/put", {"key": "k", "value": 1})
        await trio.sleep(2)
        await ada.post(f"/project/{project}/remove_member", {"user": bob.id})
        await trio.sleep(2)
        for name in "abc":
            there = mesh.caller("ada", name)
            assert (await there.get(f"/function/{function}"))["name"] == "bobs"
            assert (await there.post(f"/kv/{keys}/get", {"key": "k"}))["value"] == 1
            assert _view(mesh, name) == _view(mesh, "a")
        assert (await mesh.caller("bob", "b").get(f"/function/{function}", 404))["code"]


def _view(mesh: Federated, name: str) -> list[int]:
    registry = mesh.nodes[name].registry
    return [*registry.all(Class.FUNCTION), *registry.all(Class.KV_SPACE)]


async def test_a_thousand_entries_are_taken_over(lab: Lab) -> None:
    bob = await let_in(lab, "bob", "developer")
    keys = await space(bob, lab.project, "keys")
    async with trio.open_nursery() as nursery:
        for number in range(1000):
            body = {"key": f"k{number:04}", "value": number}
            nursery.start_soon(bob.post, f"/kv/{keys}/put", body)
    await lab.ada.post(f"/project/{lab.project}/remove_member", {"user": "bob"})
    assert (await lab.ada.post(f"/kv/{keys}/get", {"key": "k0999"}))["value"] == 999
