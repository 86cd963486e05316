"""Whether there is a worker in a scenario that could ever run a function: as a node would ask.

A job that nobody fits waits for ever, and a run in which it does says nothing; so it is refused.
It may still wait at a node that has no such worker, since a job stays where it was taken.
"""

from typing import Any

import msgspec

from peernode import terms
from simulations.scenario import Function, Workers
from worker.capabilities import match
from worker.events import Requires
from worker.protocol import Accelerator, Offer


def misfit(function: Function, workers: list[Workers]) -> str | None:
    """Return why no worker fits, each group with its reasons; `None`: one does."""
    requires = _requires(function.requires)
    found = []
    for number, group in enumerate(workers):
        reasons = match(requires, _offer(group))
        if not reasons:
            return None
        said = ", ".join(reason.detail for reason in reasons)
        found.append(f"workers[{number}]: {said}")
    return "; ".join(found)


def _requires(said: dict[str, Any]) -> Requires:
    row = terms.to_row(msgspec.convert({"requires": said, "isolation": "process"}, terms.TermsBody))
    return terms.resolve("python", row, terms.NO_TERMS).requires


def _offer(group: Workers) -> Offer:
    return Offer(
        slots=group.slots,
        cores=group.slots,
        memory_bytes=group.memory_bytes,
        arch="x86_64",
        runtimes=["python"],
        isolation=["process"],
        accelerators=[Accelerator(kind="cuda", name="virtual")] * group.gpus,
        labels=group.labels,
    )
