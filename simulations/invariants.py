"""What must hold in every World, whatever goes wrong in it: asserted after each step.

After each step (something ran until nothing could any more), for every node that it touched, and
for one other in turn, the machines assert what they promise themselves (`check`), the scheduler's,
gossip's, reconciliation's, fetching's; the bounds of their queues and tables are among that [I18].
More rules, each with its numbers, are in modules of their own:

* `simulations.committed`: what a node writes [I1, I2, I3, I6, I11, I12];
* `simulations.overheard`: what goes from node to node [I14, I15];
* `simulations.revocations`: what is revoked counts no more [I13];
* `simulations.exact_keys`: namespaces in which no write is lost [I21];
* `simulations.kept`: references, usage and content, counted anew whenever a life of a node begins,
  and at the end [I6, I16, I17].

Here is what can be seen from outside of nodes:

* Who was told 202 or 201 finds the thing, at once and after any crash [I1].
* Ids are made once, and name the node that made them [I7].
* One idempotency key is one object [I5].
* No two records of a node have one time, and none is far in the future [I8].
* What is deleted for ever is shown by nobody who has written that down [I12].

And when all has come to rest (`at_rest`): nodes that are up show the same [I10], what they keep is
signed as it should be [I9], and no job is left that a worker could do [I4].

Nothing is asserted of what nodes do not have: proofs of equivocation [I19], an audit log [I22].

What fails raises `Broken`, which ends the run; the trace has it as its last event.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from peernode import sessions
from peernode.problems import Problem
from simulations import kept
from simulations.asgi_calls import Answer, Asked
from simulations.committed import Broken, Committed
from simulations.exact_keys import ExactKeys
from simulations.overheard import Overheard
from simulations.revocations import CLASSES, Revocations
from storage import hlc, ids
from storage.errors import StorageError
from storage.facts import Fact
from storage.places import Class
from storage.records import Flag, Record, decode_record
from storage.store import Batch, Table

if TYPE_CHECKING:
    from peernode.node import Node
    from simulations.world import World

__all__ = ["Broken", "Invariants"]

MADE_AT: Final[Mapping[str, Class | None]] = {
    "/user": Class.USER,
    "/project": Class.PROJECT,
    "/function": Class.FUNCTION,
    "/kv": Class.KV_SPACE,
    "/blob": None,
    "/job": None,
    "/worker": None,
}
"""Path of a call that makes an object -> the class of the registry that shows it, if any does."""
PARTS: Final = (Table.FOREIGN_CONTENT, Table.FOREIGN_PARTS)


class Invariants:
    """The checker of one World. Made before its nodes run."""

    def __init__(self, world: "World") -> None:
        self.steps = 0
        self.committed = [Committed() for _ in range(world.size)]
        self._overheard = Overheard()
        self._exact_keys = ExactKeys()
        self._revocations: dict[int, Revocations] = {}
        """By node, in its present life."""
        self._world = world
        self._touched: dict[int, None] = {}
        self._parts_changed: dict[int, None] = {}
        """Nodes that have written of other nodes' content since it was looked at."""
        self._turn = 0
        self._ids: dict[int, str] = {}
        self._keyed: dict[tuple[int, str, str, str], str] = {}
        self._acknowledged: dict[tuple[int, int], Class | None] = {}
        """(Node, id) of what a client was told is there -> its class, if the registry shows it."""
        self._latest_ms = 0
        """What any node's clock has ever shown."""
        self._times: dict[tuple[int, int], bytes] = {}
        """(Node, hybrid time) -> the record that the node signed at it."""
        secrets = self._overheard.secrets
        for number, each in enumerate(world.mesh.secrets):
            secrets[each.seed] = f"the key of node {number}"
            secrets[each.pepper] = f"the pepper of node {number}"
            secrets[each.operator_token.encode()] = f"the operator's token of node {number}"
        for host in world.hosts:
            host.disk.committed = functools.partial(self._commit, host.number)
        world.started.append(self._watch)
        world.answered.append(self._answered)
        world.ended.append(self._ended)
        world.wire.tap = self._overhear
        world.clock.each_step = self.step

    def taint(self, secret: bytes, what: str) -> None:
        """Have bytes never go from node to node."""
        self._overheard.secrets[secret] = what

    def touch(self, number: int) -> None:
        """Have a node's machines checked after this step."""
        self._touched[number] = None

    # --- after each step ------------------------------------------------------------------

    def step(self) -> None:
        """Assert what must hold now. Raises `Broken`."""
        self.steps += 1
        touched, self._touched = self._touched, {}
        self._turn = (self._turn + 1) % self._world.size
        touched[self._turn] = None
        for number in touched:
            node = self._world.node(number)
            if node is not None:
                self._check(number, node)

    def _check(self, number: int, node: "Node") -> None:
        checks = _checks(node)
        # It takes as long as there is content: where nothing of that is written, now and then.
        if node.foreign is not None and (number in self._parts_changed or number == self._turn):
            self._parts_changed.pop(number, None)
            checks.append(("content of other nodes", node.foreign.cache.check))
        for what, check in checks:
            try:
                check()
            except AssertionError as error:
                self._fail(number, f"{what}: {str(error) or 'an assertion'}", error)
        if number in self._revocations:
            with self._blaming(number):
                self._revocations[number].check()

    def _fail(self, number: int, what: str, cause: BaseException | None = None) -> None:
        self._world.journal.record("check", what=what, node=number)
        raise Broken(f"node {number}: {what}") from cause

    @contextmanager
    def _blaming(self, number: int) -> Iterator[None]:
        """Have what is found broken be a node's."""
        try:
            yield
        except Broken as error:
            self._fail(number, str(error), error)

    # --- what nodes write -----------------------------------------------------------------

    def _commit(self, number: int, batch: Batch) -> None:
        self.touch(number)
        written = [table for table, *_ in (*batch.puts, *batch.deletes)]
        if any(table in PARTS for table in written):
            self._parts_changed[number] = None
        with self._blaming(number):
            self.committed[number].take(batch)
            self._overheard.take(batch)
            self._exact_keys.take(self._world.mesh.node_number(number), batch)

    def _watch(self, number: int, node: "Node") -> None:
        """Look at a node that has just begun a life."""
        self.touch(number)
        self._revocations[number] = Revocations(node)
        node.registry.hear(_Ear(self, number, node))
        node.registry.watch(functools.partial(self._shown, number, node))
        for (home, made), class_ in self._acknowledged.items():
            if home == number:
                self._require(number, node, made, class_)
        for dead in self.committed[number].dead:
            for class_ in CLASSES:
                self._shown(number, node, class_, dead)
        with self._blaming(number):
            kept.check(node)

    def _ended(self, number: int) -> None:
        self._revocations.pop(number, None)

    def _require(self, number: int, node: "Node", made: int, class_: Class | None) -> None:
        """Assert that something is there that was acknowledged, or was deleted."""
        if class_ is None:
            committed = self.committed[number]
            request = committed.requests.get(made)
            if request is not None and node.store.get(Table.JOBS, ids.key(made)) != request:
                self._fail(number, f"job {made} is lost")
            if made in committed.blobs and node.store.get(Table.BLOBS, ids.key(made)) is None:
                self._fail(number, f"blob {made} is lost")
        elif not (
            _is_there(node, class_, made)
            or _is_gone(node, made)
            or self._revocations[number].is_gone(made)
        ):
            self._fail(number, f"{class_.name} {made} is lost")

    def _shown(self, number: int, node: "Node", class_: Class, one: int) -> None:
        if number in self._revocations:
            self._revocations[number].shown(class_, one)
        if one in self.committed[number].dead and node.registry.get(class_, one) is not None:
            self._fail(number, f"{class_.name} {one} was deleted for ever and is back")

    def fact_kept(self, number: int, fact: Fact) -> None:
        """Take note of a fact, which may revoke something."""
        if number in self._revocations:
            self._revocations[number].learn(fact)

    def record_kept(self, number: int, node: "Node", record: Record) -> None:
        """Assert what is asked of a record's time."""
        body = record.body
        if body.place.class_ is Class.KV_ENTRY and number in self._revocations:
            self._revocations[number].entry_kept(record)
        shown_ms = max(host.wall.wall_ms() for host in self._world.hosts)
        self._latest_ms = max(self._latest_ms, shown_ms)
        ahead_ms = hlc.physical_ms(body.hlc) - self._latest_ms
        if ahead_ms > hlc.AHEAD_MAX_MS:
            self._fail(number, f"a record is kept {ahead_ms} ms ahead of every clock there was")
        own = node.identity.keypair.public_key
        if record.seal.public_key != own or body.flags & Flag.CARRY:
            return
        if self._times.setdefault((number, body.hlc), record.rid) != record.rid:
            self._fail(number, f"two records of the time {body.hlc}")

    # --- what clients hear ----------------------------------------------------------------

    def _answered(self, asked: Asked, answer: Answer) -> None:
        self.touch(asked.node)
        target = asked.path.partition("?")[0]
        if asked.method != "POST" or answer.status >= 300:
            return
        if target.startswith("/user/") and target.endswith(("/login", "/delegate", "/rotate")):
            self._keep_secret(answer)
        with self._blaming(asked.node):
            self._exact_keys.answered(asked, answer, self._world.clock.now)
        if target in MADE_AT and answer.status in (201, 202):
            named = {name.lower(): value for name, value in (asked.headers or {}).items()}
            key = named.get("idempotency-key")
            self._made(asked.node, target, asked.token or "", key, answer)

    def _keep_secret(self, answer: Answer) -> None:
        try:
            _, secret = sessions.parse(answer.json()["token"].encode())
        except Problem:
            return
        self._overheard.secrets[secret] = "the secret of a token"

    def _made(self, number: int, target: str, token: str, key: str | None, answer: Answer) -> None:
        made = answer.json()["id"]
        if key is not None:
            same = self._keyed.setdefault((number, target, token, key), made)
            if same != made:
                self._fail(number, f"{target} {key}: {same} and {made} for one key")
        one = int(made)
        if ids.node_number(one) != self._world.mesh.node_number(number):
            self._fail(number, f"{target}: {made} names another node")
        if self._ids.setdefault(one, key or made) != (key or made):
            self._fail(number, f"{target}: {made} was made before")
        node, class_ = self._world.node(number), MADE_AT[target]
        if target == "/job" and one not in self.committed[number].requests:
            self._fail(number, f"job {made} is accepted and not on the disk")
        if target == "/blob":
            committed = self.committed[number]
            if one not in committed.blobs and one not in committed.dead:
                self._fail(number, f"blob {made} is accepted and not on the disk")
        self._acknowledged[number, one] = class_
        if node is not None:
            self._require(number, node, one, class_)

    # --- what goes over the wire ----------------------------------------------------------

    def _overhear(self, source: int, target: int, what: str, frame: bytes) -> None:
        self._touched[source] = self._touched[target] = None
        with self._blaming(source):
            self._overheard.hear(source, target, what, frame)

    # --- in the end -----------------------------------------------------------------------

    def at_end(self) -> None:
        """Assert what holds at any time and is too much to ask after each step."""
        for number, node in enumerate(self._world.nodes):
            if node is not None:
                with self._blaming(number):
                    kept.check(node)
                    self._revocations[number].check_all()
                self._parts_changed[number] = None
                self._check(number, node)

    def at_rest(self) -> None:
        """Assert what holds once nothing is cut, all nodes are up for long, and nothing is new."""
        world = self._world
        up = [(number, node) for number, node in enumerate(world.nodes) if node is not None]
        digests = {number: world.view_digest(number) for number, _ in up}
        for number, digest in digests.items():
            if digest != digests[up[0][0]]:
                self._fail(number, f"shows something else than node {up[0][0]}")
        for number, node in up:
            self._check(number, node)
            self._verify(number, node)
            with self._blaming(number):
                kept.check(node, at_rest=True)
            for job in self.committed[number].requests:
                snapshot = node.dispatch.scheduler.snapshot(job)
                if snapshot is not None and node.dispatch.links:
                    self._fail(number, f"job {job} is {snapshot.state} still")

    def _verify(self, number: int, node: "Node") -> None:
        """Assert that what is kept is signed as it should be, by the facts known now."""
        for table in (Table.RECORDS, Table.ENTRIES):
            for _, row in kept.rows(node.store, table):
                try:
                    node.registry.authority.verify_record(decode_record(row))
                except StorageError as error:
                    self._fail(number, f"a record that is not good is kept: {error}", error)


class _Ear:
    """Tells the invariants what one node keeps, in one life of it."""

    def __init__(self, invariants: Invariants, number: int, node: "Node") -> None:
        self._invariants = invariants
        self._number = number
        self._node = node

    def fact_kept(self, fact: Fact) -> None:
        """Pass a fact on."""
        self._invariants.fact_kept(self._number, fact)

    def record_kept(self, record: Record, replaced: Record | None) -> None:
        """Pass a record on."""
        self._invariants.record_kept(self._number, self._node, record)


def _checks(node: "Node") -> list[tuple[str, Callable[[], object]]]:
    """Return what the parts of a node promise themselves."""
    found: list[tuple[str, Callable[[], object]]] = [
        ("the scheduler", node.dispatch.scheduler.check),
        ("sessions", node.sessions.check),
        ("logins", node.logins.check),
        ("calls without a token", node.anonymous.check),
        ("recent jobs", node.live.recent.check),
        ("the registry", node.registry.check),
    ]
    if node.federation is not None:
        found += [
            ("gossip", node.federation.gossip.check),
            ("standing", node.federation.standing.check),
            ("reconciliation", node.federation.sync.sync.check),
            ("what waits", node.federation.ingestion.waiting.check),
        ]
    if node.foreign is not None:
        found.append(("fetching", node.foreign.check))
    return found


def _is_there(node: "Node", class_: Class, one: int) -> bool:
    if class_ is Class.KV_SPACE:
        return node.spaces.get(one) is not None  # Local ones are in no registry.
    return node.registry.get(class_, one) is not None


def _is_gone(node: "Node", one: int) -> bool:
    """Tell whether a node knows that an object was deleted."""
    if node.store.get(Table.DEAD, ids.key(one)) is not None:
        return True
    records = (record for record in node.registry.records() if record.body.place.id == one)
    return any(record.is_tombstone for record in records)
