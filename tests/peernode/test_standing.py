"""Penalties add up, are forgiven with time, cut off whoever goes on, and outlive the process."""

from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from gossip.mesh_events import SavedScore
from gossip.wire import PEER_ID_PREFIX
from peernode.standing import CUT_AT, CUT_MAX_S, CUT_MIN_S, HALF_LIFE_S, PEERS_MAX, Standing
from peernode.standing_rows import AWAY_MAX_S, SCORES_MAX, StandingRows
from storage import codec, signing
from storage.store import Batch, Table
from tests.peernode.nodes import START_MS, Disk

DAY_MS = 86_400_000
GOLDEN = Path(__file__).parent / "golden" / "standing_rows.hex"


def make() -> tuple[Standing, list[tuple[str, str, float]]]:
    told: list[tuple[str, str, float]] = []
    return Standing(lambda *said: told.append(said)), told


def peer(number: int) -> str:
    return signing.peer_id(number.to_bytes(32, "big"))


B = peer(2)


def test_penalties_add_up_and_halve_with_time() -> None:
    standing, told = make()
    standing.blame("b", 20, "forged", 100.0)
    standing.blame("b", 20, "forged again", 100.0)
    assert standing.penalty("b", 100.0) == 40
    assert standing.penalty("b", 100.0 + HALF_LIFE_S) == pytest.approx(20)
    assert standing.penalty("c", 100.0) == 0
    assert told == [("b", "forged", 20), ("b", "forged again", 40)]


def test_who_is_cut_off_is_taken_back_when_its_time_is_over() -> None:
    standing, _ = make()
    standing.blame("b", CUT_AT, "everything", 0.0)
    assert standing.cut(0.0) == {"b": CUT_MIN_S}
    assert standing.is_cut("b", CUT_MIN_S - 1)
    assert not standing.is_cut("b", CUT_MIN_S)
    assert standing.cut(CUT_MIN_S) == {}
    assert standing.penalty("b", CUT_MIN_S) == pytest.approx(CUT_AT / 2)


def test_each_cut_is_twice_as_long_up_to_a_day() -> None:
    standing, _ = make()
    now, lasted = 0.0, []
    for _ in range(10):
        standing.blame("b", CUT_AT, "everything", now)
        lasted.append(standing.cut(now)["b"] - now)
        now = standing.cut(now)["b"]
    assert lasted[:4] == [CUT_MIN_S, 2 * CUT_MIN_S, 4 * CUT_MIN_S, 8 * CUT_MIN_S]
    assert lasted[-1] == lasted[-2] == CUT_MAX_S


def test_after_a_good_day_it_is_as_if_nothing_had_been() -> None:
    standing, _ = make()
    standing.blame("b", CUT_AT, "everything", 0.0)
    standing.forget(CUT_MIN_S + CUT_MAX_S - 1)
    assert standing.blamed() == ["b"]
    standing.forget(CUT_MIN_S + CUT_MAX_S)
    assert standing.blamed() == []
    standing.blame("b", CUT_AT, "everything", 1e6)
    assert standing.cut(1e6) == {"b": 1e6 + CUT_MIN_S}


def test_of_who_is_cut_off_no_more_is_noted_or_told() -> None:
    standing, told = make()
    standing.blame("b", CUT_AT, "everything", 0.0)
    for _ in range(1000):
        standing.blame("b", CUT_AT, "and more", 1.0)
    assert len(told) == 1
    assert standing.cut(1.0) == {"b": CUT_MIN_S}


def test_the_memory_is_bounded_and_forgets_the_oldest_that_is_not_cut_off() -> None:
    standing, _ = make()
    standing.blame("cut off", CUT_AT, "it", 0.0)
    for number in range(PEERS_MAX + 10):
        standing.blame(str(number), 1, "it", 0.0)
    assert len(standing.blamed()) == PEERS_MAX
    assert standing.is_cut("cut off", 0.0)
    assert standing.penalty("0", 0.0) == 0
    assert standing.penalty(str(PEERS_MAX), 0.0) == 1


# --- over a restart -----------------------------------------------------------------------------


def restarted(disk: Disk, now: float, wall_ms: int) -> Standing:
    """Return what a process that starts finds, whose clock begins anywhere."""
    return Standing(lambda *_: None, StandingRows(disk).load_accounts(now, wall_ms))


def saved(standing: Standing, now: float, wall_ms: int = START_MS) -> Disk:
    disk = Disk()
    StandingRows(disk).save(standing.take_changed(), (), now, wall_ms)
    return disk


def test_who_was_cut_off_is_cut_off_after_a_restart_for_as_long_as_it_was_to_be() -> None:
    standing, _ = make()
    standing.blame(B, CUT_AT, "everything", 1000.0)
    disk = saved(standing, 1100.0, START_MS)
    again = restarted(disk, 5.0, START_MS + 100_000)
    assert again.cut(5.0) == {B: pytest.approx(5.0 + CUT_MIN_S - 200)}
    assert again.penalty(B, 5.0) == pytest.approx(CUT_AT * 0.5 ** (200 / HALF_LIFE_S), abs=0.1)
    again.blame(B, CUT_AT, "everything", 5.0 + CUT_MIN_S)
    assert again.cut(5.0 + CUT_MIN_S) == {B: 5.0 + 3 * CUT_MIN_S}, "it was its second time"


@given(
    step_ms=st.integers(-(10**12), 10**12),
    before=st.integers(1, 8),
)
def test_no_step_of_the_clock_lengthens_a_cut_or_makes_it_forgotten(
    step_ms: int, before: int
) -> None:
    standing, _ = make()
    now = 0.0
    for _ in range(before):
        standing.blame(B, CUT_AT, "everything", now)
        until = standing.cut(now)[B]
        length, now = until - now, until
    again = restarted(saved(standing, until - length), 7.0, max(0, START_MS + step_ms))
    left = again.cut(7.0).get(B, 7.0) - 7.0
    assert left <= length + 0.01
    assert (left > 0) == (step_ms < length * 1000)
    again.blame(B, CUT_AT, "everything", 7.0 + left)
    cut_s = again.cut(7.0 + left)[B] - (7.0 + left)
    assert cut_s == pytest.approx(min(CUT_MIN_S * 2**before, CUT_MAX_S))


def test_what_is_forgiven_leaves_the_disk() -> None:
    standing, _ = make()
    standing.blame(B, 1, "a slip", 0.0)
    disk = Disk()
    rows = StandingRows(disk)
    rows.save(standing.take_changed(), (), 0.0, START_MS)
    assert len(disk.snapshot()[Table.META]) == 1
    standing.forget(100 * HALF_LIFE_S)
    rows.save(standing.take_changed(), (), 0.0, START_MS)
    assert disk.snapshot()[Table.META] == {}


def test_nothing_is_written_where_nothing_has_changed() -> None:
    standing, _ = make()
    disk, score = Disk(), saved_score(3, misdeeds=2.5)
    rows = StandingRows(disk)
    rows.save(standing.take_changed(), (), 0.0, START_MS)
    assert disk.submitted == []
    standing.blame(B, 1, "a slip", 0.0)
    for wall_ms in (START_MS, START_MS + 10_000, START_MS + 20_000):
        rows.save(standing.take_changed(), [score], 0.0, wall_ms)
    assert len(disk.submitted) == 1


def saved_score(number: int, **changes: object) -> SavedScore:
    fields = {
        "remaining_s": 3600.0,
        "misdeeds": 0.0,
        "invalid": (("topic", 1.5),),
        "failures": (),
        "application": -7.0,
    }
    return SavedScore(peer=PEER_ID_PREFIX + number.to_bytes(32, "big"), **(fields | changes))  # type: ignore[arg-type]


def test_scores_of_gossip_come_back_and_run_out() -> None:
    disk = Disk()
    StandingRows(disk).save({}, [saved_score(1), saved_score(2, remaining_s=5.0)], 0.0, START_MS)
    rows = StandingRows(disk)
    (found,) = rows.load_scores(START_MS + 10_000)
    assert found == saved_score(1, remaining_s=3590.0, application=0.0)
    assert StandingRows(disk).load_scores(START_MS - DAY_MS)[0].remaining_s == 3600.0
    assert StandingRows(disk).load_scores(START_MS + int(AWAY_MAX_S) * 1000) == ()
    rows.save({}, [], 0.0, START_MS)
    assert disk.snapshot()[Table.META] == {}


def test_of_many_scores_the_worst_are_kept() -> None:
    disk = Disk()
    scores = [saved_score(number, misdeeds=float(number)) for number in range(SCORES_MAX + 5)]
    StandingRows(disk).save({}, scores, 0.0, START_MS)
    found = StandingRows(disk).load_scores(START_MS)
    assert len(found) == SCORES_MAX
    assert min(score.misdeeds for score in found) == 5.0


def test_a_row_that_is_none_is_nobodys() -> None:
    disk = Disk()
    wrong = [
        (Table.META, b"standing:" + bytes(32), codec.dump_row(["no", 1, 2, 3])),
        (Table.META, b"standing:short", codec.dump_row([1.0, 1, 2.0, 3])),
        (Table.META, b"gossip-score:" + bytes(32), codec.dump_row({})),
    ]
    disk.submit(Batch(puts=wrong))
    assert StandingRows(disk).load_accounts(0.0, START_MS) == {}
    assert StandingRows(disk).load_scores(START_MS) == ()


def test_the_rows_are_as_they_were_written_before() -> None:
    standing, disk = make()[0], Disk()
    standing.blame(B, CUT_AT, "everything", 1000.0)
    score = saved_score(3, misdeeds=2.5, failures=(("topic", 0.25),))
    StandingRows(disk).save(standing.take_changed(), [score], 1001.0, START_MS)
    rows = disk.snapshot()[Table.META]
    written = [f"{key.hex()} {value.hex()}" for key, value in sorted(rows.items())]
    assert written == GOLDEN.read_text("utf-8").splitlines()
