"""A random CLAP of a few thousand weights, saved as a real checkpoint is."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

from pipelines.benchmarks.random_clap import train_tokenizer

WORDS = ["dog bark", "church bell", "rain on a tin roof", "The is a recording of  siren.", "naïve Álarm"]


def save_tiny_clap(
    directory: Path, *, seed: int = 0, fused: bool = False, padding: str = "repeatpad"
) -> Path:
    """Save model, feature extractor and tokenizer of a tiny CLAP into a directory."""
    torch.manual_seed(seed)
    config = ClapConfig(
        audio_config={
            "depths": [1, 1],
            "num_attention_heads": [1, 2],
            "patch_embeds_hidden_size": 8,
            "num_hidden_layers": 2,
            "hidden_size": 16,
            "enable_fusion": fused,
            "window_size": 8,
        },
        text_config={
            "vocab_size": 400,
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "max_position_embeddings": 66,
        },
        projection_dim=24,
    )
    ClapModel(config).save_pretrained(directory)
    truncation = "fusion" if fused else "rand_trunc"
    ClapFeatureExtractor(truncation=truncation, padding=padding).save_pretrained(directory)
    train_tokenizer(WORDS).save_pretrained(directory)
    return directory
