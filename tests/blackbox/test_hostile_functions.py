"""Functions that do what none should, through the front door.

Each ends in its own state, in time, and the next job on the same worker does not notice.
"""

import math
import time
from datetime import datetime
from typing import Any

import pytest

from tests.blackbox.conftest import Lab
from tests.blackbox.daemon import Daemon, expect, refused

pytestmark = pytest.mark.slow

LATE_MAX_S = 2.0
"""How much later than its limit a job may end."""
MEBIBYTE = 1 << 20


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory):
    """A node with one slot, so that the next job is on the same worker and waits for the last."""
    with Daemon(tmp_path_factory.mktemp("hostile") / "data", workers=1) as daemon:
        mallory = daemon.sign_up("mallory")
        project = mallory.project("lab")
        source = "def handler(input):\n    return input\n"
        yield Lab(mallory, project, mallory.deploy(project, "echo", source))
        assert "Traceback" not in daemon.log.read_text()


class Run:
    """A job that has ended, and how long that took."""

    def __init__(self, lab: Lab, body: str, **terms: Any) -> None:
        source = "def handler(input):\n" + "".join(f"    {line}\n" for line in body.splitlines())
        name = f"f{time.monotonic_ns()}"
        function = lab.person.deploy(lab.project, name, source)
        self.job = lab.person.run(function, wait_s=60, **terms)
        ran_s = 0.0
        if self.job["started_at"] is not None:
            started = datetime.fromisoformat(self.job["started_at"])
            ran_s = (datetime.fromisoformat(self.job["finished_at"]) - started).total_seconds()
        self.ran_s = ran_s
        after = lab.person.run(lab.echo, "next")
        assert (after["state"], after["result"]) == ("succeeded", "next")
        assert after["attempt"] == 1

    def failed(self, *codes: str) -> str:
        """Check that it failed with one of `codes`, and return the message."""
        late = self.job["error"]["code"] in ("run_timeout", "heartbeat_timeout")
        assert self.job["state"] == ("expired" if late else "failed"), self.job
        assert self.job["error"]["code"] in codes, self.job["error"]
        assert self.job["result"] is None
        return str(self.job["error"]["message"])


@pytest.mark.parametrize(
    "body",
    [
        "while True: pass",
        "import time\ntime.sleep(3600)",
        "import signal\nfor n in range(1, 32):\n    try: signal.signal(n, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\nwhile True: pass",
        "try:\n    while True: pass\nexcept BaseException:\n    while True: pass",
        "import os\nif os.fork() == 0:\n    os.setsid()\nwhile True: pass",
        "import re\nre.match('(a+)+$', 'a' * 64 + 'b')",
        "9 ** 9 ** 9",
    ],
)
def test_what_runs_for_ever_ends_at_its_limit(hostile, body):
    run = Run(hostile, body, limits={"run_s": 0.5})
    run.failed("run_timeout")
    assert 0.4 < run.ran_s < 0.5 + LATE_MAX_S


def test_what_shows_no_sign_of_life_ends_at_its_limit(hostile):
    body = "import time, edge\nedge.progress(0.1, 'on it')\ntime.sleep(3600)"
    run = Run(hostile, body, limits={"heartbeat_s": 0.5})
    run.failed("heartbeat_timeout")
    assert run.ran_s < 0.5 + LATE_MAX_S
    assert run.job["progress"] == {"fraction": 0.1, "message": "on it"}


@pytest.mark.parametrize(
    "body",
    [
        "held = []\nwhile True: held.append(bytearray(1 << 20))",
        "return len(bytearray(1 << 40))",
        "return len('x' * (1 << 36))",
        "import os, time\nwhile True:\n    if os.fork() == 0:\n"
        "        held = bytearray(b'x') * (60 << 20)\n        time.sleep(60)",
    ],
)
def test_memory_has_a_limit(hostile, body):
    limits = {"memory_bytes": 256 * MEBIBYTE, "run_s": 30, "processes": 8}
    run = Run(hostile, body, limits=limits)
    run.failed("memory_limit", "process_limit")
    assert run.ran_s < 10


@pytest.mark.parametrize(
    "body",
    [
        "import os\nwhile True: os.fork()",
        "import threading, time\nfor _ in range(20):\n    import os\n    if os.fork() == 0:\n"
        "        os.setsid()\n        time.sleep(600)\ntime.sleep(600)",
        "import os, time\nwhile True:\n    if os.fork() == 0:\n        os.setsid()\n"
        "        if os.fork(): os._exit(0)\n",
    ],
)
def test_processes_have_a_limit(hostile, body):
    run = Run(hostile, body, limits={"processes": 8, "run_s": 20})
    run.failed("process_limit")
    assert run.ran_s < 20


@pytest.mark.parametrize(
    "body",
    [
        "line = 'x' * 99\nwhile True: print(line)",
        "import sys\nwhile True: sys.stderr.buffer.write(b'x' * (1 << 20))",
        "import os\nwhile True: os.write(1, b'x' * (1 << 20))",
        "with open('endless', 'wb') as file:\n    while True: file.write(b'x' * (1 << 20))",
    ],
)
def test_output_has_a_limit(hostile, body):
    run = Run(hostile, body, limits={"output_bytes": 4 * MEBIBYTE, "run_s": 30})
    message = run.failed("output_limit", "function_error")
    if run.job["error"]["code"] == "function_error":
        assert "File too large" in message
    assert run.ran_s < 30
    lines = expect(hostile.http.get(f"/job/{run.job['id']}/logs"))["items"]
    assert sum(len(line["text"]) for line in lines) < 2 * MEBIBYTE


def test_ten_gigabytes_of_output_end_early(hostile):
    body = "import os\nfor _ in range(10 * 1024):\n    os.write(1, b'x' * (1 << 20))"
    run = Run(hostile, body)
    run.failed("output_limit")


def test_binary_output_is_kept_as_text(hostile):
    body = "import sys\nsys.stdout.buffer.write(bytes(range(256)) * 4 + b'\\nend\\n')\nreturn 1"
    run = Run(hostile, body)
    assert run.job["result"] == 1
    lines = expect(hostile.http.get(f"/job/{run.job['id']}/logs"))["items"]
    assert lines[-1]["text"] == "end"
    text = hostile.http.get(f"/job/{run.job['id']}/logs", headers={"Accept": "text/plain"})
    assert text.text.splitlines()[-1] == "end"


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("raise ValueError('boom')", "boom"),
        ("raise type('Lambda', (Exception,), {'f': lambda s: s})(lambda: 1)", "Lambda"),
        (
            "class E(Exception):\n    def __str__(self): raise RuntimeError('no')\nraise E()",
            "exception",
        ),
        (
            "class E(Exception):\n    def __str__(self): return 'x' * (50 << 20)\nraise E()",
            "x",
        ),
        ("raise ValueError('\\ud800 \\x00 \\u202e')", "ValueError"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise BaseException('base')", "base"),
        ("raise StopIteration", "StopIteration"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("raise ExceptionGroup('many', [ValueError(n) for n in range(1000)])", "many"),
        ("def deeper(n): return deeper(n + 1)\nreturn deeper(0)", "RecursionError"),
        ("import missing_module", "missing_module"),
        ("return input['nothing']", "TypeError"),
        ("import sys\nsys.exit(3)", ""),
        ("raise SystemExit('bye')", ""),
    ],
)
def test_an_error_is_told_whatever_it_is(hostile, body, wanted):
    run = Run(hostile, body)
    message = run.failed("function_error", "exited")
    assert wanted in message
    assert len(message) <= 64 * 1024
    assert len(run.job["error"].get("traceback") or "") <= 64 * 1024


@pytest.mark.parametrize(
    "body",
    [
        "import os\nos._exit(7)",
        "import os, signal\nsignal.raise_signal(signal.SIGSEGV)\nos._exit(1)",
        "import os\nos.abort()",
        "import ctypes\nctypes.string_at(0)",
        "import os\nos.close(0)\nos.closerange(3, 1024)\nos._exit(0)",
        "import os\nos.execv('/bin/true', ['true'])",
        "import sys\nsys.setrecursionlimit(10 ** 9)\ndef f(x): return f([x])\nf(0)",
    ],
)
def test_a_process_that_ends_itself_is_told_so(hostile, body):
    run = Run(hostile, body, limits={"run_s": 20, "memory_bytes": 512 * MEBIBYTE})
    run.failed("exited", "memory_limit", "function_error")
    assert run.ran_s < 20


@pytest.mark.parametrize(
    "value",
    [
        "float('nan')",
        "float('inf')",
        "[1, {'a': float('-inf')}]",
        "{1, 2}",
        "object()",
        "lambda: 1",
        "type",
        "1j",
        "{(1, 2): 3}",
        "'\\ud800'",
        "{'\\udead': 1}",
        "__import__('functools').reduce(lambda held, _: [held], range(1000), 0)",
        "(lambda held: held.append(held) or held)([])",
    ],
)
def test_a_result_that_is_no_json_is_refused(hostile, value):
    run = Run(hostile, f"return {value}")
    run.failed("result_invalid", "function_error")


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("None", None),
        ("0.1 + 0.2", 0.1 + 0.2),
        ("5e-324", 5e-324),
        ("'\\x00\\u2028</script>'", "\x00\u2028</script>"),
        ("{'': [[], {}]}", {"": [[], {}]}),
        ("(1, 2)", [1, 2]),
        ("True", True),
        ("2 ** 63", 2**63),
        ("-(2 ** 200)", -(2**200)),
    ],
)
def test_a_result_that_is_json_comes_back(hostile, value, wanted):
    run = Run(hostile, f"return {value}")
    assert run.job["state"] == "succeeded", run.job["error"]
    assert run.job["result"] == wanted
    if isinstance(wanted, float):
        assert math.isfinite(run.job["result"])


@pytest.mark.parametrize(
    ("value", "size_bytes"),
    [("'x' * (2 << 20)", (2 << 20) + 2), ("b'raw'", 3), ("bytes(5 << 20)", 5 << 20)],
)
def test_a_result_that_is_large_or_raw_becomes_a_blob(hostile, value, size_bytes):
    run = Run(hostile, f"return {value}")
    assert run.job["state"] == "succeeded", run.job["error"]
    assert list(run.job["result"]) == ["blob"]
    blob = expect(hostile.http.get(f"/blob/{run.job['result']['blob']}"))
    assert (blob["size_bytes"], blob["project"]) == (size_bytes, hostile.project)
    content = hostile.http.get(f"/blob/{blob['id']}/content").content
    assert len(content) == size_bytes


def test_an_endless_result_is_bounded(hostile):
    limits = {"memory_bytes": 256 * MEBIBYTE, "run_s": 20}
    run = Run(hostile, "return 'x' * (1 << 30)", limits=limits)
    run.failed("memory_limit", "output_limit", "function_error")


def test_what_a_function_leaves_behind_is_gone(hostile):
    body = (
        "import os, time\nopen('left', 'w').write('x')\n"
        "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        "        time.sleep(600)\n    os._exit(0)\nos.environ['LEFT'] = 'x'\nreturn os.getcwd()"
    )
    run = Run(hostile, body)
    assert run.job["state"] == "succeeded", run.job["error"]
    look = Run(
        hostile,
        "import os\nreturn {'environment': dict(os.environ), 'files': os.listdir('.')}",
    )
    assert look.job["state"] == "succeeded", look.job["error"]
    assert "LEFT" not in look.job["result"]["environment"]
    assert "left" not in look.job["result"]["files"]
    assert not [name for name in look.job["result"]["environment"] if "TOKEN" in name.upper()]


def test_a_function_sees_no_other_project(hostile, node):
    secret = hostile.person.blob(b"mine alone")["id"]
    body = f"import edge\nreturn edge.blob('{secret}').bytes().decode()"
    assert "not_found" in Run(hostile, body).failed("function_error")
    body = "import edge\nreturn edge.kv('nowhere')['x']"
    Run(hostile, body).failed("function_error")
    body = "import edge\nreturn edge.http('GET', 'http://127.0.0.1:1/').status"
    Run(hostile, body).failed("function_error")
    refused(hostile.http.get(f"/blob/{int(secret) + 1}"), 404, "not_found")


def test_retries_are_counted(hostile):
    retry = {"max_attempts": 3, "backoff_s": 0.01, "on": ["error"]}
    run = Run(hostile, "raise ValueError('again')", retry=retry)
    run.failed("function_error")
    assert run.job["attempt"] == 3
    states = [change["state"] for change in run.job["history"]]
    assert states.count("leased") == 3
