"""What a worker measures about its machine."""

import json
import os
import platform
from importlib.util import find_spec
from pathlib import Path

import pytest
from msgspec import convert, to_builtins

from worker.accelerators import measure_accelerators
from worker.backends import BACKENDS_FILE, choose_backends, measure_backends, parse_backends
from worker.benchmark import SPEED_FILE, measure_speed, processor_name, run_round
from worker.offer import measure_offer, memory_bytes, pythons, runs_executables
from worker.protocol import Offer


@pytest.mark.slow
def test_an_offer_says_what_this_machine_is(tmp_path: Path) -> None:
    offer = measure_offer(0, tmp_path, {"room": "lab"})
    assert offer.slots == offer.cores == len(os.sched_getaffinity(0))
    assert offer.memory_bytes == memory_bytes() > 1 << 28
    assert offer.arch == platform.machine()
    assert "python" in offer.runtimes
    assert ("wasm" in offer.runtimes) == (find_spec("wasmtime") is not None)
    native = offer.levels["python"]
    assert native in ([], ["sandbox"]), "nothing weaker, unless it is asked for"
    assert offer.levels.get("onnx", native) == native
    assert offer.levels.get("exec", []) == (native if runs_executables() else [])
    assert offer.levels.get("wasm", ["wasm"]) == ["wasm"]
    assert set(offer.levels) == set(offer.runtimes)
    assert set(offer.isolation) == {one for levels in offer.levels.values() for one in levels}
    assert measure_offer(0, tmp_path, least="process").levels["python"][0] == "process"
    assert offer.labels == {"room": "lab"}
    assert offer.accelerators == measure_accelerators()
    assert offer.speed_rounds_per_s > 0
    convert(to_builtins(offer), Offer)  # what the node will accept
    assert measure_offer(3, tmp_path).slots == 3


@pytest.mark.slow
def test_backends_are_measured_once(tmp_path: Path) -> None:
    backends = measure_backends(tmp_path)
    if find_spec("onnxruntime") is None:
        assert backends == []
        return
    ours = [name for name in backends if name in ("CPUExecutionProvider", "OpenVINO")]
    assert ours == backends[-len(ours) :], "accelerators come first"
    assert ours == ["CPUExecutionProvider", "OpenVINO"][: 1 + (find_spec("openvino") is not None)]
    path = tmp_path / BACKENDS_FILE
    kept = json.loads(path.read_text())
    path.write_text(json.dumps([*kept[:-1], ["Remembered"]]))
    assert measure_backends(tmp_path) == ["Remembered"]
    path.write_text(json.dumps(["another version", *kept[1:]]))
    assert measure_backends(tmp_path) == backends
    path.write_text("{")
    assert measure_backends(tmp_path) == backends


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        ("", ["CUDAExecutionProvider", "CPUExecutionProvider", "OpenVINO"]),
        ("OpenVINO", ["OpenVINO"]),
        (" OpenVINO, CUDAExecutionProvider,", ["OpenVINO", "CUDAExecutionProvider"]),
    ],
)
def test_an_operator_chooses_among_the_backends_that_are_here(
    wanted: str, chosen: list[str]
) -> None:
    here = ["CUDAExecutionProvider", "CPUExecutionProvider", "OpenVINO"]
    assert choose_backends(parse_backends(wanted), here) == chosen


def test_a_backend_that_is_not_here_is_named_with_those_that_are() -> None:
    with pytest.raises(ValueError, match=r"backends: OpenVINO:GPU is not here; .*here: OpenVINO$"):
        choose_backends(["OpenVINO", "OpenVINO:GPU"], ["OpenVINO"])
    with pytest.raises(ValueError, match=r"pip install 'peernode\[inference\]'"):
        choose_backends(["OpenVINO"], [])
    with pytest.raises(ValueError, match="named twice"):
        parse_backends("OpenVINO,OpenVINO")


@pytest.mark.slow
def test_an_offer_has_no_other_backends_than_the_chosen(tmp_path: Path) -> None:
    here = measure_backends(tmp_path)
    assert measure_offer(1, tmp_path, backends=here[-1:]).backends == here[-1:]
    with pytest.raises(ValueError, match="Abacus"):
        measure_offer(1, tmp_path, backends=["Abacus"])


def test_memory_is_no_more_than_the_machine_has() -> None:
    assert memory_bytes() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_the_pythons_on_the_path_are_named_by_version(tmp_path: Path) -> None:
    for name in ("python3.9", "python3.11", "python3", "python3.11-config", "pythonx", "ls"):
        (tmp_path / name).touch()
    assert pythons(f"{tmp_path}:/nowhere") == ["3.9", "3.11"]


@pytest.mark.slow
def test_speed_is_measured_once(tmp_path: Path) -> None:
    speed = measure_speed(tmp_path)
    assert speed > 100, "rounds a second: a machine slower than that is none"
    path = tmp_path / SPEED_FILE
    kept = json.loads(path.read_text())
    path.write_text(json.dumps([*kept[:-1], 7]))
    assert measure_speed(tmp_path) == 7
    for broken in ("{", json.dumps([*kept[:-1], "fast"]), json.dumps(["another machine", 7])):
        path.write_text(broken)
        assert measure_speed(tmp_path) != 7


def test_a_round_is_always_the_same_work() -> None:
    assert run_round() == run_round() == 563654582


def test_a_processor_has_a_name(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: AMD EPYC 7\nflags\t: a\n")
    assert processor_name(tmp_path / "cpuinfo") == "AMD EPYC 7"
    assert isinstance(processor_name(tmp_path / "nowhere"), str)
