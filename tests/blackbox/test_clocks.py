"""Wall clocks that step by an hour, either way, under real nodes; nobody else is harmed."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from storage.hlc import AHEAD_MAX_MS
from tests.blackbox.daemon import PASSWORD, Person, expect
from tests.blackbox.partitions import ONE_MAX_S, Town, open_town
from tests.blackbox.stepped_node import SteppedClock
from tests.blackbox.test_mesh import eventually

pytestmark = pytest.mark.slow

HOUR_S = 3600.0
RESERVATION_S = 5.0
"""Source: `storage.reservation.RESERVATION_MS`."""
RETRY_S = 12.0
"""What is early is looked at again every 10 s (`peernode.records_in.EARLY_RETRY_S`)."""
WAIT_HERE = """
import edge, time

def handler(input):
    while edge.kv("shared").get(input) is None:
        time.sleep(0.02)
    return "gone on"
"""


class Village:
    """Three nodes, each with a clock of its own that can be stepped."""

    def __init__(self, town: Town, clocks: dict[str, SteppedClock]) -> None:
        self.town = town
        self.clocks = clocks
        self.ids: dict[str, list[int]] = {name: [] for name in clocks}
        self.versions: dict[str, list[int]] = {name: [] for name in clocks}
        self.base_s = 0.0
        self._count = 0

    def step(self, ahead_s: float, *names: str) -> None:
        """Set some clocks, or all, so far ahead of where all were when the test began."""
        for name in names or self.clocks:
            self.clocks[name].step_to(self.base_s + ahead_s)

    def http(self, name: str, at: str = "") -> httpx.Client:
        return self.town.client(name, at or name)

    def write(self, name: str) -> str:
        """Write a key, make an object and hand in a job at a node; return the key's value."""
        self._count += 1
        http, mark = self.http(name), f"{name}-{self._count}"
        put = http.post(f"/kv/{self.town.space}/put", json={"key": f"of-{name}", "value": mark})
        version = int(expect(put)["version"])
        made = int(expect(http.post("/project", json={"name": mark}), 201)["id"])
        body = {"function": self.town.echo, "input": mark}
        ended = expect(http.post("/job", params={"wait": 30}, json=body))
        assert (ended["state"], ended["result"], ended["attempt"]) == ("succeeded", mark, 1)
        job = int(ended["id"])
        # None is given twice, and each is larger than all before, whatever the clock does.
        assert max(self.ids[name], default=0) < made < job
        assert max(self.versions[name], default=0) < version
        self.ids[name] += [made, job]
        self.versions[name].append(version)
        return mark

    def reads(self, at: str, name: str, http: httpx.Client | None = None) -> Any:
        """Return what a node shows of the key that another wrote."""
        client = http or self.http("a", at)
        answer = client.post(f"/kv/{self.town.space}/get", json={"key": f"of-{name}"})
        return answer.json()["value"] if answer.status_code == 200 else None

    def see(self, mark: str, *nodes: str, within_s: float = ONE_MAX_S) -> None:
        """Return once nodes show what was written."""
        for node in nodes:
            eventually(lambda node=node: self.reads(node, mark[0]) == mark, within_s)

    def waiting(self, name: str) -> float:
        return self.town.counts(name)["peernode_mesh_waiting"]

    def login(self, name: str) -> Person:
        """Return a node's user with a token that is good by this node's clock."""
        node, person = self.town.nodes[name], self.town.people[name]
        with node.client() as client:
            answer = client.post(f"/user/{person.name}/login", json={"password": PASSWORD})
        token = expect(answer)["token"]
        return Person(person.id, person.name, token, node.client(token))


@pytest.fixture(scope="module")
def village(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Village]:
    place = tmp_path_factory.mktemp("village")
    clocks = {name: SteppedClock(place / f"clock-{name}") for name in "abc"}
    with open_town(place, 3, workers=2, clocked=True) as town:
        found = Village(town, clocks)
        for name in "abc":
            found.see(found.write(name), *"abc")
        yield found


def test_a_node_that_starts_with_its_clock_an_hour_behind(village: Village) -> None:
    town = village.town
    node = town.nodes["c"]
    assert node.stop() == 0
    village.step(-HOUR_S, "c")
    # Beyond the mark up to which the node may have given timestamps in its last life.
    village.step(4 * RESERVATION_S, "a", "b")
    apart = village.write("a")
    node.start()
    town.connect()
    # Tokens of before are good: its timestamps go on from its last life, so their time has come.
    assert village.http("c").get("/project").status_code == 200
    person = village.login("c")
    town.use("c", person)
    mark = village.write("c")
    village.see(mark, "a", "b")
    # What others have written since is an hour ahead of it, and waits.
    eventually(lambda: village.waiting("c") > 0)
    later = village.write("b")
    village.see(later, "a")
    assert village.reads("c", "b", person.http) != later
    assert village.reads("c", "a", person.http) != apart

    village.step(4 * RESERVATION_S, "c")
    village.see(later, *"abc")
    village.see(apart, *"abc")
    village.see(village.write("c"), *"abc")
    town.become_one()
    village.base_s += 4 * RESERVATION_S
    village.step(0)


def test_a_node_that_starts_after_a_life_an_hour_ahead(village: Village) -> None:
    town = village.town
    village.step(HOUR_S, "c")
    early = village.write("c")
    town.nodes["c"].kill()
    village.step(0, "c")
    town.nodes["c"].start()
    town.connect()
    later = village.write("c")
    for name in ("a", "b"):
        village.see(village.write(name), *"abc", within_s=RETRY_S)
    assert village.reads("a", "c") not in (early, later)
    # Time goes by.
    village.step(HOUR_S)
    village.see(later, *"abc")
    town.become_one()
    village.base_s += HOUR_S


def test_a_clock_that_steps_ahead_under_a_running_node(village: Village) -> None:
    town = village.town
    # A job that is running, with limits that an hour would be too much for.
    function = town.people["c"].deploy(town.project, "waits", WAIT_HERE)
    limits = {"run_s": 600, "queue_s": 600, "total_s": 600}
    held = town.people["c"].hand_in(function, "go-on", limits=limits)["id"]
    eventually(lambda: village.http("c").get(f"/job/{held}").json()["state"] == "running")
    village.see(village.write("a"), *"abc")

    village.step(HOUR_S, "c")
    early = village.write("c")
    # What the others write goes on to be seen by all, and by their own time.
    for name in ("a", "b"):
        village.see(village.write(name), *"abc", within_s=RETRY_S)
        assert village.versions[name][-1] >> 16 < village.clocks[name].wall_ms() + AHEAD_MAX_MS
        assert village.waiting(name) > 0
    # What the node writes an hour ahead waits there, and is held against nobody.
    assert village.reads("a", "c") != early
    assert town.counts("a")["peernode_mesh_peers"] == 2
    go_on = {"key": "go-on", "value": True}
    expect(village.http("c").post(f"/kv/{town.space}/put", json=go_on))
    ended = expect(village.http("c").get(f"/job/{held}", params={"wait": 30}))
    assert (ended["state"], ended["result"], ended["attempt"]) == ("succeeded", "gone on", 1)

    village.step(HOUR_S, "a", "b")
    village.see(early, *"abc", within_s=ONE_MAX_S)
    eventually(lambda: village.waiting("a") == village.waiting("b") == 0)
    village.see(village.write("b"), *"abc")
    town.become_one()

    # And back, all of them: they have seen that hour, and still hear each other.  No test of this
    # village can come after: whose last timestamp is ahead is early for nobody.
    village.step(0)
    for name in "abc":
        village.see(village.write(name), *"abc", within_s=RETRY_S)
    town.become_one()
