"""Packages that functions bring, installed on this worker: one directory for each set of wheels.

A set is known by the CIDs and names of its wheels, so functions that bring the same share it.  It
is installed once, by a process of its own (`worker.wheels`), before the first job that needs it,
and stays while there is room; over it the least recently used go that no job and no process needs.
The directories are in the agent's scratch directory and go with the agent: the next one installs
anew, from wheels that the blob cache has, and need not trust what stands on the disk.
"""

import hashlib
import json
import tempfile
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import trio

from worker.protocol import Wheel
from worker.scratch import remove_tree
from worker.wheel_names import WheelError

SIZE_MAX_BYTES: Final = 4 << 30
"""Most bytes installed. Source: guess, some tens of sets with numpy; as the blob cache has."""
INSTALLS_MAX: Final = 1
"""Sets installed at once. Source: guess; each takes a core and the disk, at low priority."""

Unpack = Callable[[Sequence[tuple[str, str]], Path], Awaitable[str]]
"""Unpacks wheels, `(path, name)` each, into a directory; returns why it failed, or nothing."""


def set_name(wheels: Iterable[Wheel]) -> str:
    """Return the name of a set of wheels."""
    rows = [(wheel.cid, wheel.name) for wheel in wheels]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


class Packages:
    """Installed sets of wheels."""

    def __init__(
        self,
        directory: Path,
        in_use: Callable[[], Iterable[str]],
        size_max_bytes: int = SIZE_MAX_BYTES,
    ) -> None:
        """Install in `directory`, which is made; `in_use` returns the sets that must stay."""
        self._directory = directory
        self._in_use = in_use
        self._size_max_bytes = size_max_bytes
        directory.mkdir(exist_ok=True)
        directory.chmod(0o755)  # who looks from inside a sandbox is nobody
        self._sizes: OrderedDict[str, int] = OrderedDict()
        """Bytes of each set, least recently used first."""
        self._installs = trio.CapacityLimiter(INSTALLS_MAX)

    def holds(self, path: str) -> bool:
        """Tell whether a set is installed, and take note that it is used."""
        name = Path(path).name
        if name not in self._sizes:
            return False
        self._sizes.move_to_end(name)
        return True

    async def install(self, wheels: Sequence[Wheel], files: Sequence[Path], unpack: Unpack) -> str:
        """Return the directory of a set, of which `files` are the wheels.

        Raises `WheelError`, also when what is in use leaves no room.
        """
        name = set_name(wheels)
        target = self._directory / name
        async with self._installs:
            if not self.holds(str(target)):
                named = [(str(file), wheel.name) for file, wheel in zip(files, wheels, strict=True)]
                if why := await unpack(named, target):
                    raise WheelError(why)
                size_bytes = await trio.to_thread.run_sync(_size_bytes, target)
                if not await self._make_room(size_bytes):
                    await self._remove(name)
                    raise WheelError("what running jobs use leaves no room for its packages")
                # Not before: until now it could have had to go, and no job may begin with it.
                self._sizes[name] = size_bytes
        return str(target)

    async def _make_room(self, wanted_bytes: int) -> bool:
        """Remove sets until so much fits; return whether it does."""
        for name in list(self._sizes):
            if sum(self._sizes.values()) + wanted_bytes <= self._size_max_bytes:
                break
            # Asked each time: while a set is being removed, jobs begin.
            if name not in {Path(path).name for path in self._in_use()}:
                del self._sizes[name]
                await self._remove(name)
        return sum(self._sizes.values()) + wanted_bytes <= self._size_max_bytes

    async def _remove(self, name: str) -> None:
        with tempfile.TemporaryDirectory(dir=self._directory) as gone:
            (self._directory / name).rename(Path(gone, name))
            await trio.to_thread.run_sync(remove_tree, Path(gone, name))


def _size_bytes(directory: Path) -> int:
    """Return what a tree takes, in whole blocks: many small files are more than their bytes."""
    return sum(path.lstat().st_blocks * 512 for path in directory.rglob("*"))
