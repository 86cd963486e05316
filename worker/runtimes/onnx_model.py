"""A model alone as a function: the input names its tensors, the result does.

`{"NAME": nested lists}`; a tensor may be a blob of raw little-endian numbers in the model's own
element type, whose shape is the model's where that is fixed and `{"blob": ID, "shape": [...]}`
says otherwise.  Outputs are nested lists; one of more than `OUTPUT_LENGTH_MAX` numbers is stored as
a blob of raw numbers and named `{"blob": ID, "dtype": ..., "shape": ...}`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

OUTPUT_LENGTH_MAX = 10_000
"""Most numbers of an output as JSON. Source: about 100 KB of text."""


def load(runtime: Any) -> Any:
    """Return what runs the model for each job."""
    return runtime.handling.Function(runtime.edge, runtime.program, lambda: _handler(runtime))


def _handler(runtime: Any) -> Callable[[Any], Any]:
    edge, engine = runtime.edge, runtime.engine()
    model = runtime.artifact
    try:
        wanted = engine.inputs(model, model)
    except LookupError as error:
        raise runtime.handling.Ended("backend_unavailable", str(error.args[0])) from None

    def tensor(name: str, value: Any) -> Any:
        shape = None
        if isinstance(value, dict) and set(value) == {"blob", "shape"}:
            value, shape = edge.blob(value["blob"]), value["shape"]
        if not isinstance(value, edge.Blob):
            return value
        if name not in wanted:
            return []  # refused by name when it is run
        return engine.tensor(value.bytes(), *wanted[name], shape)

    def handler(given: Any) -> Any:
        if not isinstance(given, dict):
            raise TypeError(f"the input names tensors: {{{', '.join(sorted(wanted))}}}")
        session = edge.running()
        inputs = {name: tensor(name, value) for name, value in given.items()}
        outputs, session.backend = engine.run(model, model, inputs, False)
        return {name: _leaving(edge, value) for name, value in outputs.items()}

    return handler


def _leaving(edge: Any, value: Any) -> Any:
    if value.size <= OUTPUT_LENGTH_MAX or value.dtype.name == "object":
        return value
    stored = edge.put_blob(value.tobytes())
    return {"blob": stored.id, "dtype": value.dtype.name, "shape": list(value.shape)}
