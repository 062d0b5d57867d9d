"""Drive headless Chromium through its debugging pipe: open a page, run JavaScript in it, press keys, take a screenshot.

No driver and no package: the protocol is JSON messages, each ended by a zero byte, over file descriptors 3 and 4.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pages import REPOSITORY

WIDTHS = (1400, 400)
"""Pixels of a window on a desk, and of a phone."""
NAMES = ("chromium", "chromium-browser", "google-chrome")
TIMEOUT_S = 60
DROP = """(() => {
  const bytes = Uint8Array.from(atob("%s".split(",")[1]), (char) => char.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], "a.png", {type: "image/png"}));
  document.dispatchEvent(new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true}));
})()"""
"""Script that drops a picture, a data URL, onto the page."""


class Page:
    """A tab of Chromium."""

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive, self._rest, self._number = send, receive, b"", 0
        self.errors: list[str] = []  # exceptions and messages of the console that are errors
        self.messages: list[str] = []  # all that the console shows
        self.requests: list[str] = []  # addresses that the page asked for
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    _session: str | None = None

    def call(self, method: str, **params: Any) -> Any:
        """Call a method of the protocol and return its result; events that come meanwhile are noted."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._receive, 1 << 20)
            assert part, "Chromium has ended"
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        params = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
            self.messages.append(self.errors[-1])
        elif message.get("method") == "Log.entryAdded":
            self.messages.append(params["entry"]["text"])
            self.errors += self.messages[-1:] if params["entry"]["level"] == "error" else []
        elif message.get("method") == "Runtime.consoleAPICalled":
            self.messages.append(" ".join(str(argument.get("value", "")) for argument in params["args"]))
        elif message.get("method") == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        return message

    def open(self, url: str | Path, until: str = "document.readyState === 'complete'") -> None:
        """Open an address or a file, and wait until an expression is true."""
        self.call("Page.navigate", url=url.resolve().as_uri() if isinstance(url, Path) else url)
        self.wait(until)

    def run(self, expression: str) -> Any:
        """Return the value of a JavaScript expression; of a promise what it resolves to."""
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, expression: str, timeout_s: float = TIMEOUT_S) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + timeout_s
        while not self.run(f"Boolean({expression})"):
            assert time.monotonic() < deadline, f"not true within {timeout_s} s: {expression}"
            time.sleep(0.02)

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press a key: its name (Tab, Enter, ArrowRight), its Windows key code, and the text that it types."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, text=text)

    def type(self, text: str) -> None:
        """Type a text of any script into what has the focus."""
        self.call("Input.insertText", text=text)

    def resize(self, width: int, height: int, *, dark: bool = False) -> None:
        """Set the size of the window in pixels, and whether the reader prefers dark pages."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def axe_problems(self) -> list[tuple[str, str, str]]:
        """Return what axe finds wrong: rule, impact, the first element; skip the test where axe is not installed."""
        axe = REPOSITORY / ".clients/node/node_modules/axe-core/axe.min.js"
        if not axe.exists():
            pytest.skip(f"{axe} does not exist; run: make clients")
        self.run(f"{axe.read_text(encoding='utf-8')}; 0")
        rules = self.run("axe.run(document).then((result) => result.violations)")
        return [(rule["id"], rule["impact"], rule["nodes"][0]["html"]) for rule in rules]

    def is_cut(self) -> bool:
        """Return whether the page is wider than the window."""
        return bool(self.run("document.documentElement.scrollWidth > innerWidth"))

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Write what is in sight, or the whole page, as PNG."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))


def problems_shown(page: Page, address: str, until: str) -> list[object]:
    """Return what is wrong with a page: messages of the console, what is cut, what axe finds; wide, narrow, dark."""
    problems: list[object] = []
    for width, dark in itertools.product(WIDTHS, (False, True)):
        page.resize(width, 900, dark=dark)
        page.open("about:blank")
        page.messages.clear()
        page.open(address, until)
        cut = ["wider than the window"] if page.is_cut() else []
        problems += [(width, dark, problem) for problem in (*page.messages, *cut, *page.axe_problems())]
    return problems


def chromium() -> str:
    """Return the path of Chromium, or skip the test."""
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    return path or pytest.skip("no Chromium on this machine")


@contextlib.contextmanager
def open_page(*flags: str) -> Iterator[Page]:
    """Start Chromium with one page, and end it afterwards.  Only addresses of this machine can be reached."""
    arguments = [
        chromium(), "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost", *flags,
    ]  # fmt: skip
    to_browser, send = os.pipe()
    receive, from_browser = os.pipe()
    profile = tempfile.mkdtemp()

    def place_pipes() -> None:
        """Make the pipes descriptors 3 and 4, by way of high numbers that are neither."""
        high = os.dup2(to_browser, 100), os.dup2(from_browser, 101)
        for source, target in zip(high, (3, 4), strict=True):
            os.dup2(source, target, inheritable=True)

    process = subprocess.Popen(
        [*arguments, f"--user-data-dir={profile}"], preexec_fn=place_pipes, close_fds=False, stderr=subprocess.DEVNULL
    )
    os.close(to_browser)
    os.close(from_browser)
    try:
        yield Page(send, receive)
    finally:
        process.terminate()
        process.wait()
        os.close(send)
        os.close(receive)
        shutil.rmtree(profile, ignore_errors=True)
