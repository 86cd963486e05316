"""What goes wrong in a scenario: each kind of fault, as it is written in `[[faults]]`.

Times are virtual seconds since the start.  A fault that ends leaves nothing behind but what nodes
make of it.
"""

from typing import Literal

from simulations.distributions import Distribution, NotNegative, Positive
from simulations.tables import Kind, Nodes


class Crash(Kind, frozen=True, kw_only=True, tag="crash"):
    """Nodes lose power; what was committed is still there when they come back."""

    at_s: NotNegative
    nodes: Nodes
    for_s: Distribution | None = None
    """Left out: for ever."""


class Churn(Kind, frozen=True, kw_only=True, tag="churn"):
    """Nodes come and go, each by itself."""

    nodes: Nodes = "all"
    up_s: Distribution = 600.0
    down_s: Distribution = 30.0
    at_s: NotNegative = 0.0
    """When it begins; it ends with `duration_s`."""


class Partition(Kind, frozen=True, kw_only=True, tag="partition"):
    """Nothing passes between these nodes and the others."""

    at_s: NotNegative
    for_s: NotNegative
    nodes: Nodes
    one_way: bool = False
    """Only what these nodes send is lost."""


class Flapping(Kind, frozen=True, kw_only=True, tag="flapping"):
    """The links of these nodes break and come back."""

    at_s: NotNegative
    for_s: NotNegative
    nodes: Nodes
    up_s: Distribution = 5.0
    down_s: Distribution = 5.0


class SlowDisk(Kind, frozen=True, kw_only=True, tag="slow_disk"):
    """Each commit takes so long."""

    at_s: NotNegative
    for_s: NotNegative
    nodes: Nodes
    commit_s: Distribution = 0.5


class DiskFull(Kind, frozen=True, kw_only=True, tag="disk_full"):
    """Nothing can be written."""

    at_s: NotNegative
    for_s: NotNegative
    nodes: Nodes


class ClockStep(Kind, frozen=True, kw_only=True, tag="clock_step"):
    """The wall clock jumps; virtual time goes on."""

    at_s: NotNegative
    nodes: Nodes
    step_s: float
    """Ahead, or back if negative."""


class ClockSkew(Kind, frozen=True, kw_only=True, tag="clock_skew"):
    """The wall clock runs fast (or slow) by so many parts in a million."""

    nodes: Nodes
    drift_ppm: float
    at_s: NotNegative = 0.0


class Byzantine(Kind, frozen=True, kw_only=True, tag="byzantine"):
    """Members that send garbage, old frames again, and forged records, so many a second."""

    nodes: Nodes
    rate_per_s: Positive = 1.0
    at_s: NotNegative = 0.0
    behaviours: tuple[Literal["garbage", "replay", "forge"], ...] = ("garbage", "replay", "forge")


Fault = (
    Crash | Churn | Partition | Flapping | SlowDisk | DiskFull | ClockStep | ClockSkew | Byzantine
)
