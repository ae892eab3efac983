"""Which files lie below a dataset's folder, and which of them a table means.

Tables travel: paths are written with backslashes, with another case or ending, in another normal form, or as
they were on another machine. A path that is not there is looked for by its file name, and what fits several
files or rows is not guessed at.
"""

from __future__ import annotations

import os
import posixpath
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, takewhile
from math import nan
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote

import numpy as np
from numpy.typing import NDArray

from palm_cache.errors import DataError, counted
from palm_cache.extraction.audio.folders import JUNK_FOLDERS
from palm_cache.extraction.datasets.texts import legible
from palm_cache.store.places import reaching
from palm_cache.types import Place
from palm_cache.types.audio_names import AUDIO_ENDINGS, OTHER_ENDINGS, READABLE_ENDINGS

REQUESTS_AT_ONCE = 16

JUNK_FILES = {"thumbs.db", "desktop.ini", ".ds_store", "ehthumbs.db", ".localized"}
"""What file systems add, lower case."""


@dataclass(frozen=True)
class Listing:
    """All files below a folder, relative to it, with forward slashes, sorted."""

    files: tuple[str, ...]
    """Without hidden ones and what the file system adds."""
    junk: int
    """How many files the file system had added."""

    @cached_property
    def audio(self) -> list[str]:
        """The files that can be decoded, by their ending."""
        return self.ending_with(*READABLE_ENDINGS)

    @property
    def endings(self) -> list[str]:
        """The endings that there are, in lower case."""
        return sorted(self._by_ending)

    def ending_with(self, *endings: str) -> list[str]:
        """Return the files of some endings."""
        return sorted(chain.from_iterable(self._by_ending.get(one, ()) for one in endings))

    @cached_property
    def _by_ending(self) -> dict[str, list[str]]:
        # Once: of a million files it takes a second.
        files: dict[str, list[str]] = {}
        for path in self.files:
            files.setdefault(ending(path), []).append(path)
        return files

    @property
    def notes(self) -> list[str]:
        """What was passed over."""
        notes = []
        if self.junk:
            notes.append(
                f"{counted(self.junk, 'file')} that the file system added, skipped (._*, Thumbs.db ...)"
            )
        if others := self.ending_with(*OTHER_ENDINGS):
            kinds = [kind for kind in self.endings if kind in OTHER_ENDINGS]
            notes.append(
                f"{counted(len(others), 'file')} skipped that cannot be decoded ({', '.join(kinds)}); "
                f"convert them, e.g.: ffmpeg -i x{kinds[0]} x.wav"
            )
        return notes


def ending(path: str) -> str:
    """Return a path's ending in lower case."""
    return posixpath.splitext(path)[1].lower()


def folder_name(root: Place) -> str:
    """Return what a folder is called where it is named, not where a link leads.

    Raises
    ------
    DataError
        If it is the root of a disk.
    """
    name = os.path.basename(os.path.abspath(root)) if isinstance(root, Path) else root.name  # noqa: PTH100, PTH119
    if not name:
        raise DataError(f"{root}: a whole disk is no dataset; give a folder on it")
    return name


def is_junk(path: str) -> bool:
    """Tell whether a path, relative to the dataset's folder, is what a file system adds."""
    *folders, name = path.lower().split("/")
    return name.startswith("._") or name in JUNK_FILES or not JUNK_FOLDERS.isdisjoint(folders)


def list_files(root: Place) -> Listing:
    """List all files below a folder; links to folders are followed, each folder once.

    Below the root of a disk none are looked for: that would take hours, and lead through devices.

    Raises
    ------
    DataError
        If a folder cannot be read.
    PlaceError
        If it is remote and cannot be reached.
    """
    if isinstance(root, Path) and root.absolute() == root.absolute().parent:
        return Listing((), 0)
    paths = sorted(_walk(root) if isinstance(root, Path) else remote_sizes(root))
    junk = [path for path in paths if is_junk(path)]
    hidden = {path for path in paths if path.startswith(".") or "/." in path}.union(junk)
    return Listing(tuple(path for path in paths if path not in hidden), len(junk))


def remote_sizes(root: Place) -> dict[str, int | None]:
    """Return the files below a remote folder with their sizes, as far as it tells; nothing if it cannot list.

    Raises
    ------
    PlaceError
        If it cannot be reached.
    """
    over_http = _on_the_web(root)
    with reaching(root):
        try:
            entries = root.fs.find(root.path, detail=True)  # type: ignore[union-attr]  # no local one
        except Exception as error:
            if isinstance(error, FileNotFoundError) or _shows_no_lists(root, error):
                return {}
            raise
    sizes = {}
    for path, entry in entries.items():
        inside = path.removeprefix(root.fs._strip_protocol(root.path)).lstrip("/")  # type: ignore[union-attr]
        sizes[unquote(inside) if over_http else inside] = entry.get("size")
    return sizes


def below(root: Place, path: str) -> Place:
    """Return a file's place by its path below a folder."""
    return root / _spelled(root, path)


def _spelled(root: Place, path: str) -> str:
    """Return a path as it is joined to a folder: in a URL of the web, odd characters are escaped."""
    return quote(path) if set("#?%") & set(path) and _on_the_web(root) else path


def is_folder(where: Place) -> bool:
    """Tell whether there is a folder that can be listed."""
    try:
        return where.is_dir()
    except Exception as error:
        if _shows_no_lists(where, error):
            return False
        raise


def _on_the_web(where: Place) -> bool:
    return not isinstance(where, Path) and where.as_uri().startswith("http")


def _shows_no_lists(where: Place, error: Exception) -> bool:
    """Tell whether an error is that of a web server that gives files, but no lists of them."""
    return _on_the_web(where) and getattr(error, "status", None) in (403, 405)


def _walk(root: Path) -> Iterable[str]:
    problems: list[OSError] = []
    entered: set[str] = set()
    for folder, folders, names in os.walk(root, onerror=problems.append, followlinks=True):
        real = os.path.realpath(folder)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        # Of a folder and links to it, the folder itself gives its name, whatever order a disk lists them in.
        seen = [name for name in folders if name[0] != "."]
        folders[:] = sorted(seen, key=lambda name: (os.path.islink(os.path.join(folder, name)), name))  # noqa: PTH114, PTH118
        inside = Path(folder).relative_to(root).as_posix()
        yield from (name if inside == "." else f"{inside}/{name}" for name in names)
    for problem in problems:
        inside = Path(problem.filename).relative_to(root).as_posix()
        # Nothing lies there, or no longer; or it is the system's own, such as lost+found on a drive.
        if not (isinstance(problem, FileNotFoundError) or is_junk(f"{inside}/")):
            reason = f"cannot be opened: {problem.strerror}; change its permissions"
            raise DataError(f"{problem.filename}: {reason}")


@dataclass(frozen=True, slots=True)
class FoundFiles:
    """The files that the paths of a table mean."""

    paths: Sequence[str]
    """Of every path the one that is joined to the dataset's folder: mostly itself."""
    sizes: NDArray[np.float64]
    """(paths,) bytes; -1 where no file is, NaN where its place does not tell."""
    notes: tuple[str, ...]
    """What was found elsewhere than the table says, and what could not be told apart."""


def find_files(root: Place, paths: Sequence[str]) -> FoundFiles:
    """Find the file that every path of a table means.

    Parameters
    ----------
    root : Place
        The dataset's folder.
    paths : sequence of str
        Relative to it; bytes that are not UTF-8 as surrogates.

    Raises
    ------
    PlaceError
        If it is remote and cannot be reached.
    """
    found = paths if isinstance(root, Path) else [_spelled(root, path) for path in paths]
    size_of = sizes_below(root)
    sizes = size_of(paths)
    astray = np.flatnonzero(sizes < 0).tolist()
    if not astray:
        return FoundFiles(found, sizes, ())
    taken = set(paths).difference(paths[number] for number in astray)
    index = by_name(path for path in list_files(root).ending_with(*AUDIO_ENDINGS) if path not in taken)
    fitting = {number: candidates(paths[number], index) for number in astray}
    claims = Counter(matches[0] for matches in fitting.values() if len(matches) == 1)
    matches = {
        number: some[0]
        for number, some in fitting.items()
        if len(some) == 1 and claims[some[0]] == 1 and some[0] != paths[number]
    }
    found = [*found]
    for number, path in matches.items():
        found[number] = _spelled(root, path)
    sizes[list(matches)] = size_of(list(matches.values()))
    notes = []
    if matches:
        number, path = next(iter(matches.items()))
        example = f"{legible(paths[number])} at {legible(path)}"
        notes.append(f"{counted(len(matches), 'file')} found by name alone, e.g. {example}")
    several = next((some for some in fitting.values() if len(some) > 1), None)
    if several:
        notes.append(f"{several[0]} and {several[1]} bear the same name: which is meant? remove one of them")
    contested = next((path for path, count in claims.items() if count > 1), None)
    if contested is not None:
        notes.append(f"{contested}: several rows may mean this file, none by its own path; mend the table")
    return FoundFiles(found, sizes, tuple(notes))


def sizes_below(root: Place) -> Callable[[Sequence[str]], NDArray[np.float64]]:
    """Return what tells the sizes of files by their paths: see :class:`FoundFiles`.

    A remote folder is listed once instead of asked about every file; one that cannot be listed is asked.
    """
    if isinstance(root, Path):
        folder = os.path.join(root, "")  # noqa: PTH118  # as text: there may be a million
        return lambda paths: np.fromiter((_size(folder + path) for path in paths), float, len(paths))
    listed = remote_sizes(root)
    if listed:
        told = {path: nan if size is None else size for path, size in listed.items()}
        return lambda paths: np.array([told.get(path, -1) for path in paths], float)

    def asked(paths: Sequence[str]) -> NDArray[np.float64]:
        with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool, reaching(root):
            there = pool.map(lambda path: below(root, path).exists(), paths)
            return np.array([nan if one else -1 for one in there], float)

    return asked


def _size(file: str) -> int:
    try:
        status = os.stat(file)  # noqa: PTH116  # a million times, and Path.stat costs more
    except (OSError, ValueError):
        return -1
    return status.st_size if stat.S_ISREG(status.st_mode) else -1


def folded(path: str) -> str:
    """Return a path as those of other systems are compared with it: in slashes, normal form and case.

    Spaces around names are no part of it: they are none of a table's fields.
    """
    slashed = re.sub(r"\s*[\\/]\s*", "/", legible(path).strip())
    return unicodedata.normalize("NFC", slashed).casefold()


def by_name(files: Iterable[str]) -> dict[str, list[str]]:
    """Return files by their folded names, with and without ending."""
    index: dict[str, list[str]] = {}
    for path in files:
        name = PurePosixPath(folded(path))
        for key in {name.name, name.stem}:
            index.setdefault(key, []).append(path)
    return index


def candidates(path: str, index: dict[str, list[str]]) -> list[str]:
    """Return the files that agree with a path in its name, and in as many folders before it as any does."""
    target = PurePosixPath(folded(path))
    known = ending(target.name) in AUDIO_ENDINGS
    named = index.get(target.name) or (index.get(target.stem, []) if known else [])

    def upwards(file: PurePosixPath) -> list[str]:
        return [*file.parts[-2::-1], "the dataset's own folder"]

    def agreement(file: str) -> int:
        pairs = zip(upwards(target), upwards(PurePosixPath(folded(file))), strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    most = max(map(agreement, named), default=0)
    return [file for file in named if agreement(file) == most]
