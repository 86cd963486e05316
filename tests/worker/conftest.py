"""What tests of the worker share: the isolation levels and backends that this machine has."""

from importlib.util import find_spec

import pytest

from tests.worker.levels import missing_sandbox
from worker.protocol import Isolation


@pytest.fixture(params=["process", "sandbox"])
def level(request: pytest.FixtureRequest) -> Isolation:
    """Each level of native functions, one after another."""
    wanted: Isolation = request.param
    if wanted == "sandbox" and (missing := missing_sandbox()):
        pytest.skip(missing)
    return wanted


@pytest.fixture(params=["CPUExecutionProvider", "OpenVINO"])
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend that any machine can have, one after another."""
    package = {"CPUExecutionProvider": "onnxruntime", "OpenVINO": "openvino"}[request.param]
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    return str(request.param)
