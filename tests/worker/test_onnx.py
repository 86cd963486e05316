"""A model alone is a function."""

import array
import json
from pathlib import Path
from typing import Any

import pytest

from tests.worker.fake_node import FakeNode, open_worker
from tests.worker.test_edge import make_model
from worker.protocol import BlobKeep, Finished, Isolation, Limits

pytestmark = pytest.mark.slow


async def run(node: FakeNode, model: bytes, input: Any, **fields: Any) -> Finished:
    limits = Limits(memory_bytes=4 << 30)
    return await node.run(model, input, runtime="onnx", **({"limits": limits} | fields))


async def test_tensors_go_in_and_come_out_by_name(
    tmp_path: Path, level: Isolation, backend: str
) -> None:
    async with open_worker(tmp_path, backends=[backend], level=level) as (node, _):
        for value in ([1, 2.5], [3]):
            finished = await run(node, make_model(), {"x": value})
            assert finished.error_code is None, finished
            assert json.loads(finished.payload) == {"y": [2 * number for number in value]}
            assert finished.backend == backend
        assert len({call.operation for call in node.calls}) == 0, "the model came with the program"


async def test_a_tensor_may_be_a_blob_of_raw_numbers(
    tmp_path: Path, level: Isolation, backend: str
) -> None:
    async with open_worker(tmp_path, backends=[backend], level=level) as (node, _):
        node.blobs[7] = (array.array("f", [1, 2.5]).tobytes(), "application/octet-stream")
        finished = await run(node, make_model(), {"x": {"blob": "7"}})
        assert json.loads(finished.payload) == {"y": [2.0, 5.0]}
        finished = await run(node, make_model(), None, blobs={"x": 7})
        assert json.loads(finished.payload) == {"y": [2.0, 5.0]}
        finished = await run(node, make_model(), {"x": {"blob": "7", "shape": [2]}})
        assert json.loads(finished.payload) == {"y": [2.0, 5.0]}


async def test_a_large_output_is_a_blob(tmp_path: Path, level: Isolation, backend: str) -> None:
    async with open_worker(tmp_path, backends=[backend], level=level) as (node, _):
        data = array.array("f", range(20_000)).tobytes()
        node.blobs[7] = (data, "application/octet-stream")
        finished = await run(node, make_model(), {"x": {"blob": "7"}})
        value = json.loads(finished.payload)["y"]
        assert (value["dtype"], value["shape"]) == ("float32", [20_000])
        found = array.array("f", node.blobs[int(value["blob"])][0])
        assert list(found[:3]) == [0, 2, 4]
        assert finished.writes == [BlobKeep(int(value["blob"]))]


@pytest.mark.parametrize(
    ("input", "says"),
    [
        ([1], "the input names tensors: {x}"),
        ({"w": [1]}, "the model has no input ['w']: it has ['x']"),
        ({"x": "text"}, "ValueError"),
        ({"x": [[1], [2, 3]]}, "ValueError"),
        ({"x": {"blob": "8"}}, "ValueError"),
        ({"x": {"blob": "7", "shape": [5]}}, "ValueError"),
        ({"x": {"blob": "999"}}, "not_found"),
        ({}, ""),
    ],
)
async def test_an_input_that_does_not_fit_is_named(
    tmp_path: Path, level: Isolation, backend: str, input: Any, says: str
) -> None:
    async with open_worker(tmp_path, backends=[backend], level=level) as (node, _):
        node.blobs[7] = (array.array("f", [1, 2.5]).tobytes(), "application/octet-stream")
        node.blobs[8] = (b"123", "application/octet-stream")
        finished = await run(node, make_model(), input)
        assert finished.error_code == "function_error", finished
        assert says in finished.payload.decode()


async def test_what_is_no_model_is_a_failed_setup(
    tmp_path: Path, level: Isolation, backend: str
) -> None:
    async with open_worker(tmp_path, backends=[backend], level=level) as (node, _):
        finished = await run(node, b"\x08\x08:\x7f", {"x": [1]})
        assert finished.error_code == "setup_failed", finished
        assert (await run(node, make_model(), {"x": [1]})).payload == b'{"y":[2.0]}'


async def test_a_worker_whose_only_backend_takes_no_model_says_so(
    tmp_path: Path, level: Isolation
) -> None:
    pytest.importorskip("numpy")
    async with open_worker(tmp_path, backends=["AbacusProvider"], level=level) as (node, _):
        finished = await run(node, make_model(), {"x": [1]})
        assert finished.error_code == "backend_unavailable", finished
        assert finished.payload == b"none of AbacusProvider took the model"
        node.blobs[7] = (make_model(), "application/onnx")
        source = "import edge\ndef handler(input):\n    return edge.infer('7', {'x': [1]})\n"
        finished = await node.run(source, limits=Limits(memory_bytes=4 << 30))
        assert finished.error_code == "backend_unavailable", finished


async def test_a_large_model_is_fetched_once(
    tmp_path: Path, level: Isolation, backend: str
) -> None:
    # A long name of its maker, which says nothing to the runtime.
    size = 2 << 20
    model = make_model() + b"\x12" + bytes([size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80])
    model += bytes([size >> 14 & 0x7F | 0x80, size >> 21]) + b"x" * size
    async with open_worker(tmp_path, backends=[backend], level=level) as (node, _):
        for _ in range(2):
            assert (await run(node, model, {"x": [1]})).payload == b'{"y":[2.0]}'
        reads = [call for call in node.calls if call.operation == "program.read"]
        assert len(reads) == 3
