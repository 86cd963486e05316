"""A mesh whose lines break while it is used at every node, and what has to hold afterwards.

A round is a seed: everybody writes, the lines break by a plan, writing goes on, the lines are up
again, and soon after

* every node shows the same: users, projects and their members, functions, namespaces, keys and
  values, nodes, byte for byte, and counts the same facts and records;
* what a node has said it did is there, unless somebody else has changed it since;
* an exact counter counts what was acknowledged, and nothing that was not asked for;
* every job that was accepted has ended once, and every node answers for it in the same words.
"""

import enum
import itertools
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.blackbox import stepped_node
from tests.blackbox.conftest import ECHO
from tests.blackbox.daemon import PASSWORD, Daemon, Person, expect
from tests.blackbox.lines import CUT, HOLE, UP, Line, Lines, Resident, Step, between
from tests.blackbox.test_mesh import eventually, invite, peernode

SLOW = Line(delay_s=0.3, rate_bytes_s=200_000)
ONE_MAX_S = 30.0
"""After this long all nodes show the same, or they never will."""
SETTLED_MAX_S = 120.0
"""Before anything is broken nothing is measured."""
ANSWER_MAX_S = 20.0
"""Whatever the lines do, a question is answered by then: a home has 10 s, its neighbours 5."""
LOOK_AGAIN_S = 0.25
PAUSE_S = 0.03
"""Between two calls of who uses a node: the machine is for all of them."""
HOT_KEYS = 3
OWN_KEYS = 4
MISSING = {200, 404}
COUNTS = ("peernode_mesh_facts", "peernode_mesh_records", "peernode_mesh_waiting")
PEERS = "peernode_mesh_peers"


class Trouble(enum.Enum):
    """What becomes of the lines."""

    HALVES = "halves"
    HOLE = "hole"
    ONE_WAY = "one way"
    FLAPPING = "flapping"
    DEATH = "death"
    """In one half a node is killed, and starts again before the halves find each other."""


def plan(trouble: Trouble, names: Sequence[str], rng: random.Random) -> list[Step]:
    """Return what is to happen, mending not included."""
    half = rng.sample(names, rng.randint(1, len(names) - 1))
    rest = [name for name in names if name not in half]
    match trouble:
        case Trouble.HALVES | Trouble.DEATH:
            return [(0.2, CUT, between(half, rest)), (rng.uniform(3, 4), CUT, [])]
        case Trouble.HOLE:
            return [(0.2, HOLE, between(half, rest)), (rng.uniform(3, 5), HOLE, [])]
        case Trouble.ONE_WAY:
            ways = [(a, b) for a in half for b in rest]
            return [(0.2, HOLE, ways), (rng.uniform(3, 5), HOLE, [])]
        case Trouble.FLAPPING:
            steps: list[Step] = []
            pairs = between(names, names)
            for _ in range(rng.randint(20, 30)):
                some = rng.sample(pairs, rng.randint(1, len(pairs)))
                line = rng.choices((CUT, UP, SLOW, HOLE), (5, 4, 2, 1))[0]
                steps.append((rng.uniform(0.05, 0.3), line, some))
            return steps


@dataclass
class Promises:
    """What nodes have said in a round."""

    jobs: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Job -> who handed it in, and its input."""
    made: dict[str, str] = field(default_factory=dict)
    """Path of an object -> its name."""
    values: dict[str, Any] = field(default_factory=dict)
    """Key that one node alone writes -> its last value; `None`: deleted."""
    blobs: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    """Blob -> whose it is, and its content."""
    increments: list[bool] = field(default_factory=list)
    """Of the counter, by whether they were acknowledged."""
    faults: list[BaseException] = field(default_factory=list)


class Town:
    """Nodes, somebody at home at each, and what all of them share."""

    def __init__(self, lines: Lines, nodes: Mapping[str, Resident]) -> None:
        self.lines = lines
        self.nodes = nodes
        self.people: dict[str, Person] = {}
        self.first = next(iter(nodes))
        self.rounds = 0
        self._clients: dict[tuple[str, str], httpx.Client] = {}
        self._operators: dict[str, httpx.Client] = {}

    def settle(self) -> None:
        """Make a user at each node who is known at all, and a project of theirs."""
        numbers = [node.node_id for node in self.nodes.values()]
        for name, node in self.nodes.items():
            self.people[name] = person = node.sign_up(f"user-{name}")
            with node.client() as client:
                body = {"password": PASSWORD, "audience": numbers}
                answer = client.post(f"/user/{person.name}/login", json=body)
                person.token = expect(answer)["token"]
        self.connect()
        self.become_one(SETTLED_MAX_S)
        owner = self.people[self.first]
        self._invite_guest(numbers)
        self.project = owner.project("shared")
        for name in list(self.nodes)[1:]:
            body = {"user": self.people[name].id, "role": "admin"}
            expect(owner.http.post(f"/project/{self.project}/add_member", json=body))
        body = {"owner": {"project": self.project}, "name": "shared", "scope": "global"}
        self.space = expect(owner.http.post("/kv", json=body), 201)["id"]
        exact = {**body, "name": "exact", "mode": "cas"}
        self.exact = expect(owner.http.post("/kv", json=exact), 201)["id"]
        self.counted = self.count(owner.http)
        self.echo = owner.deploy(self.project, "echo", ECHO)
        self.become_one(SETTLED_MAX_S)

    def _invite_guest(self, numbers: list[str]) -> None:
        """Make a user who comes and goes as a member, and writes wherever that is possible."""
        guest = self.nodes[self.first].sign_up("guest")
        with self.nodes[self.first].client() as client:
            body = {"password": PASSWORD, "audience": numbers}
            token = expect(client.post("/user/guest/login", json=body))["token"]
        self.guest = guest.id
        self.people["guest"] = Person(guest.id, "guest", token, guest.http)
        self.connect()

    def connect(self) -> None:
        """Make new clients, at the start and whenever a node has started again."""
        for name in self.nodes:
            self._connect(name)

    def _connect(self, name: str) -> None:
        node = self.nodes[name]
        self._operators[name] = node.operator()
        for who, person in self.people.items():
            self._clients[who, name] = node.client(person.token)
        self.people[name].http = self._clients[name, name]

    def use(self, name: str, person: Person) -> None:
        """Have a node's user call it as this person from now on."""
        self._clients[name, name] = person.http

    def client(self, who: str, at: str) -> httpx.Client:
        """Return a client of one's user at another's node."""
        return self._clients[who, at]

    def count(self, http: httpx.Client) -> int:
        """Add one to the counter and return what it is then."""
        answer = http.post(f"/kv/{self.exact}/increment", json={"key": "n", "by": 1})
        return int(expect(answer)["value"])

    # --- what a node shows ----------------------------------------------------------------

    def counts(self, name: str) -> dict[str, float]:
        """Return how many peers a node has, facts and records it offers, and how many wait."""
        text = self._operators[name].get("/metrics").text
        lines = (line.split() for line in text.splitlines() if not line.startswith("#"))
        found = {line[0]: float(line[1]) for line in lines}
        return {name: found[name] for name in (*COUNTS, PEERS)}

    def state(self, at: str, name: str) -> str:
        """Return what a node says of another."""
        number = self.nodes[name].node_id
        items = expect(self._operators[at].get("/mesh/peers"))["items"]
        return next(str(item["state"]) for item in items if item["node_id"] == number)

    def view(self, name: str) -> dict[str, Any]:
        """Return all that a node shows of what every node has to show alike."""
        operator = self._operators[name]
        shown: dict[str, Any] = {"counts": self.counts(name)}
        for class_name in ("user", "project", "function", "kv"):
            shown[class_name] = listed(operator, f"/{class_name}")
        nodes = expect(operator.get("/mesh/peers"))["items"]
        shown["nodes"] = [
            [node["node_id"], node["peer_id"], node["state"] == "evicted"] for node in nodes
        ]
        # What an operator may not read, members may.
        client = self._clients[self.first, name]
        for space in [space["id"] for space in shown["kv"]]:
            keys = expect(client.post(f"/kv/{space}/list", json={"limit": 500}))["items"]
            shown[f"keys of {space}"] = [
                expect(client.post(f"/kv/{space}/get", json={"key": key})) for key in keys
            ]
        return shown

    def become_one(self, within_s: float = ONE_MAX_S) -> dict[str, Any]:
        """Return what all nodes show, as soon as it is the same and all are in touch."""
        ends_s = time.monotonic() + within_s
        while True:
            views: dict[str, Any] = {}
            counts = {name: self.counts(name) for name in self.nodes}
            alike = {tuple(found.values()) for found in counts.values()}
            are_up = all(found[PEERS] == len(self.nodes) - 1 for found in counts.values())
            if (are_up and len(alike) == 1) or time.monotonic() > ends_s:
                try:
                    views = {name: self.view(name) for name in self.nodes}
                except AssertionError as error:  # A key that was listed is deleted by now, say.
                    views = {"error": error}
                texts = (
                    {json.dumps(view, sort_keys=True) for view in views.values()}
                    if ("error" not in views)
                    else set()
                )
                if are_up and len(texts) == 1:
                    return next(iter(views.values()))
            assert time.monotonic() < ends_s, f"not one: {counts} {difference(views)}"
            time.sleep(LOOK_AGAIN_S)

    # --- a round ----------------------------------------------------------------------------

    def round(self, trouble: Trouble, seed: int, *, admits: bool = False) -> None:
        """Use all nodes while their lines break; see that all is well afterwards."""
        self.rounds += 1
        rng, promises = random.Random(seed), Promises()
        over = {name: threading.Event() for name in self.nodes}
        threads = {
            name: [
                threading.Thread(
                    target=self._guarded, args=(work, name, rng.random(), promises, over[name])
                )
                for work in (self._write, self._ask, self._add)
            ]
            for name in self.nodes
        }

        def stop(name: str) -> None:
            over[name].set()
            for thread in threads[name]:
                thread.join()

        self._doom()
        harm = self._harm()
        broken = self.lines.play(plan(trouble, list(self.nodes), rng))
        for thread in itertools.chain(*threads.values()):
            thread.start()
        try:
            if admits:
                self._admit(rng)
            if trouble is Trouble.DEATH:
                name = rng.choice(list(self.nodes))
                eventually(lambda: name in [who for who, _ in list(promises.jobs.values())])
                stop(name)
                self.nodes[name].kill()
                self.nodes[name].start()
                self._connect(name)
            assert broken.wait(60)
            self.lines.mend()
            mended_s = time.monotonic()
            assert self._harm() > harm, "nothing was broken"
        finally:
            for name in self.nodes:
                stop(name)
        if promises.faults:
            raise promises.faults[0]
        assert promises.jobs
        assert promises.made
        assert any(promises.increments)
        shown = self.become_one(ONE_MAX_S - (time.monotonic() - mended_s))
        self._check(promises, shown)

    def _doom(self) -> None:
        """Make what somebody may delete while others still use it."""
        owner, mark = self.people[self.first], f"doomed-{self.rounds}"
        self.doomed = {"project": owner.project(mark)}
        for name in list(self.nodes)[1:]:
            body = {"user": self.people[name].id, "role": "admin"}
            expect(owner.http.post(f"/project/{self.doomed['project']}/add_member", json=body))
        body = {"owner": {"project": self.project}, "name": mark, "scope": "global"}
        self.doomed["kv"] = expect(owner.http.post("/kv", json=body), 201)["id"]
        self.doomed["function"] = owner.deploy(self.project, mark, ECHO)

    def part_with(self, name: str) -> None:
        """Have a node be none of this town any more."""
        self.nodes = {each: node for each, node in self.nodes.items() if each != name}

    def _harm(self) -> int:
        return self.lines.broken.total() + self.lines.swallowed.total()

    def _admit(self, rng: random.Random) -> None:
        """Let a node in at one side, which never starts, and shut it out again at the same."""
        name = rng.choice(list(self.nodes)[:2])  # Who came in last has few numbers to give.
        node = self.nodes[name]
        joiner = node.data.parent / f"joiner-{self.rounds}"
        number = let_in(node, joiner)
        if rng.random() < 0.5:
            expect(self._operators[name].post("/mesh/evict", json={"node": number}))

    def _guarded(
        self,
        work: Callable[[str, random.Random, Promises, threading.Event], None],
        name: str,
        seed: float,
        promises: Promises,
        over: threading.Event,
    ) -> None:
        try:
            work(name, random.Random(seed), promises, over)
        except (AssertionError, httpx.HTTPError, ValueError, KeyError) as error:
            promises.faults.append(error)

    def _write(
        self, name: str, rng: random.Random, promises: Promises, over: threading.Event
    ) -> None:
        """Change things at a node until the round is over."""
        http, count = self._clients[name, name], 0
        while not over.wait(PAUSE_S):
            count += 1
            mark = f"{name}-{self.rounds}-{count}"
            match rng.randrange(14):
                case 0 | 1 | 2:
                    key = f"own-{name}-{rng.randrange(OWN_KEYS)}"
                    self._put(http, key, mark)
                    promises.values[key] = mark
                case 3:
                    key = f"own-{name}-{rng.randrange(OWN_KEYS)}"
                    self._delete(http, key)
                    promises.values[key] = None
                case 4:
                    self._put(http, f"hot-{rng.randrange(HOT_KEYS)}", [mark, rng.random()])
                case 5:
                    self._delete(http, f"hot-{rng.randrange(HOT_KEYS)}")
                case 6 | 7:
                    body = {"function": self.echo, "input": mark}
                    job = expect(http.post("/job", json=body), 202)["id"]
                    promises.jobs[job] = name, mark
                case 8:
                    self._make(http, "project", {"name": mark}, promises)
                case 9:
                    owner = {"owner": {"project": self.project}, "scope": "global"}
                    self._make(http, "kv", {"name": mark, **owner}, promises)
                case 10:
                    content = rng.randbytes(rng.choice((100, 100_000)))
                    body = {"project": self.project}
                    blob = expect(http.post("/blob", params=body, content=content), 201)["id"]
                    promises.blobs[blob] = name, content
                case 11:
                    self._ruin(http, rng, mark)
                case _:
                    self._change(name, rng, mark, promises)

    def _ruin(self, http: httpx.Client, rng: random.Random, mark: str) -> None:
        """Use what is to be deleted, or delete it."""
        paths = {kind: f"/{kind}/{made}" for kind, made in self.doomed.items()}
        match rng.randrange(6):
            case 0 | 1:
                body = {"key": rng.choice("xyz"), "value": mark}
                answer = http.post(f"{paths['kv']}/put", json=body)
            case 2:
                body = {"owner": {"project": self.doomed["project"]}, "name": mark}
                answer = http.post("/kv", json={**body, "scope": "global"})
            case 3:
                answer = http.post(paths["function"], json={"source": f"{ECHO}# {mark}\n"})
            case _:
                answer = http.delete(paths[rng.choice(list(paths))])
        assert answer.status_code in (200, 201, 204, 403, 404), answer.text

    def _change(self, name: str, rng: random.Random, mark: str, promises: Promises) -> None:
        """Do what others may be doing to the same thing."""
        http = self._clients[name, name]
        match rng.randrange(5):
            case 0:
                source = f"{ECHO}# {mark}\n"
                expect(http.post(f"/function/{self.echo}", json={"source": source}))
            case 1:
                body = {"project": self.project, "name": mark, "runtime": "python", "source": ECHO}
                self._make(http, "function", body, promises)
            case 2:
                body = {"user": self.guest, "role": rng.choice(("viewer", "developer"))}
                expect(http.post(f"/project/{self.project}/add_member", json=body))
            case 3:
                body = {"key": f"guest-{rng.randrange(HOT_KEYS)}", "value": mark}
                answer = self._clients["guest", name].post(f"/kv/{self.space}/put", json=body)
                assert answer.status_code in (200, 403, 404), answer.text
            case _:
                answer = http.post(
                    f"/project/{self.project}/remove_member", json={"user": self.guest}
                )
                assert answer.status_code in MISSING, answer.text

    def _ask(
        self, name: str, rng: random.Random, promises: Promises, over: threading.Event
    ) -> None:
        """Ask a node for jobs of others: the answer may be that nobody knows, but it comes."""
        while not over.wait(PAUSE_S):
            others = [(job, who) for job, (who, _) in list(promises.jobs.items()) if who != name]
            if not others:
                continue
            job, who = rng.choice(others)
            started_s = time.monotonic()
            wait_s = rng.choice((0, 0, 3))
            answer = self._clients[who, name].get(f"/job/{job}", params={"wait": wait_s})
            assert answer.status_code in (200, 404, 503, 504), answer.text
            took_s = time.monotonic() - started_s
            assert took_s < ANSWER_MAX_S + wait_s, f"{took_s:.1f} s for {answer.status_code}"

    def _add(
        self, name: str, rng: random.Random, promises: Promises, over: threading.Event
    ) -> None:
        """Add to the counter, which one node has and no other may guess."""
        while not over.wait(2 * PAUSE_S):
            started_s = time.monotonic()
            path, body = f"/kv/{self.exact}/increment", {"key": "n", "by": 1}
            answer = self._clients[name, name].post(path, json=body)
            assert answer.status_code in (200, 503), answer.text
            assert time.monotonic() - started_s < ANSWER_MAX_S
            promises.increments.append(answer.status_code == 200)

    def _put(self, http: httpx.Client, key: str, value: Any) -> None:
        expect(http.post(f"/kv/{self.space}/put", json={"key": key, "value": value}))

    def _delete(self, http: httpx.Client, key: str) -> None:
        answer = http.post(f"/kv/{self.space}/delete", json={"key": key})
        assert answer.status_code in MISSING, answer.text

    def _make(self, http: httpx.Client, class_name: str, body: Any, promises: Promises) -> None:
        made = expect(http.post(f"/{class_name}", json=body), 201)
        promises.made[f"/{class_name}/{made['id']}"] = body["name"]

    def _check(self, promises: Promises, shown: Mapping[str, Any]) -> None:
        """Hold all nodes to what each has said; they show the same."""
        for path, called in promises.made.items():
            _, class_name, made = path.split("/")
            found = [one["name"] for one in shown[class_name] if one["id"] == made]
            assert found == [called], path
        values = {one["key"]: one["value"] for one in shown[f"keys of {self.space}"]}
        for key, value in promises.values.items():
            assert values.get(key) == value, key
        was, self.counted = self.counted, self.count(self._clients[self.first, self.first])
        added = self.counted - was - 1
        assert sum(promises.increments) <= added <= len(promises.increments)
        for job, (who, mark) in promises.jobs.items():
            params = {"wait": 30}
            first, *others = self._answers(who, f"/job/{job}", **params)
            assert all(answer.json() == first.json() for answer in others)
            found = first.json()
            assert (found["state"], found["result"]) == ("succeeded", mark)
            states = [change["state"] for change in found["history"]]
            assert states.count("succeeded") == 1
            assert states[-1] == "succeeded"
        for blob, (who, content) in promises.blobs.items():
            assert all(a.content == content for a in self._answers(who, f"/blob/{blob}/content"))
        for name in self.nodes:
            with self.nodes[name].operator() as operator:
                ours = [job["id"] for job in listed(operator, "/job")]
            accepted = [job for job, (who, _) in promises.jobs.items() if who == name]
            assert set(accepted) <= set(ours)
            assert len(set(ours)) == len(ours)

    def _answers(self, who: str, path: str, **params: float) -> list[httpx.Response]:
        """Return what each node answers, once it does: a dead link passes for one for a while."""

        def look(client: httpx.Client) -> httpx.Response | None:
            answer = client.get(path, params=params)
            assert answer.status_code in (200, 504), answer.text
            return answer if answer.status_code == 200 else None

        return [
            eventually(lambda client=self._clients[who, name]: look(client), ONE_MAX_S)
            for name in self.nodes
        ]


def let_in(inviter: Daemon, joiner: Path) -> str:
    """Have the node of a directory, which is stopped, join; return its number."""
    done = peernode("join", invite(inviter), "--data", str(joiner), "--json")
    return str(json.loads(done.stdout)["node_id"])


def listed(client: httpx.Client, path: str) -> list[Any]:
    """Return all objects of a list."""
    found: list[Any] = []
    cursor: str | None = ""
    while cursor is not None:
        page = expect(client.get(path, params={"limit": 500, "cursor": cursor}))
        found += page["items"]
        cursor = page["next"]
    return found


def difference(views: Mapping[str, Any]) -> str:
    """Return where views differ, for who has to find out why."""
    if "error" in views or not views:
        return str(views)
    lines = []
    for part in sorted({part for view in views.values() for part in view}):
        texts = {name: json.dumps(view.get(part)) for name, view in views.items()}
        if len(set(texts.values())) > 1:
            lines += [f"{part} at {name}: {text[:1500]}" for name, text in texts.items()]
    return "\n".join(lines)


@contextmanager
def open_town(
    place: Path, count: int, *, workers: int = 1, clocked: bool = False
) -> Iterator[Town]:
    """Own a mesh of nodes, each let in by the one before.

    If `clocked`, each goes by the file `clock-NAME` (see `stepped_node`).
    """
    with Lines() as lines, ExitStack() as stack:
        nodes: dict[str, Resident] = {}
        for name in "abcde"[:count]:
            node = lines.node(place / name, workers=workers)
            if clocked:
                node.command[1:4] = [stepped_node.__file__, str(place / f"clock-{name}")]
            if nodes:
                let_in(list(nodes.values())[-1], node.data)
            nodes[name] = stack.enter_context(node)
        town = Town(lines, nodes)
        town.settle()
        yield town
