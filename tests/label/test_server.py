"""What the server answers, to whom, and what it never does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from drive import Drive
from label_client import ADDRESS, PORT, TOKEN, Page, open_session
from starlette.testclient import TestClient

from palm_cache.label.server import make_app


def test_a_row_is_heard_as_it_lies_in_its_recording(page: Page, made_drive: Drive) -> None:
    row = page.session.stretches.index(("4.wav", 1.0, 2.0))
    samples, rate = soundfile.read(made_drive.recordings / "4.wav", dtype="float32")
    answer = page.get(f"sound/{row}")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "audio/flac")
    heard, heard_rate = soundfile.read(BytesIO(answer.content), dtype="float32")
    assert heard_rate == rate
    np.testing.assert_allclose(heard, samples[rate : 2 * rate], atol=2**-15)
    facts = page.get(f"facts/{row}").json()
    assert facts == {"start": 1.0, "played": 1.0, "seconds": 1.0, "rate": float(rate)}
    assert page.get(f"picture/{row}").content.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("asked", "status", "part"),
    [
        ("bytes=0-", 206, slice(0, None)),
        ("bytes=10-19", 206, slice(10, 20)),
        ("bytes=-7", 206, slice(-7, None)),
        ("bytes=5-99999999", 206, slice(5, None)),
        ("bytes=99999999-", 416, slice(0, 0)),
        ("bytes=9-3", 416, slice(0, 0)),
        ("bytes=-0", 416, slice(0, 0)),
        ("bytes=0-1,5-6", 200, slice(0, None)),
        ("bytes=x-", 200, slice(0, None)),
        ("lines=1-2", 200, slice(0, None)),
        (f"bytes={'9' * 5000}-", 200, slice(0, None)),
    ],
)
def test_ranges_of_sound(page: Page, asked: str, status: int, part: slice) -> None:
    whole = page.get("sound/0").content
    answer = page.get("sound/0", headers={"Range": asked})
    assert (answer.status_code, answer.content) == (status, whole[part])
    assert answer.headers["accept-ranges"] == "bytes"
    if status == 206:
        start, stop, _ = part.indices(len(whole))
        assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(whole)}"


def test_sound_that_is_gone_leaves_its_row(made_drive: Drive, tmp_path: Path) -> None:
    elsewhere = tmp_path / "moved"
    elsewhere.mkdir()
    (elsewhere / "0.wav").write_bytes((made_drive.recordings / "0.wav").read_bytes())
    with open_session(made_drive, tmp_path / "labels.csv", audio=elsewhere) as session:
        page = Page(session)
        here, gone = (session.stretches.index((f"{number}.wav", 0.0, 1.0)) for number in (0, 1))
        assert page.get(f"sound/{here}").status_code == 200
        for what in ("facts", "sound", "picture"):
            answer = page.get(f"{what}/{gone}")
            assert answer.status_code == 404
            assert answer.json() == {"error": f"its sound is gone: 1.wav is not in {elsewhere}"}
        assert page.label(gone, "owl")["row"]["class_name"] == "owl"


Forge = Callable[[Page], Any]

REFUSED: dict[str, tuple[Forge, int]] = {
    "no token": (lambda page: page.client.get("/state"), 404),
    "another token": (lambda page: page.client.get("/guess/state"), 404),
    "another name for this machine": (
        lambda page: page.get("state", headers={"Host": f"evil.test:{PORT}"}),
        403,
    ),
    "another port": (lambda page: page.get("state", headers={"Host": "127.0.0.1:1"}), 403),
    "another page's script": (lambda page: page.get("state", headers={"Origin": "https://evil.test"}), 403),
    "an origin without a name": (lambda page: page.get("state", headers={"Origin": "null"}), 403),
    "another page's label": (
        lambda page: page.post("label", {"row": 0, "class": "x"}, headers={"Origin": "http://127.0.0.1:1"}),
        403,
    ),
    "a form": (
        lambda page: page.client.post(
            f"/{TOKEN}/label", content=b'{"row": 0, "class": "x"}', headers={"Content-Type": "text/plain"}
        ),
        403,
    ),
    "a label by address": (lambda page: page.get("label"), 405),
    "a row that is none": (lambda page: page.get("sound/27"), 400),
    "a row with a sign": (lambda page: page.get("sound/-1"), 400),
    "a path instead of a row": (lambda page: page.get("sound/..%2F..%2Fetc%2Fpasswd"), 404),
    "a file beside the page": (lambda page: page.get("../server.py"), 404),
    "no class": (lambda page: page.post("label", {"row": 0, "class": "  "}), 400),
    "a class with a bell": (lambda page: page.post("label", {"row": 0, "class": "a\x07b"}), 400),
    "a row that is text": (lambda page: page.post("label", {"row": "0", "class": "x"}), 400),
    "a row that is true": (lambda page: page.post("label", {"row": True, "class": "x"}), 400),
    "no such row": (lambda page: page.post("label", {"row": 99, "class": "x"}), 400),
    "an undo of no count": (lambda page: page.post("undo", {}), 400),
    "no object": (lambda page: page.post("label", [1]), 400),
    "nested beyond reason": (
        lambda page: page.client.post(
            f"/{TOKEN}/label", content="[" * 60_000, headers={"Content-Type": "application/json"}
        ),
        400,
    ),
    "half a character": (
        lambda page: page.client.post(
            f"/{TOKEN}/label",
            content='{"row": 0, "class": "\\ud800"}',
            headers={"Content-Type": "application/json"},
        ),
        400,
    ),
    "a number of 5,000 digits": (lambda page: page.get(f"sound/{'9' * 5000}"), 400),
    "rows of 5,000 digits": (lambda page: page.get("rows", params={"by": "these", "rows": "9" * 5000}), 400),
    "too much": (lambda page: page.post("label", {"row": 0, "class": "x" * 100_000}), 400),
    "a strange proposal": (lambda page: page.get("rows", params={"by": "luck"}), 400),
    "an unknown class": (lambda page: page.get("rows", params={"by": "likely", "class": "x"}), 400),
    "rows that are none": (lambda page: page.get("rows", params={"by": "these", "rows": "1,x"}), 400),
}


@pytest.mark.parametrize("name", REFUSED)
def test_nobody_else_is_let_in_and_nothing_is_labelled_by_mistake(page: Page, name: str) -> None:
    forge, status = REFUSED[name]
    assert forge(page).status_code == status
    assert not page.session.file.exists()


def test_a_client_that_leaves_in_the_middle_of_a_label_is_no_error(page: Page) -> None:
    """A laptop that is closed left a traceback in the terminal."""
    own = {"host": f"127.0.0.1:{PORT}", "content-type": "application/json", "content-length": "40"}
    headers = [(name.encode(), value.encode()) for name, value in own.items()]
    scope = {
        "type": "http",
        "method": "POST",
        "path": f"/{TOKEN}/label",
        "query_string": b"",
        "headers": headers,
    }
    parts = iter([{"type": "http.request", "body": b'{"row": 0, "cl', "more_body": True}])

    async def receive() -> dict[str, object]:
        return next(parts, {"type": "http.disconnect"})

    async def send(message: dict[str, object]) -> None:
        assert message.get("status", 400) == 400

    asyncio.run(make_app(page.session, TOKEN, PORT)(scope, receive, send))
    assert not page.session.file.exists()


def test_a_store_cannot_name_a_file_outside_its_dataset(page: Page, tmp_path: Path) -> None:
    secret = tmp_path / "secret.wav"
    soundfile.write(secret, np.zeros(100), 8000)
    for name in (str(secret), f"../{tmp_path.name}/secret.wav", "x/../../secret.wav"):
        page.session.stretches[0] = (name, 0.0, None)
        assert page.get("sound/0").status_code == 404


def test_what_nobody_thought_of_is_told_as_everything_else(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(row: int) -> None:
        raise ZeroDivisionError("nobody thought of this")

    monkeypatch.setattr(page.session, "sound_of", fail)
    page.client = TestClient(
        make_app(page.session, TOKEN, PORT), base_url=ADDRESS, raise_server_exceptions=False
    )
    answer = page.get("facts/0")
    assert answer.status_code == 500
    assert answer.json() == {"error": "ZeroDivisionError: nobody thought of this"}


def test_head_requests_are_answered_without_a_body(page: Page) -> None:
    for path in ("", "page.js", "state", "sound/0", "picture/0"):
        answer = page.client.head(f"/{TOKEN}/{path}")
        assert (answer.status_code, answer.content) == (200, b"")


def test_every_answer_keeps_the_address_and_the_page_to_itself(page: Page) -> None:
    assert page.get("state", headers={"Host": f"localhost:{PORT}", "Origin": ADDRESS}).status_code == 200
    for path in ("", "page.js", "page.css", "state", "sound/0", "nothing"):
        headers = page.get(path).headers
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store"


def test_names_are_no_markup(made_drive: Drive, tmp_path: Path) -> None:
    file = tmp_path / "<b>labels.csv"
    with open_session(made_drive, file) as session:
        text = Page(session).get("").text
    assert "<b>labels" not in text
    assert "&lt;b&gt;labels.csv" in text
