"""Users, projects, functions and namespaces that were just made elsewhere: asked for by their id.

What everybody may know is pushed to every node, a moment after it was made.  Who asks for it here
in that moment, or while gossip is late, would be told that there is no such thing.  So for an id
that is not known here, and whose home can be asked, the home is: it gives the object's records and
the facts they rest on, which are taken in as if gossip had brought them.  Then the call goes on.

    Ask     [1, version, class, id]
    Known   [2, facts, records]       both empty: there is no such object
    Busy    [3]

A call for an id that nobody knows costs its node one question and no more: calls at once share one
question, an answer of none is remembered for a second, questions at once are bounded, and a user
who asks for many unknown ids is told of none after a while without anyone being asked.

What is asked for is what every member has anyway, so no right is shown; who may see it is judged
here, with the same table as ever.  A home that cannot be asked is `unreachable`: whether there is
such an object is not known.

What it leaves out: what is known here and has changed since; entries of namespaces.
"""

from collections import OrderedDict
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias

import msgspec
import trio

from gossip.errors import PENALTY_FORGED, PeerBusy, PeerError, RemoteProtocolError
from gossip.network import Network
from gossip.sync_messages import Stratum
from peernode.foreign_asking import Asking
from peernode.foreign_config import Config
from peernode.foreign_members import Members
from peernode.foreign_serving import Serving
from peernode.peer_frames import read_frame
from peernode.permissions import Actor
from peernode.problems import Problem
from peernode.rate_limits import Buckets
from storage import codec, ids
from storage.errors import InvalidData
from storage.facts import FACT_SIZE_MAX_BYTES, Fact, Member, MemberRevoke
from storage.hlc import AHEAD_MAX_MS
from storage.ids import Id
from storage.places import Class
from storage.records import RECORD_SIZE_MAX_BYTES, Record
from storage.store import Table

if TYPE_CHECKING:
    from peernode.node import Node

PROTOCOL: Final = "/peernode/object/1"
VERSION: Final = 1
ASK_SIZE_MAX_BYTES: Final = 64
REPLY_SIZE_MAX_BYTES: Final = 1 << 20
"""Largest reply. Source: guess; facts of a thousand members, what is left out comes as ever."""
FACTS_MAX: Final = 1000
RECORDS_MAX: Final = 8
"""Most facts and records of one object. Source: guess; most have one record, of one author."""
ASKED_MAX: Final = 64
"""Most questions at once. Source: guess; each is small and answered from memory."""
MISSING_S: Final = 1.0
"""How long an id stays unknown without another question. Source: gossip takes less."""
MISSING_MAX: Final = 10_000
"""Most such ids. Source: about 1 MB."""
UNKNOWN_RATE_PER_S: Final = 10.0
UNKNOWN_BURST: Final = 50
"""How many unknown ids of a user are asked for. Source: guess; a program that makes objects at one
node and reads them at another, not one that tries numbers."""
USERS_MAX: Final = 65_536
"""Most users whose questions are counted. Source: as `rate_limits.Config.keys_max`."""

CLASSES: Final = {
    "user": Class.USER,
    "project": Class.PROJECT,
    "function": Class.FUNCTION,
    "kv": Class.KV_SPACE,
}
"""Classes whose objects every node has a record or fact of."""


class Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of all messages: an array whose first element is the kind."""


class Ask(Message, frozen=True, tag=1):
    """Tell what there is of this object, which is yours."""

    version: int
    class_: Class
    id: Id


FactBytes = Annotated[bytes, msgspec.Meta(max_length=FACT_SIZE_MAX_BYTES)]
RecordBytes = Annotated[bytes, msgspec.Meta(max_length=RECORD_SIZE_MAX_BYTES)]


class Known(Message, frozen=True, tag=2):
    """All that is known of it."""

    facts: Annotated[list[FactBytes], msgspec.Meta(max_length=FACTS_MAX)]
    records: Annotated[list[RecordBytes], msgspec.Meta(max_length=2 * RECORDS_MAX)]


class Busy(Message, frozen=True, tag=3):
    """Ask again later."""


Reply: TypeAlias = Known | Busy
Outcome: TypeAlias = Literal["told", "unreachable"]


def encode(message: Ask | Reply) -> bytes:
    """Return the frame of a message."""
    return codec.encode_struct(message)


def decode_ask(frame: bytes) -> Ask:
    """Return the question in a frame. Raises `RemoteProtocolError`."""
    return read_frame(frame, ASK_SIZE_MAX_BYTES, Ask, "a question")


def decode_reply(frame: bytes) -> Reply:
    """Return the reply in a frame. Raises `RemoteProtocolError`."""
    return read_frame(frame, REPLY_SIZE_MAX_BYTES, Reply, "a reply")  # type: ignore[arg-type]


class _Question:
    """One that is on its way."""

    def __init__(self) -> None:
        self.over = trio.Event()
        self.outcome: Outcome = "unreachable"


class ForeignObjects:
    """Asks homes for what is not known here yet, and answers for this node's objects."""

    def __init__(
        self,
        node: "Node",
        network: Network,
        members: Members,
        asking: Asking,
        serving: Serving,
        config: Config,
    ) -> None:
        self._node = node
        self._network = network
        self._members = members
        self._asking = asking
        self._serving = serving
        self._config = config
        self._questions: dict[int, _Question] = {}
        self._missing: OrderedDict[int, float] = OrderedDict()
        """Ids that their home does not know -> until when that is believed."""
        self._buckets = Buckets(UNKNOWN_RATE_PER_S, UNKNOWN_BURST, USERS_MAX)
        network.serve_requests(PROTOCOL, self.answer, size_max_bytes=ASK_SIZE_MAX_BYTES)

    # --- asking -----------------------------------------------------------------------------

    def is_unknown(self, class_name: str, id: int) -> bool:
        """Tell whether an object of another node may exist that is not known here."""
        class_ = CLASSES.get(class_name)
        return (
            class_ is not None
            and self._node.registry.get(class_, id) is None
            and self._members.is_elsewhere(id)
        )

    async def meet(self, class_name: str, id: int, actor: Actor) -> None:
        """Return once what its home knows of an unknown object is known here.

        Raises the `Problem` `unreachable` if the home cannot be asked.
        """
        node, now = self._node, trio.current_time()
        home = self._members.home_peer(id)
        if (
            actor.kind not in ("user", "operator")
            or node.federation is None
            or home is None
            or self._missing.get(id, 0) > now
            or ids.created_ms(id) > node.clock.wall_ms() + AHEAD_MAX_MS
            or node.store.get(Table.DEAD, ids.key(id)) is not None
        ):
            return
        question = self._questions.get(id)
        if question is None:
            is_too_much = self._buckets.take(str(actor.user), now) > 0
            if is_too_much or len(self._questions) >= ASKED_MAX:
                return
            question = self._questions[id] = _Question()
            try:
                question.outcome = await self._ask(home, Ask(VERSION, CLASSES[class_name], id))
            finally:
                del self._questions[id]
                question.over.set()
        else:
            await question.over.wait()
        if self.is_unknown(class_name, id) and question.outcome == "unreachable":
            raise self._asking.unreachable(class_name, id)

    async def _ask(self, home: str, ask: Ask) -> Outcome:
        try:
            reply = decode_reply(
                await self._network.request(
                    home,
                    PROTOCOL,
                    encode(ask),
                    reply_size_max_bytes=REPLY_SIZE_MAX_BYTES,
                    timeout_s=self._config.find_timeout_s,
                )
            )
            if isinstance(reply, Busy):
                return "unreachable"
            await self._take(home, reply)
        except PeerBusy as error:
            raise Problem("overloaded", "this node asks as much as it does at once") from error
        except PeerError as error:
            self._members.blame(home, error)
            return "unreachable"
        if self._node.registry.get(ask.class_, ask.id) is None:
            self._missing[ask.id] = trio.current_time() + MISSING_S
            self._missing.move_to_end(ask.id)
            if len(self._missing) > MISSING_MAX:
                self._missing.popitem(last=False)
        return "told"

    async def _take(self, home: str, reply: Known) -> None:
        """Take in what a home knows. Raises `RemoteProtocolError` for what is forged."""
        federation = self._node.federation
        assert federation is not None
        encoded = [(Stratum.FACTS, fact) for fact in reply.facts]
        encoded += [(Stratum.RECORDS, record) for record in reply.records]
        try:
            items = await federation.ingestion.check(encoded)
        except InvalidData as error:
            raise RemoteProtocolError(f"forged: {error}", PENALTY_FORGED) from error
        for refusal in await federation.ingestion.take(items, home):
            forged = RemoteProtocolError(f"forged: {refusal.reason}", PENALTY_FORGED)
            self._members.blame(refusal.sender, forged)

    def check(self) -> None:
        """Assert the invariants."""
        assert len(self._questions) <= ASKED_MAX
        assert len(self._missing) <= MISSING_MAX
        self._buckets.check()

    # --- answering --------------------------------------------------------------------------

    async def answer(self, peer: str, frame: bytes) -> bytes:
        """Return the reply to a question. Raises `PeerError` for one that nobody may ask so."""
        await trio.lowlevel.checkpoint()
        ask = decode_ask(frame)
        self._members.require_member(peer)
        with self._serving.working(peer) as is_free:
            if not is_free or ask.version != VERSION:
                return encode(Busy())
            if self._members.is_elsewhere(ask.id):
                return encode(Known([], []))
            return encode(self._known(ask.class_, ask.id))

    def _known(self, class_: Class, id: int) -> Known:
        registry = self._node.registry
        entry = registry.get(class_, id)
        if entry is None:
            return Known([], [])
        records = registry.of_slot(entry.place.slot)[:RECORDS_MAX]
        facts: dict[bytes, Fact] = {}
        project = entry.place.owner if entry.place.owner_class is Class.PROJECT else 0
        users = {record.body.author: None for record in records} | {entry.place.owner: None}
        if project:
            above = registry.get(Class.PROJECT, project)
            if above is not None and class_ is not Class.PROJECT:
                records = [*registry.of_slot(above.place.slot)[:RECORDS_MAX], *records]
            for fact in registry.authority.about(project):
                facts[fact.id] = fact
                if isinstance(fact.statement, Member | MemberRevoke):
                    users |= {fact.statement.by: None, fact.statement.user: None}
            users |= {registry.authority.owner(project) or 0: None}
            users |= {record.body.author: None for record in records}
        keys = [fact for user in users for fact in registry.authority.about(user)]
        return _bounded([*keys, *facts.values()], records)


def _bounded(facts: list[Fact], records: list[Record]) -> Known:
    """Return what fits a reply: records first, since they are few."""
    left = REPLY_SIZE_MAX_BYTES - 4096
    chosen: list[bytes] = []
    for record in records:
        left -= len(record.encoded) + 8
        if left >= 0:
            chosen.append(record.encoded)
    told: list[bytes] = []
    for fact in facts[:FACTS_MAX]:
        left -= len(fact.encoded) + 8
        if left >= 0:
            told.append(fact.encoded)
    return Known(told, chosen)
