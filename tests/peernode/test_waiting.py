"""What waits is found by what it rests on, within bounds that its senders share."""

import itertools

from hypothesis import given, settings, strategies as st

from peernode.waiting import Item, Waiting, name, subject, subjects
from storage.facts import Fact
from storage.places import Class
from tests.storage.builders import (
    DEVELOPER,
    HOME,
    OWNER,
    PROJECT,
    SETTING,
    SPACE,
    member,
    node_grant,
    place,
    project_owner,
    record,
    user_key,
    user_keys,
)

ITEMS: list[Item] = [
    *SETTING,
    *(record(place(Class.KV_ENTRY, key=b"%d" % number)) for number in range(8)),
]


def test_a_record_waits_for_its_home_its_author_and_its_project() -> None:
    one = record(place(Class.KV_ENTRY, key=b"k"))
    assert subjects(one) == (HOME, DEVELOPER, PROJECT)
    for about in subjects(one):
        waiting = Waiting()
        waiting.add(one, "b")
        assert waiting.take([SPACE]) == []
        assert waiting.take([about]) == [(one, "b")]
        assert len(waiting) == 0


def test_a_fact_is_found_by_facts_that_it_rests_on() -> None:
    chain = [node_grant(), user_key(OWNER), project_owner(), member()]
    for before, after in ((0, 1), (0, 2), (1, 3), (2, 3)):
        assert subject(chain[before]) in subjects(chain[after])


def test_what_is_early_waits_for_time_only() -> None:
    one = record(place(Class.KV_ENTRY, key=b"k"))
    waiting = Waiting()
    waiting.add(one, "b", early=True)
    assert waiting.take(subjects(one)) == []
    assert waiting.early == 1
    assert waiting.take_early(lambda item: False) == {}
    assert waiting.early == 1
    assert waiting.take_early(lambda item: item == one) == {"b": [one]}
    assert waiting.early == len(waiting) == 0
    waiting.check()


def test_of_what_is_early_only_what_is_due_is_taken_by_sender_and_in_order() -> None:
    items = [record(place(Class.KV_ENTRY, key=b"%d" % n)) for n in range(6)]
    waiting = Waiting()
    for number, one in enumerate(items):
        waiting.add(one, "ab"[number % 2], early=True)
    due = items[:5]
    found = waiting.take_early(lambda item: item in due)
    assert found == {"a": [items[0], items[2], items[4]], "b": [items[1], items[3]]}
    assert items[5] in waiting
    waiting.check()


def test_a_flood_takes_the_place_of_its_own_sender_only() -> None:
    honest, *flood = (record(place(Class.KV_ENTRY, key=b"%d" % n)) for n in range(20))
    waiting = Waiting(items_max=4)
    waiting.add(honest, "honest")
    for one in flood:
        waiting.add(one, "flooder")
        waiting.check()
    assert honest in waiting
    assert len(waiting) == 4


def test_room_is_bounded_in_bytes() -> None:
    items = [record(place(Class.KV_ENTRY, key=b"%d" % n)) for n in range(20)]
    waiting = Waiting(size_max_bytes=3 * len(items[0].encoded))
    for one in items:
        waiting.add(one, "b")
    waiting.check()
    assert 1 <= len(waiting) <= 3


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, len(ITEMS) - 1), st.sampled_from("abc"), st.booleans(),
                          st.integers(0, 5))))  # fmt: skip
def test_nothing_is_lost_within_the_bounds(steps: list[tuple[int, str, bool, int]]) -> None:
    waiting, held = Waiting(), dict[bytes, Item]()
    for at, sender, early, then in steps:
        item = ITEMS[at]
        waiting.add(item, sender, early=early)
        held[name(item)] = item
        if then == 0:
            for taken in itertools.chain(*waiting.take_early(lambda item: True).values()):
                del held[name(taken)]
        elif then == 1 and subjects(item):
            for taken, _ in waiting.take(subjects(item)[:1]):
                del held[name(taken)]
        waiting.check()
        assert all(one in waiting for one in held.values())
        assert len(waiting) == len(held)


def test_a_fact_is_named_by_its_id_and_a_record_by_its_rid() -> None:
    for item in ITEMS:
        assert name(item) == (item.id if isinstance(item, Fact) else item.rid)


def test_a_record_in_another_envelope_does_not_take_the_place_of_the_true_one() -> None:
    true = record(place(Class.KV_ENTRY, key=b"k"))
    forged = record(place(Class.KV_ENTRY, key=b"k"), signer=user_keys(OWNER))
    assert name(true) == name(forged)
    waiting = Waiting()
    waiting.add(forged, "liar")
    assert true not in waiting
    waiting.add(true, "honest")
    assert waiting.take([HOME]) == [(forged, "liar"), (true, "honest")]
