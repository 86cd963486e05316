"""Small records share messages."""

import pytest
from hypothesis import given, strategies as st

from gossip.batcher import Batcher, pack, unpack
from gossip.config import BatchConfig
from gossip.errors import RemoteProtocolError
from gossip.mesh_events import Publish
from storage import codec


def records(message: Publish) -> list[bytes]:
    return unpack(message.data, 1 << 20, 10_000)


def test_records_wait_twenty_milliseconds_for_others() -> None:
    batcher = Batcher(BatchConfig())
    assert batcher.deadline is None
    assert batcher.add("t", b"1", 5.0) == []
    assert batcher.add("t", b"2", 5.01) == []
    assert batcher.deadline == pytest.approx(5.02)
    assert batcher.tick(5.019) == []
    (message,) = batcher.tick(5.02)
    assert (message.topic, records(message)) == ("t", [b"1", b"2"])
    assert batcher.deadline is None


def test_a_full_batch_goes_at_once_and_none_is_over_the_limit() -> None:
    batcher = Batcher(BatchConfig())
    ready = [message for _ in range(100) for message in batcher.add("t", bytes(1000), 0.0)]
    assert [len(records(message)) for message in ready] == [65]
    assert all(len(message.data) <= 65536 for message in ready)


def test_a_large_record_goes_alone_after_those_before_it() -> None:
    batcher = Batcher(BatchConfig())
    batcher.add("t", b"first", 0.0)
    ready = batcher.add("t", bytes(70_000), 0.0)
    assert [len(records(message)) for message in ready] == [1, 1]
    assert records(ready[0]) == [b"first"]
    batcher.check()


def test_a_batch_has_limits_of_number_too() -> None:
    batcher = Batcher(BatchConfig(records_max=3))
    ready = [message for number in range(7) for message in batcher.add("t", b"%d" % number, 0.0)]
    assert [records(message) for message in ready] == [[b"0", b"1", b"2"], [b"3", b"4", b"5"]]
    assert repr(batcher) == "<Batcher: 1 records of 1 topics wait>"
    assert [records(message) for message in batcher.flush()] == [[b"6"]]


def test_topics_are_apart_and_bounded() -> None:
    batcher = Batcher(BatchConfig(topics_max=2))
    assert batcher.add("t", b"1", 0.0) == batcher.add("u", b"2", 0.01) == []
    (message,) = batcher.add("v", b"3", 0.015)
    assert message.topic == "t"
    assert [message.topic for message in batcher.tick(0.03)] == ["u"]
    batcher.check()


@given(
    st.lists(
        st.tuples(st.sampled_from("tuv"), st.integers(0, 400), st.integers(0, 30)), max_size=80
    )
)
def test_nothing_is_lost_doubled_delayed_or_out_of_order(steps: list[tuple[str, int, int]]) -> None:
    batcher = Batcher(BatchConfig(size_max_bytes=1000, records_max=5, topics_max=2))
    now, given_in, came_out = 0.0, {}, {}
    since: dict[bytes, float] = {}

    def took(messages: list[Publish]) -> None:
        for message in messages:
            for record in records(message):
                came_out.setdefault(message.topic, []).append(record)
                assert now - since[record] <= 0.02 + 1e-9

    for number, (topic, size, wait_ms) in enumerate(steps):
        until = now + wait_ms / 1000
        while batcher.deadline is not None and batcher.deadline <= until:
            now = batcher.deadline
            took(batcher.tick(now))
        now = until
        record = b"%d " % number + bytes(size)
        since[record] = now
        given_in.setdefault(topic, []).append(record)
        took(batcher.add(topic, record, now))
        batcher.check()
    took(batcher.flush())
    assert came_out == given_in


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        codec.encode([]),
        codec.encode(["text"]),
        codec.encode({"a": b"b"}),
        codec.encode(7),
        codec.encode([b"1", b"2", b"3", b"4"]),
        pack([b"x"]) + b"\x00",
        pack([bytes(200)]),
    ],
)
def test_what_is_no_batch_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="batch"):
        unpack(data, 100, 3)


@pytest.mark.parametrize("name", ["size_max_bytes", "delay_s", "records_max", "topics_max"])
def test_a_config_without_room_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        BatchConfig(**{name: 0})
