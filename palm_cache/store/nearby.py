"""What lies at a place that is not what was asked for, and which place may have been meant."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from palm_cache.errors import AbsentStoreError, ParameterError, StoreError, did_you_mean, near
from palm_cache.store.layout import (
    FEATURES,
    HEADS_FILE,
    RUNS,
    SHARED_FILE,
    STORE_ENDING,
    STORE_ROOT,
    command_line,
    extract_command,
)
from palm_cache.store.places import place
from palm_cache.store.remedies import command_of_store
from palm_cache.types import AnyPath, AnyPlace, Place

DEPTH = 3
"""Folders below one in which is looked for what was meant."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of result that has a place."""

    name: str
    patterns: tuple[str, ...]
    """How files or folders of this kind are called."""
    home: Path
    """Where they lie by default."""

    def below(self, folder: Path) -> list[Path]:
        """Return all that lie in a folder or some levels below, those of killed processes left out."""
        found = {
            path
            for depth in range(DEPTH)
            for pattern in self.patterns
            for path in folder.glob("*/" * depth + pattern)
            if not path.name.startswith(".") and self._is_one(path)
        }
        return sorted(found)

    def meant(self, given: Path) -> list[Path]:
        """Return what may have been meant by a place where there is none."""
        if found := self.below(given) or self.below(given / self.home):
            return found
        for folder in (*respelt(given), *_namesakes(given, self.home)):
            if found := [folder] if self._is_one(folder) else self.below(folder):
                return found
        return []

    def _is_one(self, path: Path) -> bool:
        """Tell whether a place is called like one and, if it is a folder, holds what a store does."""
        named = any(path.match(pattern) for pattern in self.patterns)
        return named and (not path.is_dir() or (path / STORE_ROOT).is_file())


STORE = Kind("feature store", (f"*{STORE_ENDING}",), Path(FEATURES))
HEADS = Kind("heads", (HEADS_FILE, SHARED_FILE), RUNS)


def respelt(given: Path) -> list[Path]:
    """Return the paths that are there and differ from one that is not in the spelling of one part."""
    # os.path, not pathlib: no name is too long or too odd for it.
    parent = next((folder for folder in given.parents if os.path.isdir(folder)), None)  # noqa: PTH112
    if parent is None or os.path.exists(given):  # noqa: PTH110
        return []
    wrong, *rest = given.relative_to(parent).parts
    # An ending alone makes no two names alike.
    alike = [name for name in near(wrong, _names(parent)) if near(Path(wrong).stem, [Path(name).stem])]
    paths = [parent / name for name in alike]
    return [whole if (whole := path.joinpath(*rest)).exists() else path for path in paths]


def _namesakes(given: Path, home: Path) -> Iterator[Path]:
    """Yield the folders of a home that are called like a part of a path, its last part first."""
    names = _names(home)
    yield from (home / part for part in reversed(given.parts) if part in names)
    if not given.exists():
        yield from (home / name for name in near(given.name, names))


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def folder_given(given: AnyPlace, parameter: str) -> Place:
    """Return the place of a folder that is read, or made where there is none.

    Raises ``ParameterError`` if a file is there, which was given as ``parameter``, by its name in Python.
    """
    where = place(given)
    if isinstance(where, Path) and where.is_file():
        raise ParameterError(f"`{parameter}` {where}: a file; give a folder")
    return where


def heads_file(given: AnyPath) -> Path:
    """Return the file with heads that is meant: itself, or the one in a folder.

    Raises ``StoreError`` if there is none; what may have been meant is named.
    """
    path = Path(given)
    inside = (path / name for name in (HEADS_FILE, SHARED_FILE))
    file = next((file for file in inside if file.is_file()), None) if path.is_dir() else path
    if file is None or not file.exists():
        raise absent_heads(path)
    return file


def absent_heads(path: Path) -> StoreError:
    """Return the error that there are no heads at a path, with what may have been meant."""
    store = path if (path / STORE_ROOT).is_file() else None
    return StoreError(_absence(path, HEADS, f"fit some with: {command_line('fit', store=store)}"))


def absent_store(path: Place) -> AbsentStoreError:
    """Return the error that there is no feature store at a place, with what may have been meant."""
    return AbsentStoreError(_absence(path, STORE, f"make it with: {_command(path)}"))


def _absence(path: Place, wanted: Kind, remedy: str) -> str:
    """Say that something is not there, what is instead, and what to do."""
    with suppress(OSError):  # a folder that may not be looked into
        if isinstance(path, Path):
            meant = [other for other in wanted.meant(path) if other.absolute() != path.absolute()]
            hint = did_you_mean(meant)
            if hint and path.name.endswith(STORE_ENDING) and not path.exists():
                hint = f"{hint} If not, {remedy}"
            return f"{path}: {_instead(path, wanted)}; {hint or remedy}"
    return f"{path}: no {wanted.name} here; {remedy}"


def _instead(path: Path, wanted: Kind) -> str:
    if not path.exists():
        return f"no {wanted.name} here"
    if (path / STORE_ROOT).is_file():
        if wanted is STORE:  # there now, or half copied
            return "no finished feature store here"
        what = "a feature store"
    elif path.is_file():
        what = f"a file ({path.suffix or 'without ending'})"
    else:
        what = "fitted heads" if (path / HEADS_FILE).is_file() else "a folder"
    return f"{what}, no {wanted.name}"


def _command(path: Place) -> str:
    """Return what makes a store at a place, or of a dataset there."""
    if path.name.endswith(STORE_ENDING):
        return command_of_store(path)
    if path.suffix == ".h5" and path.is_file():
        return command_line("store", "export", str(path), str(path.with_suffix(STORE_ENDING)))
    return extract_command(str(path) if path.name and path.is_dir() else "NAME_OR_DIR")
