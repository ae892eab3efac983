from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drive import make_drive
from samples import make_features, write_sample, write_tone

from palm_cache.adaptation.evaluate import evaluate_head
from palm_cache.adaptation.fit import fit_runs
from palm_cache.errors import DataError, OutputError, StaleStoreError
from palm_cache.explore.page import write_page
from palm_cache.explore.projection import project
from palm_cache.extraction.datasets.registry import read_dataset
from palm_cache.extraction.extract import extract
from palm_cache.params import FitParams
from palm_cache.params.use import MapParams
from palm_cache.store.scores import write_predictions
from palm_cache.types import Features
from palm_cache.types.runs import Training

EVIL = "</script><script>alert(1)</script> & <b>\u2028"


class Elements(HTMLParser):
    """Every element of a page with its attributes and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open = False
        self.found: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open = True
        self.found.append((tag, dict(attrs), []))

    def handle_endtag(self, tag: str) -> None:
        self.open = False

    def handle_data(self, data: str) -> None:
        if self.open:
            self.found[-1][2].append(data)

    def text(self, tag: str) -> list[str]:
        return ["".join(parts) for name, _, parts in self.found if name == tag]


def page_data(page: str) -> dict[str, Any]:
    (text,) = (
        "".join(parts) for _, attributes, parts in Elements(page).found if attributes.get("id") == "data"
    )
    data: dict[str, Any] = json.loads(text)
    return data


PCA = MapParams(method="pca")


def make_page(folder: Path, features: Features, by: MapParams = PCA, audio: Path | None = None) -> str:
    store = folder / "store.zarr"
    if not store.exists():
        write_sample(store, features)
    return write_page(store, folder / "explore.html", by, audio=audio).file.read_text("utf-8")


@pytest.fixture
def run(tmp_path: Path, features: Features) -> MapParams:
    heads, _ = fit_runs(
        features, FitParams(heads=("palm",), shots=(1,), seeds=(0,), training=Training(epochs=1))
    )
    write_predictions(tmp_path / "predictions.h5", [evaluate_head(features, head)[1] for head in heads])
    return MapParams(run="palm-1shots-seed0", predictions=tmp_path / "predictions.h5", method="pca")


def test_the_page_holds_every_usable_clip_with_what_was_said(
    tmp_path: Path, run: MapParams, features: Features
) -> None:
    page = make_page(tmp_path, features, run)
    data = page_data(page)
    assert data["path"] == [f"{row}.wav" for row in range(120)]
    assert data["label"] == features.labels.tolist()
    assert data["classes"] == list(features.class_names)
    assert data["verdict"] == "palm@epochs=1-1shots-seed0 says"
    laid_out = project(features.audio[:, 0].numpy(), "pca")
    np.testing.assert_allclose(np.array([data["x"], data["y"]]).T / 10_000, laid_out, atol=1e-4)
    right = sum(said == label for said, label in zip(data["said"], data["label"], strict=True))
    assert f"{right} are classified correctly ({100 * right / 120:.1f} %)" in page


def test_clips_without_an_embedding_are_left_out_and_the_lists_still_point_at_the_right_ones(
    tmp_path: Path,
) -> None:
    features = make_features(noise=1.5, failed=(0, 7, 64))
    write_sample(tmp_path / "store.zarr", features)
    done = write_page(tmp_path / "store.zarr", tmp_path / "explore.html", PCA)
    assert (done.n_clips, done.notes) == (117, ("3 clips have no embedding and are not on the map",))
    elements = Elements(done.file.read_text("utf-8"))
    data = page_data(done.file.read_text("utf-8"))
    assert "0.wav" not in data["path"]
    buttons = [(att["data-clip"], "".join(text)) for _, att, text in elements.found if "data-clip" in att]
    assert len(buttons) > 10
    for clip, path in buttons:
        assert data["path"][int(str(clip))] == path
        assert data["said"][int(str(clip))] != data["label"][int(str(clip))]


def test_without_a_run_neighbours_judge_and_the_page_says_so(tmp_path: Path, features: Features) -> None:
    page = make_page(tmp_path, features)
    assert "No run was chosen: every clip is judged by a vote of its ten nearest neighbours" in page
    assert page_data(page)["verdict"] == "Neighbours say"


def test_names_that_are_markup_stay_text(tmp_path: Path, features: Features) -> None:
    names = tuple(f"{EVIL} {number}" for number in range(4))
    page = make_page(tmp_path, replace(features, class_names=names, dataset=f"d {EVIL}"))
    elements = Elements(page)
    assert [tag for tag, _, _ in elements.found].count("script") == 2
    assert "b" in [tag for tag, _, _ in elements.found]  # ours, around our own words
    assert elements.text("h1") == [f"d {EVIL}"]
    assert page_data(page)["classes"] == list(names)
    assert "alert(1)</script>" not in page


def test_the_page_asks_for_nothing_and_admits_only_its_own_script(tmp_path: Path, features: Features) -> None:
    page = make_page(tmp_path, features)
    elements = Elements(page)
    assert not re.search(r"https?:|url\(|@import|\bfetch\(|XMLHttpRequest|WebSocket", page)
    for tag, attributes, _ in elements.found:
        assert "src" not in attributes
        assert tag not in ("iframe", "object", "embed", "img")
        assert not any(name.startswith("on") or name == "style" for name in attributes)
    links = [attributes["href"] for tag, attributes, _ in elements.found if tag == "link"]
    assert links == ["data:,"]
    policy = next(str(att["content"]) for _, att, _ in elements.found if "http-equiv" in att)
    script = elements.text("script")[-1]
    hashed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; script-src 'sha256-{hashed}'" in policy


def test_the_same_store_gives_the_same_bytes(tmp_path: Path, features: Features) -> None:
    one = make_page(tmp_path, features, MapParams())
    assert one == make_page(tmp_path, features, MapParams())


def test_clips_are_addressed_relative_to_the_page(tmp_path: Path, features: Features) -> None:
    assert page_data(make_page(tmp_path, features))["audio"] == "./"
    folder = tmp_path / "the clips?"
    folder.mkdir()
    with pytest.raises(DataError, match=r"none of the clips lies in it, e\.g\. 0\.wav"):
        make_page(tmp_path, features, audio=folder)
    with pytest.raises(DataError, match="no such folder; give the dataset's"):
        make_page(tmp_path, features, audio=tmp_path / "nowhere")
    for row in range(119):
        (folder / f"{row}.wav").touch()
    (tmp_path / "pages").mkdir()
    done = write_page(tmp_path / "store.zarr", tmp_path / "pages" / "a.html", PCA, audio=folder)
    assert page_data(done.file.read_text("utf-8"))["audio"] == "../the%20clips%3F/"
    assert done.notes == (f"1 clip is not below {folder}, e.g. 119.wav",)


def test_sounds_are_found_as_everywhere_whatever_they_are_called(tmp_path: Path) -> None:
    sounds = tmp_path / "sounds"
    for number, name in enumerate(("latin.wav", "50%25.wav", "a#b?.wav", "sub/old.wav", "gone.wav")):
        write_tone(sounds / name, 300 + 100 * number)
    (sounds / "latin.wav").rename(sounds / os.fsdecode(b"caf\xe9.wav"))
    store = extract(read_dataset(str(sounds)), "mini", tmp_path / "mini.zarr").store
    (sounds / "sub").rename(sounds / "moved")
    (sounds / "gone.wav").unlink()
    page = write_page(store, tmp_path / "explore.html", PCA, audio=sounds)
    data = page_data(page.file.read_text("utf-8"))
    places = dict(zip(data["path"], (data["files"][number] for number in data["file"]), strict=True))
    assert places == {
        "50%25.wav": "50%2525.wav",
        "a#b?.wav": "a%23b%3F.wav",
        "caf%E9.wav": "caf%E9.wav",
        "sub/old.wav": "moved/old.wav",
        "gone.wav": "gone.wav",
    }
    assert page.notes == (f"1 clip is not below {sounds}, e.g. gone.wav",)
    with pytest.raises(OutputError, match=r"old\.wav: is called like a recording"):
        write_page(store, sounds / "moved" / "old.wav", PCA, audio=sounds)


def test_windows_of_a_file_are_told_apart(tmp_path: Path) -> None:
    drive = make_drive(tmp_path)
    data = page_data(write_page(drive.store, tmp_path / "explore.html", PCA).file.read_text("utf-8"))
    assert data["path"][:3] == ["0.wav 0-1 s", "0.wav 1-2 s", "0.wav 1.5 s to its end"]
    assert (data["start"][:3], data["end"][:3]) == ([0, 1, 1.5], [1, 2, None])
    assert len(data["files"]) == 9
    assert data["file"] == [row // 3 for row in range(27)]


def test_predictions_of_another_state_leave_no_page(tmp_path: Path, run: MapParams) -> None:
    other = make_features(clips_per_class=20)
    with pytest.raises(StaleStoreError, match="another state of the clusters store"):
        make_page(tmp_path, other, run)
    assert not (tmp_path / "explore.html").exists()


def test_an_embedding_that_is_not_finite_is_named(tmp_path: Path, features: Features) -> None:
    audio = features.audio.clone()
    audio[9, 0, 3] = torch.nan
    with pytest.raises(DataError, match=r"clusters, row 9: the clip's embedding is not finite"):
        make_page(tmp_path, replace(features, audio=audio))


def test_a_page_that_cannot_be_written_says_so(tmp_path: Path, features: Features) -> None:
    (tmp_path / "file").touch()
    write_sample(tmp_path / "store.zarr", features)
    with pytest.raises(OutputError, match="cannot write"):
        write_page(tmp_path / "store.zarr", tmp_path / "file" / "explore.html", PCA)


def test_a_single_clip_is_no_map(tmp_path: Path) -> None:
    features = make_features(n_classes=2, clips_per_class=2)
    usable = torch.zeros_like(features.usable)
    usable[0] = True
    with pytest.raises(DataError, match="at least three clips with an embedding, found 1"):
        make_page(tmp_path, replace(features, usable=usable))
