"""What the nodes of a World are told, and where their rows are: the scenario's word, or ours."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from peernode.config import Config, ConfigError
from simulations.errors import ScenarioError
from simulations.scenario import Scenario
from simulations.virtual_disk import open_lmdb
from storage.store import Store

CONFIG: Final = Config(
    workers=0,
    signup="open",
    isolation="process",
    log_level="error",
    # Passwords are not what is studied: the least that argon2id takes.
    password_memory_bytes=8192,
    password_passes=1,
)
"""What nodes of a World are told unless the scenario says otherwise."""
IN_MEMORY: Final = Path("/dev/shm")  # noqa: S108  (only a directory of our own in it is used)


def config_of(scenario: Scenario) -> Config:
    """Return the settings of a scenario's nodes. Raises `ScenarioError`."""
    values = msgspec.to_builtins(CONFIG, enc_hook=str) | scenario.node
    try:
        config = msgspec.convert(values, Config, dec_hook=lambda kind, value: kind(value))
        config.check()
    except (msgspec.ValidationError, ConfigError) as error:
        raise ScenarioError("node", str(error)) from error
    return config


@contextmanager
def open_backing(scenario: Scenario) -> Iterator[Callable[[int], Callable[[], Store]] | None]:
    """Own where rows are: what opens those of a node; `None`: in memory."""
    if scenario.store == "memory":
        yield None
        return
    # Whoever names a directory for such files wants to clear them away, whatever happens to us.
    parent = IN_MEMORY if "TMPDIR" not in os.environ and IN_MEMORY.is_dir() else None
    directory = Path(tempfile.mkdtemp(prefix="peernode-world-", dir=parent))
    try:
        yield lambda number: lambda: open_lmdb(directory / str(number))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
