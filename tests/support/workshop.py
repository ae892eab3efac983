"""A dataset of tones, embedded, learned and scored: what heads are used on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from samples import write_palm_folder, write_tone

from palm_cache.adaptation.calibration import calibrate_file, runs_to_calibrate
from palm_cache.adaptation.evaluate import evaluate_files
from palm_cache.adaptation.fit import fit_store
from palm_cache.extraction.datasets.registry import read_dataset
from palm_cache.extraction.extract import extract
from palm_cache.extraction.recorded import load_text_tower
from palm_cache.params import FitParams, Recipe
from palm_cache.params.use import LoadingParams
from palm_cache.types.runs import Training


@dataclass(frozen=True, slots=True)
class Workshop:
    """Where everything lies."""

    data: Path
    store: Path
    heads: Path
    """Scored by the first view."""
    mean_heads: Path
    """Scored by the mean of both views."""


def make_workshop(root: Path) -> Workshop:
    """Make it below a folder."""
    data = write_palm_folder(root / "Tones")
    write_tone(data / "audios" / "long.flac", 210, seconds=15.5, rate=44_100)
    with (data / "test.csv").open("a") as table:
        table.write("audios/long.flac,low tone\n")
    store = extract(read_dataset(str(data)), "mini", root / "mini.zarr", Recipe(views=2)).store
    tower = partial(load_text_tower, loading=LoadingParams(device="cpu"))
    files = []
    for views in ("first", "mean"):
        heads = ("zero-shot", "palm", "coop", "cocoop")
        params = FitParams(heads, shots=(2, 4), seeds=(0,), test_views=views, training=Training(epochs=20))
        files.append(fit_store(store, root / views, params, load_tower=tower).heads_file)
        calibrate_file(files[-1], runs_to_calibrate(files[-1]))
        evaluate_files(root / views, load_tower=tower)
    return Workshop(data, store, *files)
