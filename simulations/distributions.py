"""Durations and sizes that vary: how a scenario writes them, and how they are drawn.

In TOML a number is a constant; a table names its `kind`:

    duration_s = 2.5
    duration_s = { kind = "exponential", mean = 0.2 }

Values are never negative.
"""

import math
import random
from typing import Annotated, assert_never

import msgspec

from simulations.tables import Kind

Positive = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Uniform(Kind, frozen=True, kw_only=True, tag="uniform"):
    """Anything between two bounds, all equally likely."""

    low: NotNegative
    high: NotNegative


class Exponential(Kind, frozen=True, kw_only=True, tag="exponential"):
    """Memoryless."""

    mean: Positive


class Lognormal(Kind, frozen=True, kw_only=True, tag="lognormal"):
    """Skewed: delays of access networks, run times. `sigma` is of the logarithm."""

    median: Positive
    sigma: Positive
    maximum: Positive | None = None


class Pareto(Kind, frozen=True, kw_only=True, tag="pareto"):
    """Heavy-tailed: P(X > x) = (minimum / x) ^ shape; the mean exists if shape > 1."""

    minimum: Positive
    shape: Positive
    maximum: Positive | None = None


class Hyperexponential(Kind, frozen=True, kw_only=True, tag="hyperexponential"):
    """A mix of two exponentials: short ones, and with `share_long` a long one."""

    mean_short: Positive
    mean_long: Positive
    share_long: Share


Distribution = NotNegative | Uniform | Exponential | Lognormal | Pareto | Hyperexponential
"""How a number varies."""


def draw(distribution: Distribution, rng: random.Random) -> float:
    """Return a value, at least 0."""
    match distribution:
        case float() | int():
            return float(distribution)
        case Uniform(low=low, high=high):
            return rng.uniform(low, high)
        case Exponential(mean=mean):
            return rng.expovariate(1 / mean)
        case Lognormal(median=median, sigma=sigma, maximum=maximum):
            value = median * rng.lognormvariate(0.0, sigma)
            return value if maximum is None else min(value, maximum)
        case Pareto(minimum=minimum, shape=shape, maximum=maximum):
            value = minimum * rng.paretovariate(shape)
            return value if maximum is None else min(value, maximum)
        case Hyperexponential(mean_short=short, mean_long=long, share_long=share):
            return rng.expovariate(1 / (long if rng.random() < share else short))
        case _:
            assert_never(distribution)


def mean(distribution: Distribution) -> float:
    """Return the expected value; without regard to a `maximum`, infinite where there is none."""
    match distribution:
        case float() | int():
            return float(distribution)
        case Uniform(low=low, high=high):
            return (low + high) / 2
        case Exponential(mean=expected):
            return expected
        case Lognormal(median=median, sigma=sigma):
            return median * math.exp(sigma * sigma / 2)
        case Pareto(minimum=minimum, shape=shape):
            return math.inf if shape <= 1 else minimum * shape / (shape - 1)
        case Hyperexponential(mean_short=short, mean_long=long, share_long=share):
            return share * long + (1 - share) * short
        case _:
            assert_never(distribution)
