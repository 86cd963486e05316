"""Lists: newest first, filtered, and stable while others insert."""

from typing import Any

import msgspec
import pytest
import trio
from hypothesis import given, settings, strategies as st

from peernode import listing
from peernode.calls import Call, ObjectView, Page
from peernode.permissions import Actor
from peernode.problems import Problem


class View(ObjectView, rename={"class_name": "class"}, frozen=True, kw_only=True):
    name: str | None
    local: bool


def view(number: int, name: str | None = "a", local: bool = False) -> View:
    return View(
        id=str(number),
        class_name="thing",
        revision="1",
        created_at="",
        home_node=1,
        name=name,
        local=local,
    )


def page(objects: list[View], **query: str) -> Page:
    found: list[Page] = []

    def candidates(before: int) -> Any:
        newest_first = sorted(objects, key=lambda one: -int(one.id))
        return (one for one in newest_first if int(one.id) < before)

    async def main() -> None:
        call = Call(Actor(kind="operator"), [], query)
        found.append((await listing.page(call, View, candidates)).value)

    trio.run(main)
    return found[0]


def test_the_newest_comes_first_and_the_last_page_names_no_next() -> None:
    objects = [view(number) for number in (3, 1, 2)]
    first = page(objects, limit="2")
    assert [one.id for one in first.items] == ["3", "2"]
    assert first.next == "2"
    last = page(objects, limit="2", cursor="2")
    assert ([one.id for one in last.items], last.next) == (["1"], None)


def test_a_full_last_page_names_no_next() -> None:
    assert page([view(1), view(2)], limit="2").next is None


@settings(max_examples=25)
@given(
    old=st.sets(st.integers(1, 50), max_size=20),
    limit=st.integers(1, 5),
    inserts=st.lists(st.integers(1, 4), max_size=30),
    gone=st.sets(st.integers(1, 50), max_size=5),
)
def test_what_is_made_or_deleted_while_someone_pages_moves_nothing(
    old: set[int], limit: int, inserts: list[int], gone: set[int]
) -> None:
    objects = {number: view(number) for number in old}
    newest, cursor, seen = 100, "", []
    steps = iter(inserts)
    while True:
        found = page(list(objects.values()), limit=str(limit), cursor=cursor)
        seen += [int(one.id) for one in found.items]
        if found.next is None:
            break
        cursor = found.next
        for _ in range(next(steps, 0)):
            newest += 1
            objects[newest] = view(newest)
        for number in list(gone)[:1]:
            gone.discard(number)
            if number < int(cursor):
                old.discard(number)
                objects.pop(number, None)
    assert [number for number in seen if number in old] == sorted(old, reverse=True)
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ({"name": "a"}, ["1"]),
        ({"name": ""}, ["3"]),
        ({"local": "true"}, ["2"]),
        ({"class": "thing", "local": "false"}, ["3", "1"]),
        ({"name": "nobody"}, []),
    ],
)
def test_a_list_is_filtered_by_attributes(query: dict[str, str], wanted: list[str]) -> None:
    objects = [view(1), view(2, "b", local=True), view(3, None)]
    assert [one.id for one in page(objects, **query).items] == wanted


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"colour": "red"}, "colour"),
        ({"limit": "0"}, "limit"),
        ({"limit": "1001"}, "limit"),
        ({"limit": "nan"}, "limit"),
        ({"limit": "x"}, "limit"),
        ({"cursor": "x"}, "cursor"),
        ({"cursor": "-1"}, "cursor"),
        ({"cursor": str(1 << 63)}, "cursor"),
    ],
)
def test_a_mistake_is_named(query: dict[str, str], field: str) -> None:
    with pytest.raises(Problem) as refused:
        page([view(1)], **query)
    assert refused.value.field == field
    assert refused.value.status == 422


def test_a_page_looks_at_a_bounded_number_of_objects_and_says_where_to_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listing, "LOOKED_AT_MAX", 3)
    objects = [view(number, "rare" if number == 1 else "common") for number in range(1, 9)]
    pages, cursor, found = 0, "", []
    while True:
        one = page(objects, name="rare", cursor=cursor)
        pages += 1
        found += [item.id for item in one.items]
        if one.next is None:
            break
        cursor = one.next
    assert (found, pages) == (["1"], 3)


def test_a_page_is_json() -> None:
    text = msgspec.json.encode(page([view(1)]))
    assert msgspec.json.decode(text)["items"][0]["class"] == "thing"
