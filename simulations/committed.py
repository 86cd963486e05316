"""What a node may write, seen from its disk: rules about rows, over all lives of a node.

Every batch that is committed passes here, in order.  Names in brackets number the rules, here and
in `simulations.invariants`.

* A job's request never changes, and is gone only with its outcome [I1].
* A job ends once, and what it came to never changes [I2].
* Its lease is gone by then, and its fences only grow [I3].
* A record takes the place of its author's last one only if it is greater [I11].
* What is deleted for ever stays so [I12].
* A job that succeeds has its result: blobs of this node that it names are there by then, and are
  gone only with a word that they are deleted [I6].
"""

from peernode import job_rows
from peernode.blob_references import find_references
from storage import ids
from storage.records import decode_record
from storage.store import Batch, Table


class Broken(AssertionError):
    """An invariant does not hold."""


class Committed:
    """The rows of one node that rules are about. Raises `Broken`."""

    def __init__(self) -> None:
        self.requests: dict[int, bytes] = {}
        """Jobs that are kept -> the request's row."""
        self.outcomes: dict[int, bytes] = {}
        self.dead: dict[int, None] = {}
        self.blobs: dict[int, None] = {}
        self._fences: dict[int, int] = {}
        self._records: dict[tuple[Table, bytes], bytes] = {}

    def take(self, batch: Batch) -> None:
        """Take in a batch that is committed."""
        deleted = dict.fromkeys(batch.deletes)
        for table, key, _ in batch.puts:
            if table is Table.BLOBS and (table, key) not in deleted:
                self.blobs[_id(key)] = None
            elif table is Table.DEAD:
                self.dead[_id(key)] = None
        for table, key, value in batch.puts:
            if (table, key) in deleted:
                continue
            match table:
                case Table.JOBS:
                    self._put_request(_id(key), value)
                case Table.OUTCOMES:
                    self._put_outcome(_id(key), value)
                case Table.LIVE:
                    self._put_lease(_id(key), value)
                case Table.RECORDS | Table.ENTRIES:
                    self._put_record(table, key, value)
                case _:
                    pass
        for table, key in batch.deletes:
            match table:
                case Table.JOBS:
                    self._delete_request(_id(key), with_outcome=(Table.OUTCOMES, key) in deleted)
                case Table.OUTCOMES:
                    if (Table.JOBS, key) not in deleted:
                        raise Broken(f"the outcome of job {_id(key)} is deleted, the job is not")
                case Table.BLOBS:
                    self._delete_blob(_id(key))
                case Table.DEAD:
                    raise Broken(f"object {_id(key)} was deleted for ever, and is not any more")
                case Table.RECORDS | Table.ENTRIES:
                    self._records.pop((table, key), None)
                case _:
                    pass

    def _put_request(self, job: int, row: bytes) -> None:
        if self.requests.setdefault(job, row) != row:
            raise Broken(f"the request of job {job} changes")

    def _delete_request(self, job: int, *, with_outcome: bool) -> None:
        if self.requests.pop(job, None) is None:
            return
        if not with_outcome or self.outcomes.pop(job, None) is None:
            raise Broken(f"job {job} is deleted before it is over")

    def _put_outcome(self, job: int, row: bytes) -> None:
        if job in self.outcomes:
            raise Broken(f"job {job} ends a second time")
        outcome = job_rows.decode_outcome(row)
        if job in self.requests and outcome.fence < self._fences.get(job, 0):
            raise Broken(f"job {job} ends by an attempt that was over: fence {outcome.fence}")
        if outcome.state == "succeeded":
            self._require_result(job, outcome.payload)
        self.outcomes[job] = row

    def _require_result(self, job: int, payload: bytes) -> None:
        if b'"blob"' not in payload:
            return
        for named in find_references(payload):
            # Functions here name blobs only that there are; those of other nodes are theirs.
            if not named.isdigit() or ids.node_number(int(named)) != ids.node_number(job):
                continue
            if int(named) not in self.blobs and int(named) not in self.dead:
                raise Broken(f"job {job} succeeds with blob {named}, which is not there")

    def _delete_blob(self, blob: int) -> None:
        if self.blobs.pop(blob, 0) is None and blob not in self.dead:
            raise Broken(f"blob {blob} is gone, and nobody has deleted it")

    def _put_lease(self, job: int, row: bytes) -> None:
        if job in self.outcomes:
            raise Broken(f"job {job} is over, and is leased again")
        fence = job_rows.decode_lease(row).fence
        if fence < self._fences.get(job, 0):
            raise Broken(f"the fence of job {job} falls to {fence}")
        self._fences[job] = fence

    def _put_record(self, table: Table, key: bytes, row: bytes) -> None:
        before = self._records.get((table, key))
        if before is not None and before != row:
            old, new = decode_record(before), decode_record(row)
            if new.rank <= old.rank:
                raise Broken(f"a record of author {new.body.author} makes room for a lesser one")
        self._records[table, key] = row


def _id(key: bytes) -> int:
    return int.from_bytes(key[: len(ids.key(1))], "big")
