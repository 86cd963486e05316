"""GossipSub 1.1, rule by rule: one machine and peers played by hand."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from gossip import wire, wire_encode
from gossip.config import Config, ScoreConfig
from gossip.mesh_events import (
    Appraise,
    Connected,
    Deliver,
    Disconnect,
    Disconnected,
    Effect,
    Exchange,
    Judge,
    Pardon,
    Publish,
    Received,
    Reopened,
    Reset,
    Send,
    Subscribe,
    Unsubscribe,
    Verdict,
)
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
GRAFT = control_of(wire_encode.graft(TOPIC))
FULL_MESH = 12


def p(number: int) -> bytes:
    return peer_id(("p", number))


def join(pipe: Pipe, count: int, *, first: int = 0, outbound: bool = True) -> list[Effect]:
    """Connect peers that are subscribed; return all effects."""
    effects: list[Effect] = []
    for number in range(first, first + count):
        effects += pipe.say(Connected(p(number), outbound=outbound))
        effects += pipe.say(Received(p(number), IN_TOPIC))
    return effects


def subscribed(count: int = 0, config: Config | None = None, **more: object) -> Pipe:
    pipe = Pipe(config, **more)
    pipe.say(Subscribe(TOPIC))
    join(pipe, count)
    return pipe


def in_mesh(pipe: Pipe) -> Iterator[int]:
    """Return the numbers of the peers in the mesh."""
    mesh = pipe.mesh._overlay.joined[TOPIC]
    return (number for number in range(100) if p(number) in mesh)


def mesh_size(pipe: Pipe) -> int:
    return pipe.mesh.statistics().mesh


def sends(effects: list[Effect]) -> list[Send]:
    return [effect for effect in effects if isinstance(effect, Send)]


def delivered(effects: list[Effect]) -> list[bytes]:
    return [effect.message.data for effect in effects if isinstance(effect, Deliver)]


def only(effects: list[Effect], kind: type) -> Effect:
    (found,) = [effect for effect in effects if isinstance(effect, kind)]
    return found


# --- subscriptions ------------------------------------------------------------------------------


def test_a_peer_that_comes_is_told_all_subscriptions_at_once() -> None:
    pipe = subscribed()
    pipe.say(Subscribe("other"))
    (send,) = sends(pipe.say(Connected(p(0), outbound=True)))
    assert Said([send], p(0)).subscriptions == [(TOPIC, True), ("other", True)]


def test_a_new_subscription_is_announced_and_its_end_too() -> None:
    pipe = Pipe()
    join(pipe, 2)
    effects = pipe.say(Subscribe(TOPIC))
    assert all(Said(effects, p(n)).subscriptions == [(TOPIC, True)] for n in range(2))
    assert pipe.say(Subscribe(TOPIC)) == []
    effects = pipe.say(Unsubscribe(TOPIC))
    assert all(Said(effects, p(n)).subscriptions == [(TOPIC, False)] for n in range(2))
    assert pipe.say(Unsubscribe(TOPIC)) == []


def test_subscribing_grafts_d_of_the_subscribers() -> None:
    pipe = Pipe()
    join(pipe, 20)
    effects = pipe.say(Subscribe(TOPIC))
    assert sum(Said(effects, p(n)).graft == [TOPIC] for n in range(20)) == 6 == mesh_size(pipe)


def test_unsubscribing_prunes_the_mesh_for_ten_seconds() -> None:
    pipe = subscribed(4)
    effects = pipe.say(Unsubscribe(TOPIC))
    assert all(Said(effects, p(n)).prune == [(TOPIC, 10)] for n in range(4))
    assert all(not Said(pipe.say(Subscribe(TOPIC)), p(n)).graft for n in range(4)), "too soon"
    pipe.later(12.0)
    assert mesh_size(pipe) == 4


def test_a_subscriber_that_comes_while_the_mesh_is_sparse_is_grafted_at_once() -> None:
    pipe = subscribed()
    effects = join(pipe, 6)
    assert [Said(effects, p(n)).graft for n in range(6)] == [[TOPIC]] * 4 + [[]] * 2


def test_a_peer_that_unsubscribes_leaves_the_mesh() -> None:
    pipe = subscribed(4)
    pipe.say(Received(p(0), wire_encode.subscription(TOPIC, False)))
    assert list(in_mesh(pipe)) == [1, 2, 3]


def test_a_topic_must_have_a_name_and_there_may_not_be_too_many() -> None:
    pipe = Pipe(small(own_topics_max=2))
    for topic in ("", "t" * 257):
        with pytest.raises(ValueError, match="1 to 256 bytes"):
            pipe.say(Subscribe(topic))
    pipe.say(Subscribe("a"))
    pipe.say(Subscribe("b"))
    with pytest.raises(ValueError, match="more than 2 topics"):
        pipe.say(Subscribe("c"))


def test_what_a_peer_subscribes_to_beyond_the_limit_is_not_remembered() -> None:
    pipe = Pipe(small(topics_max=3))
    pipe.say(Connected(p(0), outbound=True))
    for number in range(9):
        pipe.say(Received(p(0), wire_encode.subscription(f"t{number}", True)))
    assert len(pipe.mesh._overlay.topics) == 3


# --- GRAFT and PRUNE ----------------------------------------------------------------------------


def test_a_graft_is_accepted_in_silence() -> None:
    pipe = subscribed(4)
    join(pipe, 1, first=50)
    assert pipe.say(Received(p(50), GRAFT)) == []
    assert 50 in in_mesh(pipe)


def test_a_graft_may_come_before_the_subscription() -> None:
    pipe = subscribed(4)
    pipe.say(Connected(p(9), outbound=False))
    assert pipe.say(Received(p(9), GRAFT)) == []
    assert 9 in in_mesh(pipe)


def test_a_graft_of_an_unknown_topic_is_met_with_silence() -> None:
    pipe = subscribed(1)
    assert pipe.say(Received(p(0), control_of(wire_encode.graft("unknown")))) == []
    assert pipe.mesh.score(p(0)) == 0


def test_a_full_mesh_takes_only_peers_that_we_dialled() -> None:
    pipe = subscribed()
    for number in range(FULL_MESH):
        join(pipe, 1, first=number)
        pipe.say(Received(p(number), GRAFT))
    assert mesh_size(pipe) == FULL_MESH
    join(pipe, 1, first=50, outbound=False)
    assert Said(pipe.say(Received(p(50), GRAFT)), p(50)).prune == [(TOPIC, 60)]
    assert pipe.mesh.score(p(50)) == 0, "it could not know"
    join(pipe, 1, first=51, outbound=True)
    pipe.say(Received(p(51), GRAFT))
    assert mesh_size(pipe) == FULL_MESH + 1


def test_a_peer_with_a_negative_score_is_not_let_in() -> None:
    pipe = subscribed(4)
    join(pipe, 1, first=50)
    pipe.say(Appraise(p(50), -1.0))
    assert Said(pipe.say(Received(p(50), GRAFT)), p(50)).prune == [(TOPIC, 60)]


def prune(backoff_s: int = 60, peers: bytes = b"") -> bytes:
    whole = wire_encode.prune(TOPIC, backoff_s)
    if peers:
        body = wire_encode.field(1, TOPIC.encode()) + peers + b"\x18\x3c"
        whole = wire_encode.field(4, body)
    return control_of(whole)


def test_a_peer_that_prunes_us_is_not_grafted_until_the_backoff_is_over() -> None:
    pipe = subscribed(4)
    for number in range(4):
        assert pipe.say(Received(p(number), prune(20))) == []
    assert mesh_size(pipe) == 0
    effects = pipe.later(20.0)
    assert not any(Said(effects, p(number)).graft for number in range(4))
    pipe.later(3.0)
    assert mesh_size(pipe) == 4


def test_without_a_word_a_backoff_is_a_minute_and_it_is_never_over_an_hour() -> None:
    for said, least, most in ((0, 60.0, 63.0), (1 << 40, 3600.0, 3603.0)):
        pipe = subscribed(1)
        pipe.say(Received(p(0), prune(said)))
        pipe.later(least)
        assert mesh_size(pipe) == 0
        pipe.later(most - least)
        assert mesh_size(pipe) == 1


def test_backoffs_outlive_the_connection() -> None:
    pipe = subscribed(1)
    pipe.say(Received(p(0), prune(60)))
    pipe.say(Disconnected(p(0)))
    join(pipe, 1)
    pipe.later(10.0)
    assert mesh_size(pipe) == 0


def test_grafting_during_the_backoff_is_a_misdeed_and_soon_after_the_prune_two() -> None:
    for wait, misdeeds in ((1.0, 2), (30.0, 1)):
        pipe = subscribed(4)
        pipe.say(Unsubscribe(TOPIC))
        pipe.say(Subscribe(TOPIC))
        overlay = pipe.mesh._overlay
        overlay.prune(overlay.peers[p(0)], overlay.topics[TOPIC], 60.0, pipe.now)
        pipe.beat()
        pipe.later(wait)
        before = overlay.peers[p(0)].standing.misdeeds
        effects = pipe.say(Received(p(0), GRAFT))
        assert Said(effects, p(0)).prune == [(TOPIC, 60)]
        assert overlay.peers[p(0)].standing.misdeeds - before == misdeeds


def test_a_flood_of_grafts_ends_the_connection() -> None:
    pipe = subscribed(1)
    pipe.say(Received(p(0), prune()))
    effects: list[Effect] = []
    for _ in range(20):
        effects += pipe.say(Received(p(0), GRAFT))
    assert only(effects, Disconnect) == Disconnect(p(0), "its score is -160", is_misbehaving=True)
    assert len(Said(effects, p(0)).prune) < 10, "and it is not answered any more"


# --- heartbeat ----------------------------------------------------------------------------------


def test_the_mesh_is_filled_to_d_when_it_is_below_dlo() -> None:
    pipe = subscribed(4)
    join(pipe, 6, first=4)
    pipe.say(Disconnected(p(0)))
    pipe.beat()
    assert mesh_size(pipe) == 6


def test_a_mesh_above_dhi_is_pruned_to_d_and_keeps_the_best_and_some_we_dialled() -> None:
    pipe = subscribed()
    for number in range(20):
        join(pipe, 1, first=number, outbound=number % 5 == 0)
        pipe.say(Appraise(p(number), float(number == 11 or number == 13)))
    for number in range(20):
        mesh = pipe.mesh._overlay
        if p(number) not in mesh.joined[TOPIC]:
            mesh.graft(mesh.peers[p(number)], mesh.topics[TOPIC], pipe.now)
    effects = pipe.beat()
    kept = set(in_mesh(pipe))
    assert len(kept) == 6
    assert {11, 13} <= kept
    assert sum(number % 5 == 0 for number in kept) >= 2
    pruned = {n for n in range(20) if Said(effects, p(n)).prune == [(TOPIC, 60)]}
    assert pruned == set(range(20)) - kept


def test_too_few_that_we_dialled_are_made_up_for() -> None:
    pipe = subscribed()
    join(pipe, 6, outbound=False)
    pipe.beat()
    join(pipe, 5, first=50, outbound=True)
    pipe.beat()
    assert sum(number >= 50 for number in in_mesh(pipe)) == 2


def test_peers_with_a_negative_score_leave_the_mesh() -> None:
    pipe = subscribed(6)
    pipe.beat()
    (bad, *_) = in_mesh(pipe)
    pipe.say(Appraise(p(bad), -1.0))
    assert Said(pipe.beat(), p(bad)).prune == [(TOPIC, 60)]
    assert bad not in in_mesh(pipe)


def test_a_mesh_of_poor_peers_is_improved_once_a_minute() -> None:
    pipe = subscribed()
    join(pipe, 6)
    pipe.beat()
    join(pipe, 5, first=50)
    for number in range(50, 55):
        pipe.say(Appraise(p(number), 5.0))
    effects = pipe.beat(58)
    assert not any(number >= 50 for number in in_mesh(pipe))
    effects = pipe.beat(2)
    assert sum(number >= 50 for number in in_mesh(pipe)) == 2
    assert sum(Said(effects, p(number)).graft == [TOPIC] for number in range(50, 55)) == 2


def test_heartbeats_come_once_a_second_from_a_moment_of_their_own() -> None:
    pipe = Pipe()
    first = pipe.mesh.deadline
    assert pipe.now <= first < pipe.now + 1.0
    pipe.beat()
    assert pipe.mesh.deadline == first + 1.0
    pipe.now += 10.0
    pipe.beat()
    assert pipe.mesh.deadline > pipe.now, "what was missed is not made up for"


# --- publishing ---------------------------------------------------------------------------------


def test_own_messages_go_to_every_subscriber_and_are_signed() -> None:
    pipe = subscribed(10)
    pipe.say(Connected(p(50), outbound=True))
    effects = pipe.say(Publish(TOPIC, b"news"))
    assert [Said(effects, p(n)).data for n in range(10)] == [[b"news"]] * 10
    assert Said(effects, p(50)).nothing
    (message,), (seal,) = Said(effects, p(0)).messages, Said(effects, p(0)).seals
    assert message.source == pipe.key.id
    assert message.id[36:] == (42).to_bytes(8, "big")
    assert pipe.key.sign(seal.signed) == seal.signature


def test_each_message_has_a_greater_seqno() -> None:
    pipe = subscribed(1)
    seqnos = [Said(pipe.say(Publish(TOPIC, b"x")), p(0)).messages[0].id[36:] for _ in range(3)]
    assert seqnos == sorted(set(seqnos))


def test_without_flooding_own_messages_go_to_the_mesh() -> None:
    pipe = subscribed(10, small(flood_publish=False))
    pipe.beat()
    effects = pipe.say(Publish(TOPIC, b"news"))
    assert [n for n in range(10) if Said(effects, p(n)).data] == list(in_mesh(pipe))


def test_a_topic_that_is_only_published_to_has_a_fanout_for_a_minute() -> None:
    pipe = Pipe(small(flood_publish=False))
    join(pipe, 20)
    first = {send.peer for send in sends(pipe.say(Publish(TOPIC, b"1")))}
    assert len(first) == 6
    pipe.later(30.0)
    assert {send.peer for send in sends(pipe.say(Publish(TOPIC, b"2")))} == first
    pipe.later(62.0)
    assert not pipe.mesh._overlay.fanouts
    assert len(sends(pipe.say(Publish(TOPIC, b"3")))) == 6


def test_a_fanout_becomes_the_mesh_when_we_subscribe() -> None:
    pipe = Pipe(small(flood_publish=False))
    join(pipe, 20)
    fanout = {send.peer for send in sends(pipe.say(Publish(TOPIC, b"1")))}
    pipe.say(Subscribe(TOPIC))
    assert {p(number) for number in in_mesh(pipe)} == fanout


def test_a_fanout_loses_who_may_not_be_published_to() -> None:
    pipe = Pipe(small(flood_publish=False))
    join(pipe, 7)
    (first, *_) = sends(pipe.say(Publish(TOPIC, b"1")))
    pipe.say(Appraise(first.peer, -51.0))
    pipe.beat()
    effects = sends(pipe.say(Publish(TOPIC, b"2")))
    assert first.peer not in {send.peer for send in effects}
    assert len(effects) == 6


def test_a_message_that_is_too_large_is_refused_and_costs_no_seqno() -> None:
    pipe = subscribed(1)
    with pytest.raises(ValueError, match="too large"):
        pipe.say(Publish(TOPIC, bytes(wire.MESSAGE_SIZE_MAX_BYTES)))
    (message,) = Said(pipe.say(Publish(TOPIC, bytes(1_000_000))), p(0)).messages
    assert message.id[36:] == (42).to_bytes(8, "big")


# --- passing on ---------------------------------------------------------------------------------


def test_a_message_goes_to_the_mesh_but_not_back_nor_to_its_author() -> None:
    pipe = subscribed()
    pipe.say(Connected(AUTHOR.id, outbound=True))
    pipe.say(Received(AUTHOR.id, IN_TOPIC))
    join(pipe, 4)
    pipe.say(Received(p(3), GRAFT))
    effects = pipe.say(Received(p(0), publish_of(AUTHOR, 1, b"news")))
    assert only(effects, Deliver).peer == p(0)
    assert [n for n in range(4) if Said(effects, p(n)).data == [b"news"]] == [1, 2, 3]
    assert Said(effects, AUTHOR.id).nothing


def test_a_message_is_delivered_and_passed_on_once() -> None:
    pipe = subscribed(4)
    rpc = publish_of(AUTHOR, 1, b"news")
    pipe.say(Received(p(0), rpc))
    assert pipe.say(Received(p(1), rpc)) == []
    assert pipe.mesh.statistics().duplicates == 1
    pipe.later(119.0)
    assert pipe.say(Received(p(2), rpc)) == []
    pipe.later(125.0)
    assert delivered(pipe.say(Received(p(2), rpc))) == [b"news"], "ids are kept two minutes or more"


def test_what_is_passed_on_is_what_came() -> None:
    pipe = subscribed(4)
    rpc = publish_of(AUTHOR, 1, b"news")
    assert {send.rpc for send in sends(pipe.say(Received(p(0), rpc)))} == {rpc}


def test_a_message_of_another_topic_and_one_of_ours_are_dropped_without_blame() -> None:
    pipe = subscribed(2)
    assert pipe.say(Received(p(0), publish_of(AUTHOR, 1, b"x", "other"))) == []
    assert pipe.say(Received(p(0), publish_of(pipe.key, 7, b"before a restart"))) == []
    assert (pipe.mesh.statistics().unwanted, pipe.mesh.score(p(0))) == (2, 0)


def test_a_wrong_signature_counts_as_invalid_and_does_not_block_the_true_message() -> None:
    pipe = subscribed(3)
    true = publish_of(AUTHOR, 1, b"true")
    false = true.replace(b"true", b"fake")
    assert pipe.say(Received(p(0), false)) == []
    assert pipe.mesh.score(p(0)) == -20
    assert delivered(pipe.say(Received(p(1), true))) == [b"true"]


def test_explicit_peers_get_everything_and_are_never_grafted() -> None:
    pipe = subscribed(0, explicit=(p(0),))
    join(pipe, 4)
    pipe.beat(3)
    assert list(in_mesh(pipe)) == [1, 2, 3]
    assert Said(pipe.say(Received(p(0), GRAFT)), p(0)).prune == [(TOPIC, 60)]
    effects = pipe.say(Received(p(1), publish_of(AUTHOR, 1, b"news")))
    assert Said(effects, p(0)).data == [b"news"]
    pipe.say(Appraise(p(0), -1000.0))
    assert delivered(pipe.say(Received(p(0), publish_of(AUTHOR, 2, b"more")))) == [b"more"]


# --- verdicts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("verdict", list(Verdict))
def test_a_message_is_passed_on_only_if_it_is_accepted(verdict: Verdict, later: bool) -> None:
    pipe = subscribed(4, judge=lambda _: None if later else verdict)
    rpc = publish_of(AUTHOR, 1, b"news")
    effects = pipe.say(Received(p(0), rpc))
    if later:
        assert only(effects, Deliver).awaited
        assert not sends(effects)
        effects = pipe.say(Judge(only(effects, Deliver).message.id, verdict))
    else:
        assert delivered(effects) == [b"news"] * (verdict is Verdict.ACCEPT)
    assert bool(sends(effects)) == (verdict is Verdict.ACCEPT)
    assert (pipe.mesh.score(p(0)) < 0) == (verdict is Verdict.REJECT)
    assert pipe.say(Received(p(1), rpc)) == [], "and it is not judged again"
    assert (pipe.mesh.score(p(1)) < 0) == (verdict is Verdict.REJECT)
    pipe.beat()
    asked = pipe.say(Received(p(2), control_of(wire_encode.iwant([AUTHOR.id + bytes(7) + b"\1"]))))
    assert bool(Said(asked, p(2)).data) == (verdict is Verdict.ACCEPT)


def test_who_brings_a_message_while_it_is_judged_shares_its_fate() -> None:
    pipe = subscribed(4, judge=lambda _: None)
    rpc = publish_of(AUTHOR, 1, b"news")
    (deliver,) = pipe.say(Received(p(0), rpc))
    for number in (1, 1, 2):
        assert pipe.say(Received(p(number), rpc)) == []
    pipe.say(Disconnected(p(2)))
    pipe.say(Judge(deliver.message.id, Verdict.REJECT))
    assert [pipe.mesh.score(p(number)) for number in (0, 1, 3)] == [-20, -20, 0]
    pipe.say(Connected(p(2), outbound=True))
    assert pipe.mesh.score(p(2)) == -20, "leaving does not help"


def test_an_accepted_message_is_not_sent_to_who_brought_it_meanwhile() -> None:
    pipe = subscribed(4, judge=lambda _: None)
    rpc = publish_of(AUTHOR, 1, b"news")
    (deliver,) = pipe.say(Received(p(0), rpc))
    pipe.say(Received(p(1), rpc))
    effects = pipe.say(Judge(deliver.message.id, Verdict.ACCEPT))
    assert {send.peer for send in sends(effects)} == {p(2), p(3)}


def test_a_verdict_that_does_not_come_is_not_waited_for() -> None:
    pipe = subscribed(2, judge=lambda _: None)
    (deliver,) = pipe.say(Received(p(0), publish_of(AUTHOR, 1, b"news")))
    pipe.later(32.0)
    assert pipe.mesh.statistics().judging == 0
    assert pipe.say(Judge(deliver.message.id, Verdict.ACCEPT)) == []


def test_only_so_many_messages_await_a_verdict() -> None:
    pipe = subscribed(2, small(judging_max=3, judging_size_max_bytes=1000), judge=lambda _: None)
    for number in range(5):
        pipe.say(Received(p(0), publish_of(AUTHOR, number, b"x")))
    assert (pipe.mesh.statistics().judging, pipe.mesh.statistics().dropped) == (3, 2)
    pipe.later(32.0)
    pipe.say(Received(p(0), publish_of(AUTHOR, 7, bytes(900))))
    assert pipe.mesh.statistics().judging == 0


def test_messages_for_topics_left_meanwhile_are_not_passed_on() -> None:
    pipe = subscribed(4, judge=lambda _: None)
    (deliver,) = pipe.say(Received(p(0), publish_of(AUTHOR, 1, b"news")))
    pipe.say(Unsubscribe(TOPIC))
    assert pipe.say(Judge(deliver.message.id, Verdict.ACCEPT)) == []


# --- copies (P3) --------------------------------------------------------------------------------

P3 = replace(ScoreConfig().topic, deficit_weight=-1.0)


def test_copies_soon_after_the_first_count_for_each_peer_once() -> None:
    pipe = subscribed(4, small(score={"topic": P3}))
    rpc = publish_of(AUTHOR, 1, b"news")
    pipe.say(Received(p(0), rpc))
    pipe.now += 0.005
    for number in (1, 1, 1, 0):
        pipe.say(Received(p(number), rpc))
    pipe.now += 0.1
    pipe.say(Received(p(2), rpc))
    peers = pipe.mesh._overlay.peers
    counted = [peers[p(n)].standing.topics[TOPIC].deliveries for n in range(4)]
    assert counted == [1, 1, 0, 0]


def test_a_peer_that_keeps_silent_loses_its_place() -> None:
    pipe = subscribed(4, small(score={"topic": P3}))
    for number in range(40):
        rpc = publish_of(AUTHOR, number, b"news")
        for peer in range(3):
            pipe.say(Received(p(peer), rpc))
        pipe.later(1.0)
    assert list(in_mesh(pipe)) == [0, 1, 2]


# --- peers --------------------------------------------------------------------------------------


def test_peer_exchange_is_heeded_only_from_a_peer_of_good_standing() -> None:
    info = wire_encode.field(1, b"somebody") + wire_encode.field(2, b"record")
    pruning = prune(60, wire_encode.field(2, info) * 20)
    pipe = subscribed(2)
    assert pipe.say(Received(p(0), pruning)) == []
    pipe.say(Appraise(p(1), 10.0))
    exchange = only(pipe.say(Received(p(1), pruning)), Exchange)
    assert exchange.peers == (wire.PeerInfo(b"somebody", b"record"),) * 16


def test_a_peer_whose_score_is_hopeless_is_disconnected_whenever_it_comes_back() -> None:
    pipe = subscribed(2)
    (effect,) = pipe.say(Appraise(p(0), -160.0))
    assert effect == Disconnect(p(0), "its score is -160", is_misbehaving=True)
    assert pipe.say(Received(p(0), IN_TOPIC)) == []
    pipe.say(Disconnected(p(0)))
    pipe.later(1800.0)
    assert only(pipe.say(Connected(p(0), outbound=True)), Disconnect)


def test_a_peer_that_is_pardoned_begins_anew_but_for_what_the_application_thinks() -> None:
    pipe = subscribed(2)
    pipe.say(Received(p(0), b"\x0a" + b"\xff" * 10))
    pipe.say(Disconnected(p(0)))
    pipe.say(Appraise(p(0), -40.0))
    assert pipe.say(Pardon(p(0))) == []
    came = pipe.say(Connected(p(0), outbound=True))
    assert not any(isinstance(effect, Disconnect) for effect in came)
    assert pipe.mesh.score(p(0)) == -40
    pipe.say(Received(p(1), b"\x0a" + b"\xff" * 10))
    pipe.say(Disconnected(p(1)))
    pipe.say(Pardon(p(1)))
    assert pipe.mesh.statistics().scores_retained == 0
    assert pipe.say(Pardon(p(7))) == [], "nobody knows it"
    pipe.mesh.check()


def test_what_a_graylisted_peer_sends_is_not_looked_at() -> None:
    pipe = subscribed(2)
    pipe.say(Appraise(p(0), -81.0))
    assert pipe.say(Received(p(0), b"\x0a" + b"\xff" * 10)) == []
    assert pipe.say(Received(p(0), publish_of(AUTHOR, 1, b"x"))) == []
    assert pipe.mesh.statistics().graylisted == 2


def test_own_messages_are_kept_from_peers_below_the_publish_threshold() -> None:
    pipe = subscribed(2)
    pipe.say(Appraise(p(0), -51.0))
    effects = pipe.say(Publish(TOPIC, b"x"))
    assert {send.peer for send in sends(effects)} == {p(1)}


def test_a_stream_opened_anew_is_told_everything_again() -> None:
    pipe = subscribed(4)
    pipe.say(Publish(TOPIC, bytes(100_000)))
    effects = pipe.say(Reopened(p(0)))
    said = Said(effects, p(0))
    assert (said.subscriptions, said.graft) == ([(TOPIC, True)], [TOPIC])
    assert pipe.mesh._overlay.peers[p(0)].queued_bytes == sum(len(s.rpc) for s in sends(effects))


def test_there_are_not_more_peers_than_allowed() -> None:
    pipe = subscribed(3, small(peers_max=3))
    assert pipe.say(Connected(p(9), outbound=True)) == [Disconnect(p(9), "too many peers")]
    assert pipe.say(Disconnected(p(9))) == []


def test_inputs_about_unknown_peers_change_nothing() -> None:
    pipe = subscribed(1)
    for told in (Received(p(9), IN_TOPIC), Reopened(p(9)), Disconnected(p(9))):
        assert pipe.say(told) == []
    assert pipe.say(Connected(p(0), outbound=True)) == [], "known already"
    assert pipe.say(Connected(pipe.key.id, outbound=True)) == [], "ourselves"


def test_a_malformed_rpc_costs_the_stream_and_the_connection() -> None:
    pipe = subscribed(2)
    effects = pipe.say(Received(p(0), b"\x0a" + b"\xff" * 10))
    assert effects == [
        Reset(p(0), "not an RPC"),
        Disconnect(p(0), "its score is -160", is_misbehaving=True),
    ]
    assert pipe.say(Received(p(0), IN_TOPIC)) == []


def test_it_says_in_a_sentence_what_it_is() -> None:
    pipe = subscribed(4)
    pipe.say(Publish(TOPIC, b"x"))
    pipe.say(Received(p(0), publish_of(AUTHOR, 1, b"news")))
    assert repr(pipe.mesh) == (
        "<Mesh: 1 topics with 4 places for 4 peers, 0 of them slow; 1 messages published, "
        "1 delivered, 0 came again>"
    )


def test_me_must_be_an_ed25519_peer_id() -> None:
    with pytest.raises(ValueError, match="Ed25519"):
        Pipe(me=b"somebody")


@pytest.mark.parametrize(
    "wrong",
    [
        {"degree_low": 7},
        {"degree_high": 5},
        {"degree_score": 7},
        {"degree_outbound": 4},
        {"gossip_factor": 1.5},
        {"gossip_windows": 6},
        {"queue_low_bytes": 1 << 30},
        {"seen_s": 0.0},
        {"peers_max": 0},
    ],
)
def test_a_config_that_contradicts_itself_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must"):
        small(**wrong)
