from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import pytest
from upath import UPath

from palm_cache.errors import AudioError, ParameterError, PlaceError
from palm_cache.store.places import Folder, folder, local, place, reaching, states


def test_a_path_stays_a_path_and_a_url_becomes_a_place() -> None:
    assert place("data/features") == Path("data/features")
    assert place("file:///data/features") == Path("/data/features")
    assert place(Path("x")) == Path("x")
    assert place("C://data") == Path("C://data")  # a drive of Windows
    away = place("memory://folder/x.zarr/")
    assert isinstance(away, UPath)
    assert (away.name, str(away.parent)) == ("x.zarr", "memory://folder")
    assert away.absolute() == away  # as another process sees it, in whatever folder that runs


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nowhere://bucket/x", "Unsupported filesystem: 'nowhere'; give a folder or a URL such as s3://"),
        ("://x", "'://x' is no place"),
        ("file://", "'file://' is no place"),
        ("a\0b", "is no place"),
        ("memory://", "'memory://' is no place; give a folder or a URL such as s3://bucket/folder"),
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
        AudioError("x"),
    ):
        wanted = AudioError if isinstance(error, AudioError) else PlaceError
        with pytest.raises(wanted), reaching(away):
            raise error
        with pytest.raises(type(error)), reaching(Path("x")):
            raise error
    with pytest.raises(PlaceError), reaching(away):
        raise type("ClientError", (Exception,), {"__module__": "botocore.exceptions"})("no such bucket")
    with pytest.raises(PlaceError, match="Sign is not implemented"), reaching(away):
        away.fs.sign("x")  # type: ignore[attr-defined]
    odd = type("Odd", (Exception,), {"__module__": "zarr.errors"})
    for defect in (KeyError("x"), odd("x"), ValueError("x"), NotImplementedError("x")):
        with pytest.raises(type(defect)), reaching(away):
            raise defect


@pytest.fixture(params=["local", "local, with the longest name", "memory", "s3"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """A folder of either kind; what every kind promises is tested on all."""
    if request.param == "s3":
        return folder(place(f"{request.getfixturevalue('bucket')}/tree"))
    local = tmp_path / ("tree" if request.param == "local" else "a" * 250 + ".zarr")
    return folder(place(f"memory://{tmp_path.name}/tree") if request.param == "memory" else local)


def test_files_are_written_read_in_parts_listed_and_removed(where: Folder, tmp_path: Path) -> None:
    assert where.files() == {}
    where.write("a.txt", b"0123456789")
    where.write("deep/er/b.txt", b"b")
    with where.replacing("c.txt") as new:
        new.write_bytes(b"put")
        assert "c.txt" not in where.files()
    assert not new.exists()
    with suppress(KeyError), where.replacing("a.txt") as new:
        new.write_bytes(b"half")
        raise KeyError
    assert where.files() == {"a.txt": 10, "deep/er/b.txt": 1, "c.txt": 3}
    assert (where.read("a.txt"), where.read("a.txt", 2, 5), where.read("a.txt", 8, 20)) == (
        b"0123456789",
        b"234",
        b"89",
    )
    where.fetch("a.txt", tmp_path / "fetched")
    assert (tmp_path / "fetched").read_bytes() == b"0123456789"
    where.remove(["deep/er/b.txt", "never/there"])
    assert where.files() == {"a.txt": 10, "c.txt": 3}
    with pytest.raises(FileNotFoundError):
        where.read("deep/er/b.txt")


def test_a_tree_is_published_over_what_is_ours_alone(where: Folder) -> None:
    def ours(folder: Folder) -> list[str]:
        return [name for name in folder.files() if name.startswith(("part/", "first", "last"))]

    for names in (["part/1", "part/2"], ["part/1"]):
        with where.workspace() as work:
            built = work / "built"
            for name in (*names, "first", "last"):
                (built / name).parent.mkdir(parents=True, exist_ok=True)
                (built / name).write_text(str(names))
            where.publish(built, ours, "last", b"claim")
        where.write("part/mine.txt", b"mine")  # looks like ours: it goes with the next tree
        where.write("other.txt", b"others")
    assert where.read("other.txt") == b"others"
    assert set(where.files()) == {"part/1", "part/mine.txt", "first", "last", "other.txt"}
    assert where.read("part/1") == b"['part/1']"


def test_the_state_of_a_file_changes_with_its_content_and_is_not_trusted_too_soon(tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    file.write_bytes(b"one")
    assert states([file, tmp_path / "absent"]) == [None, None]
    os.utime(file, ns=(0, 0))  # the inode has changed just now
    assert states([file]) == [None]
    with patch.object(local, "RACY_NS", 0):
        (before,) = states([file])
        assert before is not None
        assert states([Path(os.path.relpath(file))]) == [before]
        file.write_bytes(b"two")
        os.utime(file, ns=(0, 0))
        assert states([file]) != [before]


def test_the_states_of_remote_files_come_from_one_listing(bucket: str) -> None:
    files = [place(f"{bucket}/audio/{number}.wav") for number in range(3)]
    for file in files[:2]:
        file.write_bytes(b"one")
    before = states(files)
    assert before[0] is not None
    assert before[2] is None
    files[1].write_bytes(b"two")
    assert states(files)[0] == before[0]
    assert states(files)[1] != before[1]
