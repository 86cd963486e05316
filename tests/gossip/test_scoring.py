"""The peer score: what each deed is worth, what decays, what is remembered."""

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, strategies as st

from gossip.config import ScoreConfig, TopicScoreConfig
from gossip.mesh_events import SavedScore
from gossip.score_book import Standing
from gossip.scoring import Scores

NOTHING = TopicScoreConfig(mesh_time_weight=0.0, first_weight=0.0)
P3 = replace(
    NOTHING,
    deficit_weight=-1.0,
    deficit_threshold=10.0,
    deficit_activation_s=5.0,
    failure_weight=-0.5,
)


def scores(topic: TopicScoreConfig = NOTHING, **more: object) -> Scores:
    return Scores(ScoreConfig(topic=topic, **more), heartbeat_s=1.0)


def come(scores: Scores, now: float = 0.0, network: str | None = None) -> Standing:
    return scores.connected(b"peer", network, now)


def value(scores: Scores, standing: Standing, now: float) -> float:
    scores.refresh(now)
    scores.check()
    return standing.value


# --- P1 to P7 -----------------------------------------------------------------------------------


def test_p1_time_in_the_mesh_counts_up_to_a_limit() -> None:
    book = scores(replace(NOTHING, mesh_time_weight=0.1, mesh_time_max_s=50.0))
    peer = come(book)
    assert value(book, peer, 10.0) == 0
    book.grafted(peer, "t", 10.0)
    assert value(book, peer, 30.0) == pytest.approx(2.0)
    assert value(book, peer, 1000.0) == pytest.approx(5.0)
    book.pruned(peer, "t", 1000.0)
    assert value(book, peer, 1001.0) == 0


def test_p2_first_deliveries_count_up_to_a_limit_and_decay() -> None:
    book = scores(replace(NOTHING, first_weight=2.0, first_max=5.0, first_decay_s=10.0))
    peer = come(book)
    for _ in range(9):
        book.first(peer, "t")
    assert peer.value == 0, "good deeds count from the next heartbeat"
    first = value(book, peer, 1.0)
    assert first == pytest.approx(10 * 0.01**0.1)
    for second in range(2, 11):
        value(book, peer, float(second))
    assert peer.value == pytest.approx(0.1)


def test_p3_a_silent_peer_in_the_mesh_loses_by_the_square_of_what_is_missing() -> None:
    book = scores(P3)
    peer = come(book)
    book.grafted(peer, "t", 0.0)
    assert value(book, peer, 5.0) == 0, "not before it had time"
    assert value(book, peer, 6.0) == pytest.approx(-100)
    for _ in range(20):
        book.again(peer, "t")
    assert value(book, peer, 7.0) == 0


def test_p3_is_off_unless_asked_for() -> None:
    book = Scores(ScoreConfig(), heartbeat_s=1.0)
    peer = come(book)
    book.grafted(peer, "t", 0.0)
    assert value(book, peer, 3600.0) >= 0
    assert book.window_s("t") == 0


def test_p3b_a_deficit_sticks_to_a_peer_that_leaves_the_mesh() -> None:
    book = scores(P3)
    peer = come(book)
    book.grafted(peer, "t", 0.0)
    book.pruned(peer, "t", 10.0)
    assert value(book, peer, 10.0) == pytest.approx(-50, rel=0.01)


def test_p4_invalid_messages_count_by_the_square_and_at_once() -> None:
    book = scores()
    peer = come(book)
    book.invalid(peer, "t", 0.0)
    assert peer.value == -20
    book.invalid(peer, "t", 0.0)
    assert peer.value == -80
    assert value(book, peer, 60.0) > -80


def test_p5_the_application_has_a_say() -> None:
    book = scores(application_weight=0.5)
    peer = come(book)
    book.appraise(b"peer", 12.0, 0.0)
    assert peer.value == 6
    book.appraise(b"peer", -30.0, 0.0)
    assert peer.value == -15


def test_p6_too_many_peers_of_one_network_count_against_each() -> None:
    book = scores(colocation_weight=-1.0, colocation_threshold=2)
    peers = [book.connected(b"%d" % number, "10.0.0.0/24", 0.0) for number in range(5)]
    alone = book.connected(b"alone", "10.0.1.0/24", 0.0)
    exempt = book.connected(b"exempt", None, 0.0)
    book.refresh(1.0)
    assert [peer.value for peer in peers] == [-9.0] * 5
    assert alone.value == exempt.value == 0
    for number in range(3):
        book.disconnected(b"%d" % number, 2.0)
    book.refresh(3.0)
    book.check()
    assert peers[4].value == 0


def test_p7_a_few_misdeeds_are_excused_the_others_count_by_the_square() -> None:
    book = scores()
    peer = come(book)
    book.misdeed(peer, 6, 0.0)
    assert peer.value == 0
    book.misdeed(peer, 3, 0.0)
    assert peer.value == -90


def test_good_deeds_in_all_topics_are_worth_a_limited_sum() -> None:
    config = ScoreConfig(topics_score_max=30.0)
    book = Scores(config, heartbeat_s=1.0)
    peer = come(book)
    for topic in ("t", "u", "v"):
        for _ in range(20):
            book.first(peer, topic)
    assert value(book, peer, 1.0) == 30
    book.invalid(peer, "t", 1.0)
    assert peer.value == 30, "what is over the limit can be lost first"
    book.appraise(b"peer", -5.0, 1.0)
    assert peer.value == 25


def test_topics_may_have_rules_of_their_own() -> None:
    strict = replace(NOTHING, invalid_weight=-100.0)
    book = scores(topics=(("strict", strict),))
    peer = come(book)
    book.invalid(peer, "strict", 0.0)
    assert peer.value == -100


# --- what is remembered -------------------------------------------------------------------------


def test_a_peer_that_did_wrong_finds_its_score_when_it_comes_back() -> None:
    book = scores()
    book.invalid(come(book), "t", 0.0)
    book.disconnected(b"peer", 10.0)
    for second in range(11, 3600, 100):
        book.refresh(float(second))
    assert come(book, 3600.0).value == -20, "and it did not decay meanwhile"


def test_misdeeds_below_the_threshold_are_remembered_too() -> None:
    book = scores()
    peer = come(book)
    for _ in range(3):
        book.misdeed(peer, 3, 0.0)
        book.disconnected(b"peer", 1.0)
        peer = come(book, 2.0)
    assert peer.value == -90


def test_after_an_hour_a_peer_that_left_is_forgotten() -> None:
    book = scores()
    book.invalid(come(book), "t", 0.0)
    book.disconnected(b"peer", 10.0)
    book.refresh(3611.0)
    assert book.retained == 0
    assert come(book, 3612.0).value == 0


def test_good_deeds_are_forgotten_when_a_peer_leaves() -> None:
    book = Scores(ScoreConfig(), heartbeat_s=1.0)
    peer = come(book)
    for _ in range(10):
        book.first(peer, "t")
    book.invalid(peer, "t", 0.0)
    book.disconnected(b"peer", 1.0)
    assert come(book, 2.0).value == -20


def test_a_peer_without_fault_leaves_nothing_behind() -> None:
    book = Scores(ScoreConfig(), heartbeat_s=1.0)
    peer = come(book)
    book.grafted(peer, "t", 0.0)
    book.first(peer, "t")
    book.appraise(b"peer", 5.0, 0.0)
    book.disconnected(b"peer", 1.0)
    book.check()
    assert book.retained == 0


def test_a_verdict_on_a_peer_that_left_waits_for_it() -> None:
    book = scores()
    book.appraise(b"peer", -200.0, 0.0)
    book.invalid(book.standing(b"other", 0.0), "t", 0.0)
    assert come(book, 1.0).value == -200
    assert book.connected(b"other", None, 1.0).value == -20


def test_scores_survive_a_restart() -> None:
    before = scores()
    here = come(before)
    before.invalid(here, "t", 0.0)
    before.misdeed(here, 8, 0.0)
    before.appraise(b"away", -7.0, 0.0)
    saved = msgspec.msgpack.encode(before.saved(600.0))
    after = scores()
    after.restore(msgspec.msgpack.decode(saved, type=tuple[SavedScore, ...]), 5.0)
    assert after.retained == 2
    assert come(after, 6.0).value == here.value == -60
    assert after.connected(b"away", None, 6.0).value == -7
    after.check()


def test_what_was_nearly_forgotten_is_so_after_a_restart() -> None:
    before = scores()
    before.invalid(come(before), "t", 0.0)
    before.disconnected(b"peer", 0.0)
    (saved,) = before.saved(3500.0)
    assert saved.remaining_s == 100.0
    after = scores()
    after.restore([saved], 0.0)
    after.refresh(101.0)
    assert after.retained == 0


def test_tables_are_bounded() -> None:
    book = scores(retained_max=10, topics_max=4)
    for number in range(30):
        peer = book.connected(b"%d" % number, None, 0.0)
        for topic in range(9):
            book.invalid(peer, f"{topic}", 0.0)
        assert len(peer.topics) == 4
        book.disconnected(b"%d" % number, 1.0)
    assert book.retained == 10
    assert book.connected(b"29", None, 2.0).value < 0, "the latest are remembered"


@pytest.mark.parametrize(
    "wrong",
    [
        {"behaviour_weight": 1.0},
        {"colocation_weight": 1.0},
        {"graylist_below": -5.0},
        {"gossip_below": 1.0},
        {"retain_s": 0.0},
        {"retained_max": 0},
    ],
)
def test_a_config_that_contradicts_itself_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        ScoreConfig(**wrong)


@pytest.mark.parametrize(
    "wrong", [{"invalid_weight": 1.0}, {"first_weight": -1.0}, {"first_decay_s": 0.0}]
)
def test_a_topic_s_config_too(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        TopicScoreConfig(**wrong)


DEEDS = st.lists(
    st.tuples(
        st.sampled_from(
            ["first", "again", "invalid", "misdeed", "graft", "prune", "beat", "leave"]
        ),
        st.sampled_from(["t", "u"]),
    ),
    max_size=60,
)


@given(DEEDS)
def test_bad_deeds_never_raise_a_score_and_leaving_never_washes_it(deeds: list) -> None:
    book = Scores(ScoreConfig(topic=replace(P3, first_weight=1.0)), heartbeat_s=1.0)
    now = 0.0
    peer = come(book)
    for deed, topic in deeds:
        before = peer.value
        match deed:
            case "first":
                book.first(peer, topic)
            case "again":
                book.again(peer, topic)
            case "invalid":
                book.refresh(now)
                before = peer.value
                book.invalid(peer, topic, now)
                assert peer.value < before
            case "misdeed":
                book.refresh(now)
                before = peer.value
                book.misdeed(peer, 1, now)
                assert peer.value <= before
            case "graft":
                book.grafted(peer, topic, now)
            case "prune":
                book.pruned(peer, topic, now)
            case "beat":
                now += 1.0
                book.refresh(now)
            case "leave":
                book.refresh(now)
                bad = min(0.0, peer.value)
                book.disconnected(b"peer", now)
                peer = come(book, now)
                # A deficit in the mesh (P3) sticks as one of half the weight (P3b).
                assert peer.value <= bad / 2
        book.check()
