from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from palm_cache.extraction.encoders.mini import MiniEncoder
from palm_cache.extraction.encoders.mini_towers import split_words
from pipelines.mini.captions import caption
from pipelines.mini.synthesise import world_mels
from pipelines.mini.train import WINDOW_FRAMES, Recipe, augment, save, train
from pipelines.mini.world import CLIP_SAMPLES, FAMILIES, Family, record


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.names[0])
def test_every_family_sounds(family: Family) -> None:
    clip = record(family, np.random.default_rng(0))
    assert clip.shape == (CLIP_SAMPLES,)
    assert clip.dtype == np.float32
    assert np.isfinite(clip).all()
    assert 0.01 < np.abs(clip).max() <= 1
    assert clip.std() > 1e-3
    np.testing.assert_array_equal(record(family, np.random.default_rng(0)), clip)
    assert not np.array_equal(record(family, np.random.default_rng(1)), clip)


def test_every_family_has_names_of_its_own() -> None:
    for family in FAMILIES:
        assert family.names
        assert all(split_words(name) for name in family.names)
        assert len(set(family.names)) == len(family.names)
    assert len({family.names[0] for family in FAMILIES}) >= 90
    assert len({name for family in FAMILIES for name in family.names}) >= 490


def test_captions_hold_the_name_and_vary() -> None:
    captions = [caption(np.random.default_rng(seed), "siren") for seed in range(200)]
    assert all("siren" in text for text in captions)
    assert 20 < captions.count("siren") < 100
    assert len(set(captions)) > 100


def test_the_training_set_does_not_depend_on_its_cache(tmp_path: Path) -> None:
    made = world_mels(4, 0, tmp_path, jobs=1)
    np.testing.assert_array_equal(world_mels(4, 0, tmp_path, jobs=1), made)
    np.testing.assert_allclose(world_mels(6, 0, tmp_path, jobs=1)[:4], made, atol=0.01)


def test_two_steps_of_training_give_weights_that_load(tmp_path: Path) -> None:
    recipe = Recipe(clips=12, steps=2, batch=8)
    mels = world_mels(recipe.clips, recipe.seed, tmp_path, jobs=1)
    towers = train(recipe, mels, bf16=False)
    save(towers, tmp_path / "mini.safetensors", recipe)
    encoder = MiniEncoder.load(weights=tmp_path / "mini.safetensors")
    assert torch.isfinite(encoder.embed_text(["dog"])).all()
    assert torch.isfinite(encoder.embed_audio(torch.randn(2, 1, encoder.window.samples))).all()
    again = train(recipe, mels, bf16=False)
    assert all(
        torch.equal(a, b)
        for a, b in zip(towers.state_dict().values(), again.state_dict().values(), strict=True)
    )


def test_views_for_training_are_windows_drawn_anew() -> None:
    power = torch.rand(6, 149, 64, generator=torch.Generator().manual_seed(0))
    first, again, other = (augment(power, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert first.shape == (6, WINDOW_FRAMES, 64)
    assert torch.isfinite(first).all()
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
