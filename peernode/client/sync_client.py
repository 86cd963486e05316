"""The blocking client. `async_client` is its twin on trio; the work is in the operations."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final, Self, Unpack

from peernode.client import blobs, functions, jobs, kv, objects, proof, settings
from peernode.client.effects import Object, Reply
from peernode.client.errors import NotFound
from peernode.client.jobs import JobOptions
from peernode.client.projects import ProjectCalls
from peernode.client.wire import Stream, Wire

_ABSENT: Final = object()


class Client(ProjectCalls):
    """One node's HTTP API, for requesters and developers. Safe to share between threads.

    Without arguments: the node and token that `peernode login` remembered, unless `PEERNODE_URL`
    and `PEERNODE_TOKEN` say otherwise.  Closing it leaves all jobs running.

    `key` is the node's public key in hex, if known: it has to prove to have it.

    `options` are for tests and the impatient: `policy` (of retries), and the sources of time and
    chance, `sleep`, `now_s`, `rng`, `new_key`.
    """

    def __init__(
        self, url: str | None = None, token: str | None = None, *, key: str = "", **options: Any
    ) -> None:
        self._options = options
        path = settings.config_path(os.environ)
        self._wire = Wire(settings.target(url, token, os.environ, path, key), **options)

    @property
    def url(self) -> str:
        """The node's URL."""
        return self._wire.url

    @property
    def token(self) -> str:
        """The token in use, empty without."""
        return self._wire.token

    @property
    def key(self) -> str:
        """The public key in hex of the node that the token is for, if it is for one."""
        return proof.key_of(self._wire.token)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._wire.http.close()

    # The grammar every class shares.

    def get(self, class_name: str, object_id: str) -> Object:
        """Return an object's attributes. Raises `NotFound`."""
        return self._wire.run(objects.attributes(class_name, object_id))

    def get_reply(self, class_name: str, object_id: str) -> Reply:
        """Return an object as it came, with headers: `origin-node`, `stale`. Raises `NotFound`."""
        return self._wire.run(objects.reply(class_name, object_id))

    def list(self, class_name: str, **filters: str) -> Stream[None]:
        """Iterate over the objects of a class that have these attributes."""
        return self._wire.iterate(objects.listing(class_name, filters))

    def create(self, class_name: str, body: Mapping[str, Any]) -> Object:
        """Create an object."""
        return self._wire.run(objects.create(class_name, body))

    def set(
        self,
        class_name: str,
        object_id: str,
        body: Mapping[str, Any],
        *,
        revision: str | None = None,
    ) -> Object:
        """Set attributes; with `revision`, only if the object still has it."""
        return self._wire.run(objects.change(class_name, object_id, body, revision=revision))

    def delete(self, class_name: str, object_id: str) -> None:
        """Delete an object."""
        self._wire.run(objects.delete(class_name, object_id))

    def method(
        self, class_name: str, object_id: str, name: str, body: Mapping[str, Any] | None = None
    ) -> Any:
        """Call a method of an object."""
        return self._wire.run(objects.call_method(class_name, object_id, name, body))

    def prove(self) -> None:
        """Have the node prove that the token is for it, as before the first call. `WrongNode`."""
        self._wire.prove_now(self._wire.unproven())

    def health(self) -> Object:
        """Return `{status, node_id, peer_id}`; needs no token."""
        return self._wire.run(objects.health())

    # Users and projects.

    def signup(self, name: str, password: str, *, invite: str | None = None) -> Object:
        """Create a user at this node. Raises `WrongNode` if it is another than was logged in at."""
        self._wire.prove_now(self._wire.unproven_for_login())
        return self._wire.run(objects.signup(name, password, invite))

    def login(
        self,
        name: str,
        password: str,
        *,
        ttl_s: float | None = None,
        scopes: Iterable[str] | None = None,
    ) -> Object:
        """Use a token for this node from now on; return `{token, expires_at}`. `WrongNode`."""
        self._wire.prove_now(self._wire.unproven_for_login())
        wanted = None if scopes is None else [*scopes]
        answer = self._wire.run(objects.login(name, password, ttl_s, wanted))
        self._wire.token, self._wire.user = str(answer["token"]), name
        return answer

    def token_for(self, node_id: str) -> Object:
        """Return `{token, expires_at}`, good at another node of the mesh; this one is the home."""
        return self._wire.run(objects.token_for(self._wire.user, node_id))

    def at(self, url: str) -> "Client":
        """Return a client of another node of the mesh, with a token for it from this one, the home.

        Raises `WrongNode` if whoever answers at `url` is not the node that it says it is.
        """
        there = Client(url, "", **self._options)
        try:
            node_id = str((there.health())["node_id"])
            there._wire.token = str((self.token_for(node_id))["token"])
            there.prove()
        except BaseException:
            there.close()
            raise
        return there

    def create_project(self, name: str) -> Object:
        """Create a project, with the caller as its owner."""
        return self.create("project", {"name": name})

    def resolve(self, kind: str, reference: str) -> str:
        """Return the id of a project, function, kv or user given by id or name."""
        return self._wire.run(objects.RESOLVERS[kind](reference))

    # Functions and jobs.

    def deploy(
        self,
        project: str,
        name: str,
        source: str | Path | None = None,
        *,
        blob: str | None = None,
        runtime: str = "python",
        **attributes: Any,
    ) -> "Function":
        """Create a function or give it a new version; code and wheels: a `Path`, or a blob's id.

        `attributes`: entry, requires, prefers, limits, isolation, retry, input_schema, wheels.
        """
        code = functions.code_of(source, blob)
        made = self._wire.run(functions.deploy(project, name, code, runtime, attributes))
        return Function(self._wire, str(made["id"]), f"{project}/{name}", made)

    def rollback(self, function: str, version: int) -> Object:
        """Make an earlier version of a function the current one."""
        return self._wire.run(functions.rollback(function, version))

    def function(self, reference: str) -> "Function":
        """Return a function by `"project/name"` or id. Raises `NotFound`."""
        function_id = self._wire.run(objects.resolve_function(reference))
        return Function(self._wire, function_id, reference)

    def job(self, job_id: str) -> "JobHandle":
        """Return a handle of a job handed in before, here or elsewhere."""
        return JobHandle(self._wire, job_id)

    # Data.

    def kv(self, reference: str) -> "Namespace":
        """Return a key-value namespace by `"project/name"` or id. Raises `NotFound`."""
        return Namespace(self._wire, self._wire.run(objects.resolve_namespace(reference)))

    def create_namespace(
        self, name: str, *, scope: str = "global", mode: str | None = None, **owner: str
    ) -> "Namespace":
        """Create a namespace of one owner: `project=`, `function=` or `user=`."""
        made = self._wire.run(kv.create_namespace(owner, name, scope, mode))
        return Namespace(self._wire, str(made["id"]))

    def put_blob(
        self,
        content: bytes | str | Path | BinaryIO,
        *,
        project: str,
        media_type: str | None = None,
        name: str | None = None,
        progress: blobs.Progress | None = None,
    ) -> Object:
        """Store bytes, the file at a path, or what an open binary file holds; streamed."""
        with blobs.opened(content) as file:
            upload = blobs.as_upload(file, progress)
            kind = media_type or blobs.media_type_of(content, name)
            return self._wire.run(blobs.put(upload, project, kind, blobs.name_of(content, name)))

    def get_blob(
        self,
        blob_id: str,
        path: str | Path | None = None,
        *,
        progress: blobs.Progress | None = None,
    ) -> bytes:
        """Return a blob's bytes, or write them to `path` and return none.

        A download to a path goes on where an earlier one was cut, and appears whole or not at all.
        """
        if path is None:
            return b"".join(self._wire.iterate(blobs.content(blob_id, 0, progress)))
        part = blobs.part_path(Path(path), blob_id)
        with blobs.part_file(part) as (file, offset):
            for piece in self._wire.iterate(blobs.content(blob_id, offset, progress)):
                file.write(piece)
        part.replace(path)
        return b""

    def read_blob(self, blob_id: str) -> Stream[int]:
        """Iterate over a blob's bytes, in pieces of the network's size."""
        return self._wire.iterate(blobs.content(blob_id))


class Function:
    """A function that can be handed jobs."""

    def __init__(
        self, wire: Wire, function_id: str, name: str, attributes: Object | None = None
    ) -> None:
        self._wire = wire
        self.id = function_id
        self.name = name
        self.attributes = {} if attributes is None else attributes
        """As of its deployment; empty when it was only looked up."""

    def __repr__(self) -> str:
        return f"<Function {self.name} {self.id}>"

    def spawn(self, input: Any = None, **options: Unpack[JobOptions]) -> "JobHandle":
        """Hand in a job and return at once; it is durable when this returns."""
        job = self._wire.run(jobs.spawn(self.id, input, options))
        return JobHandle(self._wire, str(job["id"]))

    def call(
        self, input: Any = None, *, wait_s: float | None = None, **options: Unpack[JobOptions]
    ) -> Any:
        """Hand in a job and return its result. Raises `JobFailed`; `JobTimeout` after `wait_s`."""
        return self._wire.run(jobs.call(self.id, input, wait_s, options))

    def map(
        self,
        inputs: Iterable[Any],
        /,
        *,
        in_flight_max: int = jobs.IN_FLIGHT_DEFAULT,
        return_errors: bool = False,
        **options: Unpack[JobOptions],
    ) -> Stream[None]:
        """Iterate over the results of one job an input, in the order of the inputs.

        At most `in_flight_max` jobs are out at once.  A `JobFailed` is raised in its turn, or with
        `return_errors` takes the result's place.
        """
        operation = jobs.map_inputs(self.id, inputs, in_flight_max, return_errors, options)
        return self._wire.iterate(operation)


class JobHandle:
    """A job that was handed in. It does not need this handle, nor this process."""

    def __init__(self, wire: Wire, job_id: str) -> None:
        self._wire = wire
        self.id = job_id

    def __repr__(self) -> str:
        return f"<JobHandle {self.id}>"

    def status(self) -> Object:
        """Return the job as it stands: `state`, `progress`, `attempt`, ..."""
        return self._wire.run(objects.attributes("job", self.id))

    def wait(self, timeout_s: float | None = None) -> Object:
        """Return the job once it is over, however it ended. Raises `JobTimeout`."""
        return self._wire.run(jobs.wait_for(self.id, timeout_s))

    def result(self, timeout_s: float | None = None) -> Any:
        """Return what the function returned. Raises `JobFailed`, `JobTimeout`."""
        return self._wire.run(jobs.result(self.id, timeout_s))

    def cancel(self) -> Object:
        """Cancel it, waiting or running, and return the job."""
        return self._wire.run(jobs.cancel(self.id))

    def retry(self) -> "JobHandle":
        """Hand in the same request again, as a new job."""
        return JobHandle(self._wire, str(self._wire.run(jobs.retry(self.id))["id"]))

    def logs(self) -> str:
        """Return what it has logged so far, as text."""
        return self._wire.run(jobs.logs(self.id))

    def log_lines(self) -> list[Object]:
        """Return what it has written and logged so far, as `{at, stream, text}`."""
        return self._wire.run(jobs.log_lines(self.id))

    def events(self, *, after: str = "") -> Stream[None]:
        """Iterate over its `Event`s until it is over; a cut connection is resumed."""
        return self._wire.iterate(jobs.events(self.id, after))


class Namespace:
    """A key-value namespace, used like a mapping of strings to JSON values.

    It has no `len`: that would read all of it.
    """

    def __init__(self, wire: Wire, space_id: str) -> None:
        self._wire = wire
        self.id = space_id

    def __getitem__(self, key: str) -> Any:
        return self.entry(key)["value"]

    def __setitem__(self, key: str, value: Any) -> None:
        self.put(key, value)

    def __delitem__(self, key: str) -> None:
        self.delete(key)

    def __iter__(self) -> Stream[None]:
        return self.keys()

    def __contains__(self, key: str) -> bool:
        return self.get(key, _ABSENT) is not _ABSENT

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, or `default`."""
        try:
            return self.entry(key)["value"]
        except KeyError:
            return default

    def entry(self, key: str) -> Object:
        """Return `{key, value, version, ...}`. Raises `KeyError`."""
        try:
            return self._wire.run(kv.get(self.id, key))
        except NotFound as error:
            if error.field != "key":  # the namespace itself is gone
                raise
            raise KeyError(key) from error

    def put(
        self, key: str, value: Any, *, if_version: str | None = None, ttl_s: float | None = None
    ) -> Object:
        """Set a key and return `{key, version}`; with `if_version`, only if it still has it."""
        return self._wire.run(kv.put(self.id, key, value, if_version, ttl_s))

    def delete(self, key: str) -> None:
        """Delete a key. Raises `KeyError`."""
        try:
            self._wire.run(kv.delete(self.id, key))
        except NotFound as error:
            if error.field != "key":  # the namespace itself is gone
                raise
            raise KeyError(key) from error

    def increment(self, key: str, by: int = 1) -> Object:
        """Add to a number and return `{key, value, version}`."""
        return self._wire.run(kv.increment(self.id, key, by))

    def keys(self, prefix: str = "") -> Stream[None]:
        """Iterate over the keys that begin with `prefix`."""
        return self._wire.iterate(kv.keys(self.id, prefix))
