from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from samples import flip_bit, write_tone
from spectrum import Run, SpectrumEncoder

from palm_cache.extraction.datasets.palm_layout import read
from palm_cache.extraction.extract import dry_run
from palm_cache.extraction.plan import Plan
from palm_cache.params import ExtractParams
from palm_cache.store.features import FeatureStore

pytestmark = pytest.mark.usefixtures("small_chunks")

AUDIOS = ["audios/train_0_0.wav", "audios/train_0_1.wav", "audios/train_0_2.wav", "audios/train_0_3.wav"]
"""The clips of chunk 0."""


def snapshot(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in folder.rglob("*")
    }


@pytest.fixture
def plan(folder: Path, out: Path, encoder: SpectrumEncoder, tmp_path: Path) -> Callable[..., Plan]:
    """Plan the extraction of the folder as it is now, and make sure that nothing is written."""

    def plan_folder(**params: object) -> Plan:
        before = snapshot(tmp_path)
        planned = dry_run(read(folder), "mini", out, ExtractParams(**params))  # type: ignore[arg-type]
        assert snapshot(tmp_path) == before
        return planned

    return plan_folder


def chunk_file(out: Path, chunk: int) -> Path:
    return out / "audio" / "c" / str(chunk) / "0" / "0"


def nothing(folder: Path, out: Path) -> None:
    pass


def remove_store(folder: Path, out: Path) -> None:
    shutil.rmtree(out.parent)


def change_content(folder: Path, out: Path) -> None:
    write_tone(folder / AUDIOS[1], 333)


def lose_a_chunk(folder: Path, out: Path) -> None:
    chunk_file(out, 0).unlink()


def damage_a_chunk(folder: Path, out: Path) -> None:
    flip_bit(chunk_file(out, 0))


def copy_within_a_chunk(folder: Path, out: Path) -> None:
    shutil.copy(folder / AUDIOS[0], folder / AUDIOS[1])


def hide_a_clip(folder: Path, out: Path) -> None:
    (folder / AUDIOS[2]).unlink()


def add_and_remove(folder: Path, out: Path) -> None:
    write_tone(folder / "audios" / "more.wav", 500)
    lines = (folder / "train.csv").read_text().splitlines()
    (folder / "train.csv").write_text("\n".join([lines[0], "audios/more.wav,low tone", *lines[2:]]))


def add_where_a_chunk_is_damaged(folder: Path, out: Path) -> None:
    add_and_remove(folder, out)
    damage_a_chunk(folder, out)


def add_where_a_chunk_is_missing(folder: Path, out: Path) -> None:
    add_and_remove(folder, out)
    lose_a_chunk(folder, out)


def reorder(folder: Path, out: Path) -> None:
    lines = (folder / "train.csv").read_text().splitlines()
    (folder / "train.csv").write_text("\n".join([lines[0], *reversed(lines[1:])]))


def damage_the_paths(folder: Path, out: Path) -> None:
    flip_bit(out / "path" / "c" / "0")
    change_content(folder, out)


def die_between_two_renames(folder: Path, out: Path) -> None:
    out.rename(out.with_name(f".{out.name}.next"))
    (out.with_name(f".{out.name}.next") / "audio/c/0/0/0").unlink()


@pytest.mark.parametrize(
    ("happen", "groups"),
    [
        (nothing, {}),
        (change_content, {"changed content": AUDIOS[1:2]}),
        (lose_a_chunk, {"missing chunk": AUDIOS}),
        (damage_a_chunk, {"damaged chunk": AUDIOS}),
        (copy_within_a_chunk, {}),
        (hide_a_clip, {"cannot be opened": AUDIOS[2:3]}),
        (add_and_remove, {"new": ["audios/more.wav"]}),
        # The first three clips have the content of the test clips, which another chunk still holds.
        (add_where_a_chunk_is_damaged, {"new": ["audios/more.wav"], "damaged chunk": AUDIOS[3:]}),
        (add_where_a_chunk_is_missing, {"new": ["audios/more.wav"], "missing chunk": AUDIOS[3:]}),
        (reorder, {}),
        (damage_the_paths, {"new": AUDIOS[1:2]}),
        (die_between_two_renames, {"missing chunk": AUDIOS}),
    ],
)
def test_a_dry_run_says_what_will_be_embedded_and_why(
    plan: Callable[..., Plan],
    run: Run,
    folder: Path,
    out: Path,
    happen: Callable[[Path, Path], None],
    groups: dict[str, list[str]],
) -> None:
    run()
    happen(folder, out)
    planned = plan()
    assert {str(why): sorted(names) for why, names in planned.groups.items()} == groups
    assert planned.stale == ""
    done = run()
    assert done.embedded == planned.to_embed
    assert planned.kept == done.n_clips - done.embedded - len(done.failures)


def test_before_the_first_extraction_every_clip_that_opens_is_new(
    plan: Callable[..., Plan], run: Run, folder: Path
) -> None:
    hide_a_clip(folder, folder)
    planned = plan()
    assert {str(why): len(names) for why, names in planned.groups.items()} == {
        "new": 17,
        "cannot be opened": 1,
    }
    assert (planned.to_embed, planned.kept) == (17, 0)


def test_a_stale_store_is_all_to_be_embedded_except_what_an_interrupted_rebuild_holds(
    plan: Callable[..., Plan], run: Run, encoder: SpectrumEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    encoder.identity = {"encoder": "spectrum", "version": 2}
    planned = plan()
    assert "another version of the encoder" in planned.stale
    assert {str(why): len(names) for why, names in planned.groups.items()} == {"stale store": 18}
    commit = FeatureStore.write_chunk

    def stop_at_chunk_3(self: FeatureStore, chunk: int, *rest: object) -> None:
        if chunk == 3:
            raise KeyboardInterrupt
        commit(self, chunk, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(FeatureStore, "write_chunk", stop_at_chunk_3)
        with pytest.raises(KeyboardInterrupt):
            run(on_stale="rebuild")
    planned = plan(on_stale="rebuild")
    assert (planned.to_embed, planned.kept) == (6, 12)
    assert run(on_stale="rebuild").embedded == 6


def test_a_clip_that_failed_is_tried_again_only_by_a_store_that_is_laid_out_anew(
    plan: Callable[..., Plan], run: Run, folder: Path, out: Path
) -> None:
    (folder / AUDIOS[3]).write_bytes(b"<html>")
    run()
    assert plan().groups == {}
    add_and_remove(folder, out)
    assert plan().groups == {"new": ("audios/more.wav",), "failed before": (AUDIOS[3],)}


def test_what_another_datasets_store_knows_is_not_to_be_embedded(
    plan: Callable[..., Plan], run: Run, folder: Path, out: Path, encoder: SpectrumEncoder
) -> None:
    run()
    out.parent.rename(out.parent.with_name("Sibling"))
    write_tone(folder / AUDIOS[1], 333)
    planned = plan()
    assert {str(why): names for why, names in planned.groups.items()} == {"new": (AUDIOS[1],)}
    done = run()
    assert done.embedded == planned.to_embed == 1
