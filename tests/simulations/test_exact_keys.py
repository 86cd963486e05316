"""Histories of exact keys: what clients may hear, and what they may not."""

from typing import Any

import msgspec
import pytest
import trio

from simulations.asgi_calls import Answer, Asked
from simulations.committed import Broken
from simulations.exact_keys import ExactKeys
from simulations.world import Caller, World
from storage import codec, ids
from storage.store import Batch, Table
from tests.simulations.test_invariants import play_checked
from tests.simulations.test_kept import node_of
from tests.simulations.test_world import create

HOME = 3
SPACE = (HOME << 49) + 17
ROW = ids.key(SPACE) + b"k"


def written(*rows: tuple[int, bytes, int] | None) -> ExactKeys:
    """Return the history of one key: value, version and end of each write; `None`: deleted."""
    keys = ExactKeys()
    for row in rows:
        if row is None:
            keys.take(HOME, Batch(deletes=[(Table.KV_LOCAL, ROW)]))
        else:
            version, value, ends_ms = row
            held = codec.dump_row([value, version, ends_ms])
            keys.take(HOME, Batch(puts=[(Table.KV_LOCAL, ROW, held)]))
    return keys


def hear(
    keys: ExactKeys,
    verb: str,
    version: int,
    begun_s: float = 5.0,
    now_s: float = 5.0,
    *,
    number: int | None = None,
    **said: Any,
) -> None:
    """Have a client hear a version, and a number."""
    asked = Asked(
        node=0,
        method="POST",
        path=f"/kv/{SPACE}/{verb}",
        body=msgspec.json.encode({"key": "k", **said}),
        token=None,
        headers=None,
        begun_s=begun_s,
    )
    told = {"key": "k", "version": str(version)} | ({} if number is None else {"value": number})
    keys.answered(asked, Answer(200, {}, msgspec.json.encode(told)), now_s)


ONE, TWO, THREE = (10, b"1", 0), (20, b"2", 0), (30, b"5", 0)


def test_a_history_as_it_should_be() -> None:
    keys = written(ONE, TWO, THREE, None, (40, b"7", 0))
    hear(keys, "put", 10, value=1, if_version="0")
    hear(keys, "increment", 20, number=2)
    hear(keys, "increment", 30, number=5, by=3)
    hear(keys, "get", 30, number=5)
    hear(keys, "put", 40, value=7, if_version="0")


def test_the_second_write_of_one_version_is_not_the_next_one() -> None:
    keys = written(ONE, TWO, THREE)
    hear(keys, "put", 20, value=2, if_version="10")
    with pytest.raises(Broken, match="is written at version 10, and was at 20"):
        hear(keys, "put", 30, value=5, if_version="10")


def test_a_key_that_is_there_is_not_made() -> None:
    with pytest.raises(Broken, match="is written at version 0, and was at 10"):
        hear(written(ONE, TWO), "put", 20, value=2, if_version="0")


def test_a_key_with_an_end_may_be_there_or_not() -> None:
    keys = written((10, b"1", 99), TWO)
    hear(keys, "put", 20, value=2, if_version="0")
    hear(written((10, b"1", 99), TWO), "increment", 20, number=2, by=2)


@pytest.mark.parametrize(("number", "by"), [(5, 2), (4, 2)])
def test_an_increment_that_was_lost_or_is_not_what_was_written(number: int, by: int) -> None:
    with pytest.raises(Broken, match=f"is incremented by {by} to {number}"):
        hear(written(ONE, TWO, THREE), "increment", 30, number=number, by=by)


@pytest.mark.parametrize("verb", ["put", "get", "increment"])
def test_a_version_that_was_never_written(verb: str) -> None:
    with pytest.raises(Broken, match="gives version 15 of none"):
        hear(written(ONE), verb, 15)


@pytest.mark.parametrize(("verb", "said"), [("increment", {}), ("put", {"if_version": "0"})])
def test_what_is_acknowledged_and_not_written(verb: str, said: dict[str, str]) -> None:
    with pytest.raises(Broken, match="is acknowledged, and nothing is written"):
        hear(ExactKeys(), verb, 10, **said)


def test_where_the_last_writer_wins_there_is_no_history() -> None:
    hear(ExactKeys(), "put", 10, value=1)


def test_versions_that_fall() -> None:
    with pytest.raises(Broken, match="is at version 20 and then at 10"):
        written(TWO, ONE)


def test_nobody_hears_what_was_over_when_they_began_to_ask() -> None:
    keys = written(ONE, TWO)
    hear(keys, "get", 20, now_s=6.0)
    hear(keys, "get", 10, begun_s=6.0)  # They may have met.
    hear(keys, "get", 20, begun_s=6.5)
    with pytest.raises(Broken, match="hears what was over"):
        hear(keys, "get", 10, begun_s=6.5)
    with pytest.raises(Broken, match="hears what was over"):
        hear(keys, "put", 20, begun_s=6.5, value=2)


async def make(world: World, ada: Caller, **fields: str) -> str:
    project = await create(world, 0, "p", ada)
    body = {"owner": {"project": project}, "name": "space", **fields}
    made = await world.request(0, "POST", "/kv", body, token=ada.tokens[0])
    assert made.status == 201, made.body
    await trio.sleep(1)
    return str(made.json()["id"])


async def increment(world: World, node: int, space: str, ada: Caller) -> Answer:
    body = {"key": "k", "by": 2}
    path = f"/kv/{space}/increment"
    return await world.request(node, "POST", path, body, token=ada.tokens[node])


def test_a_home_that_loses_a_write_is_found_out() -> None:
    async def act(world: World, ada: Caller) -> None:
        space = await make(world, ada, scope="global", mode="cas")
        assert (await increment(world, 0, space, ada)).json()["value"] == 2
        assert (await increment(world, 1, space, ada)).json()["value"] == 4
        node = node_of(world, 0)
        ((key, _),) = node.store.scan(Table.ENTRIES)
        memory = world.disk(0)._memory
        assert memory is not None
        memory.submit(Batch(deletes=[(Table.ENTRIES, key)]), lambda _: None)
        await increment(world, 0, space, ada)

    with pytest.raises(Broken, match="is incremented by 2 to 2, not to 6"):
        play_checked(act)


def test_a_local_namespace_is_exact_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(world: World, ada: Caller) -> None:
        space = await make(world, ada, scope="local")
        first = await increment(world, 0, space, ada)
        path, token = f"/kv/{space}/put", ada.tokens[0]
        body = {"key": "k", "value": 9, "if_version": first.json()["version"]}
        assert (await world.request(0, "POST", path, body, token=token)).status == 200
        assert (await world.request(0, "POST", path, body, token=token)).status == 409
        monkeypatch.setattr("peernode.spaces.Spaces.check_version", lambda *_: None)
        assert (await world.request(0, "POST", path, body, token=token)).status == 200

    with pytest.raises(Broken, match="is written at version"):
        play_checked(act)
