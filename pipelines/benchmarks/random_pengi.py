"""A PENGI checkpoint of full size, made on the spot: the official names with weights of one's own.

How long embedding takes depends on the size of the weights, not on what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import CLIPTokenizer

from palm_cache.extraction.encoders.checkpoints import official_shapes
from palm_cache.extraction.encoders.pengi_towers import AUDIO, TEXT, empty_towers, official
from pipelines.encoders.fill import fill

VOCABULARY = 49_408
HTSAT = f"{AUDIO}base.htsat."

WeightMaker = Callable[[str, Sequence[int]], Tensor]


def make_state(weight: WeightMaker, mel: Tensor) -> dict[str, Tensor]:
    """Return a state dict under official names; the parts that PALM does not use are small stand-ins."""
    computed = {
        f"{HTSAT}spectrogram_extractor.stft.conv_real.weight": stft_kernel(real=True),
        f"{HTSAT}spectrogram_extractor.stft.conv_imag.weight": stft_kernel(real=False),
        f"{HTSAT}logmel_extractor.melW": mel,
    }
    audio, text = empty_towers()
    state = {}
    for name, shape in official_shapes({AUDIO: audio, TEXT: text}, official).items():
        if name in computed:
            state[name] = computed[name]
        elif name.endswith("relative_position_index"):
            state[name] = relative_position_index(8)
        else:
            state[name] = weight(name, tuple(shape))
    state[f"{HTSAT}layers.0.blocks.1.attn_mask"] = torch.zeros(64, 64, 64)
    state[f"{HTSAT}tscam_conv.weight"] = torch.zeros(527, 768, 2, 3)
    state[f"{TEXT}base.embeddings.position_ids"] = torch.arange(77)[None]
    state["caption_decoder.gpt.transformer.wte.weight"] = torch.zeros(3, 2)
    return state


def stft_kernel(*, real: bool) -> Tensor:
    """Return a Hann-windowed Fourier kernel of 1024 samples, (513, 1, 1024)."""
    time = torch.arange(1024, dtype=torch.float64)
    angle = 2 * torch.pi / 1024 * torch.outer(torch.arange(513, dtype=torch.float64), time)
    wave = angle.cos() if real else -angle.sin()
    return (wave * torch.hann_window(1024, dtype=torch.float64)).float()[:, None]


def relative_position_index(window: int) -> Tensor:
    """Number the offsets between places of a square window (Liu et al., ICCV 2021)."""
    place = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
    offset = place[:, :, None] - place[:, None, :] + window - 1
    return offset[0] * (2 * window - 1) + offset[1]


def random_state() -> dict[str, Tensor]:
    """Return a state dict with random weights."""
    mel = torch.rand(513, 64, generator=torch.Generator().manual_seed(0)) * 2e-3
    return make_state(lambda name, shape: torch.from_numpy(fill(name, shape)), mel)


def save_checkpoint(file: Path, state: dict[str, Tensor], prefix: str = "") -> Path:
    """Save a state dict as the authors' checkpoint is."""
    torch.save({"model": {prefix + name: value for name, value in state.items()}}, file)
    return file


def save_small_tokenizer(
    directory: Path, merges: Sequence[tuple[str, str]] = (("d", "o"), ("do", "g</w>"))
) -> dict[str, int]:
    """Save a CLIP tokenizer of letters and one word, with the real start and end; return its vocabulary."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "do", "dog</w>"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    vocabulary |= {"<|startoftext|>": VOCABULARY - 2, "<|endoftext|>": VOCABULARY - 1}
    CLIPTokenizer(vocab=vocabulary, merges=list(merges)).save_pretrained(directory)
    return vocabulary
