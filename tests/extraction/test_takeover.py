from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from samples import assert_same, read_arrays
from spectrum import Run

from palm_cache.errors import StaleStoreError
from palm_cache.extraction import extract as stage_one
from palm_cache.store.features import FeatureStore

pytestmark = pytest.mark.usefixtures("small_chunks")


def write_format1(out: Path, arrays: dict[str, np.ndarray], attributes: dict[str, object]) -> None:
    """Write a store as the first version did: chunks of 64 clips, hashes and errors as text."""
    group = zarr.create_group(out, attributes={"format_version": 1, **attributes})
    hashes = np.array([one.tobytes().hex() for one in arrays["content_sha256"]], np.dtypes.StringDType())
    group.create_array("audio", data=arrays["audio"], chunks=(64, *arrays["audio"].shape[1:]))
    group.create_array("content_sha256", data=hashes, chunks=(64,))
    group.create_array("error", data=np.array([""] * len(hashes), np.dtypes.StringDType()), chunks=(64,))


def test_a_store_of_format_1_is_taken_over_and_nothing_is_embedded(
    run: Run, out: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    whole = read_arrays(out)
    shutil.rmtree(cache.parent)
    monkeypatch.setattr(stage_one, "format1_print", lambda encoder, recipe: "old")
    attributes = {"dataset": "Tones", "encoder": "mini", "fingerprint": "old", "views": 1}
    write_format1(out, whole, attributes)
    (out / "notes.txt").write_text("mine")
    done = run()
    assert done.embedded == 0
    assert done.notes == (f"{out} was of an earlier format; 18 clips kept their embedding",)
    (out / "notes.txt").unlink()
    assert_same(read_arrays(out), whole)
    assert FeatureStore(out).problems() == []
    shutil.rmtree(cache.parent)
    write_format1(out, whole, {**attributes, "fingerprint": "another"})
    with pytest.raises(StaleStoreError, match="written by an earlier palm-cache with another encoder"):
        run()
    assert run(on_stale="rebuild").embedded == 18


def test_a_lost_error_file_of_format_1_makes_no_zeros(
    run: Run, out: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    whole = read_arrays(out)
    shutil.rmtree(cache.parent)
    monkeypatch.setattr(stage_one, "format1_print", lambda encoder, recipe: "old")
    spoilt = {**whole, "audio": whole["audio"].copy()}
    spoilt["audio"][3] = 0
    write_format1(out, spoilt, {"dataset": "Tones", "encoder": "mini", "fingerprint": "old", "views": 1})
    shutil.rmtree(out / "error" / "c", ignore_errors=True)
    assert run().embedded == 1
    assert_same(read_arrays(out), whole)
