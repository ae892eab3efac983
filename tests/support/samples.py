"""Small inputs that tests make on the spot."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import zarr

from palm_cache.adaptation.heads.base import Shots, unit
from palm_cache.params import Recipe, Resources
from palm_cache.store.header import FORMAT_VERSION, StoredRows, StoreHeader
from palm_cache.store.places import folder, place
from palm_cache.store.writing import write_store
from palm_cache.types import TEMPLATES, Features, Fold

RATE = 16_000


def shared(name: str) -> Path:
    """Return a folder of the reference material beside the project; skip the test where it is absent."""
    folder = Path(__file__).parents[3] / "shared" / name
    if not folder.is_dir():
        pytest.skip(f"{name} is not beside the project, in a folder called shared")
    return folder


def make_features(
    *,
    n_classes: int = 4,
    clips_per_class: int = 30,
    n_folds: int = 3,
    dim: int = 24,
    n_views: int = 1,
    noise: float = 0.6,
    shift: float = 0.8,
    failed: Sequence[int] = (),
    parts: tuple[int, ...] = (),
    seed: int = 0,
) -> Features:
    """Make features whose classes are noisy clusters, ``shift`` away from their text embeddings."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(n_classes, len(TEMPLATES), dim, generator=generator)
    labels = torch.arange(n_classes * clips_per_class) % n_classes
    centres = text[:, 0] + shift * torch.randn(n_classes, dim, generator=generator)
    audio = centres[labels][:, None] + noise * 3 * torch.randn(len(labels), n_views, dim, generator=generator)
    usable = torch.ones(len(labels), dtype=torch.bool)
    usable[list(failed)] = False
    audio[list(failed)] = 0
    fold_of = (torch.arange(len(labels)) // n_classes) % n_folds
    rows = torch.arange(len(labels))
    return Features(
        dataset="clusters",
        encoder="mini",
        fingerprint="f" * 64,
        digest="d" * 64,
        audio=audio,
        text=text,
        labels=labels,
        usable=usable,
        class_names=tuple(f"class {number}" for number in range(n_classes)),
        templates=TEMPLATES,
        folds=tuple(Fold(rows[fold_of != fold], rows[fold_of == fold]) for fold in range(n_folds)),
        parts=parts,
    )


def make_shots(
    *,
    runs: int,
    n_classes: int = 4,
    clips_per_class: int = 8,
    views: int = 1,
    dim: int = 24,
    noise: float = 1.0,
    shift: float = 0.8,
    wrong_text: bool = False,
    parts: tuple[int, ...] = (),
    audio: torch.Tensor | None = None,
    seed: int = 0,
) -> Shots:
    """Make shots whose classes are noisy clusters, ``shift`` away from their prompts, right or swapped."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(n_classes, dim, generator=generator)
    labels = torch.arange(n_classes).repeat(clips_per_class).repeat_interleave(views).expand(runs, -1)
    centres = text + shift * torch.randn(n_classes, dim, generator=generator)
    if audio is None:
        audio = centres[labels] + noise * torch.randn(runs, labels.shape[1], dim, generator=generator)
    prompts = text.roll(1, dims=0) if wrong_text else text
    if sum(parts) > dim:
        prompts = prompts.repeat(1, sum(parts) // dim)
    return Shots(
        unit(audio), labels, unit(prompts).expand(runs, -1, -1), tuple(range(runs)), views=views, parts=parts
    )


def write_tone(
    file: Path, frequency: float, *, seconds: float = 1.0, rate: int = RATE, seed: int = 0
) -> None:
    """Write a noisy tone; the container follows from the file's ending."""
    time = np.arange(int(seconds * rate)) / rate
    noise = np.random.default_rng(seed).standard_normal(len(time))
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, 0.3 * np.sin(2 * np.pi * frequency * time) + 0.01 * noise, rate)


def write_palm_folder(
    root: Path, *, classes: Sequence[str] = ("low tone", "high tone"), train: int = 4, test: int = 2
) -> Path:
    """Write a folder in the PALM layout: one tone per class, a little different in every clip."""
    tables: dict[str, list[str]] = {"train": [], "test": []}
    for label, name in enumerate(classes):
        for part, count in (("train", train), ("test", test)):
            for number in range(count):
                path = f"audios/{part}_{label}_{number}.wav"
                frequency = 200.0 * 3**label + 7 * number
                seed = 100 * label + number + (50 if part == "test" else 0)
                write_tone(root / path, frequency, seconds=0.5 + 0.1 * number, seed=seed)
                tables[part].append(f"{path},{name}")
    for part, lines in tables.items():
        (root / f"{part}.csv").write_text("\n".join(["path,classname", *lines]) + "\n")
    return root


def write_sample(
    path: Path, features: Features, hashes: Sequence[str] = (), source: str = "", published: str = ""
) -> Path:
    """Write features as a complete feature store; content hashes follow from the rows if none are given."""
    hashes = hashes or [f"{row + 1:064x}" for row in range(len(features.labels))]
    n_clips, n_views, dim = features.audio.shape
    contents = [bytes.fromhex(hashed) if hashed else bytes(32) for hashed in hashes]
    rows = StoredRows(
        names=[f"{row}.wav" for row in range(n_clips)],
        start=np.zeros(n_clips),
        end=np.full(n_clips, np.nan),
        labels=features.labels.numpy(),
        contents=np.frombuffer(b"".join(contents), np.uint8).reshape(-1, 32),
        errors={int(row): "broken" for row in (~features.usable).nonzero()},
        folds=features.folds,
    )
    header = StoreHeader(
        format_version=FORMAT_VERSION,
        id="",
        dataset=features.dataset,
        source=source,
        published=published,
        encoder=features.encoder,
        recipe={"encoder": "mini", "precision": "fp32"},
        fingerprint=features.fingerprint,
        text_recipe={"encoder": "mini"},
        dim=dim,
        token_dim=8,
        sample_rate=RATE,
        seconds=1.0,
        views=n_views,
        templates=features.templates,
        class_names=features.class_names,
        rows_sha256="",
        text_sha256="",
        made_with={},
    )
    audio = features.audio.numpy()
    write_store(path, header, rows, features.text.numpy(), audio.__getitem__)
    return path


def upload(source: Path, target: str) -> None:
    """Copy a folder of this machine to the folder behind a URL."""
    where = folder(place(target))
    for name in folder(source).files():
        where.write(name, (source / name).read_bytes())


def read_arrays(store: Path) -> dict[str, np.ndarray]:
    """Every array of a store, read with plain zarr."""
    group = zarr.open_group(store, mode="r")
    return {
        name: member[:] for name, member in group.members(max_depth=None) if isinstance(member, zarr.Array)
    }


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name, values in one.items():
        assert np.array_equal(values, other[name], equal_nan=values.dtype.kind == "f"), name


def flip_bit(file: Path, place: int = 7) -> None:
    """Damage a file as a disk would: one bit of one byte."""
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def parted(**params: object) -> tuple[Recipe, Resources]:
    """Give every parameter to the dataclass that has it."""
    own = {field.name for field in fields(Recipe)}
    recipe = {name: value for name, value in params.items() if name in own}
    resources = {name: value for name, value in params.items() if name not in own}
    return Recipe(**recipe), Resources(**resources)  # type: ignore[arg-type]


def embedder_threads() -> set[threading.Thread]:
    """Readers and workers that live."""
    return {thread for thread in threading.enumerate() if thread.name.startswith(("reader", "worker"))}
