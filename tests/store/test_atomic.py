from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path

import pytest
from filelock import FileLock

from palm_cache.errors import OutputError, StoreError
from palm_cache.store import atomic
from palm_cache.store.atomic import GrowingFile, alone_in, locked, named, replacing, write_errors
from palm_cache.store.outputs import LABEL_TRACK, PREDICTIONS
from palm_cache.store.places import folder, local, short


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "no space left on device; free some space, then try again"),
        (
            errno.EDQUOT,
            "the quota is used up: free some space, then try again, or choose another folder",
        ),
        (errno.EACCES, "permission denied; change its permissions, or choose another folder with out"),
        (errno.EROFS, "read-only file system; choose another folder with out"),
        (errno.EIO, "input/output error; choose another folder with out"),
    ],
)
def test_a_write_error_says_where_why_and_what_to_do(tmp_path: Path, number: int, advice: str) -> None:
    with (
        pytest.raises(OutputError, match=f"scores.csv: cannot write: .*{advice}"),
        write_errors(tmp_path / "scores.csv"),
    ):
        raise OSError(number, os.strerror(number))


def test_the_parameter_that_is_named_is_the_one_that_chose_the_file(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(OutputError, match="choose another folder with csv"):
        GrowingFile(tmp_path / "taken" / "answers.csv", "csv", PREDICTIONS)
    with (
        pytest.raises(OutputError, match="choose another folder with parquet"),
        replacing(tmp_path / "taken" / "answers.parquet", "parquet"),
    ):
        pass


def test_where_no_parameter_chose_the_file_none_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(
            OutputError, match=r"heads\.h5: cannot write: permission denied; change its permissions$"
        ),
        write_errors(tmp_path / "heads.h5", ""),
    ):
        raise OSError(errno.EACCES, "Permission denied")
    with (
        pytest.raises(OutputError, match=r"heads\.h5: cannot write: input/output error$"),
        write_errors(tmp_path / "heads.h5", ""),
    ):
        raise OSError(errno.EIO, "Input/output error")


def interrupt_writing(file: Path) -> None:
    with replacing(file) as temporary:
        temporary.write_text("tw")
        raise KeyboardInterrupt


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "new" / "scores.csv"
    with replacing(file) as temporary:
        temporary.write_text("one")
    with pytest.raises(KeyboardInterrupt):
        interrupt_writing(file)
    assert file.read_text() == "one"
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("name", ["a" * 251 + ".csv", "\N{HIRAGANA LETTER A}" * 85])
def test_the_longest_names_can_be_written(tmp_path: Path, name: str) -> None:
    folder(tmp_path).write(name, b"one")
    left = tmp_path / f".{short(name)}.{local.this_writer()}.{0:08x}.partial"
    left.touch()
    os.utime(left, (0, 0))
    with replacing(tmp_path / name) as temporary:
        temporary.write_text("two")
    assert (tmp_path / name).read_text() == "two"
    with folder(tmp_path).alone(name) as alone, folder(tmp_path).alone(f"{name[:-1]}b") as another:
        assert alone
        assert another
    assert {file.name for file in tmp_path.iterdir() if file.suffix != ".lock"} == {name}


@pytest.mark.parametrize(
    "write", [replacing, lambda path, option: closing(GrowingFile(path, option, PREDICTIONS))]
)
@pytest.mark.parametrize("name", ["night.flac", "Rec 3.OGG", "a.m4a"])
def test_no_recording_is_written_over(
    tmp_path: Path, name: str, write: Callable[[Path, str], AbstractContextManager[object]]
) -> None:
    (tmp_path / name).write_bytes(b"sound")
    refused = pytest.raises(OutputError, match=f"{name}: is called like a recording.* with html")
    with refused, write(tmp_path / name, "html"):
        pass
    assert (tmp_path / name).read_bytes() == b"sound"


def test_a_folder_is_no_file_and_what_lies_beside_it_stays(tmp_path: Path) -> None:
    (tmp_path / "head").mkdir()
    refused = pytest.raises(OutputError, match="head: is a folder; choose another place with out")
    with refused, replacing(tmp_path / "head"), replacing(tmp_path / "head.json") as card:
        card.touch()
    assert [file.name for file in tmp_path.iterdir()] == ["head"]


@pytest.mark.parametrize("path", [".", "..", "/", "a/.."])
def test_what_has_no_name_cannot_be_written(path: str) -> None:
    with pytest.raises(OutputError, match="is a folder without a name of its own"):
        named(Path(path))


def test_a_file_is_replaced_if_it_is_empty_or_an_earlier_output_of_its_kind(tmp_path: Path) -> None:
    file = tmp_path / "night.txt"
    ours, hand_made = "0.000000\t1.500000\twren\t\n", "0.000000\t1.500000\twren\n"
    for content in ("", ours):
        file.write_text(content)
        with replacing(file, "audacity", LABEL_TRACK) as temporary:
            temporary.write_text(ours)
        with closing(GrowingFile(file, "audacity", LABEL_TRACK)) as growing:
            growing.write(ours)
        assert file.read_text() == ours
    for content in (hand_made, ours + hand_made, "wren\n", "x" * 100_000):
        file.write_text(content)
        (tmp_path / "link.txt").unlink(missing_ok=True)
        (tmp_path / "link.txt").symlink_to(file)
        for name in ("night.txt", "link.txt"):
            place = tmp_path / name, "audacity", LABEL_TRACK
            refused = f"{name}: is there already and is no label track .* with audacity, or remove it"
            with (
                pytest.raises(OutputError, match=refused),
                replacing(*place),
            ):
                pass
            with pytest.raises(OutputError, match=refused):
                GrowingFile(*place)
        assert file.read_text() == content


def test_who_was_alone_leaves_nothing_behind(tmp_path: Path) -> None:
    with alone_in(tmp_path):
        assert [file.name for file in tmp_path.iterdir()] == [".results.lock"]
    with locked(tmp_path / "labels.csv", "another has it open"):
        assert [file.name for file in tmp_path.iterdir()] == [".labels.csv.lock"]
        with (
            pytest.raises(StoreError, match="another has it open"),
            locked(tmp_path / "labels.csv", "another has it open"),
        ):
            pass
    assert list(tmp_path.iterdir()) == []


def test_who_waits_for_another_process_says_what_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "SILENT_SECONDS", 0)
    other = FileLock(tmp_path / ".results.lock")
    other.acquire()
    monkeypatch.setattr(atomic.logger, "warning", lambda *words: (said.append(words), other.release()))
    said: list[tuple[object, ...]] = []
    with alone_in(tmp_path):
        pass
    assert said == [("waiting for another palm-cache that writes to %s", str(tmp_path))]
    with alone_in(tmp_path):
        assert len(said) == 1


@pytest.mark.skipif(os.name == "nt", reason="locks are of another kind there")
@pytest.mark.parametrize("error", local.NO_LOCKS)
def test_on_a_disk_that_knows_no_locks_nobody_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """As on Lustre, mounted without them: a fit would wait for ever."""

    def refuse(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr("fcntl.flock", refuse)
    with folder(tmp_path).alone("results", 0.1) as alone:
        assert alone
    assert not list(tmp_path.iterdir())
