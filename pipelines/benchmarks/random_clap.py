"""Save a CLAP of published size with random weights, to measure with where no checkpoint can be had.

``python -m pipelines.benchmarks.random_clap DIRECTORY``, then
``palm-cache bench extract --encoder clap:DIRECTORY --files FOLDER``. How long embedding takes depends on the
size of the weights, not on what they are; 0.6 GB.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, RobertaTokenizerFast

from palm_cache.types import TEMPLATES


def save_random_clap(
    directory: Path,
    config: ClapConfig,
    *,
    seed: int = 0,
    padding: str = "repeatpad",
    texts: Sequence[str] = TEMPLATES,
) -> Path:
    """Save model, feature extractor and a tokenizer of a few words into a directory, and return that."""
    torch.manual_seed(seed)
    ClapModel(config).save_pretrained(directory)
    truncation = "fusion" if config.audio_config.enable_fusion else "rand_trunc"
    ClapFeatureExtractor(truncation=truncation, padding=padding).save_pretrained(directory)
    train_tokenizer(texts).save_pretrained(directory)
    return directory


def tiny_config(*, fused: bool = False) -> ClapConfig:
    """Return a CLAP of a few thousand weights, with as many tokens as are trained."""
    return ClapConfig(
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


def train_tokenizer(texts: Sequence[str], size: int = 400) -> RobertaTokenizerFast:
    """Train a byte-pair tokenizer of RoBERTa's kind with at most ``size`` tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    content = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(merge) for merge in content["merges"]]
    return RobertaTokenizerFast(vocab=content["vocab"], merges=merges, model_max_length=64)


def main() -> None:
    """Save it where the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("directory", type=Path)
    directory = parser.parse_args().directory
    save_random_clap(directory, ClapConfig())
    print(f"random CLAP -> {directory}")


if __name__ == "__main__":
    main()
