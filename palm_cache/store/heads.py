"""Fitted heads on disk: one HDF5 file per dataset and encoder, one group per run.

Each group holds its state as arrays (``class_embeddings`` and what was learned) and, as attributes,
everything else that predicting needs: class names, encoder spec and fingerprint, how it was trained, its
calibration. Attributes of the file say what the encoder behind the fingerprint is. The file bears a seal and
every group a checksum: what is damaged is told and named, and the runs beside it can still be used.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from palm_cache.errors import (
    DamagedStoreError,
    DataError,
    StoreError,
    UnknownNameError,
    counted,
    without_credentials,
)
from palm_cache.store.atomic import alone_in, replacing
from palm_cache.store.hdf5 import (
    DAMAGE,
    DIGEST,
    attributes,
    digest,
    editing,
    fill,
    members,
    reading,
    reason,
    tensor,
    writing,
)
from palm_cache.store.layout import check_name, slug
from palm_cache.store.nearby import absent_heads
from palm_cache.store.places import place
from palm_cache.types import MAX_VIEWS, Place
from palm_cache.types.runs import Calibration, FittedHead, Run, parse_shots, spell_shots

FORMAT_VERSION = 2

UNSEALED_VERSION = 1
"""An earlier format without checksums, which is read as it is."""

PREFERRED_HEAD = "palm"
"""Taken where a file holds several heads and nobody says which."""

_PLAIN = {
    "template": str,
    "test_views": str,
    "fingerprint": str,
    "digest": str,
    "n_train": int,
    "n_params": int,
    "fit_seconds": float,
}


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


def run_name(run: Run) -> str:
    """Return the name of a run inside its dataset and encoder, e.g. ``palm-16shots-fold1-seed0``."""
    return f"{run.method}-{spell_shots(run.shots)}shots-fold{run.fold}-seed{run.seed}"


def split_run_name(name: str) -> tuple[str, int, int, int]:
    """Return method, shots, fold and seed of a run's name: the inverse of :func:`run_name`."""
    # Exported files are named after runs: nothing in a name may lead into another folder.
    match = re.fullmatch(r"([^/\\\x00-\x1f\x7f-\x9f]+)-(\d+|all)shots-fold(\d+)-seed(\d+)", name, re.ASCII)
    if match is None:
        raise ValueError(f"{name!r} is not the name of a run")
    return match[1], parse_shots(match[2]), int(match[3]), int(match[4])


def without_variant(name: str) -> str:
    """Return a run's name, or what of it is given, without its variant."""
    return re.sub(r"@.*?(?=-(?:\d+|all)shots|$)", "", name)


def run_named(name: str, dataset: str, encoder: str) -> Run:
    """Return the run of a name: the inverse of :func:`run_name`."""
    method, shots, fold, seed = split_run_name(name)
    head, _, variant = method.partition("@")
    return Run(dataset, encoder, head, shots, fold, seed, variant)


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
                **{name: getattr(head, name) for name in _PLAIN},
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
) -> tuple[int, list[str]]:
    """Write heads to a file in which others stay: those of the same features, from whatever process.

    A file with other heads, of an earlier state of the store, of another store or outdated, is put aside.

    Parameters
    ----------
    fitted : sequence of FittedHead
        Of one state of the features, at least one.
    *stores, identity, views : see :func:`write_heads`
    outdated : callable
        Whether nobody can use a head any more.

    Returns
    -------
    kept : int
        Heads that stay.
    notes : list of str
        What is no longer in the file: heads of other features, and damaged ones.

    Raises
    ------
    StoreError, DamagedStoreError
        If there is a file of which nothing can be read.
    OutputError
        If it cannot be written.
    """
    with alone_in(path.parent):
        earlier, damaged = _read_sound(path) if path.exists() else ([], {})
        renewed, digest = {head.run for head in fitted}, fitted[0].digest
        foreign, kept = [], []
        for head in earlier:
            if head.digest != digest or outdated(head):
                foreign.append(head)
            elif head.run not in renewed:
                kept.append(head)
        aside = _copy_aside(path, foreign[0].digest) if foreign else None
        write_heads(path, [*kept, *fitted], *stores, identity=identity, views=views)
    notes = []
    if lost := sorted(damaged.keys() - set(map(run_name, renewed))):
        notes.append(f"{path}: damaged and dropped, fit again what you need: {', '.join(lost)}")
    if aside is not None:
        notes.append(
            f"{path}: earlier heads were of another store, of this one before it changed, or of another "
            f"version of palm-cache; they are kept in {aside.name}"
        )
    return len(kept), notes


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
    with alone_in(path.parent), _open(path) as opened, editing(path) as file:
        if not opened.intact:  # a new seal would call it whole
            raise DamagedStoreError(f"{path}: its bytes have changed; palm-cache fit mends the file")
        for run, calibration in calibrations.items():
            group = file[run_name(run)]
            group.attrs["calibration"] = json.dumps(asdict(calibration))
            group.attrs[DIGEST] = digest(group)


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
    with _open(path) as opened:
        heads, damaged = opened.heads(opened.names if runs is None else map(run_name, runs))
        if damaged or not opened.intact:
            what = f"damaged: {', '.join(damaged)}" if damaged else "its bytes have changed, but no run's"
            raise DamagedStoreError(
                f"{path}: {what}; {counted(len(heads), 'run')} can be used, one by one (--run); "
                "palm-cache fit with its options mends the file"
            )
        return heads, opened.stores()


def read_runs(path: Path) -> list[Run]:
    """Return which runs a heads file holds, damaged ones too, without reading them.

    Raises
    ------
    StoreError, DamagedStoreError
        As :func:`read_heads`, where not even that can be read.
    """
    with _open(path) as opened:
        return opened.runs()


def read_calibrations(path: Path) -> dict[Run, Calibration | None]:
    """Return the calibration of every run of a heads file, without reading its numbers."""
    with _open(path) as opened:
        calibrations = opened.calibrations()
        return {run: calibrations.get(run) for run in opened.runs()}


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
    with _open(path) as opened:
        chosen = run if isinstance(run, Run) else opened.chosen(run)
        return opened.head(run_name(chosen)), opened.origin()


def _read_sound(path: Path) -> tuple[list[FittedHead], dict[str, DamagedStoreError]]:
    """Read every head that can be read, and why the others, by name, cannot."""
    with _open(path) as opened:
        return opened.heads(opened.names)


def choose_run(runs: Iterable[Run], wanted: str | None = None) -> Run:
    """Return the run that is meant.

    Of several that fit: a head that learns before one that does not, PALM before others, then the head
    whose name comes first; most shots; one with the default options before others; first fold, first seed.

    Parameters
    ----------
    runs : iterable of Run
        At least one.
    wanted : str, optional
        Name of a run, or its beginning up to a hyphen: ``palm``, ``palm-16shots``, ``palm@lr=0.005``; what
        fits no name may leave out the variant.

    Raises
    ------
    UnknownNameError
        If no run is called that.
    """
    runs = list(runs)
    fitting = runs
    if wanted is not None:
        of_head = [run for run in runs if run.head == wanted]
        named = [run for run in runs if f"{run_name(run)}-".startswith(f"{wanted}-")]
        plain = [run for run in runs if f"{without_variant(run_name(run))}-".startswith(f"{wanted}-")]
        fitting = of_head or named or plain
    if not fitting:
        names = {run: run.method if "@" in str(wanted) else run.head for run in runs}
        kinds = {f"{name}-{spell_shots(run.shots)}shots" for run, name in names.items()}
        known = kinds if "shot" in str(wanted) else set(names.values())
        raise UnknownNameError.among("run", str(wanted), sorted(known))
    return min(fitting, key=_preference)


def chosen_run(path: Path, name: str | None) -> Run:
    """Return the run of a heads file that a name means: see :func:`read_head`."""
    with _open(path) as opened:
        return opened.chosen(name)


def _preference(run: Run) -> tuple[object, ...]:
    learned_first = (run.shots == 0, run.head != PREFERRED_HEAD, run.head)
    return (*learned_first, -run.shots, run.variant, run.fold, run.seed)


class _Opened:
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
                f"{path}: heads format {version}, this palm-cache reads {FORMAT_VERSION}; fit them again "
                "with: palm-cache fit"
            )
        self.intact = sealed or version == UNSEALED_VERSION
        self._groups = members(file)
        self._values: dict[str, Mapping[str, Any]] = {}
        self.names = list(self._groups)
        if not self.intact and (file.attrs[DIGEST] != digest(file) or file.attrs["runs"] != len(self.names)):
            raise ValueError("what it says of itself has changed")

    def stores(self) -> tuple[Place, ...]:
        values = self._file.attrs
        return tuple(place(str(address)) for address in [values["store"], *values.get("joined_stores", ())])

    def origin(self) -> Origin:
        values = attributes(self._file)
        views = values.get("views", 1)
        if not 1 <= views <= MAX_VIEWS:
            raise ValueError(f"{views} views a clip")
        return Origin(self.stores()[0], dict(json.loads(values.get("identity", "{}"))), views)

    def runs(self) -> list[Run]:
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

    def chosen(self, name: str | None) -> Run:
        """Return the run that a name means; see :func:`read_head`."""
        calibrations = self.calibrations() if name is None else {}
        if not calibrations:
            return choose_run(self.runs(), name)
        most_shots = min((-run.shots, run.fold, run.seed) for run in calibrations)
        comparable = [run for run in calibrations if (-run.shots, run.fold, run.seed) == most_shots]
        return min(comparable, key=lambda run: (calibrations[run].loss, _preference(run)))

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

    def heads(self, names: Iterable[str]) -> tuple[list[FittedHead], dict[str, DamagedStoreError]]:
        """Read the heads of some names, and say why those that cannot be read cannot."""
        heads, damaged = [], {}
        for name in names:
            try:
                heads.append(self.head(name))
            except DamagedStoreError as error:
                damaged[name] = error
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
                f"{self._path}: run {name} is damaged ({reason(error)}); choose another with --run, or fit "
                "it again with: palm-cache fit"
            ) from error


@contextmanager
def _open(path: Path) -> Iterator[_Opened]:
    """Open a heads file for reading, and say what is wrong with it in one line."""
    if not path.is_file():
        raise absent_heads(path)
    try:
        with reading(path) as (file, sealed):
            yield _Opened(path, file, sealed)
    except DAMAGE as error:
        raise DamagedStoreError(
            f"{path}: not a readable heads file ({reason(error)}); remove it and fit again with: "
            "palm-cache fit"
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
    for key, kind in _PLAIN.items():
        if not isinstance(values[key], kind):
            raise ValueError(f"{key} is {values[key]!r}")
    return FittedHead(
        run=_read_run(name, values),
        state={key: tensor(member) for key, member in members(group).items()},
        class_names=tuple(str(label) for label in values["class_names"]),
        hyperparameters=dict(json.loads(values["hyperparameters"])),
        calibration=_read_calibration(values),
        **{key: values[key] for key in _PLAIN},
    )


def _read_calibration(values: Mapping[str, Any]) -> Calibration | None:
    calibration = json.loads(values.get("calibration", "null"))
    return Calibration(**calibration) if calibration else None
