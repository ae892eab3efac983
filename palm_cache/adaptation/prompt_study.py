"""How much zero-shot depends on the wording of its prompt: every template of the store, and all together.

After Hanif et al., EMNLP 2024, Figure 2, which shows two wordings on ESC50.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from torch import Tensor

from palm_cache.adaptation.fit import text_of
from palm_cache.adaptation.heads.base import cosine_logits
from palm_cache.adaptation.metrics import measure
from palm_cache.adaptation.tasks import few_shot, folds_of
from palm_cache.store.atomic import alone_in, check_writable
from palm_cache.store.features import FeatureStore
from palm_cache.store.layout import slug
from palm_cache.store.scores import read_prompts, write_prompts
from palm_cache.types import ALL_TEMPLATES, Features, Place, Progress, no_progress


def study_prompts(
    stores: Sequence[Place], out: Path, *, folds: Sequence[int] = (), progress: Progress = no_progress
) -> pd.DataFrame:
    """Score zero-shot under every prompt template of some stores and write ``OUT/prompts.csv``.

    Rows of other datasets and encoders in the file stay. Returns and raises as :func:`palm_cache.prompts`.
    """
    check_writable(out)
    rows: list[dict[str, object]] = []
    for number, store in enumerate(stores):
        progress("scoring prompts", number, len(stores))
        rows += score_prompts(FeatureStore(store).read(), folds)
    progress("scoring prompts", len(stores), len(stores))
    scored = pd.DataFrame(rows)
    path = out / "prompts.csv"
    with alone_in(out):
        if path.exists():
            earlier = read_prompts(path)
            renewed = {(row["dataset"], row["encoder"]) for row in rows}
            keys = zip(earlier["dataset"], earlier["encoder"], strict=True)
            scored = pd.concat([earlier[[key not in renewed for key in keys]], scored])
        write_prompts(path, scored.sort_values(["dataset", "encoder"], kind="stable", ignore_index=True))
    return pd.DataFrame(rows)


def score_prompts(features: Features, folds: Sequence[int] = ()) -> list[dict[str, object]]:
    """Return one row per template and fold, the mean of all last."""
    templates = (*features.templates, ALL_TEMPLATES)
    texts: dict[str, Tensor] = {template: text_of(features, template) for template in templates}
    rows: list[dict[str, object]] = []
    for fold in folds_of(features, folds):
        test = few_shot(features, fold=fold, shots=0, seed=0).test
        for template, text in texts.items():
            scores = measure(cosine_logits(text, features.audio[test, 0]), features.labels[test])
            rows.append(
                {
                    "dataset": features.dataset,
                    "encoder": slug(features.encoder),
                    "template": template,
                    "fold": fold,
                    "n_test": len(test),
                    "accuracy": scores["accuracy"],
                    "macro_f1": scores["macro_f1"],
                    "fingerprint": features.fingerprint,
                }
            )
    return rows
