"""The label page as a user starts it: a process of its own."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from command_line import PROGRAM
from starlette.testclient import TestClient

from palm_cache.label import server


def label_by_ear(
    monkeypatch: pytest.MonkeyPatch, kind_of: Callable[[str], str], rounds: Sequence[str] = ("both", "both")
) -> None:
    """Have the label command not wait for a user: whoever hears answers for so many rounds, then ends it."""
    monkeypatch.setattr(server, "make_token", lambda: "token")

    def serve(app: Any, listener: socket.socket) -> None:
        client = TestClient(app, base_url=f"http://127.0.0.1:{listener.getsockname()[1]}")
        for by in rounds:
            for row in client.get("/token/rows", params={"by": by}).json()["rows"]:
                told = {"row": row["row"], "class": kind_of(row["path"])}
                assert client.post("/token/label", json=told).status_code == 200

    monkeypatch.setattr(server, "serve", serve)


class LabelPage:
    """A running ``palm-cache label``; ended when the block is left."""

    def __init__(self, *words: str, folder: Path | None = None) -> None:
        command = [*PROGRAM, "label", "--no-browser", *words]
        self._process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        first = self._process.stdout.readline()
        self.address = re.findall(r"http://\S+/", first)[0] if first else ""

    def __enter__(self) -> LabelPage:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()

    def end(self, sent: signal.Signals = signal.SIGINT) -> str:
        """End it with Ctrl-C; return what it printed last."""
        self._process.send_signal(sent)
        rest, _ = self._process.communicate()
        assert self._process.returncode == 0
        return rest
