"""MALP: PALM with a learned vector for audio, one for text and one for both."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from palm_cache.adaptation.heads.base import SCALE, Shots, Words, unit
from palm_cache.adaptation.heads.descent import load_optimiser, sgd
from palm_cache.adaptation.heads.palm import CONTEXT_STD, Palm, mix_context

SHARE = 0.2
"""How much of the vectors for audio and for text is added before training."""

PROMPTS = ("audio_prompt", "text_prompt", "shared_prompt")
SHARES = ("audio_share", "text_share")


class Malp(Palm):
    r"""PALM whose two sides are shifted by learned vectors and lengthened by a shared one.

    .. math:: a' = a + l_a p_a, \qquad t'_c = t_c + l_t p_t, \qquad
              \mathrm{logits}(x)_c = 100\,\mathrm{unit}([a'; p_s]) \cdot \mathrm{unit}([t'_c; p_s])

    with the unit embedding :math:`a` of a clip and PALM's :math:`t_c`, its context and gate. Context and
    vectors start as PALM's context does, both shares at 0.2; all are learned together, by PALM's protocol.

    References
    ----------
    MALP, Interspeech 2026, doi:10.21437/Interspeech.2026-1173, read in digests only. They differ in how a
    vector is added: :math:`a + l p` is taken here, one of them has :math:`(1 - l)\,a + l\,p`.
    """

    name = "malp"
    learns = "as palm, and a vector each for audio, text and both: classes x (dim + 1) + 3 dim"
    load = staticmethod(load_optimiser)
    source = "MALP, Interspeech 2026, doi:10.21437/Interspeech.2026-1173"

    @staticmethod
    def n_params(n_classes: int, dim: int, token_dim: int, n_examples: int) -> int:
        """Return PALM's, three vectors and two shares."""
        return n_classes * (dim + 1) + len(PROMPTS) * dim + len(SHARES)

    def start(self, shots: Shots, run: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return where PALM starts, the vectors (dim,) and the shares."""
        start = super().start(shots, run, generator)
        prompts = CONTEXT_STD * torch.randn(len(PROMPTS), shots.text.shape[2], generator=generator)
        shares = dict.fromkeys(SHARES, torch.tensor(SHARE))
        return {**start, **dict(zip(PROMPTS, prompts, strict=True)), **shares}

    def fit(self, shots: Shots) -> dict[str, Tensor]:
        """Train all runs together."""
        start, orders = self.draw(shots, self.training.epochs)

        def embedded(learned: Mapping[str, Tensor]) -> dict[str, Tensor]:
            mixed = mix_context(shots.text, learned["context"], learned["gate"])
            return {**learned, "class_embeddings": mixed}

        learned, _ = sgd(
            start,
            lambda parameters, audio: self.logits(embedded(parameters), audio),
            shots,
            orders,
            self.training,
        )
        return embedded(learned)

    @staticmethod
    def logits(state: Mapping[str, Tensor], audio: Tensor, words: Words | None = None) -> Tensor:
        """Return 100 times the cosines of what clips and classes have become."""
        shared = state["shared_prompt"][..., None, :]
        sides = []
        for side, rows in (("audio", unit(audio)), ("text", state["class_embeddings"])):
            share = state[f"{side}_share"][..., None, None]
            moved = rows + share * state[f"{side}_prompt"][..., None, :]
            sides.append(unit(torch.cat([moved, shared.expand_as(moved)], dim=-1)))
        return SCALE * sides[0] @ sides[1].transpose(-1, -2)
