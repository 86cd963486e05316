"""What a job requires against what a worker offers."""

import pytest
from hypothesis import given, strategies as st
from msgspec.structs import replace

from worker.capabilities import (
    LEVELS,
    gpu_memories_bytes,
    gpus,
    level_given,
    levels,
    match,
    strongest,
)
from worker.events import Requires
from worker.protocol import Accelerator, Isolation, Offer, Runtime

GIB = 1 << 30
OFFER = Offer(
    slots=4,
    cores=4,
    memory_bytes=8 * GIB,
    arch="x86_64",
    runtimes=["python", "exec"],
    isolation=["process", "sandbox"],
    accelerators=[
        Accelerator(kind="CUDA", name="large", memory_bytes=24 * GIB),
        Accelerator(kind="gpu", name="small", memory_bytes=8 * GIB),
        Accelerator(kind="npu", name="other"),
    ],
    labels={"site": "roof"},
)

REQUIREMENTS = st.builds(
    Requires,
    runtime=st.sampled_from(["python", "wasm", "onnx", "exec"]),
    isolation=st.sampled_from(LEVELS),
    cpu=st.integers(1, 8),
    memory_bytes=st.integers(0, 16 * GIB),
    gpu=st.integers(0, 3),
    gpu_memory_bytes=st.sampled_from([0, GIB, 20 * GIB, 40 * GIB]),
    arch=st.sampled_from(["", "x86_64", "aarch64"]),
    labels=st.sampled_from([(), (("site", "roof"),), (("site", "x"),), (("rack", "1"),)]),
)


def codes(requires: Requires) -> list[str]:
    return [reason.code for reason in match(requires, OFFER)]


def test_a_job_that_asks_for_nothing_special_fits() -> None:
    assert match(Requires(), OFFER) == ()


PAIRS = replace(
    OFFER,
    runtimes=["python", "wasm", "onnx"],
    isolation=["process", "sandbox", "wasm"],
    levels={"python": ["process", "wasm"], "wasm": ["wasm"], "onnx": ["process", "sandbox"]},
)


@pytest.mark.parametrize(
    ("runtime", "least", "runs_at"),
    [
        ("python", "process", "process"),
        ("python", "sandbox", "wasm"),
        ("python", "wasm", "wasm"),
        ("wasm", "process", "wasm"),
        ("onnx", "sandbox", "sandbox"),
    ],
)
def test_a_job_runs_at_the_weakest_level_it_accepts_of_its_runtime(
    runtime: Runtime, least: Isolation, runs_at: str
) -> None:
    requires = Requires(runtime=runtime, isolation=least)
    assert match(requires, PAIRS) == ()
    assert level_given(least, levels(PAIRS, runtime)) == runs_at


def test_a_level_of_another_runtime_is_none_of_this_one() -> None:
    (reason,) = match(Requires(runtime="onnx", isolation="wasm"), PAIRS)
    assert reason.code == "isolation"
    assert reason.detail == ("needs isolation wasm or stronger, has process, sandbox for onnx")


def test_an_offer_without_pairs_means_every_runtime_at_every_level() -> None:
    assert levels(OFFER, "exec") == ["process", "sandbox"]
    assert levels(OFFER, "wasm") == []
    assert level_given("sandbox", levels(OFFER, "python")) == "sandbox"
    assert level_given("wasm", levels(OFFER, "python")) == "wasm", "it will be refused"


def test_a_job_that_asks_for_all_there_is_fits() -> None:
    everything = Requires(
        runtime="exec",
        isolation="sandbox",
        cpu=4,
        memory_bytes=8 * GIB,
        gpu=2,
        gpu_memory_bytes=8 * GIB,
        arch="x86_64",
        labels=(("site", "roof"),),
    )
    assert match(everything, OFFER) == ()


@pytest.mark.parametrize(
    ("requires", "code", "detail"),
    [
        (Requires(runtime="wasm"), "runtime", "needs runtime wasm, has python, exec"),
        (
            Requires(isolation="wasm"),
            "isolation",
            "needs isolation wasm or stronger, has process, sandbox",
        ),
        (Requires(arch="aarch64"), "arch", "needs architecture aarch64, is x86_64"),
        (Requires(cpu=5), "cpu", "needs 5 slots, has 4"),
        (
            Requires(memory_bytes=9 * GIB),
            "memory",
            "needs 9663676416 bytes of memory, has 8589934592",
        ),
        (Requires(gpu=3), "gpu", "needs 3 GPUs, has 2"),
        (
            Requires(gpu=2, gpu_memory_bytes=10 * GIB),
            "gpu_memory",
            "needs 2 GPUs with 10737418240 bytes of memory, has 1 of them",
        ),
        (Requires(labels=(("a", "b"),)), "label", "needs label a=b, has no label a"),
        (Requires(labels=(("site", "b"),)), "label", "needs label site=b, has site=roof"),
    ],
)
def test_each_thing_that_is_missing_is_named(requires: Requires, code: str, detail: str) -> None:
    (reason,) = match(requires, OFFER)
    assert (reason.code, reason.detail, reason.worker) == (code, detail, 0)


def test_all_that_is_missing_is_named_at_once() -> None:
    requires = Requires(
        runtime="onnx",
        isolation="wasm",
        cpu=9,
        memory_bytes=99 * GIB,
        gpu=5,
        arch="mips",
        labels=(("a", "1"), ("b", "2")),
    )
    found = ["runtime", "isolation", "arch", "cpu", "memory", "gpu", "label", "label"]
    assert codes(requires) == found


@pytest.mark.parametrize("least", LEVELS)
@pytest.mark.parametrize("given_level", LEVELS)
def test_a_level_is_met_by_itself_and_by_stronger_ones(least: str, given_level: str) -> None:
    offer = Offer(
        slots=1,
        cores=1,
        memory_bytes=0,
        arch="",
        runtimes=["python"],
        isolation=[given_level],
    )
    requires = Requires(isolation=least)  # type: ignore[arg-type]
    enough = ["process", "sandbox", "wasm"].index(given_level) >= LEVELS.index(least)
    assert (match(requires, offer) == ()) == enough


@pytest.mark.parametrize("least", LEVELS)
@given(offered=st.lists(st.sampled_from(LEVELS), unique=True))
def test_the_weakest_level_that_is_strong_enough_is_given(
    least: Isolation, offered: list[Isolation]
) -> None:
    given_level = level_given(least, offered)
    strong = [level for level in LEVELS if level in offered and strongest([level, least]) == level]
    assert given_level == (strong[0] if strong else least)


def test_gpu_memory_alone_asks_for_one_gpu() -> None:
    assert gpus(Requires(gpu_memory_bytes=1)) == 1
    assert gpus(Requires(gpu=2, gpu_memory_bytes=1)) == 2
    assert gpus(Requires()) == 0
    assert codes(Requires(gpu_memory_bytes=25 * GIB)) == ["gpu_memory"]


def test_other_accelerators_are_not_gpus() -> None:
    assert gpu_memories_bytes(OFFER) == [8 * GIB, 24 * GIB]


@given(REQUIREMENTS)
def test_each_reason_alone_would_keep_the_job_away(requires: Requires) -> None:
    reasons = match(requires, OFFER)
    names = {reason.code for reason in reasons}
    assert ("runtime" in names) == (requires.runtime not in OFFER.runtimes)
    assert ("isolation" in names) == (requires.isolation == "wasm")
    assert ("arch" in names) == (requires.arch == "aarch64")
    assert ("cpu" in names) == (requires.cpu > 4)
    assert ("memory" in names) == (requires.memory_bytes > 8 * GIB)
    assert all(reason.detail.startswith("needs ") for reason in reasons)
