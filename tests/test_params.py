from __future__ import annotations

import enum
from dataclasses import is_dataclass
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
from upath import UPath

from palm_cache import params
from palm_cache.errors import ParameterError
from palm_cache.extraction.prompts import Prompts
from palm_cache.params import BenchParams, FitParams, Params, ReadingParams, Recipe, Resources
from palm_cache.params.use import MapParams, PredictParams, RowFilter, SearchParams
from palm_cache.store.find import cache_of
from palm_cache.store.layout import extract_command
from palm_cache.store.remedies import command_of_store
from palm_cache.types import Help
from palm_cache.types.runs import Training

OPTION_CLASSES = [kind for kind in vars(params).values() if is_dataclass(kind) and kind not in (Params, Help)]


@pytest.mark.parametrize("kind", OPTION_CLASSES)
def test_every_parameter_says_what_help_says_of_it(kind: type) -> None:
    hints = get_type_hints(kind, include_extras=True)
    silent = [
        name
        for name, hint in hints.items()
        if not any(isinstance(item, Help) for item in getattr(hint, "__metadata__", ()))
    ]
    assert silent == (["training"] if kind is FitParams else [])


def test_single_values_stand_for_tuples_of_one() -> None:
    assert FitParams(heads="palm", shots=8, seeds=1, folds=2) == FitParams(  # type: ignore[arg-type]
        heads=("palm",), shots=(8,), seeds=(1,), folds=(2,)
    )
    assert FitParams(shots=[1, "all"]).shots == (1, "all")  # type: ignore[arg-type]
    of_numpy = FitParams(shots=np.int64(4), seeds=np.arange(2))  # type: ignore[arg-type]
    assert repr(of_numpy) == repr(FitParams(shots=(4,), seeds=(0, 1)))
    assert repr(Training(epochs=np.int32(4), lr=np.float32(0.5), momentum=0)) == repr(
        Training(epochs=4, lr=0.5, momentum=0.0)
    )
    assert Resources(cache=Path("known")) == Resources(cache="known")
    assert FitParams(shots=np.array(4)) == FitParams(shots=(4,))  # type: ignore[arg-type]
    assert Recipe(compile=np.True_).compile is True  # type: ignore[arg-type]


def test_text_of_any_kind_is_text() -> None:
    """Formatted, a member of an enumeration is its name: runs would be called after that."""

    class Wanted(str, enum.Enum):  # noqa: UP042  # of Python 3.10 and before
        PALM, FIRST = "palm", "first"

    params = FitParams(heads=Wanted.PALM, test_views=Wanted.FIRST)  # type: ignore[arg-type]
    assert f"{params.heads[0]} {params.test_views}" == "palm first"


def test_the_cache_may_be_a_remote_place_with_its_options() -> None:
    remote = UPath("memory://bucket/cache", use_listings_cache=False)
    assert cache_of(Path("features"), cache=Resources(cache=remote).cache) is remote
    with pytest.raises(ParameterError, match=r"heads: .* is not text"):
        FitParams(heads=remote)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (Recipe, {"precision": "fp16"}, "precision: 'fp16' is not one of fp32, tf32, bf16; did you mean"),
        (Recipe, {"long": "average"}, "long: 'average' is not one of crop, mean"),
        (Resources, {"on_error": "stop"}, "on_error: 'stop' is not one of skip, fail"),
        (ReadingParams, {"test": None}, "test: None is not one of folds, none"),
        (FitParams, {"split": "base_novel"}, "split: 'base_novel' is not one of all, base-novel"),
        (MapParams, {"method": "mds"}, "method: 'mds' is not one of"),
        (BenchParams, {"precision": ("fp32", "fp16")}, "precision: 'fp16' is not one of"),
        (Recipe, {"trust_remote_code": "no"}, "trust_remote_code: 'no' is not true or false"),
        (Recipe, {"views": 2.5}, "views: 2.5 is not a whole number from 1 to 1000"),
        (Resources, {"batch_size": None}, "batch_size: None is not a whole number from 0 to 65536"),
        (Resources, {"device": None}, "device: None is not text"),
        (Resources, {"cache": None}, "cache: None is not text or a path or a remote path"),
        (ReadingParams, {"columns": None}, "columns: None is not text"),
        (ReadingParams, {"window": "5"}, "window: '5' is not a number from 0.02"),
        (FitParams, {"heads": None}, "heads: None is not text"),
        (FitParams, {"shots": 4.0}, "shots: 4.0 is not a whole number from 1 to 2147483646 or all"),
        (FitParams, {"training": {"lr": 1}}, "training: {'lr': 1} is not a Training"),
        (PredictParams, {"threshold": "0.5"}, "threshold: '0.5' is not a number from 0 to 1"),
        (SearchParams, {"text": 3}, "text: 3 is not text"),
        (RowFilter, {"labels": 3}, "labels: 3 is not text"),
        (Prompts, {"descriptions": None}, "descriptions: None is not a Mapping"),
        (Training, {"epochs": "5"}, "epochs: '5' is not a whole number from 1"),
    ],
)
def test_a_value_that_is_none_of_its_type_is_refused_wherever_it_comes_from(
    kind: type, given: dict[str, object], message: str
) -> None:
    with pytest.raises(ParameterError, match=message):
        kind(**given)


def test_the_command_that_makes_a_store_leaves_out_what_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults = Params()
    command = extract_command("demo", defaults.encoder, Path(defaults.features))
    assert command == "palm-cache extract --dataset demo"
    assert extract_command("None", "mini", Path(defaults.features)) == "palm-cache extract --dataset None"
    assert command_of_store(Path("stores/my birds/clap-x.zarr")) == (
        "palm-cache extract --dataset NAME_OR_DIR --encoder SPEC --out 'stores/my birds/clap-x.zarr'"
    )
    monkeypatch.chdir(tmp_path)
    Path("stores", ".cache").mkdir(parents=True)
    assert command_of_store(Path("stores/my birds/clap-x.zarr")) == (
        "palm-cache extract --dataset NAME_OR_DIR --encoder SPEC --features stores"
    )
    Path("data/raw/my birds").mkdir(parents=True)
    assert command_of_store(Path("stores/my birds/clap-x.zarr")) == (
        "palm-cache extract --dataset 'data/raw/my birds' --encoder SPEC --features stores"
    )
    assert command_of_store(Path("mini.zarr")) == ("palm-cache extract --dataset NAME_OR_DIR --out mini.zarr")


@pytest.mark.parametrize(
    ("told", "options"),
    [
        ({"recipe": {"remote_code_sha256": "0" * 64}}, "--trust-remote-code"),
        (
            {
                "identity": {
                    "precision": "bf16",
                    "runtime": "openvino 2026.4",
                    "window": [1, 1, "tile", "mean"],
                }
            },
            "--long mean --precision bf16 --runtime openvino",
        ),
        ({"recipe": {"window": [1, 1, "tile"], "long": "mean", "compiled": "x"}}, "--long mean --compile"),
    ],
)
def test_the_command_that_makes_a_store_names_the_options_that_its_attributes_record(
    told: dict[str, object], options: str
) -> None:
    command = command_of_store(Path("mini.zarr"), told)
    assert command == f"palm-cache extract --dataset NAME_OR_DIR {options} --out mini.zarr"


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"source": "{here}/birds"}, "{here}/birds"),
        ({"source": "{here}/audio"}, "NAME_OR_DIR"),  # of a table, birds.csv, that was read with --root
        ({"source": "{here}/gone/birds"}, "NAME_OR_DIR"),
        ({"source": "s3://bucket/birds"}, "s3://bucket/birds"),
        ({"source": "{here}/audio", "published": "ESC50"}, "ESC50 --root {here}/audio"),
        ({"source": "{here}/gone", "published": "ESC50"}, "ESC50"),
    ],
)
def test_the_command_that_makes_a_store_names_its_dataset_where_that_is_there(
    tmp_path: Path, told: dict[str, str], words: str
) -> None:
    for folder in ("features/.cache", "birds", "audio"):
        (tmp_path / folder).mkdir(parents=True)
    told = {name: value.format(here=tmp_path) for name, value in told.items()}
    words = words.format(here=tmp_path)
    for store in ("birds", "birds-1a2b3c"):
        assert command_of_store(tmp_path / f"features/{store}/mini.zarr", told) == (
            f"palm-cache extract --dataset {words} --features {tmp_path}/features"
        )
