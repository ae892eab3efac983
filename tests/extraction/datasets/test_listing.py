"""Which file a path of a table means, and what is said where none is there."""

from __future__ import annotations

import errno
import functools
import http.server
import os
import shutil
import threading
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from samples import write_palm_folder, write_tone

from palm_cache.errors import DataError
from palm_cache.extraction.datasets.listing import find_files, list_files
from palm_cache.extraction.datasets.registry import check_dataset, read_dataset
from palm_cache.store.places import place


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_palm_folder(tmp_path / "Tones")


def rewrite(folder: Path, change: Callable[[str], str]) -> None:
    """Change the paths of both tables."""
    for table in (folder / "train.csv", folder / "test.csv"):
        rows = [line.split(",") for line in table.read_text().splitlines()]
        lines = [
            ",".join([change(path), name]) if path != "path" else "path,classname" for path, name in rows
        ]
        table.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.replace("/", "\\"),
        lambda path: path.replace(".wav", ".WAV"),
        lambda path: path.upper(),
        lambda path: path.replace(".wav", ".flac"),
        lambda path: path.removesuffix(".wav"),
        lambda path: path.removeprefix("audios/"),
        lambda path: "data/Tones/" + path,
        lambda path: "/home/somebody/Tones/" + path,
        lambda path: "C:\\Users\\Somebody\\" + path.replace("/", "\\"),
        lambda path: f"./audios/../{path}",
    ],
    ids=["backslashes", "case", "all case", "ending", "no ending", "name", "above", "root", "drive", "dots"],
)
def test_paths_from_elsewhere_find_their_files_and_are_said(
    change: Callable[[str], str], folder: Path
) -> None:
    right = read_dataset(str(folder))
    rewrite(folder, change)
    table = read_dataset(str(folder))
    assert [clip.file.resolve() for clip in table.clips] == [clip.file for clip in right.clips]
    assert [clip.label for clip in table.clips] == [clip.label for clip in right.clips]
    assert all(not clip.name.startswith(("/", "..")) and ":" not in clip.name for clip in table.clips)
    plain = change("audios/x.wav").startswith("./")
    assert any(note.startswith("12 files found by name alone, e.g. ") for note in table.notes) != plain


@pytest.mark.parametrize(("on_disk", "in_table"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_path_in_another_normal_form_is_found(on_disk: str, in_table: str, folder: Path) -> None:
    name = "audios/train_0_0.wav"
    other = "audios/Käfer é.wav"
    (folder / name).rename(folder / unicodedata.normalize(on_disk, other))
    rewrite(folder, lambda path: unicodedata.normalize(in_table, other) if path == name else path)
    assert check_dataset(str(folder)).table.missing == ()


def test_spaces_around_names_which_fields_of_tables_have_none_of_are_no_difference(folder: Path) -> None:
    (folder / "audios").rename(folder / "audios ")
    (folder / "audios " / "train_0_0.wav").rename(folder / "audios " / " train_0_0.wav")
    assert check_dataset(str(folder)).table.missing == ()


def test_a_path_in_windows_1252_is_found_by_the_name_that_it_means(folder: Path) -> None:
    (folder / "audios" / "train_0_0.wav").rename(folder / "audios" / "Hühner.wav")
    table = folder / "train.csv"
    table.write_bytes(table.read_text().replace("train_0_0", "Hühner").encode("cp1252"))
    assert check_dataset(str(folder)).table.missing == ()


def test_what_fits_several_files_or_rows_is_not_guessed_at(folder: Path) -> None:
    audios = folder / "audios"
    (folder / "again").mkdir()
    shutil.copy(audios / "train_0_0.wav", folder / "again" / "train_0_0.wav")
    (audios / "train_0_1.wav").rename(folder / "again" / "lone.wav")
    moved = {"audios/train_0_0.wav": "x/train_0_0.wav", "audios/train_0_1.wav": "x/lone.wav"}
    rewrite(folder, lambda path: moved.get(path, path).replace("audios/train_0_2", "y/lone"))
    check = check_dataset(str(folder))
    assert set(check.table.missing) == {"x/train_0_0.wav", "x/lone.wav", "y/lone.wav"}
    notes = " ".join(check.table.notes)
    assert "again/train_0_0.wav and audios/train_0_0.wav bear the same name: which is meant?" in notes
    assert "again/lone.wav: several rows may mean this file" in notes


def test_the_folder_before_it_decides_between_files_of_one_name(tmp_path: Path) -> None:
    for site in ("a", "b"):
        (tmp_path / "sounds" / site).mkdir(parents=True)
        (tmp_path / "sounds" / site / "1.wav").write_bytes(site.encode())
    found = find_files(tmp_path, ["/data/A/1.WAV", "/data/B/1.WAV"])
    assert [(tmp_path / path).read_bytes() for path in found.paths] == [b"a", b"b"]
    assert found.sizes.tolist() == [1, 1]


def test_nothing_outside_the_folder_is_ever_read(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.wav"
    shutil.copy(folder / "audios" / "train_0_0.wav", outside)
    rewrite(folder, lambda path: str(outside) if path == "audios/train_0_0.wav" else path)
    assert check_dataset(str(folder)).table.missing == (str(outside).lstrip("/"),)


def test_a_table_of_which_nothing_is_found_is_an_error_with_the_nearest_name(folder: Path) -> None:
    rewrite(folder, lambda path: path.replace("audios/", "sound/").replace("_", "-"))
    with pytest.raises(DataError) as caught:
        read_dataset(str(folder))
    assert str(caught.value) == (
        f"{folder}: none of the 12 files of Tones is here, e.g. sound/train-0-0.wav; the nearest of 12 is "
        "audios/train_0_0.wav: paths are relative to the dataset's folder"
    )


def test_audio_that_is_away_is_an_error_that_says_so(folder: Path) -> None:
    shutil.rmtree(folder / "audios")
    for present in ([], ["empty.wav"]):
        for name in present:
            (folder / name).write_bytes(b"")
        with pytest.raises(
            DataError, match=r"Tones: (no audio file lies here, 12 are wanted|none of the 12)"
        ):
            read_dataset(str(folder))


def test_many_missing_files_are_said_first(folder: Path) -> None:
    (folder / "test.csv").write_text((folder / "test.csv").read_text() + "audios/train_0_0.wav,low tone\n")
    for file in (folder / "audios").glob("test_*"):
        file.unlink()
    notes = read_dataset(str(folder)).notes
    assert notes[0].startswith("4 of 12 files are missing or empty, e.g. audios/test_0_0.wav; all of them:")
    assert "in both train and test" in notes[1]


def test_what_the_file_system_adds_and_what_is_hidden_is_passed_over_and_counted(tmp_path: Path) -> None:
    for name in (
        "a.WAV",
        "sub/b.Ogg",
        "c.m4a",
        "._a.WAV",
        "sub/Thumbs.db",
        ".DS_Store",
        "__MACOSX/a.WAV",
        ".git/x.wav",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    listing = list_files(tmp_path)
    assert listing.files == ("a.WAV", "c.m4a", "sub/b.Ogg")
    assert listing.audio == ["a.WAV", "sub/b.Ogg"]
    assert [note.split(" ")[0] for note in listing.notes] == ["4", "1"]
    assert "(.m4a); convert them, e.g.: ffmpeg -i x.m4a x.wav" in listing.notes[1]


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.wav").write_bytes(b"x")
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(root)
    assert list_files(root).files == ("link/a.wav",)


def test_what_a_system_keeps_to_itself_on_a_drive_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.wav", "lost+found/x", ".Trashes/x", "System Volume Information/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    scandir = os.scandir

    def as_a_user(folder: str):  # type: ignore[no-untyped-def]
        if not tmp_path.samefile(folder):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", as_a_user)
    assert list_files(tmp_path).files == ("a.wav",)
    (tmp_path / "wren").mkdir()
    with pytest.raises(DataError, match="wren: cannot be opened: Permission denied"):
        list_files(tmp_path)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_may_not_be_opened_is_one_line(folder: Path) -> None:
    (folder / "audios").chmod(0)
    rewrite(folder, str.upper)
    try:
        with pytest.raises(DataError, match="audios: cannot be opened: Permission denied"):
            read_dataset(str(folder))
    finally:
        (folder / "audios").chmod(0o755)


def test_a_name_that_no_file_can_have_is_one_line() -> None:
    with pytest.raises(DataError, match="cannot be read: File name too long"):
        read_dataset("x" * 300)


class QuietServer(http.server.SimpleHTTPRequestHandler):
    """Serves files, and folders as pages of links if ``lists``."""

    lists = True

    def log_message(self, *words: object) -> None:
        pass

    def list_directory(self, path: str | os.PathLike[str]):  # type: ignore[no-untyped-def]
        if self.lists:
            return super().list_directory(path)
        return self.send_error(403)


@pytest.fixture(params=[True, False], ids=["with lists", "without lists"])
def website(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    handler = type("Handler", (QuietServer,), {"lists": request.param})
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(handler, directory=str(tmp_path))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_dataset_on_the_web_has_its_files(website: str, folder: Path) -> None:
    odd = "audios/träin #1 50%.wav"
    (folder / "audios" / "train_0_0.wav").rename(folder / odd)
    rewrite(folder, lambda path: odd if path == "audios/train_0_0.wav" else path)
    check = check_dataset(f"{website}/Tones")
    assert check.sound
    assert check.table.source == f"{website}/Tones"
    assert check.table.clips[0].name == odd
    assert check.table.clips[0].file.read_bytes() == (folder / odd).read_bytes()
    (folder / "audios" / "test_0_0.wav").unlink()
    assert check_dataset(f"{website}/Tones").table.missing == ("audios/test_0_0.wav",)


def test_sounds_of_a_table_may_lie_on_a_website(website: str, folder: Path) -> None:
    table = folder / "few.csv"
    table.write_text("path,label\ntrain_0_0.wav,low\ntest_1_0.wav,high\n")
    read = read_dataset(str(table), place(f"{website}/{folder.name}/audios"))
    assert ([*read.clips.names], read.missing) == (["train_0_0.wav", "test_1_0.wav"], ())


def test_below_the_root_of_a_disk_no_file_is_looked_for(tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav", 300, seconds=0.1)
    table = tmp_path / "x.csv"
    table.write_text(f"path,label\n{tmp_path}/a.wav,low\n{tmp_path}/gone.wav,high\n")
    read = read_dataset(str(table), Path("/"))
    assert read.missing == (f"{tmp_path}/gone.wav".lstrip("/"),)
    assert list_files(Path("/")).files == ()
