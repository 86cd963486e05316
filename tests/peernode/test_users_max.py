"""A node makes as many users as it was let in for, and others keep twice as many of its at most."""

from random import Random

import pytest
import trio
import trio.testing

from peernode.node import Node
from peernode.records_in import USERS_FACTOR
from storage import facts, ids
from storage.facts import Fact, UserKey
from storage.signing import Keypair
from tests.peernode.federated import Federated, genesis, open_federated
from tests.peernode.meshes import keypair, peer_id
from tests.peernode.nodes import PASSWORD, START_MS, Caller, settle

MAX = 3
HOME = 2


def user_fact(sequence: int, key: int = 0, home: str = "b", number: int = HOME) -> Fact:
    """Return a user that a node has made, with the keys that a test wants."""
    keys = Keypair.from_seed(bytes([key, *sequence.to_bytes(4, "big")]) + bytes(27))
    user = ids.pack(START_MS, number, sequence)
    statement = UserKey(
        user, 0, f"user{sequence}", keys.public_key, bytes(32), number, False, START_MS << 16
    )
    mesh = genesis().id
    seal = facts.sign(statement, keys, mesh)
    return facts.assemble(
        statement, seal, mesh, home=facts.sign_home(statement, keypair(home), mesh)
    )


def made(node: Node, number: int = HOME) -> int:
    return node.registry.authority.users_made_at(number)


def penalty(mesh: Federated, at: str, name: str) -> float:
    federation = mesh.nodes[at].federation
    assert federation is not None
    return federation.standing.penalty(peer_id(name), trio.current_time())


async def take(node: Node, items: list[Fact], sender: str = "a") -> list[str]:
    assert node.federation is not None
    refused = await node.federation.ingestion.take(items, peer_id(sender))
    return [refusal.sender for refusal in refused]


async def test_a_node_makes_as_many_users_as_it_may_and_says_so(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_federated(2, users_max=MAX) as mesh:
        for number in range(MAX):
            ada = await mesh.sign_up(f"user{number}", "b")
        await ada.delete(f"/user/{ada.id}")
        body = {"name": "one-more", "password": PASSWORD}
        answer = await Caller(mesh.nodes["b"]).post("/user", body, 429)
        assert (answer["code"], answer["limit"]) == ("quota_exceeded", MAX)
        assert "users_max" in answer["detail"]
        for number in range(2 * MAX):
            await mesh.sign_up(f"other{number}", "a")
        await trio.sleep(2)
        assert made(mesh.nodes["a"]) == made(mesh.nodes["b"]) == MAX
        assert penalty(mesh, "a", "b") == 0


@pytest.mark.parametrize("seed", range(5))
async def test_up_to_twice_as_many_all_know_the_same_whatever_the_order(
    seed: int, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_federated(3, connected=False, users_max=MAX) as mesh:
        users = [user_fact(number) for number in range(USERS_FACTOR * MAX)]
        for name in ("a", "c"):
            Random(f"{seed}{name}").shuffle(users)
            for item in users:
                assert await take(mesh.nodes[name], [item, users[0]]) == []
        assert list(mesh.nodes["a"].registry.authority.users()) == (
            mesh.nodes["c"].registry.authority.users()
        )
        assert made(mesh.nodes["a"]) == USERS_FACTOR * MAX


async def test_beyond_that_nothing_is_kept_and_its_maker_is_to_blame_not_who_brings_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_federated(3, connected=False, users_max=MAX) as mesh:
        users = [user_fact(number) for number in range(100)]
        refused = await take(mesh.nodes["a"], users, sender="c")
        assert refused == [peer_id("b")] * (100 - USERS_FACTOR * MAX)
        assert made(mesh.nodes["a"]) == USERS_FACTOR * MAX
        # The same once more changes nothing, and what is known is no fault.
        assert await take(mesh.nodes["a"], users[: USERS_FACTOR * MAX]) == []


async def test_many_first_keys_of_one_user_are_many_users(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_federated(2, connected=False, users_max=MAX) as mesh:
        await take(mesh.nodes["a"], [user_fact(1, key) for key in range(50)])
        assert made(mesh.nodes["a"]) == USERS_FACTOR * MAX


async def test_a_node_takes_back_all_of_its_own_and_the_founder_has_no_limit(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_federated(2, connected=False, users_max=MAX) as mesh:
        assert await take(mesh.nodes["b"], [user_fact(number) for number in range(20)]) == []
        founders = [user_fact(number, home="a", number=1) for number in range(20)]
        assert await take(mesh.nodes["b"], founders) == []
        assert made(mesh.nodes["b"], 1) == made(mesh.nodes["b"]) == 20


async def test_a_node_that_goes_on_making_users_is_cut_off(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_federated(3, users_max=MAX) as mesh:
        home = mesh.nodes["b"].federation
        assert home is not None
        for number in range(20):
            home.gossip.publish(user_fact(number))
        await trio.sleep(5)
        for name in ("a", "c"):
            assert made(mesh.nodes[name]) == USERS_FACTOR * MAX
            assert peer_id("b") not in mesh.wire.peers(peer_id(name))
        assert mesh.wire.peers(peer_id("a")) == [peer_id("c")]
        ada = await mesh.sign_up("ada", "a")
        await settle()
        await trio.sleep(2)
        there = mesh.nodes["c"].registry.user(int(ada.id))
        assert there is not None
