"""Room on the disk: which errors mean that there is none, and asking for it ahead of need."""

import errno
import os
from pathlib import Path

FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""A full disk, a quota, a limit on the file's size."""


class AllocatedFile:
    """An existing file whose room on the disk is taken before it is written."""

    def __init__(self, path: Path) -> None:
        self._file: int | None = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self.allocated_bytes = self._size_bytes()

    def grow(self, target_bytes: int) -> bool:
        """Make the file `target_bytes` long, all of it on the disk; tell whether it grew to that.

        Raises `OSError` for what is not lack of room.
        """
        # Writing past the end, without asking here, allocates too.
        self.allocated_bytes = max(self.allocated_bytes, self._size_bytes())
        grow_bytes = target_bytes - self.allocated_bytes
        if grow_bytes <= 0 or not self._allocate(self.allocated_bytes, grow_bytes):
            return False
        self.allocated_bytes = target_bytes
        return True

    def has_room_for(self, size_bytes: int) -> bool:
        """Tell whether the disk takes `size_bytes` beyond the file's end, by taking them."""
        return self._allocate(self._size_bytes(), size_bytes)

    def close(self) -> None:
        """Release the file. A second call does nothing."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _size_bytes(self) -> int:
        assert self._file is not None
        return os.fstat(self._file).st_size

    def _allocate(self, start_bytes: int, size_bytes: int) -> bool:
        assert self._file is not None
        try:
            os.posix_fallocate(self._file, start_bytes, size_bytes)
        except OSError as error:
            if error.errno not in FULL_ERRNOS:
                raise
            return False
        return True
