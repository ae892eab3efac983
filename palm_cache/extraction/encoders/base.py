"""The contract between extraction and a model that embeds sound, and the code that all models share.

An encoder is a frozen audio tower and, where the model has one, a frozen text tower into the same space.
Extraction decodes and cuts waveforms to the encoder's :class:`Window`; the encoder turns them, and prompts,
into vectors.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from palm_cache.errors import EncoderError
from palm_cache.extraction.audio.window import Padding
from palm_cache.extraction.audio.window import Window as Window
from palm_cache.extraction.encoders.cards import EncoderCard as EncoderCard
from palm_cache.extraction.encoders.engine import Engine
from palm_cache.extraction.encoders.text import PromptTower, embed_prompts
from palm_cache.params import Precision, Recipe
from palm_cache.store.fingerprint import fingerprint
from palm_cache.types import TextTower


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody asks of an encoder: which weights, by which recipe, on what."""

    spec: str
    """As given, e.g. ``"clap:laion/clap-htsat-unfused"``."""
    source: str
    """What follows the encoder's name in it."""
    engine: Engine
    recipe: Recipe = field(default_factory=Recipe)
    foreign: Mapping[str, object] = field(default_factory=dict)
    """What tells an encoder that is not ours from others: its class, the code of a user's own, and an option
    in the spec."""


class Encoder(ABC):
    """A frozen encoder; ``tests/support/contracts.py`` checks what is promised here.

    :meth:`embed_audio` may be called from several threads at once.

    Parameters
    ----------
    request : Request
    tower : nn.Module
        The audio tower, in full precision: from what :meth:`front_end` gives to (batch, dim). Its weights
        are part of the identity.
    dim : int
        Length of an embedding.
    sample_rate : int
        Hz.
    window : Window
    constants : mapping
        What else decides an audio vector, JSON-serialisable: configuration, constants of the front end.
    text : PromptTower, optional
        The text tower.
    made_with : mapping of str to str, optional
        Provenance that decides nothing.

    Raises
    ------
    EncoderError
        If a constant makes no sense, or the engine cannot run this encoder.
    """

    card: ClassVar[EncoderCard]
    IMPLEMENTATION: ClassVar[int] = 1
    """Raised when the way from waveform to vector is mended: only this encoder's vectors become stale."""
    one_shape: bool = True
    """Whether everything behind the front end has one shape but for the batch, as OpenVINO and ``compile``
    need it."""

    def __init__(
        self,
        request: Request,
        tower: nn.Module,
        *,
        dim: int,
        sample_rate: int,
        window: Window,
        constants: Mapping[str, object],
        text: PromptTower | None = None,
        made_with: Mapping[str, str] | None = None,
    ) -> None:
        self.spec, self.source, self.engine = request.spec, request.source, request.engine
        self.dim, self.sample_rate, self.window = dim, sample_rate, window
        parts = [(tower, nn.Module), (window, Window), (constants, Mapping)]
        for given, wanted in [*parts, *([(text, PromptTower)] if text is not None else [])]:
            if not isinstance(given, wanted):
                raise EncoderError(
                    f"{self.spec}: Encoder was made with {type(given).__name__} where it wants "
                    f"{wanted.__name__}"
                )
        if text is not None and text.dim != dim:
            raise EncoderError(f"{self.spec}: its text tower makes {text.dim} numbers, its audio tower {dim}")
        self._check_constants()
        if text is not None:
            text.spec = self.spec
        self._text = text
        self._foreign = request.foreign
        self.made_with: Mapping[str, str] = made_with or {}
        self._decisive: Mapping[str, object] = {
            "encoder": self.card.name,
            "implementation": self.IMPLEMENTATION,
            "weights_sha256": hash_weights(tower.state_dict()),
            **constants,
            **self._foreign,
        }
        self.audio_tower = self.engine.tower(tower, key=lambda: fingerprint(self._decisive))

    @classmethod
    @abstractmethod
    def load(cls, request: Request) -> Self:
        """Load the weights that a request names.

        Raises
        ------
        EncoderError
            If they are not there, cannot be reached, are incomplete or another model's.
        """

    @property
    def identity(self) -> Mapping[str, object]:
        """Everything inside the encoder that decides an audio vector, JSON-serialisable."""
        return {**self._decisive, **self.engine.identity}

    @property
    def text_identity(self) -> Mapping[str, object] | None:
        """Everything that decides the vector of a prompt; ``None`` without a text tower."""
        if self._text is None:
            return None
        return {"encoder": self.card.name, **self._text.identity, **self._foreign}

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.engine.device

    @property
    def precision(self) -> Precision:
        """What it computes in."""
        return self.engine.precision

    def front_end(self, waveforms: Tensor) -> Tensor:
        """Return what the audio tower reads of (batch, windows, samples) on the device, -> (batch, ...).

        Unless an encoder says otherwise, the waveforms of the first window.
        """
        return waveforms[:, 0]

    def embed_windows(self, waveforms: Tensor) -> Tensor:
        """Embed waveforms on the device, (batch, windows, samples) -> (batch, dim)."""
        return self.run_tower(self.front_end(waveforms))

    def run_tower(self, features: Tensor) -> Tensor:
        """Run the audio tower in its precision on what the front end gave; float32."""
        with self.engine.lowered():
            return self._numbers(self.audio_tower(features))

    def run_alike(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Run the audio tower on features of many clips, those of one shape together; no padding is needed.

        Returns
        -------
        list of Tensor
            What the tower gives for each, in the order of ``features``.
        """
        outputs: dict[int, Tensor] = {}
        for shape in {feature.shape for feature in features}:
            rows = [row for row, feature in enumerate(features) if feature.shape == shape]
            batch = torch.stack([features[row] for row in rows]).to(self.device)
            outputs.update(zip(rows, self.run_tower(batch), strict=True))
        return [outputs[row] for row in range(len(features))]

    @torch.inference_mode()
    def embed_audio(self, waveforms: Tensor) -> Tensor:
        """Embed waveforms that were cut to :attr:`window`.

        Parameters
        ----------
        waveforms : Tensor, shape (batch, windows, samples)
            float32 on the CPU, mono, full scale 1.

        Returns
        -------
        Tensor, shape (batch, dim)
            float32 on the CPU, not normalised. A row depends on its own waveform only: its companions move it
            by rounding, less than 1e-5.

        Raises
        ------
        EncoderError
            If the encoder gives no tensor, or another shape than it promised.
        """
        if self.window.padding == "nan":
            longest = int(waveforms.isnan().logical_not().sum(dim=-1).max()) if len(waveforms) else 0
            waveforms = waveforms[..., :longest]
        with self.engine.products():
            # A copy on a CPU, too: a front end may work in place.
            own = waveforms.to(self.device, non_blocking=True, copy=True)
            vectors = self._numbers(self.embed_windows(own)).cpu()
        if vectors.shape != (len(waveforms), self.dim):
            raise EncoderError(
                f"{self.spec}: made vectors of shape {tuple(vectors.shape)} from waveforms of shape "
                f"{tuple(waveforms.shape)}; it promised {(len(waveforms), self.dim)}"
            )
        return vectors

    def embed_text(self, prompts: Sequence[str]) -> Tensor:
        """Embed prompts.

        Returns
        -------
        Tensor, shape (n_prompts, dim)
            float32 on the CPU, not normalised. A row depends on its own prompt only.

        Raises
        ------
        EncoderError
            If a prompt is longer than the text tower can read, there is none, or it makes NaN.
        """
        if self._text is None:
            raise EncoderError(f"{self.spec}: embeds sound only, no text")
        vectors = embed_prompts(self._text, prompts)
        broken = vectors.isfinite().all(dim=1).logical_not().nonzero()
        if len(broken):
            raise EncoderError(
                f"{self.spec}: made NaN or infinity of prompt {prompts[int(broken[0])][:40]!r}"
            )
        return vectors

    def text_tower(self) -> TextTower | None:
        """Return the text tower for prompt learning; with no context it gives :meth:`embed_text`."""
        return self._text

    def format1_identity(self) -> dict[str, object] | None:
        """Return what stores of format 1 hold of this encoder but its window, length, rate and engine.

        The hash in it goes over the weights of both towers, which may have to be read again. It is ``None``
        where no store of format 1 can be of this encoder.
        """
        return None

    def format1_by(self, weights: Mapping[str, Tensor], front_end: Mapping[str, object]) -> dict[str, object]:
        """Return it for one of transformers: there the weights of both towers were hashed together."""
        text = self.text_identity or {}
        return {
            "encoder": self.card.name,
            "weights_sha256": hash_weights(weights),
            "front_end": front_end,
            "tokenizer_sha256": text["tokenizer_sha256"],
            "transformers": text["transformers"],
        }

    def _numbers(self, vectors: Tensor) -> Tensor:
        """Return what code of somebody's has made as float32, if it is a tensor of real numbers."""
        if not isinstance(vectors, Tensor) or vectors.is_complex():
            made = vectors.dtype if isinstance(vectors, Tensor) else type(vectors).__name__
            raise EncoderError(f"{self.spec}: made {made}; wanted is a tensor of floats, (batch, dim)")
        return vectors.float()

    def _check_constants(self) -> None:
        window = self.window
        positive = {
            "dim": self.dim,
            "sample rate": self.sample_rate,
            "window (samples)": window.samples,
            "windows": window.max_windows,
        }
        faults = [
            f"{name} {value!r}" for name, value in positive.items() if type(value) is not int or value <= 0
        ]
        if window.padding not in Padding.__args__:  # type: ignore[attr-defined]
            faults.append(f"padding {window.padding!r}")
        if faults:
            raise EncoderError(
                f"{self.spec}: no encoder can have {', '.join(faults)}; what is counted is an int above 0"
            )
        special = "openvino" if self.engine.runtime == "openvino" else "compile" * self.engine.compiled
        if special and not self.one_shape:
            raise EncoderError(
                f"{self.spec}: {special} needs clips of one length, this reads any; leave it out"
            )


def decibels(power: Tensor) -> Tensor:
    """Return power in dB; -100 is silence, to CLAP's processor and to PENGI."""
    return 10 * power.clamp_min(1e-10).log10()


def sounds_in(waveforms: Tensor) -> list[Tensor]:
    """Return what is sound of (batch, 1, samples) with NaN behind the sound, (samples of its own,) each."""
    return [waveform[~waveform.isnan()] for waveform in waveforms[:, 0]]


def hash_weights(state: Mapping[str, Tensor]) -> str:
    """Return the sha256 of names, types, shapes and bytes of weights, whatever file they came in."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
