"""A node whose directory was put back, or runs twice, as the machine sees it."""

from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.strategies import integers, sampled_from

from peernode import life_statements
from peernode.life_statements import Life
from peernode.lives import (
    Adopt,
    Adopted,
    Config,
    Down,
    Effect,
    Fence,
    FoundClone,
    Greet,
    Input,
    Lives,
    Open,
    Reconcile,
    Resolve,
    Shown,
    State,
    Synced,
    Tick,
    Up,
)

CONFIG = Config(asking_s=1.0, quiet_s=60.0)


def nonce(n: int) -> bytes:
    return n.to_bytes(16, "big")


BEFORE = (6, nonce(60), 4000)
LOST = Life(1, 7, nonce(70), 5000, (BEFORE,))
"""What became of the node after life 6, when the copy was made."""


def later(life: Life, by_ms: int) -> Life:
    return Life(1, life.boot, life.nonce, life.at_ms + by_ms, life.past)


def started(*, may_be_old: bool = True) -> Lives:
    """Return a node that starts as number 7, after a life that all know."""
    return Lives(CONFIG, 7, nonce(77), [BEFORE], 0.0, may_be_old=may_be_old)


def restored() -> Lives:
    """Return one that was told by `p`, at 0.5 s, that it has lived on since."""
    lives = started()
    lives.handle(Up("p"), 0.4)
    assert lives.handle(Shown("p", (LOST,)), 0.5) == [Fence(), Reconcile("p")]
    return lives


def test_a_node_that_nobody_knows_goes_on_at_once() -> None:
    assert started(may_be_old=False).state is State.FREE


def test_a_start_waits_for_a_greeting_and_no_longer_than_a_moment() -> None:
    lives = started()
    assert (lives.state, lives.deadline) == (State.ASKING, 1.0)
    assert lives.handle(Tick(), 0.9) == []
    assert lives.handle(Tick(), 1.0) == [Open()]
    assert (lives.state, lives.deadline) == (State.FREE, None)


def test_an_ordinary_restart_goes_on_with_the_first_greeting() -> None:
    lives = started()
    known = Life(1, 6, nonce(60), 4000, ())
    assert lives.handle(Shown("p", (known, lives.say(4500))), 0.1) == [Open()]
    # What it says of itself meanwhile is no news to it, however late it comes back.
    said = [lives.say(at_ms) for at_ms in (5000, 5000, 4000)]
    assert [life.at_ms for life in said] == [5000, 5001, 5002]
    assert lives.handle(Shown("p", tuple(said)), 9.0) == []


def test_lives_from_before_what_is_kept_are_no_news() -> None:
    lives = Lives(CONFIG, 500, nonce(1), [(300, nonce(2), 1)], 0, may_be_old=True, floor_boot=300)
    assert lives.handle(Shown("p", (Life(1, 7, nonce(70), 1, ()),)), 0.1) == [Open()]


def test_an_unknown_life_holds_the_node_back() -> None:
    lives = restored()
    assert lives.is_fenced
    assert lives.state is State.RECOVERING
    assert lives.unknown == [(7, nonce(70), 5000)]
    lives.check()


def test_a_node_that_is_not_there_any_more_is_adopted_when_it_has_been_quiet() -> None:
    lives = restored()
    assert lives.handle(Synced("p"), 1.0) == []
    assert lives.handle(Shown("p", (LOST,)), 30.0) == []
    assert lives.deadline == 60.5
    assert lives.handle(Tick(), 60.5) == [Greet("p")]
    (adopt,) = lives.handle(Shown("p", (LOST,)), 60.6)
    assert adopt == Adopt(8, ((7, nonce(70), 5000),), 5000)
    assert lives.is_fenced
    assert lives.handle(Adopted(nonce(80)), 60.7) == [Open()]
    lives.check()
    life = lives.say(6000)
    assert (life.boot, life.nonce) == (8, nonce(80))
    assert life_statements.covers(life, LOST)
    assert (7, nonce(77), 0) in life.past
    assert lives.handle(Shown("p", (LOST, life)), 70.0) == []


def test_nothing_is_adopted_before_what_others_know_is_here() -> None:
    lives = restored()
    lives.handle(Tick(), 60.5)
    # It has tried all the time: a session may have failed.
    assert lives.handle(Shown("p", (LOST,)), 60.6) == [Reconcile("p")]
    assert lives.handle(Shown("p", (LOST,)), 600.0) == [Reconcile("p")]
    (adopt,) = lives.handle(Synced("p"), 601.0)
    assert isinstance(adopt, Adopt)


def test_a_second_peer_is_waited_for_a_while_if_it_is_there() -> None:
    lives = started()
    lives.handle(Up("p"), 0.3)
    lives.handle(Up("q"), 0.4)
    assert lives.handle(Shown("p", (LOST,)), 0.5) == [Fence(), Reconcile("p"), Reconcile("q")]
    lives.handle(Up("r"), 0.6)
    lives.handle(Synced("p"), 1.0)
    assert lives.handle(Shown("p", (LOST,)), 61.0) == []
    assert lives.deadline == 120.5
    (adopt,) = lives.handle(Synced("q"), 62.0)
    assert isinstance(adopt, Adopt)


def test_a_second_peer_that_comes_later_is_asked_too() -> None:
    lives = restored()
    assert lives.handle(Up("q"), 5.0) == [Reconcile("q")]
    assert lives.handle(Up("r"), 6.0) == []
    lives.handle(Down("p"), 7.0)
    assert lives.handle(Up("p"), 8.0) == [Reconcile("p")]


def test_a_second_peer_that_never_answers_does_not_hold_it_back_for_ever() -> None:
    lives = restored()
    lives.handle(Up("q"), 5.0)
    lives.handle(Synced("p"), 6.0)
    assert lives.handle(Tick(), 60.5) == []
    assert lives.handle(Shown("p", (LOST,)), 61.0) == []
    (adopt,) = lives.handle(Tick(), 120.5)
    assert isinstance(adopt, Adopt)


def test_a_peer_that_went_away_after_it_had_told_all_is_not_waited_for() -> None:
    lives = restored()
    lives.handle(Synced("p"), 1.0)
    lives.handle(Down("p"), 2.0)
    (adopt,) = lives.handle(Tick(), 60.5)
    assert isinstance(adopt, Adopt)


def test_a_node_that_was_told_nothing_more_stays_where_it_is() -> None:
    lives = restored()
    lives.handle(Down("p"), 2.0)
    assert lives.handle(Tick(), 60.5) == []
    assert lives.handle(Tick(), 6000.0) == []
    assert lives.is_fenced


def test_the_last_word_of_a_life_that_ends_is_no_clone() -> None:
    lives = restored()
    assert lives.handle(Shown("p", (later(LOST, 50),)), 2.0) == [Reconcile("p")]
    lives.handle(Synced("p"), 3.0)
    assert lives.deadline == 62.0
    lives.handle(Tick(), 62.0)
    adopt = Adopt(8, ((7, nonce(70), 5050),), 5050)
    assert lives.handle(Shown("p", (later(LOST, 50),)), 62.1) == [adopt]


def test_two_peers_that_heard_of_it_at_different_times_are_no_clone() -> None:
    lives = restored()
    for n, peer in enumerate("qrs"):
        lives.handle(Shown(peer, (later(LOST, 100 * n),)), 1.0 + n)
    assert lives.state is State.RECOVERING
    for peer in "pqrs":
        lives.handle(Synced(peer), 5.0)
    lives.handle(Tick(), 60.5)
    (adopt,) = lives.handle(Shown("p", (LOST,)), 60.6)
    assert adopt == Adopt(8, ((7, nonce(70), 5200),), 5200)


def test_one_last_word_that_two_peers_heard_is_no_clone() -> None:
    lives = restored()
    lives.handle(Shown("q", (LOST,)), 1.0)
    for peer in "pq":
        lives.handle(Shown(peer, (later(LOST, 100),)), 2.0)
    assert lives.state is State.RECOVERING
    lives.handle(Shown("q", (later(LOST, 200),)), 3.0)
    assert lives.state is State.CLONED


def cloned() -> Lives:
    lives = restored()
    lives.handle(Synced("p"), 1.0)
    lives.handle(Shown("p", (later(LOST, 30_000),)), 30.0)
    assert lives.handle(Shown("p", (later(LOST, 60_000),)), 60.0) == [
        Reconcile("p"),
        FoundClone(),
    ]
    lives.handle(Synced("p"), 61.0)
    return lives


def test_a_life_that_goes_on_is_another_process_and_only_the_operator_ends_that() -> None:
    lives = cloned()
    assert lives.state is State.CLONED
    assert lives.deadline is None
    assert lives.handle(Shown("p", (later(LOST, 60_000),)), 9000.0) == []
    assert lives.handle(Resolve(), 9001.0) == [Adopt(8, ((7, nonce(70), 65_000),), 65_000)]
    assert lives.handle(Resolve(), 9001.5) == []
    assert lives.handle(Adopted(nonce(80)), 9002.0) == [Open()]
    lives.check()


def test_the_operator_s_word_waits_for_what_a_peer_knows_and_not_for_ever() -> None:
    lives = restored()
    assert lives.handle(Resolve(), 2.0) == []
    assert lives.deadline == 62.0
    (adopt,) = lives.handle(Synced("p"), 3.0)
    assert isinstance(adopt, Adopt)
    lives = restored()
    lives.handle(Resolve(), 2.0)
    (adopt,) = lives.handle(Tick(), 62.0)
    assert isinstance(adopt, Adopt)
    lives = restored()
    lives.handle(Down("p"), 1.0)
    (adopt,) = lives.handle(Resolve(), 2.0)
    assert isinstance(adopt, Adopt)


def test_a_node_that_has_nothing_to_resolve_goes_on() -> None:
    lives = started(may_be_old=False)
    assert lives.handle(Resolve(), 1.0) == []
    assert lives.handle(Adopted(nonce(1)), 1.0) == []
    assert lives.state is State.FREE


def test_the_instance_that_was_there_first_holds_back_too() -> None:
    lives = started(may_be_old=False)
    copy = Life(1, 7, nonce(99), 1000, (BEFORE,))
    assert lives.handle(Shown("p", (lives.say(900), copy)), 500.0) == [Fence(), Reconcile("p")]
    assert lives.state is State.RECOVERING


def test_a_process_that_was_put_back_with_its_memory_knows_its_own_nonce_again() -> None:
    lives = started(may_be_old=False)
    said = lives.say(1000)
    assert lives.handle(Shown("p", (said,)), 1.0) == []
    assert lives.handle(Shown("p", (later(said, 1),)), 2.0)[0] == Fence()
    lives.handle(Synced("p"), 2.0)
    lives.handle(Down("p"), 2.0)
    (adopt,) = lives.handle(Tick(), 62.0)
    assert isinstance(adopt, Adopt)
    assert lives.handle(Adopted(nonce(80)), 62.0) == [Open()]
    lives.check()


def test_a_copy_of_a_directory_in_use_is_held_back() -> None:
    lives = started()
    used = Life(1, 6, nonce(60), 4001, ())
    assert lives.handle(Shown("p", (used,)), 0.5) == [Fence(), Reconcile("p")]
    lives.check()


def test_a_life_that_is_shown_while_another_is_adopted_holds_back_again() -> None:
    lives = cloned()
    lives.handle(Resolve(), 100.0)
    third = Life(1, 9, nonce(90), 7000, (BEFORE,))
    assert lives.handle(Shown("p", (third,)), 100.1) == [Reconcile("p")]
    assert lives.handle(Adopted(nonce(80)), 100.2) == []
    assert (lives.state, lives.unknown) == (State.RECOVERING, [(9, nonce(90), 7000)])
    lives.check()


# --- schedules ----------------------------------------------------------------------------


@dataclass
class Disk:
    """The rows of a directory, which may be copied."""

    boot: int = 0
    lives: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    """Nonce -> boot, and up to which time it is known."""
    works: dict[int, None] = field(default_factory=dict)
    """What this node has done and this directory knows of."""


@dataclass
class Process:
    """One run over a directory."""

    disk: Disk
    lives: Lives
    links: dict[str, None] = field(default_factory=dict)
    is_open: bool = False


class Copies(RuleBasedStateMachine):
    """One node's directory is started, stopped, copied and put back among peers that are honest.

    A peer has a link with one process of that key at a time, as in the network; the last to
    connect has it.
    """

    PEERS = ("p", "q")

    @initialize()
    def begin(self) -> None:
        self.now = 0.0
        self.drawn = 0
        self.heads: dict[str, list[Life]] = {peer: [] for peer in self.PEERS}
        self.works: dict[str, dict[int, None]] = {peer: {} for peer in self.PEERS}
        """What each peer knows that the node has done."""
        self.copies: list[Disk] = []
        self.has_been_copied = self.has_overlapped = False
        self.running: list[Process] = []
        self.disk = Disk()
        self.start_one(self.disk)

    def draw(self) -> bytes:
        self.drawn += 1
        return nonce(self.drawn)

    def start_one(self, disk: Disk) -> None:
        disk.boot += 1
        own = self.draw()
        past = [(boot, before, at_ms) for before, (boot, at_ms) in disk.lives.items()]
        lives = Lives(CONFIG, disk.boot, own, past, self.now, may_be_old=True)
        disk.lives[own] = disk.boot, 0
        self.running.append(Process(disk, lives))
        self.has_overlapped |= len(self.running) > 1

    def do(self, process: Process, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Open():
                    process.is_open = True
                case Fence():
                    process.is_open = False
                case Reconcile(peer):
                    if peer in process.links:
                        process.disk.works |= self.works[peer]
                        self.tell(process, Synced(peer))
                case Greet(peer):
                    if peer in process.links:
                        self.greet_one(process, peer)
                case Adopt(boot, past, _):
                    own = self.draw()
                    process.disk.boot = boot
                    for its_boot, before, at_ms in past:
                        process.disk.lives[before] = its_boot, at_ms
                    process.disk.lives[own] = boot, 0
                    self.tell(process, Adopted(own))
                case FoundClone():
                    pass

    def tell(self, process: Process, input: Input) -> None:
        self.do(process, process.lives.handle(input, self.now))

    def greet_one(self, process: Process, peer: str) -> None:
        said = process.lives.say(int(self.now * 1000) + 1)
        process.disk.lives[said.nonce] = said.boot, said.at_ms
        self.heads[peer] = life_statements.merge(self.heads[peer], said)
        self.tell(process, Shown(peer, tuple(self.heads[peer])))
        if process.is_open:
            # Whoever goes on after a greeting knows all that this peer knows of it.
            assert self.works[peer].keys() <= process.disk.works.keys()
        self.works[peer] |= process.disk.works

    def link(self, process: Process, peer: str) -> None:
        for other in self.running:
            if other is not process and peer in other.links:
                del other.links[peer]
                self.tell(other, Down(peer))
        if peer not in process.links:
            process.links[peer] = None
            self.tell(process, Up(peer))
        self.greet_one(process, peer)

    # --- what happens ---------------------------------------------------------------------

    @precondition(lambda self: self.running)
    @rule(which=integers(0, 9), peer=sampled_from(PEERS))
    def meet(self, which: int, peer: str) -> None:
        self.link(self.running[which % len(self.running)], peer)

    @precondition(lambda self: self.running)
    @rule(which=integers(0, 9), peer=sampled_from(PEERS))
    def part(self, which: int, peer: str) -> None:
        process = self.running[which % len(self.running)]
        if process.links.pop(peer, self) is None:
            self.tell(process, Down(peer))

    @rule(seconds=sampled_from((0.1, 1.0, 30.0, 61.0, 300.0)))
    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while True:
            due = [
                (deadline, n)
                for n, process in enumerate(self.running)
                if (deadline := process.lives.deadline) is not None and deadline <= until
            ]
            if not due:
                break
            at, n = min(due)
            self.now = max(self.now, at)
            self.tell(self.running[n], Tick())
        self.now = until
        for process in self.running:
            for peer in list(process.links):
                self.greet_one(process, peer)

    @precondition(lambda self: any(process.is_open for process in self.running))
    @rule(which=integers(0, 9))
    def work(self, which: int) -> None:
        able = [process for process in self.running if process.is_open]
        self.drawn += 1
        able[which % len(able)].disk.works[self.drawn] = None

    @precondition(lambda self: self.running)
    @rule(which=integers(0, 9))
    def kill(self, which: int) -> None:
        self.running.pop(which % len(self.running))

    @precondition(lambda self: len(self.running) < 3)
    @rule()
    def start(self) -> None:
        if all(process.disk is not self.disk for process in self.running):
            self.start_one(self.disk)

    @rule()
    def copy(self) -> None:
        if len(self.copies) < 4:
            self.copies.append(Disk(self.disk.boot, dict(self.disk.lives), dict(self.disk.works)))

    @precondition(lambda self: self.copies and len(self.running) < 3)
    @rule(which=integers(0, 9))
    def put_back(self, which: int) -> None:
        self.has_been_copied = True
        self.disk = self.copies.pop(which % len(self.copies))
        self.start_one(self.disk)

    @precondition(lambda self: self.running)
    @rule(which=integers(0, 9))
    def resolve(self, which: int) -> None:
        self.tell(self.running[which % len(self.running)], Resolve())

    # --- what holds -----------------------------------------------------------------------

    @invariant()
    def each_is_sound(self) -> None:
        for process in self.running:
            process.lives.check()
            assert process.is_open == (process.lives.state is State.FREE)

    @invariant()
    def no_two_lives_have_one_nonce(self) -> None:
        nonces = [process.lives.nonce for process in self.running]
        assert len(dict.fromkeys(nonces)) == len(nonces)

    @invariant()
    def a_directory_that_was_never_copied_is_never_held_back(self) -> None:
        if not self.has_been_copied:
            assert not any(process.lives.is_fenced for process in self.running)

    @invariant()
    def who_has_never_run_twice_is_never_told_so(self) -> None:
        if not self.has_overlapped:
            assert not any(process.lives.state is State.CLONED for process in self.running)

    @rule(peer=sampled_from(PEERS))
    def of_two_that_hear_of_each_other_one_writes_at_most(self, peer: str) -> None:
        for process in [*self.running, *self.running]:
            self.link(process, peer)
        assert sum(process.is_open for process in self.running) <= 1

    def teardown(self) -> None:
        """Whatever has happened: one alone, among its peers, always comes to go on."""
        if not hasattr(self, "now"):
            return
        if not self.running:
            self.start_one(self.disk)
        process = self.running[0]
        self.running[1:] = []
        for peer in self.PEERS:
            self.link(process, peer)
        if process.lives.state is State.CLONED:
            self.tell(process, Resolve())
        for _ in range(10):
            self.wait(30.0)
        assert process.is_open
        for peer in self.PEERS:
            head = self.heads[peer][-1]
            assert head.nonce == process.lives.nonce
        # And a restart of that is an ordinary one.
        self.running.clear()
        self.start_one(process.disk)
        for peer in self.PEERS:
            self.link(self.running[0], peer)
        assert self.running[0].is_open


TestCopies = Copies.TestCase
TestCopies.settings = settings(
    max_examples=150,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
