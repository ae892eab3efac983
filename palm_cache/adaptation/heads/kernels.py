r"""Kernel machines solved in closed form: kernel ridge regression and ProKeR.

All of them fit one-hot labels by ridge regression in the space of a radial kernel, on top of a base
predictor :math:`f_0` (nothing, or the zero-shot prediction) on the shots :math:`S`:

.. math:: f(x) = f_0(x) + k(x, S)\,W, \qquad W = G\,(Y - f_0(S)), \qquad G = (K + \lambda D^{-1})^{-1}

where the diagonal :math:`D` holds the weights of the squared errors, which let every class count the same:
they are 1 where classes have equally many clips.

What they would miss on a clip had they been fitted without it is known in closed form too. For the
examples :math:`B` of one clip, its views, or of one recording,

.. math:: Y_B - f_{\setminus B}(B) = (G_{BB})^{-1}\,W_B

(for one view: Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, equation 5.12). All
hyperparameters are chosen by that, see :mod:`palm_cache.adaptation.heads.hyperparameters`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from palm_cache.adaptation.heads.base import (
    Head,
    Shots,
    Tick,
    Words,
    class_weights,
    no_tick,
    one_hot,
    unit,
    unseen_bias,
)
from palm_cache.adaptation.heads.hyperparameters import (
    Grid,
    can_be_held_out,
    choose,
    first_of_best,
    held_out_loss,
    same_group,
)
from palm_cache.adaptation.train import present_classes

WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Kernel widths: the kernel's exponent at the mean squared distance of the shots. Relative to it, because
embeddings of one encoder fill half the sphere and those of another a narrow cone."""

WIDTH_PAIRS = (*((width, width) for width in WIDTHS), (0.25, 1.0), (0.25, 4.0), (0.5, 2.0), (1.0, 4.0))
"""The same for a kernel of two widths: one width twice, or a wide and a narrow one."""

BLENDS = (0.0, 0.25, 0.5, 0.75)
"""How far prompts lean towards the shots."""

BALANCES = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
"""How much classes with few shots are helped beyond the weights: times the logarithm of their weight. A clip
that a class has less is space in which the kernel says nothing of it, and no weight makes up for that."""

RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0)
"""From nearly interpolating the shots to halving what a lone clip says: its kernel with itself is 1."""

PRIOR_SCALES = (0.0, 5.0, 10.0, 20.0, 50.0)
"""Logit scales of the zero-shot prediction: 0 ignores it, 10 is soft; PALM's 100 makes it so sure that the
shots cannot correct it where it is wrong."""

SCALES = (2.0, 5.0, 10.0, 20.0, 50.0)
"""Logit scales of scores that lie about 0 and 1: from doubt to near certainty. Where no clip that is held out
is missed, any scale is better than the one before it; few clips do not prove more than the last of these."""

FAR = -1e4
"""Cosine with a class without a shot, as the base predictor sees it while the shots are fitted: whatever the
scale, it is not thought of. The shots say nothing for or against such a class; its prompt does."""

MAX_NUMBERS = 2**24
"""Numbers of one batch of kernel matrices, 128 MiB."""


def squared_distances(left: Tensor, right: Tensor) -> Tensor:
    """Return the squared distances (..., n, m) of unit rows (..., n, dim) and (..., m, dim)."""
    return (2 - 2 * left @ right.transpose(-1, -2)).clamp(min=0)


def best_table(tables: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return which of some tables of losses (runs, ...) holds every run's least, (runs,), and that table."""
    stacked = torch.stack(list(tables), dim=1)
    best = first_of_best(stacked.flatten(2).amin(dim=2))
    return best, stacked[torch.arange(len(best)), best]


def held_out_residuals(inverse: Tensor, targets: Tensor, groups: Tensor) -> Tensor:
    r"""Return what ridge regression would miss on every group if it were fitted without that group.

    .. math:: (G_{BB})^{-1} (G\,Y)_B \quad\text{for the examples } B \text{ of every group}

    Parameters
    ----------
    inverse : Tensor, shape (..., n_examples, n_examples)
        :math:`G = (K + \lambda I)^{-1}`.
    targets : Tensor, shape (..., n_examples, n_targets)
    groups : Tensor, shape (..., n_examples)
        Equal for what is held out together.

    Returns
    -------
    Tensor, shape (..., n_examples, n_targets)
    """
    weights = inverse @ targets
    same = groups[..., :, None] == groups[..., None, :]
    if same.sum() == groups.numel():  # each by itself
        return weights / inverse.diagonal(dim1=-2, dim2=-1)[..., None]
    # The blocks of all groups lie apart from one another, so that one solution is that of each.
    residuals: Tensor = torch.linalg.solve(inverse * same, weights)
    return residuals


@dataclass(frozen=True, slots=True)
class _Problem:
    """What the shots of some runs ask of a kernel machine."""

    targets: Tensor
    """(runs, n_examples, n_classes) one-hot labels."""
    weights: Tensor
    """(runs, n_examples) of squared errors."""
    surplus: Tensor
    """(runs, n_classes) logarithms of a class's weight: 0 where classes have equally many clips."""
    present: Tensor
    """(runs, 1, n_classes) bool, which classes have a clip."""
    distances: Tensor
    """(runs, ..., n_examples, n_examples)"""
    cosines: Tensor
    """(runs, blends, n_examples, n_classes)"""


class KernelMachine(Head):
    """What kernel ridge regression and its relatives share: choose by leave-one-out, then solve."""

    widths: ClassVar[Grid] = Grid(WIDTHS, default=1.0)
    ridges: ClassVar[Grid] = Grid(RIDGES, default=0.1)
    blends: ClassVar[Grid] = Grid((0.0,), default=0.0)
    prior_scales: ClassVar[Grid] = Grid((0.0,), default=0.0)
    scales: ClassVar[Grid] = Grid(SCALES, default=10.0)

    @staticmethod
    def n_params(n_classes: int, dim: int, token_dim: int, n_examples: int) -> int:
        """Return 0: solved in closed form."""
        return 0

    @staticmethod
    def distances(left: Tensor, right: Tensor, parts: tuple[int, ...]) -> Tensor:
        """Return what the kernel is computed from: squared distances of unit vectors, (..., n, m)."""
        return squared_distances(unit(left), unit(right))

    @staticmethod
    def kernel(distances: Tensor, gamma: Tensor) -> Tensor:
        """Return the kernel (..., n, m) of distances (..., n, m) with inverse widths (...)."""
        return torch.exp(-gamma[..., None, None] * distances)

    @staticmethod
    def cosines(audio: Tensor, text: Tensor, parts: tuple[int, ...]) -> Tensor:
        """Return what the base predictor sees of clips (..., n, dim): (..., n, n_classes)."""
        return unit(audio) @ text.transpose(-1, -2)

    @staticmethod
    def prior(cosines: Tensor, scale: Tensor) -> Tensor:
        """Return the base predictor of cosines (..., n, n_classes): nothing."""
        return torch.zeros_like(cosines * scale[..., None, None])

    def cosines_of_shots(self, shots: Shots) -> Tensor:
        """Return the cosines of every blend of prompt and shots, (runs, blends, n_examples, n_classes)."""
        return self.cosines(shots.audio.double(), shots.text.double(), shots.parts)[:, None]

    def default_widths(self, spread: Tensor) -> Tensor:
        """Return the widths that are taken where nothing can be held out."""
        return torch.tensor(self.widths.default, dtype=torch.float64)

    def search(self, losses: Callable[[Tensor], Tensor], spread: Tensor) -> tuple[Tensor, Tensor]:
        """Return every run's best widths and its losses with them.

        ``spread`` (runs, ...) is what widths are relative to.
        """
        tried = [losses(width.expand(len(spread), *width.shape)) for width in self.widths.candidates]
        best, tables = best_table(tried)
        return self.widths.candidates[best], tables

    def solve(self, shots: Shots) -> dict[str, Tensor]:
        """Choose and solve in double precision, as many runs together as memory bears."""
        runs, n_examples = shots.labels.shape
        together = max(1, MAX_NUMBERS // (n_examples**2 * max(1, len(shots.parts))))
        solved = []
        for batch in torch.split(torch.arange(runs), together):
            solved.append(self._solve(shots.of_runs(batch)))
        return {name: torch.cat([part[name] for part in solved]) for name in solved[0]}

    def _solve(self, shots: Shots) -> dict[str, Tensor]:
        problem = self._pose(shots)
        chosen = shots.chosen or self._choose(shots, problem)
        # Of a single candidate nothing is chosen, and nothing given.
        alone = {"blend": self.blends, "prior_scale": self.prior_scales}
        only = {name: grid.candidates[0].expand_as(chosen["ridge"]) for name, grid in alone.items()}
        chosen = {**only, **chosen}
        blend = (self.blends.candidates == chosen["blend"][:, None]).int().argmax(dim=1)
        cosines = problem.cosines[torch.arange(len(blend)), blend]
        missing = (problem.targets - self.prior(cosines, chosen["prior_scale"])) * problem.present
        ridge = chosen["ridge"][:, None] / problem.weights
        inverse = _inverse(self.kernel(problem.distances, chosen["gamma"]), ridge)
        return {
            "clips": unit(shots.audio.double()).float(),
            "weights": (inverse @ missing).float(),
            "bias": (chosen["balance"][:, None] * problem.surplus).float(),
            **chosen,
        }

    def _pose(self, shots: Shots) -> _Problem:
        audio, labels, n_classes = shots.audio.double(), shots.labels, shots.n_classes
        targets, weights = one_hot(labels, n_classes), class_weights(labels, n_classes)
        surplus = weights.log()[..., None] * targets  # of an example's own class alone
        present = present_classes(labels, n_classes)[:, None]
        return _Problem(
            targets=targets,
            weights=weights,
            surplus=surplus.sum(dim=1) / targets.sum(dim=1).clamp(min=1),
            present=present,
            distances=self.distances(audio, audio, shots.parts),
            cosines=self.cosines_of_shots(shots).masked_fill(~present[:, None], FAR),
        )

    def _choose(self, shots: Shots, problem: _Problem) -> dict[str, Tensor]:
        labels, groups = shots.labels, shots.together
        targets, surplus = problem.targets[:, None, None], problem.surplus[:, None, None, None]
        balances = Grid(BALANCES if surplus.any() else (0.0,), default=0.0)
        n_pairs = labels.shape[1] * max(1, labels.shape[1] - 1)
        spread = problem.distances.sum(dim=(-2, -1)) / n_pairs
        spread = spread.clamp(min=1e-12)  # all shots may be one and the same
        priors = self.prior(problem.cosines[:, :, None], self.prior_scales.candidates)
        # (runs, blends, prior scales, n_examples, n_classes)
        missing = (targets - priors) * problem.present[:, None, None]
        # One product for all of a run's columns, not one each, for which its kernel would be copied.
        columns = missing.movedim(3, 1)
        held_out = can_be_held_out(labels, shots.n_classes, groups)
        silent = self._silent(problem.present)

        def losses(widths: Tensor) -> Tensor:
            kernel, of_ridges = self.kernel(problem.distances, widths / spread), []
            for ridge in self.ridges.candidates:
                inverse = _inverse(kernel, ridge / problem.weights)
                residuals = held_out_residuals(inverse, columns.flatten(2), groups)
                predicted = targets - residuals.view_as(columns).movedim(1, 3)
                each = [
                    held_out_loss(scale * predicted + balance * surplus, labels, held_out)
                    for scale, balance in itertools.product(self.scales.candidates, balances.candidates)
                ]
                of_ridges.append(torch.stack(each, dim=-1).masked_fill(silent, torch.inf))
            table = torch.stack(of_ridges, dim=1)
            return table.view(*table.shape[:-1], len(self.scales.values), len(balances.values))

        widths, table = self.search(losses, spread)
        grids = {
            "ridge": self.ridges,
            "blend": self.blends,
            "prior_scale": self.prior_scales,
            "scale": self.scales,
            "balance": balances,
        }
        chosen = choose(table, grids, held_out, shots.views)
        has_verdict = (chosen["held_out"] > 0).view(-1, *(1,) * (widths.ndim - 1))
        chosen["gamma"] = torch.where(has_verdict, widths, self.default_widths(spread)) / spread
        return chosen

    def _silent(self, present: Tensor) -> Tensor:
        """Say which prior scales cannot be taken, (runs, 1, n_scales, 1) bool.

        Zero, where a class has no clip: its prompt alone speaks for it.
        """
        if len(self.prior_scales.values) == 1:
            return torch.zeros(len(present), 1, 1, 1, dtype=torch.bool)
        absent = ~present.all(dim=-1)  # (runs, 1)
        return (absent & (self.prior_scales.candidates == 0))[:, None, :, None]


class KernelRidge(KernelMachine):
    r"""Ridge regression of one-hot labels in the space of a radial kernel on unit embeddings.

    .. math:: k(x, x') = \exp(-\gamma \lVert x - x' \rVert^2), \qquad
              \mathrm{logits}(x) = s\,k(x, S)\,(K + \lambda I)^{-1}\,Y

    References
    ----------
    Saunders, Gammerman and Vovk, "Ridge Regression Learning Algorithm in Dual Variables", ICML 1998.
    """

    name: ClassVar[str] = "kernel-ridge"
    learns: ClassVar[str] = "weights of the shots in a radial kernel, in closed form"
    reads_text: ClassVar[bool] = False
    chooses: ClassVar[tuple[str, ...]] = ("gamma", "ridge", "scale", "balance", "held_out")
    source: ClassVar[str] = "Saunders et al., ICML 1998"

    def fit(self, shots: Shots, tick: Tick = no_tick) -> dict[str, Tensor]:
        """Return the shots and their weights."""
        solved = self.solve(shots)
        del solved["prior_scale"], solved["blend"]
        return {**solved, "bias": solved["bias"] + unseen_bias(shots.labels, shots.n_classes)}

    @staticmethod
    def logits(state: Mapping[str, Tensor], audio: Tensor, words: Words | None = None) -> Tensor:
        """Score clips by their kernels with the shots."""
        distances = KernelRidge.distances(audio, state["clips"], ())
        scores = KernelRidge.kernel(distances, state["gamma"].to(audio)) @ state["weights"]
        return state["scale"].to(audio)[..., None, None] * scores + state["bias"][..., None, :]


class Proker(KernelMachine):
    r"""Proximal kernel ridge regression: stay near the zero-shot prediction, in the space of the kernel.

    .. math:: f = \arg\min_f \sum_{i \in S} \lVert f(x_i) - y_i \rVert^2
              + \lambda \lVert f - f_0 \rVert^2_{\mathcal H},
              \qquad f_0(x)_c = \mathrm{softmax}_c(\tau\,x \cdot t_c)

    with the closed form of this module. With a constant prior, :math:`\tau = 0`, it is kernel ridge
    regression.

    References
    ----------
    Bendou et al., "ProKeR: A Kernel Perspective on Few-Shot Adaptation of Large Vision-Language Models",
    CVPR 2025. The authors start from bare cosines (``proker-published``); the softmax, whose scale is chosen,
    is ours: it keeps the prior between 0 and 1, where the labels are.
    """

    name: ClassVar[str] = "proker"
    learns: ClassVar[str] = "weights of the shots, in closed form, on top of zero-shot"
    chooses: ClassVar[tuple[str, ...]] = ("gamma", "ridge", "prior_scale", "scale", "balance", "held_out")
    source: ClassVar[str] = "Bendou et al., CVPR 2025, arXiv:2501.11175"

    prior_scales: ClassVar[Grid] = Grid(PRIOR_SCALES, default=10.0)

    @staticmethod
    def prior(cosines: Tensor, scale: Tensor) -> Tensor:
        """Return the zero-shot prediction from cosines (..., n, n_classes) at logit scales (...)."""
        return torch.softmax(scale[..., None, None] * cosines, dim=-1)

    def fit(self, shots: Shots, tick: Tick = no_tick) -> dict[str, Tensor]:
        """Return the shots, their weights and the prompts."""
        solved = self.solve(shots)
        del solved["blend"]
        return {**solved, "text": shots.text}

    @classmethod
    def scores(cls, state: Mapping[str, Tensor], audio: Tensor, parts: tuple[int, ...]) -> Tensor:
        """Return the logits of clips with one run's state, or with all runs' at once."""
        kernel = cls.kernel(cls.distances(audio, state["clips"], parts), state["gamma"].to(audio))
        prior = cls.prior(cls.cosines(audio, state["text"], parts), state["prior_scale"].to(audio))
        scale = state["scale"].to(audio)[..., None, None]
        return scale * (prior + kernel @ state["weights"]) + state["bias"][..., None, :]

    @staticmethod
    def logits(state: Mapping[str, Tensor], audio: Tensor, words: Words | None = None) -> Tensor:
        """Score clips by zero-shot and by their kernels with the shots."""
        return Proker.scores(state, audio, ())


class ProkerHybrid(Proker):
    r"""ProKeR whose prompts lean towards the shots, with a kernel of two widths.

    .. math:: t'_c = \mathrm{unit}\big((1 - r)\,t_c + r\,m_c\big), \qquad
              k(x, x') = \tfrac12 \sum_{i \le 2} \exp(-\gamma_i \lVert x - x' \rVert^2)

    with the direction :math:`m_c` of the mean of a class's shots. A shot's own prior comes from the others
    of its class, as a new clip's will.

    References
    ----------
    After ReHARK, arXiv:2603.11542; how :math:`r` and the widths are chosen is ours.
    """

    name: ClassVar[str] = "proker-hybrid"
    learns: ClassVar[str] = "as proker, with prompts that lean to the shots and two kernel widths"
    chooses: ClassVar[tuple[str, ...]] = (
        "gamma",
        "ridge",
        "blend",
        "prior_scale",
        "scale",
        "balance",
        "held_out",
    )
    source: ClassVar[str] = "after ReHARK, arXiv:2603.11542, and Bendou et al., CVPR 2025"

    widths: ClassVar[Grid] = Grid(WIDTH_PAIRS, default=(1.0, 1.0))
    blends: ClassVar[Grid] = Grid(BLENDS, default=0.5)

    @staticmethod
    def distances(left: Tensor, right: Tensor, parts: tuple[int, ...]) -> Tensor:
        """Return the squared distances, (..., 1 for both widths, n, m)."""
        return squared_distances(unit(left), unit(right)).unsqueeze(-3)

    @staticmethod
    def kernel(distances: Tensor, gamma: Tensor) -> Tensor:
        """Return the mean kernel of the inverse widths (..., 2)."""
        return torch.exp(-gamma[..., None, None] * distances).mean(dim=-3)

    def cosines_of_shots(self, shots: Shots) -> Tensor:
        """Return the cosines of every blend, where no group is part of the mean that it is held against."""
        audio, text, labels = shots.audio.double(), shots.text.double(), shots.labels
        sums = one_hot(labels, shots.n_classes).transpose(-1, -2) @ audio
        own_share = (same_group(shots.together) & same_group(labels)).double() @ audio
        place = labels[..., None].expand_as(audio)
        others = sums.gather(1, place) - own_share
        share = self.blends.candidates[:, None, None]
        cosines = unit(audio)[:, None] @ blended(text[:, None], sums[:, None], share).transpose(-1, -2)
        own_text = blended(text.gather(1, place)[:, None], others[:, None], share)
        own = (unit(audio)[:, None] * own_text).sum(dim=-1)
        where = labels[:, None, :, None].expand(-1, cosines.shape[1], -1, 1)
        return cosines.scatter(-1, where, own[..., None])

    def fit(self, shots: Shots, tick: Tick = no_tick) -> dict[str, Tensor]:
        """Return the shots, their weights and the prompts that lean towards them."""
        solved = self.solve(shots)
        sums = one_hot(shots.labels, shots.n_classes).transpose(-1, -2) @ shots.audio.double()
        text = blended(shots.text.double(), sums, solved["blend"][:, None, None])
        return {**solved, "text": text.float()}

    @staticmethod
    def logits(state: Mapping[str, Tensor], audio: Tensor, words: Words | None = None) -> Tensor:
        """Score clips by the blended prompts and by their kernels with the shots."""
        return ProkerHybrid.scores(state, audio, ())


def blended(text: Tensor, sums: Tensor, share: Tensor) -> Tensor:
    """Return ``unit((1 - share) text + share unit(sums))``; text (..., dim) where there is no shot."""
    return unit((1 - share) * text + share * unit(sums))


def _inverse(kernel: Tensor, ridge: Tensor) -> Tensor:
    """Return the inverse of kernels (..., n, n) with ``ridge`` (..., n) added to the diagonals."""
    ridged = kernel.clone()
    ridged.diagonal(dim1=-2, dim2=-1).add_(ridge)
    return torch.cholesky_inverse(torch.linalg.cholesky(ridged))
