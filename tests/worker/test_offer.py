"""What a worker measures about its machine."""

import json
import os
import platform
from importlib.util import find_spec
from pathlib import Path

import pytest

from worker.offer import (
    BACKENDS_FILE,
    measure_accelerators,
    measure_backends,
    measure_offer,
    memory_bytes,
    parse_accelerators,
)


@pytest.mark.slow
def test_an_offer_says_what_this_machine_is(tmp_path: Path) -> None:
    offer = measure_offer(0, tmp_path, {"room": "lab"})
    assert offer.slots == offer.cores == len(os.sched_getaffinity(0))
    assert offer.memory_bytes == memory_bytes() > 1 << 28
    assert offer.arch == platform.machine()
    assert offer.runtimes == ["python"]
    assert offer.isolation in ([], ["sandbox"]), "nothing weaker, unless it is asked for"
    assert "process" in measure_offer(0, tmp_path, least="process").isolation
    assert offer.labels == {"room": "lab"}
    assert offer.accelerators == measure_accelerators()
    assert measure_offer(3, tmp_path).slots == 3


@pytest.mark.slow
def test_backends_are_measured_once(tmp_path: Path) -> None:
    backends = measure_backends(tmp_path)
    if find_spec("onnxruntime") is None:
        assert backends == []
        return
    assert backends[-1] == "CPUExecutionProvider"
    path = tmp_path / BACKENDS_FILE
    kept = json.loads(path.read_text())
    path.write_text(json.dumps([*kept[:-1], ["Remembered"]]))
    assert measure_backends(tmp_path) == ["Remembered"]
    path.write_text(json.dumps(["another version", *kept[1:]]))
    assert measure_backends(tmp_path) == backends
    path.write_text("{")
    assert measure_backends(tmp_path) == backends


def test_memory_is_no_more_than_the_machine_has() -> None:
    assert memory_bytes() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_the_table_of_accelerators_is_read() -> None:
    table = "NVIDIA H200, 143771\nTesla, T4, 15360\nbroken row\n"
    assert parse_accelerators(table) == [
        {"kind": "cuda", "name": "NVIDIA H200", "memory_bytes": 143771 << 20},
        {"kind": "cuda", "name": "Tesla, T4", "memory_bytes": 15360 << 20},
    ]
