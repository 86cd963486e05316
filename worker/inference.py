"""Models run on whatever the worker's hardware offers: the one home of onnxruntime and OpenVINO.

Runs in the function's process, loaded by path when `edge.infer` is first called, so that programs
without models pay nothing; run as a program it prints the backends of this machine, which is how
the agent measures them without importing an engine itself.

A backend is an execution provider of onnxruntime, by its own name, or OpenVINO: `OpenVINO` is its
CPU, `OpenVINO:GPU` and so on its other devices.  They are tried in the worker's order, and the
first that takes a model runs it from then on: a model is loaded once (by its CID) and kept while
the process is warm.  An engine is imported when its turn comes.

Each computes at the precision that the model states, so that the same model says the same on all
of them within the noise of its numbers.  OpenVINO would by itself calculate in bfloat16 where a
processor has that: twice as fast, and a score wrong by 0.002.  What it cannot do is 64 bits: its
CPU takes `int64` as `int32`, and `double` as `float`.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections import OrderedDict

import numpy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Protocol

    class Model(Protocol):
        """A loaded model."""

        @property
        def backend(self) -> str:
            """What runs it."""

        @property
        def inputs(self) -> dict[str, tuple[str, list[Any]]]:
            """Name -> numpy's name of the element type or "", and the shape.

            A dimension that the model leaves open is no integer.
            """

        def run(self, feed: dict[str, Any]) -> dict[str, Any]:
            """Return the outputs."""


SESSIONS_MAX = 4
"""Models kept loaded in one process. Source: guess."""

THREADS_MAX = 0
"""Threads of one inference; 0 lets the engine choose (one a core)."""

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

OPENVINO_TYPES = {
    "f32": "float32",
    "f64": "float64",
    "f16": "float16",
    "i8": "int8",
    "i16": "int16",
    "i32": "int32",
    "i64": "int64",
    "u8": "uint8",
    "u16": "uint16",
    "u32": "uint32",
    "u64": "uint64",
    "boolean": "bool",
}
"""OpenVINO's element types -> numpy's."""

CPU = "CPUExecutionProvider"
OPENVINO = "OpenVINO"

REMOTE_BACKENDS = frozenset({"AzureExecutionProvider"})
"""Backends that call somebody else's computer, which is not this worker's hardware."""

OPENVINO_SETTINGS = {"PERFORMANCE_HINT": "LATENCY", "EXECUTION_MODE_HINT": "ACCURACY"}
"""One inference at a time, at the model's own precision."""

OPENVINO_CPU_SETTINGS = {"ENABLE_CPU_PINNING": False, "INFERENCE_NUM_THREADS": THREADS_MAX}
"""Not pinned: processes that all pin to the first cores would leave the others idle."""


def backends() -> list[str]:
    """Return the backends of this machine, best first: accelerators, then those of the CPU.

    Source of the order on a CPU: the face model takes onnxruntime 41 ms and OpenVINO 46 on one
    core, and the former keeps 64-bit numbers.
    """
    found = [] if (runtime := _onnxruntime()) is None else runtime.get_available_providers()
    found = [name for name in found if name not in REMOTE_BACKENDS]
    devices = [] if (openvino := _openvino()) is None else openvino.Core().available_devices
    named = [OPENVINO if device == "CPU" else f"{OPENVINO}:{device}" for device in devices]
    # Sorting keeps each engine's own order.
    return sorted([*found, *named], key=lambda name: (name == OPENVINO, name == CPU))


def _onnxruntime() -> Any:
    try:
        import onnxruntime  # type: ignore[import-untyped]
    except ImportError:
        return None
    return onnxruntime


def _openvino() -> Any:
    # Its converter of other formats is not wanted: it is half of the import, and brings a sender
    # of usage statistics along.  Without it the rest works, so it is missing while that is loaded.
    unwanted = "openvino.tools.ovc"
    fresh = "openvino" not in sys.modules
    if fresh:
        sys.modules[unwanted] = None  # type: ignore[assignment]
    try:
        import openvino  # type: ignore[import-untyped]
    except ImportError:
        return None
    finally:
        if fresh:
            del sys.modules[unwanted]
    return openvino


class Engine:
    """Loaded models of one process."""

    def __init__(self, order: list[str], threads: int = THREADS_MAX) -> None:
        """`order`: the worker's backends, best first; empty: all of this machine."""
        self._order = order
        self._threads = threads
        self._models: OrderedDict[str, Model] = OrderedDict()

    def run(
        self, cid: str, path: str, inputs: Mapping[str, Any], strict: bool
    ) -> tuple[dict[str, Any], str]:
        """Run the model in file `path`; return name -> array, and the backend that ran it.

        Raises `LookupError` when no backend took the model, or, when `strict`, the best did not,
        and `ValueError` for inputs that the model does not have.
        """
        model = self._model(cid, path)
        self._check(model, strict)
        known = model.inputs
        unknown = sorted(set(inputs) - set(known))
        if unknown:
            raise ValueError(f"the model has no input {unknown}: it has {sorted(known)}")
        outputs = model.run({name: _array(value, known[name][0]) for name, value in inputs.items()})
        self._check(model, strict)  # onnxruntime may change over while it runs
        return outputs, model.backend

    def inputs(self, cid: str, path: str) -> dict[str, tuple[str, list[Any]]]:
        """Return a model's inputs: name -> numpy's name of the element type, and the shape.

        A dimension that the model leaves open is no integer.
        """
        return self._model(cid, path).inputs

    def tensor(
        self,
        data: bytes | memoryview,
        element: str,
        model_shape: list[Any],
        shape: list[int] | None,
    ) -> Any:
        """Return an array of raw little-endian numbers. Raises `ValueError`."""
        if not element:
            raise ValueError("this input is not of numbers")
        if shape is None:
            # One open dimension follows from the size.
            shape = [size if isinstance(size, int) else -1 for size in model_shape]
        values = numpy.frombuffer(data, numpy.dtype(element).newbyteorder("<"))
        return values.reshape(shape)

    def _check(self, model: Model, strict: bool) -> None:
        if strict and self._order and model.backend != self._order[0]:
            raise LookupError(f"{self._order[0]} did not take the model, {model.backend} did")

    def _model(self, cid: str, path: str) -> Model:
        model = self._models.get(cid)
        if model is None:
            model = load(path, self._order or backends(), self._threads)
            while len(self._models) >= SESSIONS_MAX:
                self._models.popitem(last=False)
            self._models[cid] = model
        self._models.move_to_end(cid)
        return model


def load(path: str, order: list[str], threads: int = THREADS_MAX) -> Model:
    """Return the model in file `path` on the first backend of `order` that takes it.

    Raises what the last engine said of it, or `LookupError` when there was none to ask.
    """
    told: Exception = LookupError(f"none of {', '.join(order)} took the model")
    # Providers that stand together are for onnxruntime to share a model among.
    for openvino, group in itertools.groupby(order, key=_is_openvino):
        names = list(group)
        for some in [[name] for name in names] if openvino else [names]:
            try:
                if openvino:
                    return OpenvinoModel(path, some[0])
                return OnnxruntimeModel(path, some, threads)
            except Exception as error:  # noqa: BLE001  (engines raise anything)
                if not isinstance(error, LookupError):
                    told = error
    raise told


def _is_openvino(backend: str) -> bool:
    return backend.partition(":")[0] == OPENVINO


class OnnxruntimeModel:
    """A model in onnxruntime, which by itself falls back along its providers."""

    def __init__(self, path: str, providers: list[str], threads: int = THREADS_MAX) -> None:
        """Raises `LookupError` when no provider took it, and whatever onnxruntime raises."""
        runtime = _onnxruntime()
        here = [] if runtime is None else runtime.get_available_providers()
        here = [name for name in providers if name in here]
        refused = LookupError(f"{', '.join(providers)} did not take the model")
        if not here:
            raise refused
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Threads that spin after each run would take the cores from the worker itself.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = runtime.InferenceSession(path, options, providers=here)
        if self.backend not in here:  # the CPU takes what is left, asked or not
            raise refused
        nodes = self._session.get_inputs()
        self.inputs = {
            node.name: (NUMBER_TYPES.get(node.type, ""), list(node.shape)) for node in nodes
        }
        self._outputs = [node.name for node in self._session.get_outputs()]

    @property
    def backend(self) -> str:
        """The provider that comes first now."""
        return str(self._session.get_providers()[0])

    def run(self, feed: dict[str, Any]) -> dict[str, Any]:
        """Return the outputs by their names."""
        return dict(zip(self._outputs, self._session.run(self._outputs, feed), strict=True))


class OpenvinoModel:
    """A model compiled for one device of OpenVINO."""

    def __init__(self, path: str, backend: str) -> None:
        """Raises `LookupError` when OpenVINO is not here, and whatever it raises."""
        openvino = _openvino()
        if openvino is None:
            raise LookupError("OpenVINO is not installed")
        self.backend = backend
        device = backend.partition(":")[2] or "CPU"
        # Not `read_model`, which would take other formats too, and look at the file's name.
        front = openvino.frontend.FrontEndManager().load_by_framework("onnx")
        model = front.convert(front.load(path))
        self.inputs = {_name(port): _form(port) for port in model.inputs}
        self._outputs = [_name(port) for port in model.outputs]
        settings = OPENVINO_SETTINGS | (OPENVINO_CPU_SETTINGS if device == "CPU" else {})
        self._request = (
            openvino.Core().compile_model(model, device, settings).create_infer_request()
        )

    def run(self, feed: dict[str, Any]) -> dict[str, Any]:
        """Return the outputs by their names. Raises `ValueError` for an input that is missing."""
        missing = sorted(set(self.inputs) - set(feed))
        if missing:  # it would take what the last run had
            raise ValueError(f"the input {missing} is missing")
        results = self._request.infer([feed[name] for name in self.inputs])
        return dict(zip(self._outputs, results.to_tuple(), strict=True))


def _name(port: Any) -> str:
    """Return what ONNX calls an input or output, which may have other names here besides."""
    name = str(port.node.friendly_name).removesuffix("/sink_port_0")
    return name if name in port.names else str(port.any_name)


def _form(port: Any) -> tuple[str, list[Any]]:
    """Return an input's element type and shape."""
    number = OPENVINO_TYPES.get(port.element_type.get_type_name(), "")
    return number, [
        size.get_length() if size.is_static else str(size) for size in port.partial_shape
    ]


def _array(value: Any, element: str) -> Any:
    """Return `value` as the array type that the model takes; strings stay as they are."""
    return numpy.asarray(value, dtype=element) if element else numpy.asarray(value)


if __name__ == "__main__":
    json.dump(backends(), sys.stdout)
