"""What goes from node to node, heard frame by frame: nothing that should have stayed at home.

* Secrets go nowhere: keys, peppers, tokens, and what a test declares one; nor do the vault, workers
  and local namespaces, whose rows are looked for as the contents below [I14].
* Gossip and reconciliation bring facts, and records of what everybody may know: users, projects,
  functions, global namespaces and their entries [I15].
* The bytes of jobs and blobs leave only in a reply, to a node that has asked [I15].

Frames of gossip and reconciliation are taken apart, and each message and payload is looked at the
first time that it goes anywhere.  Beside that, the beginnings of the last few inputs, results and
contents that were written anywhere are looked for in every frame that may have none.

What it leaves out: what a function itself writes into a namespace, its input for one, which
publishes it (none of the simulator's does); frames that mean nothing, which a byzantine member
sends; and whether the asker may have what it asks for, which the tests of each class are about.
"""

from collections import deque
from collections.abc import Iterable
from typing import Final

from gossip import batcher, fetch_messages, sync_messages, wire
from gossip.config import BatchConfig
from gossip.errors import RemoteProtocolError
from gossip.sync_messages import Items, Stratum
from peernode import foreign_kv, foreign_messages, foreign_objects, job_rows
from peernode.gossip_driver import BATCH_SIZE_MAX_BYTES, decode_item
from simulations.committed import Broken
from simulations.world_network import GOSSIP
from storage import codec
from storage.errors import InvalidData
from storage.places import Class
from storage.records import decode_record
from storage.store import Batch, Table

PUSHED: Final = (
    *(Class.USER, Class.PROJECT, Class.FUNCTION),
    *(Class.KV_SPACE, Class.KV_ENTRY),
)
"""What records that are sent unasked may be about; the namespaces are global (`storage.places`)."""
ONE_REPLY: Final = (
    *(fetch_messages.PROTOCOL, foreign_messages.ASK),
    *(foreign_kv.PROTOCOL, foreign_objects.PROTOCOL),
)
"""Protocols of one question, which is an array that begins with 1, and one reply, which is not."""
ASKED: Final = (*ONE_REPLY, foreign_messages.FOLLOW)
"""These, and the one where a reply goes on."""
CONTENTS_MAX: Final = 16
"""Contents that are looked for. Source: guess; a frame of 1 KB costs a microsecond so."""
CONTENT_SIZE_MIN_BYTES: Final = 16
CONTENT_SIZE_MAX_BYTES: Final = 64
"""How much of one is looked for, from its beginning."""
DISTINCT_MIN: Final = 4
"""Different bytes in that, so that it is nothing that something else may begin with as well."""
SEEN_MAX: Final = 4096
"""Messages and payloads that need not be looked at again. Source: guess; a few megabytes."""


class Overheard:
    """What was heard so far. Raises `Broken` for what should not have been sent."""

    def __init__(self) -> None:
        self.secrets: dict[bytes, str] = {}
        """What may never be sent -> what it is."""
        self._contents: deque[bytes] = deque(maxlen=CONTENTS_MAX)
        self._open: dict[tuple[int, int, str], int] = {}
        """Asker, asked, protocol -> questions that were not replied to."""
        self._seen: dict[bytes, None] = {}

    def take(self, batch: Batch) -> None:
        """Take note of what a node has written that is to stay there until it is asked for."""
        holds_blob = any(table is Table.BLOBS for table, _, _ in batch.puts)
        for table, _, value in batch.puts:
            match table:
                case Table.JOBS:
                    self._keep(job_rows.decode_request(value).input)
                case Table.OUTCOMES:
                    outcome = job_rows.decode_outcome(value)
                    if outcome.state == "succeeded":
                        self._keep(outcome.payload)
                case Table.BLOCKS if holds_blob:
                    self._keep(value)
                case Table.VAULT | Table.WORKERS:
                    self._keep(value)
                case Table.KV_LOCAL:
                    self._keep(codec.load_row(value)[0])
                case _:
                    pass

    def hear(self, source: int, target: int, what: str, frame: bytes) -> None:
        """Hear a frame of a protocol as it leaves."""
        for secret, name in self.secrets.items():
            if secret in frame:
                raise Broken(f"{name} goes to node {target}")
        if what == GOSSIP:
            self._require_no_content(target, what, frame)
            self._hear_gossip(frame)
        elif what == sync_messages.PROTOCOL:
            self._require_no_content(target, what, frame)
            self._hear_reconciliation(frame)
        elif what in ASKED:
            self._hear_talk(source, target, what, frame)

    # --- what is asked for ----------------------------------------------------------------

    def _hear_talk(self, source: int, target: int, what: str, frame: bytes) -> None:
        # Arrays of less than 24 elements begin with 0x80 to 0x97; pieces of a stream do not.
        if frame[0] & 0xE0 == 0x80 and frame[1:2] == b"\x01":
            if what != foreign_kv.PROTOCOL:  # Its questions bring values.
                self._require_no_content(target, what, frame)
            self._open[source, target, what] = self._open.get((source, target, what), 0) + 1
            return
        place = target, source, what
        if not self._open.get(place):
            raise Broken(f"a reply of {what} goes to node {target}, which has not asked")
        if what in ONE_REPLY:
            self._open[place] -= 1

    def _require_no_content(self, target: int, what: str, frame: bytes) -> None:
        for content in self._contents:
            if content in frame:
                raise Broken(f"{content!r} is kept at home and goes to node {target} by {what}")

    def _keep(self, content: bytes) -> None:
        start = bytes(content[:CONTENT_SIZE_MAX_BYTES])
        if len(start) >= CONTENT_SIZE_MIN_BYTES and len(frozenset(start)) >= DISTINCT_MIN:
            self._contents.append(start)

    # --- what is sent unasked ---------------------------------------------------------------

    def _hear_gossip(self, frame: bytes) -> None:
        try:
            drafts = wire.decode_rpc(frame).publish
            news = [draft for draft in drafts if self._is_new(draft.id)]
            for draft in news:
                message, _ = draft.message(draft.topic)
                packed = batcher.unpack(
                    message.data, BATCH_SIZE_MAX_BYTES, BatchConfig().records_max
                )
                self._require_pushed(map(decode_item, packed))
        except (RemoteProtocolError, InvalidData):
            return  # Nonsense, which its receiver refuses.

    def _hear_reconciliation(self, frame: bytes) -> None:
        if frame[1:2] != b"\x05":
            return
        items = sync_messages.decode(frame)
        if isinstance(items, Items):
            payloads = [each for each in items.payloads if each is not None and self._is_new(each)]
            self._require_pushed((items.stratum, each) for each in payloads)

    def _require_pushed(self, items: Iterable[tuple[Stratum, bytes]]) -> None:
        for stratum, encoded in items:
            if stratum is Stratum.FACTS:
                continue
            place = decode_record(encoded).body.place
            if place.class_ not in PUSHED:
                raise Broken(f"{place.class_.name} {place.id} is sent unasked")

    def _is_new(self, name: bytes) -> bool:
        if name in self._seen:
            return False
        if len(self._seen) >= SEEN_MAX:
            self._seen.clear()
        self._seen[name] = None
        return True
