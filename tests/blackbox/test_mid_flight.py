"""A node is killed in the middle of a reconciliation, or of a blob; see `mid_flight`.

The one that takes: `make torture` kills the one that gives as well.
"""

from pathlib import Path

import pytest

from tests.blackbox.mid_flight import kill_in_fetch, kill_in_sync

pytestmark = pytest.mark.slow


def test_a_node_killed_in_a_reconciliation_goes_on_from_there(tmp_path: Path) -> None:
    kill_in_sync(tmp_path, "taker", 1)


def test_a_node_killed_while_a_blob_comes_goes_on_from_there(tmp_path: Path) -> None:
    kill_in_fetch(tmp_path, "taker", 1)
