"""Mean run times."""

import pytest
from hypothesis import given, strategies as st
from msgspec.structs import replace

from worker.estimates import CLASS_LENGTH_MAX, Estimates, class_of
from worker.protocol import Accelerator, Offer

TIMES = st.floats(0.0, 1e6)


def test_a_program_never_measured_has_no_estimate() -> None:
    assert Estimates(0.125, 10, 2).get("1.1") is None


def test_the_first_measurement_counts_in_full_and_later_ones_by_their_weight() -> None:
    estimates = Estimates(0.125, 10, 2)
    estimates.measure("1.1", 8.0, "a")
    assert estimates.get("1.1") == 8.0
    estimates.measure("1.1", 16.0, "b")
    assert estimates.get("1.1") == 9.0
    assert estimates.get("1.2") is None


def test_a_job_that_is_not_over_raises_the_estimate_and_never_lowers_it() -> None:
    estimates = Estimates(0.125, 10, 2)
    estimates.at_least("1.1", 5.0)
    assert estimates.get("1.1") is None, "a program never measured stays unknown"
    estimates.measure("1.1", 1.0, "a")
    estimates.at_least("1.1", 5.0)
    estimates.at_least("1.1", 3.0)
    assert estimates.get("1.1") == 5.0


def test_the_programs_first_seen_are_forgotten() -> None:
    estimates = Estimates(0.125, 2, 2)
    for name in ("a", "b", "a", "c"):
        estimates.measure(name, 1.0, "a")
    assert [estimates.get(name) for name in "abc"] == [None, 1.0, 1.0]
    assert len(estimates) == 2


@given(st.lists(TIMES, min_size=1))
def test_the_mean_lies_among_what_was_measured(times: list[float]) -> None:
    estimates = Estimates(0.125, 10, 2)
    for run_s in times:
        estimates.measure("1.1", run_s, "a")
    mean_s = estimates.get("1.1")
    assert mean_s is not None
    assert mean_s == pytest.approx(min(max(mean_s, min(times)), max(times)))


def test_run_times_are_told_apart_by_class_of_workers() -> None:
    estimates = Estimates(0.125, 10, 2)
    estimates.measure("1.1", 1.0, "slow")
    assert estimates.ranks("1.1", 0.05) is None, "one class leaves no choice"
    estimates.measure("1.1", 0.25, "fast")
    assert estimates.get_on("1.1", "slow") == 1.0
    assert estimates.get_on("1.1", "fast") == 0.25
    assert estimates.get_on("1.1", "new") == estimates.get("1.1"), "as long as anywhere"
    assert estimates.get_on("1.2", "slow") is None
    assert estimates.ranks("1.1", 0.05) == {"slow": 0, "fast": -4}
    assert estimates.ranks("1.1", 60.0) is None, "too short to matter"
    assert estimates.ranks("1.2", 0.0) is None


def test_small_differences_are_not_seen() -> None:
    estimates = Estimates(0.125, 10, 2)
    estimates.measure("1.1", 1.0, "a")
    estimates.measure("1.1", 1.15, "b")
    ranks = estimates.ranks("1.1", 0.0)
    assert ranks is not None
    assert ranks["a"] == ranks["b"]


def test_the_classes_first_seen_are_forgotten() -> None:
    estimates = Estimates(0.125, 10, 2)
    for name in ("a", "b", "c"):
        estimates.measure("1.1", 1.0, name)
    assert estimates.ranks("1.1", 0.0) == {"b": 0, "c": 0}


def test_a_class_is_hardware_and_speed_within_a_factor_of_two() -> None:
    offer = Offer(
        slots=1, cores=1, memory_bytes=1, arch="x86_64", runtimes=[], isolation=[],
        backends=["CPUExecutionProvider"], accelerators=[Accelerator(kind="CUDA", name="H200")],
        speed_rounds_per_s=7500,
    )  # fmt: skip
    assert class_of(offer) == "x86_64/cuda/CPUExecutionProvider/13"
    assert class_of(replace(offer, slots=9, memory_bytes=7, speed_rounds_per_s=5000)) == class_of(
        offer
    )
    assert class_of(replace(offer, speed_rounds_per_s=3000)) != class_of(offer)
    assert len(class_of(replace(offer, backends=["x" * 256] * 64))) == CLASS_LENGTH_MAX
