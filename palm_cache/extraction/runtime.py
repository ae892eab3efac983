"""Whether another runtime gives the embeddings that torch gives, tried on the clips at hand."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from palm_cache.errors import EncoderError
from palm_cache.extraction.audio.waveforms import cut_windows
from palm_cache.extraction.encoders.base import Encoder
from palm_cache.extraction.encoders.openvino import OpenVinoTower
from palm_cache.extraction.reading import CuttingRule, read_file
from palm_cache.params import Recipe
from palm_cache.types import Clip

SAMPLE_CLIPS = 8

MIN_COSINE = 0.9999
"""Between a clip's embedding by OpenVINO and by torch in fp32; less is a defect, of whomever."""


def check_runtime(encoder: Encoder, clips: Sequence[Clip], recipe: Recipe) -> list[str]:
    """Compare an encoder with torch in fp32 on a few clips, spread evenly; one in torch needs no check.

    Clips that cannot be read are left for extraction to name.

    Returns
    -------
    list of str
        What the user should know.

    Raises
    ------
    EncoderError
        If an embedding points elsewhere.
    """
    runtime = encoder.identity.get("runtime", "torch")
    if runtime == "torch" or not clips:
        return []
    count = min(SAMPLE_CLIPS, len(clips))
    cut = CuttingRule.of(encoder, recipe)
    cosines = []
    for number in range(count):
        clip = clips[number * len(clips) // count]
        for waveform in next(read_file([(0, clip)], cut)).stretches:
            windows = cut_windows(waveform, encoder.window)
            cosines.append(float(cosines_to_torch(encoder, windows[None])))
            # Not "less than": an embedding of NaN is refused too.
            if not cosines[-1] >= MIN_COSINE:
                raise EncoderError(
                    f"{encoder.spec} in {runtime}: {clip.name} has cosine {cosines[-1]:.6f} to torch in "
                    f"fp32, less than {MIN_COSINE}; set `runtime` to torch, or `precision` to fp32"
                )
    if not cosines:
        return []
    return [f"{runtime} agrees with torch: lowest cosine {min(cosines):.6f} over {len(cosines)} clips"]


def cosines_to_torch(encoder: Encoder, waveforms: Tensor) -> Tensor:
    """Compare an encoder that runs in OpenVINO with the same one in torch and fp32.

    Parameters
    ----------
    waveforms : Tensor, shape (batch, windows, samples)

    Returns
    -------
    Tensor, shape (batch,)
        Cosines of the embeddings.
    """
    reference = copy.copy(encoder)
    reference.audio_tower = cast(OpenVinoTower, encoder.audio_tower).torch_tower
    reference.engine = replace(encoder.engine, runtime="torch", precision="fp32")
    return torch.cosine_similarity(encoder.embed_audio(waveforms), reference.embed_audio(waveforms))
