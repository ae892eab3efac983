from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from palm_cache.adaptation.heads.base import Shots, cosine_logits, unit
from palm_cache.adaptation.heads.descent import draw_orders, sgd
from palm_cache.adaptation.heads.palm import CONTEXT_STD, Palm, mix_context
from palm_cache.adaptation.heads.palm_descent import (
    choose_coordinates,
    descend,
    feature_space,
    span_of_shots,
)
from palm_cache.types.runs import Training

QUICK = Training(epochs=6)


def make_shots(
    n_clips: int = 20, n_classes: int = 4, runs: int = 3, dim: int = 64, dtype: torch.dtype = torch.float64
) -> Shots:
    """Clips around their classes' centres, close to each other, as embeddings are."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(n_clips).repeat(runs, 1) % n_classes
    common, *centres = torch.randn(1 + n_classes, dim, generator=generator, dtype=dtype)
    noise = torch.randn(runs, n_clips, dim, generator=generator, dtype=dtype)
    audio = unit(2 * common + torch.stack(centres)[labels] + noise)
    text = unit(2 * common + torch.randn(n_classes, dim, generator=generator, dtype=dtype))
    return Shots(audio, labels, text.expand(runs, -1, -1), tuple(range(runs)))


def draw_start(shots: Shots) -> tuple[dict[str, Tensor], Tensor]:
    """Draw start and orders as the paper does: context, gate, then one permutation an epoch."""
    contexts, gates, orders = [], [], []
    for seed in shots.seeds:
        generator = torch.Generator().manual_seed(seed)
        contexts.append(CONTEXT_STD * torch.randn(shots.text.shape[1:], generator=generator))
        gates.append(torch.rand(shots.n_classes, generator=generator))
        orders.append(draw_orders(shots.labels.shape[1], QUICK.epochs, generator))
    known = torch.nn.functional.one_hot(shots.labels, shots.n_classes).any(dim=1)
    start = {
        "context": (torch.stack(contexts) * known[..., None]).to(shots.audio),
        "gate": torch.stack(gates).to(shots.audio),
    }
    return start, torch.stack(orders)


def by_autograd(shots: Shots, training: Training = QUICK) -> dict[str, Tensor]:
    start, orders = draw_start(shots)
    learned, _ = sgd(
        start,
        lambda now, clips: cosine_logits(mix_context(shots.text, now["context"], now["gate"]), clips),
        shots,
        orders,
        training,
    )
    return learned


def in_closed_form(shots: Shots, training: Training = QUICK, coordinates=choose_coordinates):
    start, orders = draw_start(shots)
    return descend(start, shots, orders, training, coordinates=coordinates)


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float = 1e-9) -> None:
    for name in ("context", "gate"):
        torch.testing.assert_close(one[name], other[name], atol=tolerance, rtol=0)


@pytest.mark.parametrize("n_clips", [1, 13, 31, 32, 90])
def test_palm_is_trained_as_autograd_trains_it(n_clips: int) -> None:
    """Also with one clip, with a last batch of one or none, and with more clips than dimensions."""
    shots = make_shots(n_clips)
    assert_equal(Palm("", QUICK).fit(shots), by_autograd(shots))


@pytest.mark.parametrize("coordinates", [feature_space, span_of_shots])
@pytest.mark.parametrize(
    "training", [Training(momentum=0.0), Training(lr=0.5, momentum=0.99), Training(batch_size=100)]
)
def test_any_training_is_followed(training: Training, coordinates) -> None:
    shots = make_shots()
    learned, _ = in_closed_form(shots, training, coordinates)
    assert_equal(learned, by_autograd(shots, training))


@pytest.mark.parametrize("coordinates", [feature_space, span_of_shots])
@pytest.mark.parametrize("kinds", [1, 7])
def test_duplicate_clips_do_no_harm(kinds: int, coordinates) -> None:
    """Views of a short clip are equal: the clips then span fewer dimensions than they are many."""
    shots = make_shots()
    doubled = replace(shots, audio=shots.audio[:, torch.arange(20) % kinds])
    learned, _ = in_closed_form(doubled, coordinates=coordinates)
    assert_equal(learned, by_autograd(doubled))


@pytest.mark.parametrize("coordinates", [feature_space, span_of_shots])
def test_a_zero_embedding_does_no_harm(coordinates) -> None:
    shots = make_shots()
    audio, text = shots.audio.clone(), shots.text.clone()
    audio[:, 5] = 0
    text[:, 2] = 0
    silent = replace(shots, audio=audio, text=text)
    learned, _ = in_closed_form(silent, coordinates=coordinates)
    assert_equal(learned, by_autograd(silent))


@pytest.mark.parametrize("coordinates", [feature_space, span_of_shots])
def test_coordinates_keep_every_product_and_lead_back(coordinates) -> None:
    shots = make_shots()
    inside = shots.audio[:, :4] + 2 * shots.audio[:, 4:8]  # no part outside the span of the clips
    for context in (draw_start(shots)[0]["context"], inside):
        space = coordinates(shots.audio, shots.text, context)
        torch.testing.assert_close(space.clips @ space.clips.mT, shots.audio @ shots.audio.mT)
        torch.testing.assert_close(space.clips @ space.context.mT, shots.audio @ context.mT)
        torch.testing.assert_close(space.context.norm(dim=2), context.norm(dim=2))
        torch.testing.assert_close(space.restore(space.context), context)
        moved = 3 * space.context + space.clips[:, :4]
        torch.testing.assert_close(space.restore(moved), 3 * context + shots.audio[:, :4])


@pytest.mark.parametrize(("n_clips", "width"), [(28, 33), (29, 64), (90, 64)])
def test_coordinates_are_fewer_where_clips_are_few(n_clips: int, width: int) -> None:
    shots = make_shots(n_clips)
    start, _ = draw_start(shots)
    space = choose_coordinates(shots.audio, shots.text, start["context"])
    assert space.clips.shape == (3, n_clips, width)
    assert space.context.shape == (3, 4, width)


@pytest.mark.parametrize("coordinates", [feature_space, span_of_shots])
def test_single_precision_is_enough(coordinates) -> None:
    single = make_shots(dim=256, dtype=torch.float32)
    exact = by_autograd(replace(single, audio=single.audio.double(), text=single.text.double()))
    learned, _ = in_closed_form(single, coordinates=coordinates)
    assert_equal({name: value.double() for name, value in learned.items()}, exact, tolerance=2e-4)


def test_the_likelihoods_are_those_of_the_head_before_each_step() -> None:
    shots = make_shots()
    start, orders = draw_start(shots)
    _, likelihoods = in_closed_form(shots)
    assert likelihoods.shape == orders.shape
    first = orders[:, 0, : QUICK.batch_size]
    embeddings = mix_context(shots.text, start["context"], start["gate"])
    expected = (
        cosine_logits(embeddings, shots.audio).softmax(dim=2).gather(2, shots.labels[..., None])[..., 0]
    )
    torch.testing.assert_close(likelihoods[:, 0, : QUICK.batch_size], expected.gather(1, first))


def test_where_learning_starts_is_left_as_it_is() -> None:
    shots = make_shots()
    start, orders = draw_start(shots)
    before = {name: value.clone() for name, value in start.items()}
    for coordinates in (feature_space, span_of_shots):
        descend(start, shots, orders, QUICK, coordinates=coordinates)
        assert_equal(start, before, tolerance=0)


def test_a_tick_follows_every_step() -> None:
    ticks: list[int] = []
    Palm("", QUICK).fit(replace(make_shots(), tick=ticks.append))
    assert ticks == [3] * QUICK.epochs * 2  # twenty clips are a batch of sixteen and one of four


@pytest.mark.parametrize("coordinates", [feature_space, span_of_shots])
@pytest.mark.parametrize("lr", [5.0, 500.0])
def test_a_learning_rate_that_shuts_gates_for_good_overflows_nothing(lr: float, coordinates) -> None:
    shots = make_shots(dtype=torch.float32)
    learned, likelihoods = in_closed_form(shots, Training(epochs=6, lr=lr), coordinates)
    expected = by_autograd(shots, Training(epochs=6, lr=lr))
    assert expected["gate"].abs().max() > 89  # where single precision has no exponential
    assert all(value.isfinite().all() for value in (*expected.values(), *learned.values(), likelihoods))
