"""The page's server: on this machine alone, for whoever knows its address.

The address holds a token, so that no other program can guess it. ``Host`` must be ours, so that no other name
can be made to lead here (DNS rebinding), and ``Origin`` too, so that no other page can have labels given.
Files are asked for by the number of a row and never by name.
"""

from __future__ import annotations

import secrets
import socket
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import asdict
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from palm_cache.errors import AudioError, DataError, PalmCacheError, ParameterError, reason_of
from palm_cache.extraction.audio.snippets import LONGEST, playable, read_snippet, spectrogram
from palm_cache.label.rounds import PROPOSALS
from palm_cache.label.session import Session
from palm_cache.pages.rendering import program, render, stylesheet
from palm_cache.store.atomic import parse_json

TEMPLATE = Path(__file__).with_name("template")

HOST = "127.0.0.1"

KEPT_SOUNDS = 32
"""Rows whose sound and spectrogram are kept in memory."""

PICTURE = (1024, 256)
"""Width and height of a spectrogram in pixels."""

LONGEST_BODY = 1 << 16

LONGEST_NUMBER = 20
"""Digits of the number of a row or a byte."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; media-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",  # the address is the secret
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def make_token() -> str:
    """Return what nobody can guess."""
    return secrets.token_urlsafe(18)


def listen(port: int) -> socket.socket:
    """Return a socket that listens on this machine only.

    Parameters
    ----------
    port : int
        0 is any that is free.

    Raises
    ------
    ParameterError
        If the port is taken, or may not be had.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if sys.platform != "win32":  # where it lets two programs have one port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen(64)
    except OSError as error:
        listener.close()
        raise ParameterError(
            f"`port` {port}: {reason_of(error)}; take another, or leave it out for a free one"
        ) from error
    return listener


def make_server(app: Any) -> uvicorn.Server:
    """Return what serves an application."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config)


def serve(app: Any, listener: socket.socket) -> None:
    """Serve until Ctrl-C, which is raised when all is answered."""
    make_server(app).run(sockets=[listener])


def make_app(session: Session, token: str, port: int) -> Any:
    """Return the page's server as an ASGI application.

    Parameters
    ----------
    token : str
        Part of every address.
    port : int
        Part of every ``Host``.
    """
    pages = Pages(session)
    routes = {
        "/": (pages.page, "GET"),
        "/page.css": (pages.style, "GET"),
        "/page.js": (pages.script, "GET"),
        "/state": (pages.state, "GET"),
        "/rows": (pages.rows, "GET"),
        "/facts/{row}": (pages.facts, "GET"),
        "/sound/{row}": (pages.sound, "GET"),
        "/picture/{row}": (pages.picture, "GET"),
        "/label": (pages.label, "POST"),
        "/undo": (pages.undo, "POST"),
    }
    app = Starlette(
        routes=[Route(f"/{token}{path}", call, methods=[verb]) for path, (call, verb) in routes.items()],
        exception_handlers={PalmCacheError: _refused, Exception: _broken},
    )
    return Guard(app, port)


class Guard:
    """Lets nobody in but pages of our own, and gives every answer the headers that keep it there."""

    def __init__(self, app: Starlette, port: int) -> None:
        self._app = app
        self._hosts = {f"{name}:{port}".encode() for name in (HOST, "localhost")}
        self._origins = {b"http://" + host for host in self._hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        headers = dict(scope["headers"])
        foreign = headers.get(b"host") not in self._hosts
        foreign |= headers.get(b"origin", b"") not in {b"", *self._origins}
        # No form of another page can send this type without being asked about it first.
        posted = scope["method"] != "POST" or headers.get(b"content-type", b"").startswith(
            b"application/json"
        )
        if foreign or not posted:
            await JSONResponse({"error": "not for you"}, HTTPStatus.FORBIDDEN)(scope, receive, send)
            return

        async def send_kept(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                fixed_headers = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *fixed_headers]
            await send(message)

        await self._app(scope, receive, send_kept)


class Pages:
    """What is answered to which request."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._heard = lru_cache(KEPT_SOUNDS)(self._hear)

    def page(self, _: Request) -> Response:
        """Return the page."""
        session = self._session
        page = render(
            TEMPLATE,
            "page.html.j2",
            command="label",
            header=session.header,
            n_rows=len(session.stretches),
            file=session.file.name,
            longest=LONGEST,
        )
        return HTMLResponse(page)

    def style(self, _: Request) -> Response:
        """Return the page's style sheet."""
        return Response(stylesheet(TEMPLATE, "page.css"), media_type="text/css")

    def script(self, _: Request) -> Response:
        """Return the page's program."""
        return Response(program(TEMPLATE, "page.js"), media_type="text/javascript")

    def state(self, _: Request) -> Response:
        """Return counts, classes and accuracy."""
        return JSONResponse(self._session.state())

    def rows(self, request: Request) -> Response:
        """Return rows that are proposed, or nearest to a text or a row."""
        query = request.query_params
        by, of_class, session = query.get("by", "both"), query.get("class", ""), self._session
        passed_over = _numbers(query.get("passed_over", ""))
        if by == "text":
            rows = session.like_text(query.get("text", ""), passed_over=passed_over)
        elif by == "row":
            rows = session.like_row(_number(query.get("row", "")), passed_over=passed_over)
        elif by == "labelled":
            rows = session.labelled_as(of_class)
        elif by == "these":
            rows = session.shown(_numbers(query.get("rows", "")))
        elif by in PROPOSALS:
            rows = session.proposed(by, of_class=of_class, passed_over=passed_over)
        else:
            raise DataError(f"rows by {by!r}: no such way")
        return JSONResponse({"rows": [asdict(row) for row in rows]})

    def facts(self, request: Request) -> Response:
        """Return what is heard of a row, and whether it can be."""
        return JSONResponse(self._heard(_number(request.path_params["row"]))[0])

    def sound(self, request: Request) -> Response:
        """Return the sound of a row, or a range of its bytes."""
        _, (content, media_type), _ = self._heard(_number(request.path_params["row"]))
        return _ranged(request, content, media_type)

    def picture(self, request: Request) -> Response:
        """Return the spectrogram of a row."""
        return Response(self._heard(_number(request.path_params["row"]))[2], media_type="image/png")

    async def label(self, request: Request) -> Response:
        """Give a row a label, or take it away."""
        body = await _body(request)
        row, name = body.get("row"), body.get("class")
        if type(row) is not int or not (name is None or isinstance(name, str)):
            raise DataError("a label has a whole number as its row, and a class name or null")
        await run_in_threadpool(self._session.label, row, name)
        return self._after(row)

    async def undo(self, request: Request) -> Response:
        """Take the last label back."""
        steps = (await _body(request)).get("steps")
        if type(steps) is not int:
            raise DataError("to undo, say how many labels can be undone")
        return self._after(await run_in_threadpool(self._session.undo, steps))

    def _after(self, row: int | None) -> Response:
        shown = None if row is None else asdict(self._session.shown([row])[0])
        return JSONResponse({"state": self._session.state(), "row": shown})

    def _hear(self, row: int) -> tuple[dict[str, float], tuple[bytes, str], bytes]:
        snippet = read_snippet(*self._session.sound_of(row))
        facts = {
            "start": snippet.start,
            "played": len(snippet.samples) / snippet.rate,
            "seconds": snippet.seconds,
            "rate": float(snippet.rate),
        }
        return facts, playable(snippet), spectrogram(snippet, *PICTURE)


def _ranged(request: Request, content: bytes, media_type: str) -> Response:
    """Answer with content, or with the one range of it that is asked for (RFC 9110, section 14)."""
    headers = {"Accept-Ranges": "bytes"}
    unit, _, span = request.headers.get("range", "").partition("=")
    first, dash, last = span.strip().partition("-")
    readable = (first + last).isdecimal() and max(len(first), len(last)) < LONGEST_NUMBER
    if unit != "bytes" or not dash or not readable:
        return Response(content, headers=headers, media_type=media_type)
    size = len(content)
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    if start >= stop:
        headers["Content-Range"] = f"bytes */{size}"
        return Response(status_code=HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, headers=headers)
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    return Response(content[start:stop], HTTPStatus.PARTIAL_CONTENT, headers, media_type)


async def _body(request: Request) -> dict[str, Any]:
    if int(request.headers.get("content-length") or LONGEST_BODY + 1) > LONGEST_BODY:
        raise DataError("a label is shorter than that")
    try:
        body = parse_json(await request.body())
    except (ValueError, ClientDisconnect):
        body = None
    if not isinstance(body, dict):
        raise DataError("a label is one JSON object")
    return body


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < LONGEST_NUMBER):
        raise DataError(f"{text!r} is no number of a row")
    return int(text)


def _numbers(text: str) -> list[int]:
    return [_number(part) for part in text.split(",") if part]


def _refused(_: Request, error: Exception) -> Response:
    gone = isinstance(error, AudioError)
    return JSONResponse({"error": str(error)}, HTTPStatus.NOT_FOUND if gone else HTTPStatus.BAD_REQUEST)


def _broken(_: Request, error: Exception) -> Response:
    """Say on the page what nobody thought of; the terminal has all of it."""
    return JSONResponse({"error": f"{type(error).__name__}: {error}"}, HTTPStatus.INTERNAL_SERVER_ERROR)
