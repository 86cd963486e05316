"""What tests of the worker share: the isolation levels that this machine has."""

import pytest

from tests.worker.levels import missing_sandbox
from worker.protocol import Isolation


@pytest.fixture(params=["process", "sandbox"])
def level(request: pytest.FixtureRequest) -> Isolation:
    """Each level of native functions, one after another."""
    wanted: Isolation = request.param
    if wanted == "sandbox" and (missing := missing_sandbox()):
        pytest.skip(missing)
    return wanted
