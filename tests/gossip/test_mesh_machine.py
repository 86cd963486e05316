"""Several machines against a world that loses, shuffles, breaks links and lies.

After every input each machine's `check()` holds.  What is delivered was published, by its author,
in a topic the receiver is subscribed to, and comes once.  When the world is calm again, everybody
hears everybody.
"""

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gossip.mesh_events import Appraise, Received, Reopened, Subscribe, Unsubscribe
from tests.gossip.mesh_malformed import corpus
from tests.gossip.mesh_swarm import Diary, make_swarm, small

COUNT = 6
TOPICS = ("t", "u")
CORPUS = [rpc for rpc in corpus(4) if len(rpc) < 10_000]
NUMBERS = st.integers(0, COUNT - 1)


class Worlds(RuleBasedStateMachine):
    """Six nodes, two topics."""

    @initialize(seed=st.integers(0, 1000), flood=st.booleans())
    def begin(self, seed: int, flood: bool) -> None:
        # Loss is not a misdeed: streams lose nothing, so promises broken by it are not counted.
        config = small(
            flood_publish=flood,
            degree=3,
            degree_low=2,
            degree_high=4,
            degree_score=2,
            degree_outbound=1,
            degree_lazy=2,
            backoff_s=5.0,
            unsubscribe_backoff_s=2.0,
            graft_flood_s=1.0,
            seen_s=300.0,
            cache_messages_max=20,
            score={"behaviour_weight": 0.0},
        )
        self.swarm = make_swarm(seed, config)
        self.published: dict[bytes, tuple[int, str]] = {}
        self.subscribed: dict[int, set[str]] = {number: set() for number in range(COUNT)}
        self.checked = [0] * COUNT
        for _ in range(COUNT):
            self.swarm.add()

    @rule(one=NUMBERS, other=NUMBERS)
    def connect(self, one: int, other: int) -> None:
        if one != other:
            self.swarm.connect(one, other)

    @rule(one=NUMBERS, other=NUMBERS)
    def disconnect(self, one: int, other: int) -> None:
        self.swarm.disconnect(one, other)

    @rule(one=NUMBERS, other=NUMBERS)
    def reopen(self, one: int, other: int) -> None:
        if (one, other) in self.swarm.links:
            self.swarm.say(one, Reopened(self.swarm.nodes[other].id))

    @rule(number=NUMBERS, topic=st.sampled_from(TOPICS))
    def subscribe(self, number: int, topic: str) -> None:
        self.swarm.say(number, Subscribe(topic))
        self.subscribed[number].add(topic)

    @rule(number=NUMBERS, topic=st.sampled_from(TOPICS))
    def unsubscribe(self, number: int, topic: str) -> None:
        self.swarm.say(number, Unsubscribe(topic))
        self.subscribed[number].discard(topic)

    @rule(number=NUMBERS, topic=st.sampled_from(TOPICS), size=st.integers(0, 2000))
    def publish(self, number: int, topic: str, size: int) -> None:
        data = b"%d " % len(self.published) + bytes(size)
        self.published[data] = number, topic
        self.swarm.publish(number, data, topic)

    @rule(loss=st.sampled_from((0.0, 0.3)), shuffle=st.booleans())
    def weather(self, loss: float, shuffle: bool) -> None:
        lines = self.swarm.lines
        lines.loss, lines.shuffle = loss, shuffle

    @rule(victim=NUMBERS, sender=NUMBERS, rpc=st.sampled_from(CORPUS))
    def lie(self, victim: int, sender: int, rpc: bytes) -> None:
        """A node seems to send what it never would: both ends then want to part."""
        self.swarm.say(victim, Received(self.swarm.nodes[sender].id, rpc))

    @rule(number=NUMBERS, other=NUMBERS, score=st.sampled_from((-200.0, -20.0, -1.0, 0.0, 20.0)))
    def appraise(self, number: int, other: int, score: float) -> None:
        self.swarm.say(number, Appraise(self.swarm.nodes[other].id, score))

    @rule(seconds=st.sampled_from((0.03, 0.5, 3.0, 20.0)))
    def wait(self, seconds: float) -> None:
        self.swarm.run(seconds)

    @invariant()
    def what_is_delivered_was_published_and_comes_once(self) -> None:
        diary = self.swarm.watcher
        assert isinstance(diary, Diary)
        for number in range(COUNT):
            delivered = diary.delivered[number]
            fresh = delivered[self.checked[number] :]
            self.checked[number] = len(delivered)
            for message in fresh:
                if message.data not in self.published:
                    continue  # a lie that happens to be well-formed
                author, topic = self.published[message.data]
                assert (self.swarm.by_id[message.source].number, message.topic) == (author, topic)
                assert author != number
            assert len({message.id for message in delivered}) == len(delivered)

    def teardown(self) -> None:
        """Let the world be calm, and everybody be forgiven; see that all is well."""
        if not hasattr(self, "swarm"):
            return
        swarm = self.swarm
        swarm.lines.loss, swarm.lines.shuffle = 0.0, False
        for one in range(COUNT):
            for other in range(one):
                swarm.disconnect(one, other)
        # An hour later, nothing is held against anybody.
        swarm.checking = False
        swarm.run(3700.0)
        swarm.checking = True
        for one in range(COUNT):
            for other in range(one):
                swarm.connect(one, other)
        swarm.subscribe_all("t")
        swarm.run(15.0)
        for number in range(COUNT):
            swarm.publish(number, b"calm %d" % number, "t")
        swarm.run(5.0)
        for number in range(COUNT):
            assert swarm.watcher.receivers(b"calm %d" % number) == COUNT - 1, number
            assert len(swarm.nodes[number].mesh._overlay.joined["t"]) >= 2


Worlds.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestWorlds = pytest.mark.slow(Worlds.TestCase)
