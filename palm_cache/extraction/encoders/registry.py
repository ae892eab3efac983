"""Which encoders are known, and how a spec such as ``clap:laion/clap-htsat-unfused`` is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from palm_cache.errors import EncoderError, UnknownNameError

if TYPE_CHECKING:
    from palm_cache.extraction.encoders.base import Encoder, Precision


@dataclass(frozen=True, slots=True)
class EncoderCard:
    """What is known of an encoder without loading it."""

    name: str
    spec: str
    """How it is asked for."""
    description: str
    source: str
    example: str


CARDS = (
    EncoderCard(
        "mini",
        "mini",
        "small dual encoder trained on synthesised sounds: demo, tests, offline use",
        "part of palm-cache",
        "mini",
    ),
    EncoderCard(
        "clap",
        "clap:HUB_ID or clap:DIRECTORY",
        "contrastive language-audio pretraining (unfused checkpoints), 48 kHz, windows of 10 s",
        "transformers' ClapModel; e.g. https://huggingface.co/laion/clap-htsat-unfused",
        "clap:laion/clap-htsat-unfused",
    ),
)


def split_spec(spec: str) -> tuple[str, str]:
    """Split a spec into the encoder's name and its source.

    Raises
    ------
    UnknownNameError
        If there is no such encoder.
    EncoderError
        If the source is missing or not wanted.
    """
    name, _, source = spec.partition(":")
    if name not in {card.name for card in CARDS}:
        raise UnknownNameError.among("encoder", name, [card.name for card in CARDS])
    if name == "mini" and source:
        raise EncoderError(f"encoder {spec!r}: mini takes no source; write just: mini")
    if name != "mini" and not source:
        card = next(card for card in CARDS if card.name == name)
        raise EncoderError(f"encoder {spec!r}: say which weights, e.g. {card.example} or {name}:DIRECTORY")
    return name, source


def load_encoder(spec: str, *, device: str = "auto", precision: Precision = "fp32") -> Encoder:
    """Load an encoder.

    Raises
    ------
    UnknownNameError, EncoderError
        If it does not exist, cannot be loaded or the device is not there.
    """
    from palm_cache.extraction.encoders.base import choose_device

    name, source = split_spec(spec)
    target = choose_device(device)
    if name == "mini":
        from palm_cache.extraction.encoders.mini import MiniEncoder

        return MiniEncoder.load(target, precision)
    from palm_cache.extraction.encoders.clap import ClapEncoder

    return ClapEncoder.load(source, target, precision)
