"""A head fitted on one dataset, scored on another that has classes of the same names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch

from palm_cache.adaptation.evaluate import check_fresh, score_row
from palm_cache.adaptation.fit import LoadTower, tower_to_score
from palm_cache.adaptation.scorer import Scorer
from palm_cache.adaptation.tasks import draw
from palm_cache.errors import DataError, EncoderError, StaleStoreError, did_you_mean, near, some
from palm_cache.store.features import FeatureStore
from palm_cache.store.heads import read_heads
from palm_cache.store.layout import extract_command
from palm_cache.store.scores import COLUMNS
from palm_cache.types import Place, Progress, no_progress


def transfer_heads(
    heads_file: Path,
    store: Place,
    *,
    same: Mapping[str, str] | None = None,
    load_tower: LoadTower | None = None,
    progress: Progress = no_progress,
) -> pd.DataFrame:
    """Score every head of a file on the test clips of another dataset; see :func:`palm_cache.api.transfer`.

    The logits of classes that only one of the datasets has are left out, as if the head had been asked only
    about those that both have. A clip that a run learned from is not asked about, whichever dataset it is in:
    clips are known by their content.
    """
    heads, origin = read_heads(heads_file)
    if len(origin) > 1:
        raise EncoderError(f"{heads_file}: its heads read joined encoders, and a transfer looks at one store")
    from_store, to_store = FeatureStore(origin[0]), FeatureStore(store)
    source, target = from_store.read(), to_store.read()
    if source.fingerprint != target.fingerprint:
        raise StaleStoreError(
            f"{store}: made by another encoder than the heads of {heads_file} were fitted on; make one with: "
            f"{extract_command(target.dataset, source.encoder, store.parent.parent)}"
        )
    ours, theirs = shared_classes(source.class_names, target.class_names, same or {})
    label = torch.full((len(target.class_names),), -1)
    label[theirs] = torch.arange(len(theirs))
    tested = torch.unique(torch.cat([fold.test for fold in target.folds]))
    tested = tested[target.usable[tested] & (label[target.labels[tested]] >= 0)]
    source_contents, target_contents = from_store.content_hashes(), to_store.content_hashes()
    check_fresh(heads, source, origin, heads_file)
    tower, rows = tower_to_score(heads, from_store.header, load_tower), []
    for number, head in enumerate(heads):
        progress("evaluating", number, len(heads))
        learned = {source_contents[row] for row in draw(source, head.run).train.tolist()}
        clips = torch.tensor(
            [row for row in tested.tolist() if target_contents[row] not in learned], dtype=torch.int64
        )
        if not len(clips):
            raise DataError(f"{target.dataset}: no test clip of a common class that {source.dataset} has not")
        logits = Scorer(head, target.audio.shape[2], tower).clip_logits(target.audio[clips])[:, ours]
        row = score_row(head, logits, label[target.labels[clips]])
        rows.append({**row, "dataset": f"{source.dataset} -> {target.dataset}"})
    progress("evaluating", len(heads), len(heads))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def shared_classes(
    ours: tuple[str, ...], theirs: tuple[str, ...], same: Mapping[str, str]
) -> tuple[list[int], list[int]]:
    """Find the labels of two or more classes that two datasets have in common, at the same places.

    Raises
    ------
    DataError
        If there are fewer, or ``same`` names a class that is none.
    """
    for named, known in ((same.keys(), ours), (same.values(), theirs)):
        wrong = [name for name in named if name not in known]
        if wrong:
            hint = did_you_mean(near(wrong[0], known)) or f"there are: {some(known)}"
            raise DataError(f"{wrong[0]!r} is no class here; {hint}")
    place = {_plain(name): label for label, name in enumerate(theirs)}
    pairs = [
        (label, place[_plain(same.get(name, name))])
        for label, name in enumerate(ours)
        if _plain(same.get(name, name)) in place
    ]
    if len(pairs) < 2:
        raise DataError(
            f"fewer than two classes in common: {some(ours)} / {some(theirs)}; say with `same` which names "
            "mean one class"
        )
    return [one for one, _ in pairs], [other for _, other in pairs]


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())
