"""What lies in a folder of feature stores and is of no use to any dataset or encoder of this palm-cache.

Listed are, and nothing else:

- leftovers of an extraction that is not running: an unfinished successor or skeleton, a retired
  predecessor, temporary files, the lock of a store that is gone;
- stores that nothing can read: damaged beyond their header, or of an older format;
- stores that no extraction can go on with, whatever it is given: of an encoder that is not known, of
  earlier weights of ``mini``, made with other prompt templates, other preprocessing or other decoders.

Everything else stays. A store whose audio, checkpoint or hub model is not on this machine is just what a
cache is for, and one of a newer format belongs to a newer palm-cache.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from palm_cache.errors import DamagedStoreError, EncoderError, OlderFormatError, StoreError, UnknownNameError
from palm_cache.extraction.encoders.base import full_identity
from palm_cache.extraction.encoders.registry import load_encoder, split_spec
from palm_cache.extraction.plan import successor_of
from palm_cache.store.features import FeatureStore
from palm_cache.store.files import write_errors
from palm_cache.store.fingerprint import fingerprint
from palm_cache.store.locks import is_locked, lock_file, locked
from palm_cache.types import TEMPLATES

_LEFTOVERS = {
    "next.skeleton": "unfinished skeleton of a store",
    "skeleton": "unfinished skeleton of a store",
    "next": "unfinished rebuild; the extraction that began it would go on from it",
    "old": "predecessor of a store that was made anew",
    "lock": "lock of a store that is gone",
}
_PARTIAL = "temporary files of writers that were killed"


@dataclass(frozen=True, slots=True)
class Garbage:
    """Something of no use, with what it costs."""

    path: Path
    why: str
    bytes: int
    files: int
    store: Path
    """The store that it is, or belongs to: nothing of it is removed while an extraction writes there."""


def find_garbage(features: Path) -> tuple[list[Garbage], list[Path]]:
    """Look through a folder of feature stores.

    Returns
    -------
    garbage : list of Garbage
    busy : list of Path
        Stores that are being written to; they were not looked at.
    """
    garbage, busy = [], []
    for dataset in sorted(folder for folder in features.glob("*") if folder.is_dir()):
        families: dict[Path, list[Path]] = {}
        for path in sorted(dataset.iterdir()):
            store = _store_of(path)
            if store is not None:
                families.setdefault(store, []).append(path)
        for store, members in families.items():
            if is_locked(store):
                busy.append(store)
                continue
            garbage += [found for path in members for found in _judge(path, store)]
    return garbage, busy


def remove_garbage(garbage: Iterable[Garbage]) -> list[Garbage]:
    """Remove what was found, as far as it is still garbage; return what was removed.

    Raises
    ------
    StoreError
        If an extraction has begun to write there.
    OutputError
        If something cannot be removed.
    """
    removed = []
    for item in garbage:
        with locked(item.store, "an extraction is writing to this store"), write_errors(item.path):
            # An extraction may have come between finding and removing.
            if item in _judge(item.path, item.store):
                _remove(item)
                removed.append(item)
            if not item.store.exists() and not successor_of(item.store).exists():
                lock_file(item.store).unlink(missing_ok=True)
        folder = item.store.parent
        if not any(folder.iterdir()):
            folder.rmdir()
    return removed


def _remove(item: Garbage) -> None:
    if item.why == _PARTIAL:
        FeatureStore(item.path).remove_leftovers()
    elif item.path.is_dir():
        shutil.rmtree(item.path)
    else:
        item.path.unlink()


def _store_of(path: Path) -> Path | None:
    """Return the store that a path is, or is a leftover of; ``None`` for anything else."""
    if re.fullmatch(r"[^.].*\.zarr", path.name):
        return path
    match = re.fullmatch(r"\.+(.+\.zarr)\.([a-z.]+)", path.name)
    return path.with_name(match[1]) if match and match[2] in _LEFTOVERS else None


def _judge(path: Path, store: Path) -> list[Garbage]:
    """Return what is garbage about a store or a leftover of one."""
    if not path.exists():
        return []
    if path == store:
        why = _useless(store)
        if why is not None:
            return [_weigh(path, why, store)]
        partial = [file for file in store.rglob("*.partial") if file.is_file()]
        return [_weigh(path, _PARTIAL, store, partial)] if partial else []
    kind = path.name.partition(".zarr.")[2]
    # Without the store, its successor is the store: a kill came between two renames.
    if kind in ("next", "lock") and store.exists() == (kind == "lock"):
        return []
    if kind == "lock" and successor_of(store).exists():
        return []
    return [_weigh(path, _LEFTOVERS[kind], store)]


def _useless(path: Path) -> str | None:
    """Say why nothing can use a store, or ``None`` if something can."""
    try:
        header = FeatureStore(path).header
    except (DamagedStoreError, OlderFormatError) as error:
        return str(error).removeprefix(f"{path}: ").partition(";")[0]
    except StoreError:  # of a newer format
        return None
    try:
        name, _ = split_spec(header.encoder)
    except (UnknownNameError, EncoderError):
        return f"made by an encoder that is not known: {header.encoder}"
    if header.templates != TEMPLATES:
        return "made with other prompt templates"
    if fingerprint(header.identity) != header.fingerprint:
        return "made with another version of the preprocessing or of the decoders"
    if name == "mini" and any(header.identity.get(key) != value for key, value in _mini().items()):
        return "made by earlier weights of mini"
    return None


@lru_cache
def _mini() -> dict[str, object]:
    """Return what is the same of ``mini`` in every precision and runtime, whatever becomes of long clips."""
    identity = full_identity(load_encoder("mini", device="cpu"))
    return {key: value for key, value in identity.items() if key not in ("precision", "window")}


def _weigh(path: Path, why: str, store: Path, files: Iterable[Path] | None = None) -> Garbage:
    if files is None:
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    sizes = [file.stat().st_size for file in files]
    return Garbage(path, why, sum(sizes), len(sizes), store)
