"""Which runs exist: heads x shots x folds x seeds on one dataset."""

from __future__ import annotations

import hashlib
import itertools
import re

from palm_cache.adaptation.heads import find_head
from palm_cache.adaptation.tasks import folds_of
from palm_cache.params import FitParams
from palm_cache.types import Features
from palm_cache.types.runs import Run, parse_shots


def plan_runs(features: Features, params: FitParams) -> list[Run]:
    """Return every run that the parameters ask for on a dataset, each once.

    Heads that learn nothing have one run per fold, with shots 0 and seed 0. Raises as :func:`.folds_of`.
    """
    folds = folds_of(features, params.folds)
    runs = []
    for head in params.heads:
        trained, variant = find_head(head).trained, variant_of(head, params)
        shots = [parse_shots(str(asked)) for asked in params.shots] if trained else [0]
        cells = itertools.product(shots, folds, params.seeds if trained else (0,))
        runs += [Run(features.dataset, features.encoder, head, *cell, variant) for cell in cells]
    return list(dict.fromkeys(runs))


def variant_of(head: str, params: FitParams) -> str:
    """Name the options of a head that differ from the defaults, ``lr=0.005``; ``""`` where none does.

    Runs of different variants live side by side. Text that would not fit into a name is hashed.
    """
    options, defaults = _options(head, params), _options(head, FitParams())
    return ",".join(
        f"{name}={_short(value)}" for name, value in sorted(options.items()) if value != defaults.get(name)
    )


def _options(head: str, params: FitParams) -> dict[str, object]:
    made = find_head(head)(params.template, params.training)
    return {
        **made.hyperparameters,
        "template": made.template,
        "test_views": params.test_views,
        "split": params.split,
    }


def _short(value: object) -> str:
    text = str(value)
    if re.fullmatch(r"[\w.+-]{1,16}", text, re.ASCII):
        return text
    return hashlib.sha256(text.encode()).hexdigest()[:8]
