from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from upath import UPath

from palm_cache.errors import AudioError, OutputError, ParameterError, PlaceError
from palm_cache.store import trees
from palm_cache.store.places import absolute, copy_files, files_below, place, reaching


def test_a_path_stays_a_path_and_a_url_becomes_a_place() -> None:
    assert place("data/features") == Path("data/features")
    assert place("file:///data/features") == Path("/data/features")
    assert place(Path("x")) == Path("x")
    away = place("memory://folder/x.zarr/")
    assert isinstance(away, UPath)
    assert (away.name, str(away.parent)) == ("x.zarr", "memory://folder")
    assert absolute(away) == away
    assert absolute(Path("x")) == Path.cwd() / "x"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nowhere://bucket/x", "Unsupported filesystem: 'nowhere'; give a folder or a URL such as s3://"),
        ("memory://", "memory://: give a folder inside it, e.g. memory://bucket/folder"),
    ],
)
def test_a_url_that_names_no_place_is_refused(text: str, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        place(text)


def test_a_missing_library_is_named_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(self: UPath) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(UPath, "fs", property(absent))
    with pytest.raises(ParameterError, match=r"install s3fs to access s3: pip install 'palm-cache\[s3\]'"):
        place("s3://bucket/x")


def test_only_a_remote_place_is_out_of_reach_and_a_defect_stays_one() -> None:
    away = place("memory://folder/x")
    for error in (
        TimeoutError("timed\nout"),
        PermissionError("no"),
        NotImplementedError("no"),
        AudioError("x"),
    ):
        wanted = AudioError if isinstance(error, AudioError) else PlaceError
        with pytest.raises(wanted), reaching(away):
            raise error
        with pytest.raises(type(error)), reaching(Path("x")):
            raise error
    with pytest.raises(KeyError), reaching(away):
        raise KeyError("a defect")


def test_files_are_copied_between_any_two_places(tmp_path: Path) -> None:
    names = ["a.txt", "deep/b.txt"]
    for name in names:
        file = tmp_path / "one" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    chain = [
        tmp_path / "one",
        *(place(f"memory://{tmp_path.name}/{n}") for n in "23"),
        tmp_path / "4",
        tmp_path / "5",
    ]
    for source, target in pairwise(chain):
        assert files_below(source) == names
        copy_files(source, target, names)
    assert [(tmp_path / "5" / name).read_text() for name in names] == names


@pytest.mark.parametrize("scheme", ["", "memory://"])
def test_what_is_not_a_store_is_not_removed(scheme: str, tmp_path: Path) -> None:
    tree = place(f"{scheme}{tmp_path}/x.zarr")
    for name in ("zarr.json", "thesis.tex"):
        tree.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("x")
    with pytest.raises(OutputError, match=r"there is something else here \(thesis.tex\)"):
        trees.remove(tree)
    (tree / "thesis.tex").unlink()
    trees.remove(tree)
    assert not tree.exists()
    trees.remove(tree)  # nothing there, nothing to do
