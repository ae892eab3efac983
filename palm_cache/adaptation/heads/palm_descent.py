r"""PALM's training with its gradient written out: the steps of autograd and SGD, several times faster.

With :math:`w_c = z_c + e^{-l_c} t_c` the logits are :math:`100\,a_b \cdot w_c / |w_c|`, because
:math:`\sigma(l) / (1 - \sigma(l)) = e^l` and the norm takes every factor out. For the mean cross entropy
:math:`L` of a batch of :math:`B` clips, with softmax :math:`p_{bc}` and one-hot labels :math:`y_{bc}`,

.. math::

    \frac{\partial L}{\partial z_c} = \sum_b \rho_{bc}\, a_b - \pi_c w_c \qquad
    \frac{\partial L}{\partial l_c} = -e^{-l_c}\, t_c \cdot \frac{\partial L}{\partial z_c}

    \rho_{bc} = \frac{100}{B\,|w_c|} (p_{bc} - y_{bc}) \qquad
    \pi_c = \sum_b \rho_{bc}\, \frac{a_b \cdot w_c}{|w_c|^2}

Only products of vectors count, so any orthonormal coordinates serve. Where clips and classes are few,
those of their span are fewer than the feature space's: a context leaves the span only by a part that it
starts with, whose direction stays and whose length is one coordinate more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from palm_cache.adaptation.heads.base import SCALE, Tick, no_tick
from palm_cache.types import Training


@dataclass(frozen=True, slots=True)
class Coordinates:
    """What training needs of all runs, written in an orthonormal basis."""

    clips: Tensor
    """(runs, n_clips, width)"""
    text: Tensor
    """(runs or 1, n_classes, width)"""
    context: Tensor
    """(runs, n_classes, width)"""
    restore: Callable[[Tensor], Tensor]
    """Writes contexts that learning has moved, (runs, n_classes, width), in the feature space again."""


def feature_space(audio: Tensor, text: Tensor, context: Tensor) -> Coordinates:
    """Leave clips, text (n_classes, dim) and contexts, both with a leading run axis, as they are."""
    return Coordinates(audio, text[None], context.clone(), lambda learned: learned)


def span_of_shots(audio: Tensor, text: Tensor, context: Tensor) -> Coordinates:
    """Write clips, text and contexts in ``n_clips + n_classes + 1`` coordinates, which ``dim`` must allow.

    The basis is Householder's QR of clips and text, orthonormal whatever they are, duplicates included. The
    last coordinate of a context is the length of its part outside their span.
    """
    n_runs, n_clips, _ = audio.shape
    spanning = torch.cat([audio, text.expand(n_runs, -1, -1)], dim=1)
    n_inside = spanning.shape[1]
    reflectors, factors = torch.geqrf(spanning.mT)
    turned = torch.ormqr(reflectors, factors, context.mT, transpose=True)  # (runs, dim, n_classes)
    inside, outside = turned[:, :n_inside], turned[:, n_inside:]
    length = torch.linalg.vector_norm(outside, dim=1, keepdim=True)
    direction = outside / length.clamp(min=torch.finfo(length.dtype).tiny)

    def restore(learned: Tensor) -> Tensor:
        inside, length = learned.mT.tensor_split([n_inside], dim=1)
        return torch.ormqr(reflectors, factors, torch.cat([inside, length * direction], dim=1)).mT

    clips, prompts = pad(reflectors[:, :n_inside].triu().mT, (0, 1)).tensor_split([n_clips], dim=1)
    start = torch.cat([inside, length], dim=1)
    return Coordinates(clips.contiguous(), prompts.contiguous(), start.mT.contiguous(), restore)


def choose_coordinates(audio: Tensor, text: Tensor, context: Tensor) -> Coordinates:
    """Take the span of the shots where it has at most half the dimensions of the feature space.

    With more, finding it costs what it saves.
    """
    n_inside = audio.shape[1] + len(text)
    return (span_of_shots if 2 * n_inside <= text.shape[1] else feature_space)(audio, text, context)


@torch.no_grad()
def descend(
    parameters: Mapping[str, Tensor],
    text: Tensor,
    audio: Tensor,
    labels: Tensor,
    orders: Tensor,
    training: Training,
    *,
    coordinates: Callable[[Tensor, Tensor, Tensor], Coordinates] = choose_coordinates,
    tick: Tick = no_tick,
) -> tuple[dict[str, Tensor], Tensor]:
    """Train PALM's context and gate in all runs at once.

    Equal, up to rounding, to :func:`palm_cache.adaptation.train.sgd` on the logits of ``mix_context``.

    Parameters
    ----------
    parameters : mapping of Tensor
        Where learning starts: ``context`` (runs, n_classes, dim) and ``gate`` (runs, n_classes); not changed.
    text : Tensor, shape (n_classes, dim)
    audio : Tensor, shape (runs, n_clips, dim)
        Training clips of every run, unit length.
    labels : Tensor, shape (runs, n_clips)
        int64.
    orders : Tensor, shape (runs, epochs, n_clips)
        In which order a run sees its clips.
    training : Training
        Learning rate, momentum and batch size; the epochs are those of ``orders``.
    coordinates : callable
        Chooses the basis to compute in.
    tick : callable
        Told after every step how many runs made it.

    Returns
    -------
    parameters : dict of Tensor
        ``context`` and ``gate`` after the last step.
    likelihoods : Tensor, shape (runs, epochs, n_clips)
        Probability that the head gave to the true class of every clip in the step that saw it, in the order
        of ``orders``.
    """
    space = coordinates(audio, text, parameters["context"])
    descent = _Descent(space, parameters["gate"], training)
    n_runs, _, n_clips = orders.shape
    likelihoods = []
    for order in orders.unbind(dim=1):
        targets = labels.gather(1, order)
        steps = []
        for first in range(0, n_clips, training.batch_size):
            batch = slice(first, first + training.batch_size)
            steps.append(descent.step(order[:, batch], targets[:, None, batch]))
            tick(n_runs)
        likelihoods.append(torch.cat(steps, dim=2))
    learned = {"context": space.restore(descent.context), "gate": -descent.closing[..., 0]}
    return learned, torch.cat(likelihoods, dim=1)


class _Descent:
    """Where all runs stand between two steps.

    What is one number per class is (runs, n_classes, 1); what is one per class and clip of a batch is
    (runs, n_classes, batch).

    Parameters
    ----------
    space : Coordinates
        Its context is moved in place.
    gate : Tensor, shape (runs, n_classes)
    training : Training
    """

    def __init__(self, space: Coordinates, gate: Tensor, training: Training) -> None:
        n_runs, n_clips, self.width = space.clips.shape
        self.first_row = n_clips * torch.arange(n_runs)[:, None]
        self.clips = space.clips.flatten(0, 1)
        self.prompts = (space.clips @ space.text.mT).flatten(0, 1)  # clip . text, (runs * n_clips, n_classes)
        self.text, self.context = space.text, space.context
        self.text_square = self.text.square().sum(dim=2, keepdim=True)
        self.velocity = torch.zeros_like(self.context)
        self.mixed = torch.empty_like(self.context)
        # context . text and -gate: SGD moves both, the former because it is cheaper than to multiply anew.
        overlap = (self.context * self.text).sum(dim=2)
        self.numbers = torch.stack([overlap, -gate])[..., None]
        self.velocities = torch.zeros_like(self.numbers)
        self.overlap, self.closing = self.numbers.unbind()
        self.overlap_velocity, self.closing_velocity = self.velocities.unbind()
        self.training = training
        # As tensors, because small operations with a Python number take twice as long.
        self.momentum, self.logit_scale, self.minus_one = gate.new_tensor((training.momentum, SCALE, -1))

    def step(self, batch: Tensor, targets: Tensor) -> Tensor:
        """Take one step of SGD with momentum.

        Parameters
        ----------
        batch : Tensor, shape (runs, batch)
            Numbers of the clips.
        targets : Tensor, shape (runs, 1, batch)
            Their labels.

        Returns
        -------
        Tensor, shape (runs, 1, batch)
            Their probabilities before the step.
        """
        rows = (batch + self.first_row).flatten()
        clips = self.clips.index_select(0, rows).view(*batch.shape, self.width)
        prompts = self.prompts.index_select(0, rows).view(*batch.shape, -1)
        weight = self.closing.exp()
        torch.addcmul(self.context, weight, self.text, out=self.mixed)  # w
        square: Tensor = torch.linalg.vector_norm(self.mixed, dim=2, keepdim=True).square_()
        products = torch.bmm(self.mixed, clips.mT)
        scale = square.rsqrt().mul_(self.logit_scale)
        slopes = (products * scale).softmax(dim=1)
        likelihoods = slopes.gather(1, targets)
        slopes.scatter_add_(1, targets, self.minus_one.expand_as(targets))
        slopes *= scale.div_(batch.shape[1])  # rho
        pull = (slopes * products).sum(dim=2, keepdim=True).div_(square)  # pi
        along_text = (slopes * prompts.mT).sum(dim=2, keepdim=True)
        along_text.addcmul_(pull, torch.addcmul(self.overlap, weight, self.text_square), value=-1)

        self.velocities *= self.momentum
        self.overlap_velocity += along_text
        self.closing_velocity.addcmul_(weight, along_text)
        self.numbers.add_(self.velocities, alpha=-self.training.lr)
        self.velocity.baddbmm_(slopes, clips, beta=self.training.momentum)
        self.velocity.addcmul_(pull, self.mixed, value=-1)
        self.context.add_(self.velocity, alpha=-self.training.lr)
        return likelihoods
