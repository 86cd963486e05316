"""What `peernode doctor` looks at: each check one function, each finding with its remedy."""

import importlib.util
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from peernode.cli import options
from peernode.client import Client, ClientError, Unauthenticated, settings
from worker.capabilities import LEVELS
from worker.sandbox.probe import measure_levels
from worker.wasm import interpreter_path, trusted, user_cache

DISK_FREE_MIN_BYTES = 1 << 30
"""Below this a node should not be started. Source: guess, a model and some pictures."""

MEANINGS = {
    "process": "for your own functions only: limits, no walls",
    "sandbox": "native functions of strangers are kept in",
    "wasm": "functions of strangers run in a virtual machine",
}
INFERENCE_PACKAGES = ("numpy", "onnxruntime", "PIL")


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found. `wrong` fails the doctor, `note` is worth knowing."""

    verdict: Literal["ok", "note", "wrong"]
    subject: str
    detail: str
    hint: str = ""

    def as_object(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return asdict(self)


def examine(data: Path | None, url: str | None, environment: Mapping[str, str]) -> list[Finding]:
    """Return what every check found, in order."""
    findings = [python(), inference(), openvino(), *isolation(data), configuration(environment)]
    if data is not None:
        findings += data_directory(data)
    return [*findings, *node(data, url)]


def python() -> Finding:
    """Return whether this Python will do."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.platform != "linux":
        return Finding("note", "python", f"{version} on {sys.platform}", "sandboxes need Linux")
    return Finding("ok", "python", version)


def missing_inference() -> list[str]:
    """Return the packages that `edge.infer` and the examples lack here."""
    return [name for name in INFERENCE_PACKAGES if importlib.util.find_spec(name) is None]


def inference() -> Finding:
    """Return whether models can be run by a worker in this environment."""
    missing = missing_inference()
    if missing:
        hint = "pip install 'peernode[inference]'"
        return Finding("note", "inference", f"not installed: {', '.join(missing)}", hint)
    return Finding("ok", "inference", "numpy, onnxruntime and pillow are here")


def openvino() -> Finding:
    """Return whether workers in this environment have a second backend for models."""
    if importlib.util.find_spec("openvino") is None:
        hint = "pip install 'peernode[openvino]', alone or beside onnxruntime"
        return Finding("note", "openvino", "not installed: a second backend, for models", hint)
    return Finding("ok", "openvino", "models run with it where onnxruntime is not, or named first")


def isolation(data: Path | None) -> Iterator[Finding]:
    """Yield each isolation level that functions can have here, and what is missing where not."""
    with tempfile.TemporaryDirectory() as made:
        # A node's own directory, if it has one, so that what is found there counts.
        place = data / "worker" if data is not None and data.is_dir() else Path(made)
        levels = measure_levels(place)
    for level, missing in sorted(levels.items(), key=lambda item: LEVELS.index(item[0])):
        if missing:
            hint = "untrusted functions wait here; `--isolation process` runs your own"
            yield Finding("note", f"isolation {level}", missing, hint)
        else:
            yield Finding("ok", f"isolation {level}", MEANINGS[level])
    yield _wasm()


def _wasm() -> Finding:
    path = interpreter_path(user_cache())
    if path is None:
        hint = "pip install 'peernode[wasm]'"
        return Finding("note", "isolation wasm", "not installed: wasmtime, componentize-py", hint)
    if not trusted(path):
        hint = "a worker builds it in the background; `python -m worker.wasm` builds it now"
        return Finding(
            "note", "isolation wasm", "modules run; Python for it is not built yet", hint
        )
    return Finding("ok", "isolation wasm", MEANINGS["wasm"])


def configuration(environment: Mapping[str, str]) -> Finding:
    """Return whether the client's settings file is readable, and by its owner alone."""
    path = settings.config_path(environment)
    try:
        kept = settings.load(path)
    except ClientError as error:
        return Finding("wrong", "settings", str(error), "mend the file, or remove and log in anew")
    if not kept:
        return Finding("note", "settings", f"no {path} yet", "`peernode login NAME` writes it")
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return Finding("wrong", "settings", f"others can read {path}", f"chmod 600 {path}")
    return Finding("ok", "settings", str(path))


def data_directory(data: Path) -> Iterator[Finding]:
    """Yield what is to be said of a node's data directory."""
    if not data.is_dir():
        hint = f"`peernode up --data {data}` makes it"
        yield Finding("wrong", "data", f"{data} is not a directory", hint)
        return
    if data.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        yield Finding("wrong", "data", f"others can enter {data}", f"chmod 700 {data}")
    token = data / "operator.token"
    if token.exists() and token.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        yield Finding("wrong", "data", f"others can read {token}", f"chmod 600 {token}")
    free = shutil.disk_usage(data).free
    if free < DISK_FREE_MIN_BYTES:
        yield Finding("wrong", "disk", f"{free >> 20} MiB free", "make room: a full node refuses")
    else:
        yield Finding("ok", "disk", f"{free >> 30} GiB free at {data}")


def node(data: Path | None, url: str | None) -> Iterator[Finding]:
    """Yield what is to be said of the node, as it answers now."""
    try:
        client = options.operator(data, url)
    except ClientError as error:
        yield Finding("wrong", "node", str(error), error.hint)
        return
    with client:
        try:
            health = client.health()
        except ClientError as error:
            yield Finding("wrong", "node", str(error), error.hint)
            return
        detail = f"{client.url} is {health.get('status')}, node {health.get('node_id')}"
        yield Finding("ok" if health.get("status") == "ok" else "note", "node", detail)
        yield token(client)
        if data is not None:
            yield workers(client)


def token(client: Client) -> Finding:
    """Return whether the token is good at the node."""
    if not client.token:
        return Finding("note", "token", "none for this node", "`peernode login NAME` gets one")
    try:
        next(client.list("project"), None)
    except Unauthenticated as error:
        return Finding("wrong", "token", str(error), error.hint or "`peernode login NAME`")
    except ClientError as error:
        return Finding("wrong", "token", str(error), error.hint)
    return Finding("ok", "token", "the node takes it")


def workers(client: Client) -> Finding:
    """Return whether anybody is there to do the work."""
    try:
        found = [*client.list("worker")]
    except ClientError as error:
        return Finding("wrong", "workers", str(error), error.hint)
    attached = [worker for worker in found if worker["state"] == "attached"]
    if not attached:
        hint = "`peernode up --workers auto`, or `peernode worker create` for another machine"
        return Finding("wrong", "workers", "none is attached: jobs will wait", hint)
    return Finding("ok", "workers", f"{len(attached)} attached")
