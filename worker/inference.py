"""Models run on whatever the worker's hardware offers: the one home of onnxruntime.

Runs in the function's process, loaded by path when `edge.infer` is first called, so that programs
without models pay nothing; run as a program it prints the backends of this machine, which is how
the agent measures them without importing onnxruntime itself.

A session is made once for each model (by its CID) and kept while the process is warm.  Backends
are tried in the worker's order; onnxruntime falls back along it by itself.
"""

from __future__ import annotations

import json
import sys
from collections import OrderedDict

import numpy
import onnxruntime  # type: ignore[import-untyped]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

SESSIONS_MAX = 4
"""Models kept loaded in one process. Source: guess."""

THREADS_MAX = 0
"""Threads of one inference; 0 lets onnxruntime choose (one a core)."""

NUMBER_TYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int8)": "int8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16",
    "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64",
    "tensor(bool)": "bool",
}
"""ONNX element types -> numpy's."""

REMOTE_BACKENDS = frozenset({"AzureExecutionProvider"})
"""Backends that call somebody else's computer, which is not this worker's hardware."""


def backends() -> list[str]:
    """Return the execution providers of this machine, best first."""
    available = onnxruntime.get_available_providers()
    return [name for name in available if name not in REMOTE_BACKENDS]


class Engine:
    """Loaded models of one process."""

    def __init__(self, providers: list[str]) -> None:
        self._providers = providers
        self._sessions: OrderedDict[str, onnxruntime.InferenceSession] = OrderedDict()

    def run(
        self, cid: str, path: str, inputs: Mapping[str, Any], strict: bool
    ) -> tuple[dict[str, Any], str]:
        """Run the model in file `path`; return name -> array, and the backend that ran it.

        Raises `LookupError` when `strict` and the best backend did not take the model, and
        `ValueError` for inputs that the model does not have.
        """
        session = self._session(cid, path)
        backend = session.get_providers()[0]
        if strict and self._providers and backend != self._providers[0]:
            raise LookupError(f"{self._providers[0]} did not take the model, {backend} did")
        types = {node.name: node.type for node in session.get_inputs()}
        unknown = sorted(set(inputs) - set(types))
        if unknown:
            raise ValueError(f"the model has no input {unknown}: it has {sorted(types)}")
        feed = {name: _array(value, types[name]) for name, value in inputs.items()}
        names = [node.name for node in session.get_outputs()]
        return dict(zip(names, session.run(names, feed), strict=True)), str(backend)

    def inputs(self, cid: str, path: str) -> dict[str, tuple[str, list[Any]]]:
        """Return a model's inputs: name -> numpy's name of the element type, and the shape.

        A dimension that the model leaves open is no integer.
        """
        nodes = self._session(cid, path).get_inputs()
        return {node.name: (NUMBER_TYPES.get(node.type, ""), list(node.shape)) for node in nodes}

    def tensor(
        self, data: bytes, element: str, model_shape: list[Any], shape: list[int] | None
    ) -> Any:
        """Return an array of raw little-endian numbers. Raises `ValueError`."""
        if not element:
            raise ValueError("this input is not of numbers")
        if shape is None:
            # One open dimension follows from the size.
            shape = [size if isinstance(size, int) else -1 for size in model_shape]
        values = numpy.frombuffer(data, numpy.dtype(element).newbyteorder("<"))
        return values.reshape(shape)

    def _session(self, cid: str, path: str) -> onnxruntime.InferenceSession:
        session = self._sessions.get(cid)
        if session is None:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = THREADS_MAX
            options.log_severity_level = 3
            # Threads that spin after each run would take the cores from the worker itself.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            session = onnxruntime.InferenceSession(
                path, options, providers=self._providers or backends()
            )
            while len(self._sessions) >= SESSIONS_MAX:
                self._sessions.popitem(last=False)
            self._sessions[cid] = session
        self._sessions.move_to_end(cid)
        return session


def _array(value: Any, element: str) -> Any:
    """Return `value` as the array type that the model takes; strings stay as they are."""
    number = NUMBER_TYPES.get(element)
    if number is None:
        return numpy.asarray(value)
    return numpy.asarray(value, dtype=number)


if __name__ == "__main__":
    json.dump(backends(), sys.stdout)
