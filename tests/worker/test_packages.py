"""Functions import what they bring: installed once, read-only, without harm to anybody."""

import importlib.metadata
import json
import random
import zipfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from msgspec.structs import replace

from storage.clock import SystemClock
from tests.worker.fake_node import PATIENCE_S, FakeNode, cid_of, open_worker
from tests.worker.wheel_files import GREETING, NAME, hostile_wheels, make_wheel
from worker.child import LoadedProgram, make_attempt
from worker.packages import Packages, set_name
from worker.protocol import (
    Drain,
    Finished,
    Isolation,
    Kill,
    Lease,
    Limits,
    Program,
    Recall,
    Refused,
    Returned,
    Wheel,
)
from worker.reports import Reports
from worker.supervisor import Config as SupervisorConfig, open_supervisor
from worker.wheel_names import WheelError
from worker.wheels import unpack

pytestmark = pytest.mark.slow

GREET = "import greeting\ndef handler(input):\n    return greeting.greet()\n"
WHEEL = (NAME, make_wheel())


async def run(node: FakeNode, source: str, *wheels: tuple[str, bytes], **fields: Any) -> Finished:
    return await node.run(source, wheels=wheels, **fields)


def installed(directory: Path) -> list[Path]:
    return list(directory.glob("scratch/*/packages/*"))


async def test_a_function_imports_what_it_brings(tmp_path: Path, level: Isolation) -> None:
    async with open_worker(tmp_path, level=level, slots=2) as (node, _):
        for source in (GREET, GREET + "# another\n", GREET):
            finished = await run(node, source, WHEEL)
            assert finished.payload == b'"hello"', finished
        assert len(installed(tmp_path)) == 1, "they bring the same"
        reads = [call for call in node.calls if call.operation == "program.read"]
        assert len(reads) == 1, "a wheel is fetched once"
    assert not installed(tmp_path)


async def test_who_brings_nothing_has_nothing_of_others(tmp_path: Path, level: Isolation) -> None:
    async with open_worker(tmp_path, level=level, slots=2) as (node, _):
        assert (await run(node, GREET, WHEEL)).error_code is None
        finished = await run(node, GREET)
        assert finished.error_code == "setup_failed"
        assert "No module named 'greeting'" in finished.payload.decode()
        if level == "sandbox":
            look = "import os\ndef handler(input):\n    return os.listdir('/packages')\n"
            assert (await run(node, look)).error_code == "function_error"
            other = ("other-1-py3-none-any.whl", make_wheel({"other.py": b""}))
            seen = json.loads((await run(node, look, other)).payload)
            assert sorted(seen) == ["greeting-1.0.dist-info", "other.py"]


async def test_packages_are_read_only_in_a_sandbox(tmp_path: Path, level: Isolation) -> None:
    if level != "sandbox":
        pytest.skip("level process has no walls")
    write = (
        "import greeting, os\n"
        "def handler(input):\n"
        "    home = os.path.dirname(greeting.__file__)\n"
        "    for name in ('__init__.py', 'new.py'):\n"
        "        try:\n"
        "            open(os.path.join(home, name), 'w')\n"
        "        except OSError:\n"
        "            continue\n"
        "        return name\n"
        "    return home\n"
    )
    async with open_worker(tmp_path, level=level) as (node, _):
        assert (await run(node, write, WHEEL)).payload == b'"/packages/greeting"'


async def test_neither_edge_nor_the_standard_library_is_replaced(
    tmp_path: Path, level: Isolation
) -> None:
    files = {"json/__init__.py": b"raise SystemExit", "cbor2.py": b"brought = True\n"}
    source = (
        "import edge, json, wave, sys\n"
        "def handler(input):\n"
        "    return [json.loads('1'), hasattr(edge, 'infer'), wave.__file__.count('packages')]\n"
    )
    files["wave.py"] = b"raise SystemExit"
    async with open_worker(tmp_path, level=level) as (node, _):
        finished = await run(node, source, (NAME, make_wheel(files)))
        assert finished.payload == b"[1,true,0]", finished


async def test_what_a_function_brings_is_used_before_what_the_worker_has(
    tmp_path: Path, level: Isolation
) -> None:
    source = "import sniffio\ndef handler(input):\n    return sniffio.__version__\n"
    brought = make_wheel({"sniffio.py": b"__version__ = 'brought'\n"})
    async with open_worker(tmp_path, level=level) as (node, _):
        assert (await run(node, source)).payload != b'"brought"'
        assert (await run(node, source, (NAME, brought))).payload == b'"brought"'


async def test_what_this_package_has_loaded_for_itself_is_in_nobodys_way(
    tmp_path: Path, level: Isolation
) -> None:
    source = (
        "import cbor2, worker\ndef handler(input):\n    return [cbor2.brought, worker.brought]\n"
    )
    files = {"cbor2/__init__.py": b"brought = 1\n", "worker.py": b"brought = 2\n"}
    async with open_worker(tmp_path, level=level) as (node, _):
        finished = await run(node, source, (NAME, make_wheel(files)))
        assert finished.payload == b"[1,2]", finished


async def test_who_is_given_up_while_the_node_is_asked_keeps_nobody_waiting(
    tmp_path: Path,
) -> None:
    async with open_worker(tmp_path) as (node, _):
        node.answers = False  # as it does of an attempt that it has given up
        messages, jobs = [], []
        for _ in range(3):
            messages += node.lease(GREET, wheels=[WHEEL])
            jobs.append(node.number)
        first, second, third = jobs
        await node.say(*messages)
        await node.until(lambda: [call.job for call in node.unanswered] == [first])
        await node.say(Refused(first, first))
        await node.until(lambda: [call.job for call in node.unanswered] == [first, second])
        node.answers = True
        await node.say(Recall(second, second))
        assert (await node.finished(third)).payload == b'"hello"'
        assert node.said(Returned) == [Returned(second, second)]


async def test_a_program_that_nobody_waits_for_any_more_is_left_alone(tmp_path: Path) -> None:
    async with open_worker(tmp_path) as (node, _):
        for stop in (Kill(0, 0, "cancelled"), Recall(0, 0), Drain()):
            for is_asked in (False, True):  # at once, and while it is being asked for
                node.answers = False
                node.unanswered.clear()
                messages, job = node.lease(GREET, wheels=[WHEEL]), node.number
                order = stop if isinstance(stop, Drain) else replace(stop, job=job, fence=job)
                if is_asked:
                    await node.say(*messages)
                    await node.until(lambda: node.unanswered)
                    await node.say(order)
                else:
                    await node.say(*messages, order)
        node.answers = True
        assert (await run(node, GREET, WHEEL)).payload == b'"hello"'
        assert len(node.said(Finished)) == 1


@pytest.mark.parametrize("wrong", ["a way up", "a link", "a bomb", "no zip file", "edge"])
async def test_a_hostile_wheel_is_a_failed_setup_and_neighbours_run_on(
    tmp_path: Path, level: Isolation, wrong: str
) -> None:
    data, says = hostile_wheels()[wrong]
    async with open_worker(tmp_path, level=level, slots=2) as (node, _):
        await node.say(*node.lease(wheels=[(NAME, data)]))
        bad = node.number
        good = await run(node, GREET, WHEEL)
        finished = await node.finished(bad)
        assert finished.error_code == "setup_failed"
        assert says in finished.payload.decode()
        assert good.payload == b'"hello"'
        assert len(installed(tmp_path)) == 1
        assert (await run(node, GREET, WHEEL)).payload == b'"hello"'


async def test_a_wheel_that_is_not_what_was_deployed_is_a_failed_setup(
    tmp_path: Path, level: Isolation
) -> None:
    async with open_worker(tmp_path, level=level) as (node, _):
        messages = node.lease(GREET, wheels=[WHEEL])
        node.wheels[node.programs[node.number]][0] = bytes(len(WHEEL[1]))
        await node.say(*messages)
        finished = await node.finished(node.number)
        assert finished.error_code == "setup_failed"
        assert finished.payload == b"its wheels cannot be had: content_corrupt"


@pytest.mark.parametrize(
    ("wheel", "says"),
    [
        (Wheel(cid_of(b""), 0, "../greeting"), "is not a wheel's name"),
        (Wheel("../../escape", 0, NAME), "has no CID"),
        (Wheel(cid_of(b""), 1 << 40, NAME), "bytes"),
    ],
)
async def test_a_node_that_names_nonsense_is_a_failed_setup(
    tmp_path: Path, wheel: Wheel, says: str
) -> None:
    async with open_worker(tmp_path) as (node, _):
        program, lease = node.lease(GREET)
        await node.say(replace(program, wheels=[wheel]), lease)  # type: ignore[call-arg]
        finished = await node.finished(node.number)
        assert finished.error_code == "setup_failed"
        assert says in finished.payload.decode()
        assert (await run(node, GREET, WHEEL)).payload == b'"hello"'


async def test_inside_webassembly_there_is_no_place_for_wheels(tmp_path: Path) -> None:
    module = '(module (memory (export "memory") 1) (func (export "_start")))'
    async with open_worker(tmp_path) as (node, _):
        finished = await run(node, module, WHEEL, runtime="wasm")
        assert finished.error_code == "setup_failed"
        assert "for native Python" in finished.payload.decode()


def wheel_of(distribution: str) -> tuple[str, bytes]:
    """Return a wheel made of an installed distribution, compiled files and all."""
    found = importlib.metadata.distribution(distribution)
    files = {
        str(path): Path(path.locate()).read_bytes()  # type: ignore[arg-type]
        for path in found.files or []
        if ".." not in path.parts and "__pycache__" not in path.parts
        if ".dist-info" not in str(path)
    }
    name = f"{distribution}-{found.version}"
    tag = next(
        line.removeprefix("Tag: ")
        for line in (found.read_text("WHEEL") or "").splitlines()
        if line.startswith("Tag: ")
    )
    return f"{name}-{tag}.whl", make_wheel(files, home=f"{name}.dist-info")


async def test_a_real_compiled_package_runs_from_its_wheel(
    tmp_path: Path, level: Isolation
) -> None:
    pytest.importorskip("numpy")
    source = (
        "import numpy\n"
        "def handler(input):\n"
        "    return [int(numpy.arange(4).sum()), numpy.__file__.count('/packages/')]\n"
    )
    wheel = wheel_of("numpy")
    async with open_worker(tmp_path, level=level) as (node, _):
        for _ in range(2):
            finished = await run(node, source, wheel, limits=Limits(memory_bytes=4 << 30))
            assert finished.payload == b"[6,1]", finished


async def test_the_least_recently_used_set_that_nobody_needs_goes(tmp_path: Path) -> None:
    needed: list[str] = []

    async def apart(named: Sequence[tuple[str, str]], target: Path) -> str:
        try:
            unpack(named, target)
        except WheelError as error:
            return str(error)
        return ""

    def wheel(number: int) -> tuple[Wheel, Path]:
        data = make_wheel(GREETING | {f"filling_{number}.py": bytes(1 << 20)})
        path = tmp_path / f"{number}"
        path.write_bytes(data)
        return Wheel(cid_of(data), len(data), NAME), path

    packages = Packages(tmp_path / "packages", lambda: needed, size_max_bytes=5 << 19)
    with trio.fail_after(PATIENCE_S):
        made = [wheel(number) for number in range(5)]
        one, two = [await packages.install([w], [p], apart) for w, p in made[:2]]
        assert packages.holds(one)
        three = await packages.install([made[2][0]], [made[2][1]], apart)
        assert [packages.holds(path) for path in (one, two, three)] == [True, False, True]
        needed = [one, three]
        with pytest.raises(WheelError, match="leaves no room"):
            await packages.install([made[3][0]], [made[3][1]], apart)
        assert packages.holds(one)
        assert packages.holds(three)
        needed = [three]
        four = await packages.install([made[3][0]], [made[3][1]], apart)
        assert {str(path) for path in (tmp_path / "packages").iterdir()} == {three, four}


async def test_a_set_that_a_job_begins_with_while_another_goes_stays(tmp_path: Path) -> None:
    place = tmp_path / "packages"
    seen: list[bool] = []

    def in_use() -> list[str]:
        seen.append(packages.holds(str(place / set_name([new]))))
        # A job has begun with the second while the first was being removed.
        return [] if (place / first).exists() else [second]

    async def apart(named: Sequence[tuple[str, str]], target: Path) -> str:
        unpack(named, target)
        return ""

    packages = Packages(place, in_use, size_max_bytes=3 << 20)
    with trio.fail_after(PATIENCE_S):
        sets = []
        for number, size in enumerate((1 << 20, 1 << 20, 2 << 20)):
            filling = random.Random(number).randbytes(size)
            data = make_wheel(GREETING | {f"filling_{number}.py": filling})
            path = tmp_path / f"{number}"
            path.write_bytes(data)
            sets.append((Wheel(cid_of(data), len(data), NAME), path))
        one, two, (new, file) = sets
        first = Path(await packages.install([one[0]], [one[1]], apart)).name
        second = Path(await packages.install([two[0]], [two[1]], apart)).name
        with pytest.raises(WheelError, match="leaves no room"):
            await packages.install([new], [file], apart)
    assert [path.name for path in place.iterdir()] == [second]
    assert seen
    assert not any(seen), "a set that may have to go at once is nobody's to begin with"


async def test_what_waiting_jobs_bring_is_in_use(tmp_path: Path) -> None:
    program = LoadedProgram(Program("1.1", "python", "handler", b"", []), packages="/packages/1")
    lease = Lease(1, 1, 1, "1.1", b"null", {}, Limits(), "process", None)
    config = SupervisorConfig(slots=1, scratch=tmp_path)
    async with open_supervisor(config, cast("Reports", None), SystemClock()) as supervisor:
        assert supervisor.packages() == []
        supervisor.submit(make_attempt(lease, program))
        assert supervisor.packages() == ["/packages/1"]


def test_a_wheel_made_here_is_a_zip_file_to_others() -> None:
    assert zipfile.ZipFile(BytesIO(WHEEL[1])).testzip() is None
