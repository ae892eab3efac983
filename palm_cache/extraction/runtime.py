"""Whether another runtime gives the embeddings that torch gives, tried on the clips at hand."""

from __future__ import annotations

from collections.abc import Sequence

from palm_cache.errors import EncoderError
from palm_cache.extraction.audio.waveforms import cut_windows
from palm_cache.extraction.encoders.base import Encoder
from palm_cache.extraction.reading import CuttingRule, read_file
from palm_cache.params import Recipe
from palm_cache.types import Clip

SAMPLE_CLIPS = 8


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
    from palm_cache.extraction.encoders.openvino import MIN_COSINE, cosines_to_torch

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
