"""The parameters of both stages: names, choices, defaults and what help says of them, each once.

Those of using what both made, to predict, search and explore, are in :mod:`palm_cache.params.use`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

from palm_cache.errors import ParameterError, UnknownNameError
from palm_cache.params.checks import SHORTEST_WINDOW, check_cluster, check_device
from palm_cache.types import MAX_VIEWS, Help, Place
from palm_cache.types.fields import check_fields
from palm_cache.types.runs import ALL_SHOTS, Training

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Precision = Literal["fp32", "tf32", "bf16"]
Runtime = Literal["torch", "openvino"]
Long = Literal["crop", "mean"]
OnError = Literal["skip", "fail"]
OnStale = Literal["refuse", "rebuild"]
Check = Literal["stat", "content"]
TestViews = Literal["first", "mean"]
Layout = Literal["auto", "palm", "folders", "table", "flat", "audacity", "raven", "parquet", "webdataset"]
Classes = Literal["all", "base-novel"]
TestRows = Literal["folds", "none"]

MAX_BATCH, MAX_JOBS = 65_536, 1_024
"""Beyond these a number is a slip of the finger."""

COLUMN_FIELDS = ("path", "label", "start", "end", "duration", "fold", "split")
"""What a column of a table may be."""

CLIP_TOKENIZER = "openai/clip-vit-base-patch32"
"""Hub id of the tokenizer that PENGI was trained with."""

Tokenizer = Annotated[str, Help("CLIP's tokenizer for pengi: a hub id or a directory.", metavar="ID_OR_DIR")]


@dataclass(frozen=True, slots=True)
class SynthesiseParams:
    """What the demo dataset is made of."""

    clips_per_class: Annotated[int, Help("Clips of each of the ten classes.")] = 40
    seed: Annotated[int, Help("Another seed makes other sounds.")] = 0

    def __post_init__(self) -> None:
        check_fields(self, clips_per_class=(5, 2**31), seed=(0, 2**63))


@dataclass(frozen=True, slots=True)
class ReadingParams:
    """How a folder, a table or annotations are understood as a dataset."""

    layout: Annotated[
        Layout,
        Help(
            "How to read data of your own. auto recognises it; palm: train.csv and test.csv; folders: a "
            "folder per class; table: one CSV, TSV or Parquet; flat: unlabelled audio; audacity: label "
            "tracks beside recordings; raven: selection tables; parquet: shards with an audio column, or a "
            "Hugging Face dataset saved on disk; webdataset: tar shards.",
            metavar="LAYOUT",
            option="--as",
        ),
    ] = "auto"
    columns: Annotated[
        tuple[str, ...],
        Help(
            "What the columns of a table are called: path=NAME,label=NAME, likewise start, end, duration, "
            "fold and split. Those not given are guessed; path= says that there is no such column.",
            metavar="FIELD=NAME,...",
        ),
    ] = ()
    group: Annotated[
        str,
        Help(
            "Column of what must stay in one fold: recording, speaker, site.",
            metavar="COLUMN",
            shown="recordings and folders",
        ),
    ] = ""
    test: Annotated[
        TestRows, Help("folds: as the dataset is split, or folds made where it is not; none: train on all.")
    ] = "folds"
    folds: Annotated[int, Help("How many folds are made where there is no split.", option="--make-folds")] = 5
    seed: Annotated[int, Help("Another seed makes other folds.", option="--fold-seed")] = 0
    window: Annotated[
        float | None, Help("Cut longer rows into rows of this length.", metavar="SECONDS", shown="not cut")
    ] = None
    hop: Annotated[
        float | None, Help("From one window to the next.", metavar="SECONDS", shown="the window")
    ] = None

    def __post_init__(self) -> None:
        seconds = (SHORTEST_WINDOW, inf)
        check_fields(self, folds=(2, inf), seed=(0, 2**32 - 1), window=seconds, hop=seconds)
        for given in self.columns:
            if "=" not in given:
                raise ParameterError(f"`columns`: {given!r} is not field=column, e.g. path=filename")
        fields = [given.partition("=")[0].strip() for given in self.columns]
        for name in fields:
            if name not in COLUMN_FIELDS:
                raise UnknownNameError.among("field of `columns`:", name, COLUMN_FIELDS)
            if fields.count(name) > 1:
                raise ParameterError(f"`columns`: {name} is given twice")
        if self.hop and not self.window:
            raise ParameterError("`hop`: goes with `window`")

    @property
    def named_columns(self) -> dict[str, str]:
        """The columns by their fields."""
        pairs = (given.partition("=") for given in self.columns)
        return {field.strip(): column.strip() for field, _, column in pairs}


@dataclass(frozen=True, slots=True)
class PromptFiles:
    """Where the prompts of class names are written down: they decide text embeddings alone."""

    templates: Annotated[
        str,
        Help(
            "Prompts, one a line, with {c} for the class; the paper's two are kept too.",
            metavar="FILE",
            shown="the paper's two and six more",
        ),
    ] = ""
    descriptions: Annotated[
        str,
        Help(
            "Texts that describe the classes: a CSV with the columns classname and text. Several of one "
            "class are averaged; every class needs one.",
            metavar="FILE",
        ),
    ] = ""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What decides the numbers of an embedding, beside the encoder itself: another recipe, another cache."""

    views: Annotated[int, Help("Crops of a clip that is longer than the encoder's window.")] = 1
    long: Annotated[
        Long,
        Help(
            "Clips longer than the encoder reads at once: crop their centre, or embed stretches that cover "
            "them and take the mean."
        ),
    ] = "crop"
    precision: Annotated[
        Precision,
        Help(
            "fp32; quicker where the hardware has it: tf32 (NVIDIA's GPUs; elsewhere it is fp32) or bf16, "
            "with a cosine above 0.9999 to fp32."
        ),
    ] = "fp32"
    runtime: Annotated[
        Runtime,
        Help(
            "What computes the audio tower: torch, or on a CPU the quicker openvino "
            "(pip install 'palm-cache[openvino]')."
        ),
    ] = "torch"
    compile: Annotated[
        bool, Help("Have torch compile the audio tower first: pays for a minute or two where hours follow.")
    ] = False
    tokenizer: Tokenizer = CLIP_TOKENIZER
    trust_remote_code: Annotated[
        bool, Help("Run the code that lies with an hf: model. Look at it first: it may do anything.")
    ] = False

    def __post_init__(self) -> None:
        check_fields(self, views=(1, MAX_VIEWS))
        if self.long == "mean" and self.views > 1:
            raise ParameterError("`views`: a mean covers the whole clip; several are crops (`long` crop)")
        if self.compile and self.runtime != "torch":
            raise ParameterError(f"`compile`: goes with `runtime` torch, not with {self.runtime}")


@dataclass(frozen=True, slots=True)
class Resources:
    """How an extraction runs: what it may use and what it does about trouble. Decides no number."""

    device: Annotated[
        str,
        Help(
            "auto, cpu, cuda, cuda:N or mps; several GPUs with commas between: cuda:0,cuda:1.",
            metavar="DEVICE",
        ),
    ] = "auto"
    batch_size: Annotated[
        int, Help("Clips per encoder call; 0 is what suits the device.", shown="4 on a CPU, 128 on a GPU")
    ] = 0
    jobs: Annotated[
        int,
        Help(
            "Processes, each with its own loaded encoder; 0 is what suits the device.",
            shown="1 on a CPU; for a GPU as many as feed it, where there are thousands of clips",
        ),
    ] = 0
    cluster: Annotated[
        str,
        Help(
            "A Dask or Ray cluster whose workers share the work: dask://HOST:PORT or ray://HOST:PORT.",
            metavar="URL",
            shown="this process",
        ),
    ] = ""
    cache: Annotated[
        str | Place,
        Help(
            "Where embeddings are cached for all datasets: a folder or a URL.",
            metavar="PLACE",
            shown=".cache in the folder of stores",
        ),
    ] = ""
    check: Annotated[
        Check, Help("stat trusts a file whose path, size and times are known; content reads it again.")
    ] = "stat"
    limit: Annotated[
        int,
        Help(
            "For a first look, take of every class just the first N clips to train on and the first N to "
            "test on; 0 takes all.",
            metavar="N",
        ),
    ] = 0
    retry_failed: Annotated[bool, Help("Try clips again that could not be decoded before.")] = False
    prune: Annotated[bool, Help("Drop from the store what it holds of clips whose files are gone.")] = False
    on_error: Annotated[OnError, Help("A clip that cannot be read: skip (and record) or fail.")] = "skip"
    on_stale: Annotated[OnStale, Help("A store made by another recipe: refuse it or rebuild it.")] = "refuse"

    def __post_init__(self) -> None:
        check_fields(self, batch_size=(0, MAX_BATCH), jobs=(0, MAX_JOBS), limit=(0, 2**31))
        check_cluster(self.cluster)
        for name in self.devices:
            check_device(name)
        if len(self.devices) > 1:
            gpus = all(re.fullmatch(r"cuda:\d+", name) for name in self.devices)
            if not gpus or len(set(self.devices)) < len(self.devices):
                raise ParameterError(f"`device` {self.device}: several must be different GPUs: cuda:0,cuda:1")
            if self.jobs > 1:
                raise ParameterError("`jobs`: several devices have processes of their own; leave it at 0")
        if self.cluster and (self.jobs > 1 or len(self.devices) > 1):
            raise ParameterError(
                "`cluster`: its workers are the processes; leave `jobs` at 0, `device` at one"
            )

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices, one by one."""
        return tuple(name.strip() for name in self.device.split(","))


RECOMMENDED_HEAD = "proker"
"""The head to take first: see ``docs/pages/heads.md``."""


@dataclass(frozen=True, slots=True)
class FitParams:
    """Which heads are fitted: heads x shots x folds x seeds. A single value may stand alone."""

    heads: Annotated[
        tuple[str, ...],
        Help("Heads, comma-separated (see: palm-cache heads).", metavar="HEAD,...", option="--head"),
    ] = ("zero-shot", "palm", RECOMMENDED_HEAD)
    shots: Annotated[
        tuple[int | Literal["all"], ...],
        Help("Clips per class, comma-separated; all takes every training clip.", metavar="N,..."),
    ] = (16,)
    """Clips per class; ``"all"`` is all training clips of a fold."""
    seeds: Annotated[tuple[int, ...], Help("Seeds of draw and start, comma-separated.", metavar="N,...")] = (
        0,
        1,
        2,
    )
    folds: Annotated[tuple[int, ...], Help("Folds, comma-separated.", metavar="N,...", shown="all")] = ()
    """Counted from 1; none given is all of them."""
    template: Annotated[
        str,
        Help(
            "Prompt that heads read or start from: one that the store holds (palm-cache prompts lists them), "
            "all for the mean of all, or descriptions, those of extract --descriptions.",
            metavar="TEXT",
            shown="every head's own; palm's is {c}",
        ),
    ] = ""
    test_views: Annotated[TestViews, Help("Score test clips by their first view or by the mean of all.")] = (
        "first"
    )
    """Test clips are scored by their first view, the centre, or by the mean of all views' logits."""
    split: Annotated[
        Classes,
        Help("Classes to learn from: all, or the first half (base-novel), to be scored on both halves."),
    ] = "all"
    """``base-novel`` trains on the first half of the sorted classes alone and scores the other half, too."""
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        check_fields(self, shots=(1, ALL_SHOTS - 1), seeds=(0, 2**32 - 1), folds=(1, 2**32 - 1))
        if not (self.heads and self.shots and self.seeds):
            raise ParameterError("`heads`, `shots` and `seeds`: give at least one of each")


@dataclass(frozen=True, slots=True)
class BenchParams:
    """What is timed, and how."""

    clips: Annotated[int, Help("Files to embed, spread over the folder.")] = 64
    rounds: Annotated[int, Help("How often each way embeds them.")] = 3
    precision: Annotated[
        tuple[Precision, ...], Help("Precisions to measure, comma-separated.", metavar="PRECISION,...")
    ] = ("fp32", "bf16")
    runtime: Annotated[
        tuple[Runtime, ...], Help("Runtimes to measure, comma-separated.", metavar="RUNTIME,...")
    ] = ("torch", "openvino")
    compile: Annotated[bool, Help("Measure torch.compile too; compiling takes minutes.")] = False
    device: Annotated[str, Help("cpu, cuda or cuda:N.", metavar="DEVICE")] = "cpu"
    threads: Annotated[int, Help("Threads each way may use; 0 is one per core.", shown="one per core")] = 0
    batch_size: Annotated[
        int, Help("Clips per encoder call; 0 is what suits the device.", shown="as extract takes them")
    ] = 0

    def __post_init__(self) -> None:
        check_fields(
            self, clips=(1, 2**31), rounds=(1, 1_000), threads=(0, MAX_JOBS), batch_size=(0, MAX_BATCH)
        )
        check_device(self.device)


@dataclass(frozen=True, slots=True)
class Params:
    """One experiment: some datasets, one encoder."""

    datasets: tuple[str, ...] = ("demo",)
    encoder: Annotated[
        str, Help("mini, clap:ID_OR_DIR, pengi:FILE or another (see: palm-cache encoders).", "SPEC")
    ] = "mini"
    features: Annotated[
        str, Help("The folder of feature stores, or a URL such as s3://bucket/features.", metavar="PLACE")
    ] = "data/features"
    """Folder of the feature stores, each at ``<dataset>/<encoder>.zarr`` below it."""
    reading: ReadingParams = field(default_factory=ReadingParams)
    synthesise: SynthesiseParams = field(default_factory=SynthesiseParams)
    prompts: PromptFiles = field(default_factory=PromptFiles)
    extract: Recipe = field(default_factory=Recipe)
    resources: Resources = field(default_factory=Resources)
    fit: FitParams = field(default_factory=FitParams)

    def __post_init__(self) -> None:
        check_fields(self)
        if not (self.datasets and self.features):
            raise ParameterError("`datasets` and `features`: give at least one of each")


P = TypeVar("P", bound="DataclassInstance")
