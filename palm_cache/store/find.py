"""Which store is a dataset's, and where it is to lie: two datasets may bear the same name."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePath

from palm_cache.errors import StoreError
from palm_cache.store.header import written_source
from palm_cache.store.layout import CACHE, store_path, stores_present
from palm_cache.store.nearby import folder_given
from palm_cache.store.root import StoreRoot
from palm_cache.types import AnyPlace, Place


@dataclass(frozen=True, slots=True)
class Address:
    """Where a dataset's embeddings lie."""

    dataset: str
    """Its name among the stores."""
    store: Place
    cache: Place


def address_of(
    dataset: str,
    source: str,
    encoder: str,
    *,
    features: Place,
    out: Place | None = None,
    cache: AnyPlace = "",
) -> Address:
    """Say where the store of a dataset and encoder lies or is to lie, and the cache with it.

    Parameters
    ----------
    dataset, source : str
        Its name and where it lies.
    encoder : str
        Encoder spec.
    features : Place
        The folder of stores.
    out : Place, optional
        The store, if it is to lie elsewhere; the cache is then beside it.
    cache : path or URL
        Another place for the cache.
    """
    cached = cache_of(features, out, cache)
    if out is not None:
        return Address(dataset, out, cached)
    folder = folder_given(features, "features")
    name = dataset_folder(folder, dataset, source)
    return Address(name, store_path(folder, name, encoder), cached)


def cache_of(features: Place, out: Place | None = None, cache: AnyPlace = "") -> Place:
    """Say where the cache lies or is to lie; the parameters are those of :func:`address_of`."""
    if cache:
        return folder_given(cache, "cache")
    return (folder_given(features, "features") if out is None else out.parent) / CACHE


def dataset_folder(features: Place, name: str, source: str) -> str:
    """Return the name of the folder in which a dataset's stores lie or are to lie.

    Its own name, unless the stores of another dataset lie there, which bears the same name and is still where
    it was: then the name and some digits of a hash of where the dataset lies. A dataset that was moved keeps
    its stores.

    Parameters
    ----------
    source : str
        Where the dataset lies; "" if that is not known. A relative path is that place in any project.
    """
    stores = features / name
    others = {other for other in _sources(stores) - {""} if not _is_at(other, source)}
    if not source or not any(map(_is_there, others)):
        return name
    written = written_source(source, stores)
    return f"{name}-{hashlib.sha256(written.encode('utf-8', 'surrogateescape')).hexdigest()[:6]}"


def source_of_stores(features: Place, name: str) -> str:
    """Return where the dataset lies whose stores bear a name; "" if there are none, or they do not know."""
    return min(_sources(features / name) - {""}, default="")


def _sources(stores: Place) -> set[str]:
    sources = set()
    for path in stores_present(stores.parent, dataset=stores.name):
        try:
            sources.add(StoreRoot(path).header.source)
        except StoreError:
            continue
    return sources


def _is_at(source: str, place: str) -> bool:
    """Tell whether a dataset lies at a place, or at one of this relative path."""
    parts = () if Path(place).is_absolute() else PurePath(place).parts
    return source == place or (bool(parts) and PurePath(source).parts[-len(parts) :] == parts)


def _is_there(source: str) -> bool:
    return "://" in source or Path(source).exists()
