"""What `edge` makes of values, and of a process without a job."""

from typing import Any

import pytest
from hypothesis import given, strategies as st

from worker import edge

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_what_is_encoded_is_decoded(value: Any) -> None:
    assert edge.decode(edge.encode(value)) == value


@given(st.integers(1, 64), st.text(alphabet='[]{}"\\a'))
def test_depth_counts_brackets_outside_of_strings(levels: int, text: str) -> None:
    value: Any = text
    for _ in range(levels):
        value = [value]
    if levels <= edge.DEPTH_MAX:
        edge.encode(value)
    else:
        with pytest.raises(ValueError, match="deeper than 32 levels"):
            edge.encode(value)


def test_outside_of_a_job_nothing_works() -> None:
    with pytest.raises(RuntimeError, match="only while a job runs"):
        edge.kv("x")
    with pytest.raises(RuntimeError, match="only while a job runs"):
        _ = edge.job
