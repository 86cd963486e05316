"""What has a due time and is due: claims, entries and blobs that expire, revocations that ended."""

from typing import TYPE_CHECKING, Final

import trio

from peernode import content, idempotency, spaces
from peernode.problems import Problem
from peernode.transactions import Transaction
from storage import codec
from storage.blobs import Release
from storage.errors import StorageError
from storage.store import Batch, Table

if TYPE_CHECKING:
    from peernode.node import Node

INTERVAL_S: Final = 5.0
"""Pause between sweeps. Source: guess; readers check expiry themselves."""
ROWS_MAX: Final = 500
"""Rows of one transaction. Source: a commit stays under a few milliseconds."""
VAULT_EXPIRY_KIND: Final = b"v"
"""Kind of a token's row in `Table.EXPIRIES`."""


async def run(node: "Node") -> None:
    """Sweep until cancelled."""
    while True:
        try:
            while await sweep(node):
                pass
            ended = node.sessions.sweep()
            if ended:
                await node.committer.write(Batch(deletes=ended))
        except (StorageError, Problem) as error:
            node.log.warning("could not sweep", error=str(error))
        await trio.sleep(INTERVAL_S)


async def sweep(node: "Node") -> int:
    """Remove up to `ROWS_MAX` of what is due; return how many rows were looked at."""
    now_ms = node.clock.wall_ms()
    stop = (now_ms + 1).to_bytes(8, "big")
    due = node.store.scan(Table.EXPIRIES, b"", stop, limit=ROWS_MAX)
    if not due:
        return 0
    releases: list[Release | None] = []

    def body(transaction: Transaction) -> None:
        releases.clear()
        for row, _ in due:
            at_ms, kind, key = int.from_bytes(row[:8], "big"), row[8:9], row[9:]
            transaction.delete(Table.EXPIRIES, row)
            if kind == idempotency.EXPIRY_KIND:
                transaction.delete(Table.IDEMPOTENCY, key)
            elif kind == spaces.EXPIRY_KIND:
                held = transaction.get(Table.KV_LOCAL, key)
                # The key may have been written again since, to expire later or never.
                if held is not None and codec.load_row(held)[2] == at_ms:
                    transaction.delete(Table.KV_LOCAL, key)
            elif kind == VAULT_EXPIRY_KIND:
                transaction.delete(Table.VAULT, key)
            elif kind == content.EXPIRY_KIND:
                releases.append(node.content.expire(transaction, int.from_bytes(key, "big"), at_ms))

    await node.transactions.run(body)
    for release in releases:
        await node.content.sweep(release)
    return len(due)
