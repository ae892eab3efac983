"""CLAP through transformers: any unfused ``ClapModel`` checkpoint, from the hub or a directory.

The towers are transformers' own. The processor's log-mel, a numpy loop over clips, is done here in torch
for a whole batch; the tests hold both against ``get_audio_features`` and ``get_text_features``.

Y. Wu et al., "Large-scale Contrastive Language-Audio Pretraining with Feature Fusion and
Keyword-to-Caption Augmentation", ICASSP 2023.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from transformers import AutoConfig, AutoFeatureExtractor, AutoTokenizer, ClapModel
from transformers.utils import logging as transformers_logging

from palm_cache.errors import EncoderError
from palm_cache.extraction.encoders.base import Precision, Window, exact_float32

HUB_TIMEOUT = 5.0
"""Seconds after which a hub counts as out of reach; its own client tries for minutes."""

TEXT_BATCH = 64
"""Prompts that go through the text tower at once."""

QUIETEST_POWER = 1e-10
"""Mel power that counts as silence: -100 dB, as in the processor."""

PADDINGS: dict[str, Literal["tile", "repeat-pad"]] = {"repeatpad": "repeat-pad", "repeat": "tile"}
"""The processor's paddings that are known here."""

T = TypeVar("T")


class ClapEncoder:
    """CLAP; satisfies :class:`~palm_cache.extraction.encoders.base.Encoder`.

    Parameters
    ----------
    source : str
        Where the model comes from: a hub id or a directory.
    model : ClapModel
    extractor : ClapFeatureExtractor
        Its constants define window and log-mel.
    tokenizer : PreTrainedTokenizerFast
    device : torch.device
    precision : {"fp32", "bf16"}
        bf16 runs the towers, not the log-mel, under autocast.

    Raises
    ------
    EncoderError
        If the checkpoint is fused, or its processor pads in a way that is not known here.
    """

    def __init__(
        self,
        source: str,
        model: Any,
        extractor: Any,
        tokenizer: Any,
        device: torch.device,
        precision: Precision = "fp32",
    ) -> None:
        _check_unfused(source, model, extractor)
        if extractor.padding not in PADDINGS:
            raise EncoderError(
                f"clap:{source}: its processor pads with {extractor.padding!r}; "
                f"known here: {', '.join(PADDINGS)}"
            )
        self.spec = f"clap:{source}"
        self.dim = int(model.config.projection_dim)
        self.sample_rate = int(extractor.sampling_rate)
        self.window = Window(
            samples=int(extractor.nb_max_samples), most=1, padding=PADDINGS[extractor.padding]
        )
        self.identity: Mapping[str, object] = {
            "encoder": "clap",
            "weights_sha256": _hash_weights(model),
            "front_end": _front_end_constants(extractor),
            "tokenizer_sha256": hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
            "transformers": version("transformers").split(".")[0],
            "precision": precision,
        }
        self._model = model.eval().requires_grad_(False).to(device)
        self._tokenizer = tokenizer
        self._device = device
        self._precision = precision
        self._hop, self._fft = int(extractor.hop_length), int(extractor.fft_window_size)
        # The processor takes Slaney's mel bank for unfused models.
        self._mel = torch.from_numpy(extractor.mel_filters_slaney).float().to(device)
        self._hann = torch.hann_window(self._fft, device=device)

    @classmethod
    def load(cls, source: str, device: torch.device, precision: Precision = "fp32") -> ClapEncoder:
        """Load a checkpoint.

        Parameters
        ----------
        source : str
            Hub id, e.g. ``"laion/clap-htsat-unfused"``, or a directory that ``save_pretrained`` wrote.

        Raises
        ------
        EncoderError
            If it is not there, cannot be reached, is incomplete or is another kind of model.
        """
        directory = Path(source).expanduser()
        if directory.is_dir():
            parts = _load_parts(source, str(directory.resolve()), local=True)
        elif source.count("/") != 1 or source.startswith((".", "/", "~")):
            raise EncoderError(f"clap:{source}: no such directory, and not a hub id (owner/name)")
        else:
            try:
                parts = _load_parts(source, source, local=True)
            except EncoderError:  # not, or not wholly, in the hub's local cache
                _check_reachable(source)
                parts = _load_parts(source, source, local=False)
        return cls(source, *parts, device=device, precision=precision)

    @torch.inference_mode()
    def embed_audio(self, waveforms: Tensor) -> Tensor:
        """Embed waveforms, (batch, 1, samples) -> (batch, dim), unit length as CLAP gives them."""
        with exact_float32(self._device):
            features = self.log_mel(waveforms[:, 0].to(self._device))[:, None]
            with self._autocast():
                # What is longer than a window was cropped before; only fused models look at this.
                is_longer = torch.zeros(len(features), 1, dtype=torch.bool, device=self._device)
                embedded = self._model.get_audio_features(input_features=features, is_longer=is_longer)
        return _pooled(embedded)

    @torch.inference_mode()
    def embed_text(self, prompts: Sequence[str]) -> Tensor:
        """Embed prompts, -> (n_prompts, dim), unit length as CLAP gives them.

        Raises
        ------
        EncoderError
            If a prompt has more tokens than the text tower has positions.
        """
        return torch.cat(
            [self._embed_batch(prompts[at : at + TEXT_BATCH]) for at in range(0, len(prompts), TEXT_BATCH)]
        )

    def log_mel(self, waveforms: Tensor) -> Tensor:
        """Return the processor's log-mel power in dB, (batch, samples) -> (batch, frames, mels)."""
        spectrum = torch.stft(
            waveforms, self._fft, self._hop, window=self._hann, pad_mode="reflect", return_complex=True
        )
        power = spectrum.real.square() + spectrum.imag.square()
        mel = power.transpose(1, 2) @ self._mel
        return 10 * mel.clamp_min(QUIETEST_POWER).log10()

    def _embed_batch(self, prompts: Sequence[str]) -> Tensor:
        tokens = self._tokenizer(list(prompts), padding=True, return_tensors="pt")
        # RoBERTa counts positions from its padding index on.
        limit = self._model.config.text_config.max_position_embeddings - self._tokenizer.pad_token_id - 1
        lengths = tokens["attention_mask"].sum(dim=1)
        if int(lengths.max()) > limit:
            worst = prompts[int(lengths.argmax())]
            raise EncoderError(
                f"prompt {worst[:40]!r}... has {int(lengths.max())} tokens, {self.spec} reads {limit}; "
                "shorten the class name"
            )
        with exact_float32(self._device), self._autocast():
            embedded = self._model.get_text_features(
                input_ids=tokens["input_ids"].to(self._device),
                attention_mask=tokens["attention_mask"].to(self._device),
            )
        return _pooled(embedded)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._precision == "bf16")


def _pooled(embedded: Any) -> Tensor:
    """Return the vectors of what transformers returns: an output object since version 5."""
    vectors: Tensor = embedded if isinstance(embedded, Tensor) else embedded.pooler_output
    return vectors.float().cpu()


def _check_unfused(source: str, model: Any, extractor: Any) -> None:
    if model.config.audio_config.enable_fusion or extractor.truncation == "fusion":
        raise EncoderError(
            f"clap:{source}: a fused checkpoint; its embeddings of long clips depend on random crops. "
            "Use an unfused one, e.g. clap:laion/clap-htsat-unfused"
        )


def _hash_weights(model: Any) -> str:
    """Hash names, shapes and bytes of all weights, whatever file format they came in."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _front_end_constants(extractor: Any) -> dict[str, object]:
    names = (
        "feature_size",
        "sampling_rate",
        "hop_length",
        "max_length_s",
        "fft_window_size",
        "frequency_min",
        "frequency_max",
        "top_db",
        "truncation",
        "padding",
    )
    return {name: getattr(extractor, name) for name in names}


def _load_parts(source: str, place: str, *, local: bool) -> tuple[Any, Any, Any]:
    """Return model, feature extractor and tokenizer."""
    with _quiet():
        config = _part(
            source, "config.json", lambda: AutoConfig.from_pretrained(place, local_files_only=local)
        )
        if config.model_type != "clap":
            raise EncoderError(f"clap:{source}: holds a model of type {config.model_type!r}, not clap")
        model, report = _part(
            source,
            "weights (model.safetensors)",
            lambda: ClapModel.from_pretrained(
                place, local_files_only=local, output_loading_info=True, dtype=torch.float32
            ),
        )
        # transformers fills what is missing with random numbers and a warning.
        wrong = [*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])]
        if wrong:
            raise EncoderError(
                f"clap:{source}: {len(wrong)} weights are missing or misshaped, e.g. {wrong[0]}; "
                "not a complete ClapModel checkpoint"
            )
        extractor = _part(
            source,
            "preprocessor_config.json",
            lambda: AutoFeatureExtractor.from_pretrained(place, local_files_only=local),
        )
        tokenizer = _part(
            source, "tokenizer files", lambda: AutoTokenizer.from_pretrained(place, local_files_only=local)
        )
    return model, extractor, tokenizer


def _part(source: str, what: str, load: Callable[[], T]) -> T:
    # transformers raises nearly anything for a file that is missing or damaged.
    try:
        return load()
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        raise EncoderError(
            f"clap:{source}: cannot load its {what}: {type(error).__name__}: {reason}; "
            "give a directory that save_pretrained of model and processor wrote, or a hub id"
        ) from error


def _check_reachable(source: str) -> None:
    """Ask the hub for the model once and briefly, before its patient client is let loose."""
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(source, timeout=HUB_TIMEOUT)
    except Exception as error:
        reason = " ".join(str(error).split())[:120]
        raise EncoderError(
            f"clap:{source}: not in the local cache, and the hub does not give it "
            f"({type(error).__name__}: {reason}); check name and network, or use a directory: clap:DIRECTORY"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' bars and warnings off stderr while it loads."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
