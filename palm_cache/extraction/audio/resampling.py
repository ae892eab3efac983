"""From one sample rate to another: torchaudio's filters, as matrix products without their zeros."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import ceil

import torch
from torch import Tensor
from torchaudio.transforms import Resample

LARGEST_RATIO_TERM = 1_000
"""Largest term of the resampling ratio. The resampler's kernel has about (old x new) taps for a ratio
old:new, gigabytes for 44,101:16,000; a neighbouring ratio with terms up to this differs in pitch by
less than a thousandth of a semitone. Nearly every ratio between common rates has smaller terms."""

FILTER_WIDTH, ROLLOFF = 6, 0.99
"""The resampler's defaults, named because the margin around a crop follows from them."""

BAND_SAMPLES = 32
"""Samples that one matrix product of the resampler makes at once: neighbours, which hear the same frames."""

LEAST_TAP = 1e-9
"""Taps below it are beyond the filter's width: its formula makes tiny numbers of them, not zeros."""


@lru_cache(maxsize=256)
def resampling_ratio(old_rate: int, new_rate: int) -> Fraction:
    """Return ``new_rate / old_rate``, with no term above :data:`LARGEST_RATIO_TERM`."""
    if new_rate <= old_rate:
        return Fraction(new_rate, old_rate).limit_denominator(LARGEST_RATIO_TERM)
    return 1 / Fraction(old_rate, new_rate).limit_denominator(LARGEST_RATIO_TERM)


def resampled_length(frames: int, ratio: Fraction) -> int:
    """Return how many samples frames become: their number times the ratio, rounded up."""
    return -(-frames * ratio.numerator // ratio.denominator)


def resample(waveform: Tensor, ratio: Fraction) -> Tensor:
    """Resample as torchaudio does.

    Parameters
    ----------
    waveform : Tensor, shape (samples,)
        float32.
    ratio : Fraction
        From :func:`resampling_ratio`.

    Returns
    -------
    Tensor, shape (samples * ratio, rounded up)
    """
    if ratio == 1:
        return waveform
    filters = _filters(ratio)
    total = resampled_length(len(waveform), ratio)
    n_rows = -(-total // filters.new)
    end = (n_rows - 1) * filters.old + filters.reach - filters.margin
    padded = torch.nn.functional.pad(waveform, (filters.margin, end - len(waveform)))
    resampled = torch.empty(n_rows, filters.new)
    for first, offset, taps in filters.bands:
        frames = padded.as_strided((n_rows, len(taps)), (filters.old, 1), offset)
        torch.mm(frames, taps, out=resampled[:, first : first + taps.shape[1]])
    return resampled.reshape(-1)[:total]


@dataclass(frozen=True, slots=True)
class _Filters:
    """What makes ``new`` samples out of ``old`` frames and what lies around them, and then the next ``new``.

    torchaudio's kernels, as matrix products without their zeros: of ten taps nine are zero where one product
    makes all samples. A product of as many frames as a row's step needs no copy of frames that overlap.
    """

    new: int
    old: int
    margin: int
    """Frames before the first."""
    reach: int
    """Frames from the first that a row needs to behind its last."""
    bands: tuple[tuple[int, int, Tensor], ...]
    """First sample, first frame, and (frames, samples) of each product."""


@lru_cache(maxsize=32)
def _filters(ratio: Fraction) -> _Filters:
    new, old = ratio.numerator, ratio.denominator
    made = Resample(old, new, lowpass_filter_width=FILTER_WIDTH, rolloff=ROLLOFF, dtype=torch.float32)
    kernel, margin = made.kernel[:, 0], made.width
    n_taps = int((kernel.abs() > LEAST_TAP).sum(dim=1).max())
    periods = ceil((n_taps + BAND_SAMPLES * old / new) / old)
    reach = kernel.shape[1] + (periods - 1) * old
    taps = torch.zeros(reach, periods * new)
    for number in range(periods):
        start = number * old
        taps[start : start + kernel.shape[1], number * new : (number + 1) * new] = kernel.T
    bands = []
    for first in range(0, periods * new, BAND_SAMPLES):
        band = taps[:, first : first + BAND_SAMPLES]
        used = (band.abs() > LEAST_TAP).any(dim=1).nonzero()[:, 0].tolist()
        bands.append((first, used[0], band[used[0] : used[-1] + 1].contiguous()))
    return _Filters(periods * new, periods * old, margin, reach, tuple(bands))
