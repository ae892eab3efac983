"""How sure the differences are, and where heads err: what the predictions of every test clip tell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pandas as pd

from palm_cache.errors import UnknownNameError, counted
from palm_cache.report import figures
from palm_cache.report.content import Figure, Section, Table
from palm_cache.report.means import percent
from palm_cache.report.statistics import (
    LEVEL,
    Comparison,
    Outcomes,
    compare,
    confusion,
    difference,
    holm,
    outcomes,
    recalls,
)
from palm_cache.store.run_names import split_run_name
from palm_cache.store.scores import KEYS, RunPrediction
from palm_cache.types.runs import method, spell_shots

REFERENCES = ("palm", "zero-shot")
"""With the first of these that ran on a dataset the others are compared, where none is asked for."""

HOW = (
    f"Intervals hold the accuracy that a head would have on average over further test clips and over further "
    f"draws and starts, at {100 * LEVEL:.0f} %: clips and seeds are both samples, a clip that several folds "
    "test is one clip, and quantiles are Student's, so that few seeds mean wide intervals. Clips of one "
    "recording are not independent: with such clips, true intervals are wider."
)

_PAIRS = (
    "Two heads are compared on the same clips with the same draws: runs that have no seed in common are not "
    "set against each other. Interval and p are of one comparison alone; the last column is adjusted for the "
    f"{{count}} of this section (Holm): below {1 - LEVEL:.2f}, the difference is sure."
)

ONE_SEED = (
    "Marked *: a single seed. Of a dataset that has one, the interval is over test clips alone and says "
    "nothing about another draw or start, and nothing of a single seed is tested. Fit with more --seeds."
)


@dataclass(frozen=True, slots=True)
class HeadRuns:
    """Every run of a head at one number of shots on one dataset."""

    head: str
    shots: int
    runs: dict[tuple[int, int], RunPrediction] = field(default_factory=dict)
    """By (fold, seed)."""

    def __str__(self) -> str:
        return f"{self.head}, {spell_shots(self.shots)} shots" if self.shots else self.head

    @property
    def outcomes(self) -> Outcomes:
        """What was right; without shots a head knows no seed."""
        return outcomes(self.runs, seeded=self.shots > 0)

    @property
    def one_seed(self) -> bool:
        """Whether nothing is known of other draws and starts, on which it depends."""
        return self.shots > 0 and len({seed for _, seed in self.runs}) == 1


Place = tuple[str, str]
"""(dataset, encoder)"""


def by_kind(predictions: list[RunPrediction], scores: pd.DataFrame) -> dict[Place, list[HeadRuns]]:
    """Sort predictions by (dataset, encoder) and kind; those of runs that are not in the scores stay out.

    Heads are called as in the scores, see :func:`~palm_cache.store.scores.tell_apart`.
    """
    rows = zip(*(scores[column] for column in KEYS), strict=True)
    names = {
        (dataset, encoder, method(head.partition("@")[0], variant), *cell): head
        for dataset, encoder, head, *cell, variant in rows
    }
    kinds_of: dict[Place, dict[tuple[str, int], HeadRuns]] = {}
    for prediction in predictions:
        ran, shots, fold, seed = split_run_name(prediction.run)
        place = (prediction.dataset, prediction.encoder)
        if head := names.get((*place, ran, shots, fold, seed)):
            kinds = kinds_of.setdefault(place, {})
            kinds.setdefault((head, shots), HeadRuns(head, shots)).runs[fold, seed] = prediction
    return {place: [kinds[key] for key in sorted(kinds)] for place, kinds in sorted(kinds_of.items())}


def reference_heads(kinds: Mapping[Place, list[HeadRuns]], against: str | None) -> dict[Place, str]:
    """Return the head that the others are compared with, on every dataset.

    Raises
    ------
    UnknownNameError
        If there are no predictions of the one that is asked for.
    """
    heads = {place: sorted({kind.head for kind in of_place}) for place, of_place in kinds.items()}
    known = sorted(set().union(*heads.values()))
    if against is not None and against not in known:
        raise UnknownNameError.among("head among these predictions", against, known)
    return {
        place: against or next((name for name in REFERENCES if name in there), there[0])
        for place, there in heads.items()
    }


def pairs(
    kinds: Mapping[Place, list[HeadRuns]], references: Mapping[Place, str]
) -> list[tuple[Place, HeadRuns, HeadRuns, Comparison]]:
    """Compare every head with the reference on every dataset, at the reference's largest number of shots.

    Where the reference learns nothing, every other head takes part at its own largest number.
    """
    compared = []
    for place, of_place in kinds.items():
        largest = {kind.head: kind for kind in largest_of(of_place)}
        if references[place] not in largest:
            continue
        ours = largest.pop(references[place])
        at = {kind.head: kind for kind in of_place if kind.shots in (0, ours.shots)}
        for rival in (largest if ours.shots == 0 else at).values():
            estimate = difference(ours.outcomes, rival.outcomes)
            if rival.head != ours.head and estimate:
                compared.append((place, ours, rival, compare([estimate])))
    return compared


def certainty(kinds: Mapping[Place, list[HeadRuns]], references: Mapping[Place, str]) -> Section:
    """Show every head beside the reference, compared on the same clips and draws."""
    compared = pairs(kinds, references)
    tested = [result.p for *_, result in compared if result.n_seeds != 1]
    adjusted = iter(holm(tested))
    tables: dict[str, list[tuple[str, ...]]] = {}
    for place, ours, rival, result in compared:
        is_tested = result.n_seeds != 1
        caption = f"{', '.join(place)}: {ours}, less each of the others, in points of accuracy"
        name = str(rival) if rival.shots != ours.shots else rival.head
        cells = _cells(result, next(adjusted) if is_tested else None)
        tables.setdefault(caption, []).append((name + "*" * (not is_tested), *cells))
    if not compared:
        named = " or ".join(sorted(set(references.values())))
        first = f"Nothing is compared: no other head ran with the shots and seeds of {named}."
    else:
        first = _PAIRS.format(count=counted(len(tested), "comparison"))
    headings = ("", "difference", f"{100 * LEVEL:.0f} % interval", "p", "p, Holm")
    shown = [Table(headings, tuple(rows), caption) for caption, rows in tables.items()]
    marked = [ONE_SEED] if len(tested) < len(compared) else []
    return Section("How sure the differences are", (first, *shown, *marked))


def errors(kinds: Mapping[Place, list[HeadRuns]], references: Mapping[Place, str]) -> Section:
    """Show per dataset what every class is taken for, and each head's recall per class."""
    blocks: list[str | Table | Figure] = []
    for number, (place, of_place) in enumerate(kinds.items()):
        where = f"{place[0]}, {place[1]}"
        largest = largest_of(of_place)
        names = next(iter(of_place[0].runs.values())).class_names
        confused = {kind.head: confusion(list(kind.runs.values())) for kind in largest}
        chosen = next((kind for kind in largest if kind.head == references[place]), largest[-1])
        caption = (
            f"{where}: what {chosen} takes every class for, in % of its test clips, over all folds and seeds"
        )
        blocks.append(
            figures.confusion_matrix(f"confusion_{number + 1}", caption, confused[chosen.head], names)
        )
        of_heads = [recalls(counts) for counts in confused.values()]
        rows = tuple(
            (name, *(percent(float(recall[label])) for recall in of_heads))
            for label, name in enumerate(names)
        )
        folds = [{fold for fold, _ in kind.runs} for kind in largest]
        headings = ["class", *map(str, largest)]
        for column, some in enumerate(folds, start=1):
            if some < set().union(*folds):  # other clips than those of the column beside it
                headings[column] += f", fold {', '.join(map(str, sorted(some)))} alone"
        blocks.append(Table(tuple(headings), rows, f"{where}: recall per class, %"))
    return Section("Where heads err", tuple(blocks))


def largest_of(kinds: Iterable[HeadRuns]) -> list[HeadRuns]:
    """Return every head at its largest number of shots."""
    return list({kind.head: kind for kind in sorted(kinds, key=lambda kind: kind.shots)}.values())


def _cells(compared: Comparison, adjusted: float | None) -> tuple[str, str, str, str]:
    bounds = f"{100 * compared.interval.low:+.2f} to {100 * compared.interval.high:+.2f}"
    tests = ("-", "-") if adjusted is None else (_p(compared.p), _p(adjusted))
    return (f"{100 * compared.difference:+.2f}", bounds, *tests)


def _p(p: float) -> str:
    return f"{p:.4f}" if p >= 1e-4 else "< 0.0001"
