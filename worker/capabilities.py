"""Whether a worker fits a job: what the job requires against what the worker offers.

`match` compares with the whole machine, as if it were idle; what is free at the moment is the
roster's affair.  It names every difference, not the first: a person who reads why a job waits
should not have to ask twice.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from worker.events import Reason, Requires
from worker.protocol import Isolation, Offer
from worker.wheel_names import fits

LEVELS: Final[tuple[Isolation, ...]] = ("process", "sandbox", "wasm")
"""Isolation levels, weakest first."""

GPU_KINDS: Final = frozenset({"gpu", "cuda", "rocm", "metal", "directml"})
"""Kinds of accelerators that count as a GPU, in lower case."""


def gpu_memories_bytes(offer: Offer) -> list[int]:
    """Return the memory of each GPU of the worker, least first, in bytes."""
    return sorted(
        accelerator.memory_bytes
        for accelerator in offer.accelerators
        if accelerator.kind.lower() in GPU_KINDS
    )


def gpus(requires: Requires) -> int:
    """Return how many GPUs a job takes: one who asks for GPU memory asks for a GPU."""
    return max(requires.gpu, 1 if requires.gpu_memory_bytes else 0)


def levels(offer: Offer, runtime: str) -> list[Isolation]:
    """Return the levels at which a worker runs programs of `runtime`."""
    if runtime not in offer.runtimes:
        return []
    return list(offer.levels.get(runtime, ())) if offer.levels else list(offer.isolation)


def match(requires: Requires, offer: Offer) -> tuple[Reason, ...]:
    """Return every reason why this worker can never run such a job; none when it can.

    `Reason.worker` is 0: the caller knows whose offer it is.
    """
    found: list[Reason] = []

    def miss(code: str, detail: str) -> None:
        found.append(Reason(code=code, detail=detail))

    if requires.runtime not in offer.runtimes:
        miss("runtime", f"needs runtime {requires.runtime}, has {_listed(offer.runtimes)}")
        offered, of = list(offer.isolation), ""
    else:
        offered = levels(offer, requires.runtime)
        of = f" for {requires.runtime}" if offered != offer.isolation else ""
        if requires.wheels:  # inside WebAssembly there is no place for them
            offered = [level for level in offered if level != "wasm"]
            of = f" for {requires.runtime} with wheels"
    if not any(level in LEVELS[LEVELS.index(requires.isolation) :] for level in offered):
        miss(
            "isolation",
            f"needs isolation {requires.isolation} or stronger, has {_listed(offered)}{of}",
        )
    if requires.arch and requires.arch != offer.arch:
        miss("arch", f"needs architecture {requires.arch}, is {offer.arch}")
    if requires.cpu > offer.slots:
        miss("cpu", f"needs {requires.cpu} slots, has {offer.slots}")
    if requires.memory_bytes > offer.memory_bytes:
        miss(
            "memory",
            f"needs {requires.memory_bytes} bytes of memory, has {offer.memory_bytes}",
        )
    for tags in requires.wheels:
        if not fits(tags, offer):
            miss("wheel", f"needs a wheel for {tags}, is {_described(offer)}")
    found.extend(_gpu_misses(requires, offer))
    for name, value in requires.labels:
        if name not in offer.labels:
            miss("label", f"needs label {name}={value}, has no label {name}")
        elif offer.labels[name] != value:
            miss("label", f"needs label {name}={value}, has {name}={offer.labels[name]}")
    return tuple(found)


def level_given(least: Isolation, offered: Iterable[Isolation]) -> Isolation:
    """Return the weakest of the levels `offered` that is not weaker than `least`.

    `least` itself when there is none: whoever is told to give it will refuse.
    """
    accepted = LEVELS[LEVELS.index(least) :]
    return min((level for level in offered if level in accepted), key=LEVELS.index, default=least)


def strongest(levels: Iterable[Isolation | None]) -> Isolation:
    """Return the strongest of these levels, where `None` asks for nothing."""
    return max((level for level in levels if level), key=LEVELS.index, default=LEVELS[0])


def _gpu_misses(requires: Requires, offer: Offer) -> list[Reason]:
    needed = gpus(requires)
    if not needed:
        return []
    memories = gpu_memories_bytes(offer)
    if len(memories) < needed:
        return [Reason(code="gpu", detail=f"needs {needed} GPUs, has {len(memories)}")]
    large = sum(memory >= requires.gpu_memory_bytes for memory in memories)
    if large < needed:
        wanted = f"{needed} GPUs with {requires.gpu_memory_bytes} bytes of memory"
        return [Reason(code="gpu_memory", detail=f"needs {wanted}, has {large} of them")]
    return []


def _described(offer: Offer) -> str:
    python = f"Python {offer.python}" if offer.python else "a Python of unknown version"
    return " ".join(part for part in (python, "on", offer.arch, offer.libc) if part)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "none"
