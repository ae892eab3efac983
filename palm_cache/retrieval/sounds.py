"""Where the sounds of rows lie, as a user says it."""

from __future__ import annotations

from palm_cache.errors import DataError
from palm_cache.extraction.datasets.listing import is_folder
from palm_cache.store.places import place
from palm_cache.types import AnyPlace, Place


def sounds_folder(audio: AnyPlace | None) -> Place | None:
    """Return the dataset's folder that somebody names for one that has moved; ``None`` where nobody does.

    Raises ``DataError`` if there is no such folder.
    """
    if audio is None:
        return None
    folder = place(audio)
    if not is_folder(folder):
        raise DataError(f"`audio` {audio}: no such folder; give the dataset's, which paths are relative to")
    return folder
