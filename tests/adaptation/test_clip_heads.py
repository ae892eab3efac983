"""Heads that keep, average or regress on clips, against scikit-learn and plain loops."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from samples import make_features, make_shots
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor
from torch.nn.functional import cross_entropy

from palm_cache.adaptation.evaluate import evaluate_head
from palm_cache.adaptation.fit import fit_runs
from palm_cache.adaptation.heads import HEADS, find_head, linear_probe, tip_adapter
from palm_cache.adaptation.heads.base import Head, Shots, unit
from palm_cache.adaptation.heads.descent import draw_orders
from palm_cache.adaptation.heads.hyperparameters import FOLDS, TEMPERATURES, Grid
from palm_cache.adaptation.heads.linear_probe import LinearProbe
from palm_cache.adaptation.heads.neighbours import NEIGHBOURS, Neighbours
from palm_cache.adaptation.heads.palm import Palm
from palm_cache.adaptation.heads.prototype import PalmPrototype, Prototype
from palm_cache.adaptation.heads.tip_adapter import TipAdapter, TipAdapterF
from palm_cache.params import FitParams
from palm_cache.types import BARE_TEMPLATE, Fold
from palm_cache.types.runs import Training

BALANCED = ("knn", "linear-probe", "kernel-ridge", "tip-adapter", "tip-adapter-f", "proker")
"""Heads that help classes with few shots."""


def make_head(kind: type[Head], training: Training | None = None) -> Head:
    return kind(BARE_TEMPLATE, training or Training())


def state_of(state: dict[str, Tensor], run: int) -> dict[str, Tensor]:
    return {name: value[run] for name, value in state.items()}


@pytest.fixture
def shots() -> Shots:
    return make_shots(runs=3, noise=2.0)


@pytest.fixture
def clips() -> Tensor:
    """Clips of any length, as encoders give them."""
    return 3 * torch.randn(40, 24, generator=torch.Generator().manual_seed(7))


def test_prototypes_are_class_means_compared_by_cosine(shots: Shots, clips: Tensor) -> None:
    state = make_head(Prototype).fit(shots)
    for run in range(3):
        means = [shots.audio[run][shots.labels[run] == label].numpy().mean(0) for label in range(4)]
        expected = 100 * cosine_similarity(clips.numpy(), np.stack(means))
        np.testing.assert_allclose(Prototype.logits(state_of(state, run), clips), expected, atol=1e-4)


def test_palm_prototype_is_palm_from_the_class_means(shots: Shots) -> None:
    still = Training(epochs=1, lr=1e-12)
    start = make_head(PalmPrototype, still).fit(shots)
    means = make_head(Prototype).fit(shots)["class_embeddings"]
    torch.testing.assert_close(start["context"], means)
    learned = make_head(PalmPrototype).fit(shots)
    assert not torch.allclose(learned["context"], means, atol=0.01)
    assert PalmPrototype.n_params(4, 24, 8, 32) == Palm.n_params(4, 24, 8, 32)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", [name for name, head in HEADS.items() if not head.needs_text_tower])
def test_no_library_warns_of_few_shots_of_many_classes(name: str) -> None:
    for clips_per_class in (1, 2):
        shots = make_shots(runs=1, n_classes=24, clips_per_class=clips_per_class, parts=(12, 12))
        make_head(HEADS[name], Training(epochs=1)).fit(shots)


def test_neighbours_vote_as_in_scikit_learn(shots: Shots, clips: Tensor) -> None:
    state = make_head(Neighbours).fit(shots)
    for run, k in itertools.product(range(3), (1, 3, 10)):
        model = KNeighborsClassifier(
            k, metric="cosine", weights=lambda distance, k=k: 1 + (2 - distance) / (4 * k)
        ).fit(shots.audio[run].numpy(), shots.labels[run].numpy())
        logits = Neighbours.logits({**state_of(state, run), "k": torch.tensor(k)}, clips)
        weights = 1 + (2 - model.kneighbors(clips.numpy())[0]) / (4 * k)
        total = weights.sum(1, keepdims=True)
        expected = (model.predict_proba(clips.numpy()) * total + 1 / 4) / (total + 1)
        np.testing.assert_allclose(torch.softmax(logits, dim=1), expected, atol=1e-5)


def test_equal_numbers_of_votes_go_to_the_nearer_neighbours() -> None:
    audio = unit(torch.tensor([[[1.0, 0.1], [1.0, 0.3], [0.0, 1.0], [0.1, -1.0]]]))
    shots = Shots(audio, torch.tensor([[1, 0, 0, 1]]), torch.zeros(1, 2, 2), (0,))
    state = {**make_head(Neighbours).fit(shots), "k": torch.tensor([2])}
    assert Neighbours.logits(state, torch.tensor([[[1.0, 0.0]]])).argmax() == 1


def test_more_neighbours_than_shots_are_all_shots(shots: Shots, clips: Tensor) -> None:
    state = state_of(make_head(Neighbours).fit(shots), 0)
    everyone = Neighbours.logits({**state, "k": torch.tensor(32)}, clips)
    beyond = Neighbours.logits({**state, "k": torch.tensor(1000)}, clips)
    assert torch.equal(everyone.argmax(1), beyond.argmax(1))


def test_k_is_the_best_of_leaving_every_clip_out(shots: Shots) -> None:
    chosen = make_head(Neighbours).fit(shots)["k"]
    for run in range(3):
        losses = []
        for k in NEIGHBOURS.values:
            logits = []
            for clip in range(32):
                rest = torch.arange(32) != clip
                state = {
                    "clips": shots.audio[run][rest],
                    "targets": torch.eye(4)[shots.labels[run][rest]],
                    "k": torch.tensor(k),
                }
                logits.append(Neighbours.logits(state, shots.audio[run, clip : clip + 1])[0])
            losses.append(float(cross_entropy(torch.stack(logits), shots.labels[run])))
        assert int(chosen[run]) == NEIGHBOURS.values[int(np.argmin(losses))]


@pytest.mark.parametrize("n_classes", [2, 4])
def test_the_linear_probe_is_scikit_learns_on_the_embeddings(n_classes: int, clips: Tensor) -> None:
    """Found in the span of the shots, it is the same as in all dimensions."""
    shots = make_shots(runs=2, n_classes=n_classes, clips_per_class=5, noise=2.0)
    state = make_head(LinearProbe).fit(shots)
    for run in range(2):
        # Of two classes scikit-learn penalises the difference alone, twice as much as both weights.
        strength = float(state["C"][run]) * (2 if n_classes == 2 else 1)
        model = LogisticRegression(C=strength, max_iter=1000, tol=1e-7)
        model.fit(shots.audio[run].double().numpy(), shots.labels[run].numpy())
        expected = model.predict_proba(unit(clips).double().numpy())
        probabilities = torch.softmax(LinearProbe.logits(state_of(state, run), clips), dim=1)
        # Both stop where the slope is nearly level, not at the same step.
        np.testing.assert_allclose(probabilities, expected, atol=2e-3)


def test_the_probes_strength_is_the_best_of_cross_validation() -> None:
    shots = make_shots(runs=3, noise=4.0)
    chosen = make_head(LinearProbe).fit(shots)["C"]
    assert chosen.unique().numel() > 1  # runs choose for themselves
    for run in range(3):
        audio, labels = shots.audio[run].double().numpy(), shots.labels[run].numpy()
        fold = np.zeros(32, dtype=int)
        for label in range(4):
            fold[labels == label] = np.arange(8) % FOLDS
        losses = []
        for strength in linear_probe.STRENGTHS.values:
            probabilities = np.zeros((32, 4))
            for number in range(FOLDS):
                model = LogisticRegression(C=strength, max_iter=1000).fit(
                    audio[fold != number], labels[fold != number]
                )
                probabilities[fold == number] = model.predict_proba(audio[fold == number])
            losses.append(log_loss(labels, probabilities))
        assert float(chosen[run]) == linear_probe.STRENGTHS.values[int(np.argmin(losses))]


def test_in_a_narrow_cone_the_probe_finds_its_minimum_in_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors of an encoder that are far from the origin, some of their numbers a thousand times others."""
    plain = make_shots(runs=1, clips_per_class=16, noise=1.0)
    narrow = unit((plain.audio[0] + 2) * torch.logspace(0, 3, plain.audio.shape[2]))
    steps: list[int] = []
    regress = linear_probe._regress

    def spy(model, *given):  # type: ignore[no-untyped-def]
        solution = regress(model, *given)
        steps.append(int(model.n_iter_.max()))
        return solution

    monkeypatch.setattr(linear_probe, "_regress", spy)
    state = make_head(LinearProbe).fit(replace(plain, audio=narrow[None]))
    model = LogisticRegression(C=float(state["C"][0]), solver="newton-cg", max_iter=1000, tol=1e-10)
    model.fit(narrow.double().numpy(), plain.labels[0].numpy())
    found = LinearProbe.logits(state_of(state, 0), narrow).softmax(dim=1)
    np.testing.assert_allclose(found, model.predict_proba(narrow.double().numpy()), atol=1e-3)
    assert max(steps) < 100


def test_fewer_shots_than_folds_still_choose_and_one_takes_the_default() -> None:
    two, one = (make_head(LinearProbe).fit(make_shots(runs=1, clips_per_class=count)) for count in (2, 1))
    assert two["held_out"].tolist() == [8]
    assert (one["held_out"].tolist(), one["C"].tolist()) == ([0], [linear_probe.STRENGTHS.default])


def naive_tip_adapter(
    clip: Tensor, keys: Tensor, labels: Tensor, text: Tensor, alpha: float, beta: float
) -> Tensor:
    clip = clip / clip.norm()
    logits = torch.stack([100 * clip @ prompt for prompt in text])
    for key, label in zip(keys, labels, strict=True):
        logits[label] += alpha * torch.exp(-beta * (1 - clip @ key))
    return logits


def test_tip_adapter_is_the_naive_loop(shots: Shots, clips: Tensor) -> None:
    state = make_head(TipAdapter).fit(shots)
    for run in range(3):
        alpha, beta = float(state["alpha"][run]), float(state["beta"][run])
        expected = [
            naive_tip_adapter(clip, shots.audio[run], shots.labels[run], shots.text[run], alpha, beta)
            for clip in clips
        ]
        logits = TipAdapter.logits(state_of(state, run), clips)
        torch.testing.assert_close(logits, torch.stack(expected), atol=1e-2, rtol=1e-4)


def test_tip_adapters_numbers_are_the_best_of_leaving_every_key_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tip_adapter, "ALPHAS", Grid((1.0, 20.0, 500.0), default=20.0))
    monkeypatch.setattr(tip_adapter, "BETAS", Grid((2.0, 20.0), default=2.0))
    shots = make_shots(runs=2, clips_per_class=4, noise=2.0)
    state = make_head(TipAdapter).fit(shots)
    for run in range(2):
        losses = {}
        for beta, alpha in itertools.product(tip_adapter.BETAS.values, tip_adapter.ALPHAS.values):
            rows = []
            for clip in range(16):
                rest = torch.arange(16) != clip
                keys, labels = shots.audio[run][rest], shots.labels[run][rest]
                rows.append(
                    naive_tip_adapter(shots.audio[run, clip], keys, labels, shots.text[run], alpha, beta)
                )
            logits = torch.stack(rows)
            losses[alpha, beta] = min(
                float(cross_entropy(factor * logits, shots.labels[run])) for factor in TEMPERATURES
            )
        assert (float(state["alpha"][run]), float(state["beta"][run])) == min(losses, key=losses.__getitem__)


def test_chosen_numbers_beat_the_published_ones_where_prompts_are_wrong() -> None:
    features = make_features(shift=3, noise=0.4)
    head = fit_runs(features, FitParams(heads=("tip-adapter",), shots=(8,), folds=(1,), seeds=(0,)))[0][0]
    published = {"alpha": torch.tensor(1.0), "beta": torch.tensor(5.5)}
    test, labels = features.audio[features.folds[0].test, 0], features.labels[features.folds[0].test]
    accuracy = [
        float((TipAdapter.logits(state, test).argmax(1) == labels).float().mean())
        for state in (head.state, {**head.state, **published})
    ]
    assert accuracy[0] > accuracy[1] + 0.2
    assert evaluate_head(features, head)[0]["accuracy"] == pytest.approx(accuracy[0])


def test_keys_are_fine_tuned_as_by_one_optimiser_per_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tip_adapter, "BATCH_SIZE", 12)  # several batches an epoch, the last one smaller
    shots = make_shots(runs=3, noise=2.0)
    frozen, tuned = make_head(TipAdapter).fit(shots), make_head(TipAdapterF).fit(shots)
    for run, seed in enumerate(shots.seeds):
        order = draw_orders(32, tip_adapter.EPOCHS, torch.Generator().manual_seed(seed))
        keys = torch.nn.Parameter(shots.audio[run].clone())
        optimiser = torch.optim.AdamW([keys], lr=1e-3, eps=1e-4)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 3 * tip_adapter.EPOCHS)
        values = torch.eye(4)[shots.labels[run]]
        alpha, beta = (frozen[name][run].float() for name in ("alpha", "beta"))
        for epoch in order:
            for batch in epoch.split(12):
                optimiser.zero_grad()
                clip = shots.audio[run, batch]
                others = values.expand(len(batch), -1, -1).clone()
                others[torch.arange(len(batch)), batch] = 0  # a clip does not find itself
                cached = torch.exp(-beta * (1 - clip @ keys.T))[:, None] @ others
                logits = 100 * clip @ shots.text[run].T + alpha * cached[:, 0]
                cross_entropy(logits, shots.labels[run, batch]).backward()
                optimiser.step()
                schedule.step()
        torch.testing.assert_close(tuned["keys"][run], keys.detach(), atol=1e-5, rtol=0)


def test_fine_tuned_keys_move() -> None:
    """A key that its own clip finds is already right, and would stay where it is."""
    shots = make_shots(runs=2, noise=2.5)
    frozen, tuned = make_head(TipAdapter).fit(shots), make_head(TipAdapterF).fit(shots)
    assert (tuned["keys"] - frozen["keys"]).norm(dim=2).mean() > 0.02


def test_the_probe_minimises_what_is_documented_for_two_classes_too() -> None:
    shots = make_shots(runs=1, n_classes=2, clips_per_class=6, noise=3.0)
    state = make_head(LinearProbe).fit(shots)
    audio, labels = shots.audio[0].double(), shots.labels[0]

    def objective(weight: Tensor, bias: Tensor) -> Tensor:
        losses = cross_entropy(audio @ weight.T + bias, labels, reduction="sum")
        return weight.square().sum() / 2 + state["C"][0] * losses

    weight, bias = (state[name][0].double().requires_grad_() for name in ("weight", "bias"))
    objective(weight, bias).backward()
    assert weight.grad is not None
    assert weight.grad.norm() < 0.01 * weight.norm()


@pytest.mark.parametrize("name", BALANCED)
def test_classes_with_few_shots_are_found_as_those_with_many(name: str) -> None:
    features = make_features(n_classes=6, noise=1.6, shift=2.0, dim=16, clips_per_class=60)
    train, rare = features.folds[0].train, torch.tensor([0, 2, 4])
    is_rare = torch.isin(features.labels[train], rare)
    folds = (Fold(torch.cat([train[~is_rare], train[is_rare][:6]]), features.folds[0].test),)
    uneven = replace(features, folds=folds)
    test, truth = folds[0].test, features.labels[folds[0].test]
    recalls = []
    for head in fit_runs(uneven, FitParams(heads=(name,), shots=(16,)))[0]:
        guess = find_head(name).logits(head.state, features.audio[test, 0]).argmax(dim=1)
        recalls.append([float((guess == truth)[truth == label].float().mean()) for label in range(6)])
    recall = torch.tensor(recalls).mean(dim=0)
    of_rare, of_common = recall[rare].mean(), recall[[1, 3, 5]].mean()
    assert of_rare > of_common - 0.25


@pytest.mark.parametrize("kind", [Neighbours, TipAdapter, LinearProbe])
def test_views_of_a_clip_do_not_vouch_for_each_other(kind: type[Head]) -> None:
    state = make_head(kind).fit(make_shots(runs=2, clips_per_class=1, views=2))
    assert state["held_out"].tolist() == [0, 0]
