"""One fitted head in one file that strangers can read: safetensors, with a card of all that predicting needs.

The card is JSON in the file's metadata; its ``sha256`` is over the rest of it and all tensors. Nothing in the
file is code, nothing of it becomes a path, and whatever is not what a head must be is told as damage.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from palm_cache.errors import DamagedStoreError, DataError, StoreError, reason_of
from palm_cache.store.hdf5 import DAMAGE
from palm_cache.store.heads import PLAIN, Origin, plain, read_head, read_runs
from palm_cache.store.layout import SHARED_ENDING, check_name, slug
from palm_cache.store.run_names import choose_run, run_name, run_named
from palm_cache.types.runs import Calibration, FittedHead, Run

FORMAT_VERSION = 1

MAX_CLASSES = 100_000
MAX_NAME = 1000
"""Characters of a class name or of any other text that a card has one of."""


class OpenedHead(NamedTuple):
    """A head that was read."""

    head: FittedHead
    origin: Origin
    card: Mapping[str, Any] | None
    """What a file with one head says of it."""


def portable(spec: str) -> str:
    """Return an encoder's spec without folders of the machine that it was used on: ``pengi:base.pth``."""
    name, _, source = spec.partition(":")
    if re.match(r"[/\\~.]|[A-Za-z]:[/\\]", source):
        source = source.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
    return f"{name}:{source}" if source else name


def card_of(head: FittedHead, origin: Origin) -> dict[str, object]:
    """Return what predicting needs besides the tensors, JSON-serialisable; :func:`read_shared` reads it."""
    return {
        "format_version": FORMAT_VERSION,
        "head": head.run.head,
        "run": run_name(head.run),
        "dataset": head.run.dataset,
        "classes": list(head.class_names),
        "encoder": {
            "spec": portable(head.run.encoder),
            "fingerprint": head.fingerprint,
            "identity": dict(origin.identity),
            "views": origin.views,
        },
        "template": head.template,
        "test_views": head.test_views,
        "features": head.digest,
        "n_train": head.n_train,
        "n_params": head.n_params,
        "fit_seconds": head.fit_seconds,
        "hyperparameters": dict(head.hyperparameters),
        "calibration": asdict(head.calibration) if head.calibration else None,
    }


def pack(card: Mapping[str, object], tensors: Mapping[str, Tensor]) -> tuple[bytes, dict[str, object]]:
    """Return the content of a file with one head, and its card with the checksum.

    The same head gives the same bytes.

    Parameters
    ----------
    card : mapping
        What :func:`card_of` returns, ``state``, which names the tensors that logits follow from, and whatever
        else is worth knowing.
    tensors : mapping of Tensor
        The state, and what other programs need besides.
    """
    sealed = {**card, "sha256": _digest(card, tensors)}
    return save(dict(tensors), metadata={"card": json.dumps(sealed, ensure_ascii=False)}), sealed


def read_shared(path: Path) -> OpenedHead:
    """Read a file with one head, where its features came from, and its card.

    Raises
    ------
    StoreError
        If there is no such file, or its format is another version's.
    DamagedStoreError
        If it is damaged, or holds something else than a head.
    """
    if not path.is_file():
        raise StoreError(f"{path}: no such file")
    try:
        with safe_open(path, "pt") as file:
            card = json.loads((file.metadata() or {}).get("card", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if "format_version" not in card:
            raise ValueError("it has no card of a head")
        if (version := card["format_version"]) != FORMAT_VERSION:
            raise StoreError(f"{path}: format {version}, this palm-cache reads {FORMAT_VERSION}; update it")
        if card.pop("sha256") != _digest(card, tensors):
            raise ValueError("its checksum fails")
        json.dumps(card, ensure_ascii=False).encode()  # half a character could be written nowhere
        origin = Origin(path, dict(card["encoder"]["identity"]), card["encoder"]["views"])
        return OpenedHead(_head(card, tensors), origin, card)
    except (SafetensorError, DataError, *DAMAGE) as error:
        raise DamagedStoreError(
            f"{path}: not a readable head ({reason_of(error)}); get it again where it came from"
        ) from error


def runs_in(file: Path) -> tuple[Run, ...]:
    """Return which runs a file holds; raises as :func:`open_head`."""
    return (read_shared(file).head.run,) if file.suffix == SHARED_ENDING else tuple(read_runs(file))


def open_head(file: Path, run: str | None = None) -> OpenedHead:
    """Read the run that is meant.

    Parameters
    ----------
    file : Path
        A heads file, or a file with one head.
    run : str, optional
        See :func:`~palm_cache.store.run_names.choose_run`; by default the best on its held-out shots.

    Raises
    ------
    StoreError, UnknownNameError
        If there is no such head, or it cannot be read.
    """
    if file.suffix == SHARED_ENDING:
        opened = read_shared(file)
        choose_run([opened.head.run], run)
        return opened
    return OpenedHead(*read_head(file, run), None)


def _head(card: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> FittedHead:
    calibration, state = card["calibration"], {name: tensors[name] for name in _texts(card["state"], "state")}
    for name, value in state.items():
        if not torch.isfinite(value).all():
            raise ValueError(f"{name} holds NaN or infinity")
    about = {**card, "fingerprint": card["encoder"]["fingerprint"], "digest": card["features"]}
    _texts([about[name] for name, kind in PLAIN.items() if kind is str], "a text of the card")
    return FittedHead(
        run=_run(card),
        state=state,
        class_names=_class_names(card["classes"]),
        hyperparameters=dict(card["hyperparameters"]),
        calibration=Calibration(**calibration) if calibration else None,
        **plain(about),
    )


def _run(card: Mapping[str, Any]) -> Run:
    spec = _text(card["encoder"]["spec"], "encoder")
    if portable(spec) != spec or ".." in re.split(r"[/\\]", spec):
        raise ValueError(f"encoder {spec!r} is a path of another machine")
    if "+" in spec or not spec.isprintable():
        raise ValueError(f"encoder {spec!r} is not the name of one")
    check_name(slug(spec), "encoder")
    dataset = check_name(_text(card["dataset"], "dataset"), "dataset")
    return run_named(_text(card["run"], "run"), dataset, spec)


def _class_names(listed: object) -> tuple[str, ...]:
    names = _texts(listed, "classes")
    if not 0 < len(names) <= MAX_CLASSES or len(set(names)) < len(names) or "" in names:
        raise ValueError("classes must be different names, at least one")
    return names


def _texts(listed: object, what: str) -> tuple[str, ...]:
    if not isinstance(listed, list):
        raise ValueError(f"{what} is no list")
    return tuple(_text(entry, what) for entry in listed)


def _text(value: object, what: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_NAME:
        raise ValueError(f"{what} is not a short text")
    return value


def _digest(card: Mapping[str, object], tensors: Mapping[str, Tensor]) -> str:
    hashed = hashlib.sha256(json.dumps(card, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        hashed.update(f"\n{name} {value.dtype} {tuple(value.shape)}\n".encode())
        hashed.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()
