"""Fetching: a definite and correct answer, whoever the peers are."""

import re
from collections.abc import Iterator
from hashlib import sha256

import pytest
from hypothesis import given, settings, strategies as st

from gossip.errors import PeerClosed, PeerUnreachable, RemoteProtocolError
from gossip.fetch import Fetch
from gossip.fetch_events import (
    Ask,
    Bad,
    Block,
    FetchConfig,
    Found,
    LookedUp,
    Missing,
    Overloaded,
    Replied,
    TimedOut,
    Unanswered,
    Unreachable,
    Unusable,
    Verified,
    Withdraw,
)
from gossip.fetch_messages import (
    DATA_SIZE_MAX_BYTES,
    Data,
    Get,
    Kind,
    Missing as MissingReply,
    Refused,
    Thing,
    decode_request,
    encode,
    path,
)
from storage import cid as cids
from storage.cid import Cid, raw_leaf
from tests.gossip.fetching import (
    BLOB,
    LEAF_SIZE_BYTES,
    LINKS_MAX,
    Content,
    Peer,
    Simulation,
    make_content,
    small_blocks,
)

JOB = (1 << 40) + 5
SNAPSHOT = Thing(Kind.SNAPSHOT, JOB, b"")
SIGNED = {Cid(b""): b"signed snapshot"}


@pytest.fixture(autouse=True, scope="module")
def _small() -> Iterator[None]:
    with small_blocks():
        yield


def outcome(simulation: Simulation, waiter: int) -> object:
    return simulation.answers[waiter].outcome


def places(peer: Peer) -> list[tuple[int, int]]:
    return [(get.depth, get.index) for get in peer.asked]


# --- content ------------------------------------------------------------------------------------


@pytest.mark.parametrize("leaves", [1, 2, 4, 5, 16, 17, 21, 64])
def test_content_of_any_shape_comes_from_its_home(leaves: int) -> None:
    content = make_content(leaves)
    simulation = Simulation(Peer("home", content.blocks), content=content)
    waiter = simulation.ask(home="home")
    simulation.run()
    assert outcome(simulation, waiter) == Found(b"", ("home",))
    assert simulation.held == content.blocks
    assert len(simulation.requests) == len(content.blocks)
    assert simulation.fetch.deadline is None


def test_the_root_comes_first_and_nodes_before_what_is_below() -> None:
    content = make_content(16)
    home = Peer("home", content.blocks)
    simulation = Simulation(home, content=content)
    simulation.ask()
    simulation.run()
    asked = places(home)
    assert asked[0] == (0, 0)
    for at, (depth, index) in enumerate(asked):
        assert depth == 0 or (depth - 1, index // LINKS_MAX) in asked[:at]
    leaves = [index for depth, index in asked if depth == 2]
    assert leaves == sorted(leaves)


def test_content_can_be_read_while_it_comes() -> None:
    content = make_content(64)
    home = Peer("home", content.blocks)
    simulation = Simulation(home, content=content)
    simulation.ask()
    simulation.run()
    asked = places(home)
    assert asked.index((3, 0)) < asked.index((2, 15)), "the last nodes can wait"


def test_a_right_goes_with_every_request() -> None:
    content = make_content(5)
    home = Peer("home", content.blocks)
    simulation = Simulation(home, content=content)
    simulation.ask(auth=b"certificate")
    simulation.run()
    assert {(get.auth, get.id, get.name) for get in home.asked} == {
        (b"certificate", BLOB, bytes(content.cid))
    }


def test_what_is_here_is_not_asked_for() -> None:
    content = make_content(21)
    home = Peer("home", content.blocks)
    simulation = Simulation(home, content=content)
    simulation.held = dict(content.blocks)
    waiter = simulation.ask()
    simulation.run()
    assert outcome(simulation, waiter) == Found(b"", ())
    assert home.asked == []


@pytest.mark.parametrize("answers", [1, 2, 7, 13, 20])
def test_a_fetch_that_was_broken_off_goes_on_where_it_was(answers: int) -> None:
    content = make_content(21)
    dying = Peer("home", content.blocks, answers_max=answers)
    simulation = Simulation(dying, content=content)
    waiter = simulation.ask()
    simulation.run()
    assert outcome(simulation, waiter) == Unreachable(("home",), ())
    assert len(simulation.held) == answers
    other = Peer("other", content.blocks)
    simulation.peers = {"other": other}
    waiter = simulation.ask()
    simulation.run()
    assert outcome(simulation, waiter) == Found(b"", ("other",))
    assert simulation.held == content.blocks
    assert len(other.asked) == len(content.blocks) - answers


def test_a_block_that_content_has_in_many_places_comes_once() -> None:
    content = make_content(16, repeats=True)
    home = Peer("home", content.blocks)
    simulation = Simulation(home, content=content)
    waiter = simulation.ask()
    simulation.run()
    assert outcome(simulation, waiter) == Found(b"", ("home",))
    assert len(home.asked) == len(content.blocks) < 16


def test_peers_share_the_work() -> None:
    content = make_content(64)
    peers = [Peer(name, content.blocks) for name in ("home", "one", "two", "three")]
    simulation = Simulation(*peers, content=content)
    waiter = simulation.ask()
    simulation.run()
    assert outcome(simulation, waiter) == Found(b"", ("home", "one", "two"))
    assert min(len(peer.asked) for peer in peers[:3]) > 20
    assert peers[3].asked == []
    assert len(simulation.requests) == len(content.blocks)


def test_a_fast_peer_does_more_of_it() -> None:
    content = make_content(64)
    slow, fast = Peer("slow", content.blocks, delay_s=0.4), Peer("fast", content.blocks)
    simulation = Simulation(slow, fast, content=content)
    waiter = simulation.ask()
    simulation.run()
    assert isinstance(outcome(simulation, waiter), Found)
    assert len(fast.asked) > 4 * len(slow.asked)


def test_a_window_is_open_while_the_disk_keeps_up() -> None:
    content = make_content(64)
    simulation = Simulation(Peer("home", content.blocks), content=content)
    simulation.verify_s = 5.0
    simulation.ask()
    simulation.run(until=8.0)
    # The root, and then as much as a window holds: nothing more until that is verified.
    assert len(simulation.requests) == 1 + FetchConfig().window


def test_nobody_is_asked_for_what_is_being_verified() -> None:
    content = make_content(2)
    peers = Peer("home", content.blocks), Peer("near", content.blocks)
    simulation = Simulation(*peers, content=content)
    simulation.verify_s = 5 * FetchConfig().copy_after_s
    waiter = simulation.ask()
    simulation.run()
    assert isinstance(outcome(simulation, waiter), Found)
    assert len(simulation.requests) == len(content.blocks)


def test_who_has_given_nothing_yet_is_asked_for_one_thing() -> None:
    content = make_content(64)
    silent = Peer("silent", silent=True)
    simulation = Simulation(Peer("home", content.blocks, delay_s=0.02), silent, content=content)
    waiter = simulation.ask()
    simulation.run(until=5.0)
    assert outcome(simulation, waiter) == Found(b"", ("home",))
    assert len(silent.asked) == 1


# --- peers that do not have it ------------------------------------------------------------------


def test_a_neighbour_is_asked_when_the_home_has_lost_it() -> None:
    content = make_content(5)
    simulation = Simulation(Peer("home"), Peer("near", content.blocks), content=content)
    waiter = simulation.ask()
    simulation.run()
    assert outcome(simulation, waiter) == Found(b"", ("near",))
    assert simulation.penalised == []


def test_nobody_has_it() -> None:
    content = make_content(5)
    simulation = Simulation(Peer("home"), Peer("one"), Peer("two"), content=content)
    waiter = simulation.ask()
    simulation.run()
    assert outcome(simulation, waiter) == Missing(("home", "one", "two"))


def test_there_is_nobody_to_ask() -> None:
    simulation = Simulation(content=make_content(5))
    waiter = simulation.ask()
    simulation.run()
    assert outcome(simulation, waiter) == Missing(())


def test_the_home_s_word_is_final_and_nobody_else_s_is() -> None:
    content = make_content(5)
    home, one = Peer("home", final=True), Peer("one", content.blocks)
    simulation = Simulation(home, one, content=content)
    waiter = simulation.ask(home="home")
    simulation.run()
    assert outcome(simulation, waiter) == Missing(("home",))
    assert one.asked == []
    waiter = simulation.ask(home="elsewhere")
    simulation.run()
    assert isinstance(outcome(simulation, waiter), Found)


@pytest.mark.parametrize(("home", "expected"), [("home", Missing), ("", Found)])
def test_who_is_refused_by_the_home_gets_nothing(home: str, expected: type) -> None:
    content = make_content(5)
    peers = Peer("home", reply=Refused("right")), Peer("one", content.blocks)
    simulation = Simulation(*peers, content=content)
    waiter = simulation.ask(home=home)
    simulation.run()
    assert isinstance(outcome(simulation, waiter), expected)


def test_a_busy_home_is_not_a_home_without_it() -> None:
    simulation = Simulation(
        Peer("home", reply=Refused("busy")), Peer("one"), content=make_content(5)
    )
    waiter = simulation.ask(home="home")
    simulation.run()
    assert outcome(simulation, waiter) == Unreachable(("home",), ("one",))


def test_a_peer_may_know_who_has_it() -> None:
    content = make_content(5)
    home = Peer("home", holders=("far", "home"))
    simulation = Simulation(home, Peer("far", content.blocks), content=content)
    waiter = simulation.ask(providers=["home"])
    simulation.run()
    assert outcome(simulation, waiter) == Found(b"", ("far",))


def test_a_liar_cannot_name_peers_without_end() -> None:
    simulation = Simulation(content=make_content(5))
    for number in range(40):
        simulation.peers[f"{number}"] = Peer(
            f"{number}", holders=tuple(f"{number * 7 + at}" for at in range(16))
        )
    waiter = simulation.ask(providers=["0"])
    simulation.run()
    assert len(simulation.requests) == FetchConfig().providers_max
    # Some of those it named are not connected.
    assert isinstance(outcome(simulation, waiter), Missing | Unreachable)


def test_two_halves_make_a_whole() -> None:
    content = make_content(21)
    odd = {cid: data for at, (cid, data) in enumerate(content.blocks.items()) if at % 2}
    even = {cid: data for at, (cid, data) in enumerate(content.blocks.items()) if not at % 2}
    odd[content.cid] = content.blocks[content.cid]
    even[content.cid] = content.blocks[content.cid]
    simulation = Simulation(Peer("odd", odd), Peer("even", even), content=content)
    waiter = simulation.ask()
    simulation.run()
    assert isinstance(outcome(simulation, waiter), Found)
    assert simulation.held == content.blocks


def test_a_peer_that_lacks_most_of_it_is_left_alone() -> None:
    content = make_content(64)
    few = {content.cid: content.blocks[content.cid]}
    lacking = Peer("lacking", few)
    simulation = Simulation(
        lacking,
        Peer("home", content.blocks, delay_s=0.2),
        content=content,
        config=FetchConfig(misses_max=3),
    )
    waiter = simulation.ask()
    simulation.run()
    assert isinstance(outcome(simulation, waiter), Found)
    assert len(lacking.asked) <= 1 + 3 + FetchConfig().window


def test_a_peer_that_lacks_something_now_and_then_goes_on() -> None:
    content = make_content(64)
    most = dict(content.blocks)
    for leaf in content.leaves()[::8]:
        del most[leaf]
    peer = Peer("most", most)
    simulation = Simulation(
        peer,
        Peer("all", content.blocks, delay_s=0.5),
        content=content,
        config=FetchConfig(misses_max=5),
    )
    waiter = simulation.ask()
    simulation.run()
    assert isinstance(outcome(simulation, waiter), Found)
    assert len(peer.asked) > 60


# --- peers that cannot be reached ---------------------------------------------------------------


@pytest.mark.parametrize("error", [PeerUnreachable("down"), PeerClosed("reset")])
def test_without_the_home_a_neighbour_serves(error: PeerClosed) -> None:
    content = make_content(5)
    peers = Peer("home", error=error), Peer("near", content.blocks)
    simulation = Simulation(*peers, content=content)
    waiter = simulation.ask(home="home")
    simulation.run()
    assert outcome(simulation, waiter) == Found(b"", ("near",))
    assert simulation.answered_at[waiter] < 0.5


def test_who_could_not_be_reached_is_named() -> None:
    peers = Peer("home", error=PeerUnreachable("down")), Peer("one")
    simulation = Simulation(*peers, content=make_content(5))
    waiter = simulation.ask(providers=["home", "gone", "one"])
    simulation.run()
    assert outcome(simulation, waiter) == Unreachable(("home", "gone"), ("one",))


def test_a_silent_home_costs_a_second() -> None:
    content = make_content(5)
    simulation = Simulation(
        Peer("home", silent=True), Peer("near", content.blocks), content=content
    )
    waiter = simulation.ask(home="home")
    simulation.run(until=2.0)
    assert outcome(simulation, waiter) == Found(b"", ("near",))


def test_a_home_that_falls_silent_in_the_middle_costs_a_second() -> None:
    content = make_content(21)
    peers = Peer("home", content.blocks, answers_max=9), Peer("near", content.blocks)
    simulation = Simulation(*peers, content=content)
    waiter = simulation.ask(home="home")
    simulation.run(until=2.0)
    assert outcome(simulation, waiter) == Found(b"", ("home", "near"))


def test_everyone_is_silent() -> None:
    names = ["home", "one", "two", "three", "four"]
    simulation = Simulation(*(Peer(name, silent=True) for name in names), content=make_content(5))
    waiter = simulation.ask()
    simulation.run()
    assert outcome(simulation, waiter) == Unreachable(tuple(names), ())
    assert simulation.answered_at[waiter] < 3 * FetchConfig().silence_s
    assert len(simulation.requests) == 5


def test_a_deadline_is_kept_and_says_who_is_to_blame() -> None:
    peers = Peer("missing"), Peer("silent", silent=True)
    simulation = Simulation(*peers, content=make_content(5))
    waiter = simulation.ask(time_s=5.0)
    simulation.run()
    assert outcome(simulation, waiter) == TimedOut(("silent",), ("missing",))
    assert simulation.answered_at[waiter] == 5.0
    assert simulation.fetch.fetches == 0


# --- peers that lie -----------------------------------------------------------------------------


@pytest.mark.parametrize("reply", [b"", b"\xff" * 50, Data(b"x" * 5), encode(Data(b"x")) + b"x"])
def test_a_liar_is_out_and_its_block_comes_from_elsewhere(reply: object) -> None:
    content = make_content(5)
    liar = Peer("liar", reply=reply)
    simulation = Simulation(liar, Peer("honest", content.blocks), content=content)
    waiter = simulation.ask(home="liar")
    simulation.run()
    assert outcome(simulation, waiter) == Found(b"", ("honest",))
    assert simulation.penalised == ["liar"]
    assert len(liar.asked) == 1


def test_a_liar_in_the_middle_is_out_with_all_it_was_asked_for() -> None:
    content = make_content(64)
    wrong = dict.fromkeys(content.leaves()[20:], b"wrong")
    liar = Peer("liar", content.blocks | wrong)
    simulation = Simulation(liar, Peer("honest", content.blocks), content=content)
    waiter = simulation.ask()
    simulation.run()
    assert isinstance(outcome(simulation, waiter), Found)
    assert simulation.held == content.blocks
    assert simulation.penalised == ["liar"]


def test_only_liars() -> None:
    simulation = Simulation(Peer("a", lies=True), Peer("b", lies=True), content=make_content(5))
    waiter = simulation.ask()
    simulation.run()
    assert outcome(simulation, waiter) == Missing(("a", "b"))
    assert simulation.penalised == ["a", "b"]


def test_a_rule_that_the_network_saw_broken_counts_as_a_lie() -> None:
    peer = Peer("a", error=RemoteProtocolError("a reply of 2 GB"))
    simulation = Simulation(peer, content=make_content(5))
    waiter = simulation.ask()
    simulation.run()
    assert outcome(simulation, waiter) == Missing(("a",))
    assert simulation.penalised == ["a"]


def test_a_reply_over_the_limit() -> None:
    peer = Peer("a", reply=b"\x82\x02" + bytes(DATA_SIZE_MAX_BYTES + 2000))
    simulation = Simulation(peer, content=make_content(5))
    simulation.ask()
    simulation.run()
    assert simulation.penalised == ["a"]


def node_cid(data: bytes) -> Cid:
    return Cid(b"\x01\x70\x12\x20" + sha256(data).digest())


def node(*links: tuple[Cid, int]) -> bytes:
    """Return a node whose links say what they say."""
    return cids._encode_node([cids._Link(cid, size, size) for cid, size in links])


LEAF = b"l" * LEAF_SIZE_BYTES
SHORT = b"short"
PARENT = node((raw_leaf(LEAF), LEAF_SIZE_BYTES))
DEEP = [SHORT, node((raw_leaf(SHORT), 5))]
for _ in range(3):
    DEEP.append(node((node_cid(DEEP[-1]), 5)))


@pytest.mark.parametrize(
    ("blocks", "says"),
    [
        ([b"no node"], "ends early|not UnixFS|no links"),
        # Two leaves, the second of which is not what it should be.
        (
            [LEAF, SHORT, node((raw_leaf(LEAF), LEAF_SIZE_BYTES), (raw_leaf(SHORT), 7))],
            "another size",
        ),
        # A node with less below it than its parent says.
        ([LEAF, PARENT, node((node_cid(PARENT), 2 * LEAF_SIZE_BYTES))], "another size"),
        (DEEP, "too deep"),
    ],
)
def test_good_blocks_that_are_no_tree(blocks: list[bytes], says: str) -> None:
    named = {raw_leaf(data) if data in (LEAF, SHORT) else node_cid(data): data for data in blocks}
    content = Content(node_cid(blocks[-1]), named)
    simulation = Simulation(Peer("home", content.blocks), content=content)
    waiter = simulation.ask()
    simulation.run()
    found = outcome(simulation, waiter)
    assert isinstance(found, Unusable)
    assert re.search(says, found.reason)
    assert simulation.penalised == []


def test_content_over_the_limit_is_refused_at_its_root() -> None:
    content = make_content(21)
    config = FetchConfig(content_size_max_bytes=20 * LEAF_SIZE_BYTES)
    simulation = Simulation(Peer("home", content.blocks), content=content, config=config)
    waiter = simulation.ask()
    simulation.run()
    assert isinstance(outcome(simulation, waiter), Unusable)
    assert len(simulation.requests) == 1


def test_a_name_that_is_no_cid() -> None:
    simulation = Simulation()
    waiter = simulation.ask(Thing(Kind.BLOB, BLOB, b"no cid"))
    assert isinstance(outcome(simulation, waiter), Unusable)


# --- small things -------------------------------------------------------------------------------


def test_a_snapshot_comes_whole() -> None:
    simulation = Simulation(Peer("home", SIGNED))
    waiter = simulation.ask(SNAPSHOT, home="home")
    simulation.run()
    assert outcome(simulation, waiter) == Found(b"signed snapshot", ("home",))


def test_a_snapshot_whose_signature_is_bad_is_not_taken() -> None:
    forged = {Cid(b""): b"forged"}
    simulation = Simulation(Peer("home", forged), Peer("near", SIGNED))
    waiter = simulation.ask(SNAPSHOT)
    simulation.run()
    assert outcome(simulation, waiter) == Found(b"signed snapshot", ("near",))
    assert simulation.penalised == ["home"]


# --- waiters ------------------------------------------------------------------------------------


def test_equal_things_are_fetched_once_and_everyone_hears() -> None:
    content = make_content(5)
    simulation = Simulation(Peer("home", content.blocks), content=content)
    waiters = [simulation.ask() for _ in range(5)]
    simulation.run()
    assert {outcome(simulation, waiter) for waiter in waiters} == {Found(b"", ("home",))}
    assert len(simulation.requests) == len(content.blocks)


def test_another_right_is_another_fetch() -> None:
    content = make_content(5)
    simulation = Simulation(Peer("home", reply=Refused("right")), content=content)
    one = simulation.ask(auth=b"one", home="home")
    other = simulation.ask(auth=b"other", home="home")
    simulation.run()
    assert simulation.answers[one].fetch != simulation.answers[other].fetch


def test_each_waiter_has_its_own_deadline() -> None:
    simulation = Simulation(Peer("silent", silent=True), content=make_content(5))
    short, long = simulation.ask(time_s=2.0), simulation.ask(time_s=9.0)
    simulation.run()
    assert simulation.answered_at == {short: 2.0, long: 9.0}


def test_without_waiters_everything_is_abandoned() -> None:
    content = make_content(21)
    home = Peer("home", content.blocks, delay_s=1.0)
    simulation = Simulation(home, content=content)
    one, other = simulation.ask(), simulation.ask()
    simulation.run(until=2.5)
    simulation.withdraw(one)
    assert simulation.fetch.fetches == 1
    simulation.withdraw(other)
    assert simulation.fetch.fetches == 0
    asked = len(home.asked)
    simulation.run()
    assert len(home.asked) == asked
    assert simulation.answers == {}


def test_so_many_fetches_and_no_more() -> None:
    config = FetchConfig(fetches_max=2, waiters_max=3)
    simulation = Simulation(Peer("silent", silent=True), config=config)
    things = [Thing(Kind.SNAPSHOT, JOB + number, b"") for number in range(3)]
    simulation.ask(things[0])
    simulation.ask(things[1])
    assert outcome(simulation, simulation.ask(things[2])) == Overloaded()
    simulation.ask(things[1])
    assert outcome(simulation, simulation.ask(things[1])) == Overloaded()
    simulation.run()
    assert len(simulation.answers) == 5


def test_what_comes_too_late_changes_nothing() -> None:
    fetch = Fetch(FetchConfig())
    for late in (
        Replied(1, b""),
        Unanswered(1, PeerClosed("x")),
        Verified(1),
        Bad(1, "x"),
        LookedUp(1, 1, (), ()),
        Withdraw(1),
    ):
        assert fetch.handle(late, 0.0) == []


def test_a_waiter_asks_once() -> None:
    simulation = Simulation(Peer("silent", silent=True))
    simulation.ask(SNAPSHOT)
    with pytest.raises(ValueError, match="waits already"):
        simulation.fetch.handle(Ask(1, SNAPSHOT, b"", (), 1.0), 0.0)
    with pytest.raises(ValueError, match="was to be verified"):
        simulation.fetch.handle(Verified(1), 0.0)
    with pytest.raises(ValueError, match="was to be verified"):
        simulation.fetch.handle(Bad(1, "x"), 0.0)


# --- properties ---------------------------------------------------------------------------------

PEERS = st.lists(
    st.fixed_dictionaries(
        {
            "kind": st.sampled_from(
                ["honest", "part", "missing", "down", "silent", "liar", "dies"]
            ),
            "delay_s": st.sampled_from([0.001, 0.05, 0.7, 3.0]),
            "number": st.integers(0, 30),
        }
    ),
    min_size=0,
    max_size=6,
)


def make_peer(name: str, content: Content, kind: str, delay_s: float, number: int) -> Peer:
    blocks = content.blocks
    part = dict(list(blocks.items())[number % 10 :: 2]) | {content.cid: blocks[content.cid]}
    match kind:
        case "honest":
            return Peer(name, blocks, delay_s)
        case "part":
            return Peer(name, part, delay_s)
        case "missing":
            return Peer(name, {}, delay_s)
        case "down":
            return Peer(name, {}, delay_s, error=PeerUnreachable("down"))
        case "silent":
            return Peer(name, {}, silent=True)
        case "liar":
            wrong = dict(list(blocks.items())[number:])
            return Peer(name, blocks | dict.fromkeys(wrong, b"wrong"), delay_s)
        case _:
            return Peer(name, blocks, delay_s, answers_max=number)


@pytest.mark.slow
@given(
    leaves=st.integers(1, 40),
    specs=PEERS,
    held=st.sets(st.integers(0, 60)),
    waiters=st.integers(1, 3),
)
@settings(max_examples=150, deadline=None)
def test_any_mix_of_peers_ends_in_a_definite_and_correct_answer(
    leaves: int, specs: list[dict[str, object]], held: set[int], waiters: int
) -> None:
    content = make_content(leaves)
    peers = [make_peer(f"{at}", content, **spec) for at, spec in enumerate(specs)]  # type: ignore[arg-type]
    simulation = Simulation(*peers, content=content)
    blocks = list(content.blocks.items())
    simulation.held = dict(blocks[number] for number in sorted(held) if number < len(blocks))
    before = set(simulation.held)
    asking = [simulation.ask() for _ in range(waiters)]
    simulation.run()
    (answer,) = {outcome(simulation, waiter) for waiter in asking}
    kinds = [spec["kind"] for spec in specs]
    match answer:
        case Found(_, sources):
            assert simulation.held == content.blocks
            assert {"honest", "part", "liar", "dies"} >= {kinds[int(name)] for name in sources}
        case Missing(asked):
            assert "honest" not in kinds
            assert set(asked) == {peer.name for peer in peers if not _is_away(peer)}
            assert not any(_is_away(peer) for peer in peers)
        case Unreachable(unreached, asked):
            assert "honest" not in kinds
            assert unreached
            assert set(unreached) | set(asked) == set(simulation.peers)
        case _:
            raise AssertionError(answer)
    # Nothing is asked for that was here, and nothing false is kept.
    assert set(simulation.held.items()) <= set(content.blocks.items())
    asked_for = {content.at(*place) for peer in peers for place in places(peer)}
    assert not asked_for & before
    liars = {peer.name for peer, kind in zip(peers, kinds, strict=True) if kind == "liar"}
    assert set(simulation.penalised) <= liars
    assert simulation.fetch.fetches == 0
    assert simulation.fetch.deadline is None


def _is_away(peer: Peer) -> bool:
    return peer.silent or peer.error is not None or len(peer.asked) > peer.answers_max


# --- places -------------------------------------------------------------------------------------


def test_the_place_of_a_block_says_how_to_get_there() -> None:
    assert path(0, 0) == ()
    assert path(1, 3) == (3,)
    assert path(3, 2 * 16 + 1 * 4 + 3) == (2, 1, 3)


def test_a_request_names_a_place() -> None:
    get = Get(1, Kind.BLOB, BLOB, raw_leaf(b""), 1, 3, b"")
    assert decode_request(encode(get)) == get
    assert MissingReply(False, []) != get
    assert Block(raw_leaf(b""), 0, 0, -1).depth == 0
