"""Clips inside containers: unpacked once into this machine's cache, and read from there like any folder.

::

    ~/.cache/palm-cache/members/<hash of the dataset's place>/<container>/
    ├── <clips>
    └── .members.json        what the container says of every clip, and which state of it was unpacked
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from palm_cache.extraction.datasets.texts import TextTable
from palm_cache.store.atomic import parse_json, write_errors
from palm_cache.store.places import folder
from palm_cache.store.places.local import LocalFolder
from palm_cache.types import Place

if TYPE_CHECKING:
    from palm_cache.store.prune import Waste

INDEX = ".members.json"

READ_ANEW = "2"
"""Raised when containers are read otherwise: what was unpacked of them before is unpacked again."""

SOURCE = ".source"
"""File that says where the dataset lies whose containers are unpacked in a folder."""

Members = list[tuple[str, dict[str, str]]]
"""File names in the container's folder, with what the container says of them."""


@dataclass(frozen=True, slots=True)
class Member:
    """One clip of a container."""

    name: str
    """What the container calls it, with an audio ending."""
    content: bytes
    fields: dict[str, str]
    """What else the container says of it; complete when all of the container has been read."""


def members_root(source: str) -> Path:
    """Return the folder in which a dataset's containers are unpacked, by the dataset's place."""
    return _all_members() / hashlib.sha256(source.encode()).hexdigest()[:32]


def _all_members() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path("~", ".cache").expanduser()
    return Path(cache, "palm-cache", "members")


def members_waste(below: Path) -> list[Waste]:
    """Return what was unpacked of datasets that lay in a folder or below it and are not there any more.

    All projects of a user share the place of what is unpacked, and a drive that is not mounted now looks like
    datasets that are gone: nobody but who names the folder can tell.
    """
    from palm_cache.store.prune import Waste  # which brings torch, and tables of datasets do without

    waste = []
    for marked in sorted(_all_members().glob(f"*/{SOURCE}")):
        source = marked.read_text(encoding="utf-8", errors="surrogateescape")
        if "://" in source or Path(source).exists():
            continue
        if not Path(source).resolve().is_relative_to(below.resolve()):  # a link may lead to a drive
            continue
        sizes = folder(marked.parent).files()
        why = f"unpacked of {source}, which is not there any more"
        waste.append(Waste(marked.parent, tuple(sizes), sum(sizes.values()), why))
    return waste


def unpacked(
    container: Place, name: str, source: str, read: Callable[[Place], Iterable[Member]]
) -> tuple[TextTable, bool]:
    """Unpack a container, unless it has been and has not changed since.

    Parameters
    ----------
    container : Place
        A file.
    name : str
        Its path inside the dataset.
    source : str
        Where the dataset lies.
    read : callable
        Reads its members.

    Returns
    -------
    table : TextTable
        A row per member; the column ``path`` is relative to :func:`members_root`.
    now : bool
        Whether it was unpacked just now.

    Raises
    ------
    OutputError
        If the cache cannot be written.
    """
    root = members_root(source)
    target = root / PurePosixPath(name).with_suffix("")
    state = _state(container)
    members = _read_index(target, state)
    now = members is None
    if members is None:
        with write_errors(root, "XDG_CACHE_HOME"):
            root.mkdir(parents=True, exist_ok=True)
            (root / SOURCE).write_text(source, encoding="utf-8", errors="surrogateescape")
            with LocalFolder(target).workspace() as temporary:
                members = _unpack(read(container), temporary, state)
                if target.exists():
                    shutil.rmtree(target)
                temporary.rename(target)
    inside = target.relative_to(root).as_posix()
    header = ("path", *dict.fromkeys(key for _, fields in members for key in fields if key != "path"))
    records = tuple(
        (number, (f"{inside}/{file}", *(fields.get(key, "") for key in header[1:])))
        for number, (file, fields) in enumerate(members, start=1)
    )
    return TextTable(name, header, records), now


def _state(container: Place) -> list[str]:
    """Return what changes when the container does, or what is made of it."""
    status = container.stat()
    if isinstance(container, Path):
        return [READ_ANEW, str(status.st_size), str(status.st_mtime_ns)]
    return [READ_ANEW, str(status.st_size), container.fs.ukey(container.path)]


def _unpack(members: Iterable[Member], folder: Path, state: list[str]) -> Members:
    written: Members = []
    for number, member in enumerate(members):
        # Its own name is for people; the number keeps two of one name apart, and it leads nowhere.
        name = re.sub(r"[^\w.-]+", "_", PurePosixPath(member.name.replace("\\", "/")).name)[-100:]
        file = f"{number:06}-{name}"
        (folder / file).write_bytes(member.content)
        written.append((file, member.fields))
    index = {"state": state, "members": written}
    (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")
    return written


def _read_index(folder: Path, state: list[str]) -> Members | None:
    """Return what was unpacked, or ``None`` if nothing was of this state."""
    try:
        index = parse_json((folder / INDEX).read_text(encoding="utf-8"))
        return index["members"] if index["state"] == state else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
