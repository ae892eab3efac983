"""Stage two from Python: ``fit``, ``evaluate``, ``calibrate``, ``prompts``, ``transfer``."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from functools import partial
from pathlib import Path

import pandas as pd

from palm_cache.adaptation.calibration import Calibrated, calibrate_file, notes_of, runs_to_calibrate
from palm_cache.adaptation.evaluate import evaluate_files, no_heads
from palm_cache.adaptation.fit import LoadTower, fit_store
from palm_cache.adaptation.prompt_study import study_prompts
from palm_cache.adaptation.transfer import transfer_heads
from palm_cache.api.stores import stored_name
from palm_cache.errors import DataError, naming
from palm_cache.extraction.recorded import load_text_tower, notes_of_code
from palm_cache.params import CLIP_TOKENIZER, FitParams, Params
from palm_cache.params.use import LoadingParams
from palm_cache.report.means import HEADINGS, below_zero_shot, format_rows, summarise
from palm_cache.store.features import FeatureStore
from palm_cache.store.heads import opened_heads
from palm_cache.store.layout import RUNS, slug
from palm_cache.store.nearby import folder_given, heads_file
from palm_cache.store.places import as_places, place
from palm_cache.store.scores import COLUMNS, KEYS, tell_apart
from palm_cache.types import AnyPath, AnyPlace, Progress, no_progress
from palm_cache.types.fields import several


@dataclass(frozen=True, slots=True)
class FitResult:
    """What :func:`fit` made; it stands for the heads wherever they are asked for."""

    heads: Path
    """The file with the fitted heads."""
    scores: pd.DataFrame
    """One row per run of this fit, the columns of ``scores.csv``; none where nothing was evaluated."""
    notes: tuple[str, ...]
    """Clips left out or not extracted, classes with fewer clips than shots, heads that could not be
    calibrated."""
    shown: pd.DataFrame
    """The scores as they are shown: a head is called by its variant where ``out`` has several of it."""

    def __fspath__(self) -> str:
        return str(self.heads)

    def __repr__(self) -> str:
        """Return the means as a table, whole, and what should be known."""
        summary = summarise(self.shown)
        rows = [HEADINGS, *format_rows(summary)] if len(summary) else []
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        notes = [f"note: {naming(note)}" for note in (*self.notes, *below_zero_shot(self.shown))]
        return "\n".join([f"<FitResult {self.heads.as_posix()}>", *lines, *notes])


def fit(
    store: AnyPlace | Iterable[AnyPlace],
    params: FitParams | None = None,
    *,
    out: AnyPath = RUNS,
    calibrate: bool = True,
    evaluate: bool = True,
    encoder: str | None = None,
    device: str = "auto",
    tokenizer: str = CLIP_TOKENIZER,
    progress: Progress = no_progress,
) -> FitResult:
    """Fit heads on a feature store, keep them in ``heads.h5`` and score them on their test clips.

    Parameters
    ----------
    store : path or OpenFeatures, or several
        Several are stores of the same clips from several encoders; their features are joined, as ``muka``
        wants them.
    params : FitParams, optional
        Heads, shots, seeds, folds, training.
    out : path
        Where heads, scores and predictions lie. What earlier fits left there stays; heads of the same name
        that were fitted on other features are kept beside, and a note says where.
    calibrate : bool
        Fit a temperature for the run of each head that is taken first, on its own shots, held out.
    evaluate : bool
        Score the heads.
    encoder : str, optional
        For heads that learn words: the spec of the store's encoder, if its weights have moved, or if it is
        your own code (``python:...``), which runs only where it is named.
    device, tokenizer : str
        Of the text tower, for heads that learn words.
    progress : callable
        Told what is done, how many are, and of how many.

    Raises
    ------
    PalmCacheError
        As ``palm-cache fit`` tells it: an unfinished store, an unknown head ...

    Examples
    --------
    >>> import palm_cache
    >>> params = palm_cache.FitParams(heads=("palm",), shots=(2,), seeds=(0,))
    >>> fitted = palm_cache.fit("data/features/demo/mini.zarr", params)
    >>> fitted.heads.as_posix()
    'runs/demo/mini/heads.h5'
    >>> bool(fitted.scores["accuracy"].mean() > 0.5)
    True
    """
    first, *partners = as_places(store)
    tower = _tower_loader(encoder, device, tokenizer)
    # Before the fit: nothing is read of a store that may be replaced while heads are fitted.
    edited = [note for where in (first, *partners) for note in notes_of_code(FeatureStore(where))]
    result = fit_store(
        first, Path(out), params or FitParams(), partners=partners, load_tower=tower, progress=progress
    )
    notes = [*result.notes, *edited]
    if calibrate:
        runs = runs_to_calibrate(result.heads_file)
        calibrated = calibrate_file(result.heads_file, runs, fit=result, progress=progress)
        notes += notes_of(calibrated)
    scores = shown = pd.DataFrame(columns=list(COLUMNS))
    if evaluate:
        every = evaluate_files(
            Path(out), [result.heads_file], fit=result, load_tower=tower, progress=progress
        )
        own = {astuple(replace(head.run, encoder=slug(head.run.encoder))) for head in result.fitted}
        keys = every[list(KEYS)].itertuples(index=False, name=None)
        is_own = pd.Series([key in own for key in keys], every.index, dtype=bool)  # be it of no row
        scores, shown = (table[is_own].reset_index(drop=True) for table in (every, tell_apart(every)))
    return FitResult(result.heads_file, scores, tuple(notes), shown)


def evaluate(
    out: AnyPath = RUNS,
    *,
    heads: AnyPath | None = None,
    datasets: AnyPath | Iterable[AnyPath] | None = None,
    encoders: str | Sequence[str] | None = None,
    store: AnyPlace | None = None,
    features: AnyPlace | None = None,
    device: str = "auto",
    tokenizer: str = CLIP_TOKENIZER,
    progress: Progress = no_progress,
) -> pd.DataFrame:
    """Score fitted heads on the test clips of their folds, and keep scores and predictions.

    Parameters
    ----------
    out : path
        Where results lie.
    heads : path, optional
        The folder below which heads lie; ``out`` by default.
    datasets, encoders : str, path or several, optional
        Whose heads; all below ``heads`` by default. Heads of several encoders, joined, are meant by all of
        their specs.
    store : path or URL, optional
        The feature store, if it is no longer where the heads were fitted on it.
    features : path or URL, optional
        The folder of stores, which tells datasets of one name apart.
    device, tokenizer : str
        Of the text tower, for heads that learn words.

    Returns
    -------
    DataFrame
        Every row of ``scores.csv``, also of what was evaluated earlier.

    Raises
    ------
    StoreError
        If there are no heads, or a store is missing. Here and below all heads that can be scored were.
    StaleStoreError
        If a store has changed since the heads were fitted.
    """
    folder = Path(heads or out)
    named = [] if datasets is None else list(map(str, several(datasets)))
    encoders = () if encoders is None else several(encoders)
    stores = folder_given(features or Params().features, "features")
    # A name is no pattern: a folder may be called "birds[1]".
    names = [glob.escape(stored_name(stores, name, folder)) for name in named] if named else ["*"]
    spec = glob.escape(slug("+".join(encoders))) if encoders else "*"
    files = sorted({file for name in names for file in folder.glob(f"{name}/{spec}/heads.h5")})
    if not files:
        of_them = {"store": store} if store else {"dataset": named, "features": features}
        raise no_heads(folder, **of_them, encoder=list(encoders))
    return evaluate_files(
        Path(out),
        files,
        heads=folder,
        store=None if store is None else place(store),
        load_tower=_tower_loader(encoders[0] if encoders else None, device, tokenizer),
        progress=progress,
    )


def calibrate(
    heads: AnyPath,
    run: str | None = None,
    *,
    all_runs: bool = False,
    store: AnyPlace | None = None,
    encoder: str | None = None,
    device: str = "auto",
    tokenizer: str = CLIP_TOKENIZER,
    progress: Progress = no_progress,
) -> list[Calibrated]:
    """Fit the temperature that turns a run's logits into probabilities, and keep it in the heads file.

    Parameters
    ----------
    heads : path
        A ``heads.h5``, or the folder that it lies in.
    run : str, optional
        A run of the file, by its name or the beginning of it; by default the one that ``predict`` takes.
    all_runs : bool
        Calibrate every run.
    store : path or URL, optional
        The feature store, if it is no longer where the heads were fitted on it.
    encoder, device, tokenizer : str, optional
        Of the text tower, for heads that learn words.

    Returns
    -------
    list of Calibrated
        For every run its temperature, or why there is none.

    Raises
    ------
    DataError
        If none of the runs can be calibrated: no shot can be held out.
    StoreError
        If heads or store cannot be read.
    """
    file = heads_file(heads)
    with opened_heads(file) as opened:
        runs = opened.runs() if all_runs else [opened.chosen(run)]
    calibrated = calibrate_file(
        file,
        runs,
        store=None if store is None else place(store),
        load_tower=_tower_loader(encoder, device, tokenizer),
        progress=progress,
    )
    if not any(item.calibration for item in calibrated):
        raise DataError(calibrated[0].problem)
    return calibrated


def prompts(
    store: AnyPlace | Iterable[AnyPlace],
    *,
    out: AnyPath = RUNS,
    folds: int | Sequence[int] = (),
    progress: Progress = no_progress,
) -> pd.DataFrame:
    """Score zero-shot under every prompt template of some stores, and under all of them together.

    Parameters
    ----------
    store : path or OpenFeatures, or several
    out : path
        Where the table is kept.
    folds : int or sequence of int
        Counted from 1; all by default.

    Returns
    -------
    DataFrame
        One row per store, template and fold; kept in ``OUT/prompts.csv``.

    Raises
    ------
    StoreError
        If a store is missing, unfinished or damaged.
    DataError
        If a fold does not exist.
    """
    chosen = FitParams(folds=folds).folds  # type: ignore[arg-type]
    return study_prompts(as_places(store), Path(out), folds=chosen, progress=progress)


def transfer(
    heads: AnyPath,
    store: AnyPlace,
    *,
    same: Mapping[str, str] | None = None,
    encoder: str | None = None,
    device: str = "auto",
    tokenizer: str = CLIP_TOKENIZER,
    progress: Progress = no_progress,
) -> pd.DataFrame:
    """Score fitted heads on the test clips of another dataset, among the classes that both have.

    Parameters
    ----------
    heads : path
        A ``heads.h5``, or the folder that it lies in.
    store : path, URL or OpenFeatures
        Features of the other dataset, from the encoder that the heads were fitted on.
    same : mapping, optional
        Names of one class that differ: the heads' -> the other dataset's. Case, and whether words are joined
        by spaces, hyphens or underscores, makes no difference anyway.
    encoder, device, tokenizer : str, optional
        Of the text tower, for heads that learn words.

    Returns
    -------
    DataFrame
        Rows as in ``scores.csv``; ``dataset`` names both.

    Raises
    ------
    StaleStoreError
        If another encoder made the features, or the heads' own store has changed.
    DataError
        If fewer than two classes are common, or a name is not one of a class.
    """
    return transfer_heads(
        heads_file(heads),
        *as_places(store),
        same=same,
        load_tower=_tower_loader(encoder, device, tokenizer),
        progress=progress,
    )


def _tower_loader(encoder: str | None, device: str, tokenizer: str) -> LoadTower:
    """Return what loads a text tower: where adaptation is handed a part of an encoder."""
    return partial(load_text_tower, loading=LoadingParams(encoder, device, tokenizer))
