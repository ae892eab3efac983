"""The search command: what it finds, how it tells it, and what it refuses."""

from __future__ import annotations

import csv
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from command_line import call
from drive import make_drive
from samples import make_features, write_palm_folder, write_sample, write_tone
from typer.testing import Result
from workshop import Workshop

import palm_cache
from palm_cache.extraction.datasets.registry import read_dataset
from palm_cache.extraction.extract import extract
from palm_cache.params import ReadingParams, Recipe
from palm_cache.store.features import FeatureStore
from palm_cache.store.writing import write_store


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tones, labelled, and the store of them."""
    root = tmp_path_factory.mktemp("tones")
    data = write_palm_folder(root / "Tones")
    extract(read_dataset(str(data)), "mini", root / "mini.zarr")
    return root


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A long recording without labels, in windows, and the store of it: a low tone and then a high one."""
    root = tmp_path_factory.mktemp("night")
    write_tone(root / "low.wav", 200, seconds=4)
    write_tone(root / "high.wav", 600, seconds=4)
    parts = [soundfile.read(root / name)[0] for name in ("low.wav", "high.wav")]
    (root / "Night").mkdir()
    soundfile.write(root / "Night" / "night.wav", np.concatenate(parts), 16_000)
    table = read_dataset(str(root / "Night"), reading=ReadingParams(window=1.0))
    extract(table, "mini", root / "mini.zarr")
    return root


def run(*words: object) -> Result:
    return call(*map(str, words))


def results(*words: object) -> list[dict[str, object]]:
    done = run("search", *words, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)["results"]


def test_rows_like_a_row_are_its_kind_and_it_is_not_among_them(tones: Path) -> None:
    found = results(tones / "mini.zarr", "--row", 0, "-k", 5)
    assert [row["label"] for row in found] == ["low tone"] * 5
    assert 0 not in [row["row"] for row in found]
    store = FeatureStore(tones / "mini.zarr")
    audio = store.audio()[:, 0]
    unit = audio / np.linalg.norm(audio, axis=1, keepdims=True)
    cosines = unit @ unit[0]
    assert [row["row"] for row in found] == np.argsort(-cosines)[1:6].tolist()
    assert found[0]["file"] == str(tones / "Tones" / str(found[0]["path"]))


def test_a_stretch_of_a_file_finds_the_rows_that_sound_like_it(tones: Path, night: Path) -> None:
    recording = night / "Night" / "night.wav"
    for stretch, label in (("1-2", "low tone"), ("0:05-0:06,5", "high tone")):
        found = results(tones / "mini.zarr", "--like", f"{recording}@{stretch}", "-k", 4)
        assert [row["label"] for row in found] == [label] * 4
    found = results(night / "mini.zarr", "--like", tones / "Tones" / "audios" / "test_1_0.wav", "-k", 3)
    assert all(float(str(row["start"])) >= 4 for row in found)


def test_a_text_is_averaged_over_the_stores_prompts(tones: Path) -> None:
    found = results(tones / "mini.zarr", "--text", "low tone", "-k", 3)
    features = palm_cache.open_features(tones / "mini.zarr")
    prompts = np.stack(
        [features.text(template)[features.class_names.index("low tone")] for template in features.templates]
    )
    query = prompts.mean(axis=0)
    unit = features.centre / np.linalg.norm(features.centre, axis=1, keepdims=True)
    cosines = unit @ query / np.linalg.norm(query)
    best = np.argsort(-cosines)[:3]
    assert [row["row"] for row in found] == best.tolist()
    np.testing.assert_allclose([row["score"] for row in found], cosines[best], atol=1e-5)


def test_a_head_finds_the_rows_of_a_class_and_those_that_it_doubts(workshop: Workshop) -> None:
    by_class = results(
        workshop.store, "--head", workshop.heads, "--class", "low tone", "--run", "palm", "-k", 4
    )
    assert [row["label"] for row in by_class] == ["low tone"] * 4
    (asked,) = [
        palm_cache.predict(workshop.heads, workshop.data / str(row["path"]), run="palm")
        for row in by_class[:1]
    ]
    assert by_class[0]["score"] == pytest.approx(
        asked.probabilities[0, asked.class_names.index("low tone")], abs=1e-4
    )
    doubts = results(workshop.store, "--head", workshop.heads, "--uncertain", "--by", "entropy", "-k", 20)
    scores = [float(str(row["score"])) for row in doubts]
    assert scores == sorted(scores, reverse=True)


def test_several_stores_are_searched_as_one_and_filters_leave_rows_out(tones: Path, night: Path) -> None:
    both = (tones / "mini.zarr", night / "mini.zarr")
    found = results(*both, "--row", "Night:0", "-k", 50)
    assert {row["dataset"] for row in found} == {"Tones", "Night"}
    assert len(found) == 12 + 8 - 1
    assert {row["dataset"] for row in results(*both, "--row", "Tones:0", "--dataset", "Night")} == {"Night"}
    kept = results(*both, "--row", "Tones:0", "--label", "high tone", "--path", "*test_*")
    assert {(row["label"], str(row["path"])[:12]) for row in kept} == {("high tone", "audios/test_")}
    assert all(row["label"] is None for row in results(*both, "--row", "Tones:0", "--unlabelled"))
    far = results(*both, "--diverse", "-k", 3)
    assert {row["dataset"] for row in far} == {"Night"}


def test_rows_that_lie_in_two_stores_are_not_found_twice(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tones / "mini.zarr"
    monkeypatch.chdir(tones)
    (tmp_path / "link.zarr").symlink_to(store)
    for same in ("mini.zarr", tmp_path / "link.zarr"):
        assert len(results(store, same, "--row", 0, "-k", 50)) == 11
    copy = shutil.copytree(store, tmp_path / "copy.zarr")
    done = run("search", store, copy, "--row", "Tones:0")
    assert done.stderr == f"error: {store} and {copy} hold 12 rows of Tones twice; give one of them\n"


def test_results_are_a_table_or_csv(tones: Path, night: Path, tmp_path: Path) -> None:
    done = run("search", night / "mini.zarr", "--row", 0, "-k", 2)
    assert done.exit_code == 0
    assert "like row 0" in done.stdout
    assert "1-2 s" in done.stdout
    done = run("search", tones / "mini.zarr", "--row", 0, "-k", 2, "--csv", tmp_path / "found.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "found.csv").read_text())))
    assert list(rows[0]) == ["score", "dataset", "row", "path", "start", "end", "label", "note"]
    assert [row["label"] for row in rows] == ["low tone"] * 2
    assert (done.stdout, done.stderr) == ("", f"2 rows -> {tmp_path / 'found.csv'}\n")


def test_what_was_found_is_told_even_where_it_cannot_be_copied(tones: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    words = ("search", tones / "mini.zarr", "--row", 0, "-k", 2, "--copy", tmp_path / "taken")
    for shown in ((), ("--json",), ("--csv", tmp_path / "found.csv")):
        done = run(*words, *shown)
        assert done.exit_code == 1
        assert "taken: cannot write" in done.stderr
        told = (tmp_path / "found.csv").read_text() if "--csv" in shown else done.stdout
        assert told.count("audios/") >= 2


def test_a_row_that_reaches_the_end_of_its_file_says_so(tmp_path: Path) -> None:
    drive = make_drive(tmp_path)
    words = ("search", drive.store, "--row", 0, "-k", 1, "--path", "0.wav")
    (found,) = results(*words[1:])
    assert (found["start"], found["end"]) == (1.5, None)
    done = run(*words, "--copy", tmp_path / "copies", "--html", tmp_path / "found.html")
    assert " 1.5 s to its end " in done.stdout
    assert "row 2 of night, 1.5 s to its end" in (tmp_path / "found.html").read_text()
    (copy,) = (tmp_path / "copies").iterdir()
    assert copy.name == "1-0 1.5 s to its end.wav"
    assert soundfile.info(copy).duration == 1


def test_a_file_that_is_gone_leaves_its_row(tmp_path: Path) -> None:
    data = write_palm_folder(tmp_path / "Tones")
    store = extract(read_dataset(str(data)), "mini", tmp_path / "mini.zarr").store
    (data / "audios" / "train_0_1.wav").unlink()
    words = (store, "--row", 0, "-k", 11)
    notes = {row["path"]: row["note"] for row in results(*words)}
    assert [path for path, note in notes.items() if note] == ["audios/train_0_1.wav"]
    assert notes["audios/train_0_1.wav"] == "no such file now"
    done = run("search", *words, "--html", tmp_path / "found.html", "--copy", tmp_path / "copies")
    assert "no such file now" in done.stdout
    page = (tmp_path / "found.html").read_text()
    assert page.count("<article") == 11
    assert page.count("<audio") == page.count("<img") == 10
    assert "no such file now" in page
    assert len(list((tmp_path / "copies").iterdir())) == 10
    data.rename(tmp_path / "Moved")
    moved = results(*words, "--audio", tmp_path / "Moved")
    assert sum(row["file"] is not None for row in moved) == 10


def test_copies_are_whole_files_or_stretches_and_overwrite_nothing(
    tones: Path, night: Path, tmp_path: Path
) -> None:
    words = ("search", tones / "mini.zarr", "--row", 0, "-k", 2, "--copy", tmp_path / "whole")
    first = run(*words)
    copies = sorted((tmp_path / "whole").iterdir())
    found = results(*words[1:6])
    assert [copy.name for copy in copies] == [
        f"{n}-{Path(str(row['path'])).name}" for n, row in enumerate(found, 1)
    ]
    assert copies[0].read_bytes() == Path(str(found[0]["file"])).read_bytes()
    assert "2 files ->" in first.stderr
    copies[0].write_bytes(b"mine")
    again = run(*words)
    assert copies[0].read_bytes() == b"mine"
    assert "is there already and stays as it is" in again.stderr
    run("search", night / "mini.zarr", "--row", 0, "-k", 1, "--copy", tmp_path / "cut")
    (cut,) = (tmp_path / "cut").iterdir()
    start, end = (float(text) for text in cut.stem.split(" ")[1].split("-"))
    whole, rate = soundfile.read(night / "Night" / "night.wav")
    np.testing.assert_allclose(soundfile.read(cut)[0], whole[int(start * rate) : int(end * rate)], atol=1e-6)


def test_python_gives_the_same_as_a_data_frame(tones: Path) -> None:
    features = palm_cache.open_features(tones / "mini.zarr")
    found = features.search(row=3, k=4)
    assert isinstance(found.table, pd.DataFrame)
    assert found.table["row"].tolist() == [
        row["row"] for row in results(tones / "mini.zarr", "--row", 3, "-k", 4)
    ]
    assert found.measure == "cosine"
    low = features.search(row=3, labels="low tone", datasets=features.header.dataset).table
    assert set(low["label"]) == {"low tone"}


def test_what_is_known_of_rows_is_read_at_once_and_not_row_by_row(
    tones: Path, night: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand rows took a quarter of a minute: each read a column of the store."""
    reads: list[str] = []
    read = FeatureStore._read
    monkeypatch.setattr(FeatureStore, "_read", lambda *given: reads.append(given[1]) or read(*given))
    found = palm_cache.search([tones / "mini.zarr", night / "mini.zarr"], row="Tones:0", k=100).table
    assert len(found) == 19
    assert reads.count("path") == reads.count("start") == 2
    for dataset, rows in found.groupby("dataset"):
        store = FeatureStore((tones if dataset == "Tones" else night) / "mini.zarr")
        assert rows["path"].tolist() == [store.clip_names()[row] for row in rows["row"]]
        np.testing.assert_array_equal(rows[["start", "end"]].T, np.stack(store.stretches())[:, rows["row"]])


def refusal(*words: object) -> str:
    done = run("search", *words)
    assert done.exit_code == 1, done.stdout + done.stderr
    assert done.stderr.count("\n") <= 2
    return done.stderr


def test_what_cannot_be_searched_is_said_with_what_to_do(
    tones: Path, night: Path, workshop: Workshop, tmp_path: Path
) -> None:
    store, tone = tones / "mini.zarr", tones / "Tones" / "audios" / "test_0_0.wav"
    assert "rows 0 to 11" in refusal(store, "--row", 12)
    assert "did you mean Tones?" in refusal(store, "--row", "Tome:1")
    assert "write it like this: Tones:0" in refusal(store, night / "mini.zarr", "--row", 0)
    assert "the file ends at 0.50 s; choose a stretch that lies in it" in refusal(
        store, "--like", f"{tone}@0.2-9"
    )
    assert "ends at 1 s, not after its start at 2 s" in refusal(store, "--like", f"{tone}@2-1")
    assert "no such file" in refusal(store, "--like", tmp_path / "absent.wav")
    assert "the text is empty" in refusal(store, "--text", " ")
    assert "did you mean low tone?" in refusal(store, "--row", 0, "--label", "low tine")
    head = ("--head", workshop.heads)
    assert "did you mean low tone?" in refusal(workshop.store, *head, "--class", "low tine")
    assert "or of other options; give a store that was made alike" in refusal(
        store, *head, "--class", "low tone"
    )
    assert "every row that was asked for has a label" in refusal(store, "--diverse")
    assert "no such folder; give the dataset's" in refusal(store, "--row", 0, "--audio", tmp_path / "gone")
    assert "ask for less" in refusal(store, "--row", 0, "--path", "nothing*")
    assert "no other row passes" in refusal(store, "--row", 0, "--path", FeatureStore(store).clip_names()[0])
    two_views = extract(
        read_dataset(str(tones / "Tones")), "mini", tmp_path / "views.zarr", Recipe(views=2)
    ).store
    message = refusal(store, two_views, "--row", "Tones:0")
    assert "were not made alike (views 2, now 1)" in message
    assert run("search", store, "--row", 0, "--text", "x").exit_code == 2
    assert run("search", store).exit_code == 2
    assert run("search", store, "--class", "x", "--row", 0).exit_code == 2


def test_a_store_without_text_is_searched_by_example_alone(tmp_path: Path) -> None:
    store = write_sample(tmp_path / "store.zarr", make_features())
    root = tmp_path / "blind.zarr"
    shutil.copytree(store, root)
    opened = FeatureStore(store)
    write_store(
        root,
        replace(opened.header, text_recipe=None, templates=()),
        opened.rows(),
        np.zeros((4, 0, 24), np.float32),
        opened.audio,
    )
    assert "embeds sound only, no text; search by example" in refusal(root, "--text", "a dog")
