"""Audacity's label tracks: one line ``start TAB end TAB label`` per stretch, in seconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from palm_cache.errors import ParameterError, visible
from palm_cache.prediction.answers import printable
from palm_cache.store.atomic import GrowingFile, keep_inputs


class LabelTracks:
    """Label files of recordings that come one after the other, written through line by line.

    Parameters
    ----------
    target : Path
        The file of a single recording; of several, the folder that gets ``<file name>.txt`` for each.
    recordings : sequence of Path

    Raises
    ------
    ParameterError
        If two recordings in different folders have one name.
    OutputError
        If a label file would take a recording's place.
    """

    def __init__(self, target: Path, recordings: Sequence[Path]) -> None:
        self._files = {printable(path): target / f"{path.name}.txt" for path in recordings}
        if len(recordings) == 1:
            self._files = {printable(recordings[0]): target}
        twice = [file for file, count in Counter(self._files.values()).items() if count > 1]
        if twice:
            raise ParameterError(
                f"{twice[0]}: two recordings are called {twice[0].stem}; "
                "label them in two calls, into two folders"
            )
        keep_inputs(self._files.values(), recordings, "audacity")
        self._path: str | None = None
        self._file: GrowingFile | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
            if self._file is not None:
                self._file.close()
            self._file, self._path = GrowingFile(self._files[path], "audacity"), path
        if label is not None:
            self._file.write(f"{start:.6f}\t{end:.6f}\t{visible(label)}\n")
