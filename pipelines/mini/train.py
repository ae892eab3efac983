"""Train ``mini`` from nothing: ``python -m pipelines.mini.train``, or ``make mini``.

Contrastive learning between sounds and captions, and, with less weight, between two views of one
sound. Steps are counted, not minutes, and every draw is seeded.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from palm_cache.extraction.encoders.mini import WEIGHTS
from palm_cache.extraction.encoders.mini_towers import (
    FRAME_SAMPLES,
    HOP_SAMPLES,
    N_MELS,
    STATISTICS_DIM,
    WINDOW_SAMPLES,
    MiniTowers,
    clip_statistics,
    log_mel,
)
from pipelines.mini.captions import caption
from pipelines.mini.synthesise import print_progress, world_mels
from pipelines.mini.world import FAMILIES

WEIGHTS_VERSION = "1"
WINDOW_FRAMES = (WINDOW_SAMPLES - FRAME_SAMPLES) // HOP_SAMPLES + 1
AUDIO_SHARE = 0.3  # weight of the loss between two views of one sound
AUDIO_SCALE = 12.0  # inverse temperature of that loss
LARGEST_SCALE = 60.0  # of the learned inverse temperature between audio and text


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides the weights."""

    clips: int = 16_400
    steps: int = 1_900
    batch: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 0.03
    warm_up: int = 100
    seed: int = 0


def augment(power: Tensor, rng: torch.Generator) -> Tensor:
    """Cut one window out of each clip and disturb it.

    Parameters
    ----------
    power : Tensor, shape (batch, frames, mels)
        Mel power of whole clips, mean 1.

    Returns
    -------
    Tensor, shape (batch, WINDOW_FRAMES, mels)
        Log-mel, with another clip softly behind, coloured, and with stripes blanked.
    """
    n, n_frames, _ = power.shape

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=rng)

    starts = torch.randint(0, n_frames - WINDOW_FRAMES + 1, (n, 1), generator=rng)
    window = power[torch.arange(n).unsqueeze(1), starts + torch.arange(WINDOW_FRAMES)]
    other = window[torch.randperm(n, generator=rng)]
    window = window + other * 10 ** uniform(-4, -0.7, n, 1, 1)
    hiss = functional.interpolate(uniform(-1, 1, n, 1, 6), N_MELS, mode="linear", align_corners=True)
    window = window + 10 ** (hiss + uniform(-6, -1, n, 1, 1))
    colour = 0.35 * torch.randn(n, 1, 6, generator=rng)
    window = window * 10 ** functional.interpolate(colour, N_MELS, mode="linear", align_corners=True)
    logs = log_mel(window)
    for axis, widest in ((1, 16), (2, 8)):
        first = torch.randint(0, logs.shape[axis], (n, 1), generator=rng)
        width = torch.randint(0, widest + 1, (n, 1), generator=rng)
        place = torch.arange(logs.shape[axis])
        blank = (place >= first) & (place < first + width)
        blank = blank.unsqueeze(3 - axis)
        logs = torch.where(blank, logs.mean((1, 2), keepdim=True), logs)
    return logs


def contrast(logits: Tensor, positive: Tensor) -> Tensor:
    """Return InfoNCE in both directions with any number of positives per row and column."""
    loss = logits.new_zeros(())
    for scores, targets in ((logits, positive), (logits.T, positive.T)):
        shares = targets / targets.sum(1, keepdim=True).clamp(min=1)
        loss = loss - (shares * scores.log_softmax(1)).sum(1).mean()
    return loss / 2


def draw_captions(rng: Generator, families: Sequence[int]) -> tuple[list[str], Tensor]:
    """Write a caption per clip, and say which captions fit which clips.

    Returns
    -------
    captions : list of str
    positive : Tensor, shape (batch, batch)
        1 where the clip (row) may go by the name in the caption (column).
    """
    names = [FAMILIES[i].names[int(rng.integers(len(FAMILIES[i].names)))] for i in families]
    fits = [
        [
            float(name in FAMILIES[row].names or row == column)
            for name, column in zip(names, families, strict=True)
        ]
        for row in families
    ]
    return [caption(rng, name) for name in names], torch.tensor(fits)


def prepare(mels: NDArray[np.float16], seed: int) -> MiniTowers:
    """Make untrained towers and fix what is not learned: scales and the random projection."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        towers = MiniTowers()
        nn.init.normal_(towers.text.buckets.weight, std=0.3)
        projection = torch.randn(towers.audio.projection.shape) / math.sqrt(STATISTICS_DIM)
    logs = log_mel(10 ** torch.from_numpy(mels[:4000]).float())
    statistics = clip_statistics(logs.unsqueeze(1))
    audio = towers.audio
    audio.mel_mean.copy_(logs.mean((0, 1)))
    audio.mel_std.copy_(logs.std((0, 1)))
    audio.statistics_mean.copy_(statistics.mean(0))
    audio.statistics_std.copy_(statistics.std(0) + 1e-3)
    audio.projection.copy_(projection)
    return towers


def train(recipe: Recipe, mels: NDArray[np.float16], bf16: bool = True) -> MiniTowers:
    """Train both towers on the CPU.

    Parameters
    ----------
    recipe : Recipe
    mels : ndarray, shape (clips, frames, mels)
        float16, from :func:`~pipelines.mini.synthesise.world_mels`.
    bf16 : bool
        Compute the CNN in bfloat16: three times faster where the processor has it.
    """
    towers = prepare(mels, recipe.seed).train()
    scale = nn.Parameter(torch.tensor(math.log(14.0)))
    optimiser = torch.optim.AdamW(
        [*towers.parameters(), scale], lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    draws, words = torch.Generator().manual_seed(recipe.seed), np.random.default_rng(recipe.seed)
    same = torch.eye(recipe.batch)
    start = time.monotonic()
    for step in range(recipe.steps):
        rate = min(1, (step + 1) / recipe.warm_up) * (0.5 + 0.5 * math.cos(math.pi * step / recipe.steps))
        optimiser.param_groups[0]["lr"] = recipe.learning_rate * rate
        rows = torch.randperm(len(mels), generator=draws)[: recipe.batch].numpy()
        power = 10 ** torch.from_numpy(mels[rows]).float()
        captions, positive = draw_captions(words, [int(row) % len(FAMILIES) for row in rows])
        views = torch.cat([augment(power, draws), augment(power, draws)])
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            audio = towers.audio.windows(views)
        first, second = functional.normalize(audio.float(), dim=-1).chunk(2)
        text = functional.normalize(towers.text(captions), dim=-1) * scale.exp().clamp(max=LARGEST_SCALE)
        loss = (contrast(first @ text.T, positive) + contrast(second @ text.T, positive)) / 2
        loss = loss + AUDIO_SHARE * contrast(AUDIO_SCALE * first @ second.T, same)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if (step + 1) % 20 == 0 or step + 1 == recipe.steps:
            left = (time.monotonic() - start) / (step + 1) * (recipe.steps - step - 1)
            print_progress("trained", step + 1, recipe.steps, f"loss {loss.item():.3f}, {left:.0f} s left")
    return towers.eval()


def save(towers: MiniTowers, out: Path, recipe: Recipe) -> None:
    """Write the weights as float16 with a note of where they come from."""
    state = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in towers.state_dict().items()
    }
    options = f"--clips {recipe.clips} --steps {recipe.steps} --seed {recipe.seed}"
    command = f"python -m pipelines.mini.train {options}"
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, out, {"version": WEIGHTS_VERSION, "command": command, "recipe": str(recipe)})
    out.chmod(0o644)  # save_file lets nobody else read it


def main() -> None:
    """Synthesise the world, train, write the weights."""
    recipe = Recipe()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=WEIGHTS, help="weight file to write; the package's own by default"
    )
    parser.add_argument(
        "--cache", type=Path, default=Path("build/mini"), help="where the training set is kept"
    )
    parser.add_argument("--clips", type=int, default=recipe.clips)
    parser.add_argument("--steps", type=int, default=recipe.steps)
    parser.add_argument("--seed", type=int, default=recipe.seed)
    parser.add_argument("--jobs", type=int, default=1, help="processes that synthesise")
    parser.add_argument("--fp32", action="store_true", help="train in float32, three times slower")
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipe = replace(recipe, clips=options.clips, steps=options.steps, seed=options.seed)
    mels = world_mels(recipe.clips, recipe.seed, options.cache, options.jobs)
    save(train(recipe, mels, bf16=not options.fp32), options.out, recipe)


if __name__ == "__main__":
    main()
