"""Five hundred kills of a node in use; see `tests.blackbox.kill_node`."""

from pathlib import Path

import pytest

from tests.blackbox.kill_node import survive


@pytest.mark.torture
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_fifty_kills_break_no_promise(tmp_path: Path, seed: int) -> None:
    assert survive(tmp_path, kills=50, seed=seed) > 50
