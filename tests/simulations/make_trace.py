"""The made-up day of calls of simulations/scenarios/azure-day.csv: `python make_trace.py > FILE`.

It has the columns of the Azure Functions trace of 2021 and the looks of it: few functions have most
calls, run times spread over four decades, the afternoon is busier than the night, a timer is exact.
None of its rows is of anybody.
"""

import math
import random

DAY_S = 86_400.0
CALLS = 1400
FUNCTIONS = 25


def rows(seed: int = 2021) -> list[str]:
    rng = random.Random(seed)
    weights = [1 / rank for rank in range(1, FUNCTIONS + 1)]
    medians_s = [rng.lognormvariate(-0.5, 1.3) for _ in range(FUNCTIONS)]
    calls = []
    while len(calls) < CALLS:
        at_s = rng.uniform(0, DAY_S)
        # Busiest at 15:00, a third of that at 3:00.
        if rng.random() < (2 + math.cos(2 * math.pi * (at_s / DAY_S - 15 / 24))) / 3:
            function = rng.choices(range(FUNCTIONS), weights)[0]
            took_s = min(medians_s[function] * rng.lognormvariate(0, 0.8), 300.0)
            calls.append((at_s + took_s, took_s, function))
    # A timer, each quarter of an hour.
    calls += [(number * 900.0 + 2.0, 2.0, FUNCTIONS) for number in range(96)]
    return [
        f"app{function % 9},func{function},{end_s:.3f},{took_s:.3f}"
        for end_s, took_s, function in sorted(calls)
    ]


def text() -> str:
    return "\n".join(["app,func,end_timestamp,duration", *rows()]) + "\n"


if __name__ == "__main__":
    print(text(), end="")
