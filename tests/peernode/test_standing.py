"""Penalties add up, are forgiven with time, and cut off whoever goes on."""

import pytest

from peernode.standing import CUT_AT, HALF_LIFE_S, PEERS_MAX, Standing


def make() -> tuple[Standing, list[tuple[str, str, float]]]:
    told: list[tuple[str, str, float]] = []
    return Standing(lambda *said: told.append(said)), told


def test_penalties_add_up_and_halve_with_time() -> None:
    standing, told = make()
    standing.blame("b", 20, "forged", 100.0)
    standing.blame("b", 20, "forged again", 100.0)
    assert standing.penalty("b", 100.0) == 40
    assert standing.penalty("b", 100.0 + HALF_LIFE_S) == pytest.approx(20)
    assert standing.penalty("c", 100.0) == 0
    assert told == [("b", "forged", 20), ("b", "forged again", 40)]


def test_who_is_cut_off_is_heard_again_when_it_is_forgiven() -> None:
    standing, _ = make()
    standing.blame("b", CUT_AT, "everything", 0.0)
    assert standing.is_cut("b", 0.0)
    assert not standing.is_cut("b", 1.0)


def test_the_memory_is_bounded_and_forgets_the_oldest() -> None:
    standing, _ = make()
    for number in range(PEERS_MAX + 10):
        standing.blame(str(number), 1, "it", 0.0)
    assert len(standing.blamed()) == PEERS_MAX
    assert standing.penalty("0", 0.0) == 0
    assert standing.penalty(str(PEERS_MAX), 0.0) == 1
