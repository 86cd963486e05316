"""What a job would like of its worker, beyond what it needs: weights that add up.

A preference names a label, an architecture, a kind of accelerator or a backend, and a weight, which
may be negative.  What a worker weighs for a job is the sum of those that it has.  Among workers
with room for a job the heaviest gets it; a preference never makes a job wait, and never lets one
run where it does not fit.
"""

from collections.abc import Sequence
from typing import assert_never

from worker.events import Preference
from worker.protocol import Offer


def weigh(prefers: Sequence[Preference], offer: Offer) -> int:
    """Return how much a job with these preferences likes a worker with this offer."""
    return sum(preference.weight for preference in prefers if has(preference, offer))


def has(preference: Preference, offer: Offer) -> bool:
    """Whether a worker has what a preference names."""
    value = preference.value
    match preference.kind:
        case "label":
            name, _, wanted = value.partition("=")
            return offer.labels.get(name) == wanted
        case "arch":
            return offer.arch == value
        case "accelerator":
            return any(one.kind.lower() == value.lower() for one in offer.accelerators)
        case "backend":
            return value in offer.backends
        case _:
            assert_never(preference.kind)
