"""What tests of the worker share: the isolation levels and backends that this machine has."""

import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

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


@pytest.fixture
def open_path() -> Iterator[Path]:
    """Return a directory of this test's that every user of the machine may enter and change."""
    with tempfile.TemporaryDirectory(prefix="peernode-", ignore_cleanup_errors=True) as made:
        path = Path(made)
        path.chmod(0o777)
        yield path
