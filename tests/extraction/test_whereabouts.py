from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from samples import make_features, write_palm_folder, write_sample, write_tone

from palm_cache.extraction.datasets.registry import read_dataset
from palm_cache.extraction.extract import extract
from palm_cache.extraction.whereabouts import locate
from palm_cache.store.features import FeatureStore


def test_the_files_of_every_row_are_found_where_the_dataset_lay(tmp_path: Path):
    data = write_palm_folder(tmp_path / "Tones")
    (data / "audios" / "moved").mkdir()
    shutil.move(data / "audios" / "test_0_0.wav", data / "audios" / "moved" / "test_0_0.wav")
    store = FeatureStore(extract(read_dataset(str(data)), "mini", tmp_path / "mini.zarr").store)
    names = store.clip_names()
    found = locate(store.header, names)
    assert set(found) == set(names)
    assert all(path.is_file() for path in found.values())
    assert found["audios/test_0_0.wav"] == data / "audios" / "moved" / "test_0_0.wav"


def test_a_dataset_that_was_moved_is_found_where_it_is_said_to_lie(tmp_path: Path):
    data = write_palm_folder(tmp_path / "Tones")
    store = FeatureStore(extract(read_dataset(str(data)), "mini", tmp_path / "mini.zarr").store)
    names = store.clip_names()
    data.rename(tmp_path / "Elsewhere")
    assert locate(store.header, names) == {}
    (tmp_path / "Elsewhere" / names[0]).unlink()
    found = locate(store.header, names, tmp_path / "Elsewhere")
    assert set(found) == set(names[1:])


def test_names_that_are_not_utf8_or_hold_percents_are_found(tmp_path: Path):
    store = FeatureStore(write_sample(tmp_path / "store.zarr", make_features()))
    header = replace(store.header, source=str(tmp_path / "odd"))
    odd = [os.fsencode("naïve.wav"), b"caf\xe9 100%.wav", b"50%20off.wav"]
    for number, name in enumerate(odd):
        write_tone(tmp_path / f"{number}.wav", 440)
        try:
            (tmp_path / "odd").mkdir(exist_ok=True)
            os.rename(tmp_path / f"{number}.wav", os.fsencode(tmp_path / "odd") + b"/" + name)  # noqa: PTH104
        except OSError:
            pytest.skip("this file system holds no such names")
    found = locate(header, ["naïve.wav", "caf%E9 100%25.wav", "50%20off.wav"])
    assert [os.fsencode(found[name].name) for name in found] == odd
