"""Where a fitted head is read from: a file of many or of one, a folder with either, or a hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from palm_cache.prediction.hub_heads import HubAddress, fetch_head
from palm_cache.store.layout import SHARED_ENDING
from palm_cache.store.nearby import heads_file
from palm_cache.types import AnyPath


@dataclass(frozen=True, slots=True)
class HeadSource:
    """A file on this machine, and what it is called."""

    file: Path
    name: str
    """Its path; of what came from a hub, the address with the commit."""
    folder: Path
    """Where results go that belong beside it: of what came from a hub, the current folder."""

    @property
    def many(self) -> bool:
        """Whether it is a heads file, to which runs and calibrations can be added."""
        return self.file.suffix != SHARED_ENDING


def find_heads(given: AnyPath) -> HeadSource:
    """Return the file that is meant; what lies on a hub is fetched.

    Parameters
    ----------
    given : path
        A ``heads.h5``, an exported ``.safetensors``, a folder with ``heads.h5`` or ``head.safetensors``, or
        ``hf://user/name`` with ``@REVISION`` behind it or not.

    Raises
    ------
    ParameterError
        If it begins like an address of a hub, but is none.
    PlaceError, StoreError
        If the hub does not answer, or does not have it; or if there is no such file here.
    """
    if (address := HubAddress.parse(given)) is not None:
        file, pinned = fetch_head(address)
        return HeadSource(file, str(pinned), Path())
    path = heads_file(given)
    return HeadSource(path, str(path), path.parent)
