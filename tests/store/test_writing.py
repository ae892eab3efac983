from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from samples import make_features, write_sample

from palm_cache.store.features import FeatureStore


def files_of(store: Path) -> dict[str, bytes]:
    return {str(file.relative_to(store)): file.read_bytes() for file in store.rglob("*") if file.is_file()}


def test_the_same_content_is_the_same_store_byte_by_byte(tmp_path: Path) -> None:
    """DVC, which removes a store before the extraction, then sees that nothing has changed."""
    one, other = (write_sample(tmp_path / name, make_features()) for name in ("one.zarr", "other.zarr"))
    assert files_of(one) == files_of(other)


def test_a_chunk_of_another_store_is_no_chunk_of_this_one(tmp_path: Path) -> None:
    """A file that ends with its own CRC-32C has the same CRC-32C as every other that does."""
    features = make_features()
    one = write_sample(tmp_path / "one.zarr", features)
    other = write_sample(tmp_path / "other.zarr", replace(features, audio=2 * features.audio))
    shutil.copy(other / "audio" / "c" / "0" / "0" / "0", one / "audio" / "c" / "0" / "0" / "0")
    assert FeatureStore(one).problems() == ["audio/c/0/0/0 is damaged"]
