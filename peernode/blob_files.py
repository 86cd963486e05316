"""A blob as a file that can be read anywhere, for libraries that want one."""

import io
import os

from typing_extensions import Buffer

from peernode.content import Content


class BlobFile(io.RawIOBase):
    """Reads verified bytes in the calling thread; wrap it in a `BufferedReader`."""

    def __init__(self, content: Content, cid: bytes, size_bytes: int) -> None:
        self._content = content
        self._cid = cid
        self._size_bytes = size_bytes
        self._at = 0

    def readable(self) -> bool:
        """Return true."""
        return True

    def seekable(self) -> bool:
        """Return true."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place, and return it. Raises `ValueError` for one before the beginning."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size_bytes}[whence]
        if base + offset < 0:
            raise ValueError("before the beginning")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Buffer) -> int:
        """Fill a buffer as far as there is something. Raises `BlobError`."""
        view = memoryview(buffer).cast("B")
        data = b"".join(self._content.read(self._cid, self._at, len(view)))
        view[: len(data)] = data
        self._at += len(data)
        return len(data)
