"""Reconciliation: both sides end with what either had, whoever the other side is."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gossip import sync_comparison
from gossip.errors import (
    PENALTY_FORGED,
    PENALTY_MALFORMED,
    PeerBusy,
    PeerClosed,
    PeerRefused,
    PeerTimeout,
    RemoteProtocolError,
)
from gossip.sync import Sync
from gossip.sync_events import (
    Accept,
    Apply,
    Closed,
    Done,
    Failed,
    Forged,
    Give,
    Given,
    Open,
    Receive,
    Send,
    SyncConfig,
    Tick,
)
from gossip.sync_index import Item, item, short_id
from gossip.sync_messages import (
    FRAME_SIZE_MAX_BYTES,
    MOVED_MAX,
    PASSES_MAX,
    TURNS_MAX,
    VERSION,
    Answer,
    AnyMessage,
    End,
    Fingerprint,
    Hello,
    Ids,
    Items,
    Ranges,
    Refusal,
    Stratum,
    Welcome,
    decode,
    encode,
    pack_rows,
    unpack_rows,
)
from tests.gossip.syncing import MESH, Node, Table, make_item, union

NONCE = bytes(16)


def items(*ranges: range) -> list[Item]:
    return [make_item(number) for numbers in ranges for number in numbers]


def reconciled(one: Node, other: Node) -> tuple[Table, Done, Done]:
    """Let two nodes compare until nothing is left out, and check what came of it."""
    table = Table(one, other)
    expected = {stratum: union(one, other, stratum=stratum) for stratum in Stratum}
    while True:
        table.open(one.peer, other.peer)
        table.run()
        table.check()
        assert table.failed == {one.peer: [], other.peer: []}
        if table.done[one.peer][-1].is_complete:
            break
        assert table.done[one.peer][-1].sent or table.done[one.peer][-1].received
    for node in (one, other):
        for stratum in Stratum:
            assert node.items(stratum) == expected[stratum]
    mine, theirs = table.done[one.peer][-1], table.done[other.peer][-1]
    assert (mine.sent, mine.received) == (theirs.received, theirs.sent)
    assert (mine.sent_bytes, mine.received_bytes) == (theirs.received_bytes, theirs.sent_bytes)
    assert theirs.is_complete
    assert mine.are_facts_equal == theirs.are_facts_equal
    return table, mine, theirs


# --- what honest nodes get ----------------------------------------------------------------------


def test_two_empty_nodes_have_nothing_to_say() -> None:
    table, done, _ = reconciled(Node("a"), Node("b"))
    assert (done.sent, done.received) == (0, 0)
    assert sum(len(frame) for _, frame in table.frames) < 150


def test_equal_nodes_see_it_at_once() -> None:
    everything = items(range(2000))
    table, done, _ = reconciled(
        Node("a", everything, everything), Node("b", everything, everything)
    )
    assert (done.sent, done.received, done.are_facts_equal) == (0, 0, True)
    assert len(table.frames) == 6


def test_each_gets_what_the_other_has() -> None:
    one = Node("a", items(range(5)), items(range(900), range(1000, 1005)))
    other = Node("b", items(range(3, 9)), items(range(3, 950)))
    _, done, _ = reconciled(one, other)
    assert (done.sent, done.received) == (3 + 3 + 5, 4 + 50)


def test_an_empty_node_gets_everything() -> None:
    _, done, _ = reconciled(Node("a"), Node("b", items(range(100)), items(range(5000))))
    assert (done.sent, done.received) == (0, 5100)


@pytest.mark.parametrize("size", [1, 31, 32, 33, 511, 512, 513])
def test_one_difference_at_every_edge_of_a_division(size: int) -> None:
    for missing in {0, size // 2, size - 1}:
        held = items(range(size))
        reconciled(Node("a", [], held), Node("b", [], held[:missing] + held[missing + 1 :]))


def test_many_records_of_one_moment() -> None:
    same_time = [make_item(number, 77) for number in range(600)]
    reconciled(Node("a", [], same_time[:590]), Node("b", [], same_time[5:]))


def test_facts_are_equal_before_records_are_compared() -> None:
    one, other = Node("a", items(range(9)), items(range(9))), Node("b")
    table, done, _ = reconciled(one, other)
    assert done.are_facts_equal
    strata = [
        message.stratum
        for _, frame in table.frames
        if isinstance(message := decode(frame), Ranges | Items)
    ]
    assert strata == sorted(strata)


def test_facts_that_one_side_keeps_refusing_do_not_keep_records_apart() -> None:
    class Stubborn(Node):
        def insert(self, one: Item, stratum: Stratum = Stratum.RECORDS) -> None:
            if stratum is Stratum.RECORDS:
                super().insert(one, stratum)

    one, other = Node("a", items(range(2)), items(range(3))), Stubborn("b")
    table = Table(one, other)
    table.open("a", "b")
    table.run()
    (done,) = table.done["a"]
    assert done.sent == 2 * PASSES_MAX + 3
    assert not done.are_facts_equal
    assert other.items() == one.items()


def test_a_long_turn_is_taken_in_steps() -> None:
    config = SyncConfig(work_per_step_max=1)
    one = Node("a", [], items(range(0, 4000, 2)), config)
    other = Node("b", [], items(range(0, 4000, 3)), config)
    reconciled(one, other)


def test_turns_of_many_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gossip.sync_messages.ROWS_SIZE_MAX_BYTES", 700)
    monkeypatch.setattr("gossip.sync_comparison.ANSWER_IDS_MAX", 40)
    one = Node("a", [], items(range(0, 4000, 2)), SyncConfig(work_per_step_max=1))
    other = Node("b", [], items(range(0, 4000, 3)))
    table, *_ = reconciled(one, other)
    assert max(len(frame) for _, frame in table.frames if not is_items(frame)) < 750
    reconciled(Node("a"), Node("b", [], items(range(1000))))


@pytest.mark.parametrize("room", [4000, 40_000])
def test_what_has_no_room_in_a_turn_comes_with_the_next_session(
    monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    monkeypatch.setattr(sync_comparison, "_ROOM_BYTES", room)
    one, other = Node("a", [], items(range(0, 6000, 2))), Node("b", [], items(range(0, 6000, 3)))
    reconciled(one, other)


def test_what_is_too_much_for_one_session_comes_with_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sync_comparison, "MOVED_MAX", 100)
    table, *_ = reconciled(Node("a"), Node("b", [], items(range(950))))
    assert [session.received for session in table.done["a"]] == [100] * 9 + [50]
    # Records that only the opener has, and both sides too many.
    reconciled(Node("a", [], items(range(950))), Node("b"))
    reconciled(
        Node("a", items(range(300)), items(range(900))), Node("b", [], items(range(901, 1800)))
    )


def test_a_frame_holds_as_many_payloads_as_fit() -> None:
    one, other = Node("a", [], items(range(3000))), Node("b")
    table, *_ = reconciled(one, other)
    payloads = [len(decode(frame).payloads) for peer, frame in table.frames if is_items(frame)]
    assert [count for count in payloads if count] == [1024, 1024, 952]
    assert max(len(frame) for _, frame in table.frames) <= FRAME_SIZE_MAX_BYTES


def test_what_was_overwritten_since_is_said_to_be_gone() -> None:
    one, other = Node("a", [], items(range(5))), Node("b")
    table = Table(one, other)
    table.open("a", "b")
    while not isinstance(table.busy[0][1], Give):
        table.step()
    one.remove(make_item(2))
    table.run()
    assert other.items() == one.items()
    assert (table.done["a"][0].sent, table.done["b"][0].received) == (4, 4)


def test_what_is_written_meanwhile_is_found_now_or_next_time() -> None:
    one, other = Node("a", [], items(range(1000))), Node("b", [], items(range(500, 1500)))
    table = Table(one, other)
    table.open("a", "b")
    number = 5000
    while table.busy:
        table.step()
        for node in (one, other):
            number += 1
            node.insert(make_item(number, number % 1500))
    reconciled(one, other)


# --- sessions -----------------------------------------------------------------------------------


def test_one_session_a_peer() -> None:
    table = Table(Node("a"), Node("b"))
    table.open("a", "b")
    second = table.open("a", "b")
    table.run()
    assert [type(failed.error) for failed in table.failed["a"]] == [PeerBusy]
    assert table.failed["a"][0].session == second
    assert len(table.done["a"]) == len(table.done["b"]) == 1


@pytest.mark.parametrize("first", ["a", "b"])
def test_of_two_that_open_at_once_the_smaller_id_s_session_stands(first: str) -> None:
    second = "b" if first == "a" else "a"
    table = Table(Node("a", [], items(range(9))), Node("b", items(range(5))))
    table.open(first, second)
    table.open(second, first)
    table.run()
    table.check()
    assert len(table.done["a"]) == len(table.done["b"]) == 1
    assert {type(failed.error) for failed in table.failed["b"]} <= {PeerBusy, PeerClosed}
    assert {type(failed.error) for failed in table.failed["a"]} <= {PeerBusy, PeerClosed}
    assert len(table.nodes["b"].items()) == 9


def test_so_many_sessions_and_no_more() -> None:
    names = ["b", "c", "d", "e", "f"]
    table = Table(Node("a"), *(Node(name) for name in names))
    for name in names:
        table.open(name, "a")
    while len(table.nodes["a"].sync.peers) < SyncConfig().sessions_max:
        table.step()
    table.run()
    refused = [name for name in names if table.failed[name]]
    assert refused == ["f"]
    assert isinstance(table.failed["f"][0].error, PeerBusy)
    assert table.nodes["a"].sync.deadline is None
    table.open("f", "a")
    table.run()
    assert len(table.done["f"]) == 1


BULK = SyncConfig(bulk_items_min=100, items_per_read_max=20)


def bulk_table() -> Table:
    """Return a node that is new and two that know the same 1000 records."""
    known = items(range(1000))
    return Table(Node("a", config=BULK), *(Node(name, [], known, BULK) for name in ("b", "c")))


def test_what_two_could_bring_comes_once() -> None:
    table = bulk_table()
    table.open("a", "b")
    table.open("a", "c")
    table.run()
    table.check()
    assert len(table.nodes["a"].items()) == 1000
    given = [done.sent for name in ("b", "c") for done in table.done[name]]
    assert given == [1000]
    assert [type(failed.error) for failed in table.failed["a"]] == [PeerBusy]
    assert not table.failed["a"][0].error.penalty
    table.open("a", "c")
    table.run()
    assert table.done["a"][-1].received == 0


def test_while_a_session_brings_much_no_other_begins() -> None:
    table = bulk_table()
    table.open("a", "b")
    while not table.nodes["a"].sync.is_carrying(0.0):
        table.step()
    for one, other in (("a", "c"), ("c", "a")):
        table.open(one, other)
    table.run()
    assert [type(failed.error) for failed in table.failed["a"]] == [PeerBusy, PeerBusy]
    assert len(table.nodes["a"].items()) == 1000
    assert not table.nodes["a"].sync.is_carrying(0.0)


def test_who_brings_little_of_it_does_not_hold_others_off() -> None:
    table = bulk_table()
    table.open("a", "b")
    while not table.nodes["a"].sync.is_carrying(0.0):
        table.step()
    table.busy.clear()  # b offers a thousand, and gives nothing.
    assert table.nodes["a"].sync.is_carrying(BULK.bulk_grace_s)
    table.now = BULK.bulk_grace_s + 0.1
    table.open("a", "c")
    table.run()
    assert len(table.nodes["a"].items()) == 1000


def test_streams_without_a_word_are_bounded_too() -> None:
    sync = Sync(SyncConfig(), "a", MESH)
    for number in range(1, 5):
        assert sync.handle(Accept(number, f"peer {number}", NONCE), 0.0) == []
    assert [type(effect) for effect in sync.handle(Accept(5, "b", NONCE), 0.0)] == [Send, Failed]
    assert [type(effect) for effect in sync.handle(Accept(6, "peer 1", NONCE), 0.0)] == [
        Send,
        Failed,
    ]
    sync.check()


def test_another_mesh_is_refused() -> None:
    table = Table(Node("a"), Node("b", mesh=b"another mesh, and 32 bytes of it"))
    table.open("a", "b")
    table.run()
    assert [type(table.failed[peer][0].error) for peer in "ab"] == [PeerRefused] * 2
    assert table.failed["a"][0].error.penalty == 0


def test_silence_ends_a_session() -> None:
    sync = Sync(SyncConfig(), "a", MESH)
    sync.handle(Open(1, "b", NONCE), 100.0)
    assert sync.deadline == 130.0
    assert sync.handle(Tick(), 129.9) == []
    (failed,) = sync.handle(Tick(), 130.0)
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, PeerTimeout)
    assert (sync.deadline, sync.peers) == (None, [])


def test_a_session_does_not_last_for_ever() -> None:
    one, other = Node("a", [], items(range(9))), Node("b")
    table = Table(one, other)
    table.open("a", "b")
    while not isinstance(table.busy[0][1], Give):
        table.step()
    # Waiting for our own disk, there is no hurry; but there is an end.
    assert one.sync.deadline == SyncConfig().session_s
    table.now = SyncConfig().session_s
    table.tell("a", Tick())
    table.run()
    assert isinstance(table.failed["a"][0].error, PeerTimeout)


def test_what_comes_after_the_end_changes_nothing() -> None:
    table = Table(Node("a"), Node("b"))
    number = table.open("a", "b")
    table.run()
    sync = table.nodes["a"].sync
    for late in (
        Receive(number, b"x"),
        Given(number, (b"x",)),
        Forged(number, "x"),
        Closed(number, PeerClosed("x")),
    ):
        assert sync.handle(late, 1.0) == []


def test_what_a_driver_must_not_do() -> None:
    one = Node("a", [], items(range(9)))
    table = Table(one, Node("b"))
    number = table.open("a", "b")
    with pytest.raises(ValueError, match="16 bytes"):
        one.sync.handle(Open(99, "c", b""), 0.0)
    with pytest.raises(ValueError, match="there already"):
        one.sync.handle(Open(number, "c", NONCE), 0.0)
    while not isinstance(table.busy[0][1], Give):
        table.step()
    for payloads in ((), (b"x",) * 10, (b"x" * FRAME_SIZE_MAX_BYTES,)):
        with pytest.raises(ValueError, match="payloads"):
            one.sync.handle(Given(number, payloads), 0.0)


# --- properties ---------------------------------------------------------------------------------

SMALL_SETS = st.sets(st.integers(0, 120), max_size=60)


@given(
    facts=st.tuples(SMALL_SETS, SMALL_SETS),
    records=st.tuples(SMALL_SETS, SMALL_SETS),
    spread=st.sampled_from([1, 10, 1000]),
)
@settings(max_examples=60, deadline=None)
def test_both_have_the_union(
    facts: tuple[set[int], set[int]], records: tuple[set[int], set[int]], spread: int
) -> None:
    one, other = (
        Node(
            peer, items(*([n] for n in facts[at])), [make_item(n, n // spread) for n in records[at]]
        )
        for at, peer in enumerate("ab")
    )
    reconciled(one, other)


@given(
    sizes=st.tuples(st.integers(0, 1500), st.integers(0, 1500)),
    steps=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    losses=st.lists(st.integers(0, 12), max_size=6),
)
@settings(max_examples=40, deadline=None)
def test_frames_that_are_lost_cost_time_only(
    sizes: tuple[int, int], steps: tuple[int, int], losses: list[int]
) -> None:
    one = Node("a", items(range(0, 40, steps[0])), items(range(0, sizes[0], steps[0])))
    other = Node("b", items(range(0, 40, steps[1])), items(range(0, sizes[1], steps[1])))
    expected = {stratum: union(one, other, stratum=stratum) for stratum in Stratum}
    table = Table(one, other)
    for lost_after in losses:
        table.open("a", "b")
        table.run(iter([False] * lost_after + [True]))
        table.check()
    for node in (one, other):
        for stratum in Stratum:
            assert set(node.items(stratum)) <= set(expected[stratum])
    reconciled(one, other)
    assert one.items() == expected[Stratum.RECORDS]


class SyncMachine(RuleBasedStateMachine):
    """Several nodes that write, compare, lose frames and fall silent, in any order."""

    peers = st.sampled_from(["a", "b", "c", "d"])

    @initialize(number=st.integers(0, 200))
    def begin(self, number: int) -> None:
        common = items(range(number))
        config = SyncConfig(sessions_max=2, work_per_step_max=2000)
        self.table = Table(*(Node(peer, common[:20], common, config) for peer in "abcd"))
        self.number = 1000

    @rule(peer=peers, stratum=st.sampled_from(Stratum), count=st.integers(1, 40))
    def write(self, peer: str, stratum: Stratum, count: int) -> None:
        for _ in range(count):
            self.number += 1
            self.table.nodes[peer].insert(make_item(self.number, self.number % 300), stratum)

    @rule(one=peers, other=peers)
    def open(self, one: str, other: str) -> None:
        if one != other:
            self.table.open(one, other)

    @rule(count=st.integers(1, 30))
    def go_on(self, count: int) -> None:
        for _ in range(min(count, len(self.table.busy))):
            self.table.step()

    @rule()
    def lose(self) -> None:
        if self.table.busy:
            self.table.step(lose=isinstance(self.table.busy[0][1], Send))

    @rule(seconds=st.sampled_from([1.0, 31.0]))
    def wait(self, seconds: float) -> None:
        self.table.now += seconds
        for peer in self.table.nodes:
            self.table.tell(peer, Tick())

    @invariant()
    def is_sound(self) -> None:
        if hasattr(self, "table"):
            self.table.check()

    def teardown(self) -> None:
        if not hasattr(self, "table"):
            return
        self.table.run()
        for _ in range(2):
            for other in "bcd":
                self.table.open("a", other)
                self.table.run()
        nodes = list(self.table.nodes.values())
        for node in nodes:
            for stratum in Stratum:
                assert node.items(stratum) == union(*nodes, stratum=stratum)
        for peer in self.table.nodes:
            for failed in self.table.failed[peer]:
                assert failed.error.penalty == 0, failed
        assert all(node.sync.deadline is None for node in nodes)


TestSyncMachine = pytest.mark.slow(SyncMachine.TestCase)
TestSyncMachine.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)


# --- what hostile peers get ---------------------------------------------------------------------


class Victim:
    """An honest node at the other end of a liar's stream."""

    def __init__(self, records: list[Item] | None = None, *, opens: bool = False) -> None:
        self.node = Node(
            "victim", items(range(3)), items(range(40)) if records is None else records
        )
        self.before = {stratum: self.node.items(stratum) for stratum in Stratum}
        self.heard: list[AnyMessage] = []
        self.end: Done | Failed | None = None
        if opens:
            self._tell(Open(1, "liar", NONCE))
        else:
            self._tell(Accept(1, "liar", NONCE))

    def _tell(self, input: Any) -> None:
        todo = [input]
        while todo:
            for effect in self.node.sync.handle(todo.pop(0), 0.0):
                match effect:
                    case Send(_, _, frame):
                        self.heard.append(decode(frame))
                    case Done() | Failed():
                        self.end = effect
                    case _:
                        todo.append(self.node.answer(effect))
        self.node.sync.check()

    def say(self, message: AnyMessage | bytes) -> "Victim":
        frame = message if isinstance(message, bytes) else encode(message)
        self._tell(Receive(1, frame))
        return self

    def greeted(self) -> "Victim":
        """Say hello, and agree on the facts."""
        self.say(Hello(VERSION, MESH[:8], NONCE))
        assert isinstance(self.heard[1], Ranges)
        return self.say(Ranges(Stratum.FACTS, End.WHOLE, b""))

    def expect(self, says: str, penalty: int = PENALTY_MALFORMED) -> None:
        """Assert that the session ended with this, and that nothing else happened."""
        assert isinstance(self.end, Failed), self.end
        assert isinstance(self.end.error, RemoteProtocolError)
        assert says in str(self.end.error), self.end.error
        assert self.end.error.penalty == penalty
        assert {stratum: self.node.items(stratum) for stratum in Stratum} == self.before
        assert self.node.sync.peers == []


def ranges(*rows: Any, end: End = End.WHOLE) -> Ranges:
    return Ranges(Stratum.RECORDS, end, pack_rows(rows))


def is_items(frame: bytes) -> bool:
    return isinstance(decode(frame), Items)


WRONG = b"w" * 16


def test_an_honest_peer_in_the_liar_s_place_is_welcome() -> None:
    victim = Victim().greeted()
    # An honest side with equal facts opens the records.
    assert victim.end is None
    victim.say(ranges(Ids(b"", b"", b"")))
    assert isinstance(victim.heard[-1], Ranges)
    (answer,) = unpack_rows(victim.heard[-1].rows)
    assert isinstance(answer, Answer)
    assert len(answer.have) == 40 * 16


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (b"", "not a message"),
        (b"\xff" * 100, "not a message"),
        (encode(Hello(VERSION, MESH[:8], NONCE)) + b"\0", "not a message"),
        (b"\x84" + b"\x01" * 4, "not a message"),
        (bytes(FRAME_SIZE_MAX_BYTES + 1), "over the limit"),
        (ranges(), "out of turn"),
        (Welcome(VERSION, NONCE), "out of turn"),
        (Items(Stratum.FACTS, []), "out of turn"),
        (Refusal("busy"), "out of turn"),
    ],
)
def test_what_is_no_hello(message: Any, says: str) -> None:
    Victim().say(message).expect(says)


@pytest.mark.parametrize("message", [Hello(VERSION, MESH[:8], NONCE), ranges(), Items(1, [])])
def test_what_is_no_welcome(message: Any) -> None:
    Victim(opens=True).say(message).expect("out of turn")


def test_another_version_is_told_so_and_not_blamed() -> None:
    victim = Victim().say(Hello(2, MESH[:8], NONCE))
    assert isinstance(victim.end, Failed)
    assert isinstance(victim.end.error, PeerRefused)
    assert victim.heard == [Refusal("version")]


def test_two_hellos() -> None:
    hello = Hello(VERSION, MESH[:8], NONCE)
    Victim().say(hello).say(hello).expect("out of turn")


def test_another_stratum_than_the_one_that_is_compared() -> None:
    Victim().say(Hello(VERSION, MESH[:8], NONCE)).say(ranges()).expect("out of turn")


def test_endless_turns() -> None:
    victim = Victim(items(range(1000))).greeted()
    for _ in range(TURNS_MAX):
        if victim.end is None:
            victim.say(ranges(Fingerprint(b"", b"", WRONG)))
    victim.expect(f"not over after {TURNS_MAX} turns")


def test_an_endless_turn() -> None:
    victim = Victim().greeted()
    count = 0
    while victim.end is None:
        count += 1
        bound = count.to_bytes(3, "big")
        rows = pack_rows([Answer(bound, bound + b"x", b"h" * 16 * 8000, ())])
        victim.say(Ranges(Stratum.RECORDS, End.MORE, rows))
        assert count < 100
    victim.expect("what was not asked")


def test_a_turn_over_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync_comparison, "TURN_SIZE_MAX_BYTES", 1000)
    victim = Victim().greeted()
    for number in range(50):
        bound = bytes([number])
        victim.say(ranges(Fingerprint(bound, bound + b"x", WRONG), end=End.MORE))
        if victim.end:
            break
    victim.expect("over the limit of its size")


def test_frames_without_anything_in_them() -> None:
    Victim().greeted().say(ranges(end=End.MORE)).expect("without rows")


def test_ranges_that_overlap_from_frame_to_frame() -> None:
    victim = Victim().greeted()
    victim.say(ranges(Fingerprint(b"a", b"c", WRONG), end=End.MORE))
    victim.say(ranges(Fingerprint(b"b", b"d", WRONG))).expect("overlap")


def test_ranges_above_the_end_of_everything() -> None:
    victim = Victim().greeted()
    victim.say(ranges(Fingerprint(b"", b"", WRONG), end=End.MORE))
    victim.say(ranges(Fingerprint(b"b", b"d", WRONG))).expect("overlap")


def test_an_answer_that_nobody_asked_for() -> None:
    victim = Victim().greeted()
    victim.say(ranges(Answer(b"", b"", WRONG, ()))).expect("what was not asked")


def asked(victim: Victim) -> Ids:
    """Make the victim show what it has, which is little; return its row."""
    victim.say(ranges(Fingerprint(b"", b"", WRONG)))
    (row,) = unpack_rows(victim.heard[-1].rows)  # type: ignore[union-attr]
    assert isinstance(row, Ids)
    return row


@pytest.mark.parametrize("count", [0, 3, 5, 255])
def test_wants_of_another_count(count: int) -> None:
    victim = Victim(items(range(4))).greeted()
    asked(victim)
    victim.say(ranges(Answer(b"", b"", b"", (True,) * count))).expect("another number of ids")


def test_an_offer_of_what_the_victim_has() -> None:
    victim = Victim(items(range(4))).greeted()
    row = asked(victim)
    answer = Answer(b"", b"", row.ids[:16], (False,) * 4)
    victim.say(ranges(answer)).expect("told is here")


def test_an_answer_that_goes_beyond_what_was_asked() -> None:
    victim = Victim(items(range(40))).greeted()
    victim.say(ranges(Fingerprint(b"", make_item(10), WRONG)))
    answer = Answer(b"", b"", b"", (False,) * 10)
    victim.say(ranges(answer)).expect("what was not asked")


def test_more_wants_than_a_session_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync_comparison, "MOVED_MAX", 3)
    victim = Victim(items(range(4))).greeted()
    asked(victim)
    victim.say(ranges(Answer(b"", b"", b"", (True,) * 4))).expect("over 3 items in one")
    assert MOVED_MAX > 3


def offering(*ids: bytes) -> Victim:
    """Return a victim that was offered these, and now expects them."""
    victim = Victim(items(range(4))).greeted()
    asked(victim)
    victim.say(ranges(Answer(b"", b"", b"".join(ids), (False,) * 4)))
    assert isinstance(victim.heard[-1], Items)
    assert victim.end is None
    return victim


def test_items_that_nobody_asked_for() -> None:
    honest = make_item(99)
    victim = offering(short_id(honest))
    victim.say(Items(Stratum.RECORDS, [honest, make_item(98)])).expect("nobody asked for")


def test_items_in_another_one_s_place() -> None:
    victim = offering(short_id(make_item(99)))
    victim.say(Items(Stratum.RECORDS, [make_item(98)]))
    victim.expect("not what its id says", PENALTY_FORGED)


def test_nothing_where_something_is_to_come() -> None:
    offering(WRONG).say(Items(Stratum.RECORDS, [])).expect("something to give")


def test_offers_of_what_is_not_there() -> None:
    ids = [number.to_bytes(16, "big") for number in range(1000, 1300)]
    offering(*ids).say(Items(Stratum.RECORDS, [None] * 300)).expect("does not have")


def test_some_things_may_be_gone() -> None:
    victim = offering(WRONG).say(Items(Stratum.RECORDS, [None]))
    assert isinstance(victim.end, Done)
    assert victim.end.received == 0


def test_items_of_the_other_stratum() -> None:
    offering(WRONG).say(Items(Stratum.FACTS, [WRONG])).expect("out of turn")


def test_items_instead_of_ranges() -> None:
    Victim().greeted().say(Items(Stratum.RECORDS, [WRONG])).expect("out of turn")


def test_a_liar_who_says_that_all_is_equal_only_harms_himself() -> None:
    victim = Victim().greeted().say(ranges(end=End.WHOLE))
    assert isinstance(victim.end, Done)
    assert (victim.end.sent, victim.end.received) == (0, 0)


def mutations(frame: bytes) -> Iterator[bytes]:
    for at in range(len(frame)):
        for bit in range(8):
            yield frame[:at] + bytes([frame[at] ^ 1 << bit]) + frame[at + 1 :]
        yield frame[:at]


@pytest.mark.slow
def test_every_small_change_of_every_frame_ends_in_an_error_or_an_honest_result() -> None:
    """No mutation may raise, be taken for a driver's fault, or bring in what was not signed."""
    mine, theirs = items(range(45)), items(range(30), range(40, 48))
    table = Table(Node("a", [], mine), Node("b", [], theirs))
    table.open("a", "b")
    table.run()
    frames = [frame for peer, frame in table.frames if peer == "a"]
    everything = set(mine) | set(theirs)
    for at, frame in enumerate(frames):
        for changed in mutations(frame[:60]) if len(frame) > 60 else mutations(frame):
            node = Node("b", [], theirs)
            replay(node, [*frames[:at], changed + frame[60:], *frames[at + 1 :]])
            node.sync.check()
            assert set(node.items()) <= everything


def replay(node: Node, frames: list[bytes]) -> None:
    """Send a node what an opener sent, whatever it answers."""
    todo: list[Any] = [Accept(1, "a", (1).to_bytes(16, "big"))]
    todo += [Receive(1, frame) for frame in frames]
    while todo:
        for effect in node.sync.handle(todo.pop(0), 0.0):
            if (answer := node.answer(effect)) is not None:
                todo.insert(0, answer)


def test_an_apply_names_what_it_expects() -> None:
    """So that a driver can refuse what comes in the place of something else."""
    wanted = make_item(99)
    victim = offering(short_id(wanted))
    frame = encode(Items(Stratum.RECORDS, [wanted]))
    (effect,) = victim.node.sync.handle(Receive(1, frame), 0.0)
    assert effect == Apply(1, "liar", Stratum.RECORDS, ((short_id(wanted), wanted),))


def test_an_item_is_a_time_and_an_id() -> None:
    assert item(0x0102, b"\x07" * 32) == bytes(6) + b"\x01\x02" + b"\x07" * 32
