"""A node in memory for each test, under a clock that jumps when there is nothing left to do."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import trio.testing

from tests.peernode.nodes import Lab, open_lab


def run_in_virtual_time(function: Any, *, clock: Any, instruments: Any) -> Any:
    """Be `trio.run` under a clock that jumps, whether or not the test names one."""
    jumping = clock or trio.testing.MockClock(autojump_threshold=0)
    return trio.run(function, clock=jumping, instruments=instruments)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "lab" in getattr(item, "fixturenames", ()) and item.path.parent.name == "peernode":
            item.add_marker(pytest.mark.trio(run=run_in_virtual_time))


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with open_lab() as opened:
        yield opened
