"""What this node knows of objects: it is what is on the disk, before and after a restart."""

import msgspec
import pytest
import trio

from peernode.attributes import (
    FunctionAttributes,
    ProjectAttributes,
    SpaceAttributes,
    UserAttributes,
    Version,
    encode_attributes,
)
from peernode.registry import Entry, Registry
from storage import codec
from storage.facts import Role
from storage.places import Class
from storage.store import Table
from tests.peernode.nodes import Disk, Lab, reopen, settle, sign_up

CLASSES = (Class.USER, Class.PROJECT, Class.FUNCTION, Class.KV_SPACE)


def view(registry: Registry) -> dict[Class, dict[int, Entry | None]]:
    return {c: {one: registry.get(c, one) for one in registry.all(c)} for c in CLASSES}


async def test_a_restart_shows_the_same_view(lab: Lab) -> None:
    await lab.space("state", "global", mode="cas")
    await lab.function("other")
    await lab.ada.post(f"/project/{lab.project}", {"display_name": "The lab"})
    bob = await sign_up(lab.node, "bob")
    await lab.ada.post(f"/project/{lab.project}/add_member", {"user": bob.id, "role": "invoker"})
    before = lab.node.registry
    async with reopen(lab) as again:
        after = again.node.registry
        assert view(after) == view(before)
        project = int(lab.project)
        assert after.members(project) == before.members(project)
        assert after.role(int(bob.id), project) is Role.INVOKER
        assert after.projects_of(int(bob.id)) == [project]
        assert after.owned(Class.FUNCTION, project) == before.owned(Class.FUNCTION, project)


async def test_a_change_is_seen_when_it_is_durable_and_not_before(lab: Lab) -> None:
    registry, project = lab.node.registry, int(lab.project)
    lab.disk.gate.hold()
    lab.nursery.start_soon(lab.ada.post, f"/project/{project}", {"display_name": "New"})
    await settle()
    assert registry.get(Class.PROJECT, project).attributes.display_name == ""  # type: ignore[union-attr]
    lab.disk.gate.release()
    await settle()
    assert registry.get(Class.PROJECT, project).attributes.display_name == "New"  # type: ignore[union-attr]


async def test_changes_made_at_once_are_based_on_each_other(lab: Lab) -> None:
    """The second is decided before the first is seen, although it is on the disk already."""
    lab.disk.gate.hold()
    path = f"/project/{lab.project}"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lab.ada.post, path, {"display_name": "New"})
        await settle()
        nursery.start_soon(lab.ada.post, path, {"egress": ["example.org"]})
        await settle()
        lab.disk.gate.release()
    found = await lab.ada.get(path)
    assert (found["display_name"], found["egress"]) == ("New", ["example.org"])


async def test_what_is_deleted_stays_deleted(lab: Lab) -> None:
    function = int(lab.echo)
    await lab.ada.delete(f"/function/{function}")
    assert lab.node.registry.get(Class.FUNCTION, function) is None
    assert lab.disk.get(Table.DEAD, function.to_bytes(8, "big")) is not None
    await lab.ada.post(f"/function/{function}", {"description": "Back"}, 404)
    async with reopen(lab) as again:
        await again.ada.get(f"/function/{function}", 404)
        assert function not in again.node.registry.all(Class.FUNCTION)


async def test_a_change_that_is_on_its_way_does_not_bring_back_what_is_deleted(lab: Lab) -> None:
    path, statuses = f"/function/{lab.echo}", []

    async def change() -> None:
        body = {"description": "Still here"}
        statuses.append((await lab.ada.http.post(path, json=body)).status_code)

    lab.disk.pause()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lab.ada.delete, path)
        await settle()
        nursery.start_soon(change)
        await settle()
        lab.disk.resume()
    assert statuses == [404]
    await lab.ada.get(path, 404)


async def test_a_role_that_is_given_or_taken_counts_at_once(lab: Lab) -> None:
    bob, project = await sign_up(lab.node, "bob"), int(lab.project)
    registry, user = lab.node.registry, int(bob.id)
    assert registry.role(user, project) is None
    path = f"/project/{project}"
    for role in ("viewer", "developer", "invoker"):
        await lab.ada.post(f"{path}/add_member", {"user": bob.id, "role": role})
        assert registry.role(user, project) is Role[role.upper()]
    assert [u for u, _ in registry.members(project)] == sorted([int(lab.ada.id), user])
    await lab.ada.post(f"{path}/remove_member", {"user": bob.id})
    assert registry.role(user, project) is None
    assert registry.projects_of(user) == []
    await bob.get(path, 404)


async def test_what_a_removed_member_wrote_is_looked_at_again(lab: Lab) -> None:
    bob, project = await sign_up(lab.node, "bob"), lab.project
    await lab.ada.post(f"/project/{project}/add_member", {"user": "bob", "role": "developer"})
    body = {"project": project, "name": "bobs", "runtime": "python"}
    source = {"source": "def handler(input): return 1"}
    bobs = (await bob.post("/function", body | source, 201))["id"]
    told: list[tuple[Class, int]] = []
    with lab.node.registry.watching(lambda class_, one: told.append((class_, one))):
        await lab.ada.post(f"/project/{project}/remove_member", {"user": "bob"})
    assert (Class.FUNCTION, int(bobs)) in told
    async with reopen(lab) as again:
        before, after = lab.node.registry, again.node.registry
        assert after.get(Class.FUNCTION, int(bobs)) == before.get(Class.FUNCTION, int(bobs))


async def test_nobody_has_a_role_in_a_project_that_is_deleted(lab: Lab) -> None:
    made = (await lab.ada.post("/project", {"name": "brief"}, 201))["id"]
    blob = (await lab.ada.blob(b"bytes", made))["id"]
    await lab.ada.get(f"/blob/{blob}")
    assert lab.node.registry.role(int(lab.ada.id), int(made)) is Role.OWNER
    await lab.ada.delete(f"/project/{made}")
    assert lab.node.registry.role(int(lab.ada.id), int(made)) is None
    await lab.ada.get(f"/blob/{blob}", 404)


async def test_a_watcher_hears_of_changes_while_it_watches(lab: Lab) -> None:
    told: list[tuple[Class, int]] = []
    project = int(lab.project)
    with lab.node.registry.watching(lambda class_, one: told.append((class_, one))):
        await lab.ada.post(f"/project/{project}", {"display_name": "New"})
    assert told == [(Class.PROJECT, project)]
    await lab.ada.post(f"/project/{project}", {"display_name": "Newer"})
    assert len(told) == 1


@pytest.mark.parametrize(
    "attributes",
    [
        UserAttributes(display_name="Ada"),
        ProjectAttributes(name="lab", egress=["example.org"]),
        SpaceAttributes(name="state", function=9),
        FunctionAttributes(
            name="f",
            current=1,
            versions=[
                Version(
                    version=1,
                    runtime="python",
                    entry="handler",
                    cid=b"c",
                    size_bytes=3,
                    input_schema=None,
                    created_ms=5,
                )
            ],
            source=b"abc",
        ),
    ],
)
def test_attributes_are_read_as_they_were_written(attributes: msgspec.Struct) -> None:
    payload = encode_attributes(attributes)  # type: ignore[arg-type]
    value = codec.decode(payload, len(payload))
    assert msgspec.convert(value, type(attributes), builtin_types=(bytes,)) == attributes


async def test_a_fact_that_cannot_be_written_changes_nothing(lab: Lab) -> None:
    bob = await sign_up(lab.node, "bob")
    before = lab.disk.snapshot()
    lab.disk.fill()
    body = {"user": bob.id, "role": "viewer"}
    refused = await lab.ada.post(f"/project/{lab.project}/add_member", body, 507)
    assert refused["code"] == "storage_full"
    assert lab.node.registry.role(int(bob.id), int(lab.project)) is None
    assert lab.disk.snapshot()[Table.FACTS] == before[Table.FACTS]
    lab.disk.make_room()
    await lab.ada.post(f"/project/{lab.project}/add_member", body)


async def test_a_disk_that_lost_nothing_starts_with_more_than_one_page_of_rows(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peernode.registry.LOADED_AT_ONCE", 2)
    for name in ("a", "b", "c", "d", "e"):
        await lab.function(name)
    disk: Disk = lab.disk.copy()
    async with reopen(lab, disk) as again:
        assert view(again.node.registry) == view(lab.node.registry)
