"""A small server on loopback that speaks as much of the hub's protocol as downloading a dataset needs.

It keeps a log of requests, and can be told to cut connections or to serve damaged bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

REVISION = "0123456789abcdef" * 2 + "01234567"


@dataclass
class Hub:
    """What the server serves, and how badly."""

    datasets: Mapping[str, Mapping[str, bytes]]
    """``owner/name`` -> path -> content."""
    revision: str = REVISION
    cut_at: dict[str, list[int]] = field(default_factory=dict)
    """Per path: after how many bytes of its content each of the next answers breaks off."""
    damaged: set[str] = field(default_factory=set)
    """Paths whose content arrives with its last byte changed."""
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    """(method, path of the URL, Range header)."""
    endpoint: str = ""

    def served(self, path: str) -> list[str]:
        """Range headers of all GET requests for a file."""
        return [asked for method, url, asked in self.requests if method == "GET" and url.endswith(f"/{path}")]


@contextmanager
def serve(datasets: Mapping[str, Mapping[str, bytes]]) -> Iterator[Hub]:
    """Serve datasets on a free port of the loopback interface while the block runs."""
    hub = Hub(datasets)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, *args: object) -> None:
        """Say nothing: stderr is the test's."""

    def _answer(self, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, self.headers.get("Range", "")))
        api = re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/(revision|tree)/([0-9a-f]+))?", path)
        file = re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([0-9a-f]+)/(.+)", path)
        found = api or file
        if found is None or found[1] not in self.hub.datasets:
            self._send(404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})
        elif api is not None:
            self._send_json(api[1], what=api[2] or "info")
        elif file is not None:
            self._send_file(self.hub.datasets[file[1]][file[3]], file[3], with_body)

    def _send_json(self, repository: str, what: str) -> None:
        files = self.hub.datasets[repository]
        entries: list[dict[str, Any]] = []
        for path, content in files.items():
            entry: dict[str, Any] = {"size": len(content)}
            if path.endswith((".wav", ".zip")):
                entry["lfs"] = {"sha256": _sha256(content), "oid": _sha256(content)}
                entry["lfs"] |= {"size": len(content), "pointerSize": 130}
            names = {"path": path, "type": "file", "oid": _git_sha1(content)}
            entries.append(entry | (names if what == "tree" else {"rfilename": path, "blobId": names["oid"]}))
        info = {"id": repository, "sha": self.hub.revision, "siblings": entries}
        answer = json.dumps(entries if what == "tree" else info).encode()
        self._send(200, answer, {"Content-Type": "application/json"})

    def _send_file(self, content: bytes, path: str, with_body: bool) -> None:
        if path in self.hub.damaged:
            content = content[:-1] + bytes([content[-1] ^ 1])
        etag = f'"{_git_sha1(content)}"'
        headers = {"ETag": etag, "X-Repo-Commit": self.hub.revision, "Accept-Ranges": "bytes"}
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        first = int(start[1]) if start else 0
        if start:
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        body, cuts = content[first:], self.hub.cut_at.get(path, [])
        status = 206 if start else 200
        if with_body and cuts:
            self._send(status, body, headers, stop_at=max(cuts.pop(0) - first, 0))
        else:
            self._send(status, body, headers, with_body=with_body)

    def _send(
        self,
        status: int,
        body: bytes,
        headers: Mapping[str, str],
        *,
        with_body: bool = True,
        stop_at: int | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body)), "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body[:stop_at])
        self.close_connection = True


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
