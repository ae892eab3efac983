"""Which encoders are known, and how a spec such as ``clap:laion/clap-htsat-unfused`` is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from palm_cache.errors import EncoderError, StaleStoreError, UnknownNameError
from palm_cache.params import CLIP_TOKENIZER
from palm_cache.store.fingerprint import fingerprint

if TYPE_CHECKING:
    import torch

    from palm_cache.extraction.encoders.base import Encoder
    from palm_cache.params import ExtractParams, Long, Precision, Runtime
    from palm_cache.store.features import StoreHeader
    from palm_cache.types import TextTower


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
    EncoderCard(
        "pengi",
        "pengi:CHECKPOINT",
        "the audio-language model of the PALM paper, 44.1 kHz, windows of 7 s",
        "the authors' base.pth, 2.2 GB: https://zenodo.org/records/8387083",
        "pengi:base.pth",
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
        raise EncoderError(f"encoder {spec!r}: say which weights: {card.spec}, e.g. {card.example}")
    return name, source


def load_encoder(
    spec: str,
    *,
    device: str = "auto",
    precision: Precision = "fp32",
    tokenizer: str = CLIP_TOKENIZER,
    runtime: Runtime = "torch",
    compiled: bool = False,
    long: Long = "crop",
) -> Encoder:
    """Load an encoder.

    Parameters
    ----------
    spec : str
        E.g. ``"mini"`` or ``"pengi:base.pth"``.
    device : str
        See :func:`~palm_cache.extraction.encoders.base.choose_device`.
    precision : {"fp32", "bf16"}
    tokenizer : str
        Hub id or directory of CLIP's tokenizer; only ``pengi`` needs one beside its weights.
    runtime : {"torch", "openvino"}
        What computes the audio tower.
    compiled : bool
        Whether torch compiles the audio tower.
    long : {"crop", "mean"}
        See :attr:`~palm_cache.extraction.encoders.base.Window.long`.

    Raises
    ------
    UnknownNameError, EncoderError
        If it does not exist, cannot be loaded or the device or the runtime is not there.
    """
    from palm_cache.extraction.encoders.base import choose_device

    if runtime == "openvino":
        from palm_cache.extraction.encoders.openvino import openvino_device, use_openvino

        # Its towers are made of those in full precision.
        encoder = _load(spec, openvino_device(device), "fp32", tokenizer)
        use_openvino(encoder, precision)
    else:
        encoder = _load(spec, choose_device(device), precision, tokenizer)
    if compiled:
        from palm_cache.extraction.encoders.compiled import use_compiled

        use_compiled(encoder)
    encoder.window = replace(encoder.window, long=long)
    return encoder


def _load(spec: str, device: torch.device, precision: Precision, tokenizer: str) -> Encoder:
    name, source = split_spec(spec)
    if name == "mini":
        from palm_cache.extraction.encoders.mini import MiniEncoder

        return MiniEncoder.load(device, precision)
    if name == "pengi":
        from palm_cache.extraction.encoders.pengi import PengiEncoder

        return PengiEncoder.load(source, tokenizer, device, precision)
    from palm_cache.extraction.encoders.clap import ClapEncoder

    return ClapEncoder.load(source, device, precision)


def encoder_options(params: ExtractParams) -> dict[str, Any]:
    """Return what parameters say about an encoder, but for its device, as :func:`load_encoder` takes it."""
    return {
        "precision": params.precision,
        "tokenizer": params.tokenizer,
        "runtime": params.runtime,
        "compiled": params.compile,
        "long": params.long,
    }


def recorded_options(identity: Mapping[str, object]) -> dict[str, Any]:
    """Return the options of :func:`load_encoder` that give an encoder this identity."""
    window = identity.get("window")
    return {
        "precision": identity.get("precision", "fp32"),
        "runtime": str(identity.get("runtime", "torch")).split(" ")[0],
        "compiled": "compiled" in identity,
        "long": window[3] if isinstance(window, list | tuple) and len(window) > 3 else "crop",
    }


def load_encoder_of(header: StoreHeader, *, device: str, tokenizer: str) -> Encoder:
    """Load the encoder that made a feature store.

    Raises
    ------
    UnknownNameError, EncoderError
        If it cannot be loaded.
    StaleStoreError
        If what its spec names today is not what made the store.
    """
    return load_same_encoder(
        header.encoder,
        header.identity,
        header.fingerprint,
        purpose=f"made the {header.dataset} store",
        advice="extract again, or give the ones it was made with",
        device=device,
        tokenizer=tokenizer,
    )


def load_text_tower(header: StoreHeader, *, device: str, tokenizer: str) -> TextTower:
    """Load the text tower of the encoder that made a feature store; raise as :func:`load_encoder_of`."""
    return load_encoder_of(header, device=device, tokenizer=tokenizer).text_tower()


def load_same_encoder(
    spec: str,
    identity: Mapping[str, object],
    wanted: str,
    *,
    purpose: str,
    advice: str,
    device: str = "auto",
    tokenizer: str = CLIP_TOKENIZER,
) -> Encoder:
    """Load an encoder in the precision of an earlier use, and make sure that its numbers are the same.

    Parameters
    ----------
    spec : str
    identity : mapping
        As recorded then; empty where it was not.
    wanted : str
        Fingerprint, as recorded then.
    purpose, advice : str
        For the error: what the recorded one did, and what to do about another.
    device, tokenizer : str
        See :func:`load_encoder`.

    Raises
    ------
    UnknownNameError, EncoderError
        If the encoder cannot be loaded.
    StaleStoreError
        If it is another one.
    """
    from palm_cache.extraction.encoders.base import full_identity

    options = recorded_options(identity)
    encoder = load_encoder(spec, device=device, tokenizer=tokenizer, **options)
    loaded = full_identity(encoder)
    found = fingerprint(loaded)
    if found != wanted:
        raise StaleStoreError(
            f"encoder {spec}: other {_what_differs(identity, loaded)} than those that {purpose} "
            f"(fingerprint {found[:12]}, wanted {wanted[:12]}); {advice}"
        )
    return encoder


def _what_differs(recorded: Mapping[str, object], loaded: Mapping[str, object]) -> str:
    if not recorded:
        return "weights, tokenizer or libraries"
    differing = [key for key in loaded if loaded[key] != recorded.get(key)]
    names = [key.removesuffix("_sha256").replace("_", " ") for key in differing]
    return ", ".join(names) or "versions of preprocessing or of its libraries"
