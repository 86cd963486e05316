"""Updates: changes that all nodes come to know, and blobs that are read where they are not.

`[[updates]]` is played over the real API, one call a change, in turn at its nodes.  What is changed
is made before the run begins: `keys` keys of one global namespace, or so many functions, projects,
users or blobs.  How a change travels is measured by `simulations.sightings`; here is who makes it,
and who reads:

* `update.refused` 0/1: its node was down, or could not take it;
* `blob.read_s`, `blob.fetched` 0/1, `blob.fetched_bytes`, `blob.failed` 0/1: reading a blob at a
  node, and whether its bytes had to come from another;
* `read.stale` 0/1: a key was read at a node that did not show its last change yet;
* `write.lost` 0/1, one for each key in the end: some node that is up does not have its last change,
  nor a later one.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import trio

from peernode.content import METER_BLOB_BYTES
from simulations.arrivals import arrivals
from simulations.calls import ask, is_passing, wait_for
from simulations.changes import SPACE, Change, Owner, Thing, next_change, source
from simulations.clients import which
from simulations.distributions import draw
from simulations.metrics import Metrics
from simulations.popularity import Zipf
from simulations.scenario import Updates
from simulations.world import Answer, NodeDown, RefusedError
from storage import cid, ids

if TYPE_CHECKING:
    from simulations.world import Caller, World


class UpdatesPlayer:
    """One `[[updates]]` being played."""

    def __init__(
        self,
        described: Updates,
        world: "World",
        metrics: Metrics,
        *,
        number: int,
        until_s: float,
        honest: Sequence[int],
        directory: str = ".",
    ) -> None:
        """`number` tells them apart; nothing changes at or after `until_s`.

        `honest` are the nodes whose word counts: what others acknowledge is no promise.
        """
        self._honest = dict.fromkeys(honest)
        self._described = described
        self._world = world
        self._metrics = metrics
        self._number = number
        self._until_s = until_s
        self._directory = directory
        self._nodes = which(described.nodes, world.size)
        self._owner = Owner("", ())
        self._has_begun = False
        self._things: list[Thing] = []
        self._zipf = Zipf(described.keys, described.zipf)

    # --- before the run -----------------------------------------------------------------------

    async def set_up(self, caller: "Caller", project: str) -> list[int]:
        """Make what will change; return the ids that every node has to know first."""
        described, world, tokens = self._described, self._world, caller.tokens
        self._owner = Owner(project, tokens)
        names = [f"{described.what}-{self._number}-{key}" for key in range(described.keys)]
        chance = world.chance("updates", self._number, "first")
        match described.what:
            case "kv":
                body = {"owner": {"project": project}, "name": f"{SPACE}-{self._number}"}
                body["scope"] = "global"
                space = await self._make("/kv", body, tokens)
                self._things = [Thing(place, space, tokens) for place, _ in enumerate(names)]
                return [int(space)]
            case "blob":
                await wait_for(lambda: all(map(self._knows(int(caller.id)), self._nodes)))
                for place, _ in enumerate(names):
                    thing = Thing(place, "", tokens)
                    self._things.append(thing)
                    node = self._nodes[place % len(self._nodes)]
                    await self._change(thing, node, draw(described.size_bytes, chance))
                if described.quota_bytes is not None:
                    for node in self._nodes:
                        await self._limit(node, described.quota_bytes)
                return []
            case "counter":
                return await self._make_counters(names)
            case "member":
                return await self._let_in(names)
            case "user":
                for place, name in enumerate(names):
                    home = self._nodes[place % len(self._nodes)]
                    user = await world.sign_up(name, home)
                    self._things.append(Thing(place, user.id, user.tokens, home))
            case "project":
                for place, name in enumerate(names):
                    made = await self._make("/project", {"name": name}, tokens)
                    self._things.append(Thing(place, made, tokens))
            case "function":
                for place, name in enumerate(names):
                    body = {"project": project, "name": name, "runtime": "python"}
                    body["source"] = source(0)
                    made = await self._make("/function", body, tokens)
                    self._things.append(Thing(place, made, tokens))
        return [int(thing.id) for thing in self._things]

    async def _make_counters(self, names: Sequence[str]) -> list[int]:
        """Make counters, by turns in a namespace of the mesh and in one of the first node alone."""
        made = []
        for scope, fields in (("global", {"mode": "cas"}), ("local", {})):
            body = {"owner": {"project": self._owner.project}, "scope": scope, **fields}
            body["name"] = f"{SPACE}-{self._number}-{scope}"
            made.append(await self._make("/kv", body, self._owner.tokens))
        for place, _ in enumerate(names):
            home = 0 if place % 2 else None
            self._things.append(Thing(place, made[place % 2], self._owner.tokens, home))
        return [int(made[0])]

    async def _let_in(self, names: Sequence[str]) -> list[int]:
        """Make users that are members, and the namespace that they write to."""
        body = {"owner": {"project": self._owner.project}, "scope": "global"}
        body["name"] = f"{SPACE}-{self._number}"
        space = await self._make("/kv", body, self._owner.tokens)
        for place, name in enumerate(names):
            home = self._nodes[place % len(self._nodes)]
            user = await self._world.sign_up(name, home)
            thing = Thing(place, user.id, user.tokens, home, space=space)
            self._things.append(thing)
            call = f"POST /project/{self._owner.project}/add_member"
            said = {"user": user.id, "role": "developer"}
            await ask(self._world, 0, call, said, token=self._owner.tokens[0])
        users = [int(thing.id) for thing in self._things]
        await wait_for(lambda: all(self._knows(one)(at) for one in users for at in self._nodes))
        return [int(space), *users]

    async def _limit(self, node: int, quota_bytes: int) -> None:
        """Have a node keep so much more of the project's blobs than it does."""
        opened = self._world.node(node)
        used = 0
        if opened is not None:
            used = opened.content.usage(int(self._owner.project), METER_BLOB_BYTES)
        body = {"quota": {"blob_bytes": used + quota_bytes}}
        call, token = f"POST /project/{self._owner.project}", self._world.operator_token(node)
        await ask(self._world, node, call, body, token=token)

    def _knows(self, user: int) -> Callable[[int], bool]:
        """Return what tells whether a node knows that a user has a role in the project."""

        def knows(number: int) -> bool:
            node = self._world.node(number)
            return node is None or node.registry.role(user, int(self._owner.project)) is not None

        return knows

    async def _make(self, path: str, body: object, tokens: Sequence[str]) -> str:
        made = await ask(self._world, 0, f"POST {path}", body, token=tokens[0], status=201)
        return str(made.json()["id"])

    # --- the run --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Change and read until it is time to end."""
        described, world = self._described, self._world
        self._has_begun = True
        chance = world.chance("updates", self._number)
        times = arrivals(
            described.arrivals, world.chance("updates", self._number, "times"), self._directory
        )
        began_s = trio.current_time() - world.now
        turns = itertools.cycle(self._nodes)
        async with trio.open_nursery() as nursery:
            if described.reads is not None:
                nursery.start_soon(self._read_on)
            for at_s, _ in times:
                if at_s >= self._until_s:
                    break
                thing = self._things[self._zipf.draw(chance)]
                size_bytes = draw(described.size_bytes, chance)
                turn = next(turns)
                await trio.sleep_until(began_s + at_s)
                node = turn if thing.home is None else thing.home
                nursery.start_soon(self._change, thing, node, size_bytes)

    async def _change(self, thing: Thing, node: int, size: float) -> None:
        """Change a thing once, at a node."""
        size_bytes = round(size)
        thing.changes += 1
        change = next_change(self._described, self._number, self._owner, thing, node, size_bytes)
        node, refused = change.node, 1.0
        try:
            answer = await self._world.request(
                node, "POST", change.path, change.body, token=change.token
            )
            if answer.status in change.refusals:
                self._refused(thing, answer)
            elif not is_passing(answer, node):
                refused = 0.0
                await self._acknowledged(thing, change, size_bytes, answer)
        except NodeDown:
            pass
        if self._has_begun:
            self._observe("update.refused", refused, node)

    def _refused(self, thing: Thing, answer: Answer) -> None:
        if self._described.what == "counter":
            thing.version = int(answer.json().get("version", thing.version))

    async def _acknowledged(
        self, thing: Thing, change: Change, size_bytes: int, answer: Answer
    ) -> None:
        said = answer.json()
        match self._described.what:
            case "kv":
                if change.node in self._honest:
                    thing.version = max(thing.version, int(said["version"]))
            case "counter":
                is_there = not change.path.endswith("/delete")
                thing.version = int(said["version"]) if is_there else 0
            case "blob":
                before, thing.id, thing.content = thing.id, str(said["id"]), str(said["cid"])
                thing.size_bytes = int(said["size_bytes"])
                if before and self._described.replaces:
                    await self._delete_blob(before, thing.token)
            case "member":
                if "token" in said:
                    await self._renew(thing, said["token"])
            case "function" | "project" | "user":
                pass

    async def _delete_blob(self, blob: str, tokens: Sequence[str]) -> None:
        node = ids.node_number(int(blob)) - self._world.mesh.node_number(0)
        await self._world.request(node, "DELETE", f"/blob/{blob}", token=tokens[node])

    async def _renew(self, thing: Thing, token: str) -> None:
        """Have a member's tokens be of its new key; the old ones stay if its home cannot now."""
        assert thing.home is not None
        try:
            thing.token = await self._world.delegate(thing.id, thing.home, token)
        except RefusedError:
            thing.token = [token] * self._world.size

    async def _read_on(self) -> None:
        described, world = self._described, self._world
        assert described.reads is not None
        chance = world.chance("reads", self._number)
        times = arrivals(
            described.reads, world.chance("reads", self._number, "times"), self._directory
        )
        began_s = trio.current_time() - world.now
        async with trio.open_nursery() as nursery:
            for at_s, _ in times:
                if at_s >= self._until_s:
                    break
                key, node = self._zipf.draw(chance), chance.randrange(world.size)
                await trio.sleep_until(began_s + at_s)
                if self._described.what == "blob":
                    nursery.start_soon(self._read_blob, self._things[key], node)
                else:
                    nursery.start_soon(self._read, key, node)

    async def _read(self, key: int, node: int) -> None:
        thing, what = self._things[key], self._described.what
        if what == "kv":
            method, path, body = "POST", f"/kv/{thing.id}/get", {"key": f"key-{key}"}
        else:
            method, path, body = "GET", f"/{what}/{thing.id}", None
        version = thing.version
        try:
            answer = await self._world.request(node, method, path, body, token=thing.token[node])
        except NodeDown:
            return
        if what == "kv" and version:
            shown = int(answer.json()["version"]) if answer.status == 200 else 0
            self._observe("read.stale", float(shown < version), node)

    async def _read_blob(self, thing: Thing, node: int) -> None:
        world, opened = self._world, self._world.nodes[node]
        if opened is None:
            return
        home = ids.node_number(int(thing.id)) == opened.identity.number
        foreign = opened.foreign
        here = foreign is not None and foreign.cache.is_complete(cid.parse(thing.content))
        size_bytes, begun_s = thing.size_bytes, trio.current_time()
        failed = 1.0
        try:
            path, token = f"/blob/{thing.id}/content", thing.token[node]
            answer = await world.request(node, "GET", path, token=token)
            failed = float(answer.status != 200)
        except NodeDown:
            pass
        self._observe("blob.failed", failed, node)
        if not failed:
            fetched = not home and not here
            self._observe("blob.read_s", trio.current_time() - begun_s, node)
            self._observe("blob.fetched", float(fetched), node)
            self._observe("blob.fetched_bytes", float(size_bytes if fetched else 0), node)

    def close(self) -> None:
        """The run is over: look whether all nodes have what was acknowledged."""
        if self._described.what != "kv":
            return
        for key, thing in enumerate(self._things):
            if thing.version:
                self._observe("write.lost", float(self._is_lost(key, thing)), None)

    def _is_lost(self, key: int, thing: Thing) -> bool:
        for number in self._honest:
            if (node := self._world.node(number)) is None:
                continue
            space = node.spaces.get(int(thing.id))
            value = None if space is None else node.spaces.read(space, f"key-{key}".encode())
            if value is None or value.version < thing.version:
                return True
        return False

    def _observe(self, metric: str, value: float, node: int | None) -> None:
        where = "" if node is None else str(node)
        label = self._described.what
        self._metrics.observe(metric, self._world.now, value, node=where, label=label)
