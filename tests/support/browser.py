"""A headless Chromium that tests look at pages with, driven over a pipe: no package, no network, no port."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_NAMES = ("chromium", "chromium-browser", "google-chrome")
PROGRAM = next(filter(None, map(shutil.which, _NAMES)), None)


class Browser:
    """One window. Use it as a context manager.

    Args:
        profile: an empty folder for what the browser keeps.

    Attributes:
        complaints: what the console said, and files that could not be loaded.
    """

    def __init__(self, profile: Path) -> None:
        assert PROGRAM is not None
        orders, self._orders = os.pipe()
        self._answers, answers = os.pipe()

        def put_in_place() -> None:
            # The browser reads orders from 3 and answers on 4; neither may be in the way of the other.
            high = (os.dup(orders), os.dup(answers))
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        self._process = subprocess.Popen(
            [PROGRAM, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--hide-scrollbars",
             "--disable-dev-shm-usage", "--disable-background-networking", "--no-first-run",
             "--allow-file-access-from-files", f"--user-data-dir={profile}", "about:blank"],
            preexec_fn=put_in_place, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(orders)
        os.close(answers)
        self._rest = b""
        self._numbers = itertools.count(1)
        self._session = ""
        self._events: list[dict[str, Any]] = []
        self.complaints: list[str] = []

    def __enter__(self) -> Browser:
        target = self._order("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._order("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._order(f"{domain}.enable")
        return self

    def __exit__(self, *_: Any) -> None:
        try:
            self._session = ""
            self._order("Browser.close")
            self._process.wait(20)
        except (OSError, EOFError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        finally:
            os.close(self._orders)
            os.close(self._answers)

    def look(self, width: int, height: int, dark: bool = False, scale: float = 1) -> None:
        """Size of the window, and what the reader prefers."""
        self._order("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale,
                    mobile=width < 600)  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._order("Emulation.setEmulatedMedia", features=[scheme])

    def scripts(self, allowed: bool) -> None:
        """Whether pages that are opened from now on may run scripts."""
        self._order("Emulation.setScriptExecutionDisabled", value=not allowed)

    def open(self, page: Path) -> None:
        """Open a file and wait until everything is loaded."""
        self._events.clear()
        found = self._order("Page.navigate", url=page.resolve().as_uri())
        assert "errorText" not in found, found
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._read()

    def run(self, script: str) -> Any:
        """The value of an expression on the page."""
        found = self._order("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, key: str, text: str = "") -> None:
        """Press a key and let go."""
        codes = {"Tab": 9, "Enter": 13, " ": 32}
        facts = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": codes.get(key, 0)}
        self._order("Input.dispatchKeyEvent", type="keyDown", text=text, **facts)
        self._order("Input.dispatchKeyEvent", type="keyUp", **facts)

    def screenshot(self, whole: bool = True) -> bytes:
        """A PNG of the page."""
        import base64

        found = self._order("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(found["data"])

    def _order(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        order = {"id": number, "method": method, "params": parameters}
        if self._session:
            order["sessionId"] = self._session
        os.write(self._orders, json.dumps(order).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            piece = os.read(self._answers, 2**16)
            if not piece:
                raise EOFError("the browser is gone")
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        if "method" in message:
            self._events.append(message)
            self._listen(message["method"], message["params"])
        return message

    def _listen(self, method: str, facts: Mapping[str, Any]) -> None:
        if method == "Runtime.consoleAPICalled":
            self.complaints.append(f"console: {[one.get('value') for one in facts['args']]}")
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(f"exception: {facts['exceptionDetails']}")
        elif method == "Log.entryAdded":
            self.complaints.append(f"log: {facts['entry']['text']} {facts['entry'].get('url', '')}")
        elif method == "Network.loadingFailed":
            self.complaints.append(f"not loaded: {facts}")
