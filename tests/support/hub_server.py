"""A small server on loopback that speaks as much of the hub's protocol as datasets and shared heads need.

Datasets can be downloaded, models uploaded and downloaded. It keeps a log of requests, and can be told to cut
connections or to serve damaged bytes.
"""

from __future__ import annotations

import base64
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
class Model:
    """A model repository: every commit with all of its files."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=lambda: {REVISION: {}})
    """By hash, the first one first."""

    def at(self, revision: str) -> str | None:
        """Return the commit that is meant."""
        return (
            list(self.commits)[-1] if revision == "main" else revision if revision in self.commits else None
        )


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
    models: dict[str, Model] = field(default_factory=dict)
    """By ``owner/name``."""
    tokens: dict[str, str] = field(default_factory=dict)
    """Who may write what is theirs: user by token."""
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    """(method, path of the URL, Range header)."""
    endpoint: str = ""

    def served(self, path: str) -> list[str]:
        """Range headers of all GET requests for a file."""
        return [asked for method, url, asked in self.requests if method == "GET" and url.endswith(f"/{path}")]


@contextmanager
def serve(datasets: Mapping[str, Mapping[str, bytes]] | None = None) -> Iterator[Hub]:
    """Serve datasets, and models that are uploaded, on a free port of loopback while the block runs."""
    hub = Hub(datasets or {})
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

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, ""))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        user = self.hub.tokens.get(self.headers.get("Authorization", "").removeprefix("Bearer "))
        model = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", path)
        if path == "/api/validate-yaml":
            self._answer_json({"errors": [], "warnings": []})
        elif user is None:
            self._refuse(401, "Invalid username or password.")
        elif path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if asked["organization"] == user:
                self.hub.models[name] = Model(private=asked.get("visibility") == "private")
                self._answer_json({"url": f"{self.hub.endpoint}/{name}"})
            else:
                self._refuse(403, f"You don't have the rights to create a model under {name}")
        elif model is None or model[1] not in self.hub.models:
            self._refuse(404, "Repository not found", "RepoNotFound")
        elif model[1].split("/")[0] != user:
            self._refuse(403, "Forbidden: pass create_pr=1 as a query parameter")
        elif model[2] == "preupload":
            files = [file["path"] for file in json.loads(body)["files"]]
            plain = {"uploadMode": "regular", "shouldIgnore": False}
            self._answer_json({"files": [{"path": path, **plain} for path in files]})
        else:
            self._commit(model[1], [json.loads(line) for line in body.splitlines()])

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        model = self.hub.models[name]
        files = dict(model.commits[list(model.commits)[-1]])
        for line in lines:
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        commit = hashlib.sha1(repr((len(model.commits), sorted(files.items()))).encode()).hexdigest()
        model.commits[commit] = files
        url = f"{self.hub.endpoint}/{name}/commit/{commit}"
        self._answer_json({"commitUrl": url, "commitOid": commit})

    def _refuse(self, status: int, message: str, code: str = "") -> None:
        self._send(status, json.dumps({"error": message}).encode(), {"X-Error-Code": code} if code else {})

    def _answer_json(self, answer: object) -> None:
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def log_message(self, *args: object) -> None:
        """Say nothing: stderr is the test's."""

    def _answer(self, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, self.headers.get("Range", "")))
        api = re.fullmatch(r"/api/(datasets|models)/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path)
        file = re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([0-9a-f]+)/(.+)", path)
        if api is not None:
            content = self._files(api[1], api[2], api[4] or "main")
            if content is not None:
                self._send_json(api[2], *content, what=api[3] or "info")
        elif file is not None:
            content = self._files("datasets" if file[1] else "models", file[2], file[3])
            if content is not None and file[4] in content[1]:
                self._send_file(content[0], content[1][file[4]], file[4], with_body)
            elif content is not None:
                self._refuse(404, "Entry not found", "EntryNotFound")
        else:
            self._refuse(404, "Not found")

    def _files(self, kind: str, name: str, revision: str) -> tuple[str, Mapping[str, bytes]] | None:
        """Return commit and files of a repository, or refuse and return ``None``."""
        if kind == "datasets" and name in self.hub.datasets:
            return self.hub.revision, self.hub.datasets[name]
        user = self.hub.tokens.get(self.headers.get("Authorization", "").removeprefix("Bearer "))
        model = self.hub.models.get(name) if kind == "models" else None
        if model is None or (model.private and user != name.split("/")[0]):
            self._refuse(404, "Repository not found", "RepoNotFound")
            return None
        if (commit := model.at(revision)) is None:
            self._refuse(404, "Revision not found", "RevisionNotFound")
            return None
        return commit, model.commits[commit]

    def _send_json(self, repository: str, commit: str, files: Mapping[str, bytes], what: str) -> None:
        entries: list[dict[str, Any]] = []
        for path, content in files.items():
            entry: dict[str, Any] = {"size": len(content)}
            if path.endswith((".wav", ".zip")):
                entry["lfs"] = {"sha256": _sha256(content), "oid": _sha256(content)}
                entry["lfs"] |= {"size": len(content), "pointerSize": 130}
            names = {"path": path, "type": "file", "oid": _git_sha1(content)}
            entries.append(entry | (names if what == "tree" else {"rfilename": path, "blobId": names["oid"]}))
        private = repository in self.hub.models and self.hub.models[repository].private
        info = {"id": repository, "sha": commit, "private": private, "siblings": entries}
        answer = json.dumps(entries if what == "tree" else info).encode()
        self._send(200, answer, {"Content-Type": "application/json"})

    def _send_file(self, commit: str, content: bytes, path: str, with_body: bool) -> None:
        if path in self.hub.damaged:
            content = content[:-1] + bytes([content[-1] ^ 1])
        etag = f'"{_git_sha1(content)}"'
        headers = {"ETag": etag, "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
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
