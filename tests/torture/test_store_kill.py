"""Five hundred kills of a process that keeps rows and content; see `tests.storage.kill`."""

from pathlib import Path

import pytest

from tests.storage.kill import survive


@pytest.mark.torture
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_fifty_kills_lose_nothing(tmp_path: Path, seed: int) -> None:
    assert survive(tmp_path, kills=50, seed=seed) > 50
