"""Audio files into waveforms: decode, mono, resample, crop, cut into windows.

The same bytes give the same waveforms everywhere: nothing here is random, and where a long clip is
cropped follows from its content. Long files are read only where their views lie, or window by window, in
blocks.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from io import BufferedRandom, BufferedReader
from math import ceil, inf, nan
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor

from palm_cache.errors import AudioError, ReadingError, reason_of
from palm_cache.extraction.audio.decoding import Sound, decoding
from palm_cache.extraction.audio.downmix import SoundFacts, read_mono
from palm_cache.extraction.audio.resampling import (
    FILTER_WIDTH,
    ROLLOFF,
    resample,
    resampled_length,
    resampling_ratio,
)
from palm_cache.extraction.audio.window import Window
from palm_cache.store.places import OpenedFile, opened
from palm_cache.types import Place

BLOCK_SECONDS = 30
"""What :func:`slide` decodes and resamples at once."""

HASHED_BYTES = 1 << 20
"""Bytes that are read at once to be hashed."""

READER_VERSION = 4
"""Raise this whole number with every change that reads what was refused before: failures that were recorded
are then tried again. See also ``PREPROCESSING_VERSION`` in ``store/fingerprint.py``."""

Stretch = tuple[float, float | None]
"""Start and end in seconds of a file; an end of ``None`` is the file's."""


def decoder_version() -> str:
    """Name what decodes, to be recorded beside a failure: whether another one reads the file is open."""
    library, binding = soundfile.__libsndfile_version__, soundfile.__version__
    return f"libsndfile {library}, soundfile {binding}, reader {READER_VERSION}"


@contextmanager
def open_regular(path: Place) -> Iterator[OpenedFile]:
    """Open a file for reading if it is a regular one; nothing else is ever opened.

    A remote file is fetched whole: it is hashed whole anyway, and libsndfile reads by descriptor.

    Raises
    ------
    ReadingError
        If it is missing, not a regular file or not readable; also if reading fails later on.
    AudioError
        If it is empty.
    PlaceError
        If it is remote and its place cannot be reached.
    """
    try:
        if isinstance(path, Path):
            _check_regular(path.stat())
        opened_file = opened(path)
    except FileNotFoundError:
        raise ReadingError("no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ReadingError(f"cannot be opened: {reason_of(error)}") from error
    with opened_file as file:
        _check_regular(os.fstat(file.fileno()))
        try:
            yield file
        except OSError as error:
            raise ReadingError(f"cannot be read: {reason_of(error)}") from error


def _check_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kinds = {
            stat.S_IFDIR: "a directory",
            stat.S_IFIFO: "a named pipe",
            stat.S_IFSOCK: "a socket",
            stat.S_IFCHR: "a device",
            stat.S_IFBLK: "a device",
        }
        raise ReadingError(f"{kinds.get(stat.S_IFMT(status.st_mode), 'something odd')}, not a file")
    if status.st_size == 0:
        raise AudioError("the file is empty")


def content_hash(file: BufferedReader | BufferedRandom) -> str:
    """Return the sha256 of the content of a file in hexadecimal; it stands at its start, before and after.

    What is appended meanwhile is left out: it makes another content of another state.
    """
    left = os.fstat(file.fileno()).st_size
    content = file.peek()  # a small file is read once: what looks at its header then finds it in the buffer
    if len(content) == left:
        return hashlib.sha256(content).hexdigest()
    digest = hashlib.sha256()
    while content := file.read(min(HASHED_BYTES, left)):
        digest.update(content)
        left -= len(content)
    file.seek(0)
    return digest.hexdigest()


def read_views(
    file: BinaryIO,
    *,
    sample_rate: int,
    samples: int,
    views: int,
    content_sha256: str,
    stretch: Stretch | None = None,
    heard: SoundFacts | None = None,
) -> list[Tensor]:
    """Decode a file to mono waveforms at an encoder's sample rate.

    Parameters
    ----------
    file : binary file
        Seekable, at its start.
    sample_rate : int
        Hz, of the result.
    samples : int
        Longest view, in samples of the result.
    views : int
        View 0 is the centre; see :func:`crop_start` for the others.
    content_sha256 : str
        Hash of the file's content.
    stretch : tuple of float and (float or None), optional
        Start and end, in seconds, of the part of the file that counts as the clip, as if it were cut out
        into a file of its own; an end of ``None``, or beyond the file's, is the file's.
    heard : SoundFacts, optional
        Is told what the downmix does, and whether there is anything to hear.

    Returns
    -------
    list of Tensor, shape (at most samples,)
        float32, one per view. All views of a clip that is not longer than ``samples`` are the whole clip.

    Raises
    ------
    AudioError
        If the file cannot be decoded, is cut off, has no frames, holds NaN or infinity, has a sample
        rate that makes no sense, or ends before the stretch starts.
    ReadingError
        If the disk fails meanwhile.
    """
    with decoding(file) as sound:
        clip = Excerpt.of(sound, stretch, heard)
        ratio = resampling_ratio(sound.rate, sample_rate)
        total = resampled_length(clip.frames, ratio)
        if total <= samples:
            crops = [resample(clip.mono(0, clip.frames), ratio)] * views
        else:
            sound.check_end()
            starts = [crop_start(total, samples, view, content_sha256) for view in range(views)]
            crops = [_read_crop(clip, ratio, start, samples) for start in starts]
    for waveform in crops:
        clip.heard.get(waveform, sample_rate)
    return crops


def duration(file: BinaryIO) -> float:
    """Return how many seconds a file lasts.

    A header that does not say it costs a decoding of the whole file.

    Raises
    ------
    AudioError
        As :func:`read_views`.
    """
    with decoding(file) as sound:
        return sound.frames / sound.rate


def slide(
    file: BinaryIO,
    *,
    sample_rate: int,
    samples: int,
    hop: int | None,
    stretch: Stretch | None = None,
    heard: SoundFacts | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Read a recording of any length as windows that follow each other, in blocks.

    Parameters
    ----------
    file : binary file
        Seekable, at its start.
    sample_rate : int
        Hz, of the result.
    samples : int
        Length of a window, in samples of the result.
    hop : int or None
        From one window to the next, in samples of the result; the last window is moved back to end with
        the recording. ``None``: as few windows as cover the recording, evenly spaced.
    stretch : tuple of float and (float or None), optional
        The part of the file that counts as the recording, as in :func:`read_views`.
    heard : SoundFacts, optional
        As in :func:`read_views`, of what has been read so far.

    Yields
    ------
    start : int
        First sample of the window, from the start of the recording.
    waveform : Tensor, shape (samples,)
        float32; shorter only where the whole recording is. The same samples as in the recording decoded
        and resampled whole; where channels cancel each other, every block chooses for itself.

    Raises
    ------
    AudioError
        As :func:`read_views`; what lies before the damage has been read by then.
    """
    with decoding(file) as sound:
        clip = Excerpt.of(sound, stretch, heard)
        ratio = resampling_ratio(sound.rate, sample_rate)
        total = resampled_length(clip.frames, ratio)
        samples = min(samples, total)
        last = total - samples
        if hop is None:
            hop = samples
            starts = evenly_spaced(total, samples, ceil(total / samples))
        else:
            starts = [*range(0, last, hop), last]
        together = max(1, 1 + (BLOCK_SECONDS * sample_rate - samples) // hop)
        for number in range(0, len(starts), together):
            group = starts[number : number + together]
            block = _read_crop(clip, ratio, group[0], group[-1] + samples - group[0])
            clip.heard.get(block, sample_rate)
            for start in group:
                yield start, block[start - group[0] : start - group[0] + samples]


@dataclass(frozen=True, slots=True)
class Excerpt:
    """The frames of a sound that count as the clip."""

    sound: Sound
    first: int
    """Where the clip starts in the file."""
    frames: int
    heard: SoundFacts

    @classmethod
    def of(cls, sound: Sound, stretch: Stretch | None, heard: SoundFacts | None = None) -> Excerpt:
        """Find them; raises ``AudioError`` where the stretch does not lie in the sound."""
        start, end = stretch or (0.0, None)
        if not 0 <= start < inf:
            raise AudioError(f"the clip starts at {start:g} s")
        if end is not None and not start < end:
            raise AudioError(f"the clip ends at {end:g} s, where it has not begun: it starts at {start:g} s")
        first = round(start * sound.rate)
        last = sound.frames if end is None or end * sound.rate >= sound.frames else round(end * sound.rate)
        if first >= last:
            ends = sound.frames / sound.rate
            raise AudioError(f"the clip starts at {start:g} s, but its file ends at {ends:g} s")
        heard = heard or SoundFacts()
        heard.rate, heard.seconds = sound.rate, (last - first) / sound.rate
        return cls(sound, first, last - first, heard)

    def mono(self, start: int, stop: int) -> Tensor:
        """Return frames ``start`` to ``stop`` of the clip."""
        return read_mono(self.sound, self.first + start, self.first + stop, self.heard)


def crop_start(total: int, samples: int, view: int, content_sha256: str) -> int:
    """Return the first sample of a view of a clip of ``total`` samples: 0 to ``total - samples``.

    View 0 is the centre. The others lie where the hash of content and view number says, so that they
    are the same on every machine, whatever else is extracted.
    """
    room = total - samples
    if view == 0:
        return room // 2
    digest = hashlib.sha256(f"{content_sha256}:{view}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % (room + 1)


def n_windows(samples: int, window: Window) -> int:
    """Return into how many windows a waveform of so many samples is cut."""
    return min(window.max_windows, max(1, ceil(samples / window.samples)))


def cut_windows(waveform: Tensor, window: Window) -> Tensor:
    """Cut a waveform the way an encoder wants it.

    Parameters
    ----------
    waveform : Tensor, shape (n_samples,)
        At least one sample.

    Returns
    -------
    Tensor, shape (n_windows, window.samples)
        A clip that is shorter than a window is padded to one; a longer one is covered by as few windows
        as hold it, at most ``window.max_windows``, evenly spaced from its first sample to its last.
    """
    windows = torch.empty(n_windows(len(waveform), window), window.samples)
    fill_windows(windows.numpy(), waveform.numpy(), window)
    return windows


def fill_windows(windows: NDArray[np.float32], waveform: NDArray[np.float32], window: Window) -> None:
    """Write into ``windows`` what :func:`cut_windows` returns."""
    if len(waveform) < window.samples:
        _pad(windows[0], waveform, window)
        return
    for number, start in enumerate(evenly_spaced(len(waveform), window.samples, len(windows))):
        windows[number] = waveform[start : start + window.samples]


def evenly_spaced(total: int, samples: int, count: int) -> list[int]:
    """Return where ``count`` windows start, from 0 to the last that ends at ``total``; one is the centre."""
    if count == 1:
        return [(total - samples) // 2]
    return [round(number * (total - samples) / (count - 1)) for number in range(count)]


def _pad(padded: NDArray[np.float32], waveform: NDArray[np.float32], window: Window) -> None:
    times = 1 if window.padding == "nan" else len(padded) // len(waveform)
    end = times * len(waveform)
    padded[:end].reshape(times, -1)[:] = waveform
    rest = padded[end:]
    rest[:] = waveform[: len(rest)] if window.padding == "tile" else nan if window.padding == "nan" else 0.0


def _read_crop(clip: Excerpt, ratio: Fraction, start: int, samples: int) -> Tensor:
    """Read and resample just a crop; the same samples as cropping the resampled whole."""
    new, old = ratio.numerator, ratio.denominator
    reach = ceil(FILTER_WIDTH * old / (min(old, new) * ROLLOFF)) + old
    # Every `old` frames the resampler's kernels repeat: starting there, none of them is shifted.
    first = max(0, (start * old // new - reach) // old * old)
    last = min(clip.frames, ceil((start + samples) * old / new) + reach)
    resampled = resample(clip.mono(first, last), ratio)
    offset = start - first // old * new
    return resampled[offset : offset + samples].clone()
