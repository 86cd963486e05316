"""A node in memory for each test, under a clock that jumps when there is nothing left to do."""

from collections.abc import AsyncIterator

import pytest
import trio.testing

from tests.peernode.nodes import Lab, open_lab


@pytest.fixture
async def lab(autojump_clock: trio.testing.MockClock) -> AsyncIterator[Lab]:
    async with open_lab() as opened:
        yield opened
