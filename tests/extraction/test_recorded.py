from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from samples import make_features, write_sample
from spectrum import SpectrumEncoder

from palm_cache.errors import EncoderError, StaleStoreError
from palm_cache.extraction.encoders.registry import load_encoder
from palm_cache.extraction.recipe import audio_recipe, format1_print, recipe_of
from palm_cache.extraction.recorded import load_same_encoder, load_text_tower
from palm_cache.params import Recipe
from palm_cache.params.use import LoadingParams
from palm_cache.store.features import FeatureStore
from palm_cache.store.fingerprint import REMOTE_CODE, fingerprint

MINI_OF_FORMAT_1 = "f0dc2adc2016f45bdcddf8b86e883c143c41d2bf2c0bb5312040c310fe79df03"
"""Fingerprint of every store of format 1 that mini made in fp32 by crops."""


def test_a_recipe_is_found_again_in_what_is_recorded() -> None:
    for recipe in (
        Recipe(),
        Recipe(views=4),
        Recipe(long="mean"),
        Recipe(precision="bf16"),
        Recipe(precision="bf16", compile=True),
    ):
        assert recipe_of(audio_recipe(load_encoder("mini", recipe, device="cpu"), recipe)) == recipe
    assert recipe_of({"window": [1, 1, "tile", "mean"], "precision": "bf16"}) == Recipe(
        long="mean", precision="bf16"
    )
    assert recipe_of({"window": [1, 1, "tile"], "runtime": "openvino 2026.4"}) == Recipe(runtime="openvino")
    assert recipe_of({}, tokenizer="here") == Recipe(tokenizer="here")


def test_a_store_of_format_1_is_recognised() -> None:
    encoder = load_encoder("mini", device="cpu")
    assert format1_print(encoder, Recipe()) == MINI_OF_FORMAT_1
    assert format1_print(encoder, Recipe(long="mean")) != MINI_OF_FORMAT_1
    assert format1_print(SpectrumEncoder(), Recipe()) is None


def test_the_same_encoder_is_loaded_by_its_record_old_or_new_and_another_refused() -> None:
    said = {"purpose": "made it", "advice": "extract again", "loading": LoadingParams(device="cpu")}
    encoder = load_encoder("mini", device="cpu")
    recorded = audio_recipe(encoder, Recipe())
    for wanted in (fingerprint(recorded), MINI_OF_FORMAT_1):
        assert load_same_encoder("mini", recorded, wanted, **said).spec == "mini"
    other = {**recorded, "weights_sha256": "0"}
    with pytest.raises(StaleStoreError, match=r"other weights than those that made it .*; extract again"):
        load_same_encoder("mini", other, fingerprint(other), **said)


def test_an_encoders_own_number_changes_its_recipe_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def prints() -> list[str]:
        return [
            fingerprint(audio_recipe(one, Recipe()))
            for one in (load_encoder("mini", device="cpu"), SpectrumEncoder())
        ]

    before = prints()
    monkeypatch.setattr(SpectrumEncoder, "IMPLEMENTATION", 2)
    assert prints()[0] == before[0]
    assert prints()[1] != before[1]


def test_a_text_tower_that_does_not_exist_is_not_looked_for_in_anybodys_code(tmp_path: Path) -> None:
    header = FeatureStore(write_sample(tmp_path / "store.zarr", make_features())).header
    silent = replace(header, encoder="hf:somebody/model", text_recipe=None, recipe={REMOTE_CODE: "0" * 64})
    with pytest.raises(EncoderError, match="hf:somebody/model: embeds sound only"):
        load_text_tower(silent, LoadingParams(device="cpu", tokenizer=""))
