"""What a store of format 1 knows, taken into the cache, as far as its sounds were read as they are today."""

from __future__ import annotations

import numpy as np
import soundfile

from palm_cache.errors import AudioError
from palm_cache.extraction.audio import open_regular
from palm_cache.extraction.embedding import Embedder
from palm_cache.extraction.reading import read_file
from palm_cache.store.cache import Cache
from palm_cache.store.format1 import format1_embeddings
from palm_cache.types import Clip, Clips, Place


def take_over(store: Place, clips: Clips, embedder: Embedder, cache: Cache) -> int:
    """Let the cache know what a store of format 1 knows of some clips, and return of how many.

    Nothing is embedded. Clips that earlier versions decoded or mixed down otherwise are left out: MP3, crops
    of Ogg, and files whose channels cancel each other.
    """
    rows: dict[bytes, int] = {}
    everything = clips.numbered(range(len(clips)))
    for outcome in embedder.embed(everything, lambda _: False, n_clips=len(clips)):
        if outcome.content:
            rows[outcome.content] = outcome.row
    taken = 0
    for keys, embeddings in format1_embeddings(store):
        fit = [
            row
            for row, key in enumerate(keys)
            if key.tobytes() in rows and _read_as_before(clips[rows[key.tobytes()]], embedder)
        ]
        fresh = np.array(fit, np.int64)[~cache.look_up(keys[fit]).known]
        cache.add(keys[fresh], embeddings[fresh])
        taken += len(fit)
    return taken


def _read_as_before(clip: Clip, embedder: Embedder) -> bool:
    try:
        with open_regular(clip.file) as file, soundfile.SoundFile(file) as sound:
            seconds, channels, form = sound.frames / sound.samplerate, sound.channels, sound.format
    except (AudioError, soundfile.SoundFileError):
        return False
    longest = embedder.cut.window.stretch / embedder.cut.sample_rate
    if form == "MP3" or (form == "OGG" and seconds > longest):
        return False
    if channels == 1:
        return True
    return not any(
        piece.error or piece.heard.channels_alone for piece in read_file([(0, clip)], embedder.cut)
    )
