"""What was found as files in a folder of its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import soundfile

from palm_cache.errors import AudioError
from palm_cache.extraction.audio.decoding import decoding
from palm_cache.extraction.audio.waveforms import Excerpt, open_regular
from palm_cache.retrieval.find import SearchResult
from palm_cache.store.atomic import write_errors
from palm_cache.types import Place
from palm_cache.types.stretches import stretch_text

MEGABYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class Copies:
    """What became of the files."""

    files: tuple[Path, ...]
    notes: tuple[str, ...]
    """Files that were there already and are left as they are, and rows that cannot be read."""


def copy_found(result: SearchResult, folder: Path) -> Copies:
    """Copy the file of every row into a folder, named by its rank; a row that is a stretch is cut out as WAV.

    Nothing that lies there is overwritten.

    Raises
    ------
    OutputError
        If the folder cannot be written.
    """
    copies, notes = [], []
    width = len(str(len(result.files)))
    with write_errors(folder, "copy"):
        folder.mkdir(parents=True, exist_ok=True)
    for rank, (row, file) in enumerate(zip(result.records(), result.files, strict=True), start=1):
        if file is None:
            notes.append(f"{row['path']}: {row['note']}")
            continue
        start, end = row["start"], row["end"]
        name = PurePosixPath(row["path"])
        stretch = stretch_text(start, end)
        ending = f" {stretch}.wav" if stretch else name.suffix
        target = folder / f"{rank:0{width}}-{name.stem}{ending}"
        if target.exists():
            notes.append(f"{target}: is there already and stays as it is")
            continue
        try:
            with write_errors(folder, "copy"), target.open("xb") as copy:
                try:
                    if stretch:
                        _cut(file, start, end, copy)
                    else:
                        copy.writelines(_content(file))
                except BaseException:
                    target.unlink()
                    raise
        except AudioError as error:
            notes.append(f"{row['path']}: {error}")
        else:
            copies.append(target)
    return Copies(tuple(copies), tuple(notes))


def _content(file: Place) -> Iterable[bytes]:
    with open_regular(file) as opened:
        while block := opened.read(MEGABYTE):
            yield block


def _cut(file: Place, start: float, end: float | None, target: object) -> None:
    """Write a stretch with all its channels."""
    with open_regular(file) as opened, decoding(opened) as sound:
        row = Excerpt.of(sound, (start, end))
        with soundfile.SoundFile(
            target, "w", sound.rate, sound.channels, format="WAV", subtype="PCM_24"
        ) as copy:
            for block in sound.blocks(row.first, row.first + row.frames):
                copy.write(block)
