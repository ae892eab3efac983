"""Audio files in folders."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from palm_cache.types.audio_names import is_audio_name

JUNK_FOLDERS = {"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found"}
"""What file systems and archivers add, lower case."""


def audio_below(
    folder: str | Path, onerror: Callable[[OSError], object] = lambda error: None
) -> Iterator[Path]:
    """Yield what is called like audio in a folder and below, in the order of names.

    Hidden folders and the system's own are left out. Links are followed, but no folder is entered twice: they
    may lead in circles.

    Parameters
    ----------
    onerror : callable
        Is told which folder cannot be opened.
    """
    seen = {os.path.realpath(folder)}
    for parent, folders, names in os.walk(folder, onerror=onerror, followlinks=True):
        visible = (name for name in sorted(folders) if name[0] != "." and name.lower() not in JUNK_FOLDERS)
        real = {name: os.path.realpath(Path(parent, name)) for name in visible}
        here = os.path.realpath(parent)
        folders[:] = [name for name, path in real.items() if path not in seen and not _holds(path, here)]
        seen.update(real[name] for name in folders)
        yield from (Path(parent, name) for name in sorted(names) if is_audio_name(name))


def _holds(folder: str, inner: str) -> bool:
    return Path(inner).is_relative_to(folder)
