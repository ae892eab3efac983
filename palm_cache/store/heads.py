"""Fitted heads on disk: one HDF5 file per dataset and encoder, one group per run.

Each group holds its state as arrays (``class_embeddings`` and what was learned) and, as attributes,
everything else that predicting needs: class names, encoder spec and fingerprint, how it was trained.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import h5py
import numpy as np
import torch

from palm_cache.errors import DamagedStoreError, StoreError
from palm_cache.store.files import replacing
from palm_cache.types import FittedHead, Run

FORMAT_VERSION = 1

_PLAIN = ("template", "test_views", "fingerprint", "digest", "n_train", "n_params", "fit_seconds")


def run_name(run: Run) -> str:
    """Return the name of a run inside its dataset and encoder, e.g. ``palm-16shots-fold1-seed0``."""
    return f"{run.head}-{run.shots}shots-fold{run.fold}-seed{run.seed}"


def split_run_name(name: str) -> tuple[str, int, int, int]:
    """Return head, shots, fold and seed of a run's name: the inverse of :func:`run_name`."""
    match = re.fullmatch(r"(.+)-(\d+)shots-fold(\d+)-seed(\d+)", name)
    if match is None:
        raise ValueError(f"{name!r} is not the name of a run")
    return match[1], int(match[2]), int(match[3]), int(match[4])


def write_heads(path: Path, heads: Sequence[FittedHead], *stores: Path) -> None:
    """Write a heads file anew, whole or not at all.

    Parameters
    ----------
    *stores : Path
        The feature stores that the heads were fitted on, several if they were joined; evaluation looks there.

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


def read_heads(path: Path) -> tuple[list[FittedHead], tuple[Path, ...]]:
    """Read every head of a file, and the paths of the stores that they were fitted on.

    Raises
    ------
    StoreError
        If there is no such file, or its format is another version's.
    DamagedStoreError
        If it cannot be read.
    """
    if not path.is_file():
        raise StoreError(f"{path}: no heads here; fit some with: palm-cache fit")
    try:
        with h5py.File(path) as file:
            if file.attrs["format_version"] != FORMAT_VERSION:
                raise StoreError(
                    f"{path}: heads format {file.attrs['format_version']}, this palm-cache reads "
                    f"{FORMAT_VERSION}; fit them again with: palm-cache fit"
                )
            stores = [file.attrs["store"], *file.attrs.get("joined_stores", ())]
            return [_read_head(group) for group in file.values()], tuple(Path(str(one)) for one in stores)
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise DamagedStoreError(
            f"{path}: not a readable heads file ({error}); remove it and fit again with: palm-cache fit"
        ) from error


def _read_head(group: h5py.Group) -> FittedHead:
    attributes = {
        name: value.item() if isinstance(value, np.generic) else value for name, value in group.attrs.items()
    }
    return FittedHead(
        run=Run(**{name: attributes[name] for name in Run.__dataclass_fields__}),
        state={name: torch.from_numpy(np.asarray(values[()])) for name, values in group.items()},
        class_names=tuple(str(name) for name in attributes["class_names"]),
        hyperparameters=json.loads(attributes["hyperparameters"]),
        **{name: attributes[name] for name in _PLAIN},
    )
