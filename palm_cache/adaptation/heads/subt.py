"""SubT: the text embeddings of all classes turned together, within the space that they span."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from palm_cache.adaptation.heads.base import (
    CosineHead,
    DescentHead,
    Shots,
    cosine_logits,
    present_classes,
    unit,
)
from palm_cache.adaptation.heads.descent import draw_runs, load_optimiser, sgd

LEARNING_RATE = 0.0125

MIN_SHARE = 1e-5
"""Singular values below this share of the largest are rounding: prompts of some classes are the same."""


def turned_embeddings(text: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Return the embeddings (..., n_classes, dim) of the classes that span the space; see :class:`SubT`."""
    weights = text @ before  # U S
    return unit(text + unit(weights @ after.transpose(-1, -2)))


def new_class_embeddings(text: Tensor, before: Tensor, after: Tensor) -> Tensor:
    r"""Turn the prompts of classes without a clip as those of the others were turned.

    .. math:: w = \mathrm{unit}\big(t + b\,\mathrm{unit}(t R)\big), \qquad
              R = V_0 V^T, \qquad b = \lVert V_0^T t \rVert

    ``text`` (n_new, dim) has unit rows; ``before`` :math:`V_0`, with orthonormal columns, and ``after``
    :math:`V` are (..., dim, rank).
    """
    inside = text @ before  # (..., n_new, rank)
    share = torch.linalg.vector_norm(inside, dim=-1, keepdim=True)
    return unit(text + share * unit(inside @ after.transpose(-1, -2)))


class SubT(DescentHead, CosineHead):
    r"""Subspace tuning: of the prompts' singular value decomposition only the directions learn.

    .. math:: T = U S V_0^T, \qquad
              w = \mathrm{unit}\big(\mathrm{unit}(U S V_0^T) + \mathrm{unit}(U S V^T)\big)

    from :math:`V = V_0`, where every class is its prompt. Classes without a clip take no part; their prompts
    are turned as the others were, as far as they lie in the space that those span. Its learning rate is the
    authors'; epochs, momentum and batch size are those asked for, and 50 epochs are the authors', too.

    References
    ----------
    arXiv:2606.18560; official code jhyukjang/SubT. Read in a digest.
    """

    name = "subt"
    learns = "the directions that all prompts span together: rank x dim"
    load = staticmethod(load_optimiser)
    source = "SubT, arXiv:2606.18560"

    @property
    def hyperparameters(self) -> dict[str, object]:
        """Return the training protocol."""
        protocol = super().hyperparameters
        del protocol["lr"]
        return {**protocol, "learning_rate": LEARNING_RATE}

    @staticmethod
    def n_params(n_classes: int, dim: int, token_dim: int, n_examples: int) -> int:
        """Return the numbers of the directions, of which there are as many as classes at most."""
        return min(n_classes, dim) * dim

    def fit(self, shots: Shots) -> dict[str, Tensor]:
        """Train runs of the same classes and prompts together; shuffling follows from a run's seed alone."""
        embeddings = shots.text.clone()
        present = present_classes(shots.labels, shots.n_classes)
        alike = torch.cat([present.to(shots.text), shots.text.flatten(1)], dim=1)
        of_run = torch.unique(alike, dim=0, return_inverse=True)[1]
        for number in range(int(of_run.max()) + 1):
            runs = (of_run == number).nonzero()[:, 0]
            classes, text = present[runs[0]], shots.text[runs[0]]
            seen, unseen = (kind.nonzero()[:, 0] for kind in (classes, ~classes))
            before, learned = self._turn(shots.of_runs(runs), text[seen], seen)
            embeddings[runs[:, None], seen] = turned_embeddings(text[seen], before, learned)
            embeddings[runs[:, None], unseen] = new_class_embeddings(text[unseen], before, learned)
        return {"class_embeddings": embeddings}

    def _turn(self, shots: Shots, text: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Return the directions of the seen prompts, (dim, rank), and what the runs made of them."""
        _, sizes, directions = torch.linalg.svd(text, full_matrices=False)
        before = directions[sizes > MIN_SHARE * sizes[0]].T
        place = torch.zeros(shots.n_classes, dtype=torch.int64).index_put((seen,), torch.arange(len(seen)))
        _, orders = draw_runs(shots.seeds, shots.labels.shape[1], self.training.epochs)

        def logits(parameters: Mapping[str, Tensor], audio: Tensor) -> Tensor:
            return cosine_logits(turned_embeddings(text, before, parameters["directions"]), audio)

        learned, _ = sgd(
            {"directions": before.repeat(len(orders), 1, 1)},
            logits,
            replace(shots, labels=place[shots.labels]),
            orders,
            replace(self.training, lr=LEARNING_RATE),
        )
        return before, learned["directions"]
