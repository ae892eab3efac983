from __future__ import annotations

import itertools
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
import zarr
from samples import assert_same, flip_bit, read_arrays, write_tone
from spectrum import Run, SpectrumEncoder

from palm_cache.errors import AudioError, OutputError, StaleStoreError, StoreError
from palm_cache.extraction import chunks
from palm_cache.extraction import extract as stage_one
from palm_cache.extraction.datasets.palm_layout import read
from palm_cache.extraction.extract import Extraction, extract
from palm_cache.params import ExtractParams
from palm_cache.store.features import FeatureStore

pytestmark = pytest.mark.usefixtures("small_chunks")


def test_every_clip_and_prompt_is_embedded_once(run: Run, out: Path, encoder: SpectrumEncoder) -> None:
    done = run()
    assert (done.n_clips, done.embedded, done.failures) == (18, 18, ())
    assert encoder.embedded == 18
    features = FeatureStore(out).read()
    assert features.audio.shape == (18, 1, 12)
    assert features.class_names == ("high tone", "low tone")
    # Prompts are padded to the longest beside them: the same but for rounding.
    prompts = encoder.embed_text(["high tone", "The is a recording of  low tone."])
    torch.testing.assert_close(features.text[[0, 1], [0, 1]], prompts)


def test_a_complete_store_is_left_alone(run: Run, out: Path, encoder: SpectrumEncoder) -> None:
    run()
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*") if file.is_file()}
    assert run().embedded == 0
    assert encoder.embedded == 0
    assert before == {file: file.stat().st_mtime_ns for file in out.rglob("*") if file.is_file()}


def test_batches_never_cross_chunks(run: Run, encoder: SpectrumEncoder) -> None:
    run(batch_size=3)
    assert max(encoder.batches) <= 3
    encoder.batches.clear()
    run(batch_size=100, views=1)
    assert encoder.batches == []  # the batch size is no property of a store


def test_an_interrupted_extraction_goes_on_where_it_stopped_and_gives_the_same_bits(
    run: Run, out: Path, tmp_path: Path, encoder: SpectrumEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    whole = read_arrays(out)
    shutil.rmtree(out)
    embed = SpectrumEncoder.embed_audio

    def stop_at_third_chunk(self: SpectrumEncoder, waveforms):  # type: ignore[no-untyped-def]
        if self.embedded >= 8:
            raise KeyboardInterrupt
        return embed(self, waveforms)

    with monkeypatch.context() as patch:
        patch.setattr(SpectrumEncoder, "embed_audio", stop_at_third_chunk)
        with pytest.raises(KeyboardInterrupt):
            run()
    assert FeatureStore(out).committed() == {0, 1}
    assert run().embedded == 10
    assert_same(read_arrays(out), whole)


def test_only_what_changed_is_embedded_again(
    run: Run, out: Path, folder: Path, encoder: SpectrumEncoder
) -> None:
    run()
    before = read_arrays(out)
    write_tone(folder / "audios" / "train_0_1.wav", 333)
    assert run().embedded == 1
    after = read_arrays(out)
    assert not np.array_equal(before["audio"][1], after["audio"][1])
    assert np.array_equal(np.delete(before["audio"], 1, 0), np.delete(after["audio"], 1, 0))


def test_a_touched_file_is_not_a_changed_one(run: Run, folder: Path) -> None:
    run()
    for file in (folder / "audios").iterdir():
        os.utime(file, (0, 0))
    assert run().embedded == 0


def test_clocks_that_jump_hide_no_change_and_feign_none(run: Run, folder: Path, out: Path) -> None:
    run()
    changed = folder / "audios" / "train_0_0.wav"
    before = changed.stat()
    write_tone(changed, 210, seconds=0.5)  # as long as the old one
    assert changed.stat().st_size == before.st_size
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))
    future = 2**32
    for file in out.rglob("*"):
        os.utime(file, (future, future))
    for file in (folder / "audios").iterdir():
        if file != changed:
            os.utime(file, (future + 1, future + 1))
    assert run().embedded == 1


def test_a_clock_that_runs_backwards_changes_nothing(
    run: Run, folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run()
    whole = read_arrays(out)
    shutil.rmtree(out)
    clock = itertools.count(2**33, -3600)
    with monkeypatch.context() as patch:
        for name, factor in (("time", 1), ("time_ns", 10**9)):
            patch.setattr(time, name, lambda factor=factor: next(clock) * factor)
        assert run().embedded == done.embedded
        assert run().embedded == 0
        write_tone(folder / "audios" / "train_1_1.wav", 333)
        assert run().embedded == 1
    write_tone(folder / "audios" / "train_1_1.wav", 607, seconds=0.6, seed=101)  # as it was
    assert run().embedded == 1
    assert_same(read_arrays(out), whole)


def test_moved_added_and_removed_clips_keep_what_is_known(
    run: Run, out: Path, folder: Path, encoder: SpectrumEncoder
) -> None:
    run()
    (folder / "audios" / "train_0_0.wav").rename(folder / "audios" / "moved.wav")
    write_tone(folder / "audios" / "new.wav", 500)
    lines = (folder / "train.csv").read_text().splitlines()
    lines = [lines[0], "audios/new.wav,low tone", "audios/moved.wav,low tone", *lines[3:]]
    (folder / "train.csv").write_text("\n".join(lines))
    done = run()
    assert done.embedded == 1
    assert any("clips that were known kept their embeddings" in note for note in done.notes)
    rebuilt = read_arrays(out)
    shutil.rmtree(out)
    run()
    assert_same(rebuilt, read_arrays(out))


def test_a_rebuild_that_is_interrupted_leaves_the_old_store_and_is_resumed(
    run: Run, out: Path, folder: Path, encoder: SpectrumEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    old = read_arrays(out)
    encoder.version = 2
    encoder.identity = {"encoder": "spectrum", "version": 2}
    commit = FeatureStore.write_chunk

    def fail_at_chunk_3(self: FeatureStore, chunk: int, *rest: object) -> None:
        if chunk == 3:
            raise KeyboardInterrupt
        commit(self, chunk, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(FeatureStore, "write_chunk", fail_at_chunk_3)
        with pytest.raises(KeyboardInterrupt):
            run(on_stale="rebuild")
    assert_same(read_arrays(out), old)
    assert run(on_stale="rebuild").embedded == 6
    assert np.array_equal(read_arrays(out)["audio"], 2 * old["audio"])
    assert sorted(file.name for file in out.parent.iterdir()) == [".mini.zarr.lock", "mini.zarr"]


def test_a_kill_between_the_two_renames_is_mended(run: Run, out: Path) -> None:
    run()
    out.rename(out.with_name(".mini.zarr.next"))
    assert run().embedded == 0
    assert out.is_dir()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("encoder", r"is stale: made by another version of the encoder or its preprocessing \(fingerprint"),
        ("views", r"is stale: 1 view\(s\) a clip instead of 3"),
        ("templates", "is stale: made with other prompt templates"),
        ("format", "is stale: .*store format 0, this palm-cache reads 1"),
        ("metadata", "is stale: .*not a readable feature store"),
    ],
)
def test_a_store_made_otherwise_is_refused_and_rebuilt_only_on_request(
    run: Run, out: Path, encoder: SpectrumEncoder, change: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    params: dict[str, object] = {}
    if change == "encoder":
        encoder.identity = {"encoder": "spectrum", "version": 2}
    elif change == "views":
        params["views"] = 3
    elif change == "templates":
        monkeypatch.setattr(stage_one, "TEMPLATES", ("{c}", "The is a recording of  {c}.", "a {c}"))
    elif change == "format":
        zarr.open_group(out, mode="r+").attrs["format_version"] = 0
    else:
        (out / "zarr.json").write_text("{")
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    with pytest.raises(StaleStoreError, match=message):
        run(**params)
    assert before == {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    assert run(on_stale="rebuild", **params).embedded == 18
    assert run(**params).embedded == 0


def test_other_class_names_need_only_new_text(
    run: Run, out: Path, folder: Path, encoder: SpectrumEncoder
) -> None:
    run()
    for part in ("train", "test"):
        table = folder / f"{part}.csv"
        table.write_text(table.read_text().replace("low tone", "rumble"))
    assert run().embedded == 0
    features = FeatureStore(out).read()
    assert features.class_names == ("high tone", "rumble")
    torch.testing.assert_close(features.text[1, 0], encoder.embed_text(["rumble"])[0])


def test_clips_that_cannot_be_read_are_recorded_and_the_rest_goes_on(
    run: Run, out: Path, folder: Path
) -> None:
    (folder / "audios" / "train_0_0.wav").unlink()
    (folder / "audios" / "train_0_1.wav").write_bytes(b"")
    (folder / "audios" / "train_0_2.wav").write_bytes(b"<html>")
    done = run()
    assert done.failures == (
        ("audios/train_0_0.wav", "no such file"),
        ("audios/train_0_1.wav", "the file is empty"),
        ("audios/train_0_2.wav", "cannot be decoded: format not recognised"),
    )
    assert done.embedded == 15
    features = FeatureStore(out).read()
    assert features.usable.tolist() == [False] * 3 + [True] * 15
    assert FeatureStore(out).problems() == []
    assert run().embedded == 0  # nothing has changed: the failed clips are not tried again


def test_a_mended_clip_is_embedded(run: Run, folder: Path) -> None:
    (folder / "audios" / "train_0_0.wav").unlink()
    (folder / "audios" / "train_0_2.wav").write_bytes(b"<html>")
    run()
    write_tone(folder / "audios" / "train_0_0.wav", 200)
    write_tone(folder / "audios" / "train_0_2.wav", 200)
    done = run()
    assert (done.embedded, done.failures) == (2, ())


def test_on_error_fail_stops_and_names_the_clip(run: Run, out: Path, folder: Path) -> None:
    (folder / "audios" / "train_1_0.wav").write_bytes(b"<html>")
    with pytest.raises(
        AudioError, match=r"audios/train_1_0\.wav: cannot be decoded: format not recognised; mend"
    ):
        run(on_error="fail")
    assert FeatureStore(out).committed() == {0}


def test_an_encoder_that_returns_nan_is_the_clips_error(
    run: Run, out: Path, encoder: SpectrumEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed, calls = SpectrumEncoder.embed_audio, itertools.count()

    def spoil(self: SpectrumEncoder, waveforms):  # type: ignore[no-untyped-def]
        embeddings = embed(self, waveforms)
        if next(calls) == 0:  # several workers embed at the same time
            embeddings[0] = float("nan")
        return embeddings

    monkeypatch.setattr(SpectrumEncoder, "embed_audio", spoil)
    failures = run(batch_size=4).failures
    assert [reason for _, reason in failures] == ["the encoder returned NaN or infinity"]
    assert FeatureStore(out).problems() == []


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:10])


def lose_content(file: Path) -> None:
    """As a file system may when the power goes: the new name is on the disk, the bytes are not."""
    file.write_bytes(b"")


@pytest.mark.parametrize("array", ["audio", "content_sha256", "error"])
@pytest.mark.parametrize("damage", [flip_bit, cut_short, lose_content])
def test_a_damaged_chunk_is_found_and_made_again_alone(
    run: Run, folder: Path, out: Path, array: str, damage: Callable[[Path], None]
) -> None:
    (folder / "audios" / "train_1_2.wav").write_bytes(b"<html>")  # errors that are all empty have no file
    run()
    whole = read_arrays(out)
    chunk = whole["path"].tolist().index("audios/train_1_2.wav") // 4
    damage(out / array / "c" / f"{chunk}" / ("0/0" if array == "audio" else ""))
    others = [file for file in out.glob("audio/c/*/0/0") if file.parent.parent.name != f"{chunk}"]
    written = [file.stat().st_mtime_ns for file in others]
    assert run().embedded == 3
    assert [file.stat().st_mtime_ns for file in others] == written
    assert_same(read_arrays(out), whole)
    assert run().embedded == 0


def test_views_of_long_clips_differ_and_those_of_short_ones_do_not(folder: Path, out: Path, run: Run) -> None:
    write_tone(folder / "audios" / "train_0_0.wav", 200, seconds=3)
    run(views=3)
    audio = FeatureStore(out).read().audio
    assert len({tuple(view.tolist()) for view in audio[0]}) == 3
    assert len({tuple(view.tolist()) for view in audio[1]}) == 1


@pytest.mark.parametrize("array", ["text", "path", "label", "folds/1/test"])
def test_damaged_prompts_and_tables_are_laid_out_again_and_no_clip_is_embedded(
    run: Run, out: Path, array: str
) -> None:
    run()
    whole = read_arrays(out)
    flip_bit(next(file for file in (out / array / "c").rglob("*") if file.is_file()), 1)
    done = run()
    assert done.embedded == 0
    assert done.notes == (
        f"{out}: its prompts or tables were damaged; clips that were known kept their embeddings",
    )
    assert_same(read_arrays(out), whole)


def test_a_second_writer_is_sent_away(run: Run, out: Path) -> None:
    from filelock import FileLock

    run()
    with (
        FileLock(out.with_name(".mini.zarr.lock")),
        pytest.raises(StoreError, match="another extraction is writing"),
    ):
        run()


def test_a_full_disk_is_said_and_what_is_finished_stays(
    run: Run, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from zarr.storage import LocalStore

    write = LocalStore.set

    async def full(self: LocalStore, key: str, value: object) -> None:
        if key.startswith("audio/c/2"):
            raise OSError(errno.ENOSPC, "No space left on device")
        await write(self, key, value)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "set", full)
        with pytest.raises(
            OutputError, match="no space left on device; free some space and run the same command"
        ):
            run()
    assert FeatureStore(out).committed() == {0, 1}
    assert run().embedded == 10


def test_a_place_that_cannot_be_written_is_named(
    folder: Path, tmp_path: Path, encoder: SpectrumEncoder
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"mini\.zarr: cannot write: .*choose another folder with --out"):
        extract(read(folder), "mini", tmp_path / "file" / "mini.zarr", ExtractParams())


def test_a_folder_that_is_no_store_is_never_replaced(run: Run, out: Path) -> None:
    out.mkdir(parents=True)
    (out / "thesis.tex").write_text("mine")
    with pytest.raises(StaleStoreError, match="not a readable feature store"):
        run()
    with pytest.raises(OutputError, match=r"there is something else here \(thesis\.tex\) that a store would"):
        run(on_stale="rebuild")
    assert (out / "thesis.tex").read_text() == "mine"


def test_progress_counts_every_clip(folder: Path, out: Path, encoder: SpectrumEncoder) -> None:
    said: list[tuple[str, int, int]] = []
    table = read(folder)
    for _ in range(2):
        extract(table, "mini", out, ExtractParams(), progress=lambda *what: said.append(what))
    assert [entry for entry in said if entry[0] == "embedding"] == [
        ("embedding", n, 18) for n in range(1, 19)
    ]
    assert said[-1] == ("checking", 18, 18)


def test_known_embeddings_of_a_damaged_chunk_are_unknown(run: Run, out: Path) -> None:
    run()
    store = FeatureStore(out)
    sha = store.hashes_and_errors(1)[0][0]
    assert chunks.KnownEmbeddings(store, [0, 1]).get(sha) is not None
    (out / "audio" / "c" / "1" / "0" / "0").write_bytes(b"")
    assert chunks.KnownEmbeddings(store, [0, 1]).get(sha) is None


@pytest.fixture
def part(folder: Path, tmp_path: Path) -> Path:
    """Another dataset of five of the folder's clips, under other names, in another order."""
    root = tmp_path / "Part"
    chosen = ["train_1_3", "train_0_4", "train_0_3", "train_1_4", "train_0_5"]
    lines = ["path,classname"]
    for number, name in enumerate(chosen):
        (root / "clips").mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "audios" / f"{name}.wav", root / "clips" / f"{number}.wav")
        lines.append(f"clips/{number}.wav,{'high' if '_1_' in name else 'low'}")
    (root / "train.csv").write_text("\n".join(lines) + "\n")
    (root / "test.csv").write_text("\n".join(lines[:2]) + "\n")
    return root


@pytest.fixture
def sibling(tmp_path: Path) -> Path:
    return tmp_path / "features" / "Part" / "mini.zarr"


def extract_part(part: Path, sibling: Path, **params: object) -> Extraction:
    return extract(read(part), "mini", sibling, ExtractParams(**params))  # type: ignore[arg-type]


def test_what_another_dataset_shares_is_embedded_once(
    run: Run, out: Path, part: Path, sibling: Path, encoder: SpectrumEncoder
) -> None:
    run()
    encoder.embedded = 0
    done = extract_part(part, sibling)
    assert (done.n_clips, done.embedded, encoder.embedded) == (5, 0, 0)
    assert done.notes[-1] == f"5 clip(s) took their embedding from {out}"
    mine, theirs = read_arrays(sibling), read_arrays(out)
    places = [theirs["content_sha256"].tolist().index(sha) for sha in mine["content_sha256"]]
    assert places == [9, 4, 3, 10, 5]
    assert np.array_equal(mine["audio"], theirs["audio"][places])


@pytest.mark.parametrize("change", ["encoder", "views", "format", "metadata"])
def test_a_sibling_made_otherwise_or_unreadable_is_passed_over(
    run: Run, out: Path, part: Path, sibling: Path, encoder: SpectrumEncoder, change: str
) -> None:
    run(views=3 if change == "views" else 1)
    if change == "encoder":
        encoder.identity = {"encoder": "spectrum", "version": 2}
    elif change == "format":
        zarr.open_group(out, mode="r+").attrs["format_version"] = 0
    elif change == "metadata":
        (out / "zarr.json").write_text("{")
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    done = extract_part(part, sibling)
    assert done.embedded == 5
    assert not any("took their embedding" in note for note in done.notes)
    assert before == {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}


@pytest.mark.parametrize("array", ["audio", "content_sha256"])
def test_of_a_damaged_sibling_the_sound_chunks_are_used(
    run: Run, out: Path, part: Path, sibling: Path, array: str
) -> None:
    run()
    chunk = out / array / "c" / "0" / ("0/0" if array == "audio" else "")
    content = bytearray(chunk.read_bytes())
    content[-1] ^= 1
    chunk.write_bytes(content)
    done = extract_part(part, sibling)
    assert done.embedded == 1  # row 3 alone is of chunk 0
    assert done.notes[-1] == f"4 clip(s) took their embedding from {out}"
    assert FeatureStore(sibling).problems() == []


def test_of_an_unfinished_sibling_the_committed_chunks_are_used(
    run: Run, out: Path, part: Path, sibling: Path
) -> None:
    run()
    store = FeatureStore(out)
    for chunk in (1, 2, 3, 4):
        store.uncommit(chunk)
    assert extract_part(part, sibling).embedded == 4
    assert store.committed() == {0}


def test_a_chunk_that_its_own_extraction_rewrites_meanwhile_is_unknown(run: Run, out: Path) -> None:
    run()
    store = FeatureStore(out)
    hashes, errors = store.hashes_and_errors(1)
    known = chunks.KnownEmbeddings(store, [0, 1])
    store.write_chunk(1, 2 * store.read_chunk(1), ["f" * 64, *hashes[1:]], errors)
    assert known.get(hashes[0]) is None
    assert known.get(hashes[1]) is not None


def test_a_worker_takes_from_siblings_what_they_know(
    run: Run, out: Path, part: Path, sibling: Path, encoder: SpectrumEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    shutil.copytree(out, out.with_name("gone.zarr"))
    monkeypatch.setattr(chunks, "load_encoder", lambda spec, **options: encoder)
    table, params = read(part), ExtractParams()
    header = stage_one.describe(table, encoder, params.views)
    text = torch.zeros(len(table.class_names), len(header.templates), encoder.dim)
    FeatureStore.create(sibling, header, table, text)
    worker = chunks.Worker(
        sibling, (out.with_name("gone.zarr"), out), "mini", header.fingerprint, params, session="1"
    )
    shutil.rmtree(out.with_name("gone.zarr"))
    results = [worker.embed(0, table.clips[:4]), worker.embed(1, table.clips[4:])]
    assert [(result.embedded, dict(result.known)) for result in results] == [(0, {out: 4}), (0, {out: 1})]


def test_what_is_shared_is_told_from_a_relative_store_and_several_jobs_too(
    run: Run, out: Path, part: Path, encoder: SpectrumEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    monkeypatch.setattr(chunks, "load_encoder", lambda spec, **options: encoder)
    monkeypatch.chdir(out.parents[2])
    with joblib.parallel_config("threading"):
        done = extract_part(part, Path("features", "Part", "mini.zarr"), jobs=2)
    assert done.embedded == 0
    assert done.notes[-1] == f"5 clip(s) took their embedding from {out.relative_to(out.parents[2])}"


def test_nothing_to_do_reaches_for_no_cluster(run: Run) -> None:
    run()
    assert run(cluster="dask://127.0.0.1:9").embedded == 0
