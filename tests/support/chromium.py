"""A headless Chromium, spoken to through two pipes in its DevTools protocol: nothing waits for a time."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

PATIENCE = 90.0
"""Seconds after which a browser that says nothing is ended, and the test with it."""

_NAMES = ("chromium", "chromium-browser", "google-chrome")

# Chromium reads commands from descriptor 3 and writes answers to 4.
_START = (
    "import fcntl, os, sys;"
    "ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]];"  # out of the way of 3 and 4
    "os.dup2(ends[0], 3); os.dup2(ends[1], 4); os.execv(sys.argv[3], sys.argv[3:])"
)


def find_chromium() -> str | None:
    """Return where Chromium is installed, if it is."""
    return next((path for path in map(shutil.which, _NAMES) if path), None)


class Browser:
    """One browser; every page that it opens has a tab of its own."""

    def __init__(self, program: str, profile: Path) -> None:
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        words = [program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        words += ["--autoplay-policy=no-user-gesture-required", "--remote-debugging-pipe"]
        words += ["--no-first-run", f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, str(commands), str(answers), *words],
            pass_fds=(commands, answers),
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(answers)
        self._numbers = itertools.count(1)
        self._unread = b""
        self.events: list[dict[str, Any]] = []

    def open(self, address: str, width: int, height: int) -> Page:
        """Open a page in a window of that size and wait until it has loaded."""
        tab = self.command("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self.command("Target.attachToTarget", {"targetId": tab, "flatten": True})["sessionId"]
        page = Page(self, session)
        for domain in ("Page", "Runtime", "Log"):
            page.command(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        page.command("Emulation.setDeviceMetricsOverride", size)
        page.command("Page.navigate", {"url": address})
        while not any(event["method"] == "Page.loadEventFired" for event in page.events()):
            self._receive()
        return page

    def command(
        self, method: str, parameters: dict[str, Any] | None = None, session: str | None = None
    ) -> dict[str, Any]:
        """Give a command and return its result."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters or {}}
        if session:
            message["sessionId"] = session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result

    def close(self) -> None:
        """End the browser."""
        self._process.terminate()
        self._process.wait()
        os.close(self._commands)
        os.close(self._answers)

    def _receive(self) -> dict[str, Any]:
        """Return the next message; events are kept."""
        overdue = threading.Timer(PATIENCE, self._process.kill)
        overdue.start()
        try:
            while b"\0" not in self._unread:
                read = os.read(self._answers, 1 << 16)
                assert read, "Chromium has ended, or was ended because it said nothing"
                self._unread += read
        finally:
            overdue.cancel()
        raw, _, self._unread = self._unread.partition(b"\0")
        message: dict[str, Any] = json.loads(raw)
        if "method" in message:
            self.events.append(message)
        return message


class Page:
    """A page that has loaded."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session

    def command(self, method: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
        """Give a command about this page and return its result."""
        return self._browser.command(method, parameters, self._session)

    def events(self) -> list[dict[str, Any]]:
        """Return what has happened in this page."""
        return [event for event in self._browser.events if event.get("sessionId") == self._session]

    def run(self, script: str) -> Any:
        """Run the body of an asynchronous function under the page's own rules; return its result."""
        wrapped = f"(async () => {{ {script} }})()"
        options = {"expression": wrapped, "awaitPromise": True, "returnByValue": True}
        done = self.command("Runtime.evaluate", options)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def console(self) -> list[str]:
        """Return every message, error and breach of the page's rules."""
        told = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [json.dumps(event["params"]) for event in self.events() if event["method"] in told]
