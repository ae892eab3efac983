"""Stores of format 1, as earlier versions wrote them: what they know is taken into the cache, once.

As far, that is, as their sounds were read as they are today.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import soundfile
import zarr
from numpy.typing import NDArray

from palm_cache.errors import AudioError
from palm_cache.extraction.audio.waveforms import open_regular
from palm_cache.extraction.reading import CuttingRule, hash_files, read_file
from palm_cache.store.atomic import parse_json
from palm_cache.store.cache import Cache
from palm_cache.store.layout import STORE_ROOT
from palm_cache.store.places import folder
from palm_cache.types import Clip, Clips, Place

CHUNK_CLIPS = 64
"""Rows of a chunk."""


def format1_header(path: Place) -> dict[str, object]:
    """Return the attributes of a store of format 1."""
    return dict(parse_json(folder(path).read(STORE_ROOT))["attributes"])


def take_over(store: Place, clips: Clips, cut: CuttingRule, cache: Cache) -> int:
    """Let the cache know what a store of format 1 knows of some clips, and return of how many.

    Nothing is embedded. Clips that earlier versions decoded or mixed down otherwise are left out: MP3, crops
    of Ogg, and files whose channels cancel each other.
    """
    everything = hash_files(clips.numbered(range(len(clips))))
    rows = {read.content: read.row for read in everything if read.content}
    taken = 0
    for keys, embeddings in _embeddings(store):
        fit = [
            row
            for row, key in enumerate(keys)
            if key.tobytes() in rows and _read_as_before(clips[rows[key.tobytes()]], cut)
        ]
        fresh = np.array(fit, np.int64)[~cache.look_up(keys[fit]).known]
        cache.add(keys[fresh], embeddings[fresh])
        taken += len(fit)
    return taken


def _read_as_before(clip: Clip, cut: CuttingRule) -> bool:
    try:
        with open_regular(clip.file) as file, soundfile.SoundFile(file) as sound:
            seconds, channels, form = sound.frames / sound.samplerate, sound.channels, sound.format
    except (AudioError, soundfile.SoundFileError):
        return False
    longest = cut.window.stretch / cut.sample_rate
    if form == "MP3" or (form == "OGG" and seconds > longest):
        return False
    if channels == 1:
        return True
    return not any(piece.error or piece.heard.channels_alone for piece in read_file([(0, clip)], cut))


def _embeddings(path: Place) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
    """Yield content hashes (n, 32) and embeddings (n, views, dim) of a store of format 1, chunk by chunk.

    What is missing, damaged, or had no embedding is left out.
    """
    try:
        group = zarr.open_group(folder(path).zarr(), mode="r", zarr_format=3)
        audio, hashes, errors = (cast(Any, group[name]) for name in ("audio", "content_sha256", "error"))
        n_rows = audio.shape[0]
    except (ValueError, KeyError, TypeError, OSError):
        return
    for start in range(0, n_rows, CHUNK_CLIPS):
        rows = slice(start, start + CHUNK_CLIPS)
        try:
            embeddings = np.asarray(audio[rows], np.float32)
            known = [(str(sha), str(error)) for sha, error in zip(hashes[rows], errors[rows], strict=True)]
        except (ValueError, KeyError, TypeError, RuntimeError, OSError):
            continue
        # Where there is no file, as it was not written or is lost, zeros are read, which no encoder gives.
        sound = np.isfinite(embeddings).all(axis=(1, 2)) & (np.abs(embeddings).max(axis=2) > 0).all(axis=1)
        good = [row for row, (sha, error) in enumerate(known) if len(sha) == 64 and not error and sound[row]]
        keys = np.frombuffer(b"".join(bytes.fromhex(known[row][0]) for row in good), np.uint8)
        yield keys.reshape(-1, 32), embeddings[good]
