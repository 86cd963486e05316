"""What jobs show to other nodes, which have no certificate: passes, and their node's word.

    statement  [body, seal of the job's node];  body = [1, job, project, space]

A job has no certificate to show, and its caller's may have ended when it runs.  So the right is
asked for when the job is handed in (`ForeignBlobs.ask_pass`), kept with its request, and shown with
every question about the blob and every block of it (`blob_snapshots`).

For the keys of a `cas` namespace elsewhere a job's node *states* which job of which project asks.
It is believed as far as what a node writes for its jobs is believed anyway (`storage.records`): it
may act in the project's namespaces, whose entries every node has, and it has signed that it did.
Blobs are not on every node, so for them this is not enough.

What it leaves out: who gets a pass, which is judged as any reading of the content is, and what a
job of a project may do (`permissions`).
"""

from typing import TYPE_CHECKING, Final, Literal

import msgspec

from peernode import blob_snapshots
from peernode.blob_snapshots import LASTING_MS, Pass
from peernode.content import BlobRow
from peernode.foreign_members import Members
from peernode.permissions import Actor
from storage import codec, ids
from storage.errors import InvalidData
from storage.ids import Id
from storage.nodes import Node as Member
from storage.signing import Seal

if TYPE_CHECKING:
    from peernode.node import Node


STATEMENT_KIND: Final = "job-statement"
"""What a node signs its word for a job as."""
STATEMENT_SIZE_MAX_BYTES: Final = 512
"""Source: formula, a key, a signature and three ids fit well."""


class _Statement(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    version: Literal[1]
    job: Id
    project: Id
    space: Id


class _Signed(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    body: bytes
    seal: Seal


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

    def state(self, actor: Actor, space: int) -> bytes:
        """Return this node's word that a job of its own asks about a namespace."""
        identity = self._node.identity
        body = codec.encode_struct(_Statement(1, actor.job, actor.project, space))
        seal = identity.keypair.seal(STATEMENT_KIND, identity.mesh, body)
        return codec.encode_struct(_Signed(body, seal))

    def job(self, auth: bytes, space: int, member: Member) -> Actor | None:
        """Return the job for which `member` asks about a namespace, if that is its word.

        It is one of no number: what is written for it here is this node's, and names no job.
        """
        try:
            signed = codec.decode_struct(auth, STATEMENT_SIZE_MAX_BYTES, _Signed)
            said = codec.decode_struct(signed.body, STATEMENT_SIZE_MAX_BYTES, _Statement)
            signed.seal.verify(STATEMENT_KIND, self._node.identity.mesh, signed.body)
        except InvalidData:
            return None
        is_its_own = (
            signed.seal.public_key == member.public_key
            and ids.node_number(said.job) == member.number
            and said.space == space
        )
        return Actor(kind="job", project=said.project) if is_its_own else None
