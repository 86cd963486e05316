"""After a strict rotation: what a user said under earlier keys is said again under the new one.

A strict key disowns everything that was signed before it, at every node.  So the user's home signs
the user's own records anew: all that counted just before, each with its time (`Flag.CARRY`), so
that it stands where it stood and can only lose against what was written since.  Grants are signed
anew with the number they had: a project keeps its members, and what *they* wrote, on whichever side
of a partition, rests on that number and counts as before.  What the thief of an old key signs from
now on, whatever date it bears, stays disowned: its rank is below and it is never carried.

Whose word the old records are, the user says.  Without `since` all that is known here is carried.
With it, only what *this node* signed, by its own clock, until then: whoever has the bare key, or
another node, can write any date.  Of a project that this leaves without attributes its name is
kept; functions and namespaces are gone, and their names free; members have to be added again.

**How.**  The rotation itself is one transaction: key, vault, grants, the records of objects, and a
row that says what is left: a certificate by the new key for this node, which is all it takes.  The
rest (entries, and what did not fit) follows in small transactions, after a restart too, until the
row is deleted.  Whatever was carried already is recognised by its epoch, so nothing is done twice.
What reaches this node after the rotation is not carried, whenever that is completed: `records_in`
keeps no record of a disowned epoch.

What it leaves out: what the user wrote at nodes that this one could not reach is lost with the
thief's: nobody could tell it from back-dated records.  A revocation counts whoever signed it, the
thief too; add the member again.

    row of Table.META   b"carry:" + user (8) -> Carry
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar, assert_never

import msgspec
import trio

from peernode import names
from peernode.attributes import (
    FunctionAttributes,
    ProjectAttributes,
    SpaceAttributes,
    UserAttributes,
    decode_attributes,
    encode_attributes,
)
from peernode.entries import keep_entry
from peernode.problems import Problem
from peernode.transactions import Transaction
from storage import certificates, codec, hlc, ids
from storage.blobs import Release
from storage.certificates import Certificate, decode_certificate
from storage.errors import StorageError
from storage.facts import Fact, Member
from storage.places import Class
from storage.records import NO_FLAGS, Body, Record, carried, decode_record, sign_record
from storage.signing import Keypair, Seal
from storage.store import Table

if TYPE_CHECKING:
    from peernode.node import Node

T = TypeVar("T")

ROW: Final = b"carry:"
ROW_SIZE_MAX_BYTES: Final = certificates.CERTIFICATE_SIZE_MAX_BYTES + 64
FIRST_MAX: Final = 4096
"""Most records of objects carried with the key itself. Source: guess; some 8 MB."""
BATCH_ITEMS_MAX: Final = 128
"""Most items signed, or written, at a time. Source: signing 128 keeps the loop for some 20 ms."""
PAGE_LENGTH: Final = 512
"""Entries looked at before others have their turn. Source: as `peernode.offering`."""
USERS_MAX: Final = 100_000
"""Users whose carrying was interrupted. Source: far more than rotate at once."""
RETRY_S: Final = 10.0
"""Pause after a full disk. Source: guess."""
CERTIFICATE_TTL_MS: Final = 90 * 24 * 3600 * 1000
"""How long a carrying that was interrupted can be completed. Source: as long as a token's life."""


class Carry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What is to be carried."""

    user: int
    floor: int
    """What was signed under epochs before this one was disowned already."""
    certificate: bytes
    """By the new key, for this node."""
    since_ms: int | None

    @property
    def epoch(self) -> int:
        """The new key's."""
        return self.decoded.terms.epoch

    @property
    def decoded(self) -> Certificate:
        """The certificate."""
        return decode_certificate(self.certificate)


@dataclass(frozen=True, slots=True)
class Carried:
    """A record, and what takes its place."""

    before: Record
    after: Record


@dataclass(frozen=True, slots=True)
class Prepared:
    """What goes with the key itself, signed."""

    grants: Mapping[Member, Fact]
    """What was granted -> the same again."""
    records: Sequence[Carried]


class Carrying:
    """Carries, and completes after a restart what was begun."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._todo: dict[int, Carry] = {}
        self._over: dict[int, trio.Event] = {}
        self._wake = trio.Event()
        for _, row in node.store.scan(Table.META, ROW, ROW + b"\xff" * 9, limit=USERS_MAX):
            self._begun(codec.decode_struct(row, ROW_SIZE_MAX_BYTES, Carry))

    # --- with the key -----------------------------------------------------------------------

    def plan(self, user: int, keypair: Keypair, since_ms: int | None) -> Carry:
        """Return what a rotation of `user` to `keypair`, its next key, is to carry.

        Raises the `Problem` `conflict` while an earlier one is being completed.
        """
        if user in self._todo:
            raise Problem(
                "conflict",
                "what an earlier rotation carries over is not all carried yet",
                hint="try again in a moment",
            )
        node = self._node
        chain = node.registry.authority.user(user)
        assert chain is not None
        now_ms = node.clock.wall_ms()
        terms = certificates.Terms(
            user=user,
            epoch=chain.epoch + 1,
            audience=(node.identity.keypair.public_key,),
            scopes=("*",),
            not_before_ms=now_ms - hlc.AHEAD_MAX_MS,
            expires_ms=now_ms + CERTIFICATE_TTL_MS,
            secret_hash=node.entropy.token_bytes(32),
            jti=node.entropy.token_bytes(8),
        )
        certificate = certificates.issue(keypair, node.identity.mesh, terms)
        return Carry(user, chain.floor, certificate.encoded, since_ms)

    async def prepare(self, carry: Carry) -> Prepared:
        """Return, signed, what goes with the key itself."""
        grants: dict[Member, Fact] = {}
        for some in _parts(self._grants(carry)):
            grants |= {grant: self._sign_grant(carry, grant) for grant in some}
            await trio.lowlevel.checkpoint()
        made: list[Carried] = []
        trusted = [one for one in self._objects(carry) if self._is_trusted(carry, one)]
        for records in _parts(trusted[:FIRST_MAX]):
            made += [self._sign(carry, record) for record in records]
            await trio.lowlevel.checkpoint()
        return Prepared(grants, made)

    def begin(self, transaction: Transaction, carry: Carry, prepared: Prepared) -> None:
        """Carry what is prepared in the transaction that writes the key, after it."""
        transaction.put(Table.META, _row(carry), codec.encode_struct(carry))
        # All of them, and none later: facts cannot be kept out, and the thief may sign more.
        for grant in self._grants(carry):
            again = prepared.grants.get(grant) or self._sign_grant(carry, grant)
            self._node.registry.add_fact(transaction, again)
        self._replace(Table.RECORDS, prepared.records, transaction)
        transaction.after.append(partial(self._begun, carry))

    async def finished(self, user: int) -> None:
        """Return once all that `user` had is carried."""
        if (over := self._over.get(user)) is not None:
            await over.wait()

    def _begun(self, carry: Carry) -> None:
        self._todo[carry.user] = carry
        self._over.setdefault(carry.user, trio.Event())
        self._wake.set()

    # --- the rest ---------------------------------------------------------------------------

    async def run(self) -> None:
        """Carry what is begun, until cancelled."""
        while True:
            self._wake = trio.Event()
            for carry in list(self._todo.values()):
                try:
                    await self._carry(carry)
                except (StorageError, Problem) as error:
                    self._node.log.warning(
                        "a user's records are not carried yet",
                        user=str(carry.user),
                        error=str(error),
                    )
            with trio.move_on_after(RETRY_S if self._todo else float("inf")):
                await self._wake.wait()

    async def _carry(self, carry: Carry) -> None:
        if carry.decoded.is_current(self._node.clock.wall_ms()):
            await self._carry_objects(carry)
            await self._carry_entries(carry)
        else:
            self._node.log.warning("too late to carry a user's records", user=str(carry.user))
        await self._node.transactions.run(partial(self._end, carry))

    async def _carry_objects(self, carry: Carry) -> None:
        trusted: list[Record] = []
        for record in list(self._objects(carry)):
            if self._is_trusted(carry, record):
                trusted.append(record)
            else:
                await self._give_up(carry, record)
        await self._carry_records(carry, Table.RECORDS, trusted)

    async def _carry_entries(self, carry: Carry) -> None:
        author, start = ids.key(carry.user), b""
        while rows := self._node.store.scan(Table.ENTRIES, start, limit=PAGE_LENGTH):
            own = [decode_record(row) for key, row in rows if key.endswith(author)]
            trusted = [
                record
                for record in own
                if self._is_due(carry, record) and self._is_trusted(carry, record)
            ]
            await self._carry_records(carry, Table.ENTRIES, trusted)
            start = rows[-1][0] + b"\0"
            await trio.lowlevel.checkpoint()

    async def _carry_records(self, carry: Carry, table: Table, trusted: Sequence[Record]) -> None:
        for some in _parts(trusted):
            made = [self._sign(carry, record) for record in some]
            await self._node.transactions.run(partial(self._replace, table, made))

    def _replace(self, table: Table, made: Sequence[Carried], transaction: Transaction) -> None:
        registry = self._node.registry
        for one in made:
            before, after = one.before, one.after
            if transaction.get(table, before.store_key) != before.encoded:
                continue  # Written again meanwhile: if that is to be carried, it is found later.
            if table is Table.ENTRIES:
                keep_entry(transaction, after)
                transaction.after.append(partial(registry.note, after, before))
            else:
                transaction.put(table, after.store_key, after.encoded)
                transaction.after.append(partial(registry.apply, after))

    async def _give_up(self, carry: Carry, record: Record) -> None:
        """See to what is left of an object whose record is not carried."""
        place = record.body.place
        if record.is_tombstone or self._node.registry.get(place.class_, place.id) is not None:
            return
        releases: list[Release] = []
        await self._node.transactions.run(partial(self._bury, carry, record, releases))
        for release in releases:
            await self._node.content.sweep(release)

    def _bury(
        self, carry: Carry, record: Record, releases: list[Release], transaction: Transaction
    ) -> None:
        releases.clear()
        node, place = self._node, record.body.place
        attributes = decode_attributes(record)
        match attributes:
            case ProjectAttributes(name=name):
                at, payload = (
                    node.timestamps.tick(),
                    encode_attributes(ProjectAttributes(name=name)),
                )
                said = replace(
                    record.body,
                    epoch=carry.epoch,
                    hlc=at,
                    signed_at=at,
                    flags=NO_FLAGS,
                    orig=None,
                    payload=payload,
                )
                node.registry.write(transaction, self._signed(carry, said, None))
            case FunctionAttributes(name=name):
                releases += node.content.release_sources(transaction, place.id)
                names.release(transaction, place.class_, place.owner, name, place.id)
            case SpaceAttributes(name=name, function=function):
                owner = function or place.owner
                names.release(transaction, place.class_, owner, name, place.id)
            case UserAttributes():
                raise AssertionError("a user's attributes go with the key")
            case _:
                assert_never(attributes)

    def _end(self, carry: Carry, transaction: Transaction) -> None:
        transaction.delete(Table.META, _row(carry))
        transaction.after.append(partial(self._ended, carry.user))

    def _ended(self, user: int) -> None:
        self._todo.pop(user, None)
        if (over := self._over.pop(user, None)) is not None:
            over.set()

    # --- what, and how ----------------------------------------------------------------------

    def _objects(self, carry: Carry) -> Iterator[Record]:
        """Yield the user's records of objects that counted; its own attributes go with the key."""
        for record in self._node.registry.records():
            of_user = record.body.place.class_ is Class.USER
            if record.body.author == carry.user and not of_user and self._is_due(carry, record):
                yield record

    def _is_due(self, carry: Carry, record: Record) -> bool:
        """Tell whether a record of the user counted until the new key came."""
        body, authority = record.body, self._node.registry.authority
        # The user's own roles rest on the keys of others, so they are what they were.
        return carry.floor <= body.epoch < carry.epoch and authority.may_write(
            body.place, body.author, body.grant_n
        )

    def _grants(self, carry: Carry) -> list[Member]:
        """Return the grants by the user that count, of each member the one that gives least."""
        found: dict[tuple[int, int], Member] = {}
        for grant, fact in self._node.registry.authority.last_grants_by(carry.user):
            if grant.by_epoch >= carry.floor and self._is_own(carry, fact.seal, grant.signed_at):
                member = grant.project, grant.user
                other = found.get(member, grant)
                found[member] = min(grant, other, key=lambda one: one.role)
        return list(found.values())

    def _is_trusted(self, carry: Carry, record: Record) -> bool:
        return self._is_own(carry, record.seal, record.body.signed_at)

    def _is_own(self, carry: Carry, seal: Seal, signed_at: int) -> bool:
        """Tell whether something is the user's own word, as far as the user says."""
        return carry.since_ms is None or (
            seal.public_key == self._node.identity.keypair.public_key
            and hlc.physical_ms(signed_at) <= carry.since_ms
        )

    def _sign(self, carry: Carry, record: Record) -> Carried:
        at = self._node.timestamps.tick()
        return Carried(record, self._signed(carry, carried(record, carry.epoch, at), record.birth))

    def _signed(self, carry: Carry, body: Body, birth: Seal | None) -> Record:
        identity = self._node.identity
        return sign_record(
            identity.keypair, identity.mesh, body, certificate=carry.decoded, birth=birth
        )

    def _sign_grant(self, carry: Carry, grant: Member) -> Fact:
        at = self._node.timestamps.tick()
        again = msgspec.structs.replace(grant, by_epoch=carry.epoch, signed_at=at)
        return self._node.seal(again, carry.decoded)


def _row(carry: Carry) -> bytes:
    return ROW + ids.key(carry.user)


def _parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for at in range(0, len(items), BATCH_ITEMS_MAX):
        yield items[at : at + BATCH_ITEMS_MAX]
