"""What a job was given is not in what the worker says of it."""

import json
from urllib.parse import quote

import pytest
from hypothesis import given, settings, strategies as st

from worker.output import LINE_SIZE_MAX_BYTES, Output
from worker.protocol import Usage
from worker.redaction import CUT_FROM_CHARACTERS, LENGTH_MIN, VALUES_MAX, Redaction
from worker.reports import Outcome

VALUE = "correct horse battery staple"
USAGE = Usage(0, 0.0, 0.0, 0)


def redaction(*values: str) -> Redaction:
    made = Redaction()
    for value in values:
        made.add(value)
    return made


def printed(made: Redaction, *chunks: bytes) -> list[str]:
    output = Output()
    output.redaction = made
    for chunk in chunks:
        output.feed(1, chunk, 0)
    output.close(0)
    return [line[2] for batch in output.take() for line in batch]


def test_a_value_is_replaced_wherever_it_stands() -> None:
    lines = printed(redaction(VALUE), f"a {VALUE} b {VALUE}\n{VALUE}".encode())
    assert lines == ["a *** b ***", "***"]


def test_nothing_is_replaced_for_a_job_without_secrets() -> None:
    assert printed(Redaction(), b"a line\n") == ["a line"]
    assert Redaction().text(VALUE) == VALUE


@pytest.mark.parametrize("at", range(1, len(VALUE)))
def test_a_value_split_over_two_chunks_is_replaced(at: int) -> None:
    data = VALUE.encode()
    assert printed(redaction(VALUE), b"x" + data[:at], data[at:] + b"y\n") == ["x***y"]


@pytest.mark.parametrize("before", range(LINE_SIZE_MAX_BYTES - len(VALUE), LINE_SIZE_MAX_BYTES + 1))
def test_a_value_where_a_long_line_is_cut_is_replaced(before: int) -> None:
    data = b"x" * before + VALUE.encode() + b"y" * 100
    whole = "".join(printed(redaction(VALUE), *(data[at : at + 50] for at in range(0, 9000, 50))))
    assert whole == "x" * before + "***" + "y" * 100


def test_each_line_of_a_value_is_replaced() -> None:
    value = "-----BEGIN KEY-----\r\nMIIEvQIBADANB\nab\n"
    assert printed(redaction(value), value.encode()) == ["***\r", "***", "ab"]


@pytest.mark.parametrize("value", ['a"b\\c\nd', "käse☃brot", "tab\there"])
def test_a_value_is_replaced_as_json_python_and_urls_write_it(value: str) -> None:
    made = redaction(value)
    escaped = [json.dumps(value), json.dumps(value, ensure_ascii=False), repr(value), quote(value)]
    for written in (value, *escaped):
        assert made.text(f"<{written}>").strip("<>\"'") == "***"


def test_one_value_that_begins_another_leaves_nothing_of_it() -> None:
    made = redaction("secret", "secret-and-more")
    assert printed(made, b"a secret", b"-and-more b secret\n") == ["a *** b ***"]


def test_short_values_are_left_alone() -> None:
    assert redaction("x" * (LENGTH_MIN - 1)).longest_bytes == 0
    assert redaction("x" * LENGTH_MIN).text("xxxx") == "***"


def test_half_a_value_at_the_end_of_a_text_that_was_cut_is_replaced() -> None:
    made = redaction(VALUE)
    text = ("x" * CUT_FROM_CHARACTERS)[: CUT_FROM_CHARACTERS - 10] + VALUE[:10]
    assert made.text(text) == "x" * (CUT_FROM_CHARACTERS - 10) + "***"
    assert made.text(VALUE[:10]) == VALUE[:10], "a short text was not cut"


@pytest.mark.parametrize("at", range(LENGTH_MIN, len(VALUE) - LENGTH_MIN + 1))
def test_halves_of_a_value_around_the_gap_of_a_traceback_are_replaced(at: int) -> None:
    made = redaction(VALUE)
    assert made.text(f"a {VALUE[:at]}\n...\n{VALUE[at:]} b") == "a ***\n...\n*** b"


def test_the_oldest_of_too_many_values_is_forgotten() -> None:
    made = redaction(*(f"value-{number:03}" for number in range(VALUES_MAX + 1)))
    assert made.text("value-000 value-001") == "value-000 ***"


def test_errors_are_redacted_and_results_are_not() -> None:
    made, payload = redaction(VALUE), json.dumps(VALUE).encode()
    failed = Outcome("function_error", payload, USAGE, f"line 1: {VALUE}").redacted(made)
    assert (failed.payload, failed.traceback) == (b'"***"', "line 1: ***")
    assert Outcome(None, payload, USAGE).redacted(made).payload == payload


@settings(deadline=None)
@given(
    st.lists(st.text("ab\n", min_size=LENGTH_MIN, max_size=12), min_size=1, max_size=3),
    st.lists(st.one_of(st.integers(0, 2), st.text("ab\n", max_size=6)), max_size=12),
    st.lists(st.integers(1, 9), min_size=1, max_size=20),
)
def test_no_value_is_ever_printed(
    values: list[str], pieces: list[int | str], sizes: list[int]
) -> None:
    said = [values[p % len(values)] if isinstance(p, int) else p for p in pieces]
    data = "".join(said).encode()
    chunks, at = [], 0
    for number in range(len(data)):
        size = sizes[number % len(sizes)]
        chunks.append(data[at : at + size])
        at += size
    shown = "\n".join(printed(redaction(*values), *chunks))
    lines = {line for value in values for line in value.splitlines() if len(line) >= LENGTH_MIN}
    assert not any(line in shown for line in lines)
