"""Unpacking a dataset's archive: nothing outside its folder, everything with its checksum compared."""

from __future__ import annotations

import shutil
import zipfile
import zlib
from lzma import LZMAError
from pathlib import Path, PurePosixPath, PureWindowsPath

from palm_cache.errors import DataError, OutputError
from palm_cache.types import Progress, no_progress

MEGABYTE = 1_000_000

ENCRYPTED = 1
"""Bit of a member's flags."""


def megabytes(n_bytes: int) -> int:
    """Return a size for a progress bar, rounded up: nothing but nothing is 0 MB."""
    return -(-n_bytes // MEGABYTE)


def unpack(archive: Path, folder: Path, *, progress: Progress = no_progress) -> None:
    """Unpack a zip file; again after an interruption gives the same as once.

    A folder named like the archive, in which everything lies, is left out, and so is what macOS adds.

    Parameters
    ----------
    archive : Path
        The zip file.
    folder : Path
        Where its content goes.
    progress : callable
        Told how many MB are done, and of how many.

    Raises
    ------
    DataError
        If it is damaged, encrypted, or holds a path that leaves the folder: then nothing is written.
    OutputError
        If the disk has no room for it.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _destinations(opened, archive)
            total, written = sum(member.file_size for member in members), 0
            free = shutil.disk_usage(folder).free
            if total > free:
                raise OutputError(
                    f"{folder}: {archive.name} needs {megabytes(total):,} MB unpacked, "
                    f"{megabytes(free):,} are free; free some space and run the same command again"
                )
            for member, path in members.items():
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                # Reading to the end compares the checksum.
                with opened.open(member) as source, target.open("wb") as file:
                    shutil.copyfileobj(source, file)
                written += member.file_size
                progress(f"unpacking {archive.name}", megabytes(written), megabytes(total))
    # The last is zipfile's way of saying that it does not know a compression.
    except (zipfile.BadZipFile, zlib.error, LZMAError, OSError, EOFError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk, not of bzip2
            raise
        raise DataError(
            f"{archive}: cannot be unpacked: {error}; remove it and run the same command again"
        ) from error


def _destinations(opened: zipfile.ZipFile, archive: Path) -> dict[zipfile.ZipInfo, PurePosixPath]:
    """Return where every file of an archive goes, relative to the folder."""
    paths = {}
    for member in opened.infolist():
        path = PurePosixPath(member.filename)
        if path.is_absolute() or ".." in path.parts or PureWindowsPath(member.filename).drive:
            raise DataError(
                f"{archive}: holds {member.filename!r}, which leaves the folder; nothing was unpacked"
            )
        if member.flag_bits & ENCRYPTED:
            raise DataError(
                f"{archive}: {member.filename} is encrypted; unpack the archive yourself, with its password, "
                "and give the folder with `root`"
            )
        if not member.is_dir() and path.parts[0] != "__MACOSX" and path.name != ".DS_Store":
            paths[member] = path
    if all(path.parts[0] == archive.stem and len(path.parts) > 1 for path in paths.values()):
        return {member: PurePosixPath(*path.parts[1:]) for member, path in paths.items()}
    return paths
