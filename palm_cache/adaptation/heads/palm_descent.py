r"""PALM's training with its gradient written out: the steps of autograd and SGD, several times faster.

With :math:`w_c = s_c z_c + (1 - s_c) t_c` and :math:`s = \sigma(l)` the logits are
:math:`100\,a_b \cdot w_c / |w_c|`. For the mean cross entropy :math:`L` of a batch of :math:`B` clips, with
softmax :math:`p_{bc}` and one-hot labels :math:`y_{bc}`,

.. math::

    g_c = \frac{\partial L}{\partial w_c} = \sum_b \rho_{bc}\, a_b - \pi_c w_c \qquad
    \frac{\partial L}{\partial z_c} = s_c\, g_c \qquad
    \frac{\partial L}{\partial l_c} = -(1 - s_c)\, t_c \cdot g_c

    \rho_{bc} = \frac{100}{B\,|w_c|} (p_{bc} - y_{bc}) \qquad
    \pi_c = \sum_b \rho_{bc}\, \frac{a_b \cdot w_c}{|w_c|^2}

The last of the first line is :math:`s_c (1 - s_c)\,(z_c - t_c) \cdot g_c` with :math:`w_c \cdot g_c = 0`, for
only the direction of :math:`w_c` counts.

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

SHORTEST = 1e-24
"""Square of the least length that a vector is divided by, as in :func:`torch.nn.functional.normalize`."""


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
    learned = {"context": space.restore(descent.context), "gate": descent.gate[..., 0]}
    return learned, torch.cat(likelihoods, dim=1)


class _Descent:
    r"""Where all runs stand between two steps.

    What is one number per class is (runs, n_classes, 1); what is one per class and clip of a batch is
    (runs, n_classes, batch). A context is kept as :math:`z_c = r_c + \tau_c t_c`, so that no step goes over
    the text, and SGD's velocity as :math:`r` of the step before, so that a step writes one array:

    .. math:: r' = (1 + m + \eta s^2 \pi)\,r - m\,r_{\mathrm{before}} - \eta s \sum_b \rho_b a_b

    with learning rate :math:`\eta` and momentum :math:`m`.

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
        self.text = space.text
        self.text_square = self.text.square().sum(dim=2, keepdim=True)
        self.rest, self.before = space.context, space.context.clone()
        # context . text, gate and tau: SGD moves all three, the first because it is cheaper than to multiply.
        overlap = (space.context * self.text).sum(dim=2)
        self.numbers = torch.stack([overlap, gate, torch.zeros_like(gate)])[..., None]
        self.velocities = torch.zeros_like(self.numbers)
        self.overlap, self.gate, self.tau = self.numbers.unbind()
        self.training = training
        # As tensors, because small operations with a Python number take twice as long.
        self.momentum, self.rate, self.logit_scale, self.one, self.minus_one = gate.new_tensor(
            (training.momentum, training.lr, SCALE, 1, -1)
        )

    @property
    def context(self) -> Tensor:
        """What has been learned, (runs, n_classes, width)."""
        return torch.addcmul(self.rest, self.tau, self.text)

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
        prompts = self.prompts.index_select(0, rows).view(*batch.shape, -1).mT
        trust = self.gate.sigmoid()
        share = torch.lerp(self.one, self.tau, trust)  # w = trust * rest + share * text
        along = torch.lerp(self.text_square, self.overlap, trust)  # w . text
        square: Tensor = torch.linalg.vector_norm(self.rest, dim=2, keepdim=True).square_().mul_(trust)
        square += share * (self.overlap - self.tau * self.text_square)
        square = square.mul_(trust).addcmul_(share, along).clamp_(min=SHORTEST)
        products = torch.bmm(self.rest, clips.mT).mul_(trust).addcmul_(share, prompts)  # w . clip
        scale = square.rsqrt().mul_(self.logit_scale)
        slopes = (products * scale).softmax(dim=1)
        likelihoods = slopes.gather(1, targets)
        slopes.scatter_add_(1, targets, self.minus_one.expand_as(targets))
        slopes *= scale.div_(batch.shape[1])  # rho
        pull = (slopes * products).sum(dim=2, keepdim=True).div_(square)  # pi
        along_text = (slopes * prompts).sum(dim=2, keepdim=True).addcmul_(pull, along, value=-1)  # t . g
        pull *= trust

        self.velocities *= self.momentum
        self.velocities[:2].addcmul_(torch.stack([trust, trust - 1]), along_text)
        self.velocities[2].addcmul_(pull, share, value=-1)
        self.numbers.addcmul_(self.velocities, self.rate, value=-1)
        self.before.baddbmm_(slopes.mul_(trust), clips, beta=-self.training.momentum, alpha=-self.training.lr)
        pull.mul_(trust).mul_(self.rate).add_(1 + self.training.momentum)
        self.rest, self.before = self.before.addcmul_(pull, self.rest), self.rest
        return likelihoods
