"""Letting nodes in and shutting them out, over a network in memory, hostile strangers included."""

import itertools
from typing import Any

import pytest
import trio
from hypothesis import given, strategies

from gossip.errors import PeerError
from peernode import join_messages, joining, membership, mesh_invites, node_numbers
from peernode.join_messages import Admitted, Ask, Greeting, Refused
from peernode.joining import JoinError
from peernode.node import Node
from storage import facts, signing
from storage.authority import Authority
from storage.errors import InvalidData
from tests.peernode.meshes import (
    Ether,
    address_of,
    ask,
    invite,
    join,
    keypair,
    open_ether,
    open_mesh_node,
    peer_id,
    peers,
)
from tests.peernode.nodes import Caller, Disk, WallClock, open_memory_node, settle, sign_up


def frame_for(text: str, name: str) -> bytes:
    """Return the request that a node would make with an invite."""
    found = mesh_invites.read(text)
    proof = mesh_invites.proof(
        found.secret, found.mesh, found.inviter_key, keypair(name).public_key
    )
    return join_messages.encode(Ask(found.name, found.expires_ms, proof))


async def answer(node: Node, text: str, name: str, showing: str = "") -> join_messages.Answer:
    """Return what a node answers to `name`, which shows the proof that is `showing`'s."""
    frame = frame_for(text, showing or name)
    return join_messages.decode_answer(await node.membership.answer_join(peer_id(name), frame))


# --- joining ------------------------------------------------------------------------------


async def test_a_node_that_was_invited_is_a_member_after_one_question(autojump_clock: Any) -> None:
    async with open_ether() as ether, open_mesh_node(ether, "a", Disk()) as a:
        disk = await join(ether, a, "b")
        async with open_mesh_node(ether, "b", disk) as b:
            assert (b.identity.number, b.identity.mesh) == (2, a.identity.mesh)
            assert b.identity.genesis == a.identity.genesis
            assert a.membership.is_member(b.identity.keypair.public_key)
            assert b.membership.is_member(a.identity.keypair.public_key)
            await settle()
            assert (await peers(a))["2"]["state"] == "up"
            assert (await peers(b))["1"]["state"] == "up"


async def test_a_member_admits_others_and_three_nodes_find_each_other(autojump_clock: Any) -> None:
    async with open_ether() as ether, open_mesh_node(ether, "a", Disk()) as a:
        b_disk = await join(ether, a, "b")
        async with open_mesh_node(ether, "b", b_disk) as b:
            await settle()
            c_disk = await join(ether, b, "c")
            async with open_mesh_node(ether, "c", c_disk) as c:
                assert c.identity.mesh == a.identity.mesh
                number = c.identity.number
                two = b.registry.authority.node(2)
                assert two is not None
                assert two.admits(number)
                # That A learns of C's admission is reconciliation's; here it is told by hand.
                for fact in c.registry.authority:
                    a.registry.learn(fact)
                await settle()
                ether.redial()
                await settle()
                seen = await peers(c)
                assert {seen["1"]["state"], seen["2"]["state"]} == {"up"}
                assert seen[str(number)]["state"] == "self"
                assert (await peers(a))[str(number)]["addresses"] == [address_of("c")]


async def test_an_invite_lets_one_node_in_and_no_second(autojump_clock: Any) -> None:
    async with open_ether() as ether, open_mesh_node(ether, "a", Disk()) as a:
        text = await invite(a)
        await ask(ether, text, "b")
        with pytest.raises(JoinError, match="used before"):
            await ask(ether, text, "c")
        assert [node.number for node in a.membership.members()] == [1, 2]


async def test_a_used_invite_stays_used_after_a_restart(autojump_clock: Any) -> None:
    disk = Disk()
    async with open_ether() as ether:
        async with open_mesh_node(ether, "a", disk) as a:
            text = await invite(a)
            await ask(ether, text, "b")
            copy = disk.copy()
        async with open_mesh_node(ether, "a", copy) as a:
            with pytest.raises(JoinError, match="used before"):
                await ask(ether, text, "c")
            assert a.membership.is_member(keypair("b").public_key)


async def test_whoever_lost_the_answer_gets_the_same_again(autojump_clock: Any) -> None:
    async with open_ether() as ether, open_mesh_node(ether, "a", Disk()) as a:
        text = await invite(a)
        first = await ask(ether, text, "b")
        again = await ask(ether, text, "b")
        assert (again.number, again.facts) == (first.number, first.facts)
        assert len(a.membership.members()) == 2


async def test_nobody_sees_a_grant_before_it_and_the_burnt_invite_are_durable(
    autojump_clock: Any,
) -> None:
    disk = Disk()
    async with open_ether() as ether, open_mesh_node(ether, "a", disk) as a:
        text = await invite(a)
        found: list[join_messages.Answer] = []

        async def try_it() -> None:
            found.append(await answer(a, text, "b"))

        async with trio.open_nursery() as nursery:
            disk.pause()
            nursery.start_soon(try_it)
            await settle()
            assert found == []
            before = disk.copy()
            disk.resume()
        assert isinstance(found[0], Admitted)
    async with open_ether() as ether, open_mesh_node(ether, "a", before) as a:
        assert not a.membership.is_member(keypair("b").public_key)
        assert isinstance(await answer(a, text, "c"), Admitted)


async def test_an_invite_ends(autojump_clock: Any) -> None:
    clock = WallClock()
    async with open_ether() as ether, open_mesh_node(ether, "a", Disk(), clock) as a:
        text = await invite(a, ttl_s=60)
        clock.advance(61)
        with pytest.raises(JoinError, match="expired"):
            await ask(ether, text, "b")


async def test_many_that_ask_at_once_get_numbers_of_their_own(autojump_clock: Any) -> None:
    async with open_ether() as ether, open_mesh_node(ether, "a", Disk()) as a:
        texts = {f"n{n}": await invite(a) for n in range(10)}
        numbers: dict[str, int] = {}

        async def try_it(name: str, text: str) -> None:
            numbers[name] = (await ask(ether, text, name)).number

        async with trio.open_nursery() as nursery:
            for name, text in texts.items():
                nursery.start_soon(try_it, name, text)
        assert sorted(numbers.values()) == list(range(2, 12))


async def test_a_disk_that_is_full_burns_no_invite(autojump_clock: Any) -> None:
    disk = Disk()
    async with open_ether() as ether, open_mesh_node(ether, "a", disk) as a:
        text = await invite(a)
        disk.fill()
        refused = await answer(a, text, "b")
        assert isinstance(refused, Refused)
        assert refused.again
        disk.make_room()
        assert isinstance(await answer(a, text, "b"), Admitted)


# --- strangers ----------------------------------------------------------------------------


async def test_a_proof_that_was_overheard_is_worth_nothing_to_another_key(
    autojump_clock: Any,
) -> None:
    async with open_ether() as ether, open_mesh_node(ether, "a", Disk()) as a:
        text = await invite(a)
        refused = await answer(a, text, "thief", showing="b")
        assert refused == Refused("this is not an invite of this node", again=False)
        assert isinstance(await answer(a, text, "b"), Admitted)


async def test_all_wrong_invites_get_the_same_answer(autojump_clock: Any) -> None:
    clock = WallClock()
    async with (
        open_ether() as ether,
        open_mesh_node(ether, "a", Disk(), clock) as a,
        open_mesh_node(ether, "z", Disk(), clock) as z,
    ):
        used, late = await invite(a), await invite(a, ttl_s=1)
        await ask(ether, used, "b")
        clock.advance(2)
        foreign = await invite(z)
        wrong = Refused("this is not an invite of this node", again=False)
        assert await answer(a, foreign, "c") == wrong
        for known in (used, late):  # Who has not the secret does not learn that it was one.
            assert await answer(a, known, "thief", showing="c") == wrong


@given(strategies.binary(max_size=300))
def test_any_bytes_are_a_request_or_refused(data: bytes) -> None:
    try:
        join_messages.decode_ask(data)
    except InvalidData:
        return
    assert len(data) <= join_messages.ASK_SIZE_MAX_BYTES


async def test_garbage_is_refused_and_changes_nothing(autojump_clock: Any) -> None:
    disk = Disk()
    async with open_ether() as ether, open_mesh_node(ether, "a", disk) as a:
        good = frame_for(await invite(a), "b")
        before = disk.snapshot()
        for frame in (
            b"\0",
            b"\xff" * 100,
            good[:-1],
            good + b"\0",
            good * 3,
            b"\x9b" + b"\xff" * 8,
        ):
            raw = await a.membership.answer_join(peer_id("b"), frame)
            assert join_messages.decode_answer(raw) == Refused(
                "this is not a request to join", again=False
            )
        raw = await a.membership.answer_join("not a peer id", good)
        assert isinstance(join_messages.decode_answer(raw), Refused)
        assert disk.snapshot() == before


async def test_strangers_may_ask_so_often_and_then_wait(autojump_clock: Any) -> None:
    async with open_ether() as ether, open_mesh_node(ether, "a", Disk()) as a:
        text = await invite(a)
        answers = [
            await answer(a, text, f"thief-{n}", showing="b")
            for n in range(membership.ASKED_BURST + 1)
        ]
        assert answers[0] == Refused("this is not an invite of this node", again=False)
        limited = await answer(a, text, "b")
        assert isinstance(limited, Refused)
        assert limited.again
        # Whoever was invited gets in all the same, a little later.
        await ask(ether, text, "b")


async def test_a_key_that_is_in_already_or_was_evicted_is_told_so(autojump_clock: Any) -> None:
    async with open_ether() as ether, open_mesh_node(ether, "a", Disk()) as a:
        first = await invite(a)
        await ask(ether, first, "b")
        with pytest.raises(JoinError, match="in the mesh already, as node 2"):
            await ask(ether, await invite(a), "b")
        await a.membership.evict("2", "", distrust=False)
        for text in (first, await invite(a)):
            with pytest.raises(JoinError, match="was evicted"):
                await ask(ether, text, "b")


async def test_a_lying_inviter_makes_no_member(autojump_clock: Any) -> None:
    async with (
        open_ether() as ether,
        open_mesh_node(ether, "a", Disk()) as a,
        open_mesh_node(ether, "z", Disk()) as z,
    ):
        text = await invite(a)
        found, key = mesh_invites.read(text), keypair("b").public_key
        good = await answer(a, text, "b")
        foreign = await answer(z, await invite(z), "b")
        assert isinstance(good, Admitted)
        assert isinstance(foreign, Admitted)
        assert joining.check(good, found, key).number == 2
        lies = [
            foreign,
            Admitted(good.genesis, foreign.facts, ()),
            Admitted(good.genesis, (), ()),
            Admitted(good.genesis, (good.facts[0][:-1],), ()),
            Admitted(b"", good.facts, ()),
        ]
        for lie in lies:
            with pytest.raises(JoinError):
                joining.check(lie, found, key)
        with pytest.raises(JoinError):
            joining.check(good, found, keypair("c").public_key)


async def test_an_inviter_that_is_not_there_is_named(autojump_clock: Any) -> None:
    async with open_ether() as ether:
        async with open_mesh_node(ether, "a", Disk()) as a:
            text = await invite(a)
        network = ether.network("b")
        with pytest.raises(JoinError, match="within 5 s") as raised:
            await joining.ask(network, mesh_invites.read(text), keypair("b"), 5.0)
        assert address_of("a") in str(raised.value)


# --- evicting -----------------------------------------------------------------------------


async def test_an_evicted_node_is_cut_off_at_once(autojump_clock: Any) -> None:
    async with open_ether() as ether, open_mesh_node(ether, "a", Disk()) as a:
        disk = await join(ether, a, "b")
        async with open_mesh_node(ether, "b", disk) as b:
            await settle()
            operator = Caller(a, a.identity.operator_token)
            gone = await operator.post("/mesh/evict", {"node": b.identity.peer_id, "reason": "x"})
            assert (gone["node_id"], gone["state"]) == ("2", "evicted")
            await settle()
            assert b.peering is not None
            assert b.peering.network.peers() == []
            ether.redial()
            await settle()
            assert b.peering.network.peers() == []
            with pytest.raises(PeerError):
                await b.peering.network.request(
                    peer_id("a"),
                    join_messages.PEERS_PROTOCOL,
                    b"x",
                    reply_size_max_bytes=100,
                    timeout_s=1,
                )
            # Once more is no error, and no second fact.
            facts_known = len(a.registry.authority)
            await operator.post("/mesh/evict", {"node": "2"})
            assert len(a.registry.authority) == facts_known


async def test_only_those_above_evict_and_the_others_are_told_who(autojump_clock: Any) -> None:
    async with open_ether() as ether, open_mesh_node(ether, "a", Disk()) as a:
        disk = await join(ether, a, "b")
        async with open_mesh_node(ether, "b", disk) as b:
            operator = Caller(b, b.identity.operator_token)
            for number in ("1", "2"):
                refused = await operator.post("/mesh/evict", {"node": number}, 403)
                assert "node 1" in refused["hint"]
            missing = await operator.post("/mesh/evict", {"node": "77"}, 404)
            assert missing["field"] == "node"
            await operator.post("/mesh/evict", {"node": "x" * 52}, 404)
            await operator.post("/mesh/evict", {"node": "²"}, 404)
            c = await ask(ether, await invite(b), "c")
            gone = await operator.post("/mesh/evict", {"node": str(c.number)})
            assert gone["state"] == "evicted"


async def test_an_evicted_node_admits_nobody(autojump_clock: Any) -> None:
    async with open_ether() as ether, open_mesh_node(ether, "a", Disk()) as a:
        disk = await join(ether, a, "b")
        await a.membership.evict("2", "", distrust=True)
        async with open_mesh_node(ether, "b", disk) as b:
            text = await invite(b)
            for fact in a.registry.authority:
                b.registry.learn(fact)
            refused = await Caller(b, b.identity.operator_token).post("/mesh/invite", {}, 403)
            assert "evicted" in refused["detail"]
            assert isinstance(await answer(b, text, "c"), Refused)


# --- the operator's pages -----------------------------------------------------------------


async def test_the_mesh_is_the_operators_business(autojump_clock: Any) -> None:
    async with open_ether() as ether, open_mesh_node(ether, "a", Disk()) as a:
        ada = await sign_up(a, "ada")
        for caller, status in ((Caller(a), 401), (ada, 403)):
            await caller.get("/mesh/peers", status)
            await caller.post("/mesh/invite", {}, status)
            await caller.post("/mesh/evict", {"node": "1"}, status)
            await caller.post("/mesh/resolve", {}, status)
        operator = Caller(a, a.identity.operator_token)
        await operator.get("/mesh/invite", 405)
        await operator.post("/mesh/invite", {"ttl_s": -1}, 422)
        await operator.post("/mesh/invite", {"addresses": ["localhost"]}, 422)
        await operator.get("/mesh/other", 404)


async def test_a_node_by_itself_sees_itself_and_cannot_be_joined(autojump_clock: Any) -> None:
    async with open_memory_node() as node:
        operator = Caller(node, node.identity.operator_token)
        (own,) = (await operator.get("/mesh/peers"))["items"]
        assert (own["node_id"], own["state"], own["addresses"]) == ("1", "self", [])
        refused = await operator.post("/mesh/invite", {}, 409)
        assert "--p2p" in refused["hint"]
        refused = await operator.post("/mesh/evict", {"node": "1"}, 403)
        assert refused["field"] == "node"


async def test_a_member_that_talks_nonsense_gets_no_answer(autojump_clock: Any) -> None:
    async with open_ether() as ether, open_mesh_node(ether, "a", Disk()) as a:
        disk = await join(ether, a, "b")
        async with open_mesh_node(ether, "b", disk) as b:
            await settle()
            assert b.peering is not None
            before = a.membership.book.find(keypair("b").public_key)
            for frame in (b"\0", b"\xff" * 2000):
                with pytest.raises(PeerError):
                    await b.peering.network.request(
                        peer_id("a"),
                        join_messages.PEERS_PROTOCOL,
                        frame,
                        reply_size_max_bytes=100,
                        timeout_s=1,
                    )
            assert a.membership.book.find(keypair("b").public_key) == before
            assert (await peers(a))["2"]["state"] == "up"


async def test_addresses_that_nobody_can_dial_are_left_out(autojump_clock: Any) -> None:
    async with open_memory_node() as node:
        book, key = node.membership.book, keypair("x").public_key
        assert not book.say(key, ("/ip4/999.0.0.1/tcp/1", "/ip4/1.2.3.4/tcp/99999"))
        assert book.say(key, ("/ip4/999.0.0.1/tcp/1", "/ip4/1.2.3.4/tcp/5"))
        assert book.hear(key, ("/ip4/1.2.3.4/tcp/6",))
        assert not book.hear(key, ("/ip4/1.2.3.4/tcp/5",))
        assert book.find(key) == ("/ip4/1.2.3.4/tcp/5", "/ip4/1.2.3.4/tcp/6")
        book.forget(key)
        assert book.find(key) == ()


async def test_an_invite_names_where_the_node_is_or_what_the_operator_says(
    autojump_clock: Any,
) -> None:
    async with open_ether() as ether, open_mesh_node(ether, "a", Disk()) as a:
        assert mesh_invites.read(await invite(a)).addresses == (address_of("a"),)
        public = ["/ip4/192.0.2.7/tcp/4001"]
        assert mesh_invites.read(await invite(a, addresses=public)).addresses == tuple(public)


async def test_who_was_there_and_when_is_shown(autojump_clock: Any) -> None:
    async with open_ether() as ether, open_mesh_node(ether, "a", Disk()) as a:
        disk = await join(ether, a, "b")
        async with open_mesh_node(ether, "b", disk):
            await settle()
            up = (await peers(a))["2"]
            assert up["latency_s"] is not None
            assert up["seen_at"] == "2027-01-15T08:00:00.000Z"
            assert (up["admitted_by"], up["peer_id"]) == ("1", peer_id("b"))
        await settle()
        down = (await peers(a))["2"]
        assert (down["state"], down["latency_s"]) == ("down", None)
        assert down["addresses"] == [address_of("b")]


# --- addresses ----------------------------------------------------------------------------


async def test_addresses_survive_a_restart(autojump_clock: Any) -> None:
    a_disk = Disk()
    async with open_ether() as ether:
        async with open_mesh_node(ether, "a", a_disk) as a:
            b_disk = await join(ether, a, "b")
            async with open_mesh_node(ether, "b", b_disk):
                await settle()
            b_copy = b_disk.copy()
            a_copy = a_disk.copy()
        async with open_mesh_node(ether, "b", b_copy) as b, open_mesh_node(ether, "a", a_copy):
            await settle()
            assert (await peers(b))["1"]["state"] == "up"


async def move(ether: Ether, name: str, address: str) -> None:
    ether.listening[peer_id(name)] = address


async def test_a_node_that_has_moved_is_found_through_another(autojump_clock: Any) -> None:
    """B moves while C is away; C still knows A, and A has met B since."""
    async with open_ether() as ether, open_mesh_node(ether, "a", Disk()) as a:
        b_disk, c_disk = await join(ether, a, "b"), await join(ether, a, "c")
        async with open_mesh_node(ether, "b", b_disk) as b:
            await settle()
            for fact in a.registry.authority:
                b.registry.learn(fact)
            async with open_mesh_node(ether, "c", c_disk) as c:
                for fact in a.registry.authority:
                    c.registry.learn(fact)
                await settle()
                assert (await peers(c))["2"]["state"] == "up"
        b_copy, c_copy = b_disk.copy(), c_disk.copy()
        async with open_mesh_node(ether, "b", b_copy):
            await move(ether, "b", "/dns4/elsewhere/tcp/1")
            await settle()
            async with open_mesh_node(ether, "c", c_copy) as c:
                await settle()
                assert (await peers(c))["2"]["state"] == "up"


async def test_a_peer_is_told_where_others_are_once_and_when_that_changes(
    autojump_clock: Any,
) -> None:
    async with open_ether() as ether, open_mesh_node(ether, "a", Disk()) as a:
        b_disk, _ = await join(ether, a, "b"), await join(ether, a, "c")
        async with open_mesh_node(ether, "b", b_disk) as b:
            await settle()
            assert a.peering is not None
            assert b.peering is not None
            greeting = join_messages.encode(
                Greeting(b.peering.addresses, await b.lives.statement(), ())
            )

            async def told() -> list[bytes]:
                assert a.peering is not None
                reply = await a.peering._answer_greeting(peer_id("b"), greeting)
                return [each.public_key for each in join_messages.decode_greeted(reply).known]

            c_key = keypair("c").public_key
            await told()
            a.membership.book.hear(c_key, ("/dns4/c/tcp/1",))
            assert await told() == [c_key]
            assert await told() == []
            a.membership.book.hear(c_key, ("/dns4/elsewhere/tcp/1",))
            assert await told() == [c_key]
            ether.wire.disconnect(peer_id("a"), peer_id("b"))
            assert await told() == [c_key], "another link, and who is there may be another"


# --- numbers ------------------------------------------------------------------------------


def grown(blocks: int) -> Authority:
    """Return a mesh whose founder has admitted so many nodes."""
    founder = keypair("f")
    genesis = facts.found_mesh(founder, "mesh", 0)
    authority = Authority(genesis.id, [genesis])
    for n in range(blocks):
        found = node_numbers.next_number((2, 1 << 14), authority)
        assert found is not None
        grant = facts.NodeGrant(
            found[0], keypair(f"{n}").public_key, found[1], (), None, 0, 1 << 46, 1, n
        )
        seal = facts.sign(grant, founder, genesis.id)
        assert authority.add(facts.assemble(grant, seal, genesis.id))
    return authority


def test_no_number_and_no_block_is_given_twice() -> None:
    authority = grown(200)
    taken: list[tuple[int, int]] = []
    for node in authority.nodes()[1:]:
        taken.append((node.number, node.number + 1))
        if node.block:
            taken.append(node.block)
    taken.sort()
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(taken))
    assert sum(node.is_member for node in authority.nodes()) == 201


@given(strategies.integers(2, 16382), strategies.integers(1, 60))
def test_a_block_is_used_up_to_its_last_number(low: int, size: int) -> None:
    high = min(low + size, 1 << 14)
    founder = keypair("f")
    genesis = facts.found_mesh(founder, "mesh", 0)
    known: list[facts.Fact] = []
    numbers = []
    while (found := node_numbers.next_number((low, high), known)) is not None:
        number, block = found
        numbers.append(number)
        assert low <= number < high
        assert block is None or number < block[0] < block[1] <= high
        grant = facts.NodeGrant(number, b"k" * 32, block, (), None, 0, 1, 1, 0)
        seal = facts.sign(grant, founder, genesis.id)
        known.append(facts.assemble(grant, seal, genesis.id))
    assert len(set(numbers)) == len(numbers)
    given_away = sum(
        fact.statement.block[1] - fact.statement.block[0]
        for fact in known
        if isinstance(fact.statement, facts.NodeGrant) and fact.statement.block
    )
    assert len(numbers) + given_away == high - low


def test_an_answer_keeps_to_its_limit_and_has_the_chain_in_it() -> None:
    authority = grown(200)
    found = membership._fitting(authority)
    assert sum(map(len, found)) <= membership.FACTS_BUDGET_BYTES
    assert signing.peer_id(keypair("f").public_key).startswith("12D3KooW")
