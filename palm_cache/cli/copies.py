"""Of the feature stores in a folder, those that results can be told apart of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from palm_cache.cli.terminal import say
from palm_cache.errors import StoreError
from palm_cache.store.layout import slug

if TYPE_CHECKING:
    from palm_cache.types import Place


def without_copies(stores: list[Place]) -> list[Place]:
    """Pass over stores that cannot be read, and further ones of a dataset and encoder: copies of the first.

    The first is the one that lies where such a store lies by default, where one does.
    """
    from palm_cache.store.features import FeatureStore

    if len(stores) == 1:
        return stores
    keys: dict[Place, tuple[str, str]] = {}
    for path in stores:
        try:
            header = FeatureStore(path).header
        except StoreError as error:
            say(f"note: passed over: {error}")
        else:
            keys[path] = (header.dataset, f"{slug(header.encoder)}.zarr")
    found: dict[tuple[str, str], Place] = {}
    for path in sorted(keys, key=lambda path: (path.parent.name, path.name) != keys[path]):
        first = found.setdefault(keys[path], path)
        if first != path:
            say(f"note: passed over: {path} has the dataset and encoder of {first}; name it with --store")
    return sorted(found.values(), key=str)
