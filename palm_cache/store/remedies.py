"""Commands that make results, or make them again where they lie: what errors tell one to do."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Any

from palm_cache.errors import without_credentials
from palm_cache.store.fingerprint import REMOTE_CODE, recorded_options
from palm_cache.store.layout import CACHE, HEADS_FILE, RAW, command_line
from palm_cache.store.places import place
from palm_cache.store.run_names import parse_variant
from palm_cache.types import Place
from palm_cache.types.runs import Run, spell_shots


def remedy_of_store(store: Place, told: Mapping[str, object]) -> str:
    """Say what makes a store again of which something can be read, after "with" or "by"; see the command."""
    return f"this and the options by which its dataset and prompts were read: {command_of_store(store, told)}"


def command_of_store(store: Place, told: Mapping[str, Any] = MappingProxyType({})) -> str:
    """Return the command that makes the store at a place.

    Parameters
    ----------
    told : mapping
        Its attributes, as far as they can be read; what they do not tell, the place does. How its dataset was
        read, and which files its prompts came from, neither does. Its source is absolute.
    """
    # Before it is taken apart: parts of a password would be no address any more.
    store = place(without_credentials(str(store)))
    features, name = store.parent.parent, store.parent.name
    recipe = told.get("recipe", told.get("identity"))  # as format 1 calls it
    recipe = recipe if isinstance(recipe, Mapping) else {}
    # Else a copy, or made with --out.
    by_name = name and (not isinstance(store, Path) or (features / CACHE).is_dir())
    known, source = told.get("published"), told.get("source")
    if not source and by_name and os.path.isdir(RAW / name):  # noqa: PTH112  # no name is too long for it
        source = str(RAW / name)
    if source and "://" not in source and not os.path.exists(source):  # noqa: PTH110
        source = None
    # A table that was read with --root has its sounds as its source: by that name it is another dataset.
    own = source if source and (not by_name or name.startswith(PurePath(source).stem)) else None
    return command_line(
        "extract",
        dataset=known or own or "NAME_OR_DIR",
        root=source if known and source != str(RAW.absolute() / str(known)) else None,
        encoder=told.get("encoder") or ("mini" if store.stem == "mini" else "SPEC"),
        views=told.get("views"),
        **recorded_options(recipe),
        trust_remote_code=REMOTE_CODE in recipe,
        limit=told.get("limit"),
        features=features if by_name else None,
        out=None if by_name else store,
    )


def fit_command(runs: Iterable[Run], stores: Sequence[Place] = (), heads: Path | None = None) -> str:
    """Return the command that fits runs of one dataset and encoder as they were fitted before.

    Of runs in several variants it is the plain ones.

    Parameters
    ----------
    stores : sequence of Place
        Their features; by default those at the default place.
    heads : Path, optional
        The file that they are to lie in; by default the one at the default place.
    """
    runs = list(runs)
    variants = {run.variant for run in runs}
    return command_line(
        "fit",
        **_features(runs[0], stores),
        head=_list(run.head for run in runs),
        shots=_list(spell_shots(shots) for shots in sorted({run.shots for run in runs} - {0})),
        seeds=_list(map(str, sorted({run.seed for run in runs if run.shots}))),
        **(parse_variant(*variants) if len(variants) == 1 else {}),
        out=results_of(heads) if heads else None,
    )


def _features(run: Run, stores: Sequence[Place]) -> dict[str, object]:
    """Return the options that name the features of a run."""
    if len(stores) == 1 and "+" not in run.encoder:
        return {"store": stores[0]}
    folder = stores[0].parent.parent if stores else None
    return {"dataset": run.dataset, "encoder": run.encoder.split("+"), "features": folder}


def _list(words: Iterable[str]) -> str | None:
    return ",".join(dict.fromkeys(words)) or None


def results_of(heads: Path) -> Path | None:
    """Return the folder of results that a heads file lies in, ``None`` where it is somewhere else."""
    return heads.parents[2] if heads.name == HEADS_FILE and len(heads.parents) > 2 else None


def fit_command_of(heads: Path) -> str:
    """Return the command that fits heads into a file of which nothing is known but where it lies."""
    out = results_of(heads)
    if out is None:
        return command_line("fit")
    slug = heads.parent.name
    return command_line(
        "fit", dataset=heads.parent.parent.name, encoder=slug if slug == "mini" else "SPEC", out=out
    )
