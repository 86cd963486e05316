"""A blob of real size moves from one node's store to another over a network: all parts at once."""

from collections import deque

import trio
import trio.testing

from gossip.errors import PeerError
from gossip.fetch import Fetch
from gossip.fetch_events import (
    Abandon,
    Answer,
    Ask,
    Bad,
    Effect,
    FetchConfig,
    Found,
    Input,
    LookedUp,
    LookUp,
    Missing,
    Outcome,
    Penalise,
    Provider,
    Replied,
    Request,
    Tick,
    Unanswered,
    Verified,
    Verify,
)
from gossip.fetch_messages import (
    FRAME_SIZE_MAX_BYTES,
    PROTOCOL,
    REQUEST_SIZE_MAX_BYTES,
    Data,
    Kind,
    Missing as MissingReply,
    Refused,
    Thing,
    decode_request,
    encode,
    path,
)
from gossip.memory_network import MemoryNetwork, open_wire
from storage import cid as cids
from storage.blobs import BlobStore
from storage.blocks import Config
from storage.cid import CHUNK_SIZE_BYTES, Cid, decode_node, is_leaf
from storage.errors import BlobError
from storage.memory_store import MemoryStore
from storage.store import Batch

BLOB = 1 << 40
RIGHT = b"may read"


class Holder:
    """A node that has blobs, and lets those read who may."""

    def __init__(self, network: MemoryNetwork) -> None:
        store = MemoryStore()
        self.blobs = BlobStore(store, None, Config())
        self.store = store
        self.asked = 0
        network.serve_requests(PROTOCOL, self.reply, size_max_bytes=REQUEST_SIZE_MAX_BYTES)

    def put(self, data: bytes) -> Cid:
        with self.blobs.begin() as upload:
            upload.write(data)
            content = upload.finish()
            self.store.apply(Batch(puts=content.puts, adds=content.adds))
        return content.cid

    async def reply(self, peer: str, frame: bytes) -> bytes:
        self.asked += 1
        get = decode_request(frame)
        if get.auth != RIGHT:
            return encode(Refused("right"))
        try:
            at = Cid(get.name)
            for child in path(get.depth, get.index):
                at = decode_node(self.blobs.read_block(at))[child][0]
            return encode(Data(self.blobs.read_block(at)))
        except (BlobError, IndexError):
            return encode(MissingReply(False, []))


class Driver:
    """The smallest driver of `Fetch` there is: one thing at a time."""

    def __init__(self, network: MemoryNetwork) -> None:
        self.network = network
        self.fetch = Fetch(FetchConfig())
        self.kept: dict[Cid, bytes] = {}
        self.penalised: list[str] = []
        self._inputs: deque[Input] = deque()
        self._happened = trio.Event()
        self._scopes: dict[int, trio.CancelScope] = {}

    async def get(self, thing: Thing, auth: bytes, *peers: str) -> Outcome:
        """Return what became of it."""
        self._inputs.append(
            Ask(1, thing, auth, tuple(map(Provider, peers)), trio.current_time() + 60)
        )
        async with trio.open_nursery() as nursery:
            while True:
                while self._inputs:
                    now = trio.current_time()
                    for effect in self.fetch.handle(self._inputs.popleft(), now):
                        if isinstance(effect, Answer):
                            nursery.cancel_scope.cancel()
                            return effect.outcome
                        self._do(effect, nursery)
                self._happened = trio.Event()
                deadline = self.fetch.deadline
                assert deadline is not None
                with trio.move_on_at(deadline) as scope:
                    await self._happened.wait()
                if scope.cancelled_caught:
                    self._inputs.append(Tick())
        raise AssertionError("unreachable")

    def _do(self, effect: Effect, nursery: trio.Nursery) -> None:
        match effect:
            case LookUp(fetch, look, _, blocks):
                here = [block.cid for block in blocks if block.cid in self.kept]
                self._tell(
                    LookedUp(
                        fetch,
                        look,
                        tuple(filter(is_leaf, here)),
                        tuple((cid, self.kept[cid]) for cid in here if not is_leaf(cid)),
                    )
                )
            case Request():
                nursery.start_soon(self._request, effect)
            case Abandon(request):
                self._scopes[request].cancel()
            case Verify(request, _, _, _, block, data):
                assert block is not None
                if cids.matches(block.cid, data):
                    self.kept[block.cid] = data
                    self._tell(Verified(request))
                else:
                    self._tell(Bad(request, "does not hash to its CID"))
            case Penalise(peer):
                self.penalised.append(peer)
            case Answer():
                raise AssertionError("handled above")

    async def _request(self, effect: Request) -> None:
        self._scopes[effect.request] = trio.CancelScope()
        with self._scopes[effect.request]:
            try:
                reply = await self.network.request(
                    effect.peer,
                    PROTOCOL,
                    effect.frame,
                    reply_size_max_bytes=FRAME_SIZE_MAX_BYTES,
                    timeout_s=effect.deadline - trio.current_time(),
                )
            except PeerError as error:
                self._tell(Unanswered(effect.request, error))
            else:
                self._tell(Replied(effect.request, reply))

    def _tell(self, input: Input) -> None:
        self._inputs.append(input)
        self._happened.set()


CONTENT = b"".join(bytes([number]) * CHUNK_SIZE_BYTES for number in range(5)) + b"and an end"


async def test_a_blob_comes_from_two_nodes_block_by_block(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_wire() as wire:
        home, near = Holder(wire.join("home")), Holder(wire.join("near"))
        driver = Driver(wire.join("me"))
        wire.connect("me", "home")
        wire.connect("me", "near")
        cid = home.put(CONTENT)
        assert near.put(CONTENT) == cid
        thing = Thing(Kind.BLOB, BLOB, cid)
        assert isinstance(await driver.get(thing, RIGHT, "home", "near"), Found)
        (root,) = [data for block, data in driver.kept.items() if not is_leaf(block)]
        assert b"".join(driver.kept[leaf] for leaf, _ in decode_node(root)) == CONTENT
        assert home.asked + near.asked == 7
        # And now all of it is here.
        assert await driver.get(thing, RIGHT, "home") == Found(b"", ())
        assert home.asked + near.asked == 7


async def test_without_the_right_there_is_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with open_wire() as wire:
        home = Holder(wire.join("home"))
        driver = Driver(wire.join("me"))
        wire.connect("me", "home")
        thing = Thing(Kind.BLOB, BLOB, home.put(b"a secret"))
        assert await driver.get(thing, b"may not", "home") == Missing(("home",))
        assert driver.kept == {}


async def test_a_home_that_goes_away_in_the_middle(autojump_clock: trio.testing.MockClock) -> None:
    async with open_wire() as wire:
        home, near = Holder(wire.join("home")), Holder(wire.join("near"))
        driver = Driver(wire.join("me"))
        wire.connect("me", "home")
        wire.connect("me", "near")
        cid = home.put(CONTENT)
        near.put(CONTENT)
        reply = home.reply

        async def reply_twice(peer: str, frame: bytes) -> bytes:
            if home.asked == 2:
                wire.disconnect("me", "home")
            return await reply(peer, frame)

        wire._nodes["home"].requests[PROTOCOL] = reply_twice, 10_000
        outcome = await driver.get(Thing(Kind.BLOB, BLOB, cid), RIGHT, "home", "near")
        assert isinstance(outcome, Found)
        assert "near" in outcome.sources
        assert driver.penalised == []
