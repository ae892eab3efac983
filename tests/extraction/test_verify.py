from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from samples import write_tone
from spectrum import Run, SpectrumEncoder

from palm_cache.errors import DamagedStoreError, DataError, StaleStoreError
from palm_cache.extraction import recorded
from palm_cache.extraction.datasets.palm_layout import read
from palm_cache.extraction.embedding import Embedder
from palm_cache.extraction.encoders.engine import CPU
from palm_cache.extraction.verify import Recomputation, dataset_problems, recompute
from palm_cache.params import Recipe
from palm_cache.params.use import LoadingParams
from palm_cache.store.features import FeatureStore
from palm_cache.store.writing import write_store
from palm_cache.types import ClipTable

pytestmark = pytest.mark.usefixtures("small_chunks")


def compared(out: Path, table: ClipTable) -> list[str]:
    return dataset_problems(FeatureStore(out), table)


def again(
    out: Path, folder: Path, encoder: SpectrumEncoder, count: int, seed: int = 0, views: int = 1
) -> Recomputation:
    with Embedder(encoder, Recipe(views=views)) as embedder:
        return recompute(FeatureStore(out), str(folder), embedder, count, seed)


def test_rows_of_the_dataset_as_it_was_extracted_are_no_problem(run: Run, folder: Path, out: Path) -> None:
    run()
    assert compared(out, read(folder)) == []


def test_clips_added_removed_moved_to_another_class_or_changed_are_named(
    run: Run, folder: Path, out: Path
) -> None:
    run()
    write_tone(folder / "audios" / "more.wav", 500)
    write_tone(folder / "audios" / "train_0_2.wav", 500)
    (folder / "audios" / "train_0_3.wav").unlink()
    lines = (folder / "train.csv").read_text().splitlines()
    lines[1:3] = ["audios/more.wav,low tone", "audios/train_0_1.wav,high tone"]
    (folder / "train.csv").write_text("\n".join(lines))
    assert compared(out, read(folder)) == [
        "1 clip of the dataset not in the store: audios/more.wav",
        "1 clip of the store not in the dataset: audios/train_0_0.wav",
        "1 clip of another class: audios/train_0_1.wav",
        "2 clips of changed content: audios/train_0_2.wav, audios/train_0_3.wav",
    ]


def test_a_file_that_could_not_be_read_then_and_cannot_now_has_not_changed(
    run: Run, folder: Path, out: Path
) -> None:
    (folder / "audios" / "train_0_3.wav").unlink()
    run()
    assert compared(out, read(folder)) == []
    write_tone(folder / "audios" / "train_0_3.wav", 500)
    assert compared(out, read(folder)) == ["1 clip of changed content: audios/train_0_3.wav"]


def test_other_folds_of_the_same_clips_are_a_problem(run: Run, folder: Path, out: Path) -> None:
    run()
    table = read(folder)
    fold = table.folds[0]
    swapped = replace(table, folds=(replace(fold, train=fold.test, test=fold.train),))
    assert compared(out, swapped) == [
        "the dataset's folds, class names or order of clips are not the store's"
    ]


def test_embedding_again_agrees_whatever_batch_a_clip_was_in(
    run: Run, folder: Path, out: Path, encoder: SpectrumEncoder
) -> None:
    write_tone(folder / "audios" / "train_0_0.wav", 200, seconds=3)
    (folder / "audios" / "train_0_1.wav").write_bytes(b"<html>")
    run(views=2, batch_size=3)
    found = again(out, folder, encoder, 100, views=2)
    assert (found.compared, found.problems) == (17, ())  # all but the one that failed
    assert found.difference < 1e-5
    assert found.cosine == pytest.approx(1)


def test_the_sample_follows_from_the_seed(
    run: Run, folder: Path, out: Path, encoder: SpectrumEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    for file in (folder / "audios").iterdir():
        file.write_bytes(b"another file")
    samples = [sorted(again(out, folder, encoder, 5, seed).problems) for seed in (0, 0, 1)]
    assert samples[0] == samples[1] != samples[2]
    assert [len(set(sample)) for sample in samples] == [5, 5, 5]
    assert all("cannot be embedded again: " in problem for problem in samples[0])


def test_a_file_that_is_gone_is_named_and_a_dataset_that_is_gone_is_asked_for(
    run: Run, folder: Path, out: Path, encoder: SpectrumEncoder
) -> None:
    run()
    (folder / "audios" / "train_0_0.wav").unlink()
    found = again(out, folder, encoder, 18)
    assert (found.compared, found.problems) == (
        17,
        ("row 0, audios/train_0_0.wav: cannot be embedded again: no such file",),
    )
    shutil.rmtree(folder / "audios")
    with pytest.raises(DataError, match=r"its files are not in .*; give the folder they are in now"):
        again(out, folder, encoder, 5)


def test_an_embedding_that_is_not_its_clips_is_named(
    run: Run, folder: Path, out: Path, encoder: SpectrumEncoder
) -> None:
    run()
    store = FeatureStore(out)
    audio = store.audio()
    largest = float(np.abs(audio[6]).max())
    audio[6, 0, 5] += 1e-3 * largest
    write_store(out, store.header, store.rows(), store.text(), audio.__getitem__)
    assert FeatureStore(out).problems() == []  # checksums and values are sound
    found = again(out, folder, encoder, 18)
    assert found.difference == pytest.approx(1e-3, rel=0.01)
    assert len(found.problems) == 1
    assert found.problems[0].startswith("row 6, audios/train_1_0.wav: the encoder gives another embedding")


def test_a_coarser_precision_is_held_to_its_cosine(
    run: Run, folder: Path, out: Path, encoder: SpectrumEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder.engine = replace(CPU, precision="bf16")
    run()
    embed = SpectrumEncoder.embed_audio
    for gain, sound in ((1.004, True), (-1.0, False)):
        with monkeypatch.context() as patch:
            patch.setattr(
                SpectrumEncoder,
                "embed_audio",
                lambda self, waveforms, gain=gain: gain * embed(self, waveforms),
            )
            assert (again(out, folder, encoder, 18).problems == ()) is sound


def test_a_store_with_a_damaged_or_missing_chunk_is_not_compared(
    run: Run, folder: Path, out: Path, encoder: SpectrumEncoder
) -> None:
    run()
    (out / "audio" / "c" / "2" / "0" / "0").unlink()
    with pytest.raises(DamagedStoreError, match="audio/c/2/0/0 is missing"):
        again(out, folder, encoder, 18)


def test_an_encoder_of_another_fingerprint_is_refused(
    run: Run, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    header = FeatureStore(out).header
    monkeypatch.setattr(recorded, "load_encoder", lambda *_, **options: SpectrumEncoder(version=2))
    with pytest.raises(StaleStoreError, match="encoder mini: other "):
        recorded.load_encoder_of(header, LoadingParams(device="cpu", tokenizer=""))
