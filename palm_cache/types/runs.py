"""What is fitted: runs, the shots that they draw, how they are trained, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from palm_cache.errors import DataError, ParameterError
from palm_cache.types import Help
from palm_cache.types.fields import check_fields

if TYPE_CHECKING:  # importing torch takes a second
    from torch import Tensor


def method(head: str, variant: str) -> str:
    """Return the name of a head with its variant, ``palm@lr=0.005``; without one that of the head."""
    return f"{head}@{variant}" if variant else head


ALL_SHOTS = 2**31 - 1
"""Clips per class of a run that learns from every training clip: more than any class has. Users say "all"."""


def spell_shots(shots: int) -> str:
    """Return a number of shots as users read it: ``"16"`` or ``"all"``."""
    return "all" if shots == ALL_SHOTS else str(shots)


def parse_shots(text: str) -> int:
    """Return the number of shots that users write: the inverse of :func:`spell_shots`.

    Raises
    ------
    ValueError
        If it is neither a whole number nor ``"all"``.
    """
    if text != "all" and not (text.isascii() and text.isdigit()):
        raise ValueError(f"{text!r} is neither a whole number nor all")
    return ALL_SHOTS if text == "all" else int(text)


BASE_NOVEL = "base-novel"
"""The split of classes in which heads learn from one half and are scored on both."""


def is_base_only(variant: str) -> bool:
    """Tell by its variant whether a run learned from base classes alone."""
    return f"split={BASE_NOVEL}" in variant.split(",")


@dataclass(frozen=True, slots=True)
class Run:
    """One cell of the experiment grid: a head fitted once."""

    dataset: str
    encoder: str
    head: str
    shots: int
    """Clips per class; 0 for heads that learn nothing, :data:`ALL_SHOTS` for all that the fold trains on."""
    fold: int
    """Counted from 1."""
    seed: int
    variant: str = ""
    """Options that differ from the defaults, ``lr=0.005``; ``""`` where none does."""

    @property
    def method(self) -> str:
        """What competes: the head, with its variant if it is one, ``palm@lr=0.005``."""
        return method(self.head, self.variant)

    @property
    def base_only(self) -> bool:
        """Whether it learns from the base classes alone: the first half of the sorted ones."""
        return is_base_only(self.variant)


@dataclass(frozen=True, slots=True)
class Task:
    """Rows of one few-shot draw."""

    train: Tensor
    """(n_train,) int64, at most ``shots`` usable rows per class, grouped by class in draw order."""
    test: Tensor
    """(n_test,) int64, every usable row of the fold's test table."""
    short_classes: tuple[str, ...] = ()
    """Classes that had fewer usable clips than shots and were taken whole."""
    absent_classes: tuple[str, ...] = ()
    """Classes that had no usable clip at all."""


MAX_EPOCHS = 100_000
"""Passes over its shots that a run can be asked for."""


@dataclass(frozen=True, slots=True)
class Training:
    """How context is learned; the defaults are the paper's protocol."""

    epochs: Annotated[int, Help("Passes over the shots.")] = 50
    lr: Annotated[float, Help("Learning rate.")] = 0.05
    momentum: Annotated[float, Help("Momentum of SGD.")] = 0.9
    batch_size: Annotated[int, Help("Clips per step.")] = 16
    """Clips per step; the last batch of an epoch is kept however small it is."""

    def __post_init__(self) -> None:
        check_fields(self, epochs=(1, MAX_EPOCHS), batch_size=(1, 2**31 - 1))
        if not self.lr > 0 or not 0 <= self.momentum < 1:
            raise ParameterError(f"`lr` {self.lr} must be above 0, `momentum` {self.momentum} in [0, 1)")


@dataclass(frozen=True, slots=True)
class Calibration:
    """How a run's logits become probabilities: softmax(logits / temperature)."""

    temperature: float
    n_clips: int
    """Held-out shots that the temperature was fitted on."""
    n_splits: int
    """Parts that the shots were held out in, one after the other."""
    loss_before: float
    """Mean cross entropy of the held-out shots, and of one that is missed, at temperature 1."""
    loss: float
    """The same at the fitted temperature; it is not larger."""

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise DataError(f"temperature {self.temperature} must be above 0 and finite")


@dataclass(frozen=True, slots=True)
class FittedHead:
    """One fitted run with everything that predicting needs."""

    run: Run
    state: Mapping[str, Tensor]
    """What the head computes logits from, e.g. ``class_embeddings`` (n_classes, dim)."""
    class_names: tuple[str, ...]
    template: str
    """Prompt template of the text embeddings it started from."""
    hyperparameters: Mapping[str, object]
    test_views: str
    """By what test clips are scored: ``first`` or ``mean``."""
    fingerprint: str
    """Of the encoder that made the features."""
    digest: str
    """Of the features it was fitted on: see :attr:`Features.digest`."""
    n_train: int
    """Clips it was fitted on."""
    n_params: int
    """Learnable parameters."""
    fit_seconds: float
    """Its share of the time its batch of runs took."""
    calibration: Calibration | None = None
    """``None`` as long as nobody has fitted one."""
