"""What a folder of stores and its cache hold, and what of it is of no use.

Only what carries our mark is ever listed: a feature store by its root, the cache of a recipe by the names of
its folder and its segments. Files of others stay where they are, whatever they are called.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import inf

import numpy as np

from palm_cache.errors import DamagedStoreError, OlderFormatError, OutputError, StoreError, counted
from palm_cache.store.atomic import parse_json, write_errors
from palm_cache.store.cache import RECIPE, is_cache_file, recipe_folder
from palm_cache.store.layout import STORE_ENDING, STORE_ROOT
from palm_cache.store.places import Folder, folder
from palm_cache.store.root import StoreRoot
from palm_cache.store.segments import FORMAT, SEGMENT, DamageError, parse
from palm_cache.store.writing import claimed_files
from palm_cache.types import Place

SECONDS_IN_WORK = 3600
"""How long an extraction counts as going on after it has last written what it embedded: one that computes
writes every few seconds."""

_RECIPE_FOLDER = re.compile("(?:audio|text|files)-[0-9a-f]{32}")

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
    """Those of them that cannot be read; without its ``recipe.json`` what the recipe is is not known."""
    used_by: tuple[str, ...]
    """Stores made of it."""
    unread: tuple[str, ...]
    """Stores that cannot be read: they may be made of it, and are made anew of it then."""

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
    folders: dict[str, dict[str, int]] = {}
    for path, size in folder(cache).files().items():
        name, _, file = path.partition("/")
        if _RECIPE_FOLDER.fullmatch(name) and is_cache_file(file):
            folders.setdefault(name, {})[file] = size
    used, unread = _users(features)
    described = (
        _describe(cache, name, folders[name], used.get(name, ()), unread) for name in sorted(folders)
    )
    return [recipe for recipe in described if recipe is not None]


def _describe(
    cache: Place, name: str, sizes: Mapping[str, int], used_by: Sequence[str], unread: Sequence[str]
) -> CachedRecipe | None:
    """Describe the folder of a recipe; ``None`` if it is not ours, or another version's."""
    where, (kind, _, _) = folder(cache / name), name.partition("-")
    segments = {file: size for file, size in sizes.items() if SEGMENT.fullmatch(file)}
    recipe = _read_recipe(where)
    if recipe is None or not (recipe or segments):
        return None
    damaged, prefixes = [] if recipe else [RECIPE], [np.empty(0, np.uint64)]
    for file, size in segments.items():
        try:
            prefixes.append(parse(file, size, partial(where.read, file))[0].prefix)
        except DamageError:
            damaged.append(file)
        except FileNotFoundError:
            continue  # merged by another process a moment ago
    own, harmed = (tuple(f"{name}/{file}" for file in some) for some in ([*segments, RECIPE], damaged))
    return CachedRecipe(
        name=name,
        kind=kind,
        recipe=recipe,
        contents=len(np.unique(np.concatenate(prefixes))),
        bytes=sum(segments.values()),
        files=own,
        damaged=harmed,
        used_by=tuple(used_by),
        unread=tuple(unread),
    )


def _read_recipe(where: Folder) -> dict[str, object] | None:
    """Read what a folder says of its recipe: empty if that is damaged, ``None`` if another version wrote it.

    The next run that uses the recipe writes it anew.
    """
    try:
        words = parse_json(where.read(RECIPE))
        if words.get("palm_cache", FORMAT) != FORMAT:
            return None
        recipe = dict(words["recipe"])
    except (FileNotFoundError, ValueError, LookupError, TypeError, AttributeError):
        return {}
    name = where.place.name
    return recipe if name == recipe_folder(name.partition("-")[0], recipe) else {}


def _users(features: Place) -> tuple[dict[str, list[str]], list[str]]:
    """Return the stores made by every recipe, by the name of its folder, and those that cannot be read."""
    users: dict[str, list[str]] = {}
    unread = []
    for path in _stores(features):
        try:
            header = StoreRoot(path).header
        except OlderFormatError:  # from before there was a cache
            continue
        except StoreError:
            if f"content_sha256/{STORE_ROOT}" in folder(path).files():  # not anybody's Zarr group
                unread.append(str(path))
            continue
        for kind, recipe in (("audio", header.recipe), ("text", header.text_recipe)):
            if recipe is not None:
                users.setdefault(recipe_folder(kind, recipe), []).append(str(path))
    return users, unread


def _stores(features: Place) -> list[Place]:
    matches = (re.fullmatch(r"([^.].*?\.zarr)/zarr\.json", name) for name in folder(features).files())
    return sorted((features / match[1] for match in matches if match), key=str)


def cache_waste(known: list[CachedRecipe], cache: Place) -> list[Waste]:
    """Return what of a cache no store is made of, what cannot be read, and what killed processes left."""
    waste = []
    sizes = folder(cache).files()
    for recipe in known:
        files, why = recipe.damaged, "damaged: nothing can be read of it"
        if not recipe.is_used:
            files = () if recipe.unread else recipe.files
            why = f"{recipe.kind} of a recipe that no store here is made by{_unfinished(recipe)}"
        left = [f"{recipe.name}/{name}" for name in folder(cache / recipe.name).left_behind(is_cache_file)]
        waste += [_waste(cache, some, sizes, why) for some, why in ((files, why), (left, KILLED)) if some]
    return waste


def _waste(place: Place, files: Collection[str], sizes: Mapping[str, int], why: str) -> Waste:
    return Waste(place, tuple(sorted(files)), sum(sizes.get(name, 0) for name in files), why)


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
            with suppress(OutputError):
                where = folder(path)
                why = str(error).removeprefix(f"{path}: ").partition(";")[0]
                waste.append(_waste(path, claimed_files(where), where.files(), why))
        except StoreError:
            continue  # of another format, or not to be read now: no damage
    # Beside a first store that was half written there is none.
    half = re.compile(r"(?:(.*?)/)?\.[^/]+\.partial/.*")
    halves = {features / (match[1] or "") for match in map(half.fullmatch, folder(features).files()) if match}
    for beside in halves | {path.parent for path in _stores(features)}:
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
        folder(waste.place).remove(waste.files, itself=True)
