"""Where things lie by default.

::

    data/raw/<Name>/                          a dataset
    FEATURES/<dataset>/<encoder>.zarr         its embeddings; FEATURES is data/features, or a URL
    FEATURES/.cache/                          what is known of every content, for all datasets
    OUT/<dataset>/<encoder>/heads.h5          heads fitted on them; of joined encoders <encoder>+<encoder>
    OUT/scores.csv, predictions.h5, metrics.json, report/
"""

from __future__ import annotations

import glob
import re
import shlex
import unicodedata
from dataclasses import asdict
from pathlib import Path

from palm_cache.errors import DataError
from palm_cache.params import Params
from palm_cache.store.places import reaching
from palm_cache.types import Place

DEFAULTS = Params()

RAW = Path("data", "raw")
FEATURES = DEFAULTS.features
RUNS = Path("runs")

STORE_ENDING = ".zarr"

STORE_ROOT = "zarr.json"
"""Metadata of a store's root, with the header and the manifest: where it is whole, there is a store."""

HEADS_FILE = "heads.h5"
"""The file's name in a folder of fitted heads."""

SHARED_ENDING = ".safetensors"

SHARED_FILE = f"head{SHARED_ENDING}"
"""The file's name in a folder or repository that holds one head."""

CACHE = ".cache"
"""Folder beside the datasets' in a folder of stores."""


def check_name(name: str, what: str) -> str:
    """Return a name that is about to become a part of a path: names are read from files.

    Raises ``DataError`` if it would lead elsewhere, or no file can be called that.
    """
    odd = any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name)
    if Path(name).name != name or name in ("", "..") or "/" in name or odd:
        raise DataError(f"{what} {name!r} cannot be the name of a folder; rename it")
    return name


def slug(spec: str) -> str:
    """Return an encoder spec's form in file names: ``clap:laion/x`` becomes ``clap-x``.

    Only the last part of the source is kept; the fingerprint inside a store tells versions apart. Of joined
    encoders, ``mini+clap:laion/x``, every one has its form: ``mini+clap-x``.
    """
    if "+" in spec:
        return "+".join(slug(part) for part in spec.split("+"))
    name, _, source = spec.partition(":")
    last = source.rstrip("/\\").replace("\\", "/").rsplit("/", 1)[-1]
    if name == "pengi":
        last = Path(last).stem
    return re.sub(r"[^A-Za-z0-9._-]+", "-", f"{name}-{last}" if last else name)


def store_path(features: Place, dataset: str, encoder: str) -> Place:
    """Return the place of an encoder spec's store in a folder of stores; raises as :func:`check_name`."""
    return features / check_name(dataset, "dataset") / f"{check_name(slug(encoder), 'encoder')}.zarr"


def stores_present(features: Place, encoder: str | None = None, dataset: str | None = None) -> list[Place]:
    """Return every feature store in a folder of stores, of one encoder spec or dataset or of all."""
    of_encoder = "*" if encoder is None else glob.escape(slug(encoder))
    of_dataset = "*" if dataset is None else glob.escape(dataset)
    with reaching(features):
        stores: list[Place] = list(features.glob(f"{of_dataset}/{of_encoder}.zarr"))
    return sorted((path for path in stores if not path.name.startswith(".")), key=str)


def heads_path(out: Path, dataset: str, encoder: str) -> Path:
    """Return where the heads of a dataset and encoder spec are kept; raises as :func:`check_name`."""
    return out / check_name(dataset, "dataset") / check_name(slug(encoder), "encoder") / HEADS_FILE


USUAL = {
    **{"encoder": DEFAULTS.encoder, "features": FEATURES, "out": RUNS},
    **{**asdict(DEFAULTS.extract), "limit": DEFAULTS.resources.limit},
}
"""What options are where they are not given."""


def command_line(*words: str, **options: object) -> str:
    """Return a command of ``palm-cache`` as it is typed.

    Parameters
    ----------
    **options
        Values of options by their names; several in a list, a truth value of a flag. Those that are ``None``
        or usual are not typed.
    """
    typed = ["palm-cache", *words]
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            typed += [option] * value
            continue
        given = [str(item) for item in (value if isinstance(value, list) else [value]) if item is not None]
        if name not in USUAL or given != [str(USUAL[name])]:
            typed += [word for item in given for word in (option, item)]
    return shlex.join(typed)


def extract_command(dataset: str, encoder: str | None = None, features: Place | None = None) -> str:
    """Return the command that makes a store, of ``mini`` and below ``data/features`` unless named."""
    return command_line("extract", dataset=dataset, encoder=encoder, features=features)
