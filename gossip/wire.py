"""The wire format of public libp2p pubsub, and the signature rule StrictSign.

An RPC (one length-prefixed frame of a stream) is a protobuf of subscriptions, messages and control:

    Rpc      1 subscriptions*   2 publish*   3 control
    Message  1 from   2 data   3 seqno   4 topic   5 signature   6 key
    Control  1 ihave*   2 iwant*   3 graft*   4 prune*   5 idontwant*

The description is our own, because it differs from the published one in what it leaves for later:
parts are `bytes`, taken apart only once their number is known to be bearable.  So a mebibyte of
empty parts costs 72 ms and 8 MiB rather than a Python object each; and topics are `bytes`, because
what is not UTF-8 is the sender's fault and not a foreign exception.

The parser is the protobuf library's.  A strict one in plain Python was measured too: 2.1 us against
1.2 us for an RPC of one message, 1010 us against 180 us for an IHAVE of 5000 ids.  What is written
is joined by hand, in `gossip.wire_encode`.

Rules:

* Whatever the bytes, what is raised is `RemoteProtocolError` and nothing else.
* A message is from an Ed25519 key that stands in its peer id (38 bytes, `00 24 08 01 12 20` and the
  key).  A key sent along must be that key; no key deserialiser ever sees foreign bytes.
* What is signed is `libp2p-pubsub:` and the message without signature and key.  Unknown fields are
  kept and signed over, as in go-libp2p.
* What is passed on is encoded anew, in the order above: padding that parsers skip does not travel.
* A message's id is its author and its seqno.  Peers write it in two lengths: 46 bytes (go, py:
  peer id and seqno) and 44 (js: key protobuf and seqno).  Inside there is only the shorter.

Left out: floodsub's RPC without signatures, ids of other message-id functions (rust's default is
text), IDONTWANT (1.2; parsed and ignored), sending peers in PRUNE.

https://github.com/libp2p/specs/tree/master/pubsub (README, gossipsub v1.0 to v1.2).
This is protobuf's single home.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
)
from google.protobuf.message import DecodeError

from gossip import wire_encode
from gossip.errors import RemoteProtocolError

PROTOCOL: Final = "/meshsub/1.1.0"

RPC_SIZE_MAX_BYTES: Final = 1 << 20
"""Largest RPC, in either direction. Source: go-libp2p-pubsub's DefaultMaxMessageSize."""
MESSAGE_SIZE_MAX_BYTES: Final = RPC_SIZE_MAX_BYTES - 4096
"""Largest message with all its fields. Source: leaves room for control in the same RPC."""
SUBSCRIPTIONS_MAX: Final = 1024
"""Most subscriptions in an RPC. Source: guess; a mesh has about ten topics."""
MESSAGES_MAX: Final = 8600
"""Most messages in an RPC. Source: 1 MiB of the smallest signed messages (123 bytes)."""
CONTROLS_MAX: Final = 1024
"""Most control entries of a kind in an RPC. Source: one for each of `SUBSCRIPTIONS_MAX` topics."""
IDS_MAX: Final = 23000
"""Most message ids in an RPC. Source: 1 MiB of the shorter ids (46 bytes with their heads)."""
EXCHANGE_PEERS_MAX: Final = 64
"""Most peers in a PRUNE. Source: four times go-libp2p-pubsub's GossipSubPrunePeers."""
TOPIC_SIZE_MAX_BYTES: Final = 256
"""Longest topic. Source: guess; ours have under 64 bytes."""

PEER_ID_SIZE_BYTES: Final = 38
PEER_ID_PREFIX: Final = bytes.fromhex("002408011220")
"""Identity multihash of 36 bytes: a protobuf of key type 1 (Ed25519) and 32 bytes of data."""
SIGNATURE_SIZE_BYTES: Final = 64
ID_SIZE_BYTES: Final = 44
ID_LONG_SIZE_BYTES: Final = 46
SIGNED_PREFIX: Final = b"libp2p-pubsub:"

_ID_LONG_PREFIX: Final = PEER_ID_PREFIX[:2]
_KEY_OFFSET: Final = len(PEER_ID_PREFIX)


class Subscription(msgspec.Struct, frozen=True, gc=False):
    """A peer subscribes to a topic, or (`subscribe` false) no longer."""

    topic: str
    subscribe: bool


class IHave(msgspec.Struct, frozen=True):
    """A peer has these messages. Ids are as it wrote them."""

    topic: str
    ids: Sequence[bytes]


class PeerInfo(msgspec.Struct, frozen=True, gc=False):
    """A peer named in a PRUNE, with the signed record of its addresses (unchecked)."""

    peer: bytes
    signed_record: bytes


class Prune(msgspec.Struct, frozen=True):
    """A peer takes us out of its mesh of a topic; `backoff_s` 0: it did not say for how long."""

    topic: str
    backoff_s: int
    peers: Sequence[PeerInfo] = ()


class Control(msgspec.Struct, frozen=True):
    """What a peer says about its mesh and its messages."""

    ihave: Sequence[IHave]
    iwant: Sequence[bytes]
    graft: Sequence[str]
    prune: Sequence[Prune]
    unwanted: int
    """Ids in IDONTWANT, which a 1.1 peer has no reason to send."""
    unwanted_first: bytes
    """The first of them, or nothing: it shows in which length the peer writes ids."""


class Rpc(msgspec.Struct, frozen=True):
    """One frame, taken apart as far as is needed to weigh it."""

    subscriptions: Sequence[Subscription]
    publish: "Sequence[Draft]"
    control: Control | None
    lone: "Draft | None"
    """The message, if it brings one and says nothing else."""


class Message(msgspec.Struct, frozen=True, gc=False):
    """A message that keeps the rules."""

    id: bytes
    """44 bytes."""
    source: bytes
    """Peer id of its author, 38 bytes."""
    topic: str
    data: bytes
    fragment: bytes
    """The message as a field of an RPC; an RPC of its own, too."""


class Seal(msgspec.Struct, frozen=True, gc=False):
    """What is to be verified of a message, whose other rules were."""

    public_key: bytes
    """32 bytes, out of the author's peer id."""
    signature: bytes
    signed: bytes
    """What the signature covers."""


def _describe() -> dict[str, Any]:
    field = descriptor_pb2.FieldDescriptorProto
    one, many = field.LABEL_OPTIONAL, field.LABEL_REPEATED
    data, number, flag = field.TYPE_BYTES, field.TYPE_UINT64, field.TYPE_BOOL
    described = {
        "Rpc": [("subscriptions", many, data), ("publish", many, data), ("control", many, data)],
        "Subscription": [("subscribe", one, flag), ("topic", one, data)],
        "Message": [
            ("source", one, data),
            ("data", one, data),
            ("seqno", one, data),
            ("topics", many, data),
            ("signature", one, data),
            ("key", one, data),
        ],
        "Control": [
            (name, many, data) for name in ("ihave", "iwant", "graft", "prune", "unwanted")
        ],
        "IHave": [("topic", one, data), ("ids", many, data)],
        "Ids": [("ids", many, data)],
        "Graft": [("topic", one, data)],
        "Prune": [("topic", one, data), ("peers", many, data), ("backoff_s", one, number)],
        "PeerInfo": [("peer", one, data), ("signed_record", one, data)],
    }
    file = descriptor_pb2.FileDescriptorProto(
        name="peernode/gossip.proto", package="peernode.gossip", syntax="proto2"
    )
    for name, fields in described.items():
        message = file.message_type.add(name=name)
        for position, (title, label, kind) in enumerate(fields, 1):
            message.field.add(name=title, number=position, label=label, type=kind)
    # A pool of its own: libp2p registers the public names in the default one.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    find = pool.FindMessageTypeByName
    return {
        name: message_factory.GetMessageClass(find(f"{file.package}.{name}")) for name in described
    }


_CLASSES: Final = _describe()
_Rpc: Final = _CLASSES["Rpc"]
_Subscription: Final = _CLASSES["Subscription"]
_Message: Final = _CLASSES["Message"]
_Control: Final = _CLASSES["Control"]
_IHave: Final = _CLASSES["IHave"]
_Ids: Final = _CLASSES["Ids"]
_Graft: Final = _CLASSES["Graft"]
_Prune: Final = _CLASSES["Prune"]
_PeerInfo: Final = _CLASSES["PeerInfo"]


# --- reading ------------------------------------------------------------------------------------


def decode_rpc(data: bytes) -> Rpc:
    """Return what an RPC says. Raises `RemoteProtocolError`, and nothing else."""
    if len(data) > RPC_SIZE_MAX_BYTES:
        raise RemoteProtocolError(f"an RPC of {len(data)} bytes")
    try:
        rpc = _Rpc.FromString(data)
    except DecodeError:
        raise RemoteProtocolError("not an RPC") from None
    subscriptions, publish, control = rpc.subscriptions, rpc.publish, rpc.control
    if len(publish) > MESSAGES_MAX:
        raise RemoteProtocolError(f"{len(publish)} messages, over the limit of {MESSAGES_MAX}")
    drafts = [Draft(encoded, data) for encoded in publish] if publish else ()
    return Rpc(
        _subscriptions(subscriptions) if subscriptions else (),
        drafts,
        _decode_control(control) if control else None,
        None if subscriptions or control or len(drafts) != 1 else drafts[0],
    )


class Draft:
    """A message of an RPC, parsed but held to no rule yet: enough to see that it is known.

    It may be looked at by many nodes of one process: what it says is worked out once.
    """

    __slots__ = ("_fault", "_frame", "_made", "_parsed", "_topic", "id")

    def __init__(self, encoded: bytes, frame: bytes = b"") -> None:
        """Parse a message of a frame; what is not a protobuf is no message, but is no error yet.

        `frame` is the RPC it came in: if it holds nothing else it is passed on as the same object,
        which a thousand nodes in one process then share.
        """
        self._frame = frame
        self._topic: str | None = None
        self._made: tuple[Message, Seal] | None = None
        self._fault: str | None = None
        self.id: bytes = b""
        """Of the right length only if the message keeps the rules."""
        try:
            self._parsed: Any = _Message.FromString(encoded)
        except DecodeError:
            self._fault = "not a Message"
        else:
            self.id = self._parsed.source[2:] + self._parsed.seqno

    @property
    def topic(self) -> str:
        """Its topic. Raises `RemoteProtocolError` unless it has exactly one."""
        if self._topic is None:
            if not self.id:
                raise RemoteProtocolError(self._fault or "a message of nobody")
            topics = self._parsed.topics
            if len(topics) != 1:
                raise RemoteProtocolError(f"a message with {len(topics)} topics")
            self._topic = _topic(topics[0])
        return self._topic

    def message(self, topic: str) -> tuple[Message, Seal]:
        """Return the message, of its `topic`, and the signature that is to be verified.

        Raises `RemoteProtocolError` if it breaks a rule of StrictSign.
        """
        made = self._made
        if made is None or made[0].topic != topic:
            if self._fault is not None:
                raise RemoteProtocolError(self._fault)
            try:
                made = self._made = self._make(topic)
            except RemoteProtocolError as error:
                self._fault = str(error)
                raise
        return made

    def _make(self, topic: str) -> tuple[Message, Seal]:
        parsed = self._parsed
        source, key, signature = parsed.source, parsed.key, parsed.signature
        if len(source) != PEER_ID_SIZE_BYTES or not source.startswith(PEER_ID_PREFIX):
            raise RemoteProtocolError("not from an Ed25519 peer id")
        if len(parsed.seqno) != wire_encode.SEQNO_SIZE_BYTES:
            raise RemoteProtocolError(f"a seqno of {len(parsed.seqno)} bytes")
        if len(signature) != SIGNATURE_SIZE_BYTES:
            raise RemoteProtocolError(f"a signature of {len(signature)} bytes")
        if key and key != source[2:]:
            raise RemoteProtocolError("a key that is not its author's")
        parsed.ClearField("signature")
        parsed.ClearField("key")
        body: bytes = parsed.SerializeToString()
        whole = b"".join((body, b"\x2a\x40", signature, b"\x32\x24" + key if key else b""))
        if len(whole) > MESSAGE_SIZE_MAX_BYTES:
            raise RemoteProtocolError(f"a message of {len(whole)} bytes")
        fragment = wire_encode.field(2, whole)
        if fragment == self._frame:
            fragment = self._frame
        message = Message(self.id, source, topic, parsed.data, fragment)
        return message, Seal(source[_KEY_OFFSET:], signature, SIGNED_PREFIX + body)


def check_topic(topic: str) -> None:
    """Raise `ValueError` for a topic that no peer would take."""
    if not 0 < len(topic.encode()) <= TOPIC_SIZE_MAX_BYTES:
        raise ValueError(f"a topic has 1 to {TOPIC_SIZE_MAX_BYTES} bytes")


def canonical_id(written: bytes) -> bytes | None:
    """Return the 44-byte form of an id, or `None` if it is not an id of an Ed25519 author."""
    if len(written) == ID_LONG_SIZE_BYTES and written.startswith(_ID_LONG_PREFIX):
        return written[2:]
    return written if len(written) == ID_SIZE_BYTES else None


def canonical_ids(written: Iterable[bytes]) -> dict[bytes, bytes]:
    """Return ids of Ed25519 authors among these, as they are written, by their 44-byte form."""
    return {
        form[2:] if len(form) == ID_LONG_SIZE_BYTES else form: form
        for form in written
        if len(form) == ID_SIZE_BYTES
        or (len(form) == ID_LONG_SIZE_BYTES and form.startswith(_ID_LONG_PREFIX))
    }


def long_ids(ids: Iterable[bytes]) -> list[bytes]:
    """Return 44-byte ids in the 46-byte form."""
    return [_ID_LONG_PREFIX + short for short in ids]


def _parse(kind: Any, data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError:
        raise RemoteProtocolError(f"not a {kind.DESCRIPTOR.name}") from None


def _limit(what: str, count: int, most: int) -> None:
    if count > most:
        raise RemoteProtocolError(f"{count} {what}, over the limit of {most}")


def _topic(written: bytes) -> str:
    if not 0 < len(written) <= TOPIC_SIZE_MAX_BYTES:
        raise RemoteProtocolError(f"a topic of {len(written)} bytes")
    try:
        return written.decode()
    except UnicodeDecodeError:
        raise RemoteProtocolError("a topic that is not UTF-8") from None


def _subscriptions(parts: Sequence[bytes]) -> list[Subscription]:
    _limit("subscriptions", len(parts), SUBSCRIPTIONS_MAX)
    parsed = [_parse(_Subscription, part) for part in parts]
    return [Subscription(_topic(part.topic), part.subscribe) for part in parsed]


def _decode_control(parts: Sequence[bytes]) -> Control | None:
    """Merge control parts as the protobuf rule says: an RPC of two joined ones has two."""
    _limit("controls", len(parts), CONTROLS_MAX)
    control = _parse(_Control, b"".join(parts))
    ihave, iwant, graft = control.ihave, control.iwant, control.graft
    prune, unwanted = control.prune, control.unwanted
    most = max(map(len, (ihave, iwant, graft, prune, unwanted)))
    if not most:
        return None  # js-libp2p sends empty ones
    _limit("controls", most, CONTROLS_MAX)
    offers = [_parse(_IHave, part) for part in ihave]
    wants = [_parse(_Ids, part).ids for part in iwant] if iwant else ()
    refusals = [_parse(_Ids, part).ids for part in unwanted] if unwanted else ()
    _limit("ids", sum([len(offer.ids) for offer in offers]), IDS_MAX)
    _limit("ids", sum(map(len, wants)), IDS_MAX)
    return Control(
        [IHave(_topic(offer.topic), offer.ids) for offer in offers],
        [want for ids in wants for want in ids] if wants else (),
        [_topic(_parse(_Graft, part).topic) for part in graft] if graft else (),
        [_decode_prune(part) for part in prune] if prune else (),
        sum(map(len, refusals)),
        next((ids[0] for ids in refusals if ids), b"") if refusals else b"",
    )


def _decode_prune(part: bytes) -> Prune:
    prune = _parse(_Prune, part)
    _limit("peers", len(prune.peers), EXCHANGE_PEERS_MAX)
    peers = [_parse(_PeerInfo, peer) for peer in prune.peers]
    return Prune(
        _topic(prune.topic),
        prune.backoff_s,
        [PeerInfo(peer.peer, peer.signed_record) for peer in peers],
    )
