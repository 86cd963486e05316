"""Names: unique within their owner, and free again when their object is gone."""

import pytest
from hypothesis import given, settings, strategies as st

from peernode import names
from peernode.problems import Problem
from peernode.transactions import Transaction
from storage.memory_store import MemoryStore
from storage.places import Class


@pytest.mark.parametrize("name", ["a", "0a", "a.b-c_d", "x" * 64, "1-1"])
def test_good_names_are_good(name: str) -> None:
    assert names.check(name) == name


@pytest.mark.parametrize(
    "name", ["", "A", "-a", ".a", "_a", "a b", "a/b", "é", "x" * 65, "123", "a\n", "a\0", "\uff11a"]
)
def test_bad_names_are_refused_and_the_field_named(name: str) -> None:
    with pytest.raises(Problem) as refused:
        names.check(name)
    assert refused.value.field == "name"
    assert refused.value.status == 422


@settings(max_examples=50)
@given(st.text(max_size=70))
def test_whatever_is_taken_for_a_name_can_stand_in_a_path(text: str) -> None:
    try:
        names.check(text)
    except Problem:
        return
    assert text.isascii()
    assert text == text.lower()
    assert not set(text) & set("/?#% \n")


def test_a_name_is_its_objects_until_it_is_released() -> None:
    store = MemoryStore()
    assert names.find(store, Class.PROJECT, 1, "lab") is None
    first = Transaction(store)
    names.claim(first, Class.PROJECT, 1, "lab", 7)
    store.apply(first.batch())
    assert names.find(store, Class.PROJECT, 1, "lab") == 7
    with pytest.raises(Problem) as refused:
        names.claim(Transaction(store), Class.PROJECT, 1, "lab", 8)
    assert refused.value.code == "name_taken"
    release = Transaction(store)
    names.release(release, Class.PROJECT, 1, "lab", 7)
    store.apply(release.batch())
    assert names.find(store, Class.PROJECT, 1, "lab") is None


def test_one_name_may_be_several_owners_and_several_classes() -> None:
    store = MemoryStore()
    transaction = Transaction(store)
    for number, (class_, owner) in enumerate(
        [(Class.PROJECT, 1), (Class.PROJECT, 2), (Class.FUNCTION, 1)], start=1
    ):
        names.claim(transaction, class_, owner, "lab", number)
    store.apply(transaction.batch())
    assert names.find(store, Class.PROJECT, 2, "lab") == 2
    assert names.find(store, Class.FUNCTION, 1, "lab") == 3
    assert names.find(store, Class.FUNCTION, 1, "LAB") is None


def test_of_two_who_take_a_name_at_once_one_is_told() -> None:
    store = MemoryStore()
    one, other = Transaction(store), Transaction(store)
    names.claim(one, Class.PROJECT, 1, "lab", 7)
    names.claim(other, Class.PROJECT, 1, "lab", 8)
    assert store.apply(one.batch()) is None
    assert store.apply(other.batch()) is not None
