"""A random CLAP of a few thousand weights, saved as a real checkpoint is."""

from __future__ import annotations

from pathlib import Path

from pipelines.benchmarks.random_clap import save_random_clap, tiny_config

WORDS = ["dog bark", "church bell", "rain on a tin roof", "The is a recording of  siren.", "naïve Álarm"]


def save_tiny_clap(
    directory: Path, *, seed: int = 0, fused: bool = False, padding: str = "repeatpad"
) -> Path:
    """Save model, feature extractor and tokenizer of a tiny CLAP into a directory."""
    return save_random_clap(directory, tiny_config(fused=fused), seed=seed, padding=padding, texts=WORDS)
