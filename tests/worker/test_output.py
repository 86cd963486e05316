"""Lines made of what a job prints."""

from hypothesis import given, strategies as st

from worker.output import (
    BATCH_LINES_MAX,
    LINE_SIZE_MAX_BYTES,
    LOG_SIZE_MAX_BYTES,
    Output,
)


def texts(output: Output) -> list[tuple[str, str]]:
    return [line[1:] for batch in output.take() for line in batch]


def test_lines_of_streams_do_not_mix() -> None:
    output = Output()
    output.feed(1, b"one ", 1)
    output.feed(2, b"error\n", 2)
    output.feed(1, b"line\nrest", 3)
    assert output.take() == [[(2, "stderr", "error"), (3, "stdout", "one line")]]
    output.close(4)
    assert output.take() == [[(4, "stdout", "rest")]]
    assert output.take() == []


def test_an_empty_line_is_a_line() -> None:
    output = Output()
    output.feed(0, b"\n\n", 1)
    assert texts(output) == [("log", ""), ("log", "")]


@given(st.lists(st.tuples(st.integers(0, 2), st.binary(max_size=50)), max_size=20))
def test_nothing_is_lost_and_all_is_text(parts: list[tuple[int, bytes]]) -> None:
    output = Output()
    for stream, data in parts:
        output.feed(stream, data, 0)
    output.close(0)
    lines = texts(output)
    for stream, name in enumerate(("log", "stdout", "stderr")):
        whole = b"".join(data for number, data in parts if number == stream)
        expected = whole.split(b"\n")
        if not expected[-1]:
            expected.pop()
        assert [text for kind, text in lines if kind == name] == [
            line.decode("utf-8", "replace") for line in expected
        ]
    assert output.total_bytes == sum(len(data) for _, data in parts)


@given(st.binary(min_size=1, max_size=300), st.integers(1, 2000))
def test_it_stays_within_its_bounds(data: bytes, times: int) -> None:
    output = Output()
    for _ in range(times):
        output.feed(1, data * 20, 0)
    output.close(0)
    batches = output.take()
    assert all(0 < len(batch) <= BATCH_LINES_MAX for batch in batches)
    lines = [text for batch in batches for _, _, text in batch]
    assert all(len(text) <= LINE_SIZE_MAX_BYTES for text in lines)
    assert sum(map(len, lines)) <= LOG_SIZE_MAX_BYTES + 100
    assert output.total_bytes == times * len(data) * 20
