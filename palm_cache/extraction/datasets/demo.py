"""The demo dataset: a synthetic stand-in in UrbanSound8K's own layout, made on the spot.

It lets the whole pipeline run without any download, through the very reader of the real
dataset. Ten classes, five folds, clips of 2 to 4 s of varied level, in noise of 0 to 15 dB and with
reverberation, some of them stereo, at two sample rates: no harder than real recordings, but not trivial.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
from numpy.random import Generator

from palm_cache.errors import ParameterError
from palm_cache.extraction.datasets.demo_sounds import (
    RATE,
    SOUNDS,
    Waveform,
    double_rate,
    reverberate,
    street_noise,
)
from palm_cache.store.atomic import check_vacant, write_errors
from palm_cache.store.places.local import LocalFolder

METADATA = Path("metadata", "UrbanSound8K.csv")
N_FOLDS = 5
SLICES_PER_RECORDING = 2
"""Clips that share an ``fsID``, and therefore a fold."""
SLICE_SECONDS = 4.0
"""Where slice k of a recording starts, in multiples of k; no clip is longer."""
HEADER = "slice_file_name,fsID,start,end,salience,fold,classID,class"


def synthesise(
    root: Path,
    *,
    clips_per_class: int = 40,
    folds: int = N_FOLDS,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> bool:
    """Make the demo dataset; the same arguments give the same bytes.

    Parameters
    ----------
    root : Path
        Folder to make; it appears when everything is in it.
    clips_per_class : int
        Clip k of a class is the same whatever their number.
    folds : int
        Every class is spread evenly over them.
    seed : int
        Another seed gives other sounds.
    progress : callable, optional
        Told how many clips are done, and of how many.

    Returns
    -------
    bool
        False where it is there already, and nothing was made.

    Raises
    ------
    ParameterError
        If there are fewer than two folds, fewer clips than folds, or the seed is negative.
    OutputError
        If there is something else at ``root`` or it cannot be written.
    """
    if folds < 2 or clips_per_class < folds or seed < 0:
        raise ParameterError(
            f"folds {folds}, clips_per_class {clips_per_class}, seed {seed}: at least 2 folds, "
            "a clip of each class for every fold, and a seed from 0 are needed"
        )
    if _is_there(root, clips_per_class, folds, seed):
        return False
    total = clips_per_class * len(SOUNDS)
    with _appearing_whole(root) as temporary:
        for fold in range(1, folds + 1):
            (temporary / "audio" / f"fold{fold}").mkdir(parents=True)
        lines = [HEADER]
        for number in range(clips_per_class):
            for class_id in range(len(SOUNDS)):
                name, content, line = _encoded_clip(class_id, number, folds, seed)
                (temporary / name).write_bytes(content)
                lines.append(line)
                if progress is not None:
                    progress(len(lines) - 1, total)
        (temporary / METADATA).parent.mkdir()
        (temporary / METADATA).write_bytes(("\n".join(lines) + "\n").encode())
    return True


def _is_there(root: Path, clips_per_class: int, folds: int, seed: int) -> bool:
    """Tell whether a folder holds what would be made: so many files, the last of each class made again."""
    try:
        lines = (root / METADATA).read_text(encoding="utf-8").splitlines()[1:]
        n_files = sum(1 for _ in root.glob("audio/*/*"))
        if not n_files == len(lines) == clips_per_class * len(SOUNDS):
            return False
        for class_id in range(len(SOUNDS)):
            name, content, line = _encoded_clip(class_id, clips_per_class - 1, folds, seed)
            if lines[class_id - len(SOUNDS)] != line or (root / name).read_bytes() != content:
                return False
    except (OSError, ValueError):
        return False
    return True


@contextmanager
def _appearing_whole(root: Path) -> Iterator[Path]:
    """Give an empty folder beside ``root`` that becomes ``root`` when the block succeeds."""
    with write_errors(root):
        check_vacant(root, "out")
        with LocalFolder(root).workspace() as temporary:
            yield temporary
            if root.exists():
                root.rmdir()
            temporary.rename(root)


def _encoded_clip(class_id: int, number: int, folds: int, seed: int) -> tuple[str, bytes, str]:
    """Return path, content and line of the metadata of clip ``number`` of a class."""
    class_name = tuple(SOUNDS)[class_id]
    rng = np.random.default_rng([seed, class_id, number])
    rate = 2 * RATE if rng.random() < 0.3 else RATE
    clip = make_clip(rng, class_name)
    if rate != RATE:
        clip = double_rate(clip)
    clip = np.clip(clip, -1, 1)
    if rng.random() < 0.3:
        clip = np.stack([clip, np.clip(clip * rng.uniform(0.5, 1), -1, 1)], axis=1)
    # Numbers that differ by a multiple of ``folds`` share a fold; neighbours among them, a recording.
    fold, turn = number % folds + 1, number // folds
    recording = 100_000 * (class_id + 1) + turn // SLICES_PER_RECORDING * folds + fold - 1
    slice_number = turn % SLICES_PER_RECORDING
    name = f"{recording}-{class_id}-0-{slice_number}.wav"
    # Through memory, because libsndfile reports a full disk as an error of its own.
    encoded = io.BytesIO()
    soundfile.write(encoded, clip, rate, subtype="PCM_16", format="WAV")
    start = slice_number * SLICE_SECONDS
    end = start + len(clip) / rate
    salience = rng.integers(1, 3)
    line = f"{name},{recording},{start:.6f},{end:.6f},{salience},{fold},{class_id},{class_name}"
    return f"audio/fold{fold}/{name}", encoded.getvalue(), line


def make_clip(rng: Generator, class_name: str) -> Waveform:
    """Synthesise one clip of a class as a microphone in the street would have it.

    Returns
    -------
    array, shape (n_samples,)
        2 to 4 s at 22,050 Hz, full scale 1.
    """
    n = int(rng.uniform(2, 4) * RATE)
    sound = reverberate(rng, SOUNDS[class_name](rng, n))
    noise = street_noise(rng, n)
    # Measured where the sound is loud: a single shot is not drowned for being short.
    loud = np.sqrt(np.mean(np.sort(sound**2)[-n // 4 :]))
    noise *= loud / np.std(noise) * 10 ** (-rng.uniform(0, 15) / 20)
    mixed = sound + noise
    return np.asarray(mixed / np.max(np.abs(mixed)) * 10 ** (-rng.uniform(1, 26) / 20))
