r"""What kernel machines share that are solved in closed form.

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

import torch
from torch import Tensor

from palm_cache.adaptation.heads.base import (
    Head,
    Shots,
    class_weights,
    in_parts,
    one_hot,
    present_classes,
    unit,
)
from palm_cache.adaptation.heads.hyperparameters import (
    Grid,
    can_be_held_out,
    choose,
    first_of_best,
    held_out_loss,
    same_group,
)

WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Kernel widths: the kernel's exponent at the mean squared distance of the shots. Relative to it, because
embeddings of one encoder fill half the sphere and those of another a narrow cone."""

BALANCES = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
"""How much classes with few shots are helped beyond the weights: times the logarithm of their weight. A clip
that a class has less is space in which the kernel says nothing of it, and no weight makes up for that."""

RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0)
"""From nearly interpolating the shots to halving what a lone clip says: its kernel with itself is 1."""

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


def parts_of(state: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Return how many numbers of joined embeddings are which encoder's; none of one encoder's."""
    if "parts" not in state:
        return ()
    return tuple(state["parts"].reshape(-1, state["parts"].shape[-1])[0].tolist())


def split_encoders(joined: Tensor, parts: tuple[int, ...]) -> list[Tensor]:
    """Return every encoder's unit vectors (..., its dim) of joined ones (..., dim)."""
    return [unit(part) for part in torch.split(joined, list(parts), dim=-1)]


def best_table(tables: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return which of some tables of losses (runs, ...) holds every run's least, (runs,), and that table."""
    stacked = torch.stack(list(tables), dim=1)
    best = first_of_best(stacked.flatten(2).amin(dim=2))
    return best, stacked[torch.arange(len(best)), best]


def held_out_residuals(inverse: Tensor, targets: Tensor, groups: Tensor) -> Tensor:
    r"""Return what ridge regression would miss on every group if it were fitted without that group.

    .. math:: (G_{BB})^{-1} (G\,Y)_B \quad\text{for the examples } B \text{ of every group}

    with the inverse :math:`G` (..., n_examples, n_examples) and the targets :math:`Y` (..., n_examples,
    n_targets).
    """
    weights = inverse @ targets
    same = same_group(groups)
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

    widths = Grid(WIDTHS, default=1.0)
    ridges = Grid(RIDGES, default=0.1)
    blends = Grid((0.0,), default=0.0)
    prior_scales = Grid((0.0,), default=0.0)
    scales = Grid(SCALES, default=10.0)

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
        """Choose and solve in double precision."""
        of_run = shots.labels.shape[1] ** 2 * max(1, len(shots.parts))
        return in_parts(self._solve, shots, MAX_NUMBERS // of_run)

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
            **{name: chosen[name] for name in self.chooses},
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


def _inverse(kernel: Tensor, ridge: Tensor) -> Tensor:
    """Return the inverse of kernels (..., n, n) with ``ridge`` (..., n) added to the diagonals."""
    ridged = kernel.clone()
    ridged.diagonal(dim1=-2, dim2=-1).add_(ridge)
    return torch.cholesky_inverse(torch.linalg.cholesky(ridged))
