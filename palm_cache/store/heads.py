"""Fitted heads on disk: one HDF5 file per dataset and encoder, one group per run.

Each group holds its state as arrays (``class_embeddings`` and what was learned) and, as attributes,
everything else that predicting needs: class names, encoder spec and fingerprint, how it was trained, its
calibration. Attributes of the file say what the encoder behind the fingerprint is.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from palm_cache.errors import DamagedStoreError, StoreError, UnknownNameError
from palm_cache.store.files import replacing
from palm_cache.store.places import place
from palm_cache.types import Calibration, FittedHead, Place, Run

FORMAT_VERSION = 1

PREFERRED_HEAD = "palm"
"""Taken where a file holds several heads and nobody says which."""

_PLAIN = ("template", "test_views", "fingerprint", "digest", "n_train", "n_params", "fit_seconds")


@dataclass(frozen=True, slots=True)
class Origin:
    """The features that the heads of a file were fitted on."""

    store: Place
    """The feature store; evaluation and calibration look there."""
    identity: Mapping[str, object]
    """Of the encoder: what its fingerprint is the hash of. Empty where it was not recorded."""
    views: int
    """Crops per clip."""


def run_name(run: Run) -> str:
    """Return the name of a run inside its dataset and encoder, e.g. ``palm-16shots-fold1-seed0``."""
    return f"{run.head}-{run.shots}shots-fold{run.fold}-seed{run.seed}"


def split_run_name(name: str) -> tuple[str, int, int, int]:
    """Return head, shots, fold and seed of a run's name: the inverse of :func:`run_name`."""
    match = re.fullmatch(r"(.+)-(\d+)shots-fold(\d+)-seed(\d+)", name)
    if match is None:
        raise ValueError(f"{name!r} is not the name of a run")
    return match[1], int(match[2]), int(match[3]), int(match[4])


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
    identity, views : see :class:`Origin`

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["format_version"] = FORMAT_VERSION
        file.attrs["store"] = str(stores[0])
        file.attrs["joined_stores"] = np.array(
            [str(store) for store in stores[1:]], dtype=h5py.string_dtype()
        )
        file.attrs["identity"] = json.dumps(dict(identity or {}), sort_keys=True)
        file.attrs["views"] = views
        for head in heads:
            group = file.create_group(run_name(head.run))
            for name, value in head.state.items():
                group.create_dataset(name, data=value.numpy())
            for name in _PLAIN:
                group.attrs[name] = getattr(head, name)
            for name, number in asdict(head.run).items():
                group.attrs[name] = number
            group.attrs["class_names"] = np.array(head.class_names, dtype=h5py.string_dtype())
            group.attrs["hyperparameters"] = json.dumps(dict(head.hyperparameters), sort_keys=True)
            if head.calibration:
                group.attrs["calibration"] = json.dumps(asdict(head.calibration))


def write_calibrations(path: Path, calibrations: Mapping[Run, Calibration]) -> None:
    """Give some runs of a heads file their calibration and leave everything else as it is.

    Raises
    ------
    StoreError, DamagedStoreError
        If the file cannot be read.
    OutputError
        If it cannot be written.
    """
    read_runs(path)  # says what is wrong with the file, if something is
    with replacing(path) as temporary:
        shutil.copyfile(path, temporary)
        with h5py.File(temporary, "r+") as file:
            for run, calibration in calibrations.items():
                file[run_name(run)].attrs["calibration"] = json.dumps(asdict(calibration))


def read_heads(path: Path) -> tuple[list[FittedHead], tuple[Place, ...]]:
    """Read every head of a file, and the places of the stores that they were fitted on.

    Raises
    ------
    StoreError
        If there is no such file, or its format is another version's.
    DamagedStoreError
        If it cannot be read.
    """
    with _open(path) as file:
        stores = [file.attrs["store"], *file.attrs.get("joined_stores", ())]
        return [_read_head(group) for group in file.values()], tuple(place(str(one)) for one in stores)


def read_runs(path: Path) -> list[Run]:
    """Return which runs a heads file holds, without reading them; raises as :func:`read_heads`."""
    with _open(path) as file:
        return [_read_run(group.attrs) for group in file.values()]


def read_head(path: Path, run: Run) -> tuple[FittedHead, Origin]:
    """Read one head of a file; raises as :func:`read_heads`."""
    with _open(path) as file:
        origin = Origin(
            place(file.attrs["store"]),
            json.loads(file.attrs.get("identity", "{}")),
            int(file.attrs.get("views", 1)),
        )
        return _read_head(file[run_name(run)]), origin


def choose_run(runs: Iterable[Run], wanted: str | None = None) -> Run:
    """Return the run that is meant.

    Of several that fit: a head that learns before one that does not, PALM before others, then the head
    whose name comes first; most shots, first fold, first seed.

    Parameters
    ----------
    runs : iterable of Run
        At least one.
    wanted : str, optional
        Name of a run, or its beginning up to a hyphen: ``palm``, ``palm-16shots``.

    Raises
    ------
    UnknownNameError
        If no run is called that.
    """
    runs = list(runs)
    fitting = runs
    if wanted is not None:
        of_head = [run for run in runs if run.head == wanted]
        fitting = of_head or [run for run in runs if f"{run_name(run)}-".startswith(f"{wanted}-")]
    if not fitting:
        kinds = {f"{run.head}-{run.shots}shots" for run in runs}
        known = kinds if "shot" in str(wanted) else {run.head for run in runs}
        raise UnknownNameError.among("run", str(wanted), sorted(known))
    return min(fitting, key=_preference)


def _preference(run: Run) -> tuple[object, ...]:
    return (run.shots == 0, run.head != PREFERRED_HEAD, run.head, -run.shots, run.fold, run.seed)


@contextmanager
def _open(path: Path) -> Iterator[h5py.File]:
    """Open a heads file for reading, and say what is wrong with it in one line."""
    if not path.is_file():
        raise StoreError(f"{path}: no heads here; fit some with: palm-cache fit")
    try:
        with h5py.File(path) as file:
            if file.attrs["format_version"] != FORMAT_VERSION:
                raise StoreError(
                    f"{path}: heads format {file.attrs['format_version']}, this palm-cache reads "
                    f"{FORMAT_VERSION}; fit them again with: palm-cache fit"
                )
            yield file
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise DamagedStoreError(
            f"{path}: not a readable heads file ({error}); remove it and fit again with: palm-cache fit"
        ) from error


def _read_run(attributes: Mapping[str, Any]) -> Run:
    return Run(**{name: _plain(attributes[name]) for name in Run.__dataclass_fields__})


def _read_head(group: h5py.Group) -> FittedHead:
    attributes = {name: _plain(value) for name, value in group.attrs.items()}
    calibration = attributes.get("calibration")
    return FittedHead(
        run=_read_run(attributes),
        state={name: torch.from_numpy(np.asarray(values[()])) for name, values in group.items()},
        class_names=tuple(str(name) for name in attributes["class_names"]),
        hyperparameters=json.loads(attributes["hyperparameters"]),
        calibration=Calibration(**json.loads(calibration)) if calibration else None,
        **{name: attributes[name] for name in _PLAIN},
    )


def _plain(value: Any) -> Any:
    """Return an attribute's number as Python's own."""
    return value.item() if isinstance(value, np.generic) else value
