"""Writing heads files: anew, with more heads, and with calibrations; see :mod:`palm_cache.store.heads`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import h5py
import numpy as np

from palm_cache.errors import DamagedStoreError, without_credentials
from palm_cache.store.atomic import alone_in, replacing
from palm_cache.store.hdf5 import DIGEST, digest, fill, writing
from palm_cache.store.heads import FORMAT_VERSION, PLAIN, opened_heads
from palm_cache.store.run_names import run_name
from palm_cache.types import Place
from palm_cache.types.runs import Calibration, FittedHead, Run


def write_heads(
    path: Path,
    heads: Sequence[FittedHead],
    *stores: Place,
    identity: Mapping[str, object] | None = None,
    views: int = 1,
) -> None:
    """Write a heads file anew, whole or not at all.

    Parameters
    ----------
    *stores : Place
        The feature stores that the heads were fitted on, several if they were joined; evaluation looks there.
    identity, views : see :class:`~palm_cache.store.heads.Origin`

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    with writing(path) as file:
        # Credentials are the environment's, and the file may be given away.
        places = [without_credentials(str(store)) for store in stores]
        about = {
            "format_version": FORMAT_VERSION,
            "store": places[0],
            "joined_stores": np.array(places[1:], dtype=h5py.string_dtype()),
            "identity": without_credentials(json.dumps(dict(identity or {}), sort_keys=True)),
            "views": views,
            "runs": len(heads),
        }
        fill(file, about)
        for head in heads:
            about = {
                **{name: getattr(head, name) for name in PLAIN},
                **asdict(head.run),
                "class_names": np.array(head.class_names, dtype=h5py.string_dtype()),
                "hyperparameters": json.dumps(dict(head.hyperparameters), sort_keys=True),
            }
            if head.calibration:
                about["calibration"] = json.dumps(asdict(head.calibration))
            arrays = {name: value.numpy() for name, value in head.state.items()}
            fill(file.create_group(run_name(head.run)), about, arrays)


def add_heads(
    path: Path,
    fitted: Sequence[FittedHead],
    *stores: Place,
    identity: Mapping[str, object] | None = None,
    views: int = 1,
    outdated: Callable[[FittedHead], bool] = lambda head: False,
) -> list[str]:
    """Write heads to a file in which others stay: those of the same features, from whatever process.

    A file with other heads, of an earlier state of the store, of another store or outdated, is put aside. A
    head that was there and is the same again keeps its calibration.

    Parameters
    ----------
    fitted : sequence of FittedHead
        Of one state of the features, at least one.
    *stores, identity, views : see :func:`write_heads`
    outdated : callable
        Whether nobody can use a head any more.

    Returns
    -------
    list of str
        What is no longer in the file: heads of other features, and damaged ones.

    Raises
    ------
    StoreError, DamagedStoreError
        If there is a file of which nothing can be read.
    OutputError
        If it cannot be written.
    """
    with alone_in(path.parent):
        earlier, damaged = _read_sound(path) if path.exists() else ([], [])
        renewed, digest = {head.run: head for head in fitted}, fitted[0].digest
        foreign, kept = [], []
        for head in earlier:
            if head.digest != digest or outdated(head):
                foreign.append(head)
            elif head.run not in renewed:
                kept.append(head)
            elif head.calibration and _is_the_same(head, renewed[head.run]):
                renewed[head.run] = replace(renewed[head.run], calibration=head.calibration)
        aside = _copy_aside(path, foreign[0].digest) if foreign else None
        write_heads(path, [*kept, *renewed.values()], *stores, identity=identity, views=views)
    notes = []
    if lost := sorted(set(damaged) - set(map(run_name, renewed))):
        notes.append(f"{path}: damaged and dropped, fit again what you need: {', '.join(lost)}")
    if aside is not None:
        notes.append(
            f"{path}: earlier heads were of another store, of this one before it changed, or of another "
            f"version of palm-cache; they are kept in {aside.name}"
        )
    return notes


def _is_the_same(one: FittedHead, other: FittedHead) -> bool:
    """Tell whether what two heads of a run have learned is the same to the last bit."""
    return one.state.keys() == other.state.keys() and all(
        np.array_equal(value.numpy(), other.state[name].numpy()) for name, value in one.state.items()
    )


def _copy_aside(path: Path, digest: str) -> Path:
    """Copy a heads file to a name with the features that its heads are of."""
    number = 1
    while (aside := path.with_name(f"{path.stem}-{digest[:8]}-{number}{path.suffix}")).exists():
        number += 1
    with replacing(aside) as temporary:
        shutil.copyfile(path, temporary)
    return aside


def write_calibrations(path: Path, calibrations: Mapping[Run, Calibration]) -> None:
    """Give some runs of a heads file their calibration and leave everything else as it is, unread.

    Raises
    ------
    StoreError, DamagedStoreError
        If the file cannot be read, or is not what was written.
    OutputError
        If it cannot be written.
    """
    with alone_in(path.parent, ""), opened_heads(path) as opened, writing(path, edit=True) as file:
        if not opened.intact:  # a new seal would call it whole
            raise DamagedStoreError(
                f"{path}: its bytes have changed; what mends the file: {opened.fit_command()}"
            )
        for run, calibration in calibrations.items():
            group = file[run_name(run)]
            group.attrs["calibration"] = json.dumps(asdict(calibration))
            group.attrs[DIGEST] = digest(group)


def _read_sound(path: Path) -> tuple[list[FittedHead], list[str]]:
    """Read every head that can be read; also return the names of the others."""
    with opened_heads(path) as opened:
        return opened.heads(opened.names)
