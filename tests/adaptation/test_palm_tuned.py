"""PALM that chooses its pace from the shots, against plain trainings of every candidate."""

from __future__ import annotations

from dataclasses import replace

import torch
from samples import make_shots
from torch.nn.functional import cross_entropy

from palm_cache.adaptation.heads.base import SCALE
from palm_cache.adaptation.heads.descent import draw_orders
from palm_cache.adaptation.heads.hyperparameters import TEMPERATURES, clearly_worse, cross_validation_folds
from palm_cache.adaptation.heads.palm import mix_context
from palm_cache.adaptation.heads.palm_descent import Variants, descend, feature_space, span_of_shots
from palm_cache.adaptation.heads.palm_tuned import EPOCHS, FOLDS, RECIPES, PalmTuned
from palm_cache.types import BARE_TEMPLATE
from palm_cache.types.runs import Training


def test_variants_are_trained_as_each_by_itself() -> None:
    shots = make_shots(runs=2, clips_per_class=5, dim=64)
    generator = torch.Generator().manual_seed(3)
    start = {"context": 0.1 * torch.randn(2, 4, 64, generator=generator), "gate": torch.rand(2, 4)}
    orders = torch.stack([draw_orders(20, 3, generator) for _ in range(2)])
    rates, scales = torch.tensor([0.01, 0.05, 0.002]), torch.tensor([100.0, 30.0, 50.0])
    seen: list[torch.Tensor] = []
    for coordinates in (feature_space, span_of_shots):
        seen.clear()
        together, _ = descend(
            start, shots, orders, Training(),
            coordinates=coordinates,
            variants=Variants(rates.repeat(2), scales.repeat(2), torch.ones(6, 20)),
            watch=lambda epoch, cosines: seen.append(cosines),
        )  # fmt: skip
        assert len(seen) == 1 + 3
        for variant in range(3):
            alone, _ = descend(
                start, shots, orders, Training(),
                coordinates=coordinates,
                variants=Variants(
                    rates[variant].repeat(2), scales[variant].repeat(2), torch.ones(2, 20)
                ),
            )  # fmt: skip
            for name, value in alone.items():
                torch.testing.assert_close(together[name][variant::3], value, atol=1e-5, rtol=1e-4)
            embeddings = mix_context(shots.text, alone["context"], alone["gate"])
            cosines = shots.audio @ embeddings.mT
            torch.testing.assert_close(seen[-1][:, variant], cosines, atol=1e-5, rtol=0)


def test_a_clip_of_weight_zero_might_as_well_not_be_there() -> None:
    shots = make_shots(runs=1, clips_per_class=4)
    start = {"context": torch.zeros(1, 4, 24), "gate": torch.zeros(1, 4)}
    orders = draw_orders(16, 3, torch.Generator().manual_seed(0))[None]
    weights = torch.ones(1, 16)
    weights[0, 5] = 0
    moved = shots.audio.clone()
    moved[0, 5] = moved[0, 0]
    learned = [
        descend(
            start, replace(shots, audio=audio), orders, Training(),
            variants=Variants(torch.tensor([0.05]), torch.tensor([100.0]), weights),
        )[0]
        for audio in (shots.audio, moved)
    ]  # fmt: skip
    torch.testing.assert_close(learned[0], learned[1], atol=1e-5, rtol=0)


def test_what_is_chosen_is_the_slowest_that_is_not_clearly_worse_than_the_best() -> None:
    shots = make_shots(runs=2, clips_per_class=6, noise=2.0)
    head = PalmTuned(BARE_TEMPLATE, Training())
    state = head.fit(shots)
    dealt = cross_validation_folds(shots.labels, 4, shots.together, FOLDS)
    for run, seed in enumerate(shots.seeds):
        generator = torch.Generator().manual_seed(seed)
        gate = torch.rand(4, generator=generator)[None]
        orders = draw_orders(24, 30, generator)[None]
        losses, paces, candidates = [], [], []
        for rate, scale in RECIPES.values:
            for epochs in EPOCHS.values:
                logits = torch.zeros(24, 4)
                for fold in range(FOLDS):
                    out = dealt[run] == fold
                    start = {"context": torch.zeros(1, 4, 24), "gate": gate}
                    if epochs:
                        weights = (~out).float()[None] / (~out).float().mean()
                        start, _ = descend(
                            start, shots.of_runs(torch.tensor([run])), orders[:, :epochs], Training(),
                            variants=Variants(torch.tensor([rate]), torch.tensor([scale]), weights),
                        )  # fmt: skip
                    embeddings = mix_context(shots.text[run][None], start["context"], start["gate"])[0]
                    logits[out] = SCALE * shots.audio[run][out] @ embeddings.T
                each = [
                    cross_entropy(factor * logits, shots.labels[run], reduction="none")
                    for factor in TEMPERATURES
                ]
                losses.append(min(each, key=lambda one: float(one.mean())))
                paces.append(rate * scale**2 * epochs)
                candidates.append((rate, scale, epochs))
        worse = clearly_worse(torch.stack(losses)[None], torch.full((1, 24), 1 / 24))[0]
        slowest = min((pace, place) for place, pace in enumerate(paces) if not worse[place])[1]
        chosen = (float(state["learning_rate"][run]), float(state["scale"][run]), int(state["passes"][run]))
        assert torch.allclose(torch.tensor(chosen), torch.tensor(candidates[slowest]))


def test_class_embeddings_go_half_of_the_way_back_to_the_prompts() -> None:
    shots = make_shots(runs=2, clips_per_class=6, wrong_text=True)
    state = PalmTuned(BARE_TEMPLATE, Training()).fit(shots)
    tuned = mix_context(shots.text, state["context"], state["gate"])
    found = state["class_embeddings"]
    torch.testing.assert_close((found * tuned).sum(dim=2), (found * shots.text).sum(dim=2))
    torch.testing.assert_close(found.norm(dim=2), torch.ones(2, 4))
    assert (tuned * shots.text).sum(dim=2).min() < 0.99
    assert ((found * tuned).sum(dim=2) > (tuned * shots.text).sum(dim=2) - 1e-6).all()


def test_few_clips_prove_nothing_and_many_do() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(200, generator=generator)
    losses = torch.stack([noise.abs(), noise.abs() + 0.2 + 0.5 * torch.randn(200, generator=generator)])[None]
    assert clearly_worse(losses, torch.full((1, 200), 1 / 200)).tolist() == [[False, True]]
    few = torch.tensor([[[1.0, 2.0], [1.5, 1.6]]])
    assert not clearly_worse(few, torch.full((1, 2), 0.5)).any()


def test_one_shot_takes_the_documented_default_and_right_prompts_are_kept() -> None:
    shots = make_shots(runs=2, clips_per_class=1, shift=0.1)
    state = PalmTuned(BARE_TEMPLATE, Training()).fit(shots)
    assert state["held_out"].tolist() == [0, 0]
    assert state["passes"].tolist() == [EPOCHS.default] * 2
    recipe = torch.stack([state["learning_rate"], state["scale"]], dim=1)
    assert torch.allclose(recipe, torch.tensor(RECIPES.default, dtype=torch.float64))
    kept = (state["class_embeddings"] * shots.text).sum(dim=2)
    assert kept.min() > 0.95
