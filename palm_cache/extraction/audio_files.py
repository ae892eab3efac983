"""Audio files in folders: what they are called, the one list for all who look, and where they are."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath

READABLE_ENDINGS = (
    *(".wav", ".wave", ".bwf", ".w64", ".rf64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".mp1"),
    *(".mpga", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf"),
)
OTHER_ENDINGS = (
    *(".m4a", ".m4b", ".aac", ".alac", ".wma", ".amr", ".3ga", ".ape", ".wv", ".mka", ".tta", ".mpc"),
    *(".ac3", ".dts", ".ra", ".spx", ".weba"),
)
"""Audio that libsndfile cannot decode: named as such rather than passed over in silence."""

AUDIO_ENDINGS = frozenset((*READABLE_ENDINGS, *OTHER_ENDINGS))


def is_audio_name(path: str | PurePath) -> bool:
    """Tell whether a file is called like audio, in small letters or capitals, and is not hidden."""
    path = PurePath(path)
    return path.suffix.lower() in AUDIO_ENDINGS and not path.name.startswith(".")


def audio_below(
    folder: str | Path, onerror: Callable[[OSError], object] = lambda error: None
) -> Iterator[Path]:
    """Yield what is called like audio in a folder and below, in the order of names, hidden folders left out.

    Links are followed, but no folder is entered twice: they may lead in circles.

    Parameters
    ----------
    onerror : callable
        Is told which folder cannot be opened.
    """
    seen = {os.path.realpath(folder)}
    for parent, folders, names in os.walk(folder, onerror=onerror, followlinks=True):
        real = {name: os.path.realpath(Path(parent, name)) for name in sorted(folders) if name[0] != "."}
        here = os.path.realpath(parent)
        folders[:] = [name for name, path in real.items() if path not in seen and not _holds(path, here)]
        seen.update(real[name] for name in folders)
        yield from (Path(parent, name) for name in sorted(names) if is_audio_name(name))


def _holds(folder: str, inner: str) -> bool:
    return Path(inner).is_relative_to(folder)
