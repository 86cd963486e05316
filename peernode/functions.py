"""A function version, ready to be handed out."""

from dataclasses import dataclass

from peernode.wheel_rows import Wheel
from storage.cid import Cid, text as cid_text
from worker import protocol
from worker.protocol import Program, Runtime
from worker.wheel_names import parse_name


@dataclass(frozen=True, slots=True, eq=False)
class FunctionVersion:
    """One immutable version of a function, with what its function and project say now.

    Compared by identity: a change of the function's terms or the project's egress makes a new one,
    and workers are sent it anew.
    """

    function: int
    version: int
    project: int
    runtime: Runtime
    entry: str
    source: bytes
    """Empty where it is too large to be sent along."""
    terms: bytes
    """Of the function, as `terms.to_row` gives it."""
    egress: tuple[str, ...]
    input_schema: bytes | None
    program: str
    """`"<function id>.<version>"`."""
    cid: bytes
    """Content address of the source."""
    size_bytes: int
    wheels: tuple[Wheel, ...] = ()

    @property
    def tags(self) -> tuple[str, ...]:
        """Which Pythons its wheels are for: what a job needs of its worker."""
        return tuple(sorted({parse_name(wheel.name).tags for wheel in self.wheels}))

    def message(self) -> Program:
        """Return what a worker is sent."""
        said = (self.program, self.runtime, self.entry, self.source, list(self.egress))
        wheels = [
            protocol.Wheel(cid_text(Cid(wheel.cid)), wheel.size_bytes, wheel.name)
            for wheel in self.wheels
        ]
        if self.source or not self.size_bytes:
            return Program(*said, wheels=wheels)
        return Program(*said, cid_text(Cid(self.cid)), self.size_bytes, wheels)
