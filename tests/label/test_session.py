"""Labelling as the page does it: what is kept, undone, proposed and told."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drive import KINDS, Drive, kind_of
from label_client import Page, open_session
from samples import make_features, write_sample

from palm_cache.errors import EncoderError
from palm_cache.extraction.encoders.text import embed_prompts
from palm_cache.extraction.recorded import load_text_tower
from palm_cache.label.labels import read_labels
from palm_cache.label.session import Session
from palm_cache.label.words import Words
from palm_cache.params.use import LoadingParams
from palm_cache.store.features import FeatureStore
from palm_cache.types import TextTower


def test_a_drive_is_labelled_round_by_round_while_the_accuracy_grows(page: Page) -> None:
    state = page.state()
    assert (state["labelled"], state["growth"], state["undo"]) == (0, [], 0)
    for by in ("diverse", "both"):
        for row in page.rows(by=by):
            assert row["class_name"] is None
            page.label(row["row"], kind_of(row["path"]))
    state = page.state()
    assert state["labelled"] == 20
    assert [point["rows"] for point in state["growth"]] == [10, 20]
    assert state["growth"][1]["mean"] > 0.9
    assert 0 < state["growth"][1]["low"] < state["growth"][1]["mean"] <= state["growth"][1]["high"] <= 1
    assert {one["name"]: one["count"] for one in state["classes"]}.keys() == set(KINDS)
    for name in KINDS:
        likely = page.rows(by="likely", **{"class": name})
        assert kind_of(likely[0]["path"]) == name == likely[0]["guesses"][0]
        assert {row["class_name"] for row in page.rows(by="labelled", **{"class": name})} == {name}
    assert len(page.rows(by="random")) == 7


def test_a_label_is_on_disk_when_the_answer_comes_and_undone_there_too(page: Page) -> None:
    file = page.session.file
    told = page.label(3, "owl")
    assert told["row"]["class_name"] == "owl"
    assert told["state"]["classes"] == [{"name": "owl", "count": 1}]
    assert [label.class_name for label in read_labels(file)[0]] == ["owl"]
    page.label(3, " rain ")
    assert page.undo().json()["row"]["class_name"] == "owl"
    assert page.undo().json()["row"]["class_name"] is None
    assert page.undo().json()["row"] is None
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
    assert state["growth"][-1]["rows"] == 4
    assert state["guessed"] == ["tawny owl", "rain", "mouse"]
    assert page.undo().json()["row"]["row"] == 3


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
    assert "no file that labels can be appended to" in page.undo().json()["error"]
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
    page.undo()
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
        probabilities = session.fitter.fit.probabilities
        assert probabilities is not None
        shares = [float(probabilities[row["row"], 1]) for row in likely]
        assert shares == sorted(shares, reverse=True)
        assert len(shares) == 10
        for row in likely:
            order = probabilities[row["row"]].argsort()[::-1]
            assert row["guesses"] == [("siren", "dog")[place] for place in order]


def test_names_of_classes_take_the_place_of_the_stores(tmp_path: Path) -> None:
    """A drive with folders by day or by card is read as classes of these names."""
    store = FeatureStore(write_sample(tmp_path / "store.zarr", make_features()))
    for given, offered in (([], list(store.header.class_names)), (["dog", "owl"], ["dog", "owl"])):
        session = Session(store, tmp_path / "labels.csv", classes=given, load_tower=lambda: 1 / 0)
        assert session.classes == offered


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


def test_undo_takes_back_no_label_of_another_window(page: Page) -> None:
    page.label(0, "owl")
    seen = page.state()["undo"]
    page.label(1, "rain")  # a colleague's
    told = page.post("undo", {"steps": seen})
    assert told.status_code == 400
    assert told.json()["error"].startswith("somebody else has labelled meanwhile, as is shown now")
    assert page.state()["labelled"] == 2
    assert page.undo().json()["row"]["row"] == 1


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
    assert page.state()["growth"][-1]["rows"] == 20
    assert json.dumps(page.state())
