"""The sorted set that is compared, against a plain one."""

from itertools import pairwise

import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gossip import sync_index
from gossip.sync_index import (
    BLOCK_ITEMS_MAX,
    ITEM_SIZE_BYTES,
    Index,
    Item,
    bound_between,
    item,
    session_key,
    short_id,
    unpack,
)
from tests.gossip.syncing import make_item

KEY = bytes(32)
ITEMS = st.builds(make_item, st.integers(0, 200), st.integers(0, 20))


def test_items_lie_in_the_order_of_time() -> None:
    late, early = make_item(1, 500), make_item(2, 7)
    assert list(Index([late, early])) == [early, late]


def test_an_item_is_there_once() -> None:
    index = Index([make_item(1), make_item(1)])
    assert not index.insert(make_item(1))
    assert len(index) == 1


def test_what_is_removed_is_gone() -> None:
    index = Index([make_item(1), make_item(2)])
    assert index.remove(make_item(1))
    assert not index.remove(make_item(1))
    assert make_item(1) not in index
    assert list(index) == [make_item(2)]


def test_an_empty_index_answers_everything() -> None:
    index = Index()
    assert (len(index), index.rank(b"x"), index.upper_rank(b"")) == (0, 0, 0)
    assert make_item(1) not in index
    assert index.fingerprint(0, 0, KEY) == Index().fingerprint(0, 0, KEY)
    assert not index.remove(make_item(1))


def test_items_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="40 bytes"):
        Index().insert(Item(b"short"))
    with pytest.raises(ValueError, match="32 bytes"):
        item(1, b"short")


@pytest.mark.parametrize("step", [1, -1, 7919])
def test_many_items_in_any_order(step: int) -> None:
    count = 2 * BLOCK_ITEMS_MAX + 100
    index = Index()
    numbers = [number * step % count for number in range(count)]
    for number in numbers:
        index.insert(make_item(number))
    index.check()
    assert index.items(0, count) == [make_item(number) for number in range(count)]
    for number in numbers[:-50]:
        index.remove(make_item(number))
    index.check()
    assert list(index) == sorted(make_item(number) for number in numbers[-50:])
    assert len(index._blocks) <= 2, "blocks with little in them are joined"


def test_full_blocks_are_left_behind_by_items_in_order() -> None:
    index = Index()
    for number in range(3 * BLOCK_ITEMS_MAX):
        index.insert(make_item(number))
    assert [len(block) for block in index._blocks] == [BLOCK_ITEMS_MAX * ITEM_SIZE_BYTES] * 3


def test_fingerprints_depend_on_key_and_items_only() -> None:
    one = Index(make_item(number) for number in range(100))
    other = Index()
    for number in reversed(range(150)):
        other.insert(make_item(number))
    assert one.fingerprint(10, 90, KEY) == other.fingerprint(10, 90, KEY)
    assert one.fingerprint(10, 90, KEY) != other.fingerprint(10, 91, KEY)
    assert one.fingerprint(10, 90, KEY) != one.fingerprint(10, 90, b"k" * 32)


def test_both_sides_have_their_part_in_the_key() -> None:
    mine, yours = b"m" * 16, b"y" * 16
    assert session_key(mine, yours) != session_key(yours, mine)
    assert session_key(mine, yours) != session_key(mine, b"z" * 16)


@settings(deadline=None)
@given(one=ITEMS, other=ITEMS)
def test_a_bound_lies_between(one: Item, other: Item) -> None:
    below, above = sorted((one, other))
    if below == above:
        return
    bound = bound_between(below, above)
    assert below < bound <= above
    assert above.startswith(bound)
    assert not any(below < bound[:size] <= above for size in range(len(bound)))


@settings(deadline=None)
@given(held=st.lists(ITEMS), bound=st.binary(max_size=ITEM_SIZE_BYTES))
def test_the_rank_of_a_bound_counts_what_lies_below(held: list[Item], bound: bytes) -> None:
    index = Index(held)
    assert index.rank(bound) == sum(one < bound for one in set(held))
    assert index.upper_rank(b"") == len(set(held))


@settings(max_examples=30, deadline=None)
@given(held=st.sets(ITEMS, min_size=16, max_size=100), parts=st.sampled_from([2, 16]))
def test_a_split_covers_a_range_in_order(held: set[Item], parts: int) -> None:
    index = Index(held)
    split = index.split(0, len(index), parts, KEY)
    assert len(split) == parts
    assert split[-1][0] == b""
    ranks = [0, *(index.upper_rank(bound) for bound, _ in split)]
    sizes = [high - low for low, high in pairwise(ranks)]
    assert max(sizes) - min(sizes) <= 1
    assert [digest for _, digest in split] == [
        index.fingerprint(low, high, KEY) for low, high in pairwise(ranks)
    ]


def test_a_long_split_is_a_short_one_s_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    index = Index(make_item(number) for number in range(1000))
    short = index.split(3, 997, 16, KEY)
    monkeypatch.setattr(sync_index, "BLOCK_ITEMS_MAX", 10)
    assert index.split(3, 997, 16, KEY) == short


class IndexMachine(RuleBasedStateMachine):
    """Blocks so small that they are split and joined all the time."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(sync_index, "_BLOCK_BYTES_MAX", 8 * ITEM_SIZE_BYTES)
        self.patch.setattr(sync_index, "_BLOCK_BYTES_MIN", 2 * ITEM_SIZE_BYTES)
        self.index = Index()
        self.model: dict[Item, None] = {}

    @rule(one=ITEMS)
    def insert(self, one: Item) -> None:
        assert self.index.insert(one) == (one not in self.model)
        self.model[one] = None

    @rule(one=ITEMS)
    def remove(self, one: Item) -> None:
        assert self.index.remove(one) == (one in self.model)
        self.model.pop(one, None)

    @rule(data=st.data())
    def remove_what_is_there(self, data: st.DataObject) -> None:
        if self.model:
            self.remove(data.draw(st.sampled_from(sorted(self.model))))

    @rule(low=st.integers(0, 50), count=st.integers(0, 50))
    def read(self, low: int, count: int) -> None:
        low = min(low, len(self.model))
        high = min(low + count, len(self.model))
        expected = sorted(self.model)[low:high]
        assert unpack(self.index.packed(low, high)) == expected
        assert self.index.fingerprint(low, high, KEY) == Index(expected).fingerprint(
            0, len(expected), KEY
        )

    @invariant()
    def is_sound(self) -> None:
        self.index.check()
        assert list(self.index) == sorted(self.model)

    def teardown(self) -> None:
        self.patch.undo()


TestIndexMachine = pytest.mark.slow(IndexMachine.TestCase)
TestIndexMachine.settings = settings(max_examples=30, stateful_step_count=60, deadline=None)


def test_short_ids_are_of_the_id_alone() -> None:
    name = bytes(range(32))
    assert short_id(item(1, name)) == short_id(item(2, name)) == name[:16]
