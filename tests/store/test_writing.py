from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

from samples import make_features, write_sample

from palm_cache.store.features import ROOT, FeatureStore, root_hash
from palm_cache.store.places import folder
from palm_cache.store.writing import claimed_files


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


def test_a_forged_manifest_claims_no_file_but_a_stores_own(tmp_path: Path) -> None:
    store = write_sample(tmp_path / "x.zarr", make_features())
    (store / "sub").mkdir()
    (store / "sub" / "thesis.txt").write_text("years of work")
    root = json.loads((store / ROOT).read_text())
    root["attributes"]["files"] |= {"sub/thesis.txt": [13, "0" * 64], "../other": [1, "0" * 64]}
    root["attributes"]["sha256"] = root_hash(root)
    (store / ROOT).write_text(json.dumps(root))
    claimed = claimed_files(folder(store))
    assert "audio/zarr.json" in claimed
    assert claimed.isdisjoint({"sub/thesis.txt", "../other"})
