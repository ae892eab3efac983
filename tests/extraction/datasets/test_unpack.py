from __future__ import annotations

import zipfile
from pathlib import Path
from random import Random

import pytest

from palm_cache.errors import DataError
from palm_cache.extraction.datasets.unpack import unpack


def pack(file: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(file, "w") as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return file


def found(folder: Path) -> dict[str, bytes]:
    return {
        file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"a.csv": b"1", "x/b.wav": b"2"}, {"a.csv": b"1", "x/b.wav": b"2"}),
        ({"Data/": b"", "Data/a.csv": b"1", "Data/x/b.wav": b"2"}, {"a.csv": b"1", "x/b.wav": b"2"}),
        ({"audios/b.wav": b"2"}, {"audios/b.wav": b"2"}),
        ({"Data/a": b"1", "b": b"2"}, {"Data/a": b"1", "b": b"2"}),
        ({"Data/a": b"1", "__MACOSX/Data/._a": b"x", "Data/.DS_Store": b"x"}, {"a": b"1"}),
    ],
    ids=["flat", "in a folder of the same name", "in another folder", "mixed", "by macOS"],
)
def test_everything_lands_in_the_folder(
    members: dict[str, bytes], expected: dict[str, bytes], tmp_path: Path, folder: Path
) -> None:
    archive = pack(tmp_path / "Data.zip", members)
    for _ in range(2):  # as after an interruption
        unpack(archive, folder)
        assert found(folder) == expected


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/evil", "C:/evil", "a/../b"])
def test_no_path_leads_out_and_then_nothing_is_written(name: str, tmp_path: Path, folder: Path) -> None:
    archive = pack(tmp_path / "Data.zip", {"good": b"1", name: b"2"})
    with pytest.raises(DataError, match="which leaves the folder; nothing was unpacked"):
        unpack(archive, folder)
    assert found(tmp_path) == {"Data.zip": archive.read_bytes()}


def test_a_flipped_bit_is_noticed(tmp_path: Path, folder: Path) -> None:
    archive = pack(tmp_path / "Data.zip", {"a.wav": b"sound" * 100})
    content = bytearray(archive.read_bytes())
    content[content.index(b"sound") + 7] ^= 1
    archive.write_bytes(content)
    with pytest.raises(DataError, match=r"Data\.zip: cannot be unpacked: Bad CRC-32 .*; remove it and run"):
        unpack(archive, folder)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_names_the_archive_however_it_is_packed(method: int, tmp_path: Path, folder: Path) -> None:
    archive = tmp_path / "Data.zip"
    with zipfile.ZipFile(archive, "w", method) as opened:
        opened.writestr("a.wav", Random(0).randbytes(10_000))
    content = bytearray(archive.read_bytes())
    content[60:100] = bytes(40)
    archive.write_bytes(content)
    with pytest.raises(DataError, match=r"Data\.zip: cannot be unpacked: .*; remove it and run"):
        unpack(archive, folder)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut off"])
def test_what_is_no_archive_is_said(content: bytes, tmp_path: Path, folder: Path) -> None:
    archive = tmp_path / "Data.zip"
    archive.write_bytes(content)
    with pytest.raises(DataError, match=r"Data\.zip: cannot be unpacked: File is not a zip file"):
        unpack(archive, folder)


def test_an_encrypted_member_is_named_before_anything_is_written(tmp_path: Path, folder: Path) -> None:
    archive = pack(tmp_path / "Data.zip", {"a.wav": b"1", "b.wav": b"2"})
    content = bytearray(archive.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1  # the flag of the last member in the list
    archive.write_bytes(content)
    with pytest.raises(DataError, match=r"b\.wav is encrypted; unpack the archive yourself"):
        unpack(archive, folder)
    assert found(folder) == {}
