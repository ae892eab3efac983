"""Encoders that are not palm-cache's own: loaded with care, and held to the contract before they are used."""

from __future__ import annotations

import torch
from torch import Tensor

from palm_cache.errors import EncoderError, PalmCacheError
from palm_cache.extraction.encoders.base import Encoder, Request
from palm_cache.extraction.hub import reason

TOLERANCE = 1e-4
"""By which companions in a batch may move a vector, relative to its length."""


def load_own(kind: type[Encoder], request: Request) -> Encoder:
    """Load an encoder and try it.

    Raises
    ------
    EncoderError
        If it cannot be loaded, or breaks a promise: which one, with the shapes seen.
    """
    try:
        encoder = kind.load(request)
    except PalmCacheError:
        raise
    except Exception as error:
        raise EncoderError(f"{request.spec}: cannot be loaded: {reason(error)}") from error
    if not isinstance(encoder, Encoder) or not hasattr(encoder, "audio_tower"):
        raise EncoderError(f"{request.spec}: load must return an encoder whose __init__ called Encoder's")
    check_promises(encoder)
    return encoder


def check_promises(encoder: Encoder) -> None:
    """Embed a little noise, together and alone, and a prompt, and look at what comes.

    Raises
    ------
    EncoderError
        If a promise is broken.
    """
    generator = torch.Generator().manual_seed(0)
    waveforms = 0.1 * torch.randn(2, 1, encoder.window.samples, generator=generator)
    together = _try(encoder, waveforms)
    alone = torch.cat([_try(encoder, waveform[None]) for waveform in waveforms])
    if not (together.isfinite().all() and alone.isfinite().all()):
        raise EncoderError(f"{encoder.spec}: made NaN or infinity of noise, {encoder.dim} numbers")
    moved = float((together - alone).norm(dim=1).max() / together.norm(dim=1).max().clamp_min(1e-12))
    if moved > TOLERANCE and encoder.precision == "fp32":
        raise EncoderError(
            f"{encoder.spec}: a clip's vector depends on the clips beside it in a batch (moved by "
            f"{moved:.0e} of its length); is the network in evaluation mode, is padding masked?"
        )
    if encoder.text_tower() is not None:
        try:
            text = encoder.embed_text(["dog", "church bell"])
        except PalmCacheError:
            raise
        except Exception as error:
            raise EncoderError(f"{encoder.spec}: cannot embed a prompt: {reason(error)}") from error
        if text.shape != (2, encoder.dim):
            raise EncoderError(
                f"{encoder.spec}: made text vectors of shape {tuple(text.shape)} of two prompts; "
                f"it promised {(2, encoder.dim)}"
            )


def _try(encoder: Encoder, waveforms: Tensor) -> Tensor:
    try:
        return encoder.embed_audio(waveforms)
    except PalmCacheError:
        raise
    except Exception as error:
        raise EncoderError(
            f"{encoder.spec}: cannot embed waveforms of shape {tuple(waveforms.shape)}: {reason(error)}"
        ) from error
