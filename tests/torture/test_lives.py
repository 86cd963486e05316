"""Many schedules of starts, copies, copies put back and greetings, of one node."""

import pytest
from hypothesis import HealthCheck, settings

from tests.peernode.test_lives import Copies

pytestmark = pytest.mark.torture


class LongCopies(Copies):
    """The same machine, for longer."""


TestLongCopies = LongCopies.TestCase
TestLongCopies.settings = settings(
    max_examples=3000,
    stateful_step_count=80,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
