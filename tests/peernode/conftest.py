"""A node in memory for each test, under a clock that jumps when there is nothing left to do."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from tests.peernode.nodes import PATIENCE_S, Lab, open_lab


def run_in_virtual_time(function: Callable[[], Awaitable[Any]], **settings: Any) -> Any:
    """Be `trio.run` under a clock that jumps, whether or not the test names one, for a while."""

    async def main() -> Any:
        with trio.fail_after(PATIENCE_S):
            return await function()

    jumping = settings.pop("clock") or trio.testing.MockClock(autojump_threshold=0)
    return trio.run(main, clock=jumping, **settings)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        wanted = {"lab", "autojump_clock"} & set(getattr(item, "fixturenames", ()))
        if wanted and item.path.parent.name == "peernode":
            item.add_marker(pytest.mark.trio(run=run_in_virtual_time))


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with open_lab() as opened:
        yield opened
