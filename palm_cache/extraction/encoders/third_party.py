"""Encoders that are not palm-cache's own: loaded with care, and held to the contract before they are used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from palm_cache.errors import EncoderError, PalmCacheError
from palm_cache.extraction.audio.waveforms import cut_windows
from palm_cache.extraction.encoders.base import Encoder, Request
from palm_cache.extraction.encoders.own_code import told
from palm_cache.store.fingerprint import fingerprint

TOLERANCE = 1e-4
"""By which companions in a batch may move a vector, relative to its length."""

LONG_PROMPT = "dog " * 150
"""More than nearly every text tower reads."""

Rows = TypeVar("Rows", Tensor, Sequence[str])


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
    except (Exception, SystemExit) as error:
        raise EncoderError(f"{request.spec}: cannot be loaded: {told(error)}") from error
    if not isinstance(encoder, Encoder) or not hasattr(encoder, "audio_tower"):
        raise EncoderError(f"{request.spec}: load must return an encoder whose __init__ called Encoder's")
    check_promises(encoder)
    return encoder


def check_promises(encoder: Encoder) -> None:
    """Embed a little noise, whole and shorter, and a few prompts, together and alone, and look at what comes.

    Raises
    ------
    EncoderError
        If a promise is broken.
    """
    spec, window = encoder.spec, encoder.window
    try:
        fingerprint({"sound": encoder.identity, "text": encoder.text_identity, "other": encoder.made_with})
    except (TypeError, ValueError) as error:
        raise EncoderError(f"{spec}: its constants are not what JSON can hold: {told(error)}") from error
    noise = 0.1 * torch.randn(2 * window.samples, generator=torch.Generator().manual_seed(0))
    lengths = (window.samples, (2 * window.samples + 2) // 3)
    clips = torch.stack([cut_windows(noise[:length], window) for length in lengths])
    named = f"clips of {' and '.join(map(str, lengths))} samples, waveforms of shape {tuple(clips.shape)}"
    _check_rows(encoder, encoder.embed_audio, clips, named, "clip")
    if kept := _kept(encoder, clips):
        raise EncoderError(
            f"{spec}: keeps something of a clip in self.{kept}; several threads embed at once, so another "
            "clip's may be there next: hand it on instead"
        )
    if window.max_windows > 1:
        windows = cut_windows(noise, window)[None]
        _check_rows(
            encoder, encoder.embed_audio, windows, f"waveforms of shape {tuple(windows.shape)}", "clip"
        )
        if _distance(encoder.embed_audio(windows), encoder.embed_audio(windows[:, :1])) == 0:
            raise EncoderError(
                f"{spec}: hears only the first of a clip's windows, of which it asks for up to "
                f"{window.max_windows}; front_end is given (batch, windows, samples)"
            )
    if encoder.text_tower() is not None:
        _check_rows(encoder, encoder.embed_text, ["dog", "church bell"], "a prompt", "prompt")
        if _cuts_prompts(encoder):
            raise EncoderError(
                f"{spec}: cuts long prompts off and does not say so; it must raise an EncoderError"
            )


def _kept(encoder: Encoder, clips: Tensor) -> str:
    """Return the name of what an encoder keeps in itself of one clip and not of another, "" if there is none.

    What is made once, or anew and alike, may stay, and so may a counter or a clock: it is of no clip.
    """
    states = []
    for some in (clips[:1], clips[:1], clips[1:]):
        encoder.embed_audio(some)
        states.append(dict(vars(encoder)))
    for name, value in states[2].items():
        first, again = (state.get(name, value) for state in states[:2])
        runs_on = isinstance(value, int | float) and not _is_same(first, again)
        if not runs_on and not _is_same(again, value):
            return name
    return ""


def _is_same(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    try:
        return one is other or bool(one == other)
    except (RuntimeError, ValueError):  # arrays, or several tensors
        return False


def _check_rows(encoder: Encoder, embed: Callable[[Rows], Tensor], rows: Rows, named: str, what: str) -> None:
    """Check the vectors of a few clips or prompts."""
    spec = encoder.spec
    try:
        together = embed(rows)
        alone = torch.cat([embed(rows[number : number + 1]) for number in range(len(rows))])
        again = embed(rows[:1])
    except PalmCacheError:
        raise
    except (Exception, SystemExit) as error:
        raise EncoderError(f"{spec}: cannot embed {named}: {told(error)}") from error
    if not (together.isfinite().all() and alone.isfinite().all()):
        hint = "; are the NaN behind short clips left out?" if encoder.window.padding == "nan" else ""
        raise EncoderError(f"{spec}: made NaN or infinity of a {what}, {encoder.dim} numbers{hint}")
    if (moved := _distance(alone[:1], again)) > TOLERANCE:
        raise EncoderError(
            f"{spec}: gives another vector of the same {what} each time (moved by {moved:.0e} of its "
            "length); is anything drawn at random, or counted?"
        )
    if (moved := _distance(together, alone)) > TOLERANCE and encoder.precision == "fp32":
        raise EncoderError(
            f"{spec}: a {what}'s vector depends on the {what}s beside it in a batch (moved by {moved:.0e} of "
            "its length); is the network in evaluation mode, is padding masked?"
        )


def _distance(vectors: Tensor, others: Tensor) -> float:
    """Return how far any of some vectors is from its counterpart, relative to the longest."""
    return float((vectors - others).norm(dim=1).max() / vectors.norm(dim=1).max().clamp_min(1e-12))


def _cuts_prompts(encoder: Encoder) -> bool:
    """Tell whether two long prompts that end differently have one vector."""
    try:
        barks, bells = encoder.embed_text([f"{LONG_PROMPT}barks", f"{LONG_PROMPT}bells"])
    except Exception:  # as it should: it says that it does not read so much
        return False
    return torch.equal(barks, bells)
