"""Commands that make results, or make them again where they lie: what errors tell one to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from palm_cache.errors import without_credentials
from palm_cache.store.layout import CACHE, HEADS_FILE, RAW, command_line
from palm_cache.store.places import place
from palm_cache.store.run_names import parse_variant
from palm_cache.types import Place
from palm_cache.types.runs import Run, spell_shots


def command_of_store(store: Place, told: Mapping[str, object] = MappingProxyType({})) -> str:
    """Return the command that makes the store at a place.

    Parameters
    ----------
    told : mapping
        Its attributes, as far as they can be read; what they do not tell, the place does. How its dataset was
        read, and which files its prompts came from, neither does.
    """
    # Before it is taken apart: parts of a password would be no address any more.
    store = place(without_credentials(str(store)))
    features, recipe = store.parent.parent, told.get("recipe")
    recipe = recipe if isinstance(recipe, Mapping) else {}
    known, source = told.get("published"), told.get("source")
    # Else a copy, or made with --out.
    by_name = store.parent.name and (not isinstance(store, Path) or (features / CACHE).is_dir())
    return command_line(
        "extract",
        dataset=store.parent.name if by_name else known or source or "NAME_OR_DIR",
        root=source if known and source != str(RAW.absolute() / str(known)) else None,
        encoder=told.get("encoder") or ("mini" if store.stem == "mini" else "SPEC"),
        views=told.get("views"),
        long=recipe.get("long"),
        precision=recipe.get("precision"),
        runtime=str(recipe.get("runtime", "torch")).partition(" ")[0],
        compile="compiled" in recipe or None,
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
