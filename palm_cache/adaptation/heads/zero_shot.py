"""Heads that learn nothing: a clip goes to the class whose prompt lies nearest."""

from __future__ import annotations

from torch import Tensor

from palm_cache.adaptation.heads.base import CosineHead, Shots
from palm_cache.types import BARE_TEMPLATE


class ZeroShot(CosineHead):
    r"""Cosine with the prompt of every class: :math:`t'_c = t_c`.

    References
    ----------
    Hanif et al., EMNLP 2024, the baseline ZERO-SHOT; official palm/zeroshot.py.
    """

    name = "zero-shot"
    learns = "nothing"
    trained = False
    source = "Deshmukh et al., NeurIPS 2023 (PENGI); Hanif et al., EMNLP 2024"

    def fit(self, shots: Shots) -> dict[str, Tensor]:
        """Return the prompts' embeddings, the same for every run."""
        return {"class_embeddings": shots.text}


class PalmDagger(ZeroShot):
    r"""PALM without its learned context: zero-shot with the bare class name.

    With :math:`z = 0` the gate only scales :math:`t_c`, and the norm cancels it.

    References
    ----------
    Hanif et al., EMNLP 2024, Figure 4 (the dagger marks the ablation).
    """

    name = "palm-dagger"
    source = "Hanif et al., EMNLP 2024, Figure 4"
    only_template = BARE_TEMPLATE
