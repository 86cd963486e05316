"""What a node answers besides objects: its description, its health, its metrics, its workers' door.

These are Starlette's: they are few, cold, and want its routing, HTML and WebSockets.  The module is
imported with the first call for one of them, which keeps what it needs out of a node's start.
"""

import html
import re
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from peernode import metrics, node_proof, openapi
from peernode.calls import ObjectClass, Operation
from peernode.classes import CLASSES
from peernode.lives import State
from peernode.mesh_operations import OPERATIONS
from peernode.problems import CODES, Problem
from worker.link import LinkBroken

if TYPE_CHECKING:
    from peernode.node import Node

CLOSE_REFUSED: Final = 4403
"""WebSocket close code for a worker that is not taken."""

_CHALLENGE: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_STYLE: Final = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;
color:#1b1f24;background:#fff}
h2{margin-top:2.5rem;border-bottom:1px solid #d0d7de}
table{border-collapse:collapse;width:100%}td{padding:.25rem .75rem .25rem 0;vertical-align:top}
code{font:14px ui-monospace,monospace}td:first-child{white-space:nowrap}
@media(prefers-color-scheme:dark){body{color:#e6edf3;background:#0d1117}
h2{border-color:#30363d}a{color:#58a6ff}}
"""


def build(node: "Node") -> Starlette:
    """Return the app that serves the pages of `node`."""

    @cache
    def description() -> bytes:
        return msgspec.json.encode(openapi.describe(CLASSES, OPERATIONS, "peernode", node.version))

    @cache
    def page() -> str:
        return _docs(node.version)

    async def index(_: Request) -> Response:
        return JSONResponse(_index(node))

    async def schema(_: Request) -> Response:
        return Response(description(), media_type="application/json")

    async def docs(_: Request) -> Response:
        return HTMLResponse(page())

    async def health(request: Request) -> Response:
        state = node.lives.state
        status = "draining" if node.jobs.draining else state.value
        body = {
            "status": status,
            "node_id": str(node.identity.number),
            "peer_id": node.identity.peer_id,
        }
        if state in (State.RECOVERING, State.CLONED):
            problem = node.lives.problem()
            body |= {"code": problem.code, "detail": problem.detail, "hint": problem.hint}
        challenge = request.query_params.get("challenge")
        if challenge is not None:
            try:
                body |= _proof(node, request, challenge)
            except Problem as problem:
                return _refusal(problem)
        return JSONResponse(body, 200 if status in ("ok", "starting") else 503)

    async def show_metrics(_: Request) -> Response:
        return PlainTextResponse(metrics.render(node), media_type=metrics.MEDIA_TYPE)

    async def attach(websocket: WebSocket) -> None:
        await _attach(node, websocket)

    async def missing(request: Request, _: Exception) -> Response:
        problem = Problem("not_found", f"there is no page {request.url.path}")
        return _refusal(problem)

    async def wrong_method(request: Request, _: Exception) -> Response:
        problem = Problem("method_not_allowed", f"{request.method} is not defined here")
        return Response(
            problem.body(), 405, {"allow": "GET"}, media_type="application/problem+json"
        )

    return Starlette(
        routes=[
            Route("/", index),
            Route("/openapi.json", schema),
            Route("/docs", docs),
            Route("/health", health),
            Route("/metrics", show_metrics),
            WebSocketRoute("/worker/{id}/attach", attach),
        ],
        exception_handlers={404: missing, 405: wrong_method},
    )


def _proof(node: "Node", request: Request, challenge: str) -> dict[str, str]:
    """Return this node's signature of a challenge, if it can be where it was asked."""
    if _CHALLENGE.fullmatch(challenge) is None:
        raise Problem("invalid_field", "challenge: 64 hexadecimal digits", field="challenge")
    host, scope = request.headers.get("host", ""), request.scope
    can_be = node_proof.can_be(host, scope.get("server") or ("", 0), scope["scheme"])
    if not can_be and not node.config.behind_proxy:
        return {}
    signature = node_proof.sign(node.identity.keypair, bytes.fromhex(challenge), host)
    return {"proof": signature.hex()}


def _refusal(problem: Problem) -> Response:
    return Response(problem.body(), problem.status, media_type="application/problem+json")


def _index(node: "Node") -> dict[str, Any]:
    return {
        "name": "peernode",
        "version": node.version,
        "node_id": str(node.identity.number),
        "classes": {
            spec.name: {
                "summary": spec.summary,
                "methods": {name: method.summary for name, method in spec.methods.items()},
                "reads": {name: read.summary for name, read in spec.reads.items()},
            }
            for spec in CLASSES.values()
        },
        "links": {"openapi": "/openapi.json", "docs": "/docs", "health": "/health"},
    }


def _docs(version: str) -> str:
    """Return the API as one HTML page that needs nothing else."""
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>peernode API</title>"
        f"<meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<style>{_STYLE}</style><h1>peernode API {html.escape(version)}</h1>"
        "<p>Six calls over seven classes. Bodies and answers are JSON; the machine-readable "
        "description with every field is <a href=/openapi.json>/openapi.json</a>. Send "
        "<code>Authorization: Bearer TOKEN</code>, with the token of "
        "<code>POST /user/:id/login</code>.</p>"
    ]
    parts.extend(_docs_class(spec) for spec in CLASSES.values())
    mesh = "".join(_docs_row(call, operation) for call, operation in OPERATIONS.items())
    parts.append(
        f"<h2 id=mesh>mesh</h2><p>The nodes that know of one another.<table>{mesh}</table>"
    )
    rows = "".join(
        f"<tr><td><code>{code}</code><td>{status}<td>{html.escape(title)}"
        for code, (status, title) in CODES.items()
    )
    parts.append(f"<h2>Problems</h2><table>{rows}</table>")
    return "".join(parts)


def _docs_class(spec: ObjectClass) -> str:
    rows = "".join(_docs_row(call, operation) for call, operation in openapi.operations(spec))
    return f"<h2 id={spec.name}>{spec.name}</h2><p>{html.escape(spec.summary)}<table>{rows}</table>"


def _docs_row(call: str, operation: Operation) -> str:
    shown = call.replace("{id}", ":id")
    return f"<tr><td><code>{shown}</code><td>{html.escape(operation.summary)}"


async def _attach(node: "Node", websocket: WebSocket) -> None:
    """Serve a worker's link: who it is, then what it says."""
    try:
        if node.jobs.draining:
            raise Problem("draining", "this node is stopping")
        await node.lives.started.wait()
        node.lives.require()
        worker = await node.workers.admit(
            websocket.path_params["id"],
            websocket.headers.get("authorization", ""),
            websocket.headers.get("peernode-worker-key", ""),
        )
    except Problem as problem:
        await websocket.send_denial_response(
            Response(problem.body(), problem.status, media_type="application/problem+json")
        )
        return
    node.changed(worker)
    await websocket.accept()

    async def receive() -> bytes | None:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            return None
        data = message.get("bytes")
        if data is None:
            raise LinkBroken("a worker speaks binary messages")
        return bytes(data)

    async def send(data: bytes) -> None:
        try:
            await websocket.send_bytes(data)
        except WebSocketDisconnect as error:
            raise ConnectionResetError("the worker is gone") from error

    reason = ""
    try:
        row = node.workers.row(worker)
        reason = await node.attachments.serve(
            worker,
            receive,
            send,
            row.labels if row else {},
            hold=node.workers.hold(worker),
        )
    except (LinkBroken, trio.TooSlowError) as error:
        reason = str(error) or "no Hello in time"
    except WebSocketDisconnect:
        return
    if websocket.application_state is WebSocketState.CONNECTED:
        await websocket.close(CLOSE_REFUSED, reason[:120])
