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

from pipelines.encoders.fill import fill

DEPTHS, WIDTH = (2, 2, 6, 2), 96
HEADS = (4, 8, 16, 32)
TEXT_LAYERS, TEXT_WIDTH, VOCABULARY = 12, 512, 49_408

WeightMaker = Callable[[str, Sequence[int]], Tensor]


def official_shapes() -> dict[str, tuple[int, ...]]:
    """Return the shape of every learned weight that PALM uses, under its official name."""
    htsat = "audio_encoder.base.htsat."
    shapes: dict[str, tuple[int, ...]] = {
        f"{htsat}bn0.{name}": (64,) for name in ("weight", "bias", "running_mean", "running_var")
    }
    shapes[f"{htsat}bn0.num_batches_tracked"] = ()
    shapes[f"{htsat}patch_embed.proj.weight"] = (WIDTH, 1, 4, 4)
    for name in ("proj.bias", "norm.weight", "norm.bias"):
        shapes[f"{htsat}patch_embed.{name}"] = (WIDTH,)
    for stage, (depth, heads) in enumerate(zip(DEPTHS, HEADS, strict=True)):
        width = WIDTH * 2**stage
        for block in range(depth):
            here = f"{htsat}layers.{stage}.blocks.{block}."
            for norm in ("norm1", "norm2"):
                shapes[f"{here}{norm}.weight"] = shapes[f"{here}{norm}.bias"] = (width,)
            shapes[f"{here}attn.relative_position_bias_table"] = (225, heads)
            _linear(shapes, f"{here}attn.qkv", width, 3 * width)
            _linear(shapes, f"{here}attn.proj", width, width)
            _linear(shapes, f"{here}mlp.fc1", width, 4 * width)
            _linear(shapes, f"{here}mlp.fc2", 4 * width, width)
        if stage < 3:
            shapes[f"{htsat}layers.{stage}.downsample.reduction.weight"] = (2 * width, 4 * width)
            for name in ("weight", "bias"):
                shapes[f"{htsat}layers.{stage}.downsample.norm.{name}"] = (4 * width,)
    for name in ("weight", "bias"):
        shapes[f"{htsat}norm.{name}"] = (768,)
    clip = "caption_encoder.base."
    shapes[f"{clip}embeddings.token_embedding.weight"] = (VOCABULARY, TEXT_WIDTH)
    shapes[f"{clip}embeddings.position_embedding.weight"] = (77, TEXT_WIDTH)
    for layer in range(TEXT_LAYERS):
        here = f"{clip}encoder.layers.{layer}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            _linear(shapes, f"{here}self_attn.{name}", TEXT_WIDTH, TEXT_WIDTH)
        _linear(shapes, f"{here}mlp.fc1", TEXT_WIDTH, 4 * TEXT_WIDTH)
        _linear(shapes, f"{here}mlp.fc2", 4 * TEXT_WIDTH, TEXT_WIDTH)
        for norm in ("layer_norm1", "layer_norm2"):
            shapes[f"{here}{norm}.weight"] = shapes[f"{here}{norm}.bias"] = (TEXT_WIDTH,)
    for name in ("weight", "bias"):
        shapes[f"{clip}final_layer_norm.{name}"] = (TEXT_WIDTH,)
    shapes["caption_encoder.clip_text_projection.weight"] = (TEXT_WIDTH, TEXT_WIDTH)
    for encoder, width in (("audio_encoder", 768), ("caption_encoder", TEXT_WIDTH)):
        shapes[f"{encoder}.projection.linear1.weight"] = (1024, width)
        shapes[f"{encoder}.projection.linear2.weight"] = (1024, 1024)
        for name in ("weight", "bias"):
            shapes[f"{encoder}.projection.layer_norm.{name}"] = (1024,)
    return shapes


def make_state(weight: WeightMaker, mel: Tensor) -> dict[str, Tensor]:
    """Return a state dict under official names; the parts that PALM does not use are small stand-ins."""
    state = {name: weight(name, shape) for name, shape in official_shapes().items()}
    htsat = "audio_encoder.base.htsat."
    for part in ("real", "imag"):
        kernel = stft_kernel(real=part == "real")
        state[f"{htsat}spectrogram_extractor.stft.conv_{part}.weight"] = kernel
    state[f"{htsat}logmel_extractor.melW"] = mel
    for stage, depth in enumerate(DEPTHS):
        for block in range(depth):
            here = f"{htsat}layers.{stage}.blocks.{block}.attn.relative_position_index"
            state[here] = relative_position_index(8)
    state[f"{htsat}layers.0.blocks.1.attn_mask"] = torch.zeros(64, 64, 64)
    state[f"{htsat}tscam_conv.weight"] = torch.zeros(527, 768, 2, 3)
    state["caption_encoder.base.embeddings.position_ids"] = torch.arange(77)[None]
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


def _linear(shapes: dict[str, tuple[int, ...]], name: str, n_in: int, n_out: int) -> None:
    shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (n_out, n_in), (n_out,)


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
