"""Audacity's label tracks: one line ``start TAB end TAB label TAB`` per stretch, in seconds.

The last tab is how a track of ours is known: Audacity neither needs nor writes it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from palm_cache.errors import ParameterError, visible
from palm_cache.prediction.answers import printable
from palm_cache.store.atomic import GrowingFile, check_target
from palm_cache.store.outputs import LABEL_TRACK


class LabelTracks:
    """Label files of recordings that come one after the other, written through line by line.

    Parameters
    ----------
    target : Path
        With the ending ``.txt`` the file of a single recording, else the folder that gets
        ``<file name>.txt`` for each, in folders like those that the recordings lie in.
    recordings : sequence of Path

    Raises
    ------
    ParameterError
        If a file is named for several recordings, or a folder that is none.
    OutputError
        If a label file would take the place of anything but an earlier one of palm-cache.
    """

    def __init__(self, target: Path, recordings: Sequence[Path]) -> None:
        absolute = list(map(os.path.abspath, recordings))
        if target.suffix.lower() == ".txt":
            if len(recordings) > 1:
                raise ParameterError(
                    f"`audacity` {target}: is one file, for {len(recordings)} recordings; name a folder"
                )
            files = [target for _ in recordings]
        elif target.exists() and not target.is_dir():
            raise ParameterError(
                f"`audacity` {target}: is no folder; name one, or for one recording a file that ends in .txt"
            )
        else:
            above = os.path.commonpath(list(map(os.path.dirname, absolute))) if recordings else ""
            files = [target / f"{os.path.relpath(path, above)}.txt" for path in absolute]
        self._files = dict(zip(map(printable, recordings), files, strict=True))
        for file in self._files.values():
            check_target(file, "audacity", LABEL_TRACK)
        self.written = 0
        """How many recordings have a file by now."""
        self._path: str | None = None
        self._file: GrowingFile | None = None

    def close(self) -> None:
        """Write no more."""
        if self._file is not None:
            self._file.close()

    def write(self, path: str, start: float, end: float, label: str | None) -> None:
        """Add a stretch; one without a label only makes the file, so that an empty track shows.

        Raises
        ------
        OutputError
            If the file cannot be written.
        """
        if path != self._path or self._file is None:
            self.close()
            self._file, self._path = GrowingFile(self._files[path], "audacity", LABEL_TRACK), path
            self.written += 1
        if label is not None:
            self._file.write(f"{start:.6f}\t{end:.6f}\t{visible(label)}\t\n")
