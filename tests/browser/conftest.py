"""A headless Chromium, driven over its debugging pipe: no driver, no port, no network."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LIMIT = 60.0


class Browser:
    """One page of one Chromium. `events` holds everything it reported, in order."""

    def __init__(self, profile: Path) -> None:
        if CHROMIUM is None:
            raise RuntimeError("no Chromium")
        self.events: list[dict[str, Any]] = []
        self._number = 0
        self._rest = b""
        read, self._out = os.pipe()
        self._in, write = os.pipe()
        # Chromium reads commands from descriptor 3 and answers on 4; the shell puts our pipes there. Numbers
        # from 20 on keep the two moves from treading on each other.
        moved = [os.dup2(end, number, inheritable=True) for end, number in ((read, 20), (write, 21))]
        flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-dev-shm-usage"
        line = f'exec "$0" {flags} --remote-debugging-pipe "--user-data-dir=$1" about:blank 3<&20 4>&21'
        self._process = subprocess.Popen(
            ["/bin/bash", "-c", line, CHROMIUM, str(profile)], pass_fds=moved,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for end in (read, write, *moved):
            os.close(end)
        target = self.send("Target.createTarget", {"url": "about:blank"}, session=None)["targetId"]
        attached = self.send("Target.attachToTarget", {"targetId": target, "flatten": True}, session=None)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, parameters: dict[str, Any] | None = None, session: str | None = "") -> Any:
        """The result of one command of the DevTools protocol."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters or {}}
        if session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        return self._until(lambda answer: answer.get("id") == self._number)

    def _until(self, wanted: Callable[[dict[str, Any]], bool]) -> Any:
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            while b"\0" not in self._rest:
                piece = os.read(self._in, 1 << 20)
                if not piece:
                    raise RuntimeError("Chromium ended")
                self._rest += piece
            text, self._rest = self._rest.split(b"\0", 1)
            answer = json.loads(text)
            self.events.append(answer)
            if wanted(answer):
                if "error" in answer:
                    raise RuntimeError(str(answer["error"]))
                return answer.get("result", {})
        raise TimeoutError("Chromium did not answer")

    def size(self, width: int, height: int, mobile: bool = False) -> None:
        values = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self.send("Emulation.setDeviceMetricsOverride", values)

    def open(self, path: Path) -> float:
        """Load a file until its script says it is ready; the seconds it took."""
        self.events.clear()
        start = time.monotonic()
        self.send("Page.navigate", {"url": path.resolve().as_uri()})
        ready = "document.documentElement?.dataset.ready === 'true' && document.readyState === 'complete'"
        while not self.run(ready):
            if time.monotonic() - start > LIMIT:
                raise TimeoutError("the page never became ready")
            time.sleep(0.02)
        return time.monotonic() - start

    def work(self) -> float:
        """Processor seconds that pages have taken so far: what a page costs, however busy the machine is."""
        found = self.send("SystemInfo.getProcessInfo", session=None)["processInfo"]
        return sum(float(process["cpuTime"]) for process in found if process["type"] == "renderer")

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        values = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        answer = self.send("Runtime.evaluate", values)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"]["description"])
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            code = {"Tab": 9, "Enter": 13, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}[key]
            values = {"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, **text}
            self.send("Input.dispatchKeyEvent", values)

    def move(self, selector: str) -> None:
        """Bring the mouse over the middle of an element."""
        self.run(f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'center'}})")
        box = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
        x, y = self.run(f"(b => [b.left + b.width / 2, b.top + b.height / 2])({box})")
        self.send("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": x, "y": y})

    def screenshot(self, path: Path) -> None:
        height = self.run("document.documentElement.scrollHeight")
        width = self.run("document.documentElement.clientWidth")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        image = self.send("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
        path.write_bytes(base64.b64decode(image["data"]))

    def complaints(self) -> list[str]:
        """Everything of weight that the console or the log said, and every dialog."""
        found = []
        for event in self.events:
            parameters = event.get("params", {})
            if event.get("method") == "Runtime.consoleAPICalled" and parameters["type"] in (
                "error",
                "warning",
            ):
                found.append(str(parameters["args"]))
            if event.get("method") == "Log.entryAdded" and parameters["entry"]["level"] in (
                "error",
                "warning",
            ):
                found.append(parameters["entry"]["text"])
            if event.get("method") in ("Runtime.exceptionThrown", "Page.javascriptDialogOpening"):
                found.append(str(parameters))
        return found

    def requests(self) -> list[str]:
        """Addresses that the page asked for."""
        sent = [
            event["params"] for event in self.events if event.get("method") == "Network.requestWillBeSent"
        ]
        return [parameters["request"]["url"] for parameters in sent]

    def close(self) -> None:
        os.close(self._out)
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on PATH: the page was not opened in a browser")
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()
