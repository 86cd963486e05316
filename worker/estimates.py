"""How long jobs of a program take: an exponentially weighted mean of what was measured.

The mean RFC 6298 keeps of round-trip times: the first measurement as it is, each later one with a
fixed weight.  What it is for (how much work may wait at a worker) needs no better, because a wrong
guess costs at most `recall_s`.
"""


class Estimates:
    """Mean run times by program; the programs first seen are forgotten when there are too many."""

    def __init__(self, weight: float, programs_max: int) -> None:
        self._weight = weight
        self._programs_max = programs_max
        self._mean_s: dict[str, float] = {}

    def get(self, program: str) -> float | None:
        """Return the expected run time in seconds, `None` for a program never measured."""
        return self._mean_s.get(program)

    def measure(self, program: str, run_s: float) -> None:
        """A job took `run_s`."""
        mean_s = self._mean_s.get(program)
        if mean_s is not None:
            self._mean_s[program] = mean_s + self._weight * (run_s - mean_s)
            return
        if len(self._mean_s) >= self._programs_max:
            del self._mean_s[next(iter(self._mean_s))]
        self._mean_s[program] = run_s

    def at_least(self, program: str, elapsed_s: float) -> None:
        """A job is not over after `elapsed_s`: expect no less."""
        mean_s = self._mean_s.get(program)
        if mean_s is not None and mean_s < elapsed_s:
            self._mean_s[program] = elapsed_s

    def __len__(self) -> int:
        """Return how many programs were measured."""
        return len(self._mean_s)
