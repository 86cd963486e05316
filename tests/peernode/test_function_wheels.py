"""Functions bring wheels: blobs at their deployment, theirs for as long as they are."""

from typing import Any

import pytest
import trio.testing

from peernode.attributes import FunctionAttributes, Version
from peernode.classes.function_versions import with_wheels
from peernode.classes.function_wheels import WHEELS_MAX, Brought
from peernode.problems import Problem
from peernode.wheel_rows import Wheel
from storage.cid import Cid, raw_leaf
from storage.places import Class
from tests.peernode.foreign_mesh import open_mesh
from tests.peernode.nodes import Caller, Lab, settle, sign_up
from tests.worker.wheel_files import NAME, hostile_wheels, make_wheel
from worker import protocol

Clock = trio.testing.MockClock
SOURCE = "import greeting\ndef handler(input):\n    return greeting.greet()\n"


async def stored(
    caller: Caller, project: str, data: bytes | None = None, name: str = NAME, status: int = 201
) -> Any:
    path = f"/blob?project={project}&name={name.replace('+', '%2B')}"
    content = make_wheel() if data is None else data
    return (await caller.call("POST", path, status, content=content))["id"]


async def deployed(lab: Lab, name: str, *wheels: str, status: int = 201, **fields: Any) -> Any:
    body = {
        "project": lab.project,
        "name": name,
        "runtime": "python",
        "source": SOURCE,
        "wheels": list(wheels),
    }
    return await lab.ada.post("/function", body | fields, status)


async def test_a_version_tells_what_it_brings_and_a_worker_is_told(lab: Lab) -> None:
    blob = await stored(lab.ada, lab.project)
    made = await deployed(lab, "greet", blob)
    (shown,) = made["versions"][0]["wheels"]
    assert (shown["name"], shown["size_bytes"]) == (NAME, len(make_wheel()))
    ready = lab.node.programs.get(int(made["id"]), 1)
    assert ready is not None
    assert ready.tags == ("py3-none-any",)
    (wheel,) = ready.message().wheels
    assert wheel == protocol.Wheel(shown["cid"], shown["size_bytes"], NAME)
    cid = lab.node.programs.cid(int(made["id"]), 1, 0)
    assert await lab.node.content.read_piece(cid, 0, 1 << 20) == make_wheel()


async def test_new_source_keeps_the_wheels_unless_it_names_others(lab: Lab) -> None:
    blob = await stored(lab.ada, lab.project)
    function = (await deployed(lab, "greet", blob))["id"]
    path = f"/function/{function}"
    again = await lab.ada.post(path, {"source": SOURCE})
    other = await stored(
        lab.ada,
        lab.project,
        make_wheel({"o.py": b""}, home="o-1.dist-info"),
        "o-1-py3-none-any.whl",
    )
    both = await lab.ada.post(path, {"source": SOURCE, "wheels": [other, blob]})
    none = await lab.ada.post(path, {"source": SOURCE, "wheels": []})
    for made, names in (
        (again, [NAME]),
        (both, ["o-1-py3-none-any.whl", NAME]),
        (none, []),
    ):
        assert [wheel["name"] for wheel in made["versions"][-1]["wheels"]] == names
    entry = lab.node.programs.get(int(function), 1)
    assert entry is not None
    assert [wheel.name for wheel in entry.wheels] == [NAME]
    refused = await lab.ada.post(path, {"wheels": [blob]}, 422)
    assert refused["field"] == "wheels"


async def test_wheels_stay_when_their_blobs_go_and_go_with_their_function(lab: Lab) -> None:
    blob = await stored(lab.ada, lab.project)
    function = (await deployed(lab, "greet", blob))["id"]
    await deployed(lab, "another", blob)
    cid = lab.node.programs.cid(int(function), 1, 0)
    await lab.ada.delete(f"/blob/{blob}")
    assert await lab.node.content.read_piece(cid, 0, 4) == b"PK\3\4"
    await lab.ada.delete(f"/function/{function}")
    assert lab.node.blob_store.has(Cid(cid)), "another has it"
    found = await lab.ada.get("/function?name=another")
    await lab.ada.delete(f"/function/{found['items'][0]['id']}")
    assert not lab.node.blob_store.has(Cid(cid))


@pytest.mark.parametrize("wrong", sorted(hostile_wheels()))
async def test_a_hostile_wheel_is_not_deployed(lab: Lab, wrong: str) -> None:
    data, says = hostile_wheels()[wrong]
    blob = await stored(lab.ada, lab.project, data)
    refused = await deployed(lab, "greet", blob, status=422)
    assert (refused["code"], refused["field"]) == ("invalid_source", "wheels")
    assert says in refused["detail"]


async def test_what_cannot_be_a_wheel_of_a_function_is_named(lab: Lab) -> None:
    blob = await stored(lab.ada, lab.project)
    bob = await sign_up(lab.node, "bob")
    foreign = await stored(bob, (await bob.post("/project", {"name": "hers"}, 201))["id"])
    elsewhere = (await lab.ada.post("/project", {"name": "elsewhere"}, 201))["id"]
    away = await stored(lab.ada, elsewhere)
    named = await stored(lab.ada, lab.project, name="greeting.whl")
    again = await stored(lab.ada, lab.project)
    module = {"runtime": "wasm", "source": "(module)"}
    for wheels, status, says, fields in (
        ([foreign], 404, "no blob", {}),
        (["nonsense"], 404, "no blob", {}),
        ([away], 422, "not of the function's project", {}),
        ([named], 422, "is not a wheel's name", {}),
        ([blob, again], 422, "'greeting' is there twice", {}),
        ([blob] * (WHEELS_MAX + 1), 413, "at most 16", {}),
        ([blob], 422, "runtime wasm brings none", module),
        ([blob], 422, "cannot import wheels", {"isolation": "wasm"}),
    ):
        refused = await deployed(lab, "greet", *wheels, status=status, **fields)
        assert says in refused["detail"]
    function = (await deployed(lab, "greet", blob))["id"]
    refused = await lab.ada.post(f"/function/{function}", {"isolation": "wasm"}, 422)
    assert refused["field"] == "isolation"


async def test_a_job_waits_for_a_worker_that_can_load_its_wheels(lab: Lab) -> None:
    await lab.worker()
    name = "greeting-1.0-cp399-cp399-win_amd64.whl"
    function = (await deployed(lab, "greet", await stored(lab.ada, lab.project, name=name)))["id"]
    job = await lab.job(function=function)
    reasons = (await lab.ada.get(f"/job/{job}"))["pending_reasons"]
    assert [reason["code"] for reason in reasons] == ["wheel"], reasons
    assert "needs a wheel for cp399-cp399-win_amd64" in reasons[0]["detail"]


def test_a_source_that_leaves_no_room_for_wheels_does_not_ride_along() -> None:
    source = b"#" * (64 * 1024)
    cid = bytes(raw_leaf(source))
    version = Version(
        version=1,
        runtime="python",
        entry="handler",
        cid=cid,
        size_bytes=len(source),
        input_schema=None,
        created_ms=1,
    )
    before = FunctionAttributes(name="f", current=1, versions=[version], source=source)
    few, many, most = (
        [Brought(n, Wheel(cid, 9, f"{n:0>150}-1-py3-none-any.whl")) for n in range(count)]
        for count in (16, 200, 2000)
    )
    assert with_wheels(before, few).source == source
    assert with_wheels(before, many).source is None
    with pytest.raises(Problem, match="a function's record"):
        with_wheels(before, most)


async def test_wheels_are_at_other_nodes_before_they_are_needed(autojump_clock: Clock) -> None:
    async with open_mesh(sources=[SOURCE], wheels=[(NAME, make_wheel())]) as mesh:
        function = str(max(mesh.lab.node.registry.all(Class.FUNCTION)))
        await settle()
        mesh.part(1)
        near = await mesh.caller(2)
        job = await near.post("/job", {"function": function, "input": 1}, 202)
        assert job["home_node"] == 2
        node = mesh.nodes[2]
        cid = node.programs.cid(int(function), 1, 0)
        assert await node.content.read_piece(cid, 0, 1 << 20) == make_wheel()


async def test_a_wheel_that_cannot_be_had_is_unreachable_until_it_can(
    autojump_clock: Clock,
) -> None:
    wheels = [(NAME, make_wheel())]
    async with open_mesh(3, sources=[SOURCE], wheels=wheels, connected=False) as mesh:
        function = str(max(mesh.lab.node.registry.all(Class.FUNCTION)))
        body = {"function": function, "input": 1}
        near = await mesh.caller(2)
        assert (await near.post("/job", body, 504))["code"] == "unreachable"
        mesh.meet(1, 2)
        await settle()
        mesh.part(1)
        await near.post("/job", body, 202)
        # A neighbour has it now, and gives it to a third.
        far = await mesh.caller(3)
        mesh.meet(2, 3)
        await far.post("/job", body, 202)
