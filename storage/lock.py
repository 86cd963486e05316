"""One opener for a directory: an flock on its file `lock`, held until it is released.

The lock ends with the process, however that ends.  It is inherited by `fork` without `exec`, so a
child that may outlive its parent must `exec`.
"""

import fcntl
import os
from pathlib import Path

from storage.errors import StoreError, StoreLocked


class DirectoryLock:
    """Makes `directory` (mode 0700) if it is missing, and holds its lock.

    Raises `StoreLocked` if it is held already, by another process or by this one, and `StoreError`
    if the directory cannot be used.
    """

    def __init__(self, directory: Path) -> None:
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.chmod(0o700)
            file = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(f"{directory} cannot be opened: {error.strerror}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(file, 20, 0).decode("ascii", "replace") or "unknown"
            os.close(file)
            raise StoreLocked(f"{directory} is open already, in process {holder}") from None
        self._file: int | None = file
        try:
            # For people only, so a disk too full for it is no reason not to open.
            os.truncate(file, 0)
            os.pwrite(file, str(os.getpid()).encode(), 0)
        except OSError:
            pass

    def release(self) -> None:
        """Give the lock back. A second call does nothing."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
