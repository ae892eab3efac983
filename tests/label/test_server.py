"""What the server answers, to whom, and what it never does."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from drive import KINDS, Drive, kind_of
from samples import make_features, write_sample
from starlette.testclient import TestClient

from palm_cache.errors import EncoderError
from palm_cache.extraction.encoders.registry import load_text_tower
from palm_cache.extraction.encoders.text import embed_prompts
from palm_cache.label.labels import read_labels
from palm_cache.label.server import make_app
from palm_cache.label.session import Session
from palm_cache.label.words import Words
from palm_cache.params.use import LoadingParams
from palm_cache.store.features import FeatureStore
from palm_cache.types import TextTower

TOKEN, PORT = "the-token", 8123
ADDRESS = f"http://127.0.0.1:{PORT}"


def open_session(drive: Drive, file: Path, **options: Any) -> Session:
    store = FeatureStore(drive.store)
    options = {
        "load_tower": lambda: load_text_tower(store.header, LoadingParams(device="cpu", tokenizer=""))
    } | options
    return Session(store, file, **options)


def client_of(session: Session) -> TestClient:
    return TestClient(make_app(session, TOKEN, PORT), base_url=ADDRESS)


class Page:
    """What the page asks."""

    def __init__(self, session: Session) -> None:
        self.session, self.client = session, client_of(session)

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

    def state(self) -> dict[str, Any]:
        assert self.session.wait(60)
        told: dict[str, Any] = self.get("state").json()
        return told


@pytest.fixture
def page(made_drive: Drive, tmp_path: Path) -> Iterator[Page]:
    with open_session(made_drive, tmp_path / "labels.csv") as session:
        yield Page(session)


def test_a_drive_is_labelled_round_by_round_while_the_accuracy_grows(page: Page) -> None:
    state = page.state()
    assert (state["rows"], state["labelled"], state["growth"], state["undo"]) == (27, 0, [], False)
    for by in ("diverse", "both"):
        for row in page.rows(by=by):
            assert row["class_name"] is None
            page.label(row["row"], kind_of(row["path"]))
    state = page.state()
    assert state["labelled"] == state["fitted_on"] == 20
    assert [point["rows"] for point in state["growth"]] == [10, 20]
    assert state["growth"][1]["mean"] > 0.9
    assert 0 < state["growth"][1]["low"] < state["growth"][1]["mean"] <= state["growth"][1]["high"] <= 1
    assert {one["name"]: one["count"] for one in state["classes"]}.keys() == set(KINDS)
    for name in KINDS:
        likely = page.rows(by="likely", **{"class": name})
        assert kind_of(likely[0]["path"]) == name == likely[0]["guesses"][0][0]
        assert {row["class_name"] for row in page.rows(by="labelled", **{"class": name})} == {name}
    assert len(page.rows(by="random")) == 7


def test_a_label_is_on_disk_when_the_answer_comes_and_undone_there_too(page: Page) -> None:
    file = page.session.file
    told = page.label(3, "owl")
    assert told["row"]["class_name"] == "owl"
    assert told["state"]["classes"] == [{"name": "owl", "count": 1}]
    assert [label.class_name for label in read_labels(file)[0]] == ["owl"]
    page.label(3, " rain ")
    assert page.post("undo", {}).json()["row"]["class_name"] == "owl"
    assert page.post("undo", {}).json()["row"]["class_name"] is None
    assert page.post("undo", {}).json()["row"] is None
    assert [label.class_name for label in read_labels(file)[0]] == ["owl", "rain", "owl", None]


def test_whoever_starts_again_finds_everything(page: Page, made_drive: Drive) -> None:
    for row in range(12):
        page.label(row, kind_of(page.session.stretches[row][0]))
    page.label(2, None)
    before = page.state()

    def load_slowly() -> TextTower:
        time.sleep(1.5)
        return load_text_tower(page.session.header, LoadingParams(device="cpu", tokenizer=""))

    with open_session(made_drive, page.session.file, load_tower=load_slowly) as again:
        proposed = Page(again).rows(by="both")  # before it was asked whether the head is fitted
        assert Page(again).state() == before
        assert again.labelled() == page.session.labelled()
    assert proposed == page.rows(by="both")


def test_what_an_editor_does_to_the_file_meanwhile_counts(page: Page) -> None:
    file = page.session.file
    page.label(0, "owl")
    page.label(1, "rain")
    file.write_text(file.read_text().replace("owl", "tawny owl") + "2.wav,0,1,mouse,x\nbroken\n")
    told = page.label(3, "rain")["state"]
    assert {kind["name"]: kind["count"] for kind in told["classes"]} == {
        "tawny owl": 1,
        "rain": 2,
        "mouse": 1,
    }
    assert told["problems"] == ["labels.csv, row 5: 1 field instead of 5; mend it"]
    state = page.state()
    assert state["fitted_on"] == 4
    assert state["guessed"] == ["tawny owl", "rain", "mouse"]
    assert page.post("undo", {}).json()["row"]["row"] == 3


def test_a_file_that_is_gone_or_another_meanwhile_is_not_written(page: Page) -> None:
    file = page.session.file
    page.label(0, "owl")
    kept = file.read_bytes()
    file.unlink()
    answer = page.post("label", {"row": 1, "class": "owl"})
    assert answer.status_code == 400
    assert "labels.csv: is gone or empty now, with all labels; put it back" in answer.json()["error"]
    assert not file.exists()
    file.write_text("filename,label\n")
    assert "no file that labels can be appended to" in page.post("undo", {}).json()["error"]
    assert file.read_text() == "filename,label\n"
    file.write_bytes(kept)
    assert page.label(1, "owl")["state"]["labelled"] == 2


def test_a_label_that_finds_no_space_is_not_kept_and_said_so(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    page.label(0, "owl")
    kept = page.session.file.read_bytes()
    with monkeypatch.context() as patch:
        write = os.write
        patch.setattr(os, "write", lambda descriptor, line: write(descriptor, line[:7]))
        answer = page.post("label", {"row": 1, "class": "rain"})
    assert answer.status_code == 400
    assert "labels.csv: cannot write: no space left on device" in answer.json()["error"]
    assert page.session.file.read_bytes() == kept
    assert page.state()["classes"] == [{"name": "owl", "count": 1}]
    assert page.label(1, "rain")["state"]["labelled"] == 2


def test_the_keys_of_classes_are_the_same_after_a_restart(page: Page, made_drive: Drive) -> None:
    """Keys follow the order of classes; a row that is labelled again must not move its class."""
    for row, name in ((0, "dog"), (1, "cat"), (2, "cow"), (0, "cow"), (1, "dog"), (2, None)):
        page.label(row, name)
    page.label(3, "typo")
    page.post("undo", {})
    names = [kind["name"] for kind in page.state()["classes"]]
    assert names == ["dog", "cat", "cow"]
    with open_session(made_drive, page.session.file) as again:
        assert [kind["name"] for kind in Page(again).state()["classes"]] == names


def test_a_class_that_is_added_twice_is_one_and_names_that_hardly_differ_are_told(page: Page) -> None:
    page.label(0, "Caf\u00e9 ")
    page.label(1, "Cafe\u0301")
    assert page.state()["classes"] == [{"name": "Caf\u00e9", "count": 2}]
    page.label(2, "caf\u00e9")
    assert page.state()["problems"] == [
        "classes whose names hardly differ: 'Caf\u00e9' (2), 'caf\u00e9' (1); are they one?"
    ]


def test_a_text_is_read_in_the_prompts_of_the_store_as_a_search_reads_it(
    made_drive: Drive, tmp_path: Path
) -> None:
    header = replace(FeatureStore(made_drive.store).header, templates=("a recording of {c}, far away",))
    tower = load_text_tower(header, LoadingParams(device="cpu", tokenizer=""))
    vector = Words(header, lambda: tower).query("a high tone")
    wanted = embed_prompts(tower, ["a recording of a high tone, far away"])[0].numpy()
    np.testing.assert_allclose(vector, wanted / np.linalg.norm(wanted), atol=1e-6)


def test_rows_like_a_row_or_a_text_are_found_among_those_without_a_label(page: Page) -> None:
    like = page.rows(by="row", row="0")
    assert 0 not in [row["row"] for row in like]
    assert {kind_of(row["path"]) for row in like[:5]} == {kind_of(page.session.stretches[0][0])}
    found = [row["row"] for row in page.rows(by="text", text="a high tone")]
    assert len(found) == 10
    page.label(found[0], "tone")
    assert found[0] not in [row["row"] for row in page.rows(by="text", text="a high tone")]
    passed = ",".join(map(str, found[:3]))
    assert not set(found[:3]) & {
        row["row"] for row in page.rows(by="text", text="a high tone", passed_over=passed)
    }


def test_class_names_alone_are_enough_to_begin_with(made_drive: Drive, tmp_path: Path) -> None:
    with open_session(made_drive, tmp_path / "labels.csv", classes=["siren", "dog"]) as session:
        page = Page(session)
        assert page.state()["guessed"] == ["siren", "dog"]
        likely = page.rows(by="likely", **{"class": "dog"})
        shares = [dict(row["guesses"])["dog"] for row in likely]
        assert shares == sorted(shares, reverse=True)
        assert len(shares) == 10


def test_a_store_without_text_says_so_and_is_labelled_all_the_same(tmp_path: Path) -> None:
    store = FeatureStore(write_sample(tmp_path / "store.zarr", make_features(failed=[5])))
    store.header = replace(store.header, text_recipe=None, class_names=())

    def load() -> TextTower:
        raise AssertionError

    with Session(store, tmp_path / "labels.csv", load_tower=load) as session:
        page = Page(session)
        assert page.state()["text_off"] == "this encoder reads no text"
        answer = page.get("rows", params={"by": "text", "text": "dog"})
        assert answer.status_code == 400
        assert answer.json() == {"error": "text search is off: this encoder reads no text"}
        for row in range(0, 40):
            if row != 5:
                page.label(row, f"kind {row % 4}")
        assert page.state()["growth"][-1]["mean"] > 0.5


def test_an_encoder_that_cannot_be_loaded_turns_text_off(made_drive: Drive, tmp_path: Path) -> None:
    def load() -> TextTower:
        raise EncoderError("clap: its weights are gone")

    with open_session(made_drive, tmp_path / "labels.csv", load_tower=load) as session:
        assert Page(session).state()["text_off"] == "clap: its weights are gone"


def test_a_query_that_is_longer_than_the_encoder_reads_is_refused(made_drive: Drive, tmp_path: Path) -> None:
    class Short:
        dim = 512

        def tokens(self, texts: Sequence[str], n_context: int) -> None:
            raise EncoderError("clap: the prompt has 99 tokens, at most 77 are read")

    with open_session(made_drive, tmp_path / "labels.csv", load_tower=Short) as session:
        answer = Page(session).get("rows", params={"by": "text", "text": "dog"})
        assert answer.status_code == 400
        assert answer.json() == {"error": "clap: the prompt has 99 tokens, at most 77 are read"}


def test_labels_of_other_stretches_and_broken_rows_are_told_of_and_kept(
    made_drive: Drive, tmp_path: Path
) -> None:
    file = tmp_path / "labels.csv"
    file.write_text(
        "path,start,end,classname,time\n0.wav,0,1,owl,x\nbroken\nother.wav,0,1,owl,x\n0.wav,7,8,rain,x\n"
    )
    before = file.read_bytes()
    with open_session(made_drive, file) as session:
        page = Page(session)
        broken, strange = page.state()["problems"]
        assert broken.startswith("labels.csv, row 3: 1 field instead of 5")
        assert strange.startswith("2 labels are of stretches that this store does not have, e.g. other.wav")
        assert page.state()["labelled"] == 1
        page.label(1, "rain")
    assert file.read_bytes().startswith(before)


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


def test_labels_that_come_at_once_are_all_kept(page: Page) -> None:
    threads = [
        threading.Thread(target=page.session.label, args=(row, f"kind {row % 3}")) for row in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    labels, problems = read_labels(page.session.file)
    assert (len(labels), problems) == (20, [])
    assert page.state()["fitted_on"] == 20
    assert json.dumps(page.state())
