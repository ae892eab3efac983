"""A random CLAP of a few thousand weights, saved as a real checkpoint is."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, RobertaTokenizerFast

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
    ClapFeatureExtractor(truncation="fusion" if fused else "rand_trunc", padding=padding).save_pretrained(
        directory
    )
    _byte_pair_tokenizer().save_pretrained(directory)
    return directory


def _byte_pair_tokenizer() -> RobertaTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(WORDS, trainer)
    content = __import__("json").loads(tokenizer.to_str())["model"]
    merges = [tuple(merge) for merge in content["merges"]]
    return RobertaTokenizerFast(vocab=content["vocab"], merges=merges, model_max_length=64)
