"""Rounds of broken lines between four nodes; see `tests.blackbox.partitions`.

`TORTURE_ROUNDS` says how many, 20 if it is not set; a round takes 7 to 25 s.
"""

import os
from pathlib import Path

import pytest

from tests.blackbox.partitions import Trouble, open_town

ROUNDS = min(1000, int(os.environ.get("TORTURE_ROUNDS", "20")))
ROUNDS_OF_A_TOWN = 4


@pytest.mark.torture
@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, ROUNDS, ROUNDS_OF_A_TOWN))
def test_whatever_the_lines_do_all_becomes_one(tmp_path: Path, first: int) -> None:
    kinds = list(Trouble)
    with open_town(tmp_path, 4) as town:
        for seed in range(first, min(ROUNDS, first + ROUNDS_OF_A_TOWN)):
            town.round(kinds[seed % len(kinds)], seed, admits=seed % 3 == 0)
