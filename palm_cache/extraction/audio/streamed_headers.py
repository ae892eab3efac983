"""Headers that do not know how much sound follows, as streams, recorders and encoders leave them.

libsndfile believes what a header says about its length, and where it says nothing, guesses from the first
frame. What can be known better is told to it here, before it opens the file.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO
from weakref import WeakSet

from palm_cache.errors import AudioError

UNKNOWN_SIZES = (0x7F000000, 0x7FFFF000, 0x7FFFFFFF, 0xFFFFFFFF)
"""What programs write as the size of a stream whose length they cannot know, headers counted in or not:
sox (AIFF and WAV), and whatever stands at the end of 31 and 32 bits."""

NO_LENGTH = 1 << 62
"""Sizes of 64 bits from here on stand for one that was not known."""

HEADER_BYTES = 4096
"""No header in front of sound is counted in by more than this."""

LARGEST_HEAD = 1 << 24
"""Bytes in front of sound up to which a length is mended: they are held in memory."""

_WHOLE: WeakSet[BinaryIO] = WeakSet()
"""Ogg files that are open and have been read to their end: a night of them may have a thousand rows."""

MAX_CHUNKS = 1_000
"""Chunks that are looked at before a file is left to libsndfile."""

ENDLESS_BYTES = 1 << 40
"""Size that libsndfile is told of a stream, so that its guess of the length is never too short."""

ID3_BYTES = 128
"""Where libmpg123 looks for a tag before the end of a file; it gives up where nothing can be read."""

OGG_PAGE = 65_307
"""Bytes of the largest Ogg page."""

_WRAP = 1 << 32

_RIFF, _RIFX, _CAF = "<4sI", ">4sI", ">4sq"
"""Layouts of a chunk's name and length."""

_FOREIGN = (
    (4, b"ftyp", "MPEG-4 (m4a, mp4)"),
    (0, b"\x1aE\xdf\xa3", "Matroska or WebM"),
    (0, b"0&\xb2u", "Windows Media"),
    (0, b"\xff\xf1", "AAC"),
    (0, b"\xff\xf9", "AAC"),
    (0, b"ADIF", "AAC"),
    (0, b"#!AMR", "AMR"),
    (0, b"MAC ", "Monkey's Audio"),
    (0, b"wvpk", "WavPack"),
    (0, b"TTA1", "True Audio"),
    (0, b"MPCK", "Musepack"),
    (0, b"MP+", "Musepack"),
    (0, b"\x0bw", "AC-3"),
    (0, b".ra\xfd", "RealAudio"),
    (0, b".RMF", "RealAudio"),
)
"""How audio begins that libsndfile does not decode: position, bytes, name."""

_OWN = (b"RIFF", b"RIFX", b"RF64", b"FORM", b"OggS", b"fLaC", b"caff", b".snd", b"ID3")
"""How containers begin of which libsndfile decodes some contents."""

CONVERT = "convert it, e.g. with: ffmpeg -i FILE NEW.flac"


class MendedFile:
    """A file with another head, or a stream that says nothing of its end, as libsndfile is given it.

    Parameters
    ----------
    file : binary file
        Seekable.
    head : bytes
        What comes in place of the first bytes.
    rest : int
        Where the file goes on behind ``head``.
    endless : bool
        It is read as a stream of unknown length: until the decoder finds no more.
    """

    def __init__(self, file: BinaryIO, head: bytes, rest: int, *, endless: bool = False) -> None:
        self.endless = endless
        self.fault: BaseException | None = None
        self._file, self._head, self._rest, self._position = file, head, rest, 0
        self._end = len(head) + os.fstat(file.fileno()).st_size - rest
        self._size = ENDLESS_BYTES if endless else self._end

    def has_more(self) -> bool:
        """Tell whether the decoder has left something of a stream."""
        return self.endless and self._position < self._end

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move; anywhere."""
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def readinto(self, buffer: memoryview) -> int:
        """Fill a buffer; what goes wrong is kept, as it would be lost in libsndfile."""
        try:
            block = self._head[self._position :][: len(buffer)]
            if self._position >= ENDLESS_BYTES - ID3_BYTES:
                block = bytes(len(buffer))
            elif not block:
                self._file.seek(self._position - len(self._head) + self._rest)
                block = self._file.read(len(buffer))
            buffer[: len(block)] = block
        except BaseException as error:  # also Ctrl-C
            self.fault = error
            return 0
        self._position += len(block)
        return len(block)


def mend(file: BinaryIO) -> MendedFile | None:
    """Look at a file's header; ``None`` where libsndfile can be left with it.

    Raises
    ------
    AudioError
        If the file is a CAF or Ogg that is cut off, or an Ogg of several streams.
    """
    size = os.fstat(file.fileno()).st_size
    start = _at(file, 0, 12)
    if start[:4] in (b"RIFF", b"RF64", b"RIFX") and start[8:] == b"WAVE":
        return _mend_wav(file, size, _RIFX if start[:4] == b"RIFX" else _RIFF)
    if start[:4] == b"caff":
        return _mend_caf(file, size)
    if start[:4] in (b".snd", b"dns.") and start[8:] == bytes(4):  # of AU libsndfile knows the other sign
        return MendedFile(file, start[:8] + b"\xff" * 4, 12)
    if start[:4] == b"OggS":
        _check_ogg(file, size)
        return None
    return _mend_mpeg(file, size)


def advice(file: BinaryIO) -> str:
    """Say what to do with a file that libsndfile does not open; "" if it does not look like audio at all."""
    start = _at(file, 0, 12)
    if start == b"version http":
        return "it is a pointer of Git LFS; fetch the file itself: git lfs pull"
    for at, magic, name in _FOREIGN:
        if start[at:].startswith(magic):
            return f"{name} is not read here; {CONVERT}"
    return f"if other programs play it, {CONVERT}" if start.startswith(_OWN) else ""


def is_unknown(size: int) -> bool:
    """Tell whether a size stands for a stream whose length was not known when its header was written."""
    return size >= NO_LENGTH or any(abs(size - unknown) <= HEADER_BYTES for unknown in UNKNOWN_SIZES)


def _at(file: BinaryIO, position: int, length: int) -> bytes:
    file.seek(position)
    return file.read(length)


def _chunks(file: BinaryIO, position: int, size: int, layout: str) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and length of the chunks of a file, at most :data:`MAX_CHUNKS`."""
    head, even = struct.calcsize(layout), layout != _CAF
    for _ in range(MAX_CHUNKS):
        if position + head > size:
            return
        name, length = struct.unpack(layout, _at(file, position, head))
        yield name, position + head, length
        if length < 0:
            return
        position += head + length + (length % 2 if even else 0)


def _mend_wav(file: BinaryIO, size: int, layout: str) -> MendedFile | None:
    form, long = b"", None
    for name, start, length in _chunks(file, 12, size, layout):
        if name == b"ds64":
            (long,) = struct.unpack("<8xQ", _at(file, start, 16).ljust(16, b"\0"))
        elif name == b"fmt ":
            form = _at(file, start, 2)
        elif name == b"data":
            if form in (b"\x50\0", b"\x55\0"):  # MPEG: its length is a guess
                return MendedFile(file, b"", 0, endless=True)
            declared = length if long is None or length != _WRAP - 1 else long
            if declared >= NO_LENGTH:
                declared = 0
            true = _sound_bytes(file, start, declared, size, layout)
            if true is not None and start <= LARGEST_HEAD:
                return _with_length(file, start, true, layout)
            break
    return None


def _sound_bytes(file: BinaryIO, start: int, declared: int, size: int, layout: str) -> int | None:
    """Return how many bytes of sound a WAV holds; ``None`` if its header is right or libsndfile copes."""
    present = size - start
    if declared > present or _chunks_follow(file, start + declared, size, layout):
        return None
    if declared == 0 or is_unknown(declared):
        return present
    # A size of 32 bits that has overflowed, once or several times.
    wraps = (present - declared + HEADER_BYTES) // _WRAP
    return declared + wraps * _WRAP if wraps else None


def _chunks_follow(file: BinaryIO, position: int, size: int, layout: str) -> bool:
    """Tell whether nothing but well-formed chunks lies between a position and the end of the file."""
    end = position
    for name, start, length in _chunks(file, position, size, layout):
        if not all(0x20 <= letter < 0x7F for letter in name):
            return False
        end = start + length + length % 2
    return end - 1 <= size <= end


def _with_length(file: BinaryIO, start: int, sound_bytes: int, layout: str) -> MendedFile:
    """Write the true length into the head of a WAV: in 64 bits where 32 do not hold it."""
    head = _at(file, 0, start)
    if head[:4] != b"RF64" and sound_bytes + len(head) < _WRAP:
        mended = head[:-4] + struct.pack(layout[0] + "I", sound_bytes)
    else:
        ds64 = struct.pack("<4sIQQQI", b"ds64", 28, len(head) + 28 + sound_bytes, sound_bytes, 0, 0)
        unknown = b"\xff" * 4
        mended = b"RF64" + unknown + b"WAVE" + ds64 + head[12:-4].replace(b"ds64", b"JUNK", 1) + unknown
    return MendedFile(file, mended, start)


def _mend_caf(file: BinaryIO, size: int) -> MendedFile | None:
    """The sound may say of its length -1: all that follows. libsndfile calls that malformed, and cuts too.

    4 bytes stand before the sound; a length that leaves nothing else was never written.
    """
    for name, start, length in _chunks(file, 8, size, _CAF):
        present = size - start
        if name == b"data":
            unknown = length <= 4 and not _chunks_follow(file, start + max(length, 0), size, _CAF)
            if unknown and start <= LARGEST_HEAD:
                return MendedFile(file, _at(file, 0, start - 8) + struct.pack(">q", present), start)
            if length > present:
                raise AudioError(f"cut off: {present} of {length} bytes of audio are there")
            break
    return None


def _mend_mpeg(file: BinaryIO, size: int) -> MendedFile | None:
    """Take the length of an MP3 for known only if its first frame tells it, and tells it all."""
    first = 0
    while (tag := _at(file, first, 10))[:3] == b"ID3" and len(tag) == 10:
        seven, six, five, four = (byte & 0x7F for byte in tag[6:])
        first += 10 + (seven << 21 | six << 14 | five << 7 | four)
    frame = _at(file, first, 56)
    if len(frame) < 56 or not _is_mpeg_frame(frame):
        return None
    low_rate, mono = not frame[1] & 0x08, frame[3] >> 6 == 3
    tag_at = 4 + ((9 if mono else 17) if low_rate else (17 if mono else 32))
    name, flags, frames, length = struct.unpack_from(">4sIII", frame, tag_at)
    if name not in (b"Xing", b"Info") or not flags & 1 or not frames:  # none: its writer was killed
        return MendedFile(file, b"", first, endless=True)
    if flags & 2 and _goes_on(file, first + length, size, frame):
        return MendedFile(file, frame[:tag_at] + bytes(4) + frame[tag_at + 4 :], first + 56, endless=True)
    return None


def _is_mpeg_frame(frame: bytes) -> bool:
    # Layer 0 is AAC.
    return frame[0] == 0xFF and frame[1] & 0xE0 == 0xE0 and frame[1] & 0x06 != 0


def _goes_on(file: BinaryIO, end: int, size: int, frame: bytes) -> bool:
    """Tell whether another MP3 is appended behind the one that the first frame tells about."""
    if size - end < HEADER_BYTES + end // 100:
        return False
    behind = _at(file, end, 256)
    behind = behind[128:] if behind[:3] == b"TAG" else behind
    return behind[:3] == b"ID3" or (
        len(behind) > 2 and behind[0] == 0xFF and behind[1] & 0xFE == frame[1] & 0xFE
    )


def _check_ogg(file: BinaryIO, size: int) -> None:
    """Refuse an Ogg whose last page is not whole, and one that libsndfile would stop in the middle of."""
    if file in _WHOLE:
        return
    before = max(0, size - 2 * OGG_PAGE)
    tail = _at(file, before, 2 * OGG_PAGE)
    page = tail[max(0, tail.rfind(b"OggS")) :]
    segments = page[27 : 27 + page[26]] if len(page) > 26 else b""
    if len(page) < 27 or len(page) < 27 + page[26] + sum(segments):
        raise AudioError("cut off: the last page of the Ogg file is not whole")
    begun, carried = 0, b""
    file.seek(0)
    while block := file.read(1 << 20):
        begun += (carried + block).count(b"OggS\0\2")
        carried = block[-5:]
    if begun > 1:
        raise AudioError(
            f"several Ogg streams in one file, of which only the first can be decoded; {CONVERT}"
        )
    _WHOLE.add(file)
