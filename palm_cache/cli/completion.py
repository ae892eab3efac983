"""What a shell may complete: names that are known, and what lies here. Nothing heavy is imported for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import typer

from palm_cache.params import COLUMN_FIELDS
from palm_cache.params.checks import DEVICES
from palm_cache.store.layout import FEATURES, stores_present


def complete_dataset(incomplete: str) -> list[str]:
    """Return the datasets that have a store, or are known by name, in any case, and begin like this."""
    from palm_cache.extraction.datasets.registry import CARDS

    begun = len(incomplete)
    known = [card.name for card in CARDS if card.name[:begun].lower() == incomplete.lower()]
    stored = (store.parent.name for store in stores_present(Path(FEATURES)))
    names = [incomplete + name[begun:] for name in known]
    return list(dict.fromkeys([*names, *(name for name in stored if name.startswith(incomplete))]))


def complete_encoder(incomplete: str) -> list[tuple[str, str]]:
    """Return the names of encoders that begin like this."""
    from palm_cache.extraction.encoders.registry import encoder_names

    return [(name, "") for name in encoder_names() if name.startswith(incomplete)]


def complete_list(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Return what completes the last of several names with commas between."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [before + comma + name for name in names() if name.startswith(last)]

    return complete


def _heads() -> Iterable[str]:
    from palm_cache.adaptation.heads import HEADS

    return HEADS


complete_heads = complete_list(_heads)
complete_column = complete_list(lambda: [f"{name}=" for name in COLUMN_FIELDS])
complete_device = complete_list(lambda: DEVICES)


def complete_store(incomplete: str) -> list[str]:
    """Return the stores at their default places that begin like this."""
    present = map(str, stores_present(Path(FEATURES)))
    return [store for store in present if store.startswith(incomplete)]


def complete_run(context: typer.Context, incomplete: str) -> list[str]:
    """Return the runs of the heads file that was named before."""
    from palm_cache.errors import PalmCacheError
    from palm_cache.store.heads import read_runs
    from palm_cache.store.nearby import heads_file
    from palm_cache.store.run_names import run_name

    # An option that lacks its value, here --run, keeps click from handing words before it to their arguments.
    words = context.params.get("inputs") or context.args
    path = context.params.get("heads") or context.params.get("head") or (words[0] if words else None)
    if path is None:
        return []
    try:
        runs = read_runs(heads_file(path))
    except PalmCacheError:
        return []
    names = dict.fromkeys(name for run in runs for name in (run.head, run_name(run)))
    return [name for name in names if name.startswith(incomplete)]


def complete_predicted_run(context: typer.Context, incomplete: str) -> list[str]:
    """Return the runs in the predictions that begin like this, all folds of one together."""
    from palm_cache.errors import StoreError
    from palm_cache.explore.verdicts import PREDICTIONS, across_folds
    from palm_cache.store.scores import read_predictions

    try:
        runs = [
            prediction.run
            for prediction in read_predictions(context.params.get("predictions") or PREDICTIONS)
        ]
    except StoreError:
        return []
    return [run for run in across_folds(runs) if run.startswith(incomplete)]
