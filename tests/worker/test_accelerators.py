"""Which accelerators a machine has, by what drivers and kernels say."""

from pathlib import Path

import pytest

from worker.accelerators import (
    ACCELERATORS_MAX,
    compute_accelerators,
    graphics_cards,
    measure_accelerators,
    measure_nvidia,
    parse_nvidia,
)
from worker.protocol import Accelerator


def device(root: Path, name: str, **files: str) -> None:
    path = root / "class" / name / "device"
    path.mkdir(parents=True)
    for file, text in files.items():
        (path / file).write_text(f"{text}\n")


def test_the_table_of_nvidia_is_read() -> None:
    table = "NVIDIA H200, 143771\nTesla, T4, 15360\nNVIDIA GB10, [N/A]\nbroken row\n"
    assert parse_nvidia(table) == [
        Accelerator(kind="cuda", name="NVIDIA H200", memory_bytes=143771 << 20),
        Accelerator(kind="cuda", name="Tesla, T4", memory_bytes=15360 << 20),
        Accelerator(kind="cuda", name="NVIDIA GB10"),
    ]


@pytest.mark.parametrize("script", ["exit 9", "echo Failed to initialize NVML", "printf '\\377'"])
def test_a_driver_that_does_not_work_offers_nothing(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert measure_nvidia() == []


def test_cards_of_amd_and_intel_are_found_and_connectors_are_not(tmp_path: Path) -> None:
    device(tmp_path, "drm/card0", vendor="0x8086", device="0x9a49")
    device(
        tmp_path, "drm/card1", vendor="0x1002", device="0x744c", mem_info_vram_total="25753026560"
    )
    device(tmp_path, "drm/card1-HDMI-A-1", vendor="0x1002", device="0x744c")
    device(tmp_path, "drm/card2", vendor="0x1002", device="0x1", product_name="Radeon X")
    device(tmp_path, "drm/card3", vendor="0x10de", device="0x2335")
    assert graphics_cards(tmp_path) == [
        Accelerator(kind="intel", name="Intel 0x9a49"),
        Accelerator(kind="rocm", name="AMD 0x744c", memory_bytes=25753026560),
        Accelerator(kind="rocm", name="Radeon X"),
    ]


def test_compute_accelerators_are_found(tmp_path: Path) -> None:
    device(tmp_path, "accel/accel0", vendor="0x8086", device="0x643e")
    (tmp_path / "class/apex/apex_0").mkdir(parents=True)
    assert compute_accelerators(tmp_path) == [
        Accelerator(kind="npu", name="0x8086:0x643e"),
        Accelerator(kind="tpu", name="Coral apex_0"),
    ]


def test_a_machine_without_any_offers_none_and_no_machine_too_many(tmp_path: Path) -> None:
    assert graphics_cards(tmp_path) == compute_accelerators(tmp_path) == []
    for number in range(ACCELERATORS_MAX + 1):
        device(tmp_path, f"accel/accel{number}")
    assert len(measure_accelerators(tmp_path)) == ACCELERATORS_MAX
