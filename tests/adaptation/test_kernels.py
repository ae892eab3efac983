"""Kernel machines against scikit-learn, plain loops and refits without the clip."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from samples import make_shots
from sklearn.kernel_ridge import KernelRidge as SklearnKernelRidge
from sklearn.metrics.pairwise import rbf_kernel
from torch import Tensor

from palm_cache.adaptation.heads import kernel_machine, kernels
from palm_cache.adaptation.heads.base import SCALE, unit
from palm_cache.adaptation.heads.hyperparameters import Grid
from palm_cache.adaptation.heads.kernel_machine import held_out_residuals, squared_distances
from palm_cache.adaptation.heads.kernels import KernelRidge, Proker, ProkerHybrid
from palm_cache.adaptation.heads.muka import Muka, MukaCosine, MukaFirst, MukaFirstCosine
from palm_cache.adaptation.heads.proker_published import MukaCrossed, MukaPublished, ProkerPublished
from palm_cache.types import BARE_TEMPLATE
from palm_cache.types.runs import Training

Array = NDArray[np.float64]


def make_head(kind: type[kernel_machine.KernelMachine]) -> kernel_machine.KernelMachine:
    return kind(BARE_TEMPLATE, Training())


def one_hot(labels: Tensor, n_classes: int) -> Array:
    return np.eye(n_classes)[labels.numpy()]


def state_of(state: dict[str, Tensor], run: int) -> dict[str, Tensor]:
    return {name: value[run] for name, value in state.items()}


def test_kernel_ridge_is_scikit_learns() -> None:
    shots = make_shots(runs=3, noise=2.0)
    state = make_head(KernelRidge).fit(shots)
    clips = torch.randn(50, 24, generator=torch.Generator().manual_seed(9))
    for run in range(3):
        model = SklearnKernelRidge(
            kernel="rbf", gamma=float(state["gamma"][run]), alpha=float(state["ridge"][run])
        ).fit(shots.audio[run].double().numpy(), one_hot(shots.labels[run], 4))
        expected = float(state["scale"][run]) * model.predict(unit(clips).double().numpy())
        logits = KernelRidge.logits(state_of(state, run), clips)
        np.testing.assert_allclose(logits, expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("views", [1, 2, 3])
def test_leave_one_out_equals_refits_without_the_clip(views: int) -> None:
    generator = torch.Generator().manual_seed(views)
    audio = torch.randn(12, 5, generator=generator, dtype=torch.float64).numpy()
    targets = torch.randn(12, 3, generator=generator, dtype=torch.float64)
    inverse = torch.linalg.inv(
        torch.from_numpy(rbf_kernel(audio, gamma=0.3)) + 0.1 * torch.eye(12, dtype=torch.float64)
    )
    residuals = held_out_residuals(inverse, targets, torch.arange(12) // views)
    for first in range(0, 12, views):
        own = np.arange(first, first + views)
        rest = np.setdiff1d(np.arange(12), own)
        model = SklearnKernelRidge(kernel="rbf", gamma=0.3, alpha=0.1).fit(audio[rest], targets[rest].numpy())
        expected = targets[own].numpy() - model.predict(audio[own])
        np.testing.assert_allclose(residuals[own], expected, atol=1e-10)


def test_a_recording_is_held_out_as_a_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    audio = torch.randn(9, 5, generator=generator, dtype=torch.float64).numpy()
    targets = torch.randn(9, 3, generator=generator, dtype=torch.float64)
    inverse = torch.linalg.inv(
        torch.from_numpy(rbf_kernel(audio, gamma=0.3)) + 0.1 * torch.eye(9, dtype=torch.float64)
    )
    groups = torch.tensor([4, 1, 4, 2, 0, 1, 4, 3, 0])
    residuals = held_out_residuals(inverse, targets, groups)
    for group in range(5):
        own, rest = ((groups == group).numpy(), (groups != group).numpy())
        model = SklearnKernelRidge(kernel="rbf", gamma=0.3, alpha=0.1).fit(audio[rest], targets[rest].numpy())
        np.testing.assert_allclose(
            residuals[own], targets[own].numpy() - model.predict(audio[own]), atol=1e-10
        )


def refit_losses(kernel: Callable[..., Array], prior: Callable[..., Array], audio: Array, labels: Tensor):
    """Leave-one-out by hand: every candidate is fitted again without every clip."""
    n, targets = len(audio), one_hot(labels, 4)
    predicted = np.zeros((n, 4))

    def losses(gamma: object, ridge: float, prior_scale: float, scale: float) -> float:
        for clip in range(n):
            rest = np.delete(np.arange(n), clip)
            gram = kernel(audio[rest], audio[rest], gamma) + ridge * np.eye(n - 1)
            weights = np.linalg.solve(gram, targets[rest] - prior(audio[rest], prior_scale))
            own = audio[clip : clip + 1]
            predicted[clip] = (prior(own, prior_scale) + kernel(own, audio[rest], gamma) @ weights)[0]
        scores = torch.from_numpy(scale * predicted)
        return float(torch.nn.functional.cross_entropy(scores, labels))

    return losses


@pytest.mark.parametrize("kind", [KernelRidge, Proker])
def test_what_is_chosen_is_the_best_of_all_refits(
    kind: type[kernel_machine.KernelMachine], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Few candidates, each of which wins somewhere: refitting without every clip takes its time.
    monkeypatch.setattr(kernel_machine.KernelMachine, "widths", Grid((0.25, 1.0, 4.0), 1.0))
    monkeypatch.setattr(kernel_machine.KernelMachine, "ridges", Grid((0.03, 0.3, 1.0), 0.3))
    monkeypatch.setattr(kernel_machine.KernelMachine, "scales", Grid((2.0, 5.0, 20.0), 5.0))
    monkeypatch.setattr(Proker, "prior_scales", Grid((0.0, 5.0, 20.0), 5.0))
    shots = make_shots(runs=2, clips_per_class=3, noise=2.0)
    state = make_head(kind).fit(shots)
    names = ("gamma", "ridge", "prior_scale", "scale") if kind is Proker else ("gamma", "ridge", "scale")
    for run in range(2):
        audio = shots.audio[run].double().numpy()
        spread = ((audio[:, None] - audio) ** 2).sum(2).sum() / (12 * 11)

        def prior(clips: Array, scale: float) -> Array:
            if kind is KernelRidge:
                return np.zeros((len(clips), 4))
            powers = np.exp(scale * clips @ shots.text[0].double().numpy().T)  # that of every run
            return np.asarray(powers / powers.sum(1, keepdims=True))

        loss = refit_losses(
            lambda a, b, width, spread=spread: np.exp(-width / spread * ((a[:, None] - b) ** 2).sum(2)),
            prior,
            audio,
            shots.labels[run],
        )
        grids = (kind.widths.values, kind.ridges.values, kind.prior_scales.values, kind.scales.values)
        best = min(itertools.product(*grids), key=lambda candidate: loss(*candidate))
        expected = dict(zip(("gamma", "ridge", "prior_scale", "scale"), best, strict=True))
        expected["gamma"] /= spread
        chosen = {name: float(state[name][run]) for name in names}
        assert chosen == pytest.approx({name: expected[name] for name in names})


def naive_proker(
    gram: Array, cross: Array, targets: Array, prior: Array, prior_of_clips: Array, ridge: float
):
    weights = np.linalg.inv(gram + ridge * np.eye(len(gram))) @ (targets - prior)
    return prior_of_clips + cross @ weights


def test_proker_is_the_naive_formula() -> None:
    shots = make_shots(runs=2, noise=2.0)
    state = make_head(Proker).fit(shots)
    clips = unit(torch.randn(30, 24, generator=torch.Generator().manual_seed(5)))
    for run in range(2):
        audio, gamma = shots.audio[run].double(), float(state["gamma"][run])
        softly = [
            torch.softmax(
                state["prior_scale"][run] * one.double() @ shots.text[run].double().T, dim=1
            ).numpy()
            for one in (audio, clips)
        ]
        expected = float(state["scale"][run]) * naive_proker(
            rbf_kernel(audio.numpy(), gamma=gamma),
            rbf_kernel(clips.double().numpy(), audio.numpy(), gamma=gamma),
            one_hot(shots.labels[run], 4),
            *softly,
            ridge=float(state["ridge"][run]),
        )
        logits = Proker.logits(state_of(state, run), clips).double()
        torch.testing.assert_close(logits, torch.from_numpy(expected), atol=1e-3, rtol=1e-4)


def test_proker_without_a_prior_is_kernel_ridge(monkeypatch: pytest.MonkeyPatch) -> None:
    """A constant prior is shared by all classes: what is predicted is kernel ridge regression's."""
    monkeypatch.setattr(Proker, "prior_scales", Grid((0.0,), 0.0))
    shots = make_shots(runs=3, noise=2.0)
    ridge, proker = make_head(KernelRidge).fit(shots), make_head(Proker).fit(shots)
    for name in ("gamma", "ridge", "scale", "held_out"):
        assert torch.equal(ridge[name], proker[name])
    predicted = [
        head.logits(state, shots.audio.flip(0)).log_softmax(dim=-1)
        for head, state in ((KernelRidge, ridge), (Proker, proker))
    ]
    torch.testing.assert_close(predicted[0], predicted[1], atol=1e-4, rtol=0)


def test_proker_follows_good_prompts_and_lets_go_of_wrong_ones() -> None:
    good = make_shots(runs=4, shift=0.2, noise=2.5)
    wrong = make_shots(runs=4, shift=0.2, noise=2.5, wrong_text=True)
    scales = [make_head(Proker).fit(shots)["prior_scale"] for shots in (good, wrong)]
    assert scales[0].min() >= 5
    assert scales[1].max() == 0
    assert max(kernels.PRIOR_SCALES) < SCALE


def test_mukas_kernel_is_the_product_of_the_encoders_kernels() -> None:
    shots = make_shots(runs=2, noise=2.0, parts=(10, 14))
    head = make_head(Muka)
    state = head.fit(shots)
    clips = torch.randn(20, 24, generator=torch.Generator().manual_seed(5))
    left, right = (
        [unit(part).double().numpy() for part in torch.split(side, [10, 14], dim=1)]
        for side in (clips, shots.audio[1])
    )
    gammas = state["gamma"][1].tolist()
    product, gram = (
        np.prod(
            [rbf_kernel(a, b, gamma=gamma) for a, b, gamma in zip(side, right, gammas, strict=True)], axis=0
        )
        for side in (left, right)
    )
    kernel = Muka.kernel(Muka.distances(clips, shots.audio[1], (10, 14)), state["gamma"][1])
    np.testing.assert_allclose(kernel, product, atol=1e-5)
    softly = [
        torch.softmax(state["prior_scale"][1] * unit(side).double() @ shots.text[1].double().T, dim=1).numpy()
        for side in (shots.audio[1], clips)
    ]
    expected = float(state["scale"][1]) * naive_proker(
        gram, product, one_hot(shots.labels[1], 4), *softly, ridge=float(state["ridge"][1])
    )
    logits = Muka.logits(state_of(state, 1), clips).double()
    torch.testing.assert_close(logits, torch.from_numpy(expected), atol=1e-3, rtol=1e-4)


def test_muka_leaves_out_an_encoder_that_only_adds_noise() -> None:
    shots = make_shots(runs=3, noise=2.0)
    noise = unit(torch.randn(3, 32, 24, generator=torch.Generator().manual_seed(1)))
    joined = make_shots(
        runs=3, noise=2.0, parts=(24, 24), audio=torch.cat([shots.audio, noise], dim=2) / 2**0.5
    )
    gamma = make_head(Muka).fit(joined)["gamma"]
    assert (gamma[:, 0] > 0).all()
    assert (gamma[:, 1] == 0).all()


@pytest.mark.parametrize("kind", [KernelRidge, Proker])
def test_views_of_a_clip_do_not_vouch_for_each_other(kind: type[kernel_machine.KernelMachine]) -> None:
    """One clip per class, seen twice: nothing can be held out, so the defaults are taken."""
    shots = make_shots(runs=2, clips_per_class=1, views=2)
    state = make_head(kind).fit(shots)
    assert state["held_out"].tolist() == [0, 0]
    assert state["ridge"].tolist() == [kind.ridges.default] * 2
    assert state["scale"].tolist() == [kind.scales.default] * 2


def test_runs_that_do_not_fit_into_memory_together_are_solved_in_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shots = make_shots(runs=3)
    together = make_head(KernelRidge).fit(shots)
    monkeypatch.setattr(kernel_machine, "MAX_NUMBERS", 1)
    for name, value in make_head(KernelRidge).fit(shots).items():
        torch.testing.assert_close(value, together[name])


def test_shots_that_are_all_the_same_clip_are_survived() -> None:
    shots = make_shots(runs=1)
    same = make_shots(runs=1, audio=shots.audio[:, :1].expand(-1, 32, -1))
    for kind in (KernelRidge, Proker):
        state = make_head(kind).fit(same)
        assert torch.isfinite(kind.logits(state, shots.audio)).all()


@pytest.mark.parametrize(("count", "beta", "ridge"), [(1, 3.0, 0.05), (4, 1.5, 0.05), (5, 1.5, 0.05)])
def test_proker_published_is_the_authors_formula(count: int, beta: float, ridge: float) -> None:
    shots = make_shots(runs=2, clips_per_class=count, noise=2.0)
    state = make_head(ProkerPublished).fit(shots)
    clips = unit(torch.randn(30, 24, generator=torch.Generator().manual_seed(5)))
    for run in range(2):
        audio, text = shots.audio[run].double().numpy(), shots.text[run].double().numpy()
        gram, cross = (np.exp(-beta * (1 - side @ audio.T)) for side in (audio, clips.double().numpy()))
        targets = one_hot(shots.labels[run], 4)
        alpha = np.linalg.solve(gram / ridge + np.eye(len(gram)), targets - audio @ text.T)
        expected = clips.double().numpy() @ text.T + cross @ alpha
        logits = ProkerPublished.logits(state_of(state, run), clips)
        np.testing.assert_allclose(logits, expected, atol=1e-5)


@pytest.mark.parametrize(("kind", "kernels_of"), [(MukaPublished, (0, 1)), (MukaCrossed, (1,))])
def test_muka_published_has_the_first_encoders_prior(
    kind: type[ProkerPublished], kernels_of: tuple[int, ...]
) -> None:
    shots = make_shots(runs=1, clips_per_class=2, noise=2.0, parts=(10, 14))
    logits = kind.logits(kind(BARE_TEMPLATE, Training()).fit(shots), shots.audio)[0]
    audio = [unit(part).double().numpy() for part in torch.split(shots.audio[0], [10, 14], dim=1)]
    prompts = unit(shots.text[0, :, :10]).double().numpy()
    gram = np.prod([np.exp(-2.6 * (1 - audio[one] @ audio[one].T)) for one in kernels_of], axis=0)
    prior = audio[0] @ prompts.T
    alpha = np.linalg.solve(gram / 0.05 + np.eye(8), one_hot(shots.labels[0], 4) - prior)
    np.testing.assert_allclose(logits, prior + gram @ alpha, atol=1e-5)


def test_mukas_priors_are_those_that_their_names_say() -> None:
    shots = make_shots(runs=1, noise=2.0, parts=(10, 14))
    cosines = [
        unit(a) @ unit(t).T
        for a, t in zip(
            *(torch.split(side, [10, 14], dim=1) for side in (shots.audio[0], shots.text[0])), strict=True
        )
    ]
    for kind, first, softly in (
        (MukaFirst, True, True), (MukaCosine, False, False), (MukaFirstCosine, True, False),
    ):  # fmt: skip
        state = {**make_head(kind).fit(shots), "prior_scale": torch.tensor([2.0], dtype=torch.float64)}
        state["weights"] = torch.zeros_like(state["weights"])
        seen = cosines[0] if first else (cosines[0] + cosines[1]) / 2
        expected = torch.softmax(2 * seen, dim=1) if softly else 2 * seen
        torch.testing.assert_close(kind.logits(state, shots.audio)[0], state["scale"].float() * expected)


@pytest.mark.parametrize(("kind", "softly"), [(Muka, True), (MukaCosine, False)])
def test_an_encoder_without_text_is_a_factor_of_mukas_kernel_and_no_part_of_its_prior(
    kind: type[Muka], softly: bool
) -> None:
    shots = make_shots(runs=1, noise=2.0, parts=(8, 8, 8))
    text = shots.text.clone()
    text[..., 8:16] = 0
    state = make_head(kind).fit(replace(shots, text=unit(text)))
    (left, speech, right), prompts = (torch.split(side, 8, dim=-1) for side in (shots.audio[0], text[0]))
    seen = (unit(left) @ unit(prompts[0]).T + unit(right) @ unit(prompts[2]).T) / 2
    scale = float(state["prior_scale"])
    prior = torch.softmax(scale * seen, dim=1) if softly else scale * seen
    clips = [unit(left), unit(speech), unit(right)]
    exponents = sum(
        gamma * squared_distances(part, part) for gamma, part in zip(state["gamma"][0], clips, strict=True)
    )
    logits = state["scale"].float() * (prior + torch.exp(-exponents).float() @ state["weights"][0])
    torch.testing.assert_close(kind.logits(state, shots.audio)[0], logits, atol=1e-4, rtol=0)


def test_one_clip_per_class_gives_every_encoder_the_same_share() -> None:
    shots = make_shots(runs=1, clips_per_class=1, parts=(12, 12))
    gamma = make_head(Muka).fit(shots)["gamma"][0]
    spread = Muka.distances(shots.audio, shots.audio, (12, 12)).sum(dim=(-2, -1))[0] / 12
    torch.testing.assert_close(gamma, 0.5 / spread.double(), atol=1e-5, rtol=1e-5)


def test_widths_of_many_encoders_are_chosen_one_after_the_other() -> None:
    """Four encoders, of which two hear something: no grid of 4 to the 4."""
    good = make_shots(runs=2, noise=2.0)
    noise = torch.randn(2, 32, 48, generator=torch.Generator().manual_seed(1))
    audio = torch.cat([good.audio, unit(noise[..., :24]), good.audio, unit(noise[..., 24:])], dim=2) / 2
    shots = make_shots(runs=2, noise=2.0, parts=(24,) * 4, audio=audio)
    tried = []
    kernel = Muka.kernel

    class Counted(Muka):
        @staticmethod
        def kernel(distances: Tensor, gamma: Tensor) -> Tensor:
            tried.append(gamma)
            return kernel(distances, gamma)

    gamma = make_head(Counted).fit(shots)["gamma"]
    assert (gamma[:, [1, 3]] == 0).all()
    assert (gamma[:, [0, 2]].sum(dim=1) > 0).all()
    assert len(tried) < 50


def test_a_shot_is_no_part_of_the_mean_that_proker_hybrid_holds_it_against() -> None:
    shots = make_shots(runs=2, clips_per_class=3, views=2, noise=2.0)
    # In single precision they were of unit length only nearly.
    shots = replace(shots, audio=unit(shots.audio.double()))
    audio, text = shots.audio, shots.text.double()
    cosines = make_head(ProkerHybrid).cosines_of_shots(shots)
    for run, blend, clip in itertools.product(range(2), range(4), range(12)):
        share = kernels.BLENDS[blend]
        for label in range(4):
            others = (shots.labels[run] == label) & (torch.arange(24) // 2 != clip)
            prompt = unit((1 - share) * text[run, label] + share * unit(audio[run][others].sum(dim=0)))
            for example in (2 * clip, 2 * clip + 1):
                if shots.labels[run, example] == label:
                    torch.testing.assert_close(
                        cosines[run, blend, example, label], audio[run, example] @ prompt
                    )


def test_no_width_is_judged_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    systems: list[int] = []

    def counting(kernel: Tensor, ridge: Tensor) -> Tensor:
        systems.append(len(kernel))
        return inverse(kernel, ridge)

    inverse = kernel_machine._inverse
    monkeypatch.setattr(kernel_machine, "_inverse", counting)
    make_head(Proker).fit(make_shots(runs=2, noise=2.0))
    assert len(systems) == len(kernel_machine.WIDTHS) * len(kernel_machine.RIDGES) + 1
