"""The parameters of both stages, from ``params.yaml`` or from the command line.

::

    datasets: demo            # known names or folders in the PALM layout, one or a list
    encoder: mini
    features: data/features   # where feature stores lie
    synthesise: {...}         # SynthesiseParams
    extract: {...}            # ExtractParams
    fit: {...}                # FitParams, with training: {...}

Every key may be left out; a key that does not exist is an error, never ignored.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from palm_cache.errors import ParameterError, UnknownNameError
from palm_cache.types import MOST_VIEWS, ZERO_SHOT_TEMPLATE, Training

Precision = Literal["fp32", "bf16"]
Runtime = Literal["torch", "openvino"]
Long = Literal["crop", "mean"]
OnError = Literal["skip", "fail"]
OnStale = Literal["refuse", "rebuild"]
TestViews = Literal["first", "mean"]


CLIP_TOKENIZER = "openai/clip-vit-base-patch32"
"""Hub id of the tokenizer that PENGI was trained with."""


@dataclass(frozen=True, slots=True)
class SynthesiseParams:
    """What the demo dataset is made of."""

    clips_per_class: int = 40
    seed: int = 0

    def __post_init__(self) -> None:
        if self.clips_per_class < 5:
            raise ParameterError(f"clips_per_class: {self.clips_per_class} is below 5, one for each fold")
        if self.seed < 0:
            raise ParameterError(f"seed: {self.seed} is not a whole number from 0")


@dataclass(frozen=True, slots=True)
class ExtractParams:
    """How clips are embedded."""

    views: int = 1
    """Crops per clip."""
    long: Long = "crop"
    """Clips longer than the encoder's window are cropped to it, or the mean over all of them is taken."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``; several GPUs with commas between."""
    precision: Precision = "fp32"
    runtime: Runtime = "torch"
    """What computes the audio tower."""
    compile: bool = False
    """Whether torch compiles the audio tower first."""
    tokenizer: str = CLIP_TOKENIZER
    """Hub id or directory of CLIP's tokenizer, for ``pengi``."""
    batch_size: int = 0
    """Views that go through the audio tower at once, at most; 0 is what suits the device."""
    jobs: int = 1
    """Processes that share the chunks, each with its own loaded encoder."""
    cluster: str = ""
    """``dask://HOST:PORT`` or ``ray://HOST:PORT``: a cluster whose workers share the chunks."""
    on_error: OnError = "skip"
    """What to do about a clip that cannot be read: record it, or stop."""
    on_stale: OnStale = "refuse"
    """What to do about a store of another encoder or of other options."""

    def __post_init__(self) -> None:
        for name, least, most in (("views", 1, MOST_VIEWS), ("batch_size", 0, 65_536), ("jobs", 1, 1024)):
            if not least <= getattr(self, name) <= most:
                raise ParameterError(
                    f"{name}: {getattr(self, name)} is not a whole number from {least} to {most}"
                )
        if self.long == "mean" and self.views > 1:
            raise ParameterError("views: a mean covers the whole clip; several views are crops (long: crop)")
        if len(self.devices) > 1:
            gpus = all(re.fullmatch(r"cuda:\d+", name) for name in self.devices)
            if not gpus or len(set(self.devices)) < len(self.devices):
                raise ParameterError(f"device: {self.device}: several must be different GPUs: cuda:0,cuda:1")
            if self.jobs > 1:
                raise ParameterError("jobs: one process drives several devices; leave it at 1")
        if self.cluster and (self.jobs > 1 or len(self.devices) > 1):
            raise ParameterError("cluster: its workers are the processes; leave jobs at 1 and device to one")
        if self.compile and self.runtime != "torch":
            raise ParameterError(f"compile: goes with the runtime torch, not with {self.runtime}")

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices, one by one."""
        return tuple(name.strip() for name in self.device.split(","))


@dataclass(frozen=True, slots=True)
class FitParams:
    """Which heads are fitted: heads x shots x folds x seeds on every dataset."""

    heads: tuple[str, ...] = ("zero-shot", "palm")
    shots: tuple[int, ...] = (16,)
    """Clips per class."""
    seeds: tuple[int, ...] = (0, 1, 2)
    folds: tuple[int, ...] = ()
    """Counted from 1; none given is all of them."""
    template: str = ZERO_SHOT_TEMPLATE
    """Prompt of the heads that let it be chosen; PALM always reads the bare class name."""
    test_views: TestViews = "first"
    """Test clips are scored by their first view, the centre, or by the mean of all views' logits."""
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        if not (self.heads and self.shots and self.seeds):
            raise ParameterError("heads, shots and seeds: give at least one of each")
        for name, least in (("shots", 1), ("seeds", 0), ("folds", 1)):
            for number in getattr(self, name):
                if not least <= number < 2**32:
                    raise ParameterError(f"{name}: {number} is not a whole number from {least} to 2^32 - 1")


@dataclass(frozen=True, slots=True)
class Params:
    """One experiment: some datasets, one encoder."""

    datasets: tuple[str, ...] = ("demo",)
    encoder: str = "mini"
    features: str = "data/features"
    """Folder of the feature stores, each at ``<dataset>/<encoder>.zarr`` below it."""
    synthesise: SynthesiseParams = field(default_factory=SynthesiseParams)
    extract: ExtractParams = field(default_factory=ExtractParams)
    fit: FitParams = field(default_factory=FitParams)

    def __post_init__(self) -> None:
        if not self.datasets:
            raise ParameterError("datasets: give at least one")


MOST_BYTES = 1_000_000
"""Longest parameter file that is read."""

DEEPEST = 20
"""Collections within each other in a parameter file, at most."""

MOST_VALUES = 100_000
"""Values in a parameter file, at most, those that aliases repeat included."""

P = TypeVar("P", Params, SynthesiseParams, ExtractParams, FitParams, Training)


def override(params: P, **values: Any) -> P:
    """Return parameters with the given values in place, where they are not ``None``."""
    return replace(params, **{name: value for name, value in values.items() if value is not None})


def read_params(file: Path) -> Params:
    """Read a parameter file.

    Raises
    ------
    ParameterError
        If it cannot be read, or a value is of the wrong kind.
    UnknownNameError
        If a key does not exist; the near matches are named.
    """
    import yaml

    try:
        with file.open("rb") as opened:
            text = opened.read(MOST_BYTES + 1)
        if len(text) > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES:,} bytes")
        _check_size(text)
        content = yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise ParameterError(f"{file}: cannot read the parameters: {reason}") from error
    return _build(Params, {} if content is None else content, str(file), "")


def _check_size(text: bytes) -> None:
    """Refuse what no parameter file needs, before anything is made of it: depth, and aliases of aliases.

    Raises
    ------
    ValueError
    """
    import yaml

    sizes: dict[str, int] = {}
    opened: list[list[Any]] = []
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            opened.append([event.anchor, 1])
            anchor, size = None, 0
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = opened.pop()
        elif isinstance(event, yaml.AliasEvent):
            # What it stands for is not whole yet where it lies in itself.
            anchor, size = None, sizes.get(str(event.anchor), MOST_VALUES + 1)
        else:
            anchor, size = getattr(event, "anchor", None), 1
        if anchor:
            sizes[anchor] = size
        if opened:
            opened[-1][1] += size
        if len(opened) > DEEPEST or size > MOST_VALUES:
            raise ValueError("it is nested too deeply, or repeats itself too often")


def _build(kind: type[P], content: object, file: str, section: str) -> P:
    where = f"{file}, section {section}" if section else file
    if not isinstance(content, Mapping):
        raise ParameterError(f"{where}: expected keys and values, found {reprlib.repr(content)}")
    hints = get_type_hints(kind)
    known = [item.name for item in fields(kind)]
    values: dict[str, Any] = {}
    for name, value in content.items():
        if name not in known:
            raise UnknownNameError.among(f"key in {where}:", str(name), known)
        values[name] = _convert(hints[name], value, file, f"{section}.{name}" if section else name)
    try:
        return kind(**values)
    except ParameterError as error:
        raise ParameterError(f"{where}: {error}") from None


def _convert(wanted: Any, value: object, file: str, key: str) -> Any:
    """Return a YAML value as the type that a field declares."""
    if wanted in (SynthesiseParams, ExtractParams, FitParams, Training):
        return _build(wanted, value, file, key)
    if get_origin(wanted) is tuple:
        items = value if isinstance(value, list) else [value]
        return tuple(_convert(get_args(wanted)[0], item, file, key) for item in items)
    if get_origin(wanted) is Literal:
        if value not in get_args(wanted):
            said = value if isinstance(value, str) else reprlib.repr(value)
            raise UnknownNameError.among(f"value of {key} in {file}:", said, get_args(wanted))
        return value
    if wanted is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**1000:
        return float(value)
    if not isinstance(value, wanted) or isinstance(value, bool) != (wanted is bool):
        raise ParameterError(f"{file}: {key} is {reprlib.repr(value)}, expected {wanted.__name__}")
    return value
