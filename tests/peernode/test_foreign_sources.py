"""Functions whose source is too large for their record: fetched ahead, and kept."""

import trio
import trio.testing

from peernode.foreign import Config
from storage.cid import CHUNK_SIZE_BYTES
from storage.places import Class
from tests.peernode.foreign_mesh import Mesh, fetch, open_mesh
from tests.peernode.nodes import settle

Clock = trio.testing.MockClock
LARGE = "def handler(input):\n    return input\n" + "# filling\n" * 8000


def large(mesh: Mesh) -> str:
    """Return the id of the function with a large source."""
    node = mesh.lab.node
    return str(max(node.registry.all(Class.FUNCTION)))


async def test_a_large_source_is_here_before_it_is_needed(autojump_clock: Clock) -> None:
    async with open_mesh(sources=[LARGE]) as mesh:
        await settle()
        mesh.part(1)
        near = await mesh.caller(2)
        job = await near.post("/job", {"function": large(mesh), "input": 1}, 202)
        assert job["home_node"] == 2
        assert mesh.nodes[2].programs.get(int(large(mesh)), None).source == LARGE.encode()  # type: ignore[union-attr]


async def test_a_source_that_cannot_be_had_is_unreachable_until_it_can(
    autojump_clock: Clock,
) -> None:
    async with open_mesh(3, sources=[LARGE], connected=False) as mesh:
        near = await mesh.caller(2)
        body = {"function": large(mesh), "input": 1}
        assert (await near.post("/job", body, 504))["code"] == "unreachable"
        await near.post(f"/function/{large(mesh)}/call", {"input": 1}, 504)
        mesh.meet(1, 2)
        await settle()
        mesh.part(1)
        await near.post("/job", body, 202)
        # A neighbour has it now, and gives it to a third.
        far = await mesh.caller(3)
        mesh.meet(2, 3)
        await far.post("/job", body, 202)


async def test_sources_are_not_given_up_for_blobs(autojump_clock: Clock) -> None:
    config = Config(cache_size_max_bytes=CHUNK_SIZE_BYTES)
    async with open_mesh(sources=[LARGE], config=config) as mesh:
        await settle()
        near = await mesh.caller(2)
        for at in range(3):
            blob = (await mesh.users["ada"].blob(bytes([at]) * CHUNK_SIZE_BYTES))["id"]
            await fetch(near, f"/blob/{blob}/content")
        mesh.part(1)
        await near.post("/job", {"function": large(mesh), "input": 1}, 202)
