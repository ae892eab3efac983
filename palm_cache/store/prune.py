"""What a folder of stores and its cache hold, and what of it is of no use.

Only what carries our mark is ever listed: a feature store by its root, the cache of a recipe by its
``recipe.json``. Files of others stay where they are, whatever they are called.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf

from palm_cache.errors import DamagedStoreError, OutputError, StoreError, counted
from palm_cache.store.atomic import parse_json, write_errors
from palm_cache.store.cache import RECIPE, Cache, is_cache_file
from palm_cache.store.fingerprint import fingerprint
from palm_cache.store.layout import STORE_ENDING
from palm_cache.store.places import folder
from palm_cache.store.root import StoreRoot
from palm_cache.store.segments import FORMAT, SEGMENT
from palm_cache.store.writing import claimed_files
from palm_cache.types import Place

SECONDS_IN_WORK = 3600
"""How long an extraction counts as going on after it has last written what it embedded: one that computes
writes every few seconds."""

KILLED = "left by a process that was killed"


@dataclass(frozen=True, slots=True)
class CachedRecipe:
    """What a cache knows by one recipe."""

    name: str
    """Of its folder."""
    kind: str
    """``audio``, ``text`` or ``files``."""
    recipe: Mapping[str, object]
    contents: int
    """Different ones, with a value or a failure."""
    bytes: int
    files: tuple[str, ...]
    """Their paths below the cache."""
    damaged: tuple[str, ...]
    """Segments that cannot be read."""
    used_by: tuple[str, ...]
    """Stores made of it."""

    @property
    def is_used(self) -> bool:
        """Whether something is made of it: a store, or in the case of hashes of files every extraction."""
        return self.kind == "files" or bool(self.used_by)

    @property
    def seconds_old(self) -> float:
        """Age of its newest segment; infinite without one."""
        names = (name.rpartition("/")[2] for name in self.files)
        made = [int(name.partition("-")[0]) for name in names if SEGMENT.fullmatch(name)]
        return max(0, time.time_ns() - max(made)) / 1e9 if made else inf

    @property
    def may_be_in_work(self) -> bool:
        """Whether an extraction may be going on that has not made its store yet."""
        return not self.is_used and self.seconds_old < SECONDS_IN_WORK


@dataclass(frozen=True, slots=True)
class Waste:
    """Something of no use, with what it costs."""

    place: Place
    """Folder that the files lie in."""
    files: tuple[str, ...]
    """Their paths below it, or those of whole folders."""
    bytes: int
    why: str


def known_recipes(cache: Place, features: Place) -> list[CachedRecipe]:
    """Return what a cache knows, recipe by recipe.

    Parameters
    ----------
    features : Place
        The folder of stores, to say which are made of it.
    """
    names, used = sorted({name.partition("/")[0] for name in folder(cache).files()}), _users(features)
    described = (_describe(cache, name, used) for name in names)
    return [recipe for recipe in described if recipe is not None]


def _describe(cache: Place, name: str, used: Mapping[str, list[str]]) -> CachedRecipe | None:
    where = folder(cache / name)
    try:
        words = parse_json(where.read(RECIPE))
        recipe, kind = words["recipe"], words["kind"]
        hashed = fingerprint(recipe)
        if words["palm_cache"] != FORMAT or name != f"{kind}-{hashed[:32]}":
            return None
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None
    known = Cache(cache, kind, recipe, ())
    segments = {file: size for file, size in where.files().items() if SEGMENT.fullmatch(file)}
    own, damaged = (tuple(f"{name}/{file}" for file in some) for some in ([*segments, RECIPE], known.damaged))
    used_by = tuple(used.get(hashed, ()))
    return CachedRecipe(name, kind, recipe, known.n_contents, sum(segments.values()), own, damaged, used_by)


def _users(features: Place) -> dict[str, list[str]]:
    """Return the stores made by every recipe, by its hash."""
    users: dict[str, list[str]] = {}
    for path in _stores(features):
        try:
            header = StoreRoot(path).header
        except StoreError:
            continue
        for recipe in (header.recipe, header.text_recipe):
            if recipe is not None:
                users.setdefault(fingerprint(recipe), []).append(str(path))
    return users


def _stores(features: Place) -> Iterator[Place]:
    for name in sorted(folder(features).files()):
        match = re.fullmatch(r"([^.].*?\.zarr)/zarr\.json", name)
        if match:
            yield features / match[1]


def cache_waste(known: list[CachedRecipe], cache: Place) -> list[Waste]:
    """Return what of a cache no store is made of, what cannot be read, and what killed processes left."""
    waste = []
    sizes = folder(cache).files()
    for recipe in known:
        if not recipe.is_used:
            total = sum(sizes.get(name, 0) for name in recipe.files)
            why = f"{recipe.kind} of a recipe that no store here is made by{_unfinished(recipe)}"
            waste.append(Waste(cache, recipe.files, total, why))
        elif recipe.damaged:
            total = sum(sizes.get(name, 0) for name in recipe.damaged)
            waste.append(Waste(cache, recipe.damaged, total, "damaged: nothing can be read of it"))
        left = [f"{recipe.name}/{name}" for name in folder(cache / recipe.name).left_behind(is_cache_file)]
        if left:
            waste.append(Waste(cache, tuple(left), sum(sizes.get(name, 0) for name in left), KILLED))
    return waste


def _unfinished(recipe: CachedRecipe) -> str:
    """Say how old the newest of a recipe's segments is: a store is made when all of a dataset is embedded."""
    if recipe.seconds_old == inf:
        return ""
    minutes = int(recipe.seconds_old // 60)
    units = ((60, "minute", minutes), (24 * 60, "hour", minutes // 60), (inf, "day", minutes // (24 * 60)))
    age = next(counted(count, unit) for most, unit, count in units if minutes < most)
    return f", the last of it written {age} ago; an extraction that has not ended goes on from it"


def store_waste(features: Place) -> list[Waste]:
    """Return the stores of a folder that cannot be read, and what killed processes have left."""
    waste = []
    for path in _stores(features):
        try:
            StoreRoot(path)
        except DamagedStoreError as error:
            try:
                where = folder(path)
                ours, sizes = claimed_files(where), where.files()
            except OutputError:
                continue
            why = str(error).removeprefix(f"{path}: ").partition(";")[0]
            waste.append(Waste(path, tuple(sorted(ours)), sum(sizes[name] for name in ours), why))
        except StoreError:
            continue  # of another format, or not to be read now: no damage
    for beside in {path.parent for path in _stores(features)}:
        for name in folder(beside).left_behind(lambda name: name.endswith(STORE_ENDING)):
            waste.append(Waste(beside, (name,), sum(folder(beside / name).files().values()), KILLED))
    return waste


def remove_waste(waste: Waste) -> None:
    """Remove something of no use.

    Raises
    ------
    OutputError
        If a file cannot be removed.
    """
    with write_errors(waste.place, ""):
        folder(waste.place).remove(waste.files)
