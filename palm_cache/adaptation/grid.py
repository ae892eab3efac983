"""Which runs exist: heads x shots x folds x seeds on one dataset."""

from __future__ import annotations

from palm_cache.adaptation.heads import find_head
from palm_cache.errors import DataError
from palm_cache.params import FitParams
from palm_cache.types import Features, Run


def plan_runs(features: Features, params: FitParams) -> list[Run]:
    """Return every run that the parameters ask for on a dataset, each once.

    Heads that learn nothing have one run per fold, with shots 0 and seed 0.

    Raises
    ------
    DataError
        If a fold does not exist.
    """
    folds = params.folds or range(1, len(features.folds) + 1)
    absent = [fold for fold in folds if fold > len(features.folds)]
    if absent:
        raise DataError(f"{features.dataset}: no fold {absent[0]}; it has {len(features.folds)}")
    runs = []
    for head in params.heads:
        trained = find_head(head).trained
        for shots in params.shots if trained else (0,):
            for fold in folds:
                for seed in params.seeds if trained else (0,):
                    runs.append(Run(features.dataset, features.encoder, head, shots, fold, seed))
    return list(dict.fromkeys(runs))
