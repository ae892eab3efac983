"""The parameters of using stores and heads: to load an encoder again, predict, search and draw a map."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Annotated, Literal

from palm_cache.errors import ParameterError
from palm_cache.params import CLIP_TOKENIZER, Tokenizer
from palm_cache.params.checks import SHORTEST_WINDOW, check_device
from palm_cache.types import Help
from palm_cache.types.fields import check_fields

ExportFormat = Literal["safetensors", "onnx"]
Uncertainty = Literal["margin", "entropy"]
MapMethod = Literal["tsne", "pca", "umap"]

MAX_PREDICT_BATCH = 4_096
"""Beyond this a number is a slip of the finger."""


@dataclass(frozen=True, slots=True)
class LoadingParams:
    """How an encoder that embedded before is loaded again."""

    encoder: Annotated[
        str | None,
        Help(
            "Where the encoder's weights lie now; they must be those of the extraction. An encoder that is "
            "your own code (python:...) runs only if it is named here.",
            metavar="SPEC",
            shown="as at extraction",
        ),
    ] = None
    device: Annotated[str, Help("auto, cpu, cuda, cuda:N or mps.", metavar="DEVICE")] = "auto"
    tokenizer: Tokenizer = CLIP_TOKENIZER
    trust_remote_code: Annotated[
        bool, Help("Run again the code that lies with an hf: model and that embedded before.")
    ] = False

    def __post_init__(self) -> None:
        check_fields(self)
        check_device(self.device)


@dataclass(frozen=True, slots=True)
class PredictParams:
    """How recordings are listened to."""

    threshold: Annotated[
        float, Help('Say "none of these" where no class is as probable.', metavar="PROBABILITY")
    ] = 0.0
    timeline: Annotated[bool, Help("Slide a window over recordings of any length.")] = False
    window: Annotated[
        float | None, Help("Seconds heard at once.", metavar="SECONDS", shown="the encoder's window")
    ] = None
    hop: Annotated[
        float | None, Help("Seconds from one window to the next.", metavar="SECONDS", shown="the window")
    ] = None
    batch_size: Annotated[
        int,
        Help("Clips or windows per encoder call; 0 is what suits the device.", shown="as many as suit it"),
    ] = 0

    def __post_init__(self) -> None:
        seconds = (SHORTEST_WINDOW, inf)
        check_fields(self, threshold=(0, 1), window=seconds, hop=seconds, batch_size=(0, MAX_PREDICT_BATCH))
        if not self.timeline and (self.window, self.hop) != (None, None):
            raise ParameterError("`window` and `hop`: go with `timeline`")


ROWS_FOUND = 10
"""Rows that a search finds unless told otherwise."""


@dataclass(frozen=True, slots=True)
class SearchParams:
    """What is looked for in feature stores."""

    text: Annotated[str | None, Help("Rows that sound like a text: 'glass breaking'.", metavar="TEXT")] = None
    like: Annotated[
        str | None,
        Help(
            "Rows that sound like a file or a stretch of it, in seconds: night.flac@12.5-15.", metavar="FILE"
        ),
    ] = None
    row: Annotated[
        str | None,
        Help("Rows that sound like a row of the store; of several stores DATASET:NUMBER.", metavar="NUMBER"),
    ] = None
    head: Annotated[
        str | None,
        Help(
            "A heads.h5, or its folder: rows of a --class, or that it is --uncertain about.", metavar="HEADS"
        ),
    ] = None
    class_name: Annotated[
        str | None, Help("With --head: a class that it knows.", metavar="NAME", option="--class")
    ] = None
    uncertain: Annotated[bool, Help("With --head: rows that it is most in doubt about.")] = False
    by: Annotated[Uncertainty | None, Help("With --uncertain: how doubt is measured.", shown="margin")] = None
    run: Annotated[
        str | None,
        Help(
            "With --head: a run of the file, by its name or the beginning of it.",
            metavar="NAME",
            shown="as of predict",
        ),
    ] = None
    diverse: Annotated[bool, Help("Rows without a label, far from all that have one.")] = False
    k: Annotated[int, Help("How many rows.", option="--top", short="-k")] = ROWS_FOUND

    def __post_init__(self) -> None:
        check_fields(self, k=(1, inf))
        asked = {name: getattr(self, name) for name in ("text", "like", "row", "head")}
        asked["diverse"] = self.diverse or None
        given = [f"`{name}`" for name, value in asked.items() if value is not None]
        if len(given) != 1:
            what = f"{' and '.join(given)} are" if given else "nothing is"
            raise ParameterError(f"{what} asked for; give one of `text`, `like`, `row`, `head` and `diverse`")
        of_head = self.class_name is not None or self.uncertain
        if self.head is None and (of_head or self.run is not None):
            raise ParameterError("`class_name`, `uncertain` and `run`: go with `head`")
        if self.head is not None and (self.class_name is None) != self.uncertain:
            raise ParameterError("`head`: needs either `class_name` or `uncertain`")
        if self.by is not None and not self.uncertain:
            raise ParameterError("`by`: goes with `uncertain`")


@dataclass(frozen=True, slots=True)
class RowFilter:
    """Which rows may be found; what is not given lets all pass."""

    labels: Annotated[
        tuple[str, ...],
        Help(
            "Only rows of this class; give it again for more.",
            metavar="CLASS",
            option="--label",
            repeated=True,
        ),
    ] = ()
    unlabelled: Annotated[bool, Help("Only rows without a label.")] = False
    path: Annotated[str, Help("Only rows whose path fits, e.g. '*/night*'.", metavar="PATTERN")] = ""
    """A pattern with ``*``, ``?`` and ``[...]`` for the path inside the dataset; ``*`` fits a slash too."""
    datasets: Annotated[
        tuple[str, ...],
        Help(
            "Only rows of this dataset; give it again for more.",
            metavar="NAME",
            option="--dataset",
            repeated=True,
        ),
    ] = ()

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True)
class MapParams:
    """What the clips of a map are coloured by, their labels if nothing is given, and how it is laid out."""

    run: Annotated[
        str | None,
        Help(
            "Show what this run says of every clip: palm, palm-16shots, palm-16shots-seed0 (all folds "
            "together) or palm-16shots-fold1-seed0.",
            metavar="NAME",
        ),
    ] = None
    predictions: Annotated[
        Path | None,
        Help("Where the run's predictions lie.", metavar="FILE", shown="runs/predictions.h5"),
    ] = None
    clusters: Annotated[
        int | None,
        Help(
            "Colour by clusters of embeddings, this many.",
            metavar="N",
            shown="12, where nothing is labelled",
        ),
    ] = None
    head: Annotated[
        Path | None,
        Help(
            "Colour by the class that a head gives: a heads.h5 or its folder; --run names a run of it.",
            metavar="HEADS",
        ),
    ] = None
    text: Annotated[str | None, Help("Colour the 50 clips that are nearest to a text.", metavar="TEXT")] = (
        None
    )
    method: Annotated[MapMethod, Help("How the map is made; pca is instant, umap needs umap-learn.")] = "tsne"

    def __post_init__(self) -> None:
        check_fields(self, clusters=(1, inf))
        names = ("predictions", "clusters", "head", "text")
        given = [f"`{name}`" for name in names if getattr(self, name) is not None]
        if len(given) > 1:
            raise ParameterError(f"{' and '.join(given)}: a map is coloured by one of them")
        if self.run is not None and (self.clusters is not None or self.text is not None):
            raise ParameterError(f"`run` and {given[0]}: a map is coloured by one of them")
