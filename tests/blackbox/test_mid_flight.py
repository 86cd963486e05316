"""A node is killed in the middle of a reconciliation, or of a blob; see `mid_flight`."""

from pathlib import Path

import pytest

from tests.blackbox.mid_flight import Victim, kill_in_fetch, kill_in_sync

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("victim", ["giver", "taker"])
def test_a_node_killed_in_a_reconciliation_goes_on_from_there(
    tmp_path: Path, victim: Victim
) -> None:
    kill_in_sync(tmp_path, victim, 1)


@pytest.mark.parametrize("victim", ["giver", "taker"])
def test_a_node_killed_while_a_blob_comes_goes_on_from_there(
    tmp_path: Path, victim: Victim
) -> None:
    kill_in_fetch(tmp_path, victim, 1)
