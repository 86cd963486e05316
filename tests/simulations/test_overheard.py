"""What is heard on the wire: what may leave does, and what may not ends a run."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import trio

from gossip import fetch_messages, sync_messages
from gossip.batcher import pack
from gossip.fetch_messages import Data, Get, Kind
from gossip.sync_messages import Items, Stratum
from peernode import foreign_messages
from peernode.gossip_driver import encode_item
from simulations.committed import Broken
from simulations.overheard import CONTENTS_MAX, Overheard
from simulations.world import Caller, World
from simulations.world_network import GOSSIP
from storage import codec
from storage.places import Class
from storage.records import Record
from storage.store import Batch, Table
from tests.simulations.test_invariants import play_checked
from tests.simulations.test_kept import keep, node_of
from tests.simulations.test_world import create

CONTENT = b"what somebody has kept here"
FETCH, ASK = fetch_messages.PROTOCOL, foreign_messages.ASK
GET = fetch_messages.encode(Get(1, Kind.BLOB, 1 << 50, b"", 0, 0, b""))
DATA = fetch_messages.encode(Data(CONTENT))


def having(*contents: bytes) -> Overheard:
    overheard = Overheard()
    for number, content in enumerate(contents):
        row, block = b"%d" % number, (Table.BLOCKS, b"%d" % number, content)
        overheard.take(Batch(puts=[(Table.BLOBS, row, b""), block]))
    return overheard


def test_a_reply_to_who_has_asked_brings_content() -> None:
    overheard = having(CONTENT)
    overheard.hear(1, 2, FETCH, GET)
    overheard.hear(2, 1, FETCH, DATA)


@pytest.mark.parametrize(
    "asked", [[], [(2, 1, FETCH)], [(1, 2, ASK)], [(3, 2, FETCH)]], ids=lambda asked: str(asked)
)
def test_a_reply_to_who_has_not_asked_that_node_by_that_protocol(
    asked: list[tuple[int, int, str]],
) -> None:
    overheard = Overheard()
    for question in asked:
        overheard.hear(*question, GET)
    with pytest.raises(Broken, match=f"a reply of {FETCH} goes to node 1"):
        overheard.hear(2, 1, FETCH, DATA)


def test_one_question_has_one_reply() -> None:
    overheard = Overheard()
    overheard.hear(1, 2, FETCH, GET)
    overheard.hear(2, 1, FETCH, DATA)
    with pytest.raises(Broken, match="which has not asked"):
        overheard.hear(2, 1, FETCH, DATA)


def test_a_stream_goes_on_for_who_has_asked() -> None:
    overheard, ask = having(CONTENT), b"\x88\x01"
    overheard.hear(1, 2, foreign_messages.FOLLOW, ask)
    for _ in range(3):
        overheard.hear(2, 1, foreign_messages.FOLLOW, foreign_messages.MORE + CONTENT)
    with pytest.raises(Broken, match="which has not asked"):
        overheard.hear(1, 2, foreign_messages.FOLLOW, foreign_messages.MORE + CONTENT)


@pytest.mark.parametrize("what", [GOSSIP, sync_messages.PROTOCOL, FETCH])
def test_content_is_not_in_what_nobody_asked_for_nor_in_questions(what: str) -> None:
    with pytest.raises(Broken, match=f"is kept at home and goes to node 2 by {what}"):
        having(CONTENT).hear(1, 2, what, GET[:2] + CONTENT)


@pytest.mark.parametrize(
    ("table", "row"),
    [
        (Table.VAULT, CONTENT),
        (Table.WORKERS, CONTENT),
        (Table.KV_LOCAL, codec.dump_row([CONTENT, 1, 0])),
    ],
)
def test_what_never_leaves_is_in_no_gossip(table: Table, row: bytes) -> None:
    overheard = Overheard()
    overheard.take(Batch(puts=[(table, b"key", row)]))
    with pytest.raises(Broken, match="is kept at home and goes to node 2"):
        overheard.hear(1, 2, GOSSIP, CONTENT)


def test_what_is_short_or_all_the_same_or_long_ago_is_not_looked_for() -> None:
    others = [b"another content, number %d" % number for number in range(CONTENTS_MAX)]
    overheard = having(b"short", b"x" * 100, CONTENT, *others)
    for content in (b"short", b"x" * 100, CONTENT):
        overheard.hear(1, 2, GOSSIP, content)


def test_jobs_leave_only_when_asked_for() -> None:
    async def act(world: World, ada: Caller) -> None:
        project = await create(world, 0, "p", ada)
        body: dict[str, Any] = {"project": project, "name": "f", "runtime": "python"}
        body["source"] = "def handler(input):\n    return input\n"
        made = await world.request(0, "POST", "/function", body, token=ada.tokens[0])
        job = {"function": made.json()["id"], "input": "for this node's eyes alone"}
        taken = await world.request(0, "POST", "/job", job, token=ada.tokens[0])
        assert taken.status == 202
        await trio.sleep(1)
        shown = await world.request(1, "GET", f"/job/{taken.json()['id']}", token=ada.tokens[1])
        assert shown.json()["input"] == job["input"]
        # And now by gossip, as somebody's value.
        body = {"owner": {"project": project}, "name": "space", "scope": "global"}
        space = (await world.request(0, "POST", "/kv", body, token=ada.tokens[0])).json()["id"]
        body = {"key": "k", "value": job["input"]}
        put = await world.request(0, "POST", f"/kv/{space}/put", body, token=ada.tokens[0])
        assert put.status == 200

    with pytest.raises(Broken, match="is kept at home and goes to node 1 by gossip"):
        play_checked(act)


def of_a_blob(record: Record) -> Record:
    place = dataclasses.replace(record.body.place)
    object.__setattr__(place, "class_", Class.BLOB)
    return dataclasses.replace(record, body=dataclasses.replace(record.body, place=place))


@pytest.mark.parametrize("way", ["gossip", "reconciliation"])
def test_records_of_blobs_are_sent_by_nobody(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from simulations import overheard

    async def act(world: World, ada: Caller) -> None:
        project = await create(world, 0, "p", ada)
        node = node_of(world, 0)
        assert node.federation is not None
        (record,) = (r for r in node.registry.records() if r.body.place.id == int(project))
        await trio.sleep(1)
        assert world.invariants is not None
        heard = world.invariants._overheard
        heard._seen.clear()
        decode: Callable[[bytes], Record] = overheard.decode_record
        monkeypatch.setattr(overheard, "decode_record", lambda row: of_a_blob(decode(row)))
        if way == "gossip":
            node.federation.gossip.publish(record)
            await trio.sleep(1)
        else:
            items = Items(Stratum.RECORDS, [record.encoded])
            heard.hear(0, 1, sync_messages.PROTOCOL, sync_messages.encode(items))

    with pytest.raises(Broken, match=r"BLOB [0-9]+ is sent unasked"):
        play_checked(act)


def test_all_that_is_gossiped_is_looked_at_once() -> None:
    looked: list[bytes] = []

    async def act(world: World, ada: Caller) -> None:
        assert world.invariants is not None
        heard = world.invariants._overheard
        require = heard._require_pushed

        def count(items: Any) -> None:
            items = list(items)
            looked.extend(encoded for _, encoded in items)
            require(items)

        heard._require_pushed = count  # type: ignore[method-assign]
        project = await create(world, 0, "p", ada)
        await trio.sleep(1)
        (record,) = (
            r for r in node_of(world, 0).registry.records() if r.body.place.id == int(project)
        )
        assert looked.count(record.encoded) == 1
        assert pack([encode_item(record)])

    play_checked(act)


def test_content_that_is_fetched_over_a_world_is_asked_for() -> None:
    async def act(world: World, ada: Caller) -> None:
        await keep(world, ada)

    play_checked(act)
