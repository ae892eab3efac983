"""The contract of a head, and what the heads with one embedding per class share.

A head is fitted on a :class:`Shots` batch, many runs of one shape at once, and returns a state per
run: plain tensors, from which :meth:`Head.logits` scores any clip. ``tests/support/contracts.py`` checks what
is promised here on every head.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from palm_cache.errors import ParameterError
from palm_cache.types import ZERO_SHOT_TEMPLATE, TextTower
from palm_cache.types.runs import Training

SCALE = 100.0
"""Logit scale of PALM and of all its rivals (the authors' fixed temperature of 0.01)."""

UNSEEN = -2 * SCALE
"""Added to the logit of a class without a training clip by heads that read no prompt: they know nothing of
it and must not guess it. Lower than any cosine with :data:`SCALE`."""


Tick = Callable[[int], None]
"""Told how many training steps, summed over runs, were done just now."""


def no_tick(steps: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class Words:
    """What heads need that learn words of their prompt."""

    tower: TextTower
    class_names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Shots:
    """Training clips of many runs of one shape, on the same dataset and encoder."""

    audio: Tensor
    """(runs, n_train, dim) float, unit length."""
    labels: Tensor
    """(runs, n_train) int64."""
    text: Tensor
    """(runs, n_classes, dim) float, unit length: its prompt for every class; zeros for a head without."""
    seeds: tuple[int, ...]
    """(runs,) one seed per run."""
    words: Words | None = None
    """Given to heads that need the text tower."""
    views: int = 1
    """So many examples in a row are views of one clip."""
    parts: tuple[int, ...] = ()
    """How many of the ``dim`` numbers are which encoder's, where features of several were joined."""
    groups: Tensor | None = None
    """(runs, n_train) int64, equal for examples that are held out together: those of one recording, say. By
    default the views of a clip."""
    chosen: Mapping[str, Tensor] = field(default_factory=dict)
    """(runs, ...) by the names in ``Head.chooses``: what the head would choose by itself, given instead."""
    tick: Tick = no_tick
    """Told of the steps of training."""

    @property
    def n_classes(self) -> int:
        """How many classes are told apart, with those that have no clip."""
        return self.text.shape[1]

    def of_runs(self, runs: Tensor) -> Shots:
        """Return the shots of some runs (n_runs,)."""
        return replace(
            self,
            audio=self.audio[runs],
            labels=self.labels[runs],
            text=self.text[runs],
            seeds=tuple(self.seeds[run] for run in runs.tolist()),
            groups=None if self.groups is None else self.groups[runs],
            chosen={name: value[runs] for name, value in self.chosen.items()},
        )

    @property
    def together(self) -> Tensor:
        """(runs, n_train) int64, equal for examples that are held out together."""
        if self.groups is not None:
            return self.groups
        return (torch.arange(self.labels.shape[1]) // self.views).expand_as(self.labels)


class Head(ABC):
    """A way to classify embeddings after a few labelled ones.

    Parameters
    ----------
    template : str
        Prompt template of the text embeddings it reads; "" is :attr:`published_template`. Heads that have an
        :attr:`only_template` take that.
    training : Training
        How it learns, if it does.
    """

    name: ClassVar[str]
    learns: ClassVar[str]
    """In words, for ``palm-cache heads``."""
    trained: ClassVar[bool] = True
    """False for heads that learn nothing: one run per fold, no shots."""
    needs_text_tower: ClassVar[bool] = False
    """True for heads that learn words: they train through the frozen text tower."""
    scores_through_tower: ClassVar[bool] = False
    """True for those of them that need it also for every clip that they score."""
    reads_text: ClassVar[bool] = True
    """False for heads that look at clips alone."""
    can_start_from_shots: ClassVar[bool] = False
    """True where the class means of a run's shots can stand in for prompts that a store does not hold."""
    published_template: ClassVar[str] = ZERO_SHOT_TEMPLATE
    """The prompt that its paper has."""
    only_template: ClassVar[str] = ""
    """Taken whatever is asked for; "" for heads that take any."""
    n_encoders: ClassVar[int] = 1
    """How many encoders' features it needs at least."""
    chooses: ClassVar[tuple[str, ...]] = ()
    """Hyperparameters that it chooses for every run by itself, from the shots alone: they are part of the
    state, under these names, and are recorded with the scores. Where :attr:`Shots.chosen` gives them, those
    are taken."""
    source: ClassVar[str]
    """The paper it comes from."""

    def __init__(self, template: str, training: Training) -> None:
        self.template = self.only_template or template or self.published_template
        self.training = training

    @property
    def hyperparameters(self) -> dict[str, object]:
        """What decides the result besides the data and the seed."""
        return {}

    @property
    def prompt(self) -> str:
        """The template of the prompts that it is given as :attr:`Shots.text`."""
        return self.template

    @staticmethod
    def n_params(n_classes: int, dim: int, token_dim: int, n_examples: int) -> int:
        """Count the learnable parameters: the numbers that an optimiser adjusts step by step.

        Heads that their papers call training-free (means, neighbours, caches, kernel machines solved in
        closed form) have none, whatever they keep; hyperparameters never count.

        Parameters
        ----------
        n_classes : int
        dim : int
            Length of the encoder's embeddings.
        token_dim : int
            Length of its text tower's token embeddings.
        n_examples : int
            Training clips times views.
        """
        return 0

    @staticmethod  # noqa: B027  # most import nothing more
    def load() -> None:
        """Import what learning imports, before it is timed."""

    def n_steps(self, n_examples: int) -> int:
        """Return how many steps :meth:`fit` tells :attr:`Shots.tick` of, for a run of so many examples."""
        return 0

    @abstractmethod
    def fit(self, shots: Shots) -> dict[str, Tensor]:
        """Fit all runs.

        Returns
        -------
        dict of Tensor, shape (runs, ...)
            The state of every run.
        """

    @staticmethod
    @abstractmethod
    def logits(state: Mapping[str, Tensor], audio: Tensor, words: Words | None = None) -> Tensor:
        """Score clips with one run's state, or with all runs' at once.

        Parameters
        ----------
        state : mapping of Tensor, shape (..., ...)
            What :meth:`fit` returned, with its leading run axis or one run of it.
        audio : Tensor, shape (..., n_clips, dim)
            Embeddings of any length.
        words : Words, optional
            Given to heads that need the text tower.

        Returns
        -------
        Tensor, shape (..., n_clips, n_classes)
        """


class DescentHead(Head):
    """A head that learns by stochastic gradient descent, by the protocol that is asked for."""

    @property
    def hyperparameters(self) -> dict[str, object]:
        """Return the training protocol."""
        return asdict(self.training)

    def n_steps(self, n_examples: int) -> int:
        """Return the steps of gradient descent."""
        return self.training.epochs * -(-n_examples // self.training.batch_size)


class CosineHead(Head):
    r"""A head whose logits are cosines with one embedding per class.

    .. math:: \mathrm{logits}(x)_c = 100\,\mathrm{unit}(a(x)) \cdot t'_c
    """

    @staticmethod
    def logits(state: Mapping[str, Tensor], audio: Tensor, words: Words | None = None) -> Tensor:
        """Return 100 times the cosines of clips with ``state["class_embeddings"]``."""
        return cosine_logits(state["class_embeddings"], audio)


def cosine_logits(class_embeddings: Tensor, audio: Tensor) -> Tensor:
    """Return ``100 unit(audio) . class_embeddings``, (..., n_clips, n_classes).

    ``class_embeddings`` (..., n_classes, dim) have unit length, ``audio`` (..., n_clips, dim) any.
    """
    return SCALE * unit(audio) @ class_embeddings.transpose(-1, -2)


def in_parts(fit: Callable[[Shots], dict[str, Tensor]], shots: Shots, together: int) -> dict[str, Tensor]:
    """Fit all runs, at most so many together, where memory bears no more."""
    parts = torch.split(torch.arange(len(shots.seeds)), max(1, together))
    states = [fit(shots.of_runs(runs)) for runs in parts]
    return {name: torch.cat([state[name] for state in states]) for name in states[0]}


def need_words(words: Words | None, head: type[Head]) -> Words:
    """Return what a head needs that learns words; raise ParameterError where it is not there."""
    if words is None:
        raise ParameterError(f"head {head.name!r} learns words: it needs the encoder's text tower")
    return words


def need_finite(state: Mapping[str, Tensor], head: Head, where: str) -> None:
    """Check that what one run learned can be computed with: neither it nor its length overflows.

    Raises
    ------
    ParameterError
        If it cannot; a run that has learned nothing usable must not pass for one that guesses badly.
    """
    broken = [name for name, value in state.items() if not value.float().norm().isfinite()]
    if broken:
        rate = head.hyperparameters.get("lr")
        advice = "lower `lr`" if rate else "look at the clips' embeddings with: palm-cache store verify STORE"
        reason = f"learning diverged at lr {rate:g}" if rate else "it cannot be solved on these clips"
        raise ParameterError(f"{where}: {head.name}'s {broken[0]} is not finite: {reason}; {advice}")


def one_hot(labels: Tensor, n_classes: int) -> Tensor:
    """Return labels (..., n) as rows of zeros with a single one, (..., n, n_classes) float64."""
    return torch.nn.functional.one_hot(labels, n_classes).double()


def class_weights(labels: Tensor, n_classes: int) -> Tensor:
    """Weigh labels (..., n) so that every class counts the same, however few clips it has.

    Returns
    -------
    Tensor, shape (..., n)
        float64, with mean 1; all 1 where classes have equally many examples.
    """
    counts = one_hot(labels, n_classes).sum(dim=-2)
    present = (counts > 0).sum(dim=-1, keepdim=True)
    return labels.shape[-1] / (present * counts.gather(-1, labels))


def present_classes(labels: Tensor, n_classes: int) -> Tensor:
    """Say which classes are among labels (..., n), (..., n_classes) bool."""
    return torch.nn.functional.one_hot(labels, n_classes).any(dim=-2)


def unseen_bias(labels: Tensor, n_classes: int) -> Tensor:
    """Return 0 for every class among labels (..., n) and :data:`UNSEEN` for the rest, (..., n_classes)."""
    return torch.where(present_classes(labels, n_classes), 0.0, UNSEEN)


def unit(vectors: Tensor) -> Tensor:
    """Scale vectors (..., dim) to unit length; zero vectors stay zero."""
    return normalize(vectors, dim=-1)
