"""What function code imports as `edge`: the global computing library.

    import edge

    def handler(input):
        model = edge.blob(edge.kv("models")["face"])
        boxes = edge.infer(model, {"input": pixels})
        edge.progress(0.5, "half way")
        return {"faces": boxes}

Nothing here knows sockets, disks or the platform: every call goes through a `Transport` that the
runtime binds before it calls the handler, and the agent or the node answers.  Writes are buffered
and take effect when the job succeeds; a job's own reads see them.  What must not wait goes through
`edge.kv(name).now`, and may then happen more than once, as attempts may.

This file runs in the function's process.  It stands alone (standard library only, heavy parts
imported when first used), so that a cold call is not paid in imports, and in one piece, because
it is loaded by its path.  The module variable that
names the running job is the one exception to the rule against module state: a process runs one
job at a time, and the functions of a module are what users call.
"""

from __future__ import annotations

import json as _json
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime
    from typing import IO, Any, BinaryIO, Protocol

    class Transport(Protocol):
        """How calls leave the function's process."""

        def request(self, operation: str, arguments: dict[str, Any]) -> tuple[str, Any]:
            """Return `(problem code or empty, answer)`; blocks."""
            ...

        def progress(self, fraction: float | None, message: str) -> None:
            """Send progress; does not block."""
            ...

        def log(self, text: str) -> None:
            """Send a line; does not block."""
            ...

        def infer(
            self, cid: str, path: str, inputs: Mapping[str, Any], strict: bool
        ) -> tuple[dict[str, Any], str]:
            """Run a model from a file; return the outputs and the backend that ran it."""
            ...

        def open(self, path: str) -> BinaryIO:
            """Return a content, by the path that `blob.path` answered, as a file to read."""
            ...


KEY_SIZE_MAX_BYTES = 256
"""Longest KV key. Source: the API's limits."""
VALUE_SIZE_MAX_BYTES = 64 * 1024
"""Largest KV value, as JSON. Source: the API's limits."""
KEYS_MAX = 100_000
"""Most keys that `keys()` returns. Source: guess; a longer list belongs into a blob."""
WRITES_MAX = 10_000
"""Most buffered writes of a job. Source: guess."""
WRITES_SIZE_MAX_BYTES = 2 * 1024 * 1024
"""Most bytes of buffered writes. Source: half the largest link message."""
CHUNK_SIZE_BYTES = 1024 * 1024
"""Bytes of a blob sent at once. Source: the UnixFS chunk."""
UPLOAD_ATTEMPTS_MAX = 3
"""How often an upload begins again after the link broke. Source: guess."""
PROGRESS_INTERVAL_S = 0.05
"""Progress closer together than this is merged. Source: half of what a node takes."""
MESSAGE_SIZE_MAX_CHARACTERS = 1024
"""Longest progress message. Source: guess."""
DEPTH_MAX = 32
"""Deepest result. Source: the API's limits."""


class Error(Exception):
    """A call of this library failed. `code` is the problem code."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class NotFound(Error, LookupError):
    """What was named does not exist, or this job may not see it."""


class Forbidden(Error, PermissionError):
    """This job may not do that."""


class BackendUnavailable(Error):
    """No backend of this worker took the model, or, if `strict`, its best did not."""


class OutputLimit(Error):
    """The job wrote more than its `output_bytes`."""


class Job:
    """The running job: `edge.job`."""

    def __init__(self, id: str, attempt: int, deadline_ms: int | None) -> None:
        self.id = id
        self.attempt = attempt
        self._deadline_ms = deadline_ms

    @property
    def deadline(self) -> datetime | None:
        """Return when the whole job must be over (an aware UTC time), or `None`."""
        from datetime import UTC, datetime

        if self._deadline_ms is None:
            return None
        return datetime.fromtimestamp(self._deadline_ms / 1000, UTC)


class Session:
    """One job's view of the library: its buffered writes and what it has looked up.

    For runtimes: made and bound for each job.
    """

    def __init__(
        self,
        transport: Transport,
        job: tuple[str, int, int | None],
        output_max_bytes: int,
    ) -> None:
        self.transport = transport
        self.job = job
        self.inputs: dict[str, Blob] = {}
        self.backend = ""
        self.writes: list[list[Any]] = []
        self.uploaded_bytes = 0
        self.local: dict[str, dict[str, Any]] = {}
        """What is known of blobs with a local copy, its path too: it stays while the job runs."""
        self._output_max_bytes = output_max_bytes
        self._written_bytes = 0
        self._overlay: dict[tuple[int, str], tuple[str, Any]] = {}
        self._spaces: dict[str, Space] = {}
        self._progress: tuple[float | None, str] | None = None
        self._progress_at_s = 0.0

    def ask(self, what: str, operation: str, **arguments: Any) -> Any:
        """Return the answer to a call, or raise what its problem code means."""
        problem, answer = self.transport.request(operation, arguments)
        if not problem:
            return answer
        kind = {"not_found": NotFound, "forbidden": Forbidden}.get(problem, Error)
        raise kind(f"{what}: {problem}" + (f": {answer}" if answer else ""), problem)

    def buffer(self, write: list[Any], size_bytes: int) -> None:
        """Keep a write until the job succeeds."""
        self._written_bytes += size_bytes
        if len(self.writes) >= WRITES_MAX or self._written_bytes > WRITES_SIZE_MAX_BYTES:
            raise OutputLimit(
                f"over {WRITES_MAX} writes or {WRITES_SIZE_MAX_BYTES} bytes of them in one job",
                "output_limit",
            )
        self.writes.append(write)

    def count_upload(self, size_bytes: int) -> None:
        """Count bytes of blobs against the job's `output_bytes`."""
        self.uploaded_bytes += size_bytes
        if self.uploaded_bytes > self._output_max_bytes:
            raise OutputLimit(f"over {self._output_max_bytes} bytes of output", "output_limit")

    def space(self, name: str) -> Space:
        """Return a namespace, looked up once a job."""
        found = self._spaces.get(name)
        if found is None:
            answer = self.ask(f"edge.kv({name!r})", "kv.open", name=name)
            home = answer.get("home", 0)
            found = Space(self, name, answer["space"], answer["scope"], answer["mode"], home)
            self._spaces[name] = found
        return found

    def overlay(self) -> dict[tuple[int, str], tuple[str, Any]]:
        """Return the job's own writes by place: `put` bytes, `delete`, or `add` a number."""
        return self._overlay

    def report(self, fraction: float | None, message: str) -> None:
        """Send progress, or keep it until the next may be sent."""
        now_s = time.monotonic()
        if now_s - self._progress_at_s < PROGRESS_INTERVAL_S:
            self._progress = (fraction, message)
            return
        self._progress_at_s = now_s
        self._progress = None
        self.transport.progress(fraction, message)

    def close(self) -> None:
        """Send what is still kept back."""
        if self._progress is not None:
            self.transport.progress(*self._progress)
            self._progress = None


_session: Session | None = None


def bind(session: Session | None) -> None:
    """Make `session` the running job. For runtimes."""
    global _session
    _session = session


def running() -> Session:
    """Return the running job's session. For runtimes."""
    return _current()


def _current() -> Session:
    if _session is None:
        raise RuntimeError("edge works only while a job runs, in the process that runs it")
    return _session


def __getattr__(name: str) -> Any:
    if name == "job":
        return Job(*_current().job)
    if name == "inputs":
        return _current().inputs
    raise AttributeError(f"module 'edge' has no attribute {name!r}")


# --- values -----------------------------------------------------------------------------------


def decode(text: bytes) -> Any:
    """Return a JSON text as values; `{"blob": ID}` becomes a `Blob`. For runtimes."""
    if b'"blob"' in text:
        return _json.loads(text, object_hook=_arriving)
    return _decode_text(text.decode())


def encode(value: Any) -> bytes:
    """Return JSON text of `value`, blobs and bytes stored and named by `{"blob": ID}`.

    Raises `TypeError` or `ValueError` for what is not JSON: NaN, sets, cycles, lone surrogates,
    more than `DEPTH_MAX` levels.
    """
    text = _encode_text(value)
    if text.count("[") + text.count("{") > DEPTH_MAX and _depth(text) > DEPTH_MAX:
        raise ValueError(f"deeper than {DEPTH_MAX} levels")
    return text.encode()


def _arriving(value: dict[str, Any]) -> Any:
    if len(value) == 1:
        named = value.get("blob")
        if isinstance(named, str) and named.isascii() and named.isdigit():
            return Blob(named)
    return value


def _leaving(value: Any) -> Any:
    if isinstance(value, Blob):
        return {"blob": value.id}
    if isinstance(value, bytes | bytearray | memoryview):
        return {"blob": put_blob(bytes(value)).id}
    if hasattr(value, "tolist") and hasattr(value, "dtype"):  # arrays and scalars, as of `infer`
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} is not JSON")


_decode_text = _json.JSONDecoder().decode
_encode_text: Callable[[Any], str] = _json.JSONEncoder(
    allow_nan=False, ensure_ascii=False, separators=(",", ":"), default=_leaving
).encode


def _depth(text: str) -> int:
    """Return how deep a JSON text is nested; brackets within strings do not count."""
    deepest = depth = 0
    inside = escaped = False
    for character in text:
        if inside:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == '"':
                inside = False
        elif character == '"':
            inside = True
        elif character in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth -= 1
    return deepest


# --- key-value namespaces ---------------------------------------------------------------------


def kv(name: str) -> Space:
    """Return a namespace of the function, or of its project. Raises `NotFound`."""
    return _current().space(name)


class Space:
    """A namespace as a mapping of text to JSON values."""

    def __init__(
        self, session: Session, name: str, space: int, scope: str, mode: str, home: int = 0
    ) -> None:
        self._session = session
        self.name = name
        self._space = space
        self._exact = scope == "local" or mode == "cas"
        self._home = home
        """The other node that keeps its keys; 0: none."""

    def __getitem__(self, key: str) -> Any:
        """Return a value. Raises `KeyError`."""
        value = self.get(key, _MISSING)
        if value is _MISSING:
            raise KeyError(key)
        return value

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value, or `default`."""
        _check_key(key)
        kind, own = self._session.overlay().get((self._space, key), ("", None))
        if kind == "put":
            return _json.loads(own)
        if kind == "delete":
            return default
        answer = self._session.ask(self._what(key), "kv.get", space=self._space, key=key)
        stored = _MISSING if answer is None else _json.loads(answer["value"])
        if kind == "add":
            return _sum(0 if stored is _MISSING else stored, own, self._what(key))
        return default if stored is _MISSING else stored

    def version(self, key: str) -> str:
        """Return the version of a stored value, for `now.put`; `"0"` if there is none."""
        _check_key(key)
        answer = self._session.ask(self._what(key), "kv.get", space=self._space, key=key)
        return "0" if answer is None else str(answer["version"])

    def __contains__(self, key: str) -> bool:
        return self.get(key, _MISSING) is not _MISSING

    def __setitem__(self, key: str, value: Any) -> None:
        """Set a value when the job succeeds."""
        self.put(key, value)

    def put(self, key: str, value: Any, ttl_s: float | None = None) -> None:
        """Set a value when the job succeeds; it vanishes `ttl_s` seconds after that."""
        text = _value_text(key, value)
        self._check_buffered(key)
        self._session.buffer([1, self._space, key, text, ttl_s], len(key) + len(text))
        self._session.overlay()[self._space, key] = ("put", text)

    def __delitem__(self, key: str) -> None:
        """Delete a key when the job succeeds, whether it is there or not."""
        _check_key(key)
        self._check_buffered(key)
        self._session.buffer([2, self._space, key], len(key))
        self._session.overlay()[self._space, key] = ("delete", None)

    def increment(self, key: str, by: int = 1) -> None:
        """Add to a number when the job succeeds; a missing key counts as 0."""
        self.check_increment(key, by)
        self._check_buffered(key)
        kind, own = self._session.overlay().get((self._space, key), ("", None))
        now: tuple[str, Any]
        if kind == "put":
            now = ("put", str(_sum(_json.loads(own), by, self._what(key))).encode())
        elif kind == "delete":
            now = ("put", str(by).encode())
        else:
            now = ("add", by + (own or 0))
        self._session.buffer([3, self._space, key, by], len(key) + 8)
        self._session.overlay()[self._space, key] = now

    def keys(self, prefix: str = "") -> list[str]:
        """Return the keys that begin with `prefix`, sorted."""
        found: set[str] = set()
        cursor = None
        while True:
            answer = self._session.ask(
                f"edge.kv({self.name!r}).keys",
                "kv.list",
                space=self._space,
                prefix=prefix,
                cursor=cursor,
            )
            found.update(answer["keys"])
            cursor = answer["cursor"]
            if len(found) > KEYS_MAX:
                raise Error(f"over {KEYS_MAX} keys begin with {prefix!r}", "too_large")
            if cursor is None:
                break
        for (space, key), (kind, _) in self._session.overlay().items():
            if space == self._space and key.startswith(prefix):
                (found.discard if kind == "delete" else found.add)(key)
        return sorted(found)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    @property
    def now(self) -> Now:
        """Return the same namespace for writes that must not wait. At least once."""
        return Now(self, self._session, self._space)

    def check_increment(self, key: str, by: int) -> None:
        """Raise `TypeError` where an increment would be refused."""
        _check_key(key)
        if type(by) is not int or not -(2**63) <= by < 2**63:
            raise TypeError(f"{self._what(key)}: a step is a whole number of 64 bits, not {by!r}")
        if not self._exact:
            raise TypeError(f"{self._what(key)}: a global lww namespace would lose increments")

    def _check_buffered(self, key: str) -> None:
        if self._home:
            raise Error(
                f"{self._what(key)}: node {self._home} keeps these keys, and cannot write them "
                f"together with the end of a job of this node: use edge.kv({self.name!r}).now",
                "misdirected",
            )

    def _what(self, key: str) -> str:
        return f"edge.kv({self.name!r})[{key!r}]"


class Now:
    """Writes that happen at once, and again if the attempt is repeated."""

    def __init__(self, space: Space, session: Session, number: int) -> None:
        self._of = space
        self._session = session
        self._space = number

    def __setitem__(self, key: str, value: Any) -> None:
        """Set a value now."""
        self.put(key, value)

    def put(
        self, key: str, value: Any, ttl_s: float | None = None, if_version: str | None = None
    ) -> str:
        """Set a value now, and return its version.

        With `if_version` only if the key is at that version (`Space.version`): so an attempt that
        is repeated, or whose answer was lost, does not overwrite what came after.  Raises `Error`
        with code `version_mismatch`.
        """
        text = _value_text(key, value)
        what = f"edge.kv({self._of.name!r}).now[{key!r}]"
        fields = {"space": self._space, "key": key, "value": text, "ttl_s": ttl_s}
        if if_version is not None:
            fields["if_version"] = if_version
        return str(self._session.ask(what, "kv.put", **fields)["version"])

    def __delitem__(self, key: str) -> None:
        """Delete a key now, whether it is there or not."""
        _check_key(key)
        what = f"edge.kv({self._of.name!r}).now[{key!r}]"
        self._session.ask(what, "kv.delete", space=self._space, key=key)

    def increment(self, key: str, by: int = 1) -> int:
        """Add to a number now and return what it is then."""
        self._of.check_increment(key, by)
        what = f"edge.kv({self._of.name!r}).now[{key!r}]"
        answer = self._session.ask(what, "kv.increment", space=self._space, key=key, by=by)
        return int(answer["value"])


_MISSING = object()


def _check_key(key: str) -> None:
    if not isinstance(key, str):
        raise TypeError(f"a key is text, not a {type(key).__name__}")
    if not 0 < len(key.encode()) <= KEY_SIZE_MAX_BYTES:
        raise ValueError(f"a key has 1 to {KEY_SIZE_MAX_BYTES} bytes")


def _value_text(key: str, value: Any) -> bytes:
    _check_key(key)
    text = encode(value)
    if len(text) > VALUE_SIZE_MAX_BYTES:
        raise ValueError(f"the value of {key!r} is over {VALUE_SIZE_MAX_BYTES} bytes of JSON")
    return text


def _sum(stored: Any, by: int, what: str) -> int:
    if type(stored) is not int:
        raise TypeError(f"{what}: not a whole number, so it cannot be incremented")
    return stored + by


# --- blobs --------------------------------------------------------------------------------------


class Blob:
    """Stored bytes, by id; attributes and content are fetched when first asked for."""

    __slots__ = ("_facts", "id")

    def __init__(self, id: str, facts: dict[str, Any] | None = None) -> None:
        self.id = id
        self._facts = facts

    def bytes(self) -> bytes:
        """Return the whole content."""
        with self.open() as file:
            return file.read()

    def open(self) -> BinaryIO:
        """Return the content as a file to read."""
        return _current().transport.open(self.path())

    def path(self) -> str:
        """Return the path of a local copy, complete and verified. Do not write to it.

        At level `wasm` there are no files, and it is a name for `open` alone.
        """
        session = _current()
        facts = session.local.get(self.id)
        if facts is None:
            facts = session.ask(f"edge.blob({self.id!r})", "blob.path", blob=int(self.id))
            session.local[self.id] = facts
        self._facts = facts
        return str(facts["path"])

    @property
    def cid(self) -> str:
        """Return the content's address."""
        return str(self._fact("cid"))

    @property
    def media_type(self) -> str:
        """Return the media type it was stored with."""
        return str(self._fact("media_type"))

    @property
    def size_bytes(self) -> int:
        """Return how many bytes it has."""
        return int(self._fact("size_bytes"))

    @property
    def name(self) -> str:
        """Return the name it was stored under, or empty."""
        return str(self._fact("name") or "")

    def __repr__(self) -> str:
        return f"edge.Blob({self.id!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Blob) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def _fact(self, name: str) -> Any:
        if self._facts is None:
            self._facts = _current().ask(f"edge.blob({self.id!r})", "blob.stat", blob=int(self.id))
        return self._facts[name]


def blob(id: str | int | Blob) -> Blob:
    """Return a blob by its id; whether it exists shows when it is first used."""
    return Blob(_blob_id(id))


def put_blob(
    data: bytes | bytearray | memoryview | IO[bytes],
    media_type: str = "application/octet-stream",
    name: str = "",
) -> Blob:
    """Store bytes, or a file read to its end; kept only if the job succeeds."""
    session = _current()
    source: IO[bytes]
    if isinstance(data, bytes | bytearray | memoryview):
        import io

        source = io.BytesIO(data)
    else:
        source = data
    begin = source.tell() if source.seekable() else None
    attempt = 1
    before = session.uploaded_bytes
    while True:
        try:
            stored = _upload(session, source, media_type, name)
        except Error as error:
            if error.code != "link_lost" or begin is None or attempt == UPLOAD_ATTEMPTS_MAX:
                raise
            attempt += 1
            session.uploaded_bytes = before
            source.seek(begin)
        else:
            session.buffer([4, int(stored.id)], 8)
            return stored


def _upload(session: Session, source: IO[bytes], media_type: str, name: str) -> Blob:
    what = "edge.put_blob"
    answer = session.ask(what, "blob.begin", media_type=media_type, name=name)
    upload = answer["upload"]
    while chunk := source.read(CHUNK_SIZE_BYTES):
        if not isinstance(chunk, bytes):
            raise TypeError(f"{what}: a file of bytes, please: open it with 'rb'")
        session.count_upload(len(chunk))
        session.ask(what, "blob.append", upload=upload, data=chunk)
    facts = session.ask(what, "blob.finish", upload=upload)
    return Blob(
        str(facts["blob"]),
        {
            "cid": facts["cid"],
            "size_bytes": facts["size_bytes"],
            "media_type": media_type,
            "name": name,
        },
    )


def delete_blob(id: str | int | Blob) -> None:
    """Delete a blob when the job succeeds."""
    _current().buffer([5, int(_blob_id(id))], 8)


def _blob_id(id: str | int | Blob) -> str:
    text = id.id if isinstance(id, Blob) else str(id)
    if not (text.isascii() and text.isdigit() and int(text) < 2**63):
        raise ValueError(f"not the id of a blob: {text[:40]!r}")
    return text


# --- everything else ----------------------------------------------------------------------------


def infer(
    model: Blob | str | int, inputs: Mapping[str, Any], strict: bool = False
) -> dict[str, Any]:
    """Run an ONNX model on the best backend this worker has.

    `inputs`: name -> array (or nested lists); returns name -> numpy array.  `strict` refuses any
    backend but this worker's best (`BackendUnavailable`) where otherwise the next one takes over.
    """
    session = _current()
    source = blob(model)
    path = source.path()
    try:
        outputs, backend = session.transport.infer(source.cid, path, inputs, strict)
    except LookupError as error:
        raise BackendUnavailable(str(error.args[0]), "backend_unavailable") from None
    session.backend = backend
    return outputs


class Response:
    """An answer to `http`: `status`, `headers` (names in lower case), `content`."""

    def __init__(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.status = status
        self.headers = headers
        self.content = content

    @property
    def text(self) -> str:
        """Return the content as text."""
        return self.content.decode("utf-8", "replace")

    def json(self) -> Any:
        """Return the content read as JSON."""
        return _json.loads(self.content)


def http(
    method: str,
    url: str,
    json: Any = None,
    data: bytes | str | None = None,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 30,
) -> Response:
    """Ask an HTTP server that the project's `egress` lists. Redirects are not followed.

    The worker's agent makes the request: the function's process needs no network.
    """
    if json is not None and data is not None:
        raise TypeError("edge.http: json or data, not both")
    sent = {str(name): str(value) for name, value in (headers or {}).items()}
    if json is not None:
        body = encode(json)
        sent.setdefault("content-type", "application/json")
    else:
        body = data.encode() if isinstance(data, str) else bytes(data or b"")
    answer = _current().ask(
        f"edge.http({method!r}, {url!r})",  # whole, as half a secret could not be recognised
        "http",
        method=method.upper(),
        url=url,
        headers=_json.dumps(sent),
        body=body,
        timeout_s=float(timeout_s),
    )
    return Response(answer["status"], dict(answer["headers"]), answer["content"])


def secret(name: str) -> str:
    """Return a secret of the project. Raises `NotFound`, also where this node may not have it.

    The platform keeps it out of the job's log, progress and errors; results are the function's.
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of a secret is text, not a {type(name).__name__}")
    return str(_current().ask(f"edge.secret({name!r})", "secret.get", name=name)["value"])


def progress(fraction: float | None = None, message: str = "") -> None:
    """Say how far the job is (0 to 1); also its sign of life where it has `heartbeat_s`."""
    if fraction is not None:
        fraction = float(fraction)
        if not 0 <= fraction <= 1:
            raise ValueError(f"a fraction is between 0 and 1, not {fraction}")
    _current().report(fraction, str(message)[:MESSAGE_SIZE_MAX_CHARACTERS])


def log(text: str, **fields: Any) -> None:
    """Write a line into the job's log, with fields as JSON after it."""
    line = str(text)
    if fields:
        line += " " + _json.dumps(fields, default=repr, ensure_ascii=False)
    _current().transport.log(line)


def call(function: str, input: Any = None) -> str:
    """Hand in a child job and return its id; it outlives this one. At least once."""
    answer = _current().ask(
        f"edge.call({function!r})", "job.call", function=function, input=encode(input)
    )
    return str(answer["job"])
