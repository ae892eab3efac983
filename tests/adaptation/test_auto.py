"""The head that the shots prefer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from samples import make_shots

from palm_cache.adaptation.heads import auto
from palm_cache.adaptation.heads.auto import Auto
from palm_cache.adaptation.heads.prototype import Prototype
from palm_cache.adaptation.heads.zero_shot import ZeroShot
from palm_cache.types import BARE_TEMPLATE, Training


def test_right_prompts_and_wrong_ones_are_told_apart_by_the_shots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "CANDIDATES", (Prototype, ZeroShot))
    for wrong, expected in ((False, 1), (True, 0)):
        shots = make_shots(runs=2, clips_per_class=4, shift=0.05, noise=3.0, wrong_text=wrong)
        state = Auto(BARE_TEMPLATE, Training()).fit(shots)
        assert state["choice"].tolist() == [expected] * 2
        assert (state["losses"].argmin(dim=1) == expected).all()
        kind = auto.CANDIDATES[expected]
        alone = kind.logits(kind(BARE_TEMPLATE, Training()).fit(shots), shots.audio)
        torch.testing.assert_close(Auto.logits(state, shots.audio), alone)


def test_one_shot_takes_the_first_candidate() -> None:
    state = Auto(BARE_TEMPLATE, Training()).fit(make_shots(runs=1, clips_per_class=1))
    assert (state["choice"].tolist(), state["held_out"].tolist()) == ([0], [0])


def test_what_its_candidates_chose_is_held_where_it_is_given() -> None:
    shots = make_shots(runs=2, clips_per_class=4, noise=2.0)
    head = Auto(BARE_TEMPLATE, Training())
    state = head.fit(shots)
    chosen = {name: state[name] for name in Auto.chooses}
    assert {"proker_gamma", "gda_alpha", "tip-adapter_beta"} <= chosen.keys()
    few = make_shots(runs=2, clips_per_class=2, noise=2.0, seed=3)
    again = head.fit(replace(few, chosen=chosen))
    assert all(torch.equal(again[name], value) for name, value in chosen.items())
