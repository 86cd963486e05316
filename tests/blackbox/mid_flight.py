"""Kill a node (SIGKILL) in the middle of what goes over a line, the giving or the taking one.

The line is slow, so that there is a middle; how far it is gone is read from the node's figures and
from the bytes that the line has carried, and the kill comes at a share of it that a seed decides.
Started again, the node goes on from there: what had come does not come twice, and nothing is lost.
"""

import hashlib
import random
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Literal, TypeAlias

import httpx

from tests.blackbox.daemon import Daemon, Person, expect
from tests.blackbox.lines import UP, Line, Lines
from tests.blackbox.partitions import let_in
from tests.blackbox.test_mesh import at, eventually, shown, space

Victim: TypeAlias = Literal["giver", "taker"]

RECORDS = 6000
RECORDS_RATE_BYTES_S = 500_000
BLOB_SIZE_BYTES = 40 << 20
BLOB_RATE_BYTES_S = 16 << 20
OPEN_MAX_BYTES = 10 << 20
"""What may be on its way, of a blob: 8 requests of 1 MiB, what the line holds, and all the rest."""
WHOLE_MAX_S = 60.0
WRITE = """
import edge

def handler(input):
    kv = edge.kv("many")
    for number in range(input):
        kv[f"key-{number:05}"] = number
"""


def figure(node: Daemon, name: str) -> float:
    """Return one figure of a node's metrics."""
    with node.client() as client:
        text = client.get("/metrics").text
    return next(float(line.split()[1]) for line in text.splitlines() if line.split()[0] == name)


def keys(client: httpx.Client, namespace: str) -> list[str]:
    """Return all keys of a namespace."""
    found: list[str] = []
    cursor = None
    while True:
        body = {"limit": 1000, "cursor": cursor}
        page = expect(client.post(f"/kv/{namespace}/list", json=body))
        found += page["items"]
        cursor = page["next"]
        if cursor is None:
            return found


def kill_in_sync(place: Path, victim: Victim, seed: int) -> None:
    """Kill one of two nodes while one tells the other thousands of records that it lacks."""
    share = random.Random(seed).uniform(0.15, 0.75)
    with Lines() as lines, ExitStack() as stack:
        giver, taker = lines.node(place / "giver"), lines.node(place / "taker", workers=0)
        stack.enter_context(giver)
        ada = giver.sign_up("ada")
        project = ada.project("many")
        namespace = space(ada, project, "many")
        assert ada.run(ada.deploy(project, "write", WRITE), RECORDS)["state"] == "succeeded"
        total = figure(giver, "peernode_mesh_records")
        assert total >= RECORDS

        let_in(giver, taker.data)
        lines.set(Line(rate_bytes_s=RECORDS_RATE_BYTES_S), ("giver", "taker"))
        stack.enter_context(taker)
        first = figure(taker, "peernode_mesh_records")
        eventually(lambda: figure(taker, "peernode_mesh_records") >= share * total, WHOLE_MAX_S)
        held = figure(taker, "peernode_mesh_records")
        dead = {"giver": giver, "taker": taker}[victim]
        dead.kill()
        assert first < held < total, "not in the middle"

        lines.set(UP, ("giver", "taker"))
        dead.start()
        if victim == "giver":
            ada.http = giver.client(ada.token)
        eventually(lambda: figure(taker, "peernode_mesh_records") == total, WHOLE_MAX_S)
        # What was there is there, and did not come again.
        kept = figure(taker, "peernode_mesh_kept_total")
        facts = figure(taker, "peernode_mesh_facts")
        before = held if victim == "taker" else 0
        assert kept <= total - before + facts
        assert facts == figure(giver, "peernode_mesh_facts")
        there = at(taker, giver, ada)
        shown(there, f"/kv/{namespace}")
        wanted = [f"key-{number:05}" for number in range(RECORDS)]
        assert keys(there, namespace) == keys(ada.http, namespace) == wanted
        for key in (wanted[0], wanted[-1]):
            value = expect(there.post(f"/kv/{namespace}/get", json={"key": key}))
            assert value["value"] == int(key.removeprefix("key-"))


class Reader(threading.Thread):
    """Reads a blob's content at a node, for as long as that goes well."""

    def __init__(self, client: httpx.Client, blob: str) -> None:
        super().__init__(daemon=True)
        self._client = client
        self._path = f"/blob/{blob}/content"
        self.got_bytes = 0

    def run(self) -> None:
        try:
            with self._client.stream("GET", self._path) as answer:
                for piece in answer.iter_bytes():
                    self.got_bytes += len(piece)
        except httpx.HTTPError:
            pass


def kill_in_fetch(place: Path, victim: Victim, seed: int) -> None:
    """Kill one of two nodes while one reads a blob that the other has."""
    rng = random.Random(seed)
    share, content = rng.uniform(0.4, 0.6), rng.randbytes(BLOB_SIZE_BYTES)
    with Lines() as lines, ExitStack() as stack:
        giver, taker = (lines.node(place / name, workers=0) for name in ("giver", "taker"))
        stack.enter_context(giver)
        ada = giver.sign_up("ada")
        blob = ada.blob(content, project=ada.project("large"))
        let_in(giver, taker.data)
        stack.enter_context(taker)
        there = at(taker, giver, ada)
        assert shown(there, f"/blob/{blob['id']}")["cid"] == blob["cid"]

        way = "giver", "taker"
        lines.set(Line(rate_bytes_s=BLOB_RATE_BYTES_S), way)
        start_bytes = lines.carried[way]
        reader = Reader(there, blob["id"])
        reader.start()
        eventually(lambda: lines.carried[way] - start_bytes >= share * BLOB_SIZE_BYTES, WHOLE_MAX_S)
        dead = {"giver": giver, "taker": taker}[victim]
        dead.kill()
        before_bytes = lines.carried[way] - start_bytes
        assert before_bytes < BLOB_SIZE_BYTES, "not in the middle"

        dead.start()
        lines.set(UP, way)
        reader.join(WHOLE_MAX_S)
        assert not reader.is_alive()
        _read_whole(taker, giver, ada, blob, content)
        came_bytes = lines.carried[way] - start_bytes
        assert came_bytes < BLOB_SIZE_BYTES + OPEN_MAX_BYTES, (
            f"{came_bytes} bytes came, {before_bytes} of them before the kill"
        )


def _read_whole(
    taker: Daemon, giver: Daemon, ada: Person, blob: dict[str, str], content: bytes
) -> None:
    there = at(taker, giver, ada)

    def read() -> bytes | None:
        try:
            answer = there.get(f"/blob/{blob['id']}/content")
        except httpx.RemoteProtocolError:
            return None  # It began with what is here, and the nodes had not found each other yet.
        assert answer.status_code in (200, 504), answer.text
        return answer.content if answer.status_code == 200 else None

    whole = eventually(read, WHOLE_MAX_S)
    assert hashlib.sha256(whole).digest() == hashlib.sha256(content).digest()
    assert expect(there.get(f"/blob/{blob['id']}"))["cid"] == blob["cid"]
