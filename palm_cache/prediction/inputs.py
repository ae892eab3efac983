"""From what was typed to files: single files, folders, patterns, a list on standard input."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from palm_cache.errors import DataError, did_you_mean, without_credentials
from palm_cache.extraction.audio.folders import audio_below
from palm_cache.prediction.answers import Failure, printable
from palm_cache.store.nearby import respelt

STDIN = "-"

_AUDIO_STARTS = (b"RIFF", b"RF64", b"fLaC", b"OggS", b"ID3", b"FORM")


def find_recordings(inputs: Iterable[str], read_stdin: Callable[[], bytes]) -> list[Path | Failure]:
    """Return the files behind the inputs, each once, in the order of the inputs.

    Parameters
    ----------
    inputs : iterable of str
        Files, whatever they are called; folders, searched below for audio as
        :func:`~palm_cache.extraction.audio.folders.audio_below` does; patterns with ``*``, ``?``, ``[...]``
        and ``**``; ``-`` for paths on standard input.
    read_stdin : callable
        Returns what is on standard input: paths, one a line, or each ended by a NUL (``find -print0``);
        ``bytes`` returns none.

    Raises
    ------
    DataError
        If standard input holds audio.
    """
    recordings: dict[object, Path | Failure] = {}
    for text in inputs:
        names = _listed(read_stdin()) if text == STDIN else [text]
        if not names:
            recordings[STDIN] = Failure(STDIN, "no paths on standard input")
        for name in names:
            for entry in _behind(name):
                # However it is spelt, a file is one; links, which resolve() follows, are names of their own.
                itself = entry if isinstance(entry, Failure) else os.path.abspath(entry)  # noqa: PTH100
                recordings.setdefault(itself, entry)
    return list(recordings.values())


def _listed(content: bytes) -> list[str]:
    if content.startswith(_AUDIO_STARTS):
        raise DataError("standard input holds audio, not a list of paths; write it to a file and name that")
    lines = content.split(b"\0") if b"\0" in content else content.splitlines()
    return [os.fsdecode(line) for line in lines if line]


def _behind(text: str) -> Iterator[Path | Failure]:
    # os.path, not pathlib: no name is too long or too odd for it.
    if os.path.isdir(text):  # noqa: PTH112
        yield from _in_folder(text)
    elif "://" in text:
        yield Failure(without_credentials(text), "is a URL; fetch the file and name it here")
    elif os.path.lexists(text):
        yield Path(text)
    elif not glob.has_magic(text):
        path = Path(text)
        yield Failure(printable(path), "; ".join(filter(None, ["no such file", did_you_mean(respelt(path))])))
    else:
        folder = text
        while folder and not os.path.isdir(folder):  # noqa: PTH112
            folder = os.path.dirname(folder)  # noqa: PTH120
        # A folder that is there is no pattern, whatever it is called.
        pattern = glob.escape(folder) + text[len(folder) :]
        matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207
        if not matches:
            yield Failure(text, "no file is called like this")
        for match in matches:
            if Path(match).is_dir():
                yield from _in_folder(match)
            else:
                yield Path(match)


def _in_folder(folder: str) -> Iterator[Path | Failure]:
    problems: list[OSError] = []
    empty = True
    for path in audio_below(folder, problems.append):
        empty = False
        yield path
    for problem in problems:
        yield Failure(str(problem.filename), f"cannot be opened: {problem.strerror}")
    if empty and not problems:
        yield Failure(folder, "no audio files in this folder")
