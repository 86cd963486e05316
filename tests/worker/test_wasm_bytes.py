"""Bytes that travel as text arrive as they were, and cost no more than they have to."""

import pytest
from hypothesis import given, strategies as st

from worker.runtimes.wasm_bytes import DIGITS, SHARE, STEP, received, sent

names = st.text("abc._", max_size=3)


@given(name=names, data=st.binary(max_size=2000))
def test_what_is_sent_is_received(name: str, data: bytes) -> None:
    assert received(*sent(name, data)) == (name, data)


@pytest.mark.parametrize("size", [0, 1, STEP, 100 * STEP])
def test_ascii_is_sent_as_it_is(size: int) -> None:
    data = bytes(range(128)) * (size // 128 + 1)
    assert sent("data", data[:size]) == ("data", data[:size].decode())


def test_what_is_seldom_beyond_ascii_is_sent_as_characters_and_noise_as_digits() -> None:
    for every, name in ((SHARE // 2, DIGITS + "x"), (SHARE, "x"), (3 * SHARE, "x")):
        data = bytearray(100 * SHARE * STEP)
        data[:: every * STEP] = b"\xff" * len(data[:: every * STEP])
        assert sent("x", bytes(data))[0] == name
    assert sent("x", bytes(range(256)) * 100) == ("#x", bytes(range(256)).hex() * 100)


@pytest.mark.parametrize(
    ("name", "text"), [("#x", "0"), ("#x", "xy"), ("#x", "\u0660\u0661"), ("x", "\u0100")]
)
def test_a_text_that_stands_for_nothing_is_a_mistake(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        received(name, text)
