"""Fitted heads on disk: one HDF5 file per dataset and encoder, one group per run.

Each group holds its state as arrays (``class_embeddings`` and what was learned) and, as attributes,
everything else that predicting needs: class names, encoder spec and fingerprint, how it was trained, its
calibration. Attributes of the file say what the encoder behind the fingerprint is. The file bears a seal and
every group a checksum: what is damaged is told and named, and the runs beside it can still be used.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import h5py

from palm_cache.errors import DamagedStoreError, DataError, StoreError, counted, reason_of
from palm_cache.store.hdf5 import (
    DAMAGE,
    DIGEST,
    attributes,
    digest,
    members,
    reading,
    tensor,
)
from palm_cache.store.layout import HEADS_FILE, check_name, slug
from palm_cache.store.nearby import absent_heads
from palm_cache.store.places import place
from palm_cache.store.remedies import fit_command, fit_command_of
from palm_cache.store.run_names import choose_run, preference, run_name, run_named
from palm_cache.types import MAX_VIEWS, Place
from palm_cache.types.runs import Calibration, FittedHead, Run

FORMAT_VERSION = 2

UNSEALED_VERSION = 1
"""An earlier format without checksums, which is read as it is."""

PLAIN = {
    item.name: kind for item in fields(FittedHead) for kind in (str, int, float) if item.type == kind.__name__
}
"""Fields of a head that are a text or a number, and their types: attributes of a run's group."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The features that the heads of a file were fitted on."""

    store: Place
    """The feature store; evaluation and calibration look there."""
    identity: Mapping[str, object]
    """Of the encoder: what its fingerprint is the hash of. Empty where it was not recorded. Of joined
    encoders ``joined``, a list with that of each."""
    views: int
    """Crops per clip."""

    def __post_init__(self) -> None:
        if not 1 <= int(self.views) == self.views <= MAX_VIEWS:
            raise ValueError(f"{self.views} views a clip")


def read_heads(path: Path, runs: Iterable[Run] | None = None) -> tuple[list[FittedHead], tuple[Place, ...]]:
    """Read the heads of a file, and the places of the stores that they were fitted on.

    Parameters
    ----------
    runs : iterable of Run, optional
        Those that are wanted; by default all.

    Raises
    ------
    StoreError
        If there is no such file, or its format is another version's.
    DamagedStoreError
        If anything in it is damaged; what is, is named.
    """
    with opened_heads(path) as opened:
        heads, damaged = opened.heads(opened.names if runs is None else map(run_name, runs))
        if damaged or not opened.intact:
            what = f"damaged: {', '.join(damaged)}" if damaged else "its bytes have changed, but no run's"
            raise DamagedStoreError(
                f"{path}: {what}; {counted(len(heads), 'run')} can be used, one by one (`run`); what mends "
                f"the file: {opened.fit_command(damaged)}"
            )
        return heads, opened.stores()


def read_runs(path: Path) -> list[Run]:
    """Return which runs a heads file holds, damaged ones too, without reading them.

    Raises
    ------
    StoreError, DamagedStoreError
        As :func:`read_heads`, where not even that can be read.
    """
    with opened_heads(path) as opened:
        return opened.runs()


def read_head(path: Path, run: Run | str | None = None) -> tuple[FittedHead, Origin]:
    """Read one head of a file, whatever is damaged besides it.

    Parameters
    ----------
    run : Run or str, optional
        A name is taken as by :func:`choose_run`. By default it is of the calibrated runs with most shots, on
        the first fold and seed that has some, the one with the least loss on its held-out shots; if none is
        calibrated, the one that :func:`choose_run` prefers.

    Raises
    ------
    StoreError, DamagedStoreError
        As :func:`read_heads`.
    UnknownNameError
        As :func:`choose_run`.
    """
    with opened_heads(path) as opened:
        chosen = run if isinstance(run, Run) else opened.chosen(run)
        return opened.head(run_name(chosen)), opened.origin()


class HeadsFile:
    """A heads file that is being read.

    Parameters
    ----------
    path : Path
    file : h5py.File
    sealed : bool
        Whether it is known to be what was written.
    """

    def __init__(self, path: Path, file: h5py.File, sealed: bool) -> None:
        self._path, self._file = path, file
        version = file.attrs["format_version"]
        if version not in (UNSEALED_VERSION, FORMAT_VERSION):
            raise StoreError(
                f"{path}: heads format {version}, this palm-cache reads {FORMAT_VERSION}; update it, or "
                f"remove the file and fit again with: {fit_command_of(path)}"
            )
        self.intact = sealed or version == UNSEALED_VERSION
        self._groups = members(file)
        self._values: dict[str, Mapping[str, Any]] = {}
        self.names = list(self._groups)
        if not self.intact and (file.attrs[DIGEST] != digest(file) or file.attrs["runs"] != len(self.names)):
            raise ValueError("what it says of itself has changed")

    def stores(self) -> tuple[Place, ...]:
        """Return the places of the stores that the heads were fitted on."""
        values = self._file.attrs
        return tuple(place(str(address)) for address in [values["store"], *values.get("joined_stores", ())])

    def origin(self) -> Origin:
        """Return what the heads were fitted on."""
        values = attributes(self._file)
        identity = dict(json.loads(values.get("identity", "{}")))
        return Origin(self.stores()[0], identity, values.get("views", 1))

    def runs(self) -> list[Run]:
        """Return which runs it holds, damaged ones too."""
        runs, damaged = [], []
        for name in self.names:
            try:
                runs.append(_read_run(name, self._attributes(name)))
            except (*DAMAGE, DataError):
                damaged.append(name)
        if damaged and not runs:
            raise ValueError("no run of it can be read")
        # Of a damaged one the name tells what it was; in a file all are of one dataset and encoder.
        return [*runs, *(run_named(name, runs[0].dataset, runs[0].encoder) for name in damaged)]

    def digests(self) -> set[str]:
        """Return the digests of the features that its runs were fitted on: one, in a file of ours."""
        return {str(group.attrs["digest"]) for group in self._groups.values()}

    def fit_command(self, names: Collection[str] = ()) -> str:
        """Return the command that fits runs of some names again, or all."""
        with suppress(*DAMAGE, DataError):
            if runs := [run for run in self.runs() if not names or run_name(run) in names]:
                return fit_command(runs, self.stores(), self._path)
        return fit_command_of(self._path)

    def chosen(self, name: str | None) -> Run:
        """Return the run that a name means; see :func:`read_head`."""
        calibrations = self.calibrations() if name is None else {}
        if not calibrations:
            return choose_run(self.runs(), name)
        most_shots = min((-run.shots, run.fold, run.seed) for run in calibrations)
        comparable = [run for run in calibrations if (-run.shots, run.fold, run.seed) == most_shots]
        return min(comparable, key=lambda run: (calibrations[run].loss, preference(run)))

    def calibrations(self) -> dict[Run, Calibration]:
        """Return the calibration of every run that has one and can be read."""
        calibrated = {}
        for name, group in self._groups.items():
            with suppress(*DAMAGE, DataError):
                values = self._attributes(name)
                sound = self.intact or values[DIGEST] == digest(group)
                if sound and (calibration := _read_calibration(values)):
                    calibrated[_read_run(name, values)] = calibration
        return calibrated

    def heads(self, names: Iterable[str]) -> tuple[list[FittedHead], list[str]]:
        """Read the heads of some names; also return which of them cannot be read."""
        heads, damaged = [], []
        for name in names:
            try:
                heads.append(self.head(name))
            except DamagedStoreError:
                damaged.append(name)
        return heads, damaged

    def _attributes(self, name: str) -> Mapping[str, Any]:
        """Return the attributes of a run's group, read once."""
        if name not in self._values:
            self._values[name] = attributes(self._groups[name])
        return self._values[name]

    def head(self, name: str) -> FittedHead:
        """Read the head of that name.

        Raises
        ------
        DamagedStoreError
            If it is damaged, absent, or not what a head must be.
        """
        try:
            group = self._groups[name]
            values = self._attributes(name)
            if not self.intact and values[DIGEST] != digest(group):
                raise ValueError("its checksum fails")
            return _read_head(name, group, values)
        except (*DAMAGE, DataError) as error:
            raise DamagedStoreError(
                f"{self._path}: run {name} is damaged ({reason_of(error)}); choose another with `run`, or "
                f"fit it again with: {self.fit_command([name])}"
            ) from error


@contextmanager
def opened_heads(path: Path) -> Iterator[HeadsFile]:
    """Open a heads file for reading, and say what is wrong with it in one line."""
    if not path.is_file():
        raise absent_heads(path)
    try:
        with reading(path) as (file, sealed):
            yield HeadsFile(path, file, sealed)
    except DAMAGE as error:
        remedy = f"give a {HEADS_FILE} or its folder"
        if path.name == HEADS_FILE:  # a file of another name is none of ours, and nobody's to remove
            remedy = f"remove it and fit again with: {fit_command_of(path)}"
        raise DamagedStoreError(
            f"{path}: not a readable heads file ({reason_of(error)}); {remedy}"
        ) from error


def _read_run(name: str, values: Mapping[str, Any]) -> Run:
    known = {"variant": "", **values}
    run = Run(**{field: known[field] for field in Run.__dataclass_fields__})
    check_name(run.dataset, "dataset")
    check_name(slug(run.encoder), "encoder")
    if run_named(name, run.dataset, run.encoder) != run:
        raise ValueError(f"it calls itself {run_name(run)}")
    return run


def _read_head(name: str, group: h5py.Group, values: Mapping[str, Any]) -> FittedHead:
    return FittedHead(
        run=_read_run(name, values),
        state={key: tensor(member) for key, member in members(group).items()},
        class_names=tuple(str(label) for label in values["class_names"]),
        hyperparameters=dict(json.loads(values["hyperparameters"])),
        calibration=_read_calibration(values),
        **plain(values),
    )


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of :data:`PLAIN`; raises ``ValueError`` if one is no such text or number."""
    for key, kind in PLAIN.items():
        value = values[key]
        number = 0 if isinstance(value, str) else value
        if not 0 <= number < 2**63 or not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"{key} is {value!r}")
    return {key: values[key] for key in PLAIN}


def _read_calibration(values: Mapping[str, Any]) -> Calibration | None:
    calibration = json.loads(values.get("calibration", "null"))
    return Calibration(**calibration) if calibration else None
