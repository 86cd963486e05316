"""The shape of the code, checked like any other behaviour.

Every rule names what to do instead, so that a failure is an instruction.  What is allowed stands in
the tables; an entry that nothing needs any more fails too.
"""

import ast
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("gossip", "peernode", "simulations", "storage", "worker")

MAY_IMPORT = {
    "storage": {"storage"},
    "gossip": {"gossip", "storage"},
    "worker": {"worker", "storage"},
    "peernode": {"peernode", "gossip", "worker", "storage"},
    "simulations": set(PACKAGES),
}
"""simulations -> peernode -> {gossip, worker} -> storage: nothing points upward."""

HOMES: dict[str, tuple[str, ...]] = {
    "blake3": ("gossip/sync_index.py",),
    "cbor2": ("storage/codec.py", "worker/runtimes/python_child.py"),
    "cryptography": ("worker/certificate_pin.py",),
    "google": ("gossip/wire.py",),
    "httptools": ("peernode/http_*.py",),
    "httpx": ("peernode/client/*.py", "worker/egress.py", "worker/egress_transport.py"),
    "httpcore": ("worker/egress_transport.py",),
    "jsonschema": ("peernode/schemas.py",),
    "libp2p": ("peernode/libp2p_*.py",),
    "lmdb": ("storage/lmdb_store.py",),
    "nacl": ("storage/signing.py", "storage/sealing.py", "peernode/vault.py"),
    "matplotlib": ("simulations/pictures.py", "simulations/plots.py", "simulations/sweep_files.py"),
    "networkx": ("simulations/theory/*.py", "simulations/topology*.py"),
    "numpy": (
        "worker/inference.py",
        "simulations/conditions.py",
        "simulations/observations.py",
        "simulations/pictures.py",
        "simulations/plots.py",
        "simulations/theory/*.py",
    ),
    "onnxruntime": ("worker/inference.py",),
    "openvino": ("worker/inference.py",),
    "prometheus_client": ("peernode/metrics.py",),
    "psutil": (),
    "pyarrow": ("simulations/observations.py",),
    "rich": ("peernode/cli/*.py", "simulations/showing.py", "simulations/watching.py"),
    "scipy": ("simulations/statistics.py", "simulations/theory/*.py"),
    "segno": ("peernode/cli/mesh.py",),
    "starlette": ("peernode/pages.py",),
    "structlog": ("peernode/*.py",),
    "typer": ("peernode/cli/*.py", "simulations/cli.py"),
    "wasmtime": ("worker/runtimes/wasm_*.py", "worker/wasm.py"),
    "wsproto": ("peernode/http_*.py", "worker/websocket_link.py"),
}
"""Each heavy library and the modules (patterns) that may know it."""

BANNED = {
    "asyncio": "trio",
    "datetime.datetime.now": "clock.wall_ms(), of the storage.clock.Clock you are given",
    "datetime.datetime.today": "clock.wall_ms(), of the storage.clock.Clock you are given",
    "datetime.datetime.utcnow": "clock.wall_ms(), of the storage.clock.Clock you are given",
    "os.urandom": "entropy.token_bytes(), of the storage.clock.Entropy you are given",
    "print": "an answer, an error or the log; only the command line prints",
    "random.*": "the random.Random you are given",
    "secrets.*": "entropy.token_bytes(), of the storage.clock.Entropy you are given",
    "time.sleep": "trio.sleep, or better the event you wait for",
    "time.time": "clock.wall_ms(), of the storage.clock.Clock you are given",
    "time.time_ns": "clock.wall_ms(), of the storage.clock.Clock you are given",
    "uuid.*": "storage.ids, or entropy.token_bytes()",
}
"""What no module uses, and what it uses instead."""

ALLOWED = {
    ("storage/clock.py", "os.urandom"): "the one place",
    ("storage/clock.py", "time.time_ns"): "the one place",
    ("peernode/cli/*.py", "print"): "the command line prints",
    ("simulations/cli.py", "print"): "the command line prints",
    ("simulations/showing.py", "print"): "the command line prints",
    ("simulations/cli.py", "secrets.*"): "a command is a process of its own, not a node",
    ("peernode/cli/*.py", "secrets.*"): "a command is a process of its own, not a node",
    ("peernode/cli/*.py", "time.sleep"): "a command is a process of its own, not a node",
    (
        "worker/runtimes/wasm_guest.py",
        "random.*",
    ): "a function's own generator, seeded for each job",
    ("worker/program.py", "print"): "a process of its own says why it ends",
    ("peernode/examples/*.py", "print"): "shows what a user's program does",
    ("peernode/daemon.py", "print"): "the ready line, and why there is none",
    ("peernode/client/*.py", "secrets.*"): "lives in the user's program, not in a node",
    ("peernode/client/*.py", "time.sleep"): "lives in the user's program, not in a node",
}

GLOBALS = {
    (
        "worker/edge.py",
        "_session",
    ): "function code sees a module, in a process of one job at a time",
}
"""Module state that is meant, with its reason."""

BOUNDARIES = {
    "gossip/memory_node.py:guard": "a handler's fault ends its stream or request, and is told",
    "gossip/memory_node.py:take_frame": "a fault of a handler loses its frame, and is told",
    "peernode/cli/app.py:run": "what a command does not expect becomes a message and an exit code",
    "peernode/http_connection.py:_answer": "a fault of the application must not end the connection",
    "peernode/http_server.py:_run": "a fault of one connection must not end the server",
    "peernode/http_service.py:report": "a fault of the reporting must not end the server",
    "peernode/libp2p_connection.py:translated": "the library raises anything",
    "peernode/libp2p_link.py:_hear": "a handler's fault loses its frame, and is told",
    "peernode/libp2p_link.py:_take_stream": "a handler's fault ends its stream, and is told",
    "peernode/libp2p_network.py:tell": "a watcher's fault must not end the network",
    "peernode/libp2p_requests.py:_reply": "a handler's fault ends its request, and is told",
    "peernode/libp2p_strangers.py:answer": "a handler's fault ends its request, and is told",
    "peernode/http_websocket.py:_run_application": "a fault of the application closes its socket",
    "simulations/clock.py:deadline_to_sleep_time": "trio ends in an internal error of what it gets",
    "simulations/simulate.py:_play_world": "what a run lets out is its failure, and is told",
    "storage/group_commit.py:_run": "the writer's thread: whoever waits must hear that it ended",
    "worker/inference.py:load": "engines raise anything, and the next one may take the model",
    "worker/runtimes/handling.py:outcome": "a function may raise anything",
    "worker/runtimes/handling.py:describe": "describing an exception runs the function's code",
    "worker/runtimes/python_child.py:_outcome": "a program may be anything",
    "worker/runtimes/wasm_python.py:_infer": "onnxruntime raises anything",
}
"""`file:function` where everything may be caught: a driver's edge, with its reason."""

MACHINES = (
    "gossip/[!mn]*.py",
    "gossip/mesh*.py",
    "gossip/message_cache.py",
    "peernode/life_statements.py",
    "peernode/lives.py",
    "worker/events.py",
    "worker/scheduler*.py",
)
"""What decides: no clock, no chance, no I/O, no waiting."""

MACHINES_MAY_NOT = {"os", "random", "select", "socket", "subprocess", "threading", "time", "trio"}
STORAGE_MAY_NOT = {"http", "random", "select", "selectors", "socket", "ssl", "trio", "urllib"}
THREADED = (
    "storage/blocks.py",
    "storage/group_commit.py",
    "peernode/client/*.py",
    "peernode/examples/*.py",
)
"""Who may use threads: the one writer of the store, what a driver calls from several threads (a
lock), and what lives in the user's program."""

FUNCTION_LINES_MAX = 70
MODULE_LINES_MAX = 400
LONG_MODULES = {
    "peernode/classes/*.py": "one class, one room: attributes, methods and rights together",
    "worker/edge.py": "function code imports one module, which imports nothing of ours",
    "worker/runtimes/python_child.py": "runs by itself, in an interpreter without our packages",
    "worker/supervisor.py": "what runs, what waits and what ends share one state",
    "worker/scheduler.py": "one machine: its inputs meet in one state",
}
"""Modules over the limit, and why each is one thing."""

LINE_LENGTH_MAX = 100
NAMELESS = {"base", "common", "helper", "helpers", "misc", "util", "utils"}
MUTABLE = ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp
MUTABLE_MAKERS = {"bytearray", "defaultdict", "deque", "dict", "list", "set"}

MODULES = sorted(
    path.relative_to(ROOT).as_posix()
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
    if not path.is_relative_to(ROOT / "peernode/examples/functions")
)


def read(here: str) -> str:
    return (ROOT / here).read_text(encoding="utf-8")


@cache
def parsed(here: str) -> ast.Module:
    return ast.parse(read(here))


@cache
def tops(here: str) -> set[str]:
    """Return the top-level names that a module imports."""
    return {name.partition(".")[0] for name, _ in imported(parsed(here))}


def faults(here: str, source: str) -> list[str]:
    """Return what is wrong with the module `here` (its path from the root), one line each."""
    tree = ast.parse(source)
    return [
        *import_faults(here, tree),
        *use_faults(here, tree),
        *catch_faults(here, tree),
        *size_faults(here, tree, source),
        *state_faults(here, tree),
        *text_faults(here, tree),
    ]


def imported(tree: ast.Module) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or ""), node.lineno


def import_faults(here: str, tree: ast.Module) -> Iterator[str]:
    package = here.partition("/")[0]
    for name, line in imported(tree):
        top = name.partition(".")[0]
        if not top:
            yield f"{line}: import {name} by its full name, from the top-level package"
        elif top in PACKAGES and top not in MAY_IMPORT[package]:
            yield f"{line}: {package} may not import {name}: let {top} hand in what is needed"
        elif top == "tests":
            yield f"{line}: product code does not import tests"
        elif top in HOMES and not matches(here, HOMES[top]):
            yield f"{line}: {top} lives in {HOMES[top] or 'no module yet'}: go through there"
        elif top == "threading" and not matches(here, THREADED):
            yield f"{line}: only {THREADED} start threads: use trio, or trio.to_thread in a driver"
        elif package == "storage" and top in STORAGE_MAY_NOT:
            yield f"{line}: storage does not wait and has no network: {top} belongs in a driver"
        elif matches(here, MACHINES) and top in MACHINES_MAY_NOT:
            yield f"{line}: a machine does not use {top}: take a value, return an effect"


def use_faults(here: str, tree: ast.Module) -> Iterator[str]:
    for name, line in used(tree):
        if (rule := banned(name)) and not allowed(here, rule):
            yield f"{line}: not {name}: use {BANNED[rule]}"
    for node in ast.walk(tree):
        if here.startswith("storage/") and isinstance(
            node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith
        ):
            yield f"{node.lineno}: storage has no async: wait in the driver that calls it"
        if isinstance(node, ast.For | ast.comprehension) and is_set(node.iter):
            yield f"{node.iter.lineno}: a set has no order: iterate over sorted(...)"


def used(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield the full names of what is imported and of what is used of it, and `print`."""
    names = dict(bindings(tree)) | {"print": "print"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Load):
            first, dot, rest = ast.unparse(node).partition(".")
            if first in names:
                yield names[first] + dot + rest, node.lineno


def rules_broken(tree: ast.Module) -> set[str]:
    return {rule for name, _ in used(tree) if (rule := banned(name))}


def bindings(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield what each imported name stands for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                yield alias.asname or top, alias.name if alias.asname else top


def banned(name: str) -> str | None:
    """Return the rule of BANNED that forbids `name`. `random.Random` is the seam, not the ban."""
    if name == "random.Random":
        return None
    return next((rule for rule in BANNED if fnmatch(name, rule)), None)


def allowed(here: str, rule: str) -> bool:
    return any(rule == name and fnmatch(here, pattern) for pattern, name in ALLOWED)


def is_set(node: ast.expr) -> bool:
    return isinstance(node, ast.Set | ast.SetComp) or (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in {"set", "frozenset"}
    )


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def catch_all(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield the innermost function and line of each handler that catches everything and keeps it.

    One that ends in `raise` only cleans up.
    """
    owners = {
        child: function.name
        for function in functions(tree)  # outer ones first, so that the inner one stays
        for child in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            caught = {ast.unparse(part) for part in ast.walk(node.type)} if node.type else set()
            everything = not caught or bool({"Exception", "BaseException"} & caught)
            last = node.body[-1]
            if everything and not (isinstance(last, ast.Raise) and last.exc is None):
                yield owners.get(node, "<module>"), node.lineno


def catch_faults(here: str, tree: ast.Module) -> Iterator[str]:
    for function, line in catch_all(tree):
        if f"{here}:{function}" not in BOUNDARIES:
            yield (
                f"{line}: {function} catches everything: name the errors, "
                "or enter the boundary in BOUNDARIES with its reason"
            )


def size_faults(here: str, tree: ast.Module, source: str) -> Iterator[str]:
    lines = source.splitlines()
    if len(lines) > MODULE_LINES_MAX and not matches(here, tuple(LONG_MODULES)):
        yield f"{len(lines)} lines: over {MODULE_LINES_MAX}: which two ideas are in here?"
    for number, line in enumerate(lines, 1):
        if len(line) > LINE_LENGTH_MAX:
            yield f"{number}: {len(line)} columns: over {LINE_LENGTH_MAX}"
    for function in functions(tree):
        length = (function.end_lineno or function.lineno) - function.lineno + 1
        if length > FUNCTION_LINES_MAX:
            yield (
                f"{function.lineno}: {function.name} has {length} lines: "
                f"over {FUNCTION_LINES_MAX}: give its parts names"
            )


def state_faults(here: str, tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign):
            targets, value, final = node.targets, node.value, False
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            targets, value = [node.target], node.value
            final = "Final" in ast.unparse(node.annotation)
        else:
            continue
        name = ast.unparse(targets[0])
        constant = final or name.isupper() or name.startswith("__")
        if not constant and (isinstance(value, MUTABLE) or makes_mutable(value)):
            yield f"{node.lineno}: {name} is state of the module: give it an object that owns it"
    for inner in ast.walk(tree):
        for name in inner.names if isinstance(inner, ast.Global) else ():
            if (here, name) not in GLOBALS:
                yield f"{inner.lineno}: global {name}: give it an object that owns it"


def makes_mutable(value: ast.expr) -> bool:
    return (
        isinstance(value, ast.Call) and ast.unparse(value.func).rpartition(".")[2] in MUTABLE_MAKERS
    )


def text_faults(here: str, tree: ast.Module) -> Iterator[str]:
    if not ast.get_docstring(tree):
        yield "no docstring: say what this module is, its rules, what it leaves out"
    for part in Path(here).with_suffix("").parts:
        if part in NAMELESS:
            yield f"{part} says nothing: name the one idea"


def matches(here: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(here, pattern) for pattern in patterns)


@pytest.mark.parametrize("here", MODULES)
def test_a_module_keeps_the_rules(here: str) -> None:
    found = faults(here, read(here))
    assert not found, "\n".join([here, *found])


def test_all_five_packages_are_looked_at() -> None:
    assert {here.partition("/")[0] for here in MODULES} == set(PACKAGES)


@pytest.mark.parametrize("library", sorted(HOMES))
def test_every_home_is_lived_in(library: str) -> None:
    importers = [here for here in MODULES if library in tops(here)]
    empty = [p for p in HOMES[library] if not any(fnmatch(here, p) for here in importers)]
    assert not empty, f"{library}: take {empty} out of HOMES"


def test_every_boundary_is_needed() -> None:
    found = {f"{here}:{function}" for here in MODULES for function, _ in catch_all(parsed(here))}
    assert set(BOUNDARIES) - found == set()


def test_every_long_module_is_long() -> None:
    long = [here for here in MODULES if len(read(here).splitlines()) > MODULE_LINES_MAX]
    needless = [p for p in LONG_MODULES if not any(fnmatch(here, p) for here in long)]
    assert not needless


def test_every_exception_is_needed() -> None:
    """A table that allows what nobody does would hide the next one who does."""
    used = {
        (pattern, rule)
        for pattern, rule in ALLOWED
        for here in MODULES
        if fnmatch(here, pattern) and rule in rules_broken(parsed(here))
    }
    assert set(ALLOWED) - used == set()
    threaded = [here for here in MODULES if "threading" in tops(here)]
    assert [p for p in THREADED if not any(fnmatch(here, p) for here in threaded)] == []


@pytest.mark.parametrize(
    ("here", "source", "says"),
    [
        ("storage/x.py", "import worker.protocol", "storage may not import worker.protocol"),
        ("worker/x.py", "from gossip import mesh", "worker may not import gossip"),
        ("gossip/x.py", "import peernode", "gossip may not import peernode"),
        ("worker/x.py", "from . import link", "by its full name"),
        ("peernode/x.py", "from tests import fakes", "does not import tests"),
        ("worker/x.py", "def f():\n    import lmdb", "lmdb lives in"),
        ("peernode/x.py", "import psutil", "no module yet"),
        ("peernode/x.py", "import libp2p.host", "libp2p lives in"),
        ("peernode/x.py", "import threading", "use trio, or trio.to_thread"),
        ("storage/x.py", "import trio", "does not wait"),
        ("storage/x.py", "async def f(): ...", "storage has no async"),
        ("worker/scheduler.py", "import time", "a machine does not use time"),
        ("peernode/x.py", "import asyncio", "use trio"),
        ("peernode/x.py", "import time as clock\nt = clock.time()", "clock.wall_ms()"),
        ("peernode/x.py", "import time\nt = time.time()", "clock.wall_ms()"),
        ("peernode/x.py", "from time import time_ns as t\nx = t()", "clock.wall_ms()"),
        ("peernode/x.py", "import datetime\nx = datetime.datetime.now()", "clock.wall_ms()"),
        ("peernode/x.py", "import random\nx = random.choice([1])", "random.Random you are given"),
        ("peernode/x.py", "import os\nx = os.urandom(8)", "entropy.token_bytes()"),
        ("worker/x.py", "print(1)", "only the command line prints"),
        ("worker/x.py", "for x in {1, 2}: ...", "sorted(...)"),
        ("worker/x.py", "y = [x for x in set(z)]", "sorted(...)"),
        (
            "worker/x.py",
            "def f():\n    try: ...\n    except Exception: ...",
            "f catches everything",
        ),
        ("worker/x.py", "try: ...\nexcept (OSError, BaseException): ...", "catches everything"),
        ("worker/x.py", "try: ...\nexcept: ...", "catches everything"),
        ("worker/x.py", "x = 1\n" * 401, "401 lines"),
        ("worker/x.py", "x = '" + "y" * 100 + "'", "106 columns"),
        ("worker/x.py", "def f():\n" + "    x = 1\n" * 70, "f has 71 lines"),
        ("worker/x.py", "cache = {}", "cache is state"),
        ("worker/x.py", "cache: dict[int, int] = dict()", "cache is state"),
        ("worker/x.py", "import collections\nq = collections.deque()", "q is state"),
        ("worker/x.py", "def f():\n    global n\n    n = 1", "global n"),
        ("worker/x.py", "x = 1", "no docstring"),
        ("worker/utils.py", "'''Things.'''", "utils says nothing"),
    ],
)
def test_a_rule_bites(here: str, source: str, says: str) -> None:
    assert any(says in fault for fault in faults(here, source)), faults(here, source)


def test_what_is_right_is_left_alone() -> None:
    source = '''"""A module."""
import random
from typing import Final

LIMITS: Final = {"a": 1}
TABLE = [1, 2]
__all__ = ["f"]


def f(rng: random.Random, names: set[str], secrets: list[str]) -> list[str]:
    secrets.clear()
    try:
        return [name for name in sorted(names) if rng.random() < 0.5]
    except (OSError, ValueError):
        return []
    except BaseException:
        names.clear()
        raise
'''
    assert faults("worker/x.py", source) == []
