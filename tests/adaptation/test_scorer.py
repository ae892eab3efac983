from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from samples import make_features

from palm_cache.adaptation.fit import fit_runs
from palm_cache.adaptation.scorer import Scorer
from palm_cache.errors import DamagedStoreError, EncoderError
from palm_cache.params import FitParams
from palm_cache.types.runs import Calibration


@pytest.mark.parametrize("test_views", ["first", "mean"])
def test_clips_are_scored_by_the_views_that_the_head_was_fitted_for(test_views: str):
    features = make_features(n_views=3)
    params = FitParams(heads=("prototype",), shots=(2,), seeds=(0,), folds=(1,), test_views=test_views)
    (head,), _ = fit_runs(features, params)
    scorer = Scorer(head, features.audio.shape[2])
    of_views = torch.stack([scorer.logits(features.audio[:, view]) for view in range(3)])
    expected = of_views[0] if test_views == "first" else of_views.mean(dim=0)
    torch.testing.assert_close(scorer.clip_logits(features.audio), expected)
    soft = Scorer(replace(head, calibration=Calibration(2.0, 8, 4, 1.0, 0.9)), features.audio.shape[2])
    torch.testing.assert_close(soft.probabilities(expected), (expected.double() / 2).softmax(dim=1))


def test_a_head_that_does_not_fit_is_refused():
    features = make_features()
    (head,), _ = fit_runs(features, FitParams(heads=("palm",), shots=(1,), seeds=(0,), folds=(1,)))
    with pytest.raises(DamagedStoreError, match="its arrays do not fit 5-d embeddings of mini"):
        Scorer(head, 5)
    for embeddings in (torch.tensor(1.0), torch.ones(4, 24, dtype=torch.int64)):
        strange = replace(head, state={**head.state, "class_embeddings": embeddings})
        with pytest.raises(DamagedStoreError, match="its arrays do not fit") as caught:
            Scorer(strange, 24)
        assert "\n" not in str(caught.value)
    with pytest.raises(EncoderError, match="learned words, which only a text tower can read"):
        Scorer(replace(head, run=replace(head.run, head="cocoop")), features.audio.shape[2])
