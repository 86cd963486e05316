"""Workers: processes on some hardware, attached to this node and to no other."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import msgspec

from peernode import access, listing
from peernode.api import require_match
from peernode.calls import (
    Answer,
    Body,
    Call,
    Nothing,
    ObjectClass,
    ObjectView,
    Operation,
    View,
)
from peernode.classes.project import WAIT_CHANGE
from peernode.permissions import Target
from peernode.problems import not_found
from peernode.terms import Label
from peernode.timestamps import rfc3339
from peernode.workers import WorkerRow
from storage import ids
from worker import events
from worker.protocol import Isolation, Offer

if TYPE_CHECKING:
    from peernode.node import Node

Hold: TypeAlias = events.Cordon | events.Drain | events.Uncordon
Labels = Annotated[dict[Label, Label], msgspec.Meta(max_length=64)]
WorkerName = Annotated[str, msgspec.Meta(max_length=64)]


class Create(Body, frozen=True, kw_only=True):
    """A worker to be."""

    name: WorkerName = ""
    labels: Labels = msgspec.field(default_factory=dict)


class Set(Body, frozen=True, kw_only=True):
    """What may change of a worker."""

    name: WorkerName | None = None
    labels: Labels | None = None


class Drain(Body, frozen=True, kw_only=True):
    """How long what runs may go on. Without `deadline_s`: to its end."""

    deadline_s: Annotated[float, msgspec.Meta(ge=0, le=366 * 86400)] | None = None


State = Literal["attached", "cordoned", "draining", "drained", "silent", "detached"]


class AcceleratorView(View, frozen=True, kw_only=True):
    """One accelerator of a worker's machine."""

    kind: str
    name: str
    memory_bytes: int


class OfferView(View, frozen=True, kw_only=True):
    """What a worker measured about its machine when it attached."""

    slots: int
    cores: int
    memory_bytes: int
    arch: str
    processor: str
    system: str
    libc: str
    speed_rounds_per_s: int
    """Of one core, in rounds of a small fixed workload; 0: not measured."""
    accelerators: list[AcceleratorView]
    runtimes: list[str]
    isolation: list[Isolation]
    levels: dict[str, list[Isolation]]
    backends: list[str]
    python: str
    pythons: list[str]
    wasm_engine: str
    labels: dict[str, str]
    """Its own and the operator's, which win."""
    software: str


def _offer_view(offer: Offer) -> OfferView:
    shown = {name: getattr(offer, name) for name in OfferView.__struct_fields__}
    shown["accelerators"] = [
        AcceleratorView(kind=one.kind, name=one.name, memory_bytes=one.memory_bytes)
        for one in offer.accelerators
    ]
    return OfferView(**shown)


class WorkerView(ObjectView, rename={"class_name": "class"}, frozen=True, kw_only=True):
    """A worker."""

    name: str
    labels: dict[str, str]
    local: bool
    state: State
    """`drained`: draining, and it holds nothing any more."""
    cordoned: bool
    """It gets no new jobs, attached or not."""
    drain_until: str | None
    """When what it still runs goes elsewhere."""
    leased: int
    running: int
    offer: OfferView | None


class CreatedView(WorkerView, rename={"class_name": "class"}, frozen=True, kw_only=True):
    """A new worker, with the token that its machine attaches with. It is shown once."""

    token: str


def _state(node: "Node", worker: int, row: WorkerRow) -> State:
    figures = node.dispatch.figures(worker)
    if worker not in node.dispatch.links or figures is None:
        return "detached"
    if row.draining:
        return "draining" if figures.leased else "drained"
    if row.cordoned:
        return "cordoned"
    return "silent" if figures.silent else "attached"


def _view(node: "Node", worker: int, row: WorkerRow) -> WorkerView:
    figures = node.dispatch.figures(worker)
    offer = node.attachments.offer(worker)
    until_ms = row.drain_until_ms
    return WorkerView(
        id=str(worker),
        class_name="worker",
        revision=str(row.revision),
        created_at=rfc3339(row.created_ms),
        home_node=ids.node_number(worker),
        name=row.name,
        labels=row.labels,
        local=row.local,
        state=_state(node, worker, row),
        cordoned=row.cordoned,
        drain_until=None if until_ms is None else rfc3339(until_ms),
        leased=figures.leased if figures else 0,
        running=figures.running if figures else 0,
        offer=None if offer is None else _offer_view(offer),
    )


def _find(node: "Node", call: Call, verb: str) -> WorkerRow:
    access.require(call.actor, verb, Target(class_name="worker", id=call.object_id))
    row = node.workers.row(call.object_id)
    if row is None:
        raise not_found("worker", str(call.object_id))
    return row


async def _create(node: "Node", call: Call) -> Answer:
    body: Create = call.body
    access.require(call.actor, "create", Target(class_name="worker"))
    worker = node.ids.next()
    token = await node.workers.create(worker, body.name, body.labels)
    row = node.workers.row(worker)
    assert row is not None
    shown = msgspec.structs.asdict(_view(node, worker, row))
    return Answer(
        status=201,
        value=CreatedView(**shown, token=token),
        headers=((b"location", b"/worker/%d" % worker),),
    )


async def _get(node: "Node", call: Call) -> Answer:
    _find(node, call, "get")
    await node.wait_changed(call)
    return Answer(value=_view(node, call.object_id, _find(node, call, "get")))


async def _set(node: "Node", call: Call) -> Answer:
    body: Set = call.body
    row = _find(node, call, "set")
    require_match(call, str(row.revision))
    stated = {
        name: value for name in ("name", "labels") if (value := getattr(body, name)) is not None
    }
    row = await node.workers.change(
        call.object_id, lambda current: require_match(call, str(current.revision)), **stated
    )
    node.changed(call.object_id)
    if body.labels is not None:
        node.attachments.close(call.object_id, "its labels changed")
    return Answer(value=_view(node, call.object_id, row))


async def _delete(node: "Node", call: Call) -> Answer:
    row = _find(node, call, "delete")
    require_match(call, str(row.revision))
    await node.workers.delete(call.object_id)
    node.attachments.evict(call.object_id)
    node.changed(call.object_id)
    return Answer(status=204)


async def _hold(node: "Node", call: Call, verb: str, event: Hold, **kept: Any) -> Answer:
    """Keep jobs from a worker, or not any more: durably first, then at once."""
    _find(node, call, verb)
    row = await node.workers.change(call.object_id, **kept)
    node.changed(call.object_id)
    node.attachments.hold(event)
    return Answer(value=_view(node, call.object_id, row))


async def _cordon(node: "Node", call: Call) -> Answer:
    event = events.Cordon(call.object_id)
    return await _hold(
        node, call, "cordon", event, cordoned=True, draining=False, drain_until_ms=None
    )


async def _drain(node: "Node", call: Call) -> Answer:
    body: Drain = call.body
    until_ms = None
    if body.deadline_s is not None:
        until_ms = node.clock.wall_ms() + int(body.deadline_s * 1000)
    event = events.Drain(call.object_id, body.deadline_s)
    return await _hold(
        node, call, "drain", event, cordoned=True, draining=True, drain_until_ms=until_ms
    )


async def _resume(node: "Node", call: Call) -> Answer:
    event = events.Uncordon(call.object_id)
    return await _hold(
        node, call, "resume", event, cordoned=False, draining=False, drain_until_ms=None
    )


async def _list(node: "Node", call: Call) -> Answer:
    access.require(call.actor, "list", Target(class_name="worker"))

    def candidates(before: int) -> Iterator[WorkerView]:
        for worker, row in sorted(node.workers.all().items(), reverse=True):
            if worker < before:
                yield _view(node, worker, row)

    return await listing.page(call, WorkerView, candidates)


WORKER = ObjectClass(
    name="worker",
    summary="A process on some hardware, attached to this node; the operator's.",
    view=WorkerView,
    list=Operation(handler=_list, summary="List workers, newest first"),
    create=Operation(
        handler=_create,
        summary="Make a worker and the token it attaches with",
        body=Create,
        answer=CreatedView,
        status=201,
        problems=("forbidden",),
    ),
    get=Operation(
        handler=_get,
        summary="Read a worker",
        answer=WorkerView,
        problems=("not_found",),
        parameters=(WAIT_CHANGE,),
    ),
    set=Operation(
        handler=_set,
        summary="Change a worker's name or labels",
        body=Set,
        answer=WorkerView,
        problems=("not_found", "precondition_failed"),
    ),
    delete=Operation(
        handler=_delete,
        summary="Evict a worker; what it runs goes elsewhere, at nobody's fault",
        status=204,
        problems=("not_found", "precondition_failed"),
    ),
    methods={
        "cordon": Operation(
            handler=_cordon,
            summary="Lease nothing more to it; what it holds stays there",
            body=Nothing,
            answer=WorkerView,
            problems=("not_found",),
        ),
        "drain": Operation(
            handler=_drain,
            summary="Lease nothing more to it and take back what has not started; what still "
            "runs at the deadline goes elsewhere, at nobody's fault",
            body=Drain,
            answer=WorkerView,
            problems=("not_found",),
        ),
        "resume": Operation(
            handler=_resume,
            summary="Lease to it again",
            body=Nothing,
            answer=WorkerView,
            problems=("not_found",),
        ),
    },
)
