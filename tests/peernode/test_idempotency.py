"""The same request handed in twice makes one object."""

import pytest
from hypothesis import given, settings, strategies as st

from peernode import idempotency
from peernode.idempotency import KEPT_MS, Claim, claim, take
from peernode.problems import Problem
from peernode.transactions import Transaction
from storage.memory_store import MemoryStore
from storage.store import Table


def made(header: bytes, scope: int = 1, path: str = "job", body: bytes = b"{}") -> Claim:
    found = claim(header, scope, path, body)
    assert found is not None
    return found


def test_no_header_claims_nothing() -> None:
    assert claim(None, 1, "job", b"{}") is None
    store = MemoryStore()
    transaction = Transaction(store)
    assert take(transaction, None, 7, 0) == 7
    assert transaction.batch().puts == []


def test_the_second_claim_of_a_key_is_of_the_first_ones_object() -> None:
    store = MemoryStore()
    first = Transaction(store)
    assert take(first, made(b"k"), 7, 1000) == 7
    assert store.apply(first.batch()) is None
    second = Transaction(store)
    assert take(second, made(b"k"), 8, 2000) == 7
    assert second.batch().puts == []


def test_another_body_is_refused() -> None:
    store = MemoryStore()
    first = Transaction(store)
    take(first, made(b"k"), 7, 0)
    store.apply(first.batch())
    with pytest.raises(Problem) as refused:
        take(Transaction(store), made(b"k", body=b"[]"), 8, 0)
    assert (refused.value.status, refused.value.code) == (422, "idempotency_mismatch")


def test_of_two_claims_at_once_one_is_a_conflict() -> None:
    store = MemoryStore()
    one, other = Transaction(store), Transaction(store)
    take(one, made(b"k"), 7, 0)
    take(other, made(b"k"), 8, 0)
    assert store.apply(one.batch()) is None
    assert store.apply(other.batch()) is not None


def test_a_claim_is_kept_for_a_day_and_named_for_the_sweeper() -> None:
    mine = made(b"k")
    (table, key, row), (expiries, due, _) = mine.puts(7, 1000)
    assert (table, expiries) == (Table.IDEMPOTENCY, Table.EXPIRIES)
    assert due == (1000 + KEPT_MS).to_bytes(8, "big") + idempotency.EXPIRY_KIND + key
    assert KEPT_MS == 24 * 3600 * 1000
    assert mine.match(row) == 7


@pytest.mark.parametrize("header", [b"", b"x" * 256])
def test_a_key_has_a_length(header: bytes) -> None:
    with pytest.raises(Problem) as refused:
        claim(header, 1, "job", b"{}")
    assert (refused.value.field, refused.value.limit) == ("Idempotency-Key", 255)


def test_a_claim_that_is_being_undone_asks_to_come_again() -> None:
    with pytest.raises(Problem) as refused:
        made(b"k").match(None)
    assert refused.value.code == "overloaded"


places = st.tuples(st.integers(0, 3), st.sampled_from(["job", "kv"]), st.binary(min_size=1))


@settings(max_examples=40)
@given(places, places)
def test_claims_meet_only_in_one_scope_and_for_one_kind_of_object(
    left: tuple[int, str, bytes], right: tuple[int, str, bytes]
) -> None:
    (scope, path, header), (other_scope, other_path, other_header) = left, right
    keys = made(header, scope, path).key, made(other_header, other_scope, other_path).key
    assert (keys[0] == keys[1]) == (left == right)
