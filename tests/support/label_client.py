"""The label page's server as its page asks it, without a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from drive import Drive
from starlette.testclient import TestClient

from palm_cache.extraction.recorded import load_text_tower
from palm_cache.label.server import make_app
from palm_cache.label.session import Session
from palm_cache.params.use import LoadingParams
from palm_cache.store.features import FeatureStore

TOKEN, PORT = "the-token", 8123
ADDRESS = f"http://127.0.0.1:{PORT}"


def open_session(drive: Drive, file: Path, **options: Any) -> Session:
    store = FeatureStore(drive.store)
    options = {
        "load_tower": lambda: load_text_tower(store.header, LoadingParams(device="cpu", tokenizer=""))
    } | options
    return Session(store, file, **options)


class Page:
    """What the page asks."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.client = TestClient(make_app(session, TOKEN, PORT), base_url=ADDRESS)

    def get(self, path: str, **options: Any) -> Any:
        return self.client.get(f"/{TOKEN}/{path}", **options)

    def rows(self, **asked: str) -> list[dict[str, Any]]:
        answer = self.get("rows", params=asked)
        assert answer.status_code == 200, answer.text
        rows: list[dict[str, Any]] = answer.json()["rows"]
        return rows

    def post(self, path: str, body: object, **options: Any) -> Any:
        return self.client.post(f"/{TOKEN}/{path}", json=body, **options)

    def label(self, row: int, name: str | None) -> dict[str, Any]:
        answer = self.post("label", {"row": row, "class": name})
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told

    def undo(self) -> Any:
        return self.post("undo", {"steps": self.get("state").json().get("undo", 0)})

    def state(self) -> dict[str, Any]:
        assert self.session.fitter.wait(60)
        told: dict[str, Any] = self.get("state").json()
        return told
