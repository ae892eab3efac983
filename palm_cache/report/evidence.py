"""How sure the numbers are, and where heads err: what the predictions of every test clip tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

from palm_cache.report import figures
from palm_cache.report.content import Figure, Section, Table
from palm_cache.report.statistics import (
    LEVEL,
    RESAMPLES,
    Comparison,
    accuracy_interval,
    compare,
    confusion,
    outcomes,
    recalls,
)
from palm_cache.report.tables import percent
from palm_cache.store.heads import split_run_name
from palm_cache.store.scores import Prediction

REFERENCE = "palm"
"""The head that the others are held against, where it is there."""

_HOW = (
    f"Intervals hold {100 * LEVEL:.0f} % of {RESAMPLES:,} bootstrap resamples of the test clips, drawn "
    "within each fold, the same clips for all seeds. Two heads are compared on the same clips: the "
    "difference of their accuracies with its paired bootstrap interval and p, and the exact McNemar test,"
    " of whose p the largest over seeds is shown. The p are of single comparisons; among many, some are "
    "small by chance. Clips of one recording are not independent, and folds share training clips: true "
    "intervals are somewhat wider."
)


@dataclass(frozen=True, slots=True)
class Kind:
    """Every run of a head at one number of shots on one dataset."""

    head: str
    shots: int
    runs: dict[tuple[int, int], Prediction] = field(default_factory=dict)
    """By (fold, seed)."""

    def __str__(self) -> str:
        return f"{self.head}, {self.shots} shots" if self.shots else self.head


def by_kind(predictions: list[Prediction], scores: pd.DataFrame) -> dict[tuple[str, str], list[Kind]]:
    """Sort predictions by (dataset, encoder) and kind; those of runs that are not in the scores stay out."""
    columns = ["dataset", "encoder", "head", "shots", "fold", "seed"]
    scored = set(scores[columns].itertuples(index=False, name=None))
    found: dict[tuple[str, str], dict[tuple[str, int], Kind]] = {}
    for prediction in predictions:
        head, shots, fold, seed = split_run_name(prediction.run)
        place = (prediction.dataset, prediction.encoder)
        if (*place, head, shots, fold, seed) in scored:
            kinds = found.setdefault(place, {})
            kinds.setdefault((head, shots), Kind(head, shots)).runs[fold, seed] = prediction
    return {place: [kinds[key] for key in sorted(kinds)] for place, kinds in sorted(found.items())}


def certainty(kinds: Mapping[tuple[str, str], list[Kind]]) -> Section:
    """Show the interval of every kind, and the heads compared on the same clips."""
    intervals, pairs = [], []
    for place, of_place in kinds.items():
        for kind in of_place:
            interval = accuracy_interval(outcomes(kind.runs))
            bounds = f"{percent(interval.low)} to {percent(interval.high)}"
            intervals.append((*place, kind.head, str(kind.shots or "-"), bounds))
        for one, other in _pairs(of_place):
            compared = compare(outcomes(one.runs), outcomes(other.runs))
            pairs.append((*place, f"{one} - {other}", *_cells(compared)))
    return Section(
        "How sure the numbers are",
        (
            _HOW,
            Table(
                ("dataset", "encoder", "head", "shots", f"accuracy, {100 * LEVEL:.0f} % interval"),
                tuple(intervals),
            ),
            Table(
                ("dataset", "encoder", "compared", "difference", "interval", "p, bootstrap", "p, McNemar"),
                tuple(pairs),
                "Differences in points of accuracy",
            ),
        ),
    )


def errors(kinds: Mapping[tuple[str, str], list[Kind]]) -> Section:
    """Show per dataset what every class is taken for, and each head's recall per class."""
    blocks: list[str | Table | Figure] = []
    for number, (place, of_place) in enumerate(kinds.items()):
        where = f"{place[0]}, {place[1]}"
        largest = _largest(of_place)
        names = next(iter(of_place[0].runs.values())).class_names
        confused = {kind.head: confusion(list(kind.runs.values())) for kind in largest}
        shown = next((kind for kind in largest if kind.head == REFERENCE), largest[-1])
        caption = (
            f"{where}: what {shown} takes every class for, in % of its test clips, over all folds and seeds"
        )
        blocks.append(
            figures.confusion_matrix(f"confusion_{number + 1}", caption, confused[shown.head], names)
        )
        of_heads = [recalls(counts) for counts in confused.values()]
        rows = tuple(
            (name, *(percent(float(recall[label])) for recall in of_heads))
            for label, name in enumerate(names)
        )
        headings = ("class", *(str(kind) for kind in largest))
        blocks.append(Table(headings, rows, f"{where}: recall per class, %"))
    return Section("Where heads err", tuple(blocks))


def _largest(kinds: list[Kind]) -> list[Kind]:
    """Return every head at its largest number of shots."""
    return list({kind.head: kind for kind in sorted(kinds, key=lambda kind: kind.shots)}.values())


def _pairs(kinds: list[Kind]) -> list[tuple[Kind, Kind]]:
    """Pair every head with the reference, at the reference's largest number of shots."""
    largest = {kind.head: kind for kind in _largest(kinds)}
    reference = largest.get(REFERENCE)
    if reference is None:
        return []
    others = [kind for kind in kinds if kind.head != REFERENCE and kind.shots in (0, reference.shots)]
    return [
        (reference, other)
        for other in others
        if {fold for fold, _ in reference.runs} & {fold for fold, _ in other.runs}
    ]


def _cells(compared: Comparison) -> tuple[str, str, str, str]:
    bounds = f"{100 * compared.interval.low:+.2f} to {100 * compared.interval.high:+.2f}"
    return (
        f"{100 * compared.difference:+.2f}",
        bounds,
        _p(compared.bootstrap_p),
        _p(compared.mcnemar_p),
    )


def _p(p: float) -> str:
    return f"{p:.4f}" if p >= 1e-4 else "< 0.0001"
