"""Function versions, made ready once and kept until their function or project changes."""

from collections import OrderedDict
from typing import Final, cast

from peernode.attributes import FunctionAttributes, ProjectAttributes, Version
from peernode.content import Content
from peernode.functions import FunctionVersion
from peernode.problems import Problem
from peernode.registry import Registry
from peernode.terms import for_architecture
from peernode.wheel_rows import wheels_of
from storage.places import Class
from worker.protocol import SOURCE_SENT_MAX_BYTES, Runtime

VERSIONS_MAX: Final = 1024
"""Versions kept ready. Source: each holds its source, mostly under 64 KiB and never over
`SOURCE_SENT_MAX_BYTES`."""


class Programs:
    """A bounded cache of `FunctionVersion`."""

    def __init__(self, registry: Registry, content: Content) -> None:
        self._registry = registry
        self._content = content
        self._ready: OrderedDict[tuple[int, int | None], FunctionVersion] = OrderedDict()
        registry.watch(self._changed)

    def get(self, function: int, number: int | None) -> FunctionVersion | None:
        """Return a version of `function` (`None`: the current one), if there is such a one."""
        ready = self._ready.get((function, number))
        if ready is not None:
            return ready
        entry = self._registry.get(Class.FUNCTION, function)
        if entry is None:
            return None
        attributes: FunctionAttributes = entry.attributes
        wanted = attributes.current if number is None else number
        found = next((v for v in attributes.versions if v.version == wanted), None)
        if found is None:
            return None
        ready = self._ready.get((function, wanted)) if number is None else None
        if ready is None:
            ready = self._make(function, entry.project, attributes, found)
        self._ready[function, wanted] = self._ready[function, number] = ready
        while len(self._ready) > VERSIONS_MAX:
            self._ready.popitem(last=False)
        return ready

    def cid(self, function: int, number: int, wheel: int | None = None) -> bytes:
        """Return the content address of a version's source, or of a wheel; raises `Problem`."""
        version = self.get(function, number)
        if version is None:
            raise Problem("not_found", "the function was deleted")
        if wheel is None:
            return version.cid
        if wheel >= len(version.wheels):
            raise Problem("not_found", f"the version brings no wheel {wheel}")
        return version.wheels[wheel].cid

    def source(self, attributes: FunctionAttributes, version: Version) -> bytes:
        """Return the source or module of a version; raises `BlobError`."""
        if attributes.source is not None and version is attributes.versions[-1]:
            return attributes.source
        return b"".join(self._content.read(version.cid, 0, version.size_bytes))

    def _make(
        self, function: int, project: int, attributes: FunctionAttributes, version: Version
    ) -> FunctionVersion:
        owner = self._registry.get(Class.PROJECT, project)
        sent = version.size_bytes <= SOURCE_SENT_MAX_BYTES
        egress: ProjectAttributes | None = owner.attributes if owner else None
        return FunctionVersion(
            function,
            version.version,
            project,
            cast("Runtime", version.runtime),
            version.entry,
            self.source(attributes, version) if sent else b"",
            for_architecture(attributes.terms, version.arch),
            tuple(egress.egress) if egress else (),
            version.input_schema,
            f"{function}.{version.version}",
            version.cid,
            version.size_bytes,
            tuple(wheels_of(attributes, version)),
        )

    def _changed(self, class_: Class, id: int) -> None:
        if class_ is Class.FUNCTION:
            stale = [key for key in self._ready if key[0] == id]
        elif class_ is Class.PROJECT:
            stale = [key for key, ready in self._ready.items() if ready.project == id]
        else:
            return
        for key in stale:
            del self._ready[key]
