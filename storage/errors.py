"""What can go wrong with what a node knows, and whose fault it is."""


class StorageError(Exception):
    """Base of this package's errors."""


class StoreError(StorageError):
    """The store refused a batch."""


class StoreFull(StoreError):
    """The disk or the map has no room (ENOSPC, MDB_MAP_FULL). Nothing was written; retryable."""


class StoreClosed(StoreError):
    """The store was closed by us."""


class StoreLocked(StoreError):
    """Another process, or this one, has the store open; the message says which process."""


class FormatError(StoreError):
    """The store was written in a format that this program does not read; both are named."""


class InvalidData(StorageError):
    """Bytes from outside (a peer, a file, a request) break a rule; the message names it."""


class CodecError(InvalidData):
    """Not strict deterministic CBOR, or over a size or depth limit."""


class SignatureError(InvalidData):
    """A signature, certificate or hash does not match the bytes it covers."""


class RecordError(InvalidData):
    """Well-formed, but not a record or fact of a known kind and version."""


class BlobError(StorageError):
    """Base of what can go wrong with content."""


class BlockMissing(BlobError):
    """A block of the content is not held here."""


class BlockCorrupt(BlobError):
    """A block's bytes do not hash to its CID: the disk lied. The block is never served."""


class BlobTooLarge(BlobError):
    """Content is over the size limit."""
