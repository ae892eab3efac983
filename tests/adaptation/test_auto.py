"""Some heads together, each as loud as held-out shots find it right."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from samples import make_shots
from torch.nn.functional import cross_entropy

from palm_cache.adaptation.heads import auto
from palm_cache.adaptation.heads.auto import AT_ONE_SHOT, CANDIDATES, FACTORS, Auto
from palm_cache.adaptation.heads.base import Shots
from palm_cache.adaptation.heads.hyperparameters import cross_validation_folds
from palm_cache.adaptation.heads.prototype import Prototype
from palm_cache.adaptation.heads.zero_shot import ZeroShot
from palm_cache.types import BARE_TEMPLATE
from palm_cache.types.runs import Training


def fit(shots: Shots) -> dict[str, torch.Tensor]:
    return Auto(BARE_TEMPLATE, Training()).fit(shots)


def test_a_head_whose_prompts_are_wrong_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "CANDIDATES", (Prototype, ZeroShot))
    for wrong in (False, True):
        shots = make_shots(runs=2, clips_per_class=4, shift=0.05, noise=3.0, wrong_text=wrong)
        state = fit(shots)
        prototype, zero_shot = state["factors"].unbind(dim=1)
        assert (prototype > FACTORS[0]).all()
        assert (zero_shot == FACTORS[0]).all() if wrong else (zero_shot > FACTORS[0]).all()
        assert ((state["losses"][:, 1] > state["losses"][:, 0]) == wrong).all()


def test_its_logits_are_the_mean_of_the_candidates_own() -> None:
    shots = make_shots(runs=2, clips_per_class=4, noise=2.0)
    state = fit(shots)
    expected = torch.zeros(2, 16, 4)
    for place, kind in enumerate(CANDIDATES):
        alone = kind(BARE_TEMPLATE, Training()).fit(shots)
        expected += state["factors"][:, place, None, None].float() * kind.logits(alone, shots.audio) / 3
        for name in kind.chooses:
            assert torch.equal(state[f"{kind.name}_{name}"], alone[name])
    torch.testing.assert_close(Auto.logits(state, shots.audio), expected)


def test_factors_are_the_best_of_cross_validation_with_what_each_candidate_has_chosen() -> None:
    shots = make_shots(runs=2, clips_per_class=6, noise=2.5)
    state = fit(shots)
    folds = cross_validation_folds(shots.labels, 4, shots.together, auto.FOLDS)
    for run in range(2):
        audio, labels = shots.audio[run : run + 1], shots.labels[run : run + 1]
        for place, kind in enumerate(CANDIDATES):
            chosen = {name: state[f"{kind.name}_{name}"][run : run + 1] for name in kind.chooses}
            logits = torch.zeros(24, 4)
            for fold in range(auto.FOLDS):
                out = folds[run] == fold
                kept = Shots(
                    audio[:, ~out], labels[:, ~out], shots.text[run : run + 1], (run,), chosen=chosen
                )
                fitted = kind(BARE_TEMPLATE, Training()).fit(kept)
                logits[out] = kind.logits(fitted, audio[:, out])[0]
            losses = [float(cross_entropy(factor * logits.double(), labels[0])) for factor in FACTORS]
            assert float(state["factors"][run, place]) == FACTORS[losses.index(min(losses))]
            assert float(state["losses"][run, place]) == pytest.approx(min(losses))


def test_one_shot_takes_the_defaults() -> None:
    state = fit(make_shots(runs=1, clips_per_class=1))
    assert state["factors"].tolist() == [[AT_ONE_SHOT.get(kind.name, 1.0) for kind in CANDIDATES]]
    assert state["held_out"].tolist() == [0]


def test_what_it_and_its_candidates_chose_is_held_where_it_is_given() -> None:
    shots = make_shots(runs=2, clips_per_class=4, noise=2.0)
    state = fit(shots)
    chosen = {name: state[name] for name in Auto.chooses}
    assert {"factors", "proker_gamma", "gda_alpha", "tip-adapter_beta"} <= chosen.keys()
    few = make_shots(runs=2, clips_per_class=2, noise=2.0, seed=3)
    again = fit(replace(few, chosen=chosen))
    assert all(torch.equal(again[name], value) for name, value in chosen.items())
