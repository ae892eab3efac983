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

from palm_cache.adaptation.heads.base import SCALE, Shots, present_classes, unit
from palm_cache.types.runs import Training

SHORTEST = 1e-24
"""Square of the least length that a vector is divided by, as in :func:`torch.nn.functional.normalize`."""


@dataclass(frozen=True, slots=True)
class Coordinates:
    """What training needs of all runs, written in an orthonormal basis."""

    clips: Tensor
    """(runs, n_clips, width)"""
    text: Tensor
    """(runs, n_classes, width)"""
    context: Tensor
    """(runs, n_classes, width)"""
    restore: Callable[[Tensor], Tensor]
    """Writes contexts that learning has moved, (runs, n_classes, width), in the feature space again."""


def feature_space(audio: Tensor, text: Tensor, context: Tensor) -> Coordinates:
    """Leave clips, text and contexts as they are."""
    return Coordinates(audio, text, context.clone(), lambda learned: learned)


def span_of_shots(audio: Tensor, text: Tensor, context: Tensor) -> Coordinates:
    """Write clips, text and contexts in ``n_clips + n_classes + 1`` coordinates, which ``dim`` must allow.

    The basis is Householder's QR of clips and text, orthonormal whatever they are, duplicates included. The
    last coordinate of a context is the length of its part outside their span.
    """
    n_clips = audio.shape[1]
    spanning = torch.cat([audio, text], dim=1)
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
    n_inside = audio.shape[1] + text.shape[1]
    return (span_of_shots if 2 * n_inside <= text.shape[2] else feature_space)(audio, text, context)


@dataclass(frozen=True, slots=True)
class Variants:
    """Trainings of some runs that differ in what is written here; those of one run stand side by side."""

    rates: Tensor
    """(runs * variants,) learning rates."""
    scales: Tensor
    """(runs * variants,) logit scales."""
    weights: Tensor
    """(runs * variants, n_clips) weights of the clips' losses; 0 holds a clip out."""


@torch.no_grad()
def descend(
    parameters: Mapping[str, Tensor],
    shots: Shots,
    orders: Tensor,
    training: Training,
    *,
    coordinates: Callable[[Tensor, Tensor, Tensor], Coordinates] = choose_coordinates,
    variants: Variants | None = None,
    watch: Callable[[int, Tensor], None] | None = None,
) -> tuple[dict[str, Tensor], Tensor]:
    """Train PALM's context and gate in all runs at once.

    Equal, up to rounding, to :func:`~palm_cache.adaptation.heads.descent.sgd` on the logits of
    ``mix_context``, whose parameters are not told again here. A class without a clip stays as it starts.

    Parameters
    ----------
    parameters : mapping of Tensor
        Where learning starts: ``context`` (runs, n_classes, dim) and ``gate`` (runs, n_classes); not changed.
    coordinates : callable
        Chooses the basis to compute in.
    variants : Variants, optional
        Several trainings of every run from the same start; what is returned then has one row for each.
    watch : callable
        Told before the first epoch, 0, and after every one, from 1, the cosines of all clips with the class
        embeddings, (runs, variants, n_clips, n_classes).

    Returns
    -------
    parameters : dict of Tensor
        ``context`` and ``gate`` after the last step.
    likelihoods : Tensor, shape (runs, epochs, n_clips)
        Probability that the head gave to the true class of every clip in the step that saw it, in the order
        of ``orders``.
    """
    space = coordinates(shots.audio, shots.text, parameters["context"])
    absent = ~present_classes(shots.labels, shots.n_classes)
    descent = _Descent(space, parameters["gate"], absent, training, variants)
    orders = orders.repeat_interleave(descent.n_variants, dim=0)
    labels = shots.labels.repeat_interleave(descent.n_variants, dim=0)
    n_runs, _, n_clips = orders.shape
    likelihoods = []
    if watch:
        watch(0, descent.cosines())
    for epoch, order in enumerate(orders.unbind(dim=1), start=1):
        targets = labels.gather(1, order)
        steps = []
        for first in range(0, n_clips, training.batch_size):
            batch = slice(first, first + training.batch_size)
            steps.append(descent.step(order[:, batch], targets[:, None, batch]))
            shots.tick(n_runs)
        likelihoods.append(torch.cat(steps, dim=2))
        if watch:
            watch(epoch, descent.cosines())
    of_variants = descent.context.view(-1, descent.n_variants, *descent.context.shape[1:])
    context = torch.stack([space.restore(learned) for learned in of_variants.unbind(dim=1)], dim=1)
    learned = {"context": context.flatten(0, 1), "gate": descent.gate[..., 0]}
    return learned, torch.cat(likelihoods, dim=1)


class _Descent:
    r"""Where all runs stand between two steps.

    What is one number per class is (runs, n_classes, 1); what is one per class and clip of a batch is
    (runs, n_classes, batch). A context is kept as :math:`z_c = r_c + \tau_c t_c`, so that no step goes over
    the text, and SGD's velocity as :math:`r` of the step before, so that a step writes one array:

    .. math:: r' = (1 + m + \eta s^2 \pi)\,r - m\,r_{\mathrm{before}} - \eta s \sum_b \rho_b a_b

    with learning rate :math:`\eta` and momentum :math:`m`. The context of ``space`` is moved in place.
    Classes that are ``absent`` (runs, n_classes) take no part.
    """

    def __init__(
        self,
        space: Coordinates,
        gate: Tensor,
        absent: Tensor,
        training: Training,
        variants: Variants | None = None,
    ) -> None:
        n_runs, n_clips, self.width = space.clips.shape
        self.n_variants = len(variants.rates) // n_runs if variants else 1
        self.first_row = n_clips * torch.arange(n_runs).repeat_interleave(self.n_variants)[:, None]
        self.clips = space.clips.flatten(0, 1)
        self.prompts = (space.clips @ space.text.mT).flatten(0, 1)  # clip . text, (runs * n_clips, n_classes)
        self.text = space.text
        self.text_square = self.of_variants(self.text.square().sum(dim=2, keepdim=True))
        self.rest = self.of_variants(space.context)
        self.before = self.rest.clone()
        # context . text, gate and tau: SGD moves all three, the first because it is cheaper than to multiply.
        overlap = (space.context * self.text).sum(dim=2)
        numbers = torch.stack([overlap, gate, torch.zeros_like(gate)])[..., None]
        self.numbers = numbers.repeat_interleave(self.n_variants, dim=1)
        self.velocities = torch.zeros_like(self.numbers)
        self.overlap, self.gate, self.tau = self.numbers.unbind()
        self.keep = 1 + training.momentum
        # As tensors, because small operations with a Python number take twice as long.
        self.momentum, self.rate, self.logit_scale, self.one, self.minus_one = gate.new_tensor(
            (training.momentum, training.lr, SCALE, 1, -1)
        )
        self.absent = self.of_variants(absent[..., None]) if absent.any() else None
        self.weights = None
        if variants:
            self.rate, self.logit_scale = variants.rates[:, None, None], variants.scales[:, None, None]
            self.weights = variants.weights

    def of_variants(self, of_runs: Tensor) -> Tensor:
        """Repeat what every run has, (runs, ...), for its variants."""
        return of_runs if self.n_variants == 1 else of_runs.repeat_interleave(self.n_variants, dim=0)

    @property
    def context(self) -> Tensor:
        """What has been learned, (runs, n_classes, width)."""
        return torch.addcmul(self.rest, self.tau, self.of_variants(self.text))

    def cosines(self) -> Tensor:
        """Return the cosines of all clips with the class embeddings, (runs, variants, clips, classes)."""
        trust = self.gate.sigmoid()
        mixed = torch.lerp(self.of_variants(self.text), self.context, trust)
        of_runs = unit(mixed).view(len(self.rest) // self.n_variants, -1, self.width)
        clips = self.clips.view(len(of_runs), -1, self.width)
        products = clips @ of_runs.mT
        return products.view(*products.shape[:2], self.n_variants, -1).transpose(1, 2)

    def step(self, batch: Tensor, targets: Tensor) -> Tensor:
        """Take one step of SGD with momentum.

        ``batch`` (runs, batch) are numbers of clips, ``targets`` (runs, 1, batch) their labels; returned are
        their probabilities (runs, 1, batch) before the step.
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
        logits = products * scale
        if self.absent is not None:
            logits.masked_fill_(self.absent, -torch.inf)
        slopes = logits.softmax(dim=1)
        likelihoods = slopes.gather(1, targets)
        slopes.scatter_add_(1, targets, self.minus_one.expand_as(targets))
        slopes *= scale.div_(batch.shape[1])  # rho
        if self.weights is not None:
            slopes *= self.weights.gather(1, batch)[:, None]
        pull = (slopes * products).sum(dim=2, keepdim=True).div_(square)  # pi
        along_text = (slopes * prompts).sum(dim=2, keepdim=True).addcmul_(pull, along, value=-1)  # t . g
        pull *= trust
        step = trust * self.rate

        self.velocities *= self.momentum
        self.velocities[:2].addcmul_(torch.stack([trust, trust - 1]), along_text)
        self.velocities[2].addcmul_(pull, share, value=-1)
        self.numbers.addcmul_(self.velocities, self.rate, value=-1)
        self.before.baddbmm_(slopes.mul_(step), clips, beta=1 - self.keep, alpha=-1)
        pull.mul_(step).add_(self.keep)
        self.rest, self.before = self.before.addcmul_(pull, self.rest), self.rest
        return likelihoods
