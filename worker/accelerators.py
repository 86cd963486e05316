"""Which accelerators a machine has: what its driver's own program says, or the kernel.

NVIDIA's are asked of `nvidia-smi`, which knows their memory.  Others are looked up under `/sys`,
where reading a few small files costs nothing: AMD's graphics cards with their memory, Intel's, and
what the kernel lists as compute accelerators.  Kinds: `cuda`, `rocm`, `intel`, `npu`, `tpu`.  That
a device is there does not say that anything on this machine can use it; what inference can use is
in the offer's `backends`.
"""

import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Final

from worker.protocol import Accelerator

MEASURE_TIMEOUT_S: Final = 20.0
"""Longest time for the driver's program. Source: guess; a sleeping card takes seconds to wake."""
ACCELERATORS_MAX: Final = 64
"""Most accelerators that are offered. Source: four times the largest machine sold."""

VENDOR_AMD: Final = "0x1002"
VENDOR_INTEL: Final = "0x8086"
"""PCI vendor ids."""


def measure_accelerators(root: Path = Path("/sys")) -> list[Accelerator]:
    """Return this machine's accelerators; `root` is where the kernel shows its devices."""
    found = [*measure_nvidia(), *graphics_cards(root), *compute_accelerators(root)]
    return found[:ACCELERATORS_MAX]


def measure_nvidia() -> list[Accelerator]:
    """Return NVIDIA's cards, as their driver tells."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        done = subprocess.run(
            [program, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=MEASURE_TIMEOUT_S,
            check=True,
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return []
    return parse_nvidia(done.stdout)


def parse_nvidia(table: str) -> list[Accelerator]:
    """Return the rows that `nvidia-smi` printed: name, and memory in MiB."""
    found = []
    for row in table.splitlines():
        name, separator, size = row.rpartition(",")
        size = size.strip()
        if not separator:
            continue
        # Some share the machine's memory and print `[N/A]`.
        memory = int(size) * 1024 * 1024 if size.isascii() and size.isdigit() else 0
        found.append(Accelerator(kind="cuda", name=name.strip()[:128], memory_bytes=memory))
    return found


def graphics_cards(root: Path) -> list[Accelerator]:
    """Return AMD's and Intel's cards. NVIDIA's are not told apart from what `nvidia-smi` says."""
    found = []
    for card in sorted(root.glob("class/drm/card[0-9]*")):
        if not card.name.removeprefix("card").isdigit():
            continue  # `card0-HDMI-A-1`: a connector
        vendor, device = _read(card / "device/vendor"), _read(card / "device/device")
        if vendor == VENDOR_AMD:
            size = _read(card / "device/mem_info_vram_total")
            memory = int(size) if size.isascii() and size.isdigit() else 0
            name = _read(card / "device/product_name") or f"AMD {device}"
            found.append(Accelerator(kind="rocm", name=name, memory_bytes=memory))
        elif vendor == VENDOR_INTEL:
            found.append(Accelerator(kind="intel", name=f"Intel {device}"))
    return found


def compute_accelerators(root: Path) -> list[Accelerator]:
    """Return what the kernel lists as accelerators for computing, and Coral's."""
    found = []
    for device in sorted(root.glob("class/accel/accel[0-9]*")):
        name = f"{_read(device / 'device/vendor')}:{_read(device / 'device/device')}"
        found.append(Accelerator(kind="npu", name=name.strip(":") or device.name))
    corals = sorted(root.glob("class/apex/apex_[0-9]*"))
    return [*found, *(Accelerator(kind="tpu", name=f"Coral {one.name}") for one in corals)]


def _read(path: Path) -> str:
    with suppress(OSError):
        return path.read_text("ascii", "replace").strip()[:128]
    return ""
