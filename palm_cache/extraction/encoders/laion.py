"""LAION's own CLAP checkpoints, their weights renamed onto transformers' ``ClapModel``.

https://huggingface.co/lukewys/laion_clap has seven of them; whether one is fused and how large its HTSAT is,
its weights say. As the originals do, the waveform is rounded to 16 bits first, and prompts are read up to 77
tokens.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, RobertaTokenizerFast

from palm_cache.errors import EncoderError
from palm_cache.extraction.encoders.base import Request
from palm_cache.extraction.encoders.cards import CARDS
from palm_cache.extraction.encoders.checkpoints import (
    Publication,
    bert_sizes,
    number_places,
    official_htsat,
    shape_of,
)
from palm_cache.extraction.encoders.clap import ClapEncoder
from palm_cache.extraction.encoders.pretrained import Parts
from palm_cache.extraction.encoders.tokens import Vocabulary

FULL_SCALE = 32767.0

PUBLICATION = Publication(
    "LAION's CLAP",
    "state_dict",
    "get one from https://huggingface.co/lukewys/laion_clap",
    ("",),  # a weight that is not CLAP's would change what it hears
    # AudioSet's classifiers, the training's projections, and tables that are computed.
    re.compile(
        r"\.(spectrogram_extractor|logmel_extractor|tscam_conv|head)\.|\.attn_mask$"
        r"|\.(position|token_type)_ids$|^(audio|text)_transform\."
    ),
)

VOCABULARY = Vocabulary(
    "RoBERTa", RobertaTokenizerFast, "FacebookAI/roberta-base", {"bos": 0, "pad": 1, "eos": 2}
)


class LaionEncoder(ClapEncoder):
    """CLAP from LAION's own checkpoints."""

    card = CARDS["laion"]
    more_constants: ClassVar[Mapping[str, object]] = {"bits": 16}
    text_limit: ClassVar[int | None] = 77

    @classmethod
    def load(cls, request: Request) -> Self:
        """Load a checkpoint, e.g. ``"630k-audioset-best.pt"``, and RoBERTa's tokenizer.

        The recipe's ``tokenizer``, where it is given, says where that lies.
        """
        model = build_model(request.spec, PUBLICATION.read(request.spec, request.source))
        tokenizer = VOCABULARY.load(request.recipe.tokenizer)
        fused = model.config.audio_config.enable_fusion
        extractor = ClapFeatureExtractor(
            frequency_min=50, truncation="fusion" if fused else "rand_trunc", padding="repeatpad"
        )
        return cls(request, Parts(model, extractor, tokenizer))

    def format1_identity(self) -> None:
        """Format 1 knew none of them."""

    def log_mel(self, waveforms: Tensor) -> Tensor:
        """Return log-mel power in dB of waveforms rounded to 16 bits, (batch, samples) -> (..., mels)."""
        # Towards zero, as numpy's cast does.
        return super().log_mel((waveforms.clamp(-1, 1) * FULL_SCALE).trunc() / FULL_SCALE)


def build_model(subject: str, state: Mapping[str, Tensor]) -> Any:
    """Make transformers' model from weights under LAION's names.

    Raises
    ------
    EncoderError
        If there is no such architecture, or naming all weights that are missing, surplus or misshaped.
    """
    with torch.device("meta"):
        model: Any = ClapModel(_config(subject, state))
    number_places(model.text_model.embeddings)
    PUBLICATION.fill(subject, {"": model}, state, _official)
    return model


def _config(subject: str, state: Mapping[str, Tensor]) -> ClapConfig:
    """Tell the architecture by the weights."""
    patches = state.get("audio_branch.patch_embed.proj.weight")
    blocks = [re.match(r"audio_branch\.layers\.(\d+)\.blocks\.(\d+)\.", name) for name in state]
    places = {(int(block[1]), int(block[2])) for block in blocks if block}
    if patches is None or patches.ndim != 4 or {stage for stage, _ in places} != {0, 1, 2, 3}:
        raise EncoderError(
            f"{subject}: not an HTSAT of four stages; LAION's checkpoints of PANN are not read"
        )
    width, fused = patches.shape[0], any(".fusion_model." in name for name in state)
    return ClapConfig(
        audio_config={
            "patch_embeds_hidden_size": width,
            "hidden_size": 8 * width,
            "depths": [sum(place[0] == stage for place in places) for stage in range(4)],
            "num_attention_heads": [4, 8, 16, 32],
            "enable_fusion": fused,
            "fusion_type": "aff_2d" if fused else None,
        },
        # RoBERTa's own; transformers' default for CLAP is another.
        text_config={**bert_sizes(state, "text_branch."), "layer_norm_eps": 1e-5},
        projection_dim=shape_of(state, "text_projection.2.weight")[0],
    )


def _official(name: str) -> str:
    """Return LAION's name of a weight."""
    if name.startswith("audio_model."):
        return official_htsat(name.replace("audio_model.audio_encoder.", "audio_branch."))
    name = re.sub(r"^((?:audio|text)_projection)\.linear1\.", r"\1.0.", name)
    name = re.sub(r"^((?:audio|text)_projection)\.linear2\.", r"\1.2.", name)
    return name.replace("text_model.", "text_branch.")
