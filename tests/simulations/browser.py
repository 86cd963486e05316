"""A real browser, told what to do over a pipe: Chromium and its DevTools protocol, nothing more.

Skips where there is none.  The pipe (`--remote-debugging-pipe`: file descriptors 3 and 4, messages
end with a zero byte) needs no port and no library.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
ANSWER_MAX_S = 60.0
FLAGS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--mute-audio",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)


class Browser:
    """One page in a browser of its own, which can reach nothing but files."""

    def __init__(self, profile: Path) -> None:
        program = next((found for name in NAMES if (found := shutil.which(name))), None)
        if program is None:
            pytest.skip("Chromium is not installed")
        # Chromium's own sandbox refuses to run as root.
        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        self._command = [program, *FLAGS, *root, f"--user-data-dir={profile}", "about:blank"]
        self._number = 0
        self._rest = b""
        self._session: str | None = None
        self.errors: list[str] = []
        """What the page threw or was refused."""
        self.requests: list[str] = []
        """What the page wanted to load."""

    def __enter__(self) -> Self:
        there, self._write = os.pipe()
        self._read, back = os.pipe()

        def place() -> None:
            # Out of the way first: a pipe's own number may be 3 or 4.
            kept = os.dup2(there, 100), os.dup2(back, 101)
            os.dup2(kept[0], 3)
            os.dup2(kept[1], 4)

        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=place,
            close_fds=False,
        )
        os.close(there)
        os.close(back)
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(OSError, AssertionError):
            self._session = None
            self.call("Browser.close")
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._write)
        os.close(self._read)

    # --- what a test does -------------------------------------------------------------------

    def open(self, path: Path, *, width: int = 1440, height: int = 900, dark: bool = False) -> None:
        """Open a file and return when the page shows a run, or waits for one."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.requests.clear()
        self.call("Page.navigate", url=path.as_uri())
        self.until(
            "document.body?.classList.contains('ready') || "
            "document.body?.classList.contains('start')"
        )

    def run(self, expression: str) -> Any:
        """Return what JavaScript gives, as JSON would."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, expression: str) -> None:
        """Return as soon as something is so in the page, looked at before each of its pictures."""
        ends_s = time.monotonic() + ANSWER_MAX_S
        while not self.run(f"Boolean({expression})"):
            assert time.monotonic() < ends_s, f"never so: {expression} {self.errors}"
            self.drawn()

    def drawn(self) -> None:
        """Return when what was asked to be drawn is."""
        self.run("new Promise((resolve) => { requestAnimationFrame(() => setTimeout(resolve)); })")

    def key(self, key: str, *, shift: bool = False) -> None:
        text = key if len(key) == 1 else ""
        more = {"key": key, "text": text, "modifiers": 8 if shift else 0}
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **more)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)
        self.drawn()

    def click(self, x: float, y: float) -> None:
        at: dict[str, Any] = {"x": x, "y": y}
        self.call("Input.dispatchMouseEvent", type="mouseMoved", **at)
        for what in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=what, button="left", clickCount=1, **at)
        self.drawn()

    def wheel(self, x: float, y: float, by: float) -> None:
        self.call("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=by)
        self.drawn()

    def screenshot(self, path: Path) -> None:
        self.drawn()
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    # --- the protocol -----------------------------------------------------------------------

    def call(self, method: str, **parameters: Any) -> Any:
        """Return the result of a command."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self._note(answer)

    def _receive(self) -> Any:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], ANSWER_MAX_S)
            piece = os.read(self._read, 1 << 20) if ready else b""
            assert piece, "the browser is gone or does not answer"
            self._rest += piece
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        match event.get("method"):
            case "Runtime.exceptionThrown":
                details = event["params"]["exceptionDetails"]
                thrown = details.get("exception", {}).get("description", "")
                self.errors.append(f"{details['text']} {thrown}")
            case "Log.entryAdded":
                self.errors.append(event["params"]["entry"]["text"])
            case "Network.requestWillBeSent":
                self.requests.append(event["params"]["request"]["url"])
