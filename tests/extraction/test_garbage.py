from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import zarr
from filelock import FileLock
from palm_cache.extraction.garbage import find_garbage, remove_garbage
from samples import make_features, write_palm_folder, write_sample

from palm_cache.errors import StoreError
from palm_cache.extraction.datasets.palm_layout import read
from palm_cache.extraction.extract import extract
from palm_cache.params import ExtractParams
from palm_cache.store.features import FORMAT_VERSION


@pytest.fixture(scope="module")
def made_by_mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store as the package's own encoder makes it today."""
    folder = tmp_path_factory.mktemp("garbage")
    table = read(write_palm_folder(folder / "Tones", train=1, test=1))
    return extract(table, "mini", folder / "mini.zarr", ExtractParams()).store


@pytest.fixture
def features(tmp_path: Path, made_by_mini: Path) -> Path:
    folder = tmp_path / "features"
    shutil.copytree(made_by_mini, folder / "Tones" / "mini.zarr")
    return folder


def reasons(features: Path) -> dict[str, str]:
    return {str(item.path.relative_to(features)): item.why for item in find_garbage(features)[0]}


def names(features: Path) -> list[str]:
    return sorted(str(path.relative_to(features)) for path in features.glob("*/*"))


def set_attribute(store: Path, name: str, value: object) -> None:
    zarr.open_group(store, mode="r+").attrs[name] = value


def test_a_store_of_today_is_no_garbage_whether_or_not_its_audio_is_here(features: Path) -> None:
    (features / "Tones" / ".mini.zarr.lock").touch()
    (features / "Tones" / "notes.txt").write_text("mine")
    assert find_garbage(features) == ([], [])
    assert find_garbage(features / "nowhere") == ([], [])


def test_leftovers_of_dead_extractions_are_listed_with_their_size_and_removed(features: Path) -> None:
    place = features / "Tones"
    store = place / "mini.zarr"
    shutil.copytree(store, place / ".mini.zarr.next")
    shutil.copytree(store, place / ".mini.zarr.old")
    (place / "..mini.zarr.next.skeleton").mkdir()
    (store / "audio" / "c" / "0" / "0" / "0.abc.partial").write_bytes(b"half")
    (features / "Gone").mkdir()
    (features / "Gone" / ".clap-x.zarr.lock").touch()
    garbage, busy = find_garbage(features)
    assert busy == []
    assert {str(item.path.relative_to(features)): item.why for item in garbage} == {
        "Gone/.clap-x.zarr.lock": "lock of a store that is gone",
        "Tones/..mini.zarr.next.skeleton": "unfinished skeleton of a store",
        "Tones/.mini.zarr.next": "unfinished rebuild; the extraction that began it would go on from it",
        "Tones/.mini.zarr.old": "predecessor of a store that was made anew",
        "Tones/mini.zarr": "temporary files of writers that were killed",
    }
    retired = next(item for item in garbage if item.path.name == ".mini.zarr.old")
    files = [path for path in (place / ".mini.zarr.old").rglob("*") if path.is_file()]
    assert (retired.files, retired.bytes) == (len(files), sum(path.stat().st_size for path in files))
    assert next(item.bytes for item in garbage if item.path == store) == 4
    assert remove_garbage(garbage) == garbage
    assert names(features) == ["Tones/.mini.zarr.lock", "Tones/mini.zarr"]
    assert find_garbage(features) == ([], [])
    assert not (features / "Gone").exists()


def test_the_successor_of_a_kill_between_two_renames_is_the_store(features: Path) -> None:
    place = features / "Tones"
    (place / "mini.zarr").rename(place / ".mini.zarr.next")
    (place / ".mini.zarr.lock").touch()
    assert reasons(features) == {}


@pytest.mark.parametrize(
    ("attribute", "value", "why"),
    [
        ("format_version", FORMAT_VERSION - 1, "store format 0, this palm-cache reads 1"),
        ("encoder", "wav2clip:x", "made by an encoder that is not known: wav2clip:x"),
        ("templates", ["{c}"], "made with other prompt templates"),
        (
            "fingerprint",
            "0" * 64,
            "made with another version of the preprocessing or of the decoders",
        ),
    ],
)
def test_a_store_that_no_extraction_can_go_on_with_is_listed(
    features: Path, attribute: str, value: object, why: str
) -> None:
    set_attribute(features / "Tones" / "mini.zarr", attribute, value)
    assert reasons(features) == {"Tones/mini.zarr": why}


def test_a_store_of_earlier_weights_of_mini_is_listed_but_not_one_of_an_absent_checkpoint(
    features: Path,
) -> None:
    from palm_cache.store.fingerprint import fingerprint

    store = features / "Tones" / "mini.zarr"
    other = {**zarr.open_group(store).attrs["identity"], "weights_sha256": "0" * 64}  # type: ignore[dict-item]
    set_attribute(store, "identity", other)
    set_attribute(store, "fingerprint", fingerprint(other))
    assert reasons(features) == {"Tones/mini.zarr": "made by earlier weights of mini"}
    set_attribute(store, "encoder", "pengi:/not/here/base.pth")
    assert reasons(features) == {}


def test_a_store_made_in_another_precision_runtime_or_from_means_stays(features: Path) -> None:
    from palm_cache.store.fingerprint import fingerprint

    store = features / "Tones" / "mini.zarr"
    identity = dict(zarr.open_group(store).attrs["identity"])  # type: ignore[call-overload]
    identity |= {"precision": "bf16", "runtime": "openvino 2020.1", "window": [*identity["window"], "mean"]}
    set_attribute(store, "identity", identity)
    set_attribute(store, "fingerprint", fingerprint(identity))
    assert reasons(features) == {}


def test_an_unreadable_store_is_listed_but_not_one_of_a_newer_format(features: Path) -> None:
    store = features / "Tones" / "mini.zarr"
    set_attribute(store, "format_version", FORMAT_VERSION + 1)
    assert reasons(features) == {}
    (store / "zarr.json").write_text("{")
    assert "not a readable feature store" in reasons(features)["Tones/mini.zarr"]


def test_what_is_being_written_is_neither_looked_at_nor_removed(features: Path, tmp_path: Path) -> None:
    store = write_sample(features / "clusters" / "mini.zarr", make_features())
    garbage, _ = find_garbage(features)
    assert [item.path for item in garbage] == [store]  # no encoder has its fingerprint
    with FileLock(store.with_name(".mini.zarr.lock")):
        assert find_garbage(features) == ([], [store])
        with pytest.raises(StoreError, match="an extraction is writing to this store"):
            remove_garbage(garbage)
    assert store.is_dir()


def test_what_has_been_mended_since_it_was_listed_stays(features: Path, made_by_mini: Path) -> None:
    store = features / "Tones" / "mini.zarr"
    set_attribute(store, "templates", ["{c}"])
    garbage, _ = find_garbage(features)
    shutil.rmtree(store)
    shutil.copytree(made_by_mini, store)
    assert remove_garbage(garbage) == []
    assert store.is_dir()
