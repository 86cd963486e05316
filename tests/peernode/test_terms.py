"""On what terms a job runs: its caller's where it states any, its function's else, or defaults."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from peernode.problems import Problem
from peernode.terms import (
    MEMORY_STEP_BYTES,
    NO_TERMS,
    QUEUE_S_DEFAULT,
    LimitsBody,
    Policy,
    PrefersBody,
    RequiresBody,
    RetryBody,
    TermsBody,
    check_limits,
    for_architecture,
    from_row,
    resolve,
    to_row,
)
from worker.capabilities import LEVELS
from worker.events import Requires, Retry, Timeouts
from worker.protocol import Isolation, Limits

seconds = st.none() | st.floats(0.5, 1000)
sizes = st.none() | st.integers(16 << 20, 1 << 40)
counts = st.none() | st.integers(1, 100)
limits = st.builds(
    LimitsBody,
    run_s=seconds,
    queue_s=seconds,
    total_s=seconds,
    heartbeat_s=seconds,
    memory_bytes=sizes,
    output_bytes=sizes,
    processes=counts,
    jobs_per_process=counts,
)
requires = st.builds(
    RequiresBody,
    cpu=counts,
    memory_bytes=sizes,
    gpu=counts,
    gpu_memory_bytes=sizes,
    arch=st.none() | st.sampled_from(["x86_64", "aarch64"]),
    labels=st.none() | st.dictionaries(st.sampled_from("abc"), st.sampled_from("xy"), max_size=2),
)
weights = st.none() | st.dictionaries(
    st.sampled_from(["a=b", "a=", "x86_64"]), st.integers(-1000, 1000), max_size=2
)
prefers = st.builds(
    PrefersBody,
    labels=st.none() | st.dictionaries(st.sampled_from(["a=b", "c=d"]), st.integers(-1000, 1000)),
    arch=weights,
    accelerators=weights,
    backends=weights,
)
retries = st.builds(
    RetryBody,
    max_attempts=counts,
    backoff_s=st.none() | st.floats(0, 9),
    on=st.none()
    | st.lists(st.sampled_from(["error", "timeout", "limit", "lost"]), max_size=2, unique=True),
)
bodies = st.builds(
    TermsBody,
    requires=st.none() | requires,
    prefers=st.none() | prefers,
    limits=st.none() | limits,
    retry=st.none() | retries,
    isolation=st.none() | st.sampled_from(["wasm", "sandbox", "process"]),
)


KINDS = {"labels": "label", "arch": "arch", "accelerators": "accelerator", "backends": "backend"}


def stated(body: msgspec.Struct | None, name: str) -> Any:
    return None if body is None else getattr(body, name)


def first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


@settings(max_examples=40, deadline=None)
@given(function=bodies, caller=bodies)
def test_a_callers_terms_win_field_by_field(function: TermsBody, caller: TermsBody) -> None:
    terms = resolve("python", to_row(function), to_row(caller))

    def wins(part: str, name: str, default: Any) -> Any:
        return first(
            stated(getattr(caller, part), name), stated(getattr(function, part), name), default
        )

    for name in ("run_s", "total_s", "heartbeat_s"):
        assert getattr(terms.timeouts, name) == wins("limits", name, None)
    assert terms.timeouts.queue_s == wins("limits", "queue_s", QUEUE_S_DEFAULT)
    for name in ("memory_bytes", "output_bytes", "processes", "run_s", "heartbeat_s"):
        assert getattr(terms.limits, name) == wins("limits", name, getattr(Limits(), name))
    for name in ("cpu", "gpu", "gpu_memory_bytes", "arch"):
        assert getattr(terms.requires, name) == wins("requires", name, getattr(Requires(), name))
    assert dict(terms.requires.labels) == wins("requires", "labels", {})
    liked = {(one.kind, one.value): one.weight for one in terms.prefers}
    for name, kind in KINDS.items():
        for value, weight in wins("prefers", name, {}).items():
            assert liked.pop((kind, value), 0) == weight
    assert liked == {}
    wanted = wins("requires", "memory_bytes", 0)
    assert 0 <= terms.requires.memory_bytes - wanted < MEMORY_STEP_BYTES
    for name in ("max_attempts", "backoff_s"):
        assert getattr(terms.retry, name) == wins("retry", name, getattr(Retry(), name))
    assert terms.retry.on == frozenset(wins("retry", "on", ["lost"]))
    assert terms.requires.isolation == terms.isolation


@settings(max_examples=40, deadline=None)
@given(
    function=bodies,
    caller=bodies,
    level=st.sampled_from(LEVELS),
    most=st.none() | st.integers(1, 9),
)
def test_the_strictest_of_node_function_and_caller_wins(
    function: TermsBody, caller: TermsBody, level: Isolation, most: int | None
) -> None:
    terms = resolve("python", to_row(function), to_row(caller), Policy(level, most))
    asked = [level, function.isolation, caller.isolation]
    assert LEVELS.index(terms.isolation) == max(LEVELS.index(one) for one in asked if one)
    counts = [most, stated(function.limits, "jobs_per_process")]
    counts.append(stated(caller.limits, "jobs_per_process"))
    assert terms.limits.jobs_per_process == min((one for one in counts if one), default=None)


@settings(max_examples=40, deadline=None)
@given(function=bodies, caller=bodies, memory=st.integers(16 << 20, 1 << 41), output=st.integers(1))
def test_no_job_gets_more_than_the_node_lets_it_have(
    function: TermsBody, caller: TermsBody, memory: int, output: int
) -> None:
    policy = Policy(memory_bytes=memory, output_bytes=output)
    terms = resolve("python", to_row(function), to_row(caller), policy)
    free = resolve("python", to_row(function), to_row(caller))
    assert terms.limits.memory_bytes == min(free.limits.memory_bytes, memory)
    assert terms.limits.output_bytes == min(free.limits.output_bytes, output)
    for body in (function, caller):
        over = [
            (f"limits.{name}", most)
            for name, most in (("memory_bytes", memory), ("output_bytes", output))
            if (stated(body.limits, name) or 0) > most
        ]
        if not over:
            check_limits(body.limits, policy)
            continue
        with pytest.raises(Problem) as caught:
            check_limits(body.limits, policy)
        assert (caught.value.field, caught.value.limit) == over[0]
        assert caught.value.status == 422


@settings(max_examples=40, deadline=None)
@given(bodies)
def test_terms_are_read_as_they_were_stated(body: TermsBody) -> None:
    assert from_row(to_row(body)) == body


@settings(max_examples=40, deadline=None)
@given(function=bodies, caller=bodies)
def test_equal_terms_are_one_object(function: TermsBody, caller: TermsBody) -> None:
    rows = to_row(function), to_row(caller)
    assert resolve("python", *rows) is resolve("python", bytes(rows[0]), bytes(rows[1]))
    needs = to_row(TermsBody(requires=caller.requires))
    other, same = resolve("python", NO_TERMS, needs), resolve("python", needs, NO_TERMS)
    assert other.requires is same.requires, "jobs with equal needs wait in one queue"


def test_nothing_stated_is_the_defaults() -> None:
    assert to_row(TermsBody()) == NO_TERMS
    assert resolve("python", to_row(TermsBody(retry=RetryBody())), NO_TERMS).retry == Retry()
    terms = resolve("python", NO_TERMS, NO_TERMS)
    assert terms.requires == Requires()
    assert terms.retry == Retry(max_attempts=3, backoff_s=1.0, on=frozenset({"lost"}))
    assert terms.timeouts == Timeouts(queue_s=86400.0)
    assert terms.limits == Limits()
    assert terms.isolation == "process"


@pytest.mark.parametrize(
    "row",
    [
        b'{"limits":{"run_s":0}}',
        b'{"limits":{"memory_bytes":1}}',
        b'{"retry":{"max_attempts":0}}',
        b'{"retry":{"on":["always"]}}',
        b'{"requires":{"cpu":0}}',
        b'{"isolation":"none"}',
        b'{"prefers":{"labels":{"no value":1}}}',
        b'{"prefers":{"arch":{"x86_64":1001}}}',
        b'{"prefers":{"arch":{"x86_64":0.5}}}',
        b'{"prefers":{"colour":{"red":1}}}',
        b'{"prefers":{"arch":{"1":1,"2":1,"3":1,"4":1,"5":1,"6":1,"7":1,"8":1,"9":1,"10":1,'
        b'"11":1,"12":1,"13":1,"14":1,"15":1,"16":1,"17":1}}}',
        b'{"limit":{}}',
    ],
)
def test_terms_have_bounds(row: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        from_row(row)


@given(asked=st.none() | st.sampled_from(["x86_64", "aarch64"]), requires=st.none() | requires)
def test_an_executable_runs_on_its_own_architecture_whatever_anybody_asks(
    asked: str | None, requires: RequiresBody | None
) -> None:
    stated = to_row(TermsBody(requires=requires))
    assert for_architecture(stated, "") == stated
    caller = to_row(TermsBody(requires=RequiresBody(arch=asked)))
    found = resolve("exec", for_architecture(stated, "aarch64"), caller).requires
    assert found.arch == "aarch64"
    assert found.cpu == ((requires and requires.cpu) or 1)
