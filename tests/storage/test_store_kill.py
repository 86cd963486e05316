"""A node that is killed loses nothing it has acknowledged; see `tests.storage.kill`."""

from pathlib import Path

import pytest

from tests.storage.kill import survive


@pytest.mark.slow
def test_twenty_kills_lose_nothing(tmp_path: Path) -> None:
    assert survive(tmp_path, kills=20, seed=1) > 20
