"""Which feature stores a dataset, an encoder or nothing at all stands for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from palm_cache.errors import StoreError, did_you_mean
from palm_cache.extraction.datasets.registry import (
    dataset_name,
    find_card,
    home_of,
    namesake,
    root_of,
    source_of,
)
from palm_cache.params import Params
from palm_cache.store.find import dataset_folder, source_of_stores
from palm_cache.store.layout import command_line, extract_command, slug, store_path, stores_present
from palm_cache.store.nearby import STORE, folder_given
from palm_cache.store.places import reaching
from palm_cache.store.root import StoreRoot, exists
from palm_cache.types import AnyPath, AnyPlace, Place
from palm_cache.types.fields import several


def find_stores(
    datasets: AnyPath | Iterable[AnyPath] | None = None,
    encoders: str | Sequence[str] | None = None,
    *,
    features: AnyPlace | None = None,
) -> tuple[list[tuple[Place, ...]], list[str]]:
    """Find the feature stores of some datasets, or all that are present.

    Parameters
    ----------
    datasets : str, path or several, optional
        Known names or folders; by default all that have a store with two classes to train on.
    encoders : str or several, optional
        Their specs; with several every dataset has the stores of all of them, in their order.
    features : path or URL, optional
        The folder of stores.

    Returns
    -------
    stores : list of tuple of Place
        For every dataset its store, or one of each encoder.
    notes : list of str
        Which stores are skipped, and why.

    Raises
    ------
    StoreError
        If there are none.
    UnknownNameError
        If a dataset is neither a known name nor there.
    """
    folder = folder_given(features or Params().features, "features")
    names = None if datasets is None else list(map(str, several(datasets)))
    encoders = () if encoders is None else several(encoders)
    notes: list[str] = []
    specs: list[str | None] = list(dict.fromkeys(encoders)) or [None]
    of_encoders = [_of_encoder(folder, names, spec, notes) for spec in specs]
    if len(of_encoders) == 1:
        return [(store,) for store in of_encoders[0]], notes
    by_dataset = [{store.parent.name: store for store in stores} for stores in of_encoders]
    common = [name for name in by_dataset[0] if all(name in stores for stores in by_dataset)]
    if not common:
        commands = "; ".join(extract_command("NAME_OR_DIR", spec, folder) for spec in encoders)
        raise StoreError(f"{folder}: no dataset has a store of each encoder; make them with: {commands}")
    return [tuple(stores[name] for stores in by_dataset) for name in common], notes


def _of_encoder(
    features: Place, datasets: Sequence[str] | None, encoder: str | None, notes: list[str]
) -> list[Place]:
    """Return the stores of one encoder; add to the notes which are skipped."""
    if datasets is None:
        present = _to_learn_from(stores_present(features, encoder), notes)
        absent = []
    else:
        spec = encoder or Params().encoder
        names = {stored_name(features, dataset): dataset for dataset in datasets}
        notes += filter(None, (_other_one(features, name, dataset) for name, dataset in names.items()))
        stores = {name: store_path(features, name, spec) for name in names}
        present = [store for store in stores.values() if exists(store)]
        absent = [
            f"no feature store at {store}; {_of_other_encoders(store)}make it with: "
            f"{extract_command(names[name], spec, features)}"
            for name, store in stores.items()
            if store not in present
        ]
    if present:
        notes += [f"skipped: {reason}" for reason in absent]
        return present
    nearby = STORE.meant(features) if isinstance(features, Path) else []
    folders = dict.fromkeys(store.parent.parent for store in nearby)
    hint = did_you_mean([f"`features` {folder}" for folder in folders if folder != features])
    if len(absent) == 1 and not hint:
        raise StoreError(absent[0])
    hint = hint or f"make one with: {extract_command('NAME_OR_DIR', encoder, features)}"
    of_encoder = f" of encoder {encoder}" if encoder else ""
    raise StoreError(f"{features}: no feature store{of_encoder} here; {hint}")


def _other_one(features: Place, name: str, dataset: str) -> str:
    """Say which dataset a word does not mean, or what it stands for here; "" where that is plain."""
    given, card = Path(dataset), find_card(dataset)
    plain = given.stem if given.is_file() else given.name
    if name != plain and (other := source_of_stores(features, plain)):
        return f"{dataset} has its stores in {features / name}; those in {features / plain} are of {other}"
    source = source_of_stores(features, name)
    if given.is_file() and Path(source).name == name and source != source_of(given):
        return (
            f"{dataset} is taken for the table of the stores in {features / name}, whose sounds lie in "
            f"{source}; if they are of that folder alone, extract the table first"
        )
    if card is not None and source not in ("", source_of(root_of(card))):
        return f"{dataset} is the known dataset {card.name}; the stores in {features / name} are of {source}"
    return namesake(dataset)


def _of_other_encoders(store: Place) -> str:
    """Say which other encoders the dataset has stores of; "" if none can be read."""
    specs = []
    for path in stores_present(store.parent.parent, dataset=store.parent.name):
        with suppress(StoreError):
            specs.append(StoreRoot(path).header.encoder)
    return f"{did_you_mean([f'`encoder` {spec}' for spec in specs])} If not, " if specs else ""


def stored_name(features: Place, dataset: str, results: Path | None = None) -> str:
    """Return the name that a dataset has among stores and results; where it has some, it need not be here.

    Parameters
    ----------
    results : Path, optional
        Where heads lie; by default only stores count.

    Raises
    ------
    StoreError
        If it is a known one, and the stores of its name are of the folder here that is called so; or a table
        that several stores may be of.
    """
    folder, card = Path(dataset), find_card(dataset)
    with reaching(features):
        folders = [features] if results is None else [features, results]
        if card is not None:  # its store may be of a copy elsewhere: extract --root
            home = dataset_folder(features, card.name, home_of(card))
            if any((parent / home).is_dir() for parent in folders):
                return home
            said = namesake(dataset)
            if said and source_of_stores(features, card.name) == source_of(folder):
                raise StoreError(
                    f"{said}, and the stores in {features / card.name} are of it; those of the known one are "
                    f"made with: {extract_command(card.name, None, features)}"
                )
            return card.name
        plain = folder.name == dataset and not folder.is_dir()
        if plain and any((parent / dataset).is_dir() for parent in folders):
            return dataset
    name = dataset_name(dataset, features)
    own = dataset_folder(features, name, source_of(folder) if folder.exists() else "")
    with reaching(features):
        if not folder.is_file() or any((parent / own).is_dir() for parent in folders):
            return own
        names = sorted({store.parent.name for store in stores_present(features)})
    # Of tables that were read with `root`, stores know the folder of the sounds alone.
    alike = [one for one in names if re.fullmatch(rf"{re.escape(name)}(-[0-9a-f]{{6}})?", one)]
    of_folders = {one: of for one in alike if Path(of := source_of_stores(features, one)).is_dir()}
    if len(of_folders) > 1:
        told = ", ".join(f"{one} of {of or 'a place that is not known'}" for one, of in of_folders.items())
        raise StoreError(f"{dataset}: several stores may be of this table: {told}; give the name of one")
    return next(iter(of_folders), own)


def _unfit(store: StoreRoot) -> str:
    """Return why nothing can be learned from a store; "" where something can."""
    if len(store.header.class_names) < 2:
        label = command_line("label", str(store.path))
        return f"has no labels of two classes; label it with: {label}"
    from palm_cache.store.features import FeatureStore  # torch, which every command loads that comes here

    opened = FeatureStore(store.path)
    labels = opened.labels()
    if any(len(set(labels[fold.train].tolist())) < 2 for fold in opened.folds()):
        return "has a fold that trains on clips of one class; add clips to the others"
    return ""


def _to_learn_from(stores: list[Place], notes: list[str]) -> list[Place]:
    """Skip stores that cannot be read or that nothing can be learned from, and copies of others.

    Of several stores of a dataset and encoder the first is the one that lies where such a store lies by
    default, where one does. Where nothing can be learned from any, none is skipped for that.
    """
    if len(stores) == 1:
        return stores
    keys: dict[Place, tuple[str, str]] = {}
    unfit: dict[Place, str] = {}
    for store in stores:
        try:
            opened = StoreRoot(store)
            header, reason = opened.header, _unfit(opened)
        except StoreError as error:
            notes.append(f"skipped: {error.message}")
        else:
            keys[store] = (header.dataset, f"{slug(header.encoder)}.zarr")
            if reason:
                unfit[store] = f"skipped: {store} {reason}"
    if len(unfit) < len(keys):
        keys = {store: key for store, key in keys.items() if store not in unfit}
        notes += unfit.values()
    firsts: dict[tuple[str, str], Place] = {}
    for store in sorted(keys, key=lambda store: (store.parent.name, store.name) != keys[store]):
        first = firsts.setdefault(keys[store], store)
        if first != store:
            notes.append(f"skipped: {store} has the dataset and encoder of {first}; name it to take it")
    return sorted(firsts.values(), key=str)
