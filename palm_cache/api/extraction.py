"""Stage one from Python: ``extract``."""

from __future__ import annotations

from dataclasses import replace

from palm_cache.api.features import OpenFeatures
from palm_cache.extraction.datasets.registry import identity_of, read_dataset
from palm_cache.extraction.extract import extract as extract_table
from palm_cache.extraction.known_files import known_contents
from palm_cache.extraction.prompts import Prompts
from palm_cache.params import Params, ReadingParams, Recipe, Resources
from palm_cache.store.features import FeatureStore
from palm_cache.store.find import address_of, cache_of
from palm_cache.store.places import place
from palm_cache.types import AnyPlace, Progress, no_progress


def extract(
    dataset: AnyPlace,
    encoder: str = "mini",
    *,
    root: AnyPlace | None = None,
    store: AnyPlace | None = None,
    reading: ReadingParams | None = None,
    prompts: Prompts | None = None,
    recipe: Recipe | None = None,
    resources: Resources | None = None,
    progress: Progress = no_progress,
) -> OpenFeatures:
    """Embed every clip and class name of a dataset once, keep the result in a feature store and open it.

    Parameters
    ----------
    dataset : str or path
        A known name, a folder of sounds or a table: what ``palm-cache datasets`` lists and what its
        ``--check`` understands.
    encoder : str
        A spec such as ``"mini"`` or ``"clap:laion/clap-htsat-unfused"``: see ``palm-cache encoders``.
    root : path, optional
        Where a dataset known by name lies, or what the paths of a table are relative to.
    store : path, optional
        The store to write; ``data/features/<dataset>/<encoder>.zarr`` by default.
    reading : ReadingParams, optional
        How data of one's own is understood, split and cut.
    prompts : Prompts, optional
        What the text tower reads of every class: templates, and descriptions of classes.
    recipe : Recipe, optional
        Views, precision ...: what decides the numbers.
    resources : Resources, optional
        Device, batch size, processes, cache ...: what decides none.
    progress : callable
        Told what is done, how many are, and of how many.

    Raises
    ------
    PalmCacheError
        As ``palm-cache extract`` tells it: an unknown or malformed dataset, a stale store ...

    Examples
    --------
    >>> import palm_cache
    >>> palm_cache.extract("Tones")
    <OpenFeatures Tones, mini: 12 clips x 1 view x 512, 2 classes, 1 fold>
    """
    where_from = place(root) if root is not None else None
    resources = resources or Resources()
    features, out = place(Params().features), place(store) if store is not None else None
    contents = known_contents(cache_of(features, out, resources.cache), resources.check)
    table = read_dataset(str(dataset), where_from, reading=reading or ReadingParams(), contents=contents)
    where = address_of(
        table.dataset,
        identity_of(table),
        encoder,
        features=features,
        out=out,
        cache=resources.cache,
    )
    named = replace(table, dataset=where.dataset)
    done = extract_table(
        named, encoder, where.store, recipe, resources, prompts, cache=where.cache, progress=progress
    )
    return OpenFeatures(where.store, FeatureStore(where.store), done.notes)
