"""Python at level `wasm` is offered when it is there, and nothing waits for it."""

import fcntl
import shutil
from pathlib import Path

import pytest

from tests.worker.fake_node import ECHO, open_worker
from tests.worker.wasm_programs import interpreter
from worker import wasm
from worker.protocol import Hello, Limits

pytestmark = pytest.mark.slow


async def test_a_worker_offers_it_as_soon_as_it_is_there(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    wasm.make_directory(cache)
    path = cache / "python-test"
    with path.with_suffix(".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as if another worker were building it
        async with open_worker(tmp_path / "worker", interpreter=path) as (node, _):
            hello = node.hello
            assert isinstance(hello, Hello)
            assert hello.offer.levels["python"] == ["process"]
            assert (await node.run(ECHO, 1)).payload == b"1", "it works meanwhile"
            refused = await node.run(ECHO, 1, isolation="wasm")
            assert refused.error_code == "setup_failed"
            long = node.lease("import time\ndef handler(x):\n    time.sleep(0.5)\n    return 1\n")
            await node.say(*long)
            job = node.number
            shutil.copy(interpreter(), path)
            path.chmod(0o400)
            fcntl.flock(lock, fcntl.LOCK_UN)
            await node.until(lambda: node.hellos == 2)
            again = node.hello
            assert isinstance(again, Hello)
            assert again.offer.levels["python"] == ["process", "wasm"]
            assert (await node.finished(job)).payload == b"1", "what ran goes on"
            assert (await node.run(ECHO, 2, isolation="wasm")).payload == b"2"


async def test_one_that_others_can_write_is_not_offered(tmp_path: Path) -> None:
    path = tmp_path / "python-test"
    shutil.copy(interpreter(), path)
    path.chmod(0o666)
    settings = {"interpreter": path, "reconnects": False}  # so that it is not built anew
    async with open_worker(tmp_path / "worker", **settings) as (node, _):
        assert node.hello is not None
        assert "wasm" not in node.hello.offer.levels["python"]


async def test_a_file_that_turns_bad_while_it_is_offered_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "python-test"
    shutil.copy(interpreter(), path)
    path.chmod(0o400)
    async with open_worker(tmp_path / "worker", interpreter=path) as (node, _):
        assert (await node.run(ECHO, 1, isolation="wasm")).payload == b"1"
        path.chmod(0o622)
        finished = await node.run(ECHO, 1, isolation="wasm", limits=Limits(processes=3))
        assert finished.error_code == "setup_failed"
        assert b"not trusted" in finished.payload


def test_its_name_changes_with_what_it_is_made_of() -> None:
    names = {wasm.key(b"a"), wasm.key(b"b"), wasm.key(b"a", b""), wasm.key(b"", b"a")}
    assert len(names) == 4
    assert wasm.key(b"a") == wasm.key(b"a")


def test_directories_of_others_are_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(PermissionError):
        wasm.make_directory(tmp_path / "link")
