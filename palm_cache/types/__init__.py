"""The values that both wings of palm-cache speak: places, clips, folds, features; runs are in ``types.runs``.

All of them are frozen and check their own shapes when made. Row numbers always count the rows
of one store (equally, of one :class:`ClipTable`), starting at 0; folds are numbered from 1, as
the published datasets number theirs.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from palm_cache.errors import DataError
from palm_cache.types.clips import Clip as Clip
from palm_cache.types.clips import Clips as Clips
from palm_cache.types.clips import Texts as Texts

if TYPE_CHECKING:  # importing torch takes a second, and listing datasets does not need it
    from torch import Tensor
    from upath import UPath as UPath
else:

    @runtime_checkable
    class UPath(Protocol):
        """What is behind a URL, known by what no other path has: its library takes long to import."""

        __module__ = "upath"
        fs: object


Place: TypeAlias = Path | UPath
"""A file or folder of this machine or behind a URL: see ``palm_cache.store.places``."""

AnyPath: TypeAlias = str | PathLike[str]
"""What Python takes for a path."""

AnyPlace: TypeAlias = AnyPath | Place
"""A path, or the URL of a folder such as ``s3://bucket/features``."""

Progress = Callable[[str, int, int], None]
"""Long work reports through one of these: what is being done, how many are done, how many there are."""


def no_progress(what: str, done: int, total: int) -> None:
    """Report to nobody."""


@dataclass(frozen=True, slots=True)
class Help:
    """What the command line says of a field that is annotated with it."""

    text: str
    metavar: str | None = None
    shown: str | None = None
    """What help shows in place of the default."""
    option: str | None = None
    """Its name on the command line, where that is not the field's."""
    short: str | None = None
    """Its other name, of one letter."""
    repeated: bool = False
    """Whether several values are given by giving the option again, not with commas between."""


BARE_TEMPLATE = "{c}"
"""The class name alone: what PALM starts from unless told otherwise, and what PALM-dagger reads."""

ZERO_SHOT_TEMPLATE = "The is a recording of  {c}."
"""The authors' default prompt, with their typo and their two spaces."""

TEMPLATES = (
    BARE_TEMPLATE,
    ZERO_SHOT_TEMPLATE,
    "This is a recording of {c}.",
    "This is the sound of {c}.",
    "a recording of a {c}",
    "I can hear {c}.",
    "{c} can be heard in the background.",
    "an audio clip of {c}",
)
"""Prompt templates that a store holds unless others are given; the first two are the paper's, the others
ours."""

ALL_TEMPLATES = "all"
"""Stands for a template: the mean of the unit embeddings of all that a store holds, scaled to unit length."""

DESCRIPTIONS = "descriptions"
"""Stands for a template: of every class, the mean of the unit embeddings of its descriptions."""


@dataclass(frozen=True, slots=True)
class Fold:
    """Rows of one train/test split, each in the order of the dataset's own tables."""

    train: Tensor
    """(n_train,) int64 row numbers."""
    test: Tensor
    """(n_test,) int64 row numbers."""

    def __post_init__(self) -> None:
        for rows in (self.train, self.test):
            if rows.ndim != 1 or str(rows.dtype) != "torch.int64":
                raise DataError(f"fold rows must be 1-d int64, not {tuple(rows.shape)} {rows.dtype}")


@dataclass(frozen=True, slots=True)
class ClipTable:
    """A dataset as it was read: which clips there are, what they are, how they split.

    Folds train and test on labelled rows. A dataset in which nothing is labelled may have neither classes
    nor folds: it can be searched and explored.
    """

    dataset: str
    """Name of the dataset, also the name of its folder below ``data/features``."""
    class_names: tuple[str, ...]
    """Sorted by code point, as the authors' code sorts them; a label indexes this."""
    clips: Clips
    """One entry per row: a file may have several."""
    folds: tuple[Fold, ...]
    """Fold K of the dataset is ``folds[K - 1]``."""
    notes: tuple[str, ...] = ()
    """What the user should be told about the tables: duplicate rows, classes never trained ..."""
    source: str = ""
    """Where the dataset lies: the absolute path or the URL, without credentials; "" if that is not known.
    Two datasets of one name are told apart by it."""
    groups: Sequence[str] | None = None
    """Per clip, what no split may tear apart, such as its recording or its speaker; ``None`` if not known."""
    published: str = ""
    """The known dataset as which it was read; "" is anybody's."""
    missing: tuple[str, ...] = ()
    """Names of clips whose file was absent or empty when it was read."""

    def __post_init__(self) -> None:
        labels = self.clips.labels
        if not labels:
            raise DataError(f"{self.dataset}: no clips; the tables are empty")
        lowest, highest = min(labels), max(labels)
        if not self.folds and highest >= 0:
            raise DataError(f"{self.dataset}: no folds")
        if self.groups is not None and len(self.groups) != len(labels):
            raise DataError(f"{self.dataset}: {len(self.groups)} groups for {len(labels)} clips")
        for label in (highest, lowest):
            if not -1 <= label < len(self.class_names):
                name = self.clips.names[labels.index(label)]
                raise DataError(f"{self.dataset}: {name}: label {label} has no class")
        for number, fold in enumerate(self.folds, start=1):
            where = f"{self.dataset}, fold {number}"
            _check_rows(fold, len(labels), where)
            for rows in (fold.train, fold.test) if lowest < 0 else ():
                stray = next((row for row in rows.tolist() if labels[row] < 0), None)
                if stray is not None:
                    raise DataError(f"{where}: {self.clips.names[stray]} has no label: no fold holds it")

    def subset(self, rows: Sequence[int]) -> ClipTable:
        """Return the table of some of its rows, in their order; folds keep what is left of them."""
        import torch

        place = torch.full((len(self.clips),), -1, dtype=torch.int64)
        place[list(rows)] = torch.arange(len(rows))
        folds = tuple(
            Fold(*(kept[kept >= 0] for kept in (place[fold.train], place[fold.test]))) for fold in self.folds
        )
        groups = None if self.groups is None else Texts(self.groups[row] for row in rows)
        return replace(self, clips=self.clips.take(rows), folds=folds, groups=groups)

    def class_of(self, clip: Clip) -> str | None:
        """Return the name of a clip's class, or ``None`` if it is unlabelled."""
        return None if clip.label is None else self.class_names[clip.label]


@dataclass(frozen=True, slots=True)
class Features:
    """The content of one feature store, as stage two reads it."""

    dataset: str
    encoder: str
    """Encoder spec, e.g. ``"mini"`` or ``"clap:laion/clap-htsat-unfused"``."""
    fingerprint: str
    """Fingerprint of the encoder and its preprocessing."""
    digest: str
    """Hash of everything a head depends on: fingerprint, clips, labels, folds, text."""
    audio: Tensor
    """(n_clips, n_views, dim) float32, as the encoder gave it: not normalised."""
    text: Tensor
    """(n_classes, n_templates, dim) float32, not normalised."""
    labels: Tensor
    """(n_clips,) int64."""
    usable: Tensor
    """(n_clips,) bool; False where the clip could not be embedded."""
    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    folds: tuple[Fold, ...]
    parts: tuple[int, ...] = ()
    """How many of the ``dim`` numbers are which encoder's, where features of several were joined."""
    groups: Tensor | None = None
    """(n_clips,) int64, equal for clips of one file, content or group that the dataset names; ``None`` if
    every clip is by itself."""
    store: str = "STORE"
    """Where they were read from, for commands in messages."""

    def __post_init__(self) -> None:
        n_clips, _, dim = self.audio.shape
        if self.text.shape != (len(self.class_names), len(self.templates), dim):
            raise DataError(
                f"{self.dataset}: text has shape {tuple(self.text.shape)}, expected "
                f"{(len(self.class_names), len(self.templates), dim)}"
            )
        if self.labels.shape != (n_clips,) or self.usable.shape != (n_clips,):
            raise DataError(f"{self.dataset}: labels or usable do not match {n_clips} clips")
        if self.groups is not None and self.groups.shape != (n_clips,):
            raise DataError(f"{self.dataset}: groups do not match {n_clips} clips")
        if self.parts and sum(self.parts) != dim:
            raise DataError(f"{self.dataset}: parts {self.parts} do not add up to {dim}")
        self._check_finite()
        for number, fold in enumerate(self.folds, start=1):
            _check_rows(fold, n_clips, where=f"{self.dataset}, fold {number}")

    def _check_finite(self) -> None:
        advice = (
            "is not finite (NaN or infinity); remove the store and make it anew with the command that is "
            f"named by: palm-cache store verify {shlex.quote(self.store)}"
        )
        broken = (~self.audio.isfinite().all(dim=2).all(dim=1) & self.usable).nonzero().flatten().tolist()
        if broken:
            more = f" (and {len(broken) - 1} more rows)" if len(broken) > 1 else ""
            raise DataError(f"{self.dataset}, row {broken[0]}{more}: the clip's embedding {advice}")
        for name, finite in zip(self.class_names, self.text.isfinite().all(dim=2).all(dim=1), strict=True):
            if not finite:
                raise DataError(f"{self.dataset}, class {name!r}: a text embedding {advice}")


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """Tokenised prompts with open places for learned context vectors."""

    embeddings: Tensor
    """(n_prompts, length, token_dim) float32; what stands in the open places is of no account."""
    mask: Tensor
    """(n_prompts, length) bool; True for a token or an open place, False for padding."""
    context: slice
    """The open places, the same in every prompt."""


class TextTower(Protocol):
    """A frozen text encoder from its token embeddings on: all that prompt learning needs of it.

    Tensors are on the CPU, wherever the tower computes.
    """

    dim: int
    """Length of a feature."""
    token_dim: int
    """Length of a token embedding."""
    max_prompts: int
    """Prompts that one forward pass with gradient should hold at most, for memory."""

    def tokens(self, texts: Sequence[str], n_context: int) -> PromptTokens:
        """Tokenise texts, each with ``n_context`` open places before it, padded to the longest.

        Raises
        ------
        PalmCacheError
            If a text does not fit behind the context.
        """
        ...

    def encode(self, embeddings: Tensor, tokens: PromptTokens) -> Tensor:
        """Turn token embeddings into text features, differentiable in them.

        Parameters
        ----------
        embeddings : Tensor, shape (..., n_prompts, length, token_dim)
            Those of ``tokens`` with the open places filled.
        tokens : PromptTokens

        Returns
        -------
        Tensor, shape (..., n_prompts, dim)
            Not normalised.
        """
        ...

    def encode_behind(self, context: Tensor, tokens: PromptTokens) -> Tensor:
        """Encode every prompt with a context in its open places, differentiable in the context.

        Parameters
        ----------
        context : Tensor, shape (..., n_context, token_dim)
        tokens : PromptTokens

        Returns
        -------
        Tensor, shape (..., n_prompts, dim)
            Of any length; their directions are those of :meth:`encode` for prompts that are filled so.
        """
        ...


MAX_VIEWS = 1000
"""Crops of a clip, at most."""


def _check_rows(fold: Fold, n_clips: int, where: str) -> None:
    for rows in (fold.train, fold.test):
        if rows.numel() and not 0 <= int(rows.min()) <= int(rows.max()) < n_clips:
            raise DataError(f"{where}: a row number lies outside the {n_clips} clips")
