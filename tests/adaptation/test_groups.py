"""Clips of one recording are never on both sides where heads choose for themselves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from samples import make_shots, write_tone

from palm_cache.adaptation.heads import HEADS
from palm_cache.extraction.datasets.registry import read_dataset
from palm_cache.extraction.extract import extract
from palm_cache.params import ReadingParams
from palm_cache.store.conversion import export
from palm_cache.store.features import FeatureStore
from palm_cache.types import BARE_TEMPLATE
from palm_cache.types.runs import Training

CHOOSING = [
    name for name, kind in HEADS.items()
    if "held_out" in kind.chooses and kind.n_encoders == 1
]  # fmt: skip


@pytest.mark.parametrize("name", CHOOSING)
def test_copies_of_a_clip_in_one_group_do_not_make_a_head_sure_of_itself(name: str) -> None:
    """Each clip twice: as twins of one group they count like a clip of two views, whatever their order."""
    views = make_shots(runs=2, clips_per_class=4, views=2, noise=1.5)
    clips = torch.cat([views.audio[:, ::2], views.audio[:, ::2]], dim=1)
    labels = torch.cat([views.labels[:, ::2], views.labels[:, ::2]], dim=1)
    numbers = torch.arange(16).repeat(2).expand(2, -1)
    head = HEADS[name](BARE_TEMPLATE, Training())
    grouped = head.fit(replace(views, audio=clips, labels=labels, views=1, groups=numbers))
    paired = head.fit(
        replace(
            views, audio=clips[:, :16].repeat_interleave(2, 1), labels=labels[:, :16].repeat_interleave(2, 1)
        )
    )
    for chosen in HEADS[name].chooses:
        if not chosen.endswith(("held_out", "passes", "learning_rate")):  # of SGD, which shuffles by place
            # The losses that auto records follow from logits in single precision.
            torch.testing.assert_close(grouped[chosen], paired[chosen], atol=1e-5, rtol=1e-5)
    assert torch.equal(grouped["held_out"], 2 * paired["held_out"])


def test_groups_go_from_the_table_into_the_store_and_are_joined_by_content(tmp_path: Path) -> None:
    lines = ["file,label,speaker"]
    for number in range(8):
        write_tone(tmp_path / f"{number}.wav", 200 + 40 * number, seconds=0.3, seed=number)
        lines.append(f"{number}.wav,{'ab'[number % 2]},{['ann', 'bob', '', ''][number // 2]}")
    (tmp_path / "7.wav").write_bytes((tmp_path / "1.wav").read_bytes())
    (tmp_path / "clips.csv").write_text("\n".join(lines) + "\n")
    table = read_dataset(str(tmp_path / "clips.csv"), reading=ReadingParams(group="speaker", folds=2))
    extract(table, "mini", tmp_path / "out" / "mini.zarr")
    store = FeatureStore(tmp_path / "out" / "mini.zarr")
    assert store.groups() == list(table.groups or ())
    assert not store.problems()
    groups = store.read().groups
    assert groups is not None
    by_name = dict(zip(store.clip_names(), groups.tolist(), strict=True))
    together = [{name for name, group in by_name.items() if group == one} for one in set(by_name.values())]
    assert sorted(map(sorted, together)) == [
        ["0.wav", "1.wav", "7.wav"], ["2.wav", "3.wav"], ["4.wav"], ["5.wav"], ["6.wav"],
    ]  # fmt: skip
    for form in ("h5", "zarr"):
        source = store.path if form == "h5" else tmp_path / "copy.h5"
        export(source, tmp_path / f"copy.{form}")
    copied = FeatureStore(tmp_path / "copy.zarr")
    assert copied.groups() == store.groups()
    assert copied.header.digest == store.header.digest
