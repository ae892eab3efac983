"""Stochastic gradient descent on cached tensors: every run of one shape in one tensor program.

Runs are independent, so the sum of their losses has the gradient of each run's own loss in that
run's slice: one optimiser over stacked parameters does exactly what one optimiser per run would.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from palm_cache.adaptation.heads.base import Shots, present_classes
from palm_cache.types.runs import Training

MIN_SHARE = 1e-8
"""Added to probabilities before their logarithm, as in ZEBRA's code."""

Logits = Callable[[Mapping[str, Tensor], Tensor], Tensor]
"""(parameters with a leading run axis, audio (runs, batch, dim)) -> logits (runs, batch, classes)."""


def load_optimiser() -> None:
    """Have torch import what it does for a process's first optimiser: it takes seconds."""
    torch.optim.SGD([torch.zeros(1)])


def draw_orders(n_clips: int, epochs: int, generator: torch.Generator) -> Tensor:
    """Shuffle a run's clips anew for every epoch, (epochs, n_clips) int64."""
    return torch.stack([torch.randperm(n_clips, generator=generator) for _ in range(epochs)])


def draw_runs(
    seeds: Sequence[int],
    n_clips: int,
    epochs: int,
    start: Callable[[int, torch.Generator], dict[str, Tensor]] = lambda run, generator: {},
) -> tuple[dict[str, Tensor], Tensor]:
    """Draw where runs start, (runs, ...), then the orders of their clips, (runs, epochs, n_clips).

    Each run's are drawn from its own seed alone; ``start`` takes the number of a run and its generator.
    """
    starts, orders = [], []
    for run, seed in enumerate(seeds):
        generator = torch.Generator().manual_seed(seed)
        starts.append(start(run, generator))
        orders.append(draw_orders(n_clips, epochs, generator))
    return {name: torch.stack([one[name] for one in starts]) for name in starts[0]}, torch.stack(orders)


def sgd(
    parameters: Mapping[str, Tensor],
    logits: Logits,
    shots: Shots,
    orders: Tensor,
    training: Training,
    *,
    max_clips: int | None = None,
    entropy_weight: float = 0.0,
) -> tuple[dict[str, Tensor], Tensor]:
    """Minimise the cross entropy of all runs at once by SGD with momentum.

    A class without a clip takes no part: softmax is over the others.

    Parameters
    ----------
    parameters : mapping of Tensor, shape (runs, ...)
        Where learning starts; not changed.
    logits : callable
        The head.
    shots : Shots
        Training clips of every run; after every step its ``tick`` is told how many runs made it.
    orders : Tensor, shape (runs, epochs, n_clips)
        In which order a run sees its clips.
    training : Training
        Learning rate, momentum and batch size; the epochs are those of ``orders``.
    max_clips : int, optional
        Clips of a batch that go forward and backward at once, where memory is short; the gradients of
        such slices add up to the batch's.
    entropy_weight : float
        So many times the entropy of what is answered is taken from the loss: no answer is to be too sure.

    Returns
    -------
    parameters : dict of Tensor, shape (runs, ...)
        After the last step.
    losses : Tensor, shape (runs, steps)
        Mean loss of every step's batch.
    """
    learned = {name: value.detach().clone().requires_grad_() for name, value in parameters.items()}
    optimiser = torch.optim.SGD(learned.values(), lr=training.lr, momentum=training.momentum)
    n_runs, epochs, n_clips = orders.shape
    run, audio, labels = torch.arange(n_runs)[:, None], shots.audio, shots.labels
    losses, absent = [], None
    for epoch in range(epochs):
        for start in range(0, n_clips, training.batch_size):
            batch = orders[:, epoch, start : start + training.batch_size]
            optimiser.zero_grad()
            loss = torch.zeros(n_runs, dtype=audio.dtype)
            for clips in torch.split(batch, max_clips or batch.shape[1], dim=1):
                scores = logits(learned, audio[run, clips])
                if absent is None:
                    absent = ~present_classes(labels, scores.shape[-1])[:, None]
                scores = scores.masked_fill(absent, -torch.inf)
                part = clip_losses(scores, labels[run, clips]).sum(dim=1)
                if entropy_weight:
                    part = part - entropy_weight * _entropy(scores)
                part = part / batch.shape[1]
                part.sum().backward()  # type: ignore[no-untyped-call]
                loss += part.detach()
            optimiser.step()
            losses.append(loss)
            shots.tick(n_runs)
    return {name: value.detach() for name, value in learned.items()}, torch.stack(losses, dim=1)


def clip_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross entropy of every clip, (runs, clips), of logits (runs, clips, classes)."""
    each = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    return each.view_as(labels)


def _entropy(logits: Tensor) -> Tensor:
    """Return the summed entropy of every run, (runs,), of logits (runs, clips, classes)."""
    shares = logits.softmax(dim=-1)
    return -(shares * (shares + MIN_SHARE).log()).sum(dim=(1, 2))
