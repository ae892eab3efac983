from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from samples import make_features, write_sample

from palm_cache.adaptation.fit import fit_runs
from palm_cache.errors import StoreError
from palm_cache.params import FitParams
from palm_cache.store.features import FeatureStore
from palm_cache.store.join import read_features
from palm_cache.store.layout import heads_path, slug
from palm_cache.types import Features


def other_encoder(features: Features, order: torch.Tensor) -> Features:
    """The same clips in another order, through another encoder."""
    generator = torch.Generator().manual_seed(1)
    return replace(
        features,
        encoder="clap:some/other",
        fingerprint="e" * 64,
        audio=5 * torch.randn(len(order), 1, 10, generator=generator),
        text=5 * torch.randn(4, len(features.templates), 10, generator=generator),
        labels=features.labels[order],
        usable=features.usable[order],
    )


@pytest.fixture
def pair(tmp_path: Path, features: Features) -> tuple[Path, Path]:
    order = torch.randperm(120, generator=torch.Generator().manual_seed(3))
    other = other_encoder(features, order)
    hashes = [f"{row + 1:064x}" for row in order.tolist()]
    return write_sample(tmp_path / "a.zarr", features), write_sample(tmp_path / "b.zarr", other, hashes)


def test_one_store_is_read_as_it_is(pair: tuple[Path, Path]) -> None:
    alone, direct = read_features(pair[:1]), FeatureStore(pair[0]).read()
    assert alone.digest == direct.digest
    assert torch.equal(alone.audio, direct.audio)
    assert alone.parts == ()


def test_rows_are_joined_by_content_in_the_order_of_the_first_store(pair: tuple[Path, Path]) -> None:
    joined = read_features(pair)
    first, second = (FeatureStore(path) for path in pair)
    left, right = first.read(), second.read()
    place = second.content_hashes()
    for row, hashed in enumerate(first.content_hashes()):
        theirs = right.audio[place.index(hashed), 0]
        expected = torch.cat([left.audio[row, 0] / left.audio[row, 0].norm(), theirs / theirs.norm()])
        torch.testing.assert_close(joined.audio[row, 0], expected)
    assert torch.equal(joined.labels, left.labels)
    assert joined.usable.all()
    assert joined.parts == (24, 10)
    assert joined.encoder == "mini+clap:some/other"
    assert joined.text.shape == (4, 8, 34)
    for one, other in zip(joined.folds, left.folds, strict=True):
        assert torch.equal(one.train, other.train)
        assert torch.equal(one.test, other.test)


def test_every_encoder_counts_the_same_whatever_its_length(pair: tuple[Path, Path]) -> None:
    joined = read_features(pair)
    for tensor in (joined.audio, joined.text):
        for part in torch.split(tensor, list(joined.parts), dim=2):
            torch.testing.assert_close(part.norm(dim=2), torch.ones(part.shape[:2]))


def test_the_digest_follows_both_stores_and_their_order(pair: tuple[Path, Path], tmp_path: Path) -> None:
    joined, swapped = read_features(pair), read_features(pair[::-1])
    changed = FeatureStore(pair[1]).read()
    changed = replace(changed, text=changed.text + 1)
    hashes = FeatureStore(pair[1]).content_hashes()
    third = read_features([pair[0], write_sample(tmp_path / "c.zarr", changed, hashes)])
    assert len({joined.digest, swapped.digest, third.digest, read_features(pair[:1]).digest}) == 4
    assert joined.fingerprint == third.fingerprint != swapped.fingerprint


def test_clips_that_one_store_lacks_or_could_not_embed_are_left_out(tmp_path: Path) -> None:
    features = make_features(failed=[2])
    other = other_encoder(make_features(failed=[5, 6]), torch.arange(120))
    hashes = [f"{row + 1:064x}" for row in range(120)]
    hashes[7] = "f" * 64  # another clip: the file has changed since
    stores = write_sample(tmp_path / "a.zarr", features), write_sample(tmp_path / "b.zarr", other, hashes)
    joined = read_features(stores)
    assert (~joined.usable).nonzero().flatten().tolist() == [2, 5, 6, 7]
    assert (joined.audio[[5, 6, 7], 0, 24:] == 0).all()


def test_a_clip_that_occurs_twice_is_found_twice(tmp_path: Path, features: Features) -> None:
    hashes = [f"{row // 2:064x}" for row in range(120)]
    other = other_encoder(features, torch.arange(120))
    other = replace(other, audio=other.audio[torch.arange(120) // 2])
    stores = [
        write_sample(tmp_path / name, one, hashes) for name, one in (("a.zarr", features), ("b.zarr", other))
    ]
    joined = read_features(stores)
    assert joined.usable.all()
    torch.testing.assert_close(
        joined.audio[:, 0, 24:], torch.nn.functional.normalize(other.audio[:, 0], dim=1)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"class_names": ("a", "b", "c", "d")},
            r"b\.zarr: other class names than .*a\.zarr; join stores of one",
        ),
        ({"templates": tuple("abcdefgh")}, r"b\.zarr: other templates than"),
    ],
)
def test_stores_of_other_classes_or_templates_are_refused(
    change: dict[str, tuple[str, ...]], message: str, tmp_path: Path, features: Features
) -> None:
    stores = [
        write_sample(tmp_path / "a.zarr", features),
        write_sample(tmp_path / "b.zarr", replace(features, encoder="clap:some/other", **change)),
    ]
    with pytest.raises(StoreError, match=message):
        read_features(stores)


def test_an_encoder_that_reads_no_text_joins_behind_one_that_does(tmp_path: Path, features: Features) -> None:
    mute = other_encoder(features, torch.arange(120))
    mute = replace(mute, text=mute.text[:, :0], templates=())
    stores = write_sample(tmp_path / "a.zarr", features), write_sample(tmp_path / "b.zarr", mute)
    joined = read_features(stores)
    assert joined.templates == features.templates
    torch.testing.assert_close(joined.text[..., :24], torch.nn.functional.normalize(features.text, dim=-1))
    assert not joined.text[..., 24:].any()
    heads, _ = fit_runs(joined, FitParams(heads=("muka-first", "muka", "proker"), shots=(4,), seeds=(0,)))
    assert all(value.isfinite().all() for head in heads for value in head.state.values())
    with pytest.raises(StoreError, match="name mini before clap:some/other"):
        read_features(stores[::-1])
    mute_too = write_sample(tmp_path / "c.zarr", replace(mute, encoder="hf:some/other"))
    blind = read_features([stores[1], mute_too])
    assert blind.text.shape == (4, 0, 20)


def test_stores_with_other_views_are_refused(tmp_path: Path) -> None:
    of_views = {n: replace(make_features(n_views=n), encoder=f"clap:some/{n}") for n in (1, 2)}
    stores = [write_sample(tmp_path / f"{n}.zarr", sample) for n, sample in of_views.items()]
    with pytest.raises(StoreError, match=r"2 views a clip, .* 1; extract both with the same views"):
        read_features(stores)


def test_stores_without_a_common_clip_are_refused(tmp_path: Path, features: Features) -> None:
    strangers = [f"{row + 1000:064x}" for row in range(120)]
    stores = [
        write_sample(tmp_path / "a.zarr", features),
        write_sample(tmp_path / "b.zarr", replace(features, encoder="clap:some/other"), strangers),
    ]
    with pytest.raises(StoreError, match="share no clip"):
        read_features(stores)


def test_joined_encoders_have_a_folder_of_their_own() -> None:
    spec = "mini+clap:laion/clap-x"
    assert slug(spec) == "mini+clap-clap-x"
    assert slug(slug(spec)) == slug(spec)
    assert heads_path(Path("runs"), "demo", spec) == Path("runs/demo/mini+clap-clap-x/heads.h5")
