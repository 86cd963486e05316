"""Kills in the middle of what goes over a line; see `tests.blackbox.mid_flight`."""

from pathlib import Path

import pytest

from tests.blackbox.mid_flight import Victim, kill_in_fetch, kill_in_sync

pytestmark = [pytest.mark.torture, pytest.mark.slow]


@pytest.mark.parametrize("seed", range(10, 15))
@pytest.mark.parametrize("victim", ["giver", "taker"])
def test_a_reconciliation_goes_on_after_a_kill(tmp_path: Path, victim: Victim, seed: int) -> None:
    kill_in_sync(tmp_path, victim, seed)


@pytest.mark.parametrize("seed", range(10, 15))
@pytest.mark.parametrize("victim", ["giver", "taker"])
def test_a_fetch_goes_on_after_a_kill(tmp_path: Path, victim: Victim, seed: int) -> None:
    kill_in_fetch(tmp_path, victim, seed)
