"""A real browser for tests: headless Chromium, driven through a pipe by its DevTools protocol, without a library for it.

https://chromedevtools.github.io/devtools-protocol/ says what can be asked; with ``--remote-debugging-pipe`` messages
are JSON, each ended by a zero byte, on file descriptors 3 (to the browser) and 4 (from it).
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

BINARY = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WHY_NOT = "no Chromium on this machine (Debian's package is called chromium)"
SECONDS = 60.0


class Browser:
    """A browser with one page, to be used in a ``with`` statement.

    Attributes:
        complaints: console errors and warnings, uncaught exceptions, failed requests, since the page was opened.
        requests: the addresses that the page asked for, itself first.
    """

    def __init__(self, folder: Path) -> None:
        assert BINARY is not None, WHY_NOT
        # Above 10, so that making them 3 and 4 overwrites neither.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for pipe in (os.pipe(), os.pipe()) for end in pipe]
        theirs_in, self._out, self._in, theirs_out = ends
        arguments = ["--headless=new", "--remote-debugging-pipe", "--disable-gpu", "--no-first-run", "--hide-scrollbars"]
        arguments += [f"--user-data-dir={folder}", "--disable-background-networking", "--disable-dev-shm-usage"]
        if os.geteuid() == 0:
            # Chromium refuses its sandbox to root, who is the only user in most containers.
            arguments.append("--no-sandbox")
        start = f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}'
        self._process = subprocess.Popen(
            ["bash", "-c", start, BINARY, *arguments, "about:blank"],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self._events: list[dict[str, Any]] = []
        self.complaints: list[str] = []
        self.requests: list[str] = []

    def __enter__(self) -> Browser:
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            self.ask(f"{domain}.enable")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def open(self, path: Path, width: int = 1280, scheme: str = "light") -> None:
        """Show a file in a window of this width, as a person with a light or dark screen sees it; wait until it is there."""
        self.complaints.clear()
        self.requests.clear()
        self._events.clear()
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        self.ask("Emulation.setEmulatedMedia", media="", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.ask("Page.navigate", url=path.resolve().as_uri())
        self._wait_for("Page.loadEventFired")
        # What the page asks for late would be missed.
        self.run("new Promise(done => setTimeout(done, 200))")
        for event in self._events:
            self._listen(event["method"], event["params"])

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression on the page."""
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """The whole page, from top to bottom, as PNG."""
        shot = self.ask("Page.captureScreenshot", captureBeyondViewport=True, format="png")
        path.write_bytes(base64.b64decode(shot["data"]))

    def pdf(self, path: Path) -> None:
        """The page as it is printed."""
        path.write_bytes(base64.b64decode(self.ask("Page.printToPDF", printBackground=False)["data"]))

    def images(self) -> list[str]:
        """The name of each image, as the browser tells it to a screen reader."""
        nodes = self.ask("Accessibility.getFullAXTree")["nodes"]
        return [n["name"]["value"] for n in nodes if not n["ignored"] and n["role"]["value"] in ("image", "img")]

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command; its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer)
                result: dict[str, Any] = answer["result"]
                return result
            if "method" in answer:
                self._events.append(answer)

    def _wait_for(self, method: str) -> None:
        while not any(event["method"] == method for event in self._events):
            answer = self._receive()
            if "method" in answer:
                self._events.append(answer)

    def _receive(self) -> dict[str, Any]:
        end = time.monotonic() + SECONDS
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"the browser has said nothing for {SECONDS:g} s"
            piece = os.read(self._in, 1 << 20)
            assert piece, "the browser has ended"
            self._buffer += piece
        message, _, self._buffer = self._buffer.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer

    def _listen(self, method: str, params: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Network.loadingFailed":
            self.complaints.append(f"a request failed: {params['errorText']}")
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled":
            self.complaints.append(str(params["args"]))
        elif method == "Log.entryAdded":
            self.complaints.append(params["entry"]["text"])
