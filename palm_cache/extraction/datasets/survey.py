"""What a dataset's files are like: lengths, rates, channels, and which of them are the same."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import inf, isnan
from pathlib import Path

import numpy as np

from palm_cache.errors import AudioError, counted
from palm_cache.extraction.audio.decoding import decoding
from palm_cache.extraction.audio.waveforms import open_regular
from palm_cache.extraction.datasets.listing import sizes_below
from palm_cache.extraction.datasets.splits import twins
from palm_cache.extraction.reading import CUSTOMARY_SECONDS
from palm_cache.store import header
from palm_cache.types import ClipTable, Progress, no_progress


@dataclass(frozen=True, slots=True)
class Survey:
    """What the headers and the contents of a dataset's files say; only those of this machine are opened."""

    seconds: tuple[float, ...]
    """Length of every file that can be opened, sorted."""
    rates: Mapping[int, int]
    """Files by sample rate in Hz."""
    channels: Mapping[int, int]
    """Files by number of channels."""
    unreadable: tuple[tuple[str, str], ...]
    """Names of files that cannot be opened, are cut off or end before a row begins, with the reason."""
    twins: tuple[tuple[str, ...], ...]
    """Names of files of equal content."""
    findings: tuple[str, ...]
    """Twins of two classes and those on both sides of a fold; rows that are long."""


def survey(table: ClipTable, progress: Progress = no_progress) -> Survey:
    """Open every file of a dataset but the missing ones as extraction does, and compare contents."""
    root, absent = table.clips.root, set(table.missing)
    files = dict(zip(table.clips.names, table.clips.paths, strict=True)) if isinstance(root, Path) else {}
    paths = {name: path for name, path in files.items() if name not in absent}
    seconds, rates, channels = dict[str, float](), Counter[int](), Counter[int]()
    unreadable = []
    pool = ThreadPoolExecutor()
    try:
        opened = pool.map(lambda path: _open(root / path), paths.values())
        for number, (name, found) in enumerate(zip(paths, opened, strict=True)):
            if isinstance(found, str):
                unreadable.append((name, found))
            else:
                length, rate, n_channels = found
                seconds[name] = length
                rates[rate] += 1
                channels[n_channels] += 1
            progress("looking at files", number + 1, len(paths))
    finally:
        pool.shutdown(cancel_futures=True)
    names, where = list(paths), list(paths.values())
    first = twins(root, where, sizes_below(root)(where)).tolist() if isinstance(root, Path) else []
    same = {name: names[number] for name, number in zip(names, first, strict=True)}
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[same[name]].append(name)
    return Survey(
        tuple(sorted(seconds.values())),
        dict(sorted(rates.items())),
        dict(sorted(channels.items())),
        (*unreadable, *_ended(table, seconds)),
        tuple(tuple(alike) for alike in groups.values() if len(alike) > 1),
        (*_alike(table, same), *_long(table, seconds)),
    )


def _open(file: Path) -> tuple[float, int, int] | str:
    """Return how long a sound is, its rate and channels; or why it cannot be read up to its end."""
    try:
        with open_regular(file) as opened, decoding(opened) as sound:
            sound.check_end()
            return sound.frames / sound.rate, sound.rate, sound.channels
    except AudioError as error:
        return str(error)


def _alike(table: ClipTable, same: Mapping[str, str]) -> list[str]:
    """Say what twins do, in the words of who extracts and fits."""
    clips = table.clips
    rows = (
        (same.get(name, name), *ends)
        for name, *ends in zip(clips.names, clips.starts, clips.ends, strict=True)
    )
    keys = b"".join(hashlib.sha256(repr(row).encode()).digest() for row in rows)
    return header.twins(
        np.frombuffer(keys, np.uint8).reshape(len(clips), -1),
        np.array(clips.labels, np.int64),
        table.folds,
        lambda: clips.names,
    )


def _ended(table: ClipTable, seconds: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    """Yield the files that end before a row of theirs begins, and what is wrong with it."""
    late = Counter(
        name
        for name, start in zip(table.clips.names, table.clips.starts, strict=True)
        if start >= seconds.get(name, inf)
    )
    for name, count in late.items():
        yield name, f"{counted(count, 'row begins', 'rows begin')} after its end at {seconds[name]:.2f} s"


def _long(table: ClipTable, seconds: Mapping[str, float]) -> Iterator[str]:
    """Say how many rows are so long that encoders do not hear all of them."""
    clips = table.clips
    lengths = [
        (seconds.get(name, 0.0) if isnan(end) else end) - start
        for name, start, end in zip(clips.names, clips.starts, clips.ends, strict=True)
    ]
    long = [length for length in lengths if length > CUSTOMARY_SECONDS]
    if long:
        yield (
            f"{counted(len(long), 'row is', 'rows are')} longer than {CUSTOMARY_SECONDS:g} s, up to "
            f"{max(long):g} s: an encoder that hears less embeds their centre alone, unless extract has "
            "--window, which cuts them, or --long mean, which hears all"
        )
