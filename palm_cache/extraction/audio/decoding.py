"""Sound files as libsndfile decodes them, with the length that they have, not the one that they claim.

Where a header does not know how much sound follows, the file is decoded to its end once to count, in blocks;
WAV, FLAC and whatever else says it are only opened.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Lock
from typing import Any, BinaryIO

import numpy as np
import soundfile
from numpy.typing import NDArray

from palm_cache.errors import AudioError, ReadingError, reason_of
from palm_cache.extraction.audio.streamed_headers import MendedFile, advice, is_unknown, mend

LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000
"""Sample rates in Hz outside of which a header is taken for damaged."""

BLOCK_FRAMES = 1 << 16
"""Frames that are decoded at once; bounds memory whatever the number of channels."""

SIXTEEN_BITS = np.float32(1 / (1 << 15))
"""A step of 16 bits, where full scale is 1."""

MPEG_MEMORY = 32 * 1152
"""Frames that an MPEG decoder has to have read before its samples are right: a frame of sound may lean on
bits of many frames before. libmpg123 itself goes back by a few only."""

OGG_LAST_PAGE = 1 << 19
"""Frames before the end of a Vorbis stream from which on libsndfile does not find its place: the last page,
where samples are trimmed off, of at most 255 packets."""

LAST_BLOCK = 64
"""Frames: whoever begins in the last block of a PAF or SDS, which has fewer, gets nothing from libsndfile."""

UNKNOWN_FRAMES = 1 << 62
"""Lengths from here on are libsndfile's way of saying that it does not know."""

SF_ERR_SYSTEM = 2
"""libsndfile's number for a failed system call: the disk's fault, not the content's."""

_SIZES = re.compile(
    r"(?:RIFF|RIFX|FORM|SSND|BODY|data|riff|Riff size|Data Size)\s*: (\d+) \(should be (\d+)\)"
)
"""How libsndfile notes in its log that a file is shorter than its header says."""


class Sound:
    """A sound file that is open for decoding: use :func:`decoding`."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._mended = file, mend(file)
        if self._mended is None and sys.platform == "win32":  # whose runtimes do not share descriptors
            self._mended = MendedFile(file, b"", 0)
        self._decoder = self._open()
        self._at = 0
        self.rate, self.channels = int(self._decoder.samplerate), int(self._decoder.channels)
        # 16 bits read as they are and scaled here are the same numbers in a third of libsndfile's time.
        self._read_as = "int16" if self._decoder.subtype == "PCM_16" else "float32"
        endless = self._mended is not None and self._mended.endless
        known = not endless and self._decoder.frames < UNKNOWN_FRAMES
        self._seekable = known and self._decoder.can_seek()
        self.frames = int(self._decoder.frames)
        """How long the sound is."""
        try:
            self._check_header()
            if not known:
                self.frames = self._count()
            if self.frames <= 0:
                raise AudioError("no audio in it (zero frames)")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close everything but the file itself."""
        self._decoder.close()

    def blocks(self, first: int, last: int) -> Iterator[NDArray[np.float32]]:
        """Yield frames ``first`` to ``last`` as blocks (frames, channels).

        Raises
        ------
        AudioError
            If less can be decoded.
        """
        self._go_to(first)
        while self._at < last:
            yield self._next(last)

    def check_end(self) -> None:
        """Look whether the last frames that the header promises are there.

        Raises
        ------
        AudioError
            If they are not.
        """
        if not self._seekable:
            return
        try:
            for _ in self.blocks(max(0, self.frames - LAST_BLOCK), self.frames):
                pass
        except AudioError:
            raise AudioError(f"cut off: the last of {self.frames} frames cannot be decoded") from None
        self._reopen()

    def _open(self) -> _Decoder:
        with _without_stderr:
            if self._mended is not None:
                self._mended.seek(0)
                return _Decoder(self._mended)
            # By descriptor, not through Python's file object: an exception inside the callbacks that
            # the latter takes would be dropped, and Ctrl-C with it.
            os.lseek(self._file.fileno(), 0, os.SEEK_SET)
            return _Decoder(self._file.fileno(), closefd=False)

    def _reopen(self) -> None:
        self.close()
        self._decoder, self._at = self._open(), 0

    def _go_to(self, frame: int) -> None:
        if frame == self._at:
            return
        start = self._seekable_before(frame)
        if self._at > frame or start > self._at:
            if start:
                self._decoder.seek(start)
                self._at = start
            else:
                self._reopen()
        while self._at < frame:
            self._next(frame)

    def _seekable_before(self, frame: int) -> int:
        """Return from where on a decoder has to be read so that it is right at a frame."""
        if not self._seekable:
            return 0
        if self._decoder.subtype.startswith("MPEG"):
            return max(0, frame - MPEG_MEMORY)
        if self._decoder.subtype == "VORBIS":
            return max(0, min(frame, self.frames - OGG_LAST_PAGE))
        return frame

    def _next(self, last: int) -> NDArray[np.float32]:
        block = self._read(min(BLOCK_FRAMES, last - self._at))
        if not len(block):
            raise AudioError(f"cut off: {self._at} of {self.frames} frames can be decoded")
        return block

    def _read(self, frames: int) -> NDArray[np.float32]:
        block: NDArray[Any] = np.empty((frames, self.channels), self._read_as)
        try:
            with _without_stderr:
                n_read = self._decoder.buffer_read_into(block, self._read_as)
        finally:
            if self._mended is not None and self._mended.fault is not None:
                raise self._mended.fault
        self._at += n_read
        block = block[:n_read]
        return np.multiply(block, SIXTEEN_BITS, dtype=np.float32) if self._read_as == "int16" else block

    def _count(self) -> int:
        """Decode to the end."""
        self._at, damage = 0, None
        try:
            while len(self._read(BLOCK_FRAMES)):
                pass
        except soundfile.SoundFileError as error:
            damage = error
        if damage is not None or (self._mended is not None and self._mended.has_more()):
            message = f"cut off or damaged: it can be decoded up to {self._at / self.rate:.1f} s"
            raise _fault(self._file, damage, message)
        return self._at

    def _check_header(self) -> None:
        if not LOWEST_RATE <= self.rate <= HIGHEST_RATE:
            raise AudioError(
                f"a sample rate of {self.rate} Hz makes no sense; {LOWEST_RATE} to {HIGHEST_RATE} Hz are read"
            )
        # libsndfile reads what is there of a cut-off file and only notes it in its log, chunk by chunk:
        # "data : 96000 (should be 28769)".
        log = self._decoder.extra_info
        for declared, present in _SIZES.findall(log) if "(should be" in log else ():
            size = os.fstat(self._file.fileno()).st_size
            # Some writers count headers in.
            if int(declared) > size + 64 and not is_unknown(int(declared)):
                raise AudioError(f"cut off: {present} of {declared} bytes of audio are there")


@contextmanager
def decoding(file: BinaryIO) -> Iterator[Sound]:
    """Open a file for decoding; what libsndfile cannot do, it says in its own words.

    Parameters
    ----------
    file : binary file
        Seekable.

    Raises
    ------
    AudioError
        If it cannot be decoded, is cut off, has no frames, or has a sample rate that makes no sense.
    ReadingError
        If the disk fails meanwhile.
    """
    try:
        try:
            sound = Sound(file)
        except soundfile.SoundFileError as error:
            what = "; ".join(filter(None, (_reason(error), advice(file))))
            raise _fault(file, error, f"cannot be decoded: {what}") from error
        try:
            yield sound
        except soundfile.SoundFileError as error:
            # libsndfile's own reason depends on where in a damaged file one begins to read.
            message = "cut off or damaged: not all of it can be decoded"
            raise _fault(file, error, message) from error
        finally:
            sound.close()
    except OSError as error:
        raise ReadingError(f"cannot be read: {reason_of(error)}") from error


def _reason(error: soundfile.SoundFileError) -> str:
    """Return libsndfile's own reason, without the handle that it could not open."""
    reason: str = getattr(error, "error_string", str(error)).removeprefix("Error : ").rstrip(".")
    return f"{reason[:1].lower()}{reason[1:]}"


def _fault(file: BinaryIO, error: soundfile.SoundFileError | None, message: str) -> AudioError:
    """Make an error of the content, or of the disk if that is to blame: decoders do not always say."""
    if error is not None and getattr(error, "code", None) == SF_ERR_SYSTEM:
        return ReadingError(f"cannot be read: {_reason(error)}")
    try:
        file.seek(0)
        while file.read(1 << 20):
            pass
    except OSError as fault:
        return ReadingError(f"cannot be read: {reason_of(fault)}")
    return AudioError(message)


class _Decoder(soundfile.SoundFile):  # type: ignore[misc]
    """Reads on from where it is, up to where the decoder ends.

    A SoundFile asks where it is around every read and stops where the header ends: not every decoder can tell
    the one, not every header knows the other.
    """

    def seekable(self) -> bool:
        """Do not ask."""
        return False

    def flush(self) -> None:
        """Write nothing: it is asked for when a file is closed."""

    def can_seek(self) -> bool:
        """Tell whether libsndfile can seek; of DWVW it only says so."""
        return bool(super().seekable()) and not self.subtype.startswith("DWVW")


class _Silencer:
    """Takes C's standard error away while libmpg123 works, which writes every doubt of its own there.

    Only C code that writes by stdio notices; Python and C++ have it by other ways.
    """

    def __init__(self) -> None:
        self._lock, self._depth = Lock(), 0
        self._stderr: ctypes.c_void_p | None = None
        with suppress(AttributeError, ValueError):  # no glibc: let it write
            os.confstr("CS_GNU_LIBC_VERSION")
            libc = ctypes.CDLL(None)
            libc.fopen.restype = ctypes.c_void_p
            self._nowhere = libc.fopen(os.devnull.encode(), b"w")
            if self._nowhere:  # not where no file can be opened any more
                self._stderr = ctypes.c_void_p.in_dll(libc, "stderr")

    def __enter__(self) -> None:
        if self._stderr is not None:
            with self._lock:
                self._depth += 1
                if self._depth == 1:
                    self._real, self._stderr.value = self._stderr.value, self._nowhere

    def __exit__(self, *_: object) -> None:
        if self._stderr is not None:
            with self._lock:
                self._depth -= 1
                if self._depth == 0:
                    self._stderr.value = self._real


_without_stderr = _Silencer()
