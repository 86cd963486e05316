"""IHAVE and IWANT: who is told what in which words, who asks whom, and promises."""

import pytest

from gossip import wire, wire_encode
from gossip.config import Config
from gossip.mesh_events import (
    Appraise,
    Connected,
    Deliver,
    Disconnected,
    Effect,
    Identified,
    Publish,
    Received,
    Send,
    Subscribe,
)
from gossip.message_cache import IGNORED, NEW, VALID, MessageCache, SeenCache
from tests.gossip.mesh_swarm import (
    TOPIC,
    Key,
    Pipe,
    Said,
    control_of,
    peer_id,
    publish_of,
    small,
)

AUTHOR = Key.of("author")
IN_TOPIC = wire_encode.subscription(TOPIC, True)


def p(number: int) -> bytes:
    return peer_id(("p", number))


def lazy(count: int = 1, config: Config | None = None, **more: object) -> Pipe:
    """Return a machine with peers outside its mesh: they pruned it."""
    pipe = Pipe(config, **more)
    pipe.say(Subscribe(TOPIC))
    for number in range(count):
        pipe.say(Connected(p(number), outbound=True))
        pipe.say(Received(p(number), IN_TOPIC))
        pipe.say(Received(p(number), control_of(wire_encode.prune(TOPIC, 3600))))
    assert pipe.mesh.statistics().mesh == 0
    return pipe


def ids(count: int, author: Key = AUTHOR, first: int = 1) -> list[bytes]:
    """Return ids in the long form."""
    return [author.id + (first + number).to_bytes(8, "big") for number in range(count)]


def ihave(written: list[bytes], topic: str = TOPIC) -> bytes:
    return control_of(wire_encode.ihave(topic, written))


def iwant(written: list[bytes]) -> bytes:
    return control_of(wire_encode.iwant(written))


# --- being told ---------------------------------------------------------------------------------


def test_peers_outside_the_mesh_are_told_for_three_heartbeats_and_served_for_five() -> None:
    pipe = lazy()
    pipe.say(Publish(TOPIC, b"news"))
    (written,) = ids(1, pipe.key, 42)
    told = [bool(Said(pipe.beat(), p(0)).ihave) for _ in range(4)]
    assert told == [True, True, True, False]
    assert Said(pipe.say(Received(p(0), iwant([written]))), p(0)).data == [b"news"]
    pipe.beat()
    assert pipe.say(Received(p(0), iwant([written]))) == []


def test_a_quarter_of_the_peers_is_told_but_six_at_least() -> None:
    for count, told in ((4, 4), (10, 6), (40, 10)):
        pipe = lazy(count, small(flood_publish=False))
        pipe.say(Publish(TOPIC, b"news"))
        effects = pipe.beat()
        assert sum(bool(Said(effects, p(n)).ihave) for n in range(count)) == told


def test_the_mesh_is_not_told_it_got_the_message() -> None:
    pipe = lazy(1)
    for number in range(50, 54):
        pipe.say(Connected(p(number), outbound=True))
        pipe.say(Received(p(number), IN_TOPIC))
    pipe.say(Publish(TOPIC, b"news"))
    effects = pipe.beat()
    assert [n for n in (0, *range(50, 54)) if Said(effects, p(n)).ihave] == [0]


def test_a_message_that_came_is_told_of_too() -> None:
    pipe = lazy(2)
    pipe.say(Received(p(0), publish_of(AUTHOR, 1, b"news")))
    assert Said(pipe.beat(), p(1)).ihave == [(TOPIC, ids(1))]


def test_of_too_many_messages_each_peer_is_told_others() -> None:
    pipe = lazy(6, small(ihave_ids_max=10, flood_publish=False))
    for number in range(30):
        pipe.say(Publish(TOPIC, b"%d" % number))
    effects = pipe.beat()
    told = [Said(effects, p(number)).ihave[0][1] for number in range(6)]
    assert [len(set(written)) for written in told] == [10] * 6
    assert len({one for written in told for one in written}) > 20


def test_who_has_a_poor_score_is_neither_told_nor_served_nor_asked() -> None:
    pipe = lazy()
    pipe.say(Publish(TOPIC, b"news"))
    pipe.say(Appraise(p(0), -11.0))
    assert Said(pipe.beat(), p(0)).nothing
    assert pipe.say(Received(p(0), iwant(ids(1, pipe.key, 42)))) == []
    assert pipe.say(Received(p(0), ihave(ids(1)))) == []


# --- the two lengths of ids ---------------------------------------------------------------------


def test_a_peer_is_told_ids_in_the_length_it_writes_itself() -> None:
    pipe = lazy(2)
    pipe.say(Received(p(1), ihave([written[2:] for written in ids(1)])))
    pipe.say(Publish(TOPIC, b"news"))
    effects = pipe.beat()
    (long,) = ids(1, pipe.key, 42)
    assert Said(effects, p(0)).ihave == [(TOPIC, [long])]
    assert Said(effects, p(1)).ihave == [(TOPIC, [long[2:]])]


def test_it_is_learnt_from_idontwant_and_from_identify_too() -> None:
    pipe = lazy(3)
    field = wire_encode.field
    pipe.say(Received(p(0), field(3, field(5, field(1, bytes(44))))))
    pipe.say(Identified(p(1), short_ids=True))
    pipe.say(Publish(TOPIC, b"news"))
    effects = pipe.beat()
    assert [len(Said(effects, p(n)).ihave[0][1][0]) for n in range(3)] == [44, 44, 46]


def test_a_peer_is_asked_and_may_ask_in_either_length() -> None:
    pipe = lazy(2)
    short = [written[2:] for written in ids(2)]
    assert sorted(Said(pipe.say(Received(p(0), ihave(short))), p(0)).iwant) == short
    pipe.say(Publish(TOPIC, b"news"))
    (long,) = ids(1, pipe.key, 42)
    for form in (long, long[2:]):
        assert Said(pipe.say(Received(p(1), iwant([form]))), p(1)).data == [b"news"]


def test_ids_of_other_functions_are_passed_over() -> None:
    pipe = lazy()
    assert pipe.say(Received(p(0), ihave([b"12D3KooW1234", bytes(32)]))) == []
    assert pipe.say(Received(p(0), iwant([b"12D3KooW1234", b""]))) == []
    assert pipe.mesh.score(p(0)) == 0


# --- asking -------------------------------------------------------------------------------------


def test_what_was_never_seen_is_asked_for_and_delivered() -> None:
    pipe = lazy()
    assert sorted(Said(pipe.say(Received(p(0), ihave(ids(3)))), p(0)).iwant) == ids(3)
    effects = pipe.say(Received(p(0), publish_of(AUTHOR, 2, b"news")))
    assert [e.message.data for e in effects if isinstance(e, Deliver)] == [b"news"]


def test_what_was_seen_is_not_asked_for() -> None:
    pipe = lazy()
    pipe.say(Received(p(0), publish_of(AUTHOR, 2, b"news")))
    said = Said(pipe.say(Received(p(0), ihave(ids(3)))), p(0))
    assert sorted(said.iwant) == [ids(3)[0], ids(3)[2]]


def test_topics_that_are_not_ours_are_not_asked_about() -> None:
    assert lazy().say(Received(p(0), ihave(ids(3), "other"))) == []


def test_an_id_is_asked_of_one_peer_and_a_heartbeat_later_of_another() -> None:
    pipe = lazy(3)
    assert Said(pipe.say(Received(p(0), ihave(ids(1)))), p(0)).iwant == ids(1)
    assert pipe.say(Received(p(1), ihave(ids(1)))) == []
    pipe.later(1.0)
    assert Said(pipe.say(Received(p(2), ihave(ids(1)))), p(2)).iwant == ids(1)


def test_a_flood_of_ihave_is_read_ten_times_a_heartbeat() -> None:
    pipe = lazy()
    asked = [bool(pipe.say(Received(p(0), ihave(ids(1, first=n))))) for n in range(1, 15)]
    assert asked == [True] * 10 + [False] * 4
    pipe.beat()
    assert pipe.say(Received(p(0), ihave(ids(1, first=99))))


def test_of_one_peer_five_thousand_ids_are_asked_in_a_heartbeat() -> None:
    pipe = lazy()
    for first in (1, 4001, 8001):
        pipe.say(Received(p(0), ihave(ids(4000, first=first))))
    assert pipe.mesh.statistics().asked == 5000


def test_what_was_asked_for_is_forgotten() -> None:
    pipe = lazy(1, small(asked_max=50))
    pipe.say(Received(p(0), ihave(ids(60))))
    assert pipe.mesh.statistics().asked == 50
    pipe.later(5.0)
    assert pipe.mesh.statistics().asked == 0


# --- serving ------------------------------------------------------------------------------------


def test_a_message_is_given_to_a_peer_three_times_at_most() -> None:
    pipe = lazy(2)
    pipe.say(Publish(TOPIC, b"news"))
    served = [bool(pipe.say(Received(p(0), iwant(ids(1, pipe.key, 42))))) for _ in range(5)]
    assert served == [True, True, True, False, False]
    assert pipe.say(Received(p(1), iwant(ids(1, pipe.key, 42))))


def test_a_flood_of_iwant_is_read_up_to_five_thousand_ids() -> None:
    pipe = lazy()
    pipe.say(Publish(TOPIC, b"news"))
    pipe.say(Received(p(0), iwant(ids(5000))))
    assert pipe.say(Received(p(0), iwant(ids(1, pipe.key, 42)))) == []
    pipe.beat()
    assert pipe.say(Received(p(0), iwant(ids(1, pipe.key, 42))))


def test_asking_for_much_yields_no_more_than_may_be_on_the_way() -> None:
    pipe = lazy(1, small(flood_publish=False))
    for _ in range(200):
        pipe.say(Publish(TOPIC, bytes(60_000)))
    effects = pipe.say(Received(p(0), iwant(ids(200, pipe.key, 42))))
    sizes = [len(effect.rpc) for effect in effects if isinstance(effect, Send)]
    assert sum(sizes) <= pipe.config.queue_max_bytes
    assert max(sizes) <= pipe.config.rpc_size_bytes
    assert pipe.mesh.statistics().dropped > 0


# --- promises -----------------------------------------------------------------------------------


def misdeeds(pipe: Pipe, number: int) -> float:
    return pipe.mesh._overlay.peers[p(number)].standing.misdeeds


def test_a_promise_that_is_not_kept_in_three_seconds_is_a_misdeed() -> None:
    pipe = lazy()
    pipe.say(Received(p(0), ihave(ids(3))))
    pipe.later(2.5)
    assert misdeeds(pipe, 0) == 0
    pipe.later(1.6)
    assert misdeeds(pipe, 0) == pytest.approx(1, rel=0.01)
    assert pipe.mesh.statistics().promises_broken == 1


def test_a_promise_is_kept_whoever_brings_the_message() -> None:
    pipe = lazy(2)
    pipe.say(Received(p(0), ihave(ids(1))))
    pipe.say(Received(p(1), publish_of(AUTHOR, 1, b"news")))
    pipe.later(5.0)
    assert misdeeds(pipe, 0) == 0


def test_a_wrong_signature_keeps_no_promise() -> None:
    pipe = lazy()
    pipe.say(Received(p(0), ihave(ids(1))))
    pipe.say(Received(p(0), publish_of(AUTHOR, 1, b"news").replace(b"news", b"fake")))
    pipe.later(5.0)
    assert misdeeds(pipe, 0) > 0.9


def test_a_peer_that_left_broke_no_promise() -> None:
    pipe = lazy()
    pipe.say(Received(p(0), ihave(ids(1))))
    pipe.say(Disconnected(p(0)))
    pipe.later(5.0)
    assert pipe.mesh.statistics().scores_retained == 0


def test_a_peer_that_always_promises_and_never_gives_loses_its_hearing() -> None:
    pipe = lazy()
    for number in range(20):
        pipe.say(Received(p(0), ihave(ids(100, first=1 + 100 * number))))
        pipe.later(1.0)
    assert pipe.mesh.score(p(0)) < pipe.config.score.gossip_below


def test_a_liar_cannot_keep_a_message_from_us() -> None:
    """It tells first, is asked, and gives nothing; the honest one tells a heartbeat later."""
    pipe = lazy(2)
    got: list[Effect] = []
    for _ in range(3):
        pipe.say(Received(p(0), ihave(ids(1))))
        asked = Said(pipe.say(Received(p(1), ihave(ids(1)))), p(1)).iwant
        if asked:
            got += pipe.say(Received(p(1), publish_of(AUTHOR, 1, b"news")))
        pipe.later(1.0)
        asked = Said(pipe.say(Received(p(1), ihave(ids(1)))), p(1)).iwant
        if asked:
            got += pipe.say(Received(p(1), publish_of(AUTHOR, 1, b"news")))
    assert any(isinstance(effect, Deliver) for effect in got)


# --- what is remembered -------------------------------------------------------------------------


def cache(**more: int) -> MessageCache:
    return MessageCache(
        **({"windows": 3, "gossip_windows": 2, "messages_max": 5, "size_max_bytes": 100} | more)
    )


def test_the_cache_forgets_by_heartbeat() -> None:
    held = cache()
    held.put(b"1", b"one", "t")
    held.shift()
    held.put(b"2", b"two", "t")
    held.put(b"3", b"three", "u")
    assert held.gossip_ids("t") == [b"2", b"1"]
    held.shift()
    assert held.gossip_ids("t") == [b"2"]
    assert held.get(b"1") is not None
    held.shift()
    assert held.get(b"1") is None
    held.shift()
    held.check()
    assert (len(held), held.size_bytes) == (0, 0)


def test_the_cache_forgets_the_oldest_when_it_is_full() -> None:
    held = cache()
    for number in range(7):
        held.put(b"%d" % number, bytes(10), "t")
        held.shift() if number == 2 else None
        held.check()
    assert [bool(held.get(b"%d" % number)) for number in range(7)] == [False] * 2 + [True] * 5
    held.put(b"large", bytes(90), "t")
    held.check()
    assert held.gossip_ids("t") == [b"6", b"large"]
    held.put(b"larger", bytes(101), "t")
    held.check()
    assert len(held) == 0, "what is larger than the cache is not kept"


def test_an_id_is_kept_for_its_time_at_least_and_twice_that_at_most() -> None:
    seen = SeenCache(10.0, 1000)
    seen.expire(0.0)
    seen.put(b"early", VALID)
    seen.expire(9.0)
    seen.put(b"late", IGNORED)
    seen.expire(10.0)
    assert (seen.get(b"early"), seen.get(b"late")) == (VALID, IGNORED)
    seen.expire(19.0)
    assert seen.get(b"late") == IGNORED
    seen.expire(20.0)
    assert seen.get(b"early") == NEW
    assert seen.unseen([b"early", b"new"]) == [b"early", b"new"]


def test_an_id_is_known_in_either_length() -> None:
    seen, known, other = SeenCache(10.0, 10), bytes(44), bytes(43) + b"1"
    seen.put(known, VALID)
    written = [known, *wire.long_ids([known]), other, *wire.long_ids([other])]
    assert seen.unseen(written) == [other, *wire.long_ids([other])]


def test_ids_are_bounded_in_number() -> None:
    seen = SeenCache(10.0, 10)
    for number in range(100):
        seen.put(b"%d" % number, VALID)
        seen.check()
    assert all(seen.get(b"%d" % number) for number in range(95, 100))
    assert len(seen) <= 10


def test_ids_in_rpcs_stay_below_what_a_peer_accepts() -> None:
    pipe = lazy(1, small(flood_publish=False))
    for _ in range(6000):
        pipe.mesh.handle(Publish(TOPIC, b"x"), pipe.now)
    effects = pipe.beat()
    (told,) = Said(effects, p(0)).ihave
    assert len(told[1]) == 5000
    assert all(len(e.rpc) < wire.RPC_SIZE_MAX_BYTES for e in effects if isinstance(e, Send))
