"""Kill a node (SIGKILL) again and again while it is used, and hold it to what it has said.

What it may not do, whenever it dies: lose a job it has answered 202 for, end one twice or in two
ways, apply a job's writes twice, give an id twice, forget an increment or a blob it has
acknowledged, or take the same Idempotency-Key for two jobs.
"""

import hashlib
import json
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.blackbox.daemon import Daemon, Person, expect

WRITERS = 4
"""Threads that use the node at once."""
OPERATIONS_MAX = 40
"""Most acknowledged calls of a round before the kill."""
UNUSED_RATE = 0.1
"""How many lives end before the node has settled."""
LOOKED_AT_MAX = 24
"""Jobs, blobs and keys of the past that a round looks at again."""
SOURCE = """
import edge

def handler(input):
    edge.kv("done").increment(input, 1)
    return input
"""


@dataclass
class Promises:
    """All that the node has said so far, and what was asked without an answer."""

    keys: dict[str, str | None] = field(default_factory=dict)
    """Idempotency-Key of a job -> its id, or `None` if no answer came."""
    ids: set[str] = field(default_factory=set)
    ended: dict[str, Any] = field(default_factory=dict)
    """Job -> all that was read of it once it was over."""
    blobs: dict[str, str] = field(default_factory=dict)
    """Blob -> SHA-256 of its content."""
    added: int = 0
    """Sum of acknowledged increments."""
    tried: int = 0
    """Sum of all increments."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def new_id(self, id: str) -> None:
        """Note an id that may not have been given before."""
        with self.lock:
            assert id not in self.ids, f"the id {id} was given before"
            self.ids.add(id)

    def job(self, key: str, id: str) -> None:
        """Note the id of the job with a key."""
        with self.lock:
            known = self.keys.get(key)
            if known is not None:
                assert id == known, f"{key} was {known}, and is {id}"
                return
            self.keys[key] = id
            assert id not in self.ids, f"the id {id} was given before"
            self.ids.add(id)


class Round:
    """One life of the node: what is asked of it until it is killed."""

    def __init__(self, person: Person, function: str, space: str, promises: Promises) -> None:
        self._person = person
        self._function = function
        self._space = space
        self._promises = promises

    def hand_in(self, key: str) -> None:
        """Hand in the job of `key`, for the first time or again."""
        self._promises.keys.setdefault(key, None)
        answer = self._person.http.post(
            "/job",
            json={"function": self._function, "input": key},
            headers={"Idempotency-Key": key},
        )
        self._promises.job(key, expect(answer, 202)["id"])

    def increment(self) -> None:
        """Add one to the counter."""
        promises = self._promises
        with promises.lock:
            promises.tried += 1
        expect(self._person.http.post(f"/kv/{self._space}/increment", json={"key": "n"}))
        with promises.lock:
            promises.added += 1

    def store(self, content: bytes) -> None:
        """Store a blob."""
        blob = self._person.blob(content)["id"]
        self._promises.new_id(blob)
        self._promises.blobs[blob] = hashlib.sha256(content).hexdigest()

    def look(self, job: str) -> None:
        """Read a job; what is over may not change."""
        found = expect(self._person.http.get(f"/job/{job}"))
        if found["finished_at"] is None:
            assert job not in self._promises.ended, f"{job} was over, and is {found['state']}"
        else:
            assert self._promises.ended.setdefault(job, found) == found

    def check(self, rng: random.Random) -> None:
        """Hold the node to what it said before it died."""
        promises = self._promises
        for key in _some(rng, list(promises.keys)):
            self.hand_in(key)
        for job in _some(rng, sorted(promises.ended)):
            self.look(job)
        for blob in _some(rng, sorted(promises.blobs)):
            content = self._person.http.get(f"/blob/{blob}/content")
            assert content.status_code == 200
            assert hashlib.sha256(content.content).hexdigest() == promises.blobs[blob]
        answer = self._person.http.post(f"/kv/{self._space}/get", json={"key": "n"})
        held = 0 if answer.status_code == 404 else expect(answer)["value"]
        assert promises.added <= held <= promises.tried
        promises.added = held

    def use(self, rng: random.Random, number: int, kill: Callable[[], None]) -> None:
        """Use the node from several threads and `kill` it after a while, in the midst of it."""
        left = rng.randint(1, OPERATIONS_MAX)
        lock, dead, faults = threading.Lock(), threading.Event(), []

        def work(own: random.Random, thread: int) -> None:
            nonlocal left
            count = 0
            while not dead.is_set():
                count += 1
                try:
                    match own.randrange(4):
                        case 0 | 1:
                            self.hand_in(f"{number}-{thread}-{count}")
                        case 2:
                            self.increment()
                        case _:
                            self.store(own.randbytes(own.choice((10, 10_000, 1_500_000))))
                except httpx.TransportError:
                    return
                except (AssertionError, json.JSONDecodeError) as error:
                    faults.append(error)
                    return
                with lock:
                    left -= 1
                    if left == 0:
                        dead.set()
                        kill()

        threads = [
            threading.Thread(target=work, args=(random.Random(rng.random()), thread))
            for thread in range(WRITERS)
        ]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        if faults:
            raise faults[0]


def _some(rng: random.Random, known: list[str]) -> list[str]:
    """Return the last of `known`, and a few others."""
    last = known[-LOOKED_AT_MAX // 2 :]
    return last + rng.sample(known, min(len(known), LOOKED_AT_MAX // 2))


def survive(directory: Path, kills: int, seed: int) -> int:
    """Return how many jobs a node has run that was killed `kills` times.

    Raises `AssertionError` when it breaks its word.
    """
    rng, promises = random.Random(seed), Promises()
    with Daemon(directory / "data", workers=1) as daemon:
        ada = daemon.sign_up("ada")
        project = ada.project("lab")
        function = ada.deploy(project, "once", SOURCE)
        spaces = {}
        for name in ("counter", "done"):
            body = {"owner": {"project": project}, "name": name, "scope": "local"}
            spaces[name] = expect(ada.http.post("/kv", json=body), 201)["id"]
        promises.ids |= {ada.id, project, function, *spaces.values()}
        life = Round(ada, function, spaces["counter"], promises)
        for number in range(kills):
            if rng.random() < UNUSED_RATE:
                daemon.kill()
            else:
                life.check(rng)
                life.use(rng, number, daemon.kill)
            daemon.start()
            ada.http = daemon.client(ada.token)
        life.check(rng)
        for key in promises.keys:
            life.hand_in(key)
        _settle(ada, life, promises, spaces["done"])
    return len(promises.keys)


def _settle(ada: Person, life: Round, promises: Promises, done: str) -> None:
    """Check that each job ended once, as it should, and that there are no others."""
    for key, job in promises.keys.items():
        assert job is not None
        ended = ada.ended(job)
        assert (ended["state"], ended["result"]) == ("succeeded", key)
        states = [change["state"] for change in ended["history"]]
        assert states.count("succeeded") == 1
        assert states[-1] == "succeeded"
        life.look(job)
        count = expect(ada.http.post(f"/kv/{done}/get", json={"key": key}))
        assert count["value"] == 1, f"{key} was applied {count['value']} times"
    listed: list[str] = []
    cursor = ""
    while cursor is not None:
        page = expect(ada.http.get("/job", params={"limit": 500, "cursor": cursor}))
        listed += [job["id"] for job in page["items"]]
        cursor = page["next"]
    assert sorted(listed) == sorted(str(job) for job in promises.keys.values())
