"""What lets a job read a blob of another node: passes, given out by homes and shown by job nodes.

A job has no certificate to show, and its caller's may have ended when it runs.  So the right is
asked for when the job is handed in (`ForeignBlobs.ask_pass`), kept with its request, and shown with
every question about the blob and every block of it (`blob_snapshots`).

What it leaves out: who gets one, which is judged as any reading of the content is.
"""

from typing import TYPE_CHECKING

from peernode import blob_snapshots
from peernode.blob_snapshots import LASTING_MS, Pass
from peernode.content import BlobRow
from peernode.foreign_members import Members
from storage.errors import InvalidData
from storage.nodes import Node as Member

if TYPE_CHECKING:
    from peernode.node import Node


class Passes:
    """Gives out passes for this node's blobs, and knows those of all homes."""

    def __init__(self, node: "Node", members: Members) -> None:
        self._node = node
        self._members = members

    def issue(self, blob: int, row: BlobRow, member: Member) -> bytes:
        """Return a pass of `member` for a blob of this node."""
        identity, now_ms = self._node.identity, self._node.clock.wall_ms()
        return blob_snapshots.sign_pass(
            identity.keypair, identity.mesh, blob, row.cid, member.number, now_ms
        )

    def read(self, auth: bytes, blob: int, member: Member) -> Pass | None:
        """Return the pass that `member` shows for a blob, if it is one and good here and now."""
        key = self._members.home_key(blob)
        try:
            found = blob_snapshots.read_pass(auth, self._node.identity.mesh, key or b"")
        except InvalidData:
            return None
        now_ms = self._node.clock.wall_ms()
        until_ms = found.expires_ms
        if self._members.is_elsewhere(blob):  # Only its home knows whether it was deleted since.
            until_ms = min(until_ms, found.issued_ms + LASTING_MS)
        is_good = (found.blob, found.node) == (blob, member.number) and now_ms <= until_ms
        return found if is_good else None
