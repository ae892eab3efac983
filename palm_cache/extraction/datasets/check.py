"""Does a local copy hold what its data card says?"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from palm_cache.errors import counted
from palm_cache.extraction.datasets.card import SHOTS, DatasetCard
from palm_cache.extraction.datasets.class_names import named
from palm_cache.extraction.datasets.listing import list_files
from palm_cache.types import ClipTable, Fold, Place
from palm_cache.types.audio_names import READABLE_ENDINGS

FOLDS_LISTED = 3

NAMES_COMPARED = 20_000
"""File names among which the nearest to one that is missing is looked for."""


@dataclass(frozen=True, slots=True)
class Check:
    """What comparing a local copy with its card found."""

    folder: Place
    table: ClipTable
    differences: tuple[str, ...]
    """From the card, in words; empty for a folder without one."""

    @property
    def sound(self) -> bool:
        """Whether everything is there and as the card says."""
        return not self.differences and not self.table.missing


def differences(card: DatasetCard, table: ClipTable, *, split: bool = True) -> tuple[str, ...]:
    """Name what a local copy's tables hold otherwise than the card; ``split`` says whether folds count."""
    deviations = _class_differences(card, table)
    if split and len(table.folds) != card.n_folds:
        deviations.append(f"{counted(len(table.folds), 'fold')} instead of {card.n_folds}")
    if card.n_clips is not None and len(table.clips) != card.n_clips:
        deviations.append(f"{counted(len(table.clips), 'clip')} instead of {card.n_clips:,}")
    if not split:
        return tuple(deviations)
    tested = [len(fold.test) for fold in table.folds]
    if len(tested) == card.n_folds:
        # The published folds of TUT2017 are not the paper's: either count is right, a mixture is not.
        accepted = [counts for counts in (card.test_clips, card.published_test_clips) if counts]
        nearest = max(accepted, key=lambda counts: sum(map(int.__eq__, tested, counts)))
        deviations += _fold_differences("test clips", tested, nearest)
    if table.class_names == card.class_names:
        drawn = [_drawn(table, fold) for fold in table.folds]
        nearest = (card.few_shot_clips,) * len(drawn)
        deviations += _fold_differences(f"training clips at {SHOTS} shots", drawn, nearest)
    return tuple(deviations)


def absence(table: ClipTable, folder: Place) -> str:
    """Say that no file of a dataset is where its tables say, and which one is nearest to the first."""
    audio, missing = list_files(folder).audio, table.missing
    if Path("/", missing[0]).is_file():
        return (
            f"{folder.absolute()}: none of the files of {table.dataset} lies here, but /{missing[0]} is "
            "there: give the table itself, and `root` / to take absolute paths as they are"
        )
    if not audio:
        return (
            f"{folder.absolute()}: no audio file lies here, {counted(len(missing), 'is', 'are')} wanted, "
            f"e.g. {missing[0]} (looked for {', '.join(READABLE_ENDINGS)}); is a disk not mounted, or an "
            "archive not unpacked?"
        )
    name = PurePosixPath(missing[0]).name.casefold()
    known = {PurePosixPath(path).name.casefold(): path for path in reversed(audio[:NAMES_COMPARED])}
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return (
        f"{folder.absolute()}: none of the {counted(len(missing), 'file')} of {table.dataset} is here, e.g. "
        f"{missing[0]}; the nearest of {len(audio):,} is {known[near[0]]}: paths are relative to the "
        "dataset's folder"
    )


def _class_differences(card: DatasetCard, table: ClipTable) -> list[str]:
    deviations = []
    absent = [name for name in card.class_names if name not in table.class_names]
    if absent:
        deviations.append(
            f"{len(absent)} of {counted(card.n_classes, 'class', 'classes')} missing: {named(absent)}"
        )
    strange = [name for name in table.class_names if name not in card.class_names]
    if strange:
        deviations.append(
            f"{counted(len(strange), 'class name')} that the card does not have: {named(strange)}"
        )
    return deviations


def _drawn(table: ClipTable, fold: Fold) -> int:
    """Return how many training clips a fold yields at the paper's number of shots."""
    per_class = Counter(table.clips.labels[row] for row in fold.train.tolist())
    return sum(min(SHOTS, count) for count in per_class.values())


def _fold_differences(what: str, have: Sequence[int], want: Sequence[int]) -> list[str]:
    differing = [
        f"{mine:,} instead of {theirs:,} in fold {number}"
        for number, (mine, theirs) in enumerate(zip(have, want, strict=True), start=1)
        if mine != theirs
    ]
    if not differing:
        return []
    more = len(differing) - FOLDS_LISTED
    listed = "; ".join(differing[:FOLDS_LISTED]) + (f"; and {more} more" if more > 0 else "")
    return [f"{what}: {listed}"]
