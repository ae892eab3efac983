from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from palm_cache.adaptation.heads.base import Shots, cosine_logits
from palm_cache.adaptation.heads.descent import draw_orders, sgd
from palm_cache.adaptation.heads.palm import mix_context
from palm_cache.adaptation.heads.palm_descent import descend, feature_space, span_of_shots
from palm_cache.types.runs import Training

Trained = tuple[dict[str, Tensor], Tensor]
"""What was learned, and the loss of every step, (runs, steps)."""


def by_autograd(start: Mapping[str, Tensor], shots: Shots, orders: Tensor, training: Training) -> Trained:
    def logits(parameters: Mapping[str, Tensor], clips: Tensor) -> Tensor:
        return cosine_logits(mix_context(shots.text, parameters["context"], parameters["gate"]), clips)

    return sgd(start, logits, shots, orders, training)


def in_closed_form(*given, coordinates) -> Trained:
    learned, likelihoods = descend(*given, coordinates=coordinates)
    steps = likelihoods.log().neg().split(given[-1].batch_size, dim=2)  # one per batch, (runs, epochs, batch)
    return learned, torch.stack([step.mean(dim=2) for step in steps], dim=2).flatten(1)


@pytest.fixture(
    params=[
        by_autograd,
        partial(in_closed_form, coordinates=feature_space),
        partial(in_closed_form, coordinates=span_of_shots),
    ],
    ids=["autograd", "feature space", "span of shots"],
)
def train(request: pytest.FixtureRequest) -> Callable[..., Trained]:
    """PALM's training, every way that there is."""
    return request.param


@pytest.fixture
def recorded(golden: Path) -> dict[str, Tensor]:
    """Record of a full PALM training by the authors' own code."""
    with np.load(golden / "train_palm7.npz") as file:
        return {name: torch.from_numpy(np.asarray(file[name])) for name in file.files}


def train_recorded(
    train: Callable[..., Trained],
    recorded: dict[str, Tensor],
    epochs: int | None = None,
    training: Training | None = None,
) -> Trained:
    start = {"context": recorded["ctx0"][None], "gate": recorded["lambdas0"][None]}
    return train(
        start,
        Shots(recorded["train_x"][None], recorded["train_y"][None], recorded["text"][None], (7,)),
        recorded["orders"][None, :epochs],
        training or Training(),
    )


def test_all_losses_and_the_final_state_are_the_authors(
    train: Callable[..., Trained], recorded: dict[str, Tensor]
) -> None:
    learned, losses = train_recorded(train, recorded)
    assert losses.shape == (1, 250)
    torch.testing.assert_close(losses[0].double(), recorded["losses"], atol=1e-3, rtol=0)
    torch.testing.assert_close(learned["context"][0], recorded["ctx_final"], atol=5e-4, rtol=0)
    torch.testing.assert_close(learned["gate"][0], recorded["lambdas_final"], atol=2e-4, rtol=0)
    mixed = mix_context(recorded["text"], learned["context"], learned["gate"])[0]
    logits = cosine_logits(mixed, recorded["test_x"])
    torch.testing.assert_close(logits, recorded["test_logits_final"], atol=2e-3, rtol=0)
    assert torch.equal(logits.argmax(1), recorded["test_logits_final"].argmax(1))


def in_double_precision(recorded: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.double() if value.is_floating_point() else value for name, value in recorded.items()}


def test_in_double_precision_the_losses_are_the_recorded_ones_to_rounding(
    train: Callable[..., Trained],
    recorded: dict[str, Tensor],
) -> None:
    learned, losses = train_recorded(train, in_double_precision(recorded))
    torch.testing.assert_close(losses[0], recorded["losses_f64"], atol=1e-7, rtol=0)
    torch.testing.assert_close(learned["context"][0], recorded["ctx_final_f64"], atol=1e-7, rtol=0)


# The authors' numbers carry the rounding of float32: 8e-6 beside the same steps in double precision, which
# every machine computes alike. In single precision another processor rounds in another order.
@pytest.mark.parametrize(("precision", "tolerance"), [(in_double_precision, 1e-5), (dict, 1e-4)])
def test_the_first_steps_have_the_authors_gradients_and_states(
    train: Callable[..., Trained],
    recorded: dict[str, Tensor],
    precision: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    tolerance: float,
) -> None:
    given = precision(recorded)
    one_step = {**given, "orders": given["orders"][:, :16]}
    learned, _ = train_recorded(train, one_step, epochs=1, training=replace(Training(), lr=1.0, momentum=0.0))
    after20, _ = train_recorded(train, given, epochs=4)
    for state, expected in [
        (given["ctx0"] - learned["context"][0], recorded["grad_ctx_step0"]),
        (given["lambdas0"] - learned["gate"][0], recorded["grad_lambdas_step0"]),
        (after20["context"][0], recorded["ctx_after20"]),
        (after20["gate"][0], recorded["lambdas_after20"]),
    ]:
        torch.testing.assert_close(state.float(), expected, atol=tolerance, rtol=0)


def plain_loop(text: Tensor, audio: Tensor, labels: Tensor, start, order: Tensor, training: Training):
    """Train one run as the paper's code does: a DataLoader, a module's parameters, one optimiser."""
    context = torch.nn.Parameter(start["context"].clone())
    gate = torch.nn.Parameter(start["gate"].clone())
    optimiser = torch.optim.SGD([context, gate], lr=training.lr, momentum=training.momentum)
    for epoch_order in order:
        data = TensorDataset(audio[epoch_order], labels[epoch_order])
        for clips, targets in DataLoader(data, batch_size=training.batch_size):
            trust = torch.sigmoid(gate)[:, None]
            mixed = (1 - trust) * text + trust * context
            mixed = mixed / mixed.norm(dim=1, keepdim=True)
            loss = torch.nn.functional.cross_entropy(100 * clips @ mixed.T, targets)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return context.detach(), gate.detach()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 5e-4), (torch.float64, 1e-9)])
def test_runs_trained_together_equal_a_plain_loop_over_them(
    train: Callable[..., Trained], dtype: torch.dtype, tolerance: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    n_runs, n_classes, n_clips, dim = 4, 5, 43, 64
    training = Training(epochs=12)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    text = torch.nn.functional.normalize(random(n_runs, n_classes, dim), dim=-1)
    audio = torch.nn.functional.normalize(random(n_runs, n_clips, dim), dim=-1)
    labels = torch.randint(n_classes, (n_runs, n_clips), generator=generator)
    start = {"context": 0.02 * random(n_runs, n_classes, dim), "gate": random(n_runs, n_classes)}
    orders = torch.stack([draw_orders(n_clips, training.epochs, generator) for _ in range(n_runs)])
    together, _ = train(start, Shots(audio, labels, text, (0,) * n_runs), orders, training)
    for run in range(n_runs):
        alone = {name: value[run] for name, value in start.items()}
        context, gate = plain_loop(text[run], audio[run], labels[run], alone, orders[run], training)
        torch.testing.assert_close(together["context"][run], context, atol=tolerance, rtol=0)
        torch.testing.assert_close(together["gate"][run], gate, atol=tolerance, rtol=0)


def test_every_epoch_sees_every_clip_once() -> None:
    orders = draw_orders(10, 5, torch.Generator().manual_seed(1))
    assert orders.sort(dim=1).values.tolist() == [list(range(10))] * 5
    assert len({tuple(order) for order in orders.tolist()}) == 5
