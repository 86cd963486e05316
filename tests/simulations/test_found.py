"""What exploring found, each as the smallest scenario that showed it."""

import pytest

from simulations.distributions import Exponential
from simulations.faults import Churn, Fault, Flapping
from simulations.play import RESTLESS_S
from simulations.scenario import Link, Periodic, Poisson, Ring, Scenario, Star, Updates
from simulations.simulate import Options, simulate
from tests.simulations.plays import played, scenario

SOON = Exponential(mean=0.7)
TENTHS = [number / 10 for number in range(1, 30)]


@pytest.mark.parametrize(
    "fault",
    [
        lambda at_s: Flapping(at_s=at_s, for_s=6.9, nodes=[0], up_s=SOON, down_s=SOON),
        lambda at_s: Churn(at_s=at_s, nodes=[1], up_s=SOON, down_s=SOON),
    ],
)
def test_faults_that_end_a_trifle_before_a_time_end(fault: type[Fault]) -> None:
    """They went round and round at one moment: 30 less a rounding error is not 30 yet."""
    faults = [fault(at_s) for at_s in TENTHS]
    result = played(scenario(2, workers=[], functions=[], duration_s=10.3, faults=faults))
    assert result.virtual_s == pytest.approx(70.3)


def test_a_link_that_breaks_under_the_first_words_is_up_at_neither_end() -> None:
    """The second end took itself for linked, when what the first had said was lost at once."""
    described = Scenario(
        name="found",
        driver="swarm",
        duration_s=20.0,
        drain_s=30.0,
        topology=Star(nodes=12),
        link=Link(loss=0.3, loss_effect="reset"),
        updates=[Updates(what="kv", arrivals=Poisson(rate_per_s=1.0))],
    )
    result = simulate(described, 1, Options(checking=True))
    assert result.failure is None, result.failure.traceback


@pytest.mark.torture
def test_who_loses_every_tenth_message_and_its_link_with_it_needs_longer_to_agree() -> None:
    """They were compared after two minutes; each link had broken 28 times by then."""
    changes = [
        Updates(what="function", arrivals=Periodic(interval_s=5.0), nodes=[1, 2, 5], keys=20),
        Updates(what="counter", arrivals=Poisson(rate_per_s=2.0), keys=20),
    ]
    described = Scenario(
        name="found",
        duration_s=40.0,
        drain_s=RESTLESS_S,
        topology=Ring(nodes=6),
        link=Link(latency_s=0.2, backward_factor=3.0, loss=0.1, loss_effect="reset"),
        updates=changes,
    )
    result = simulate(described, 276, Options(checking=True))
    assert result.failure is None, result.failure.traceback
