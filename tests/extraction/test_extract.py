from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from samples import assert_same, embedder_threads, parted, read_arrays, write_palm_folder, write_tone
from spectrum import Look, Run, SpectrumEncoder

from palm_cache.errors import StaleStoreError
from palm_cache.extraction import extract as stage_one
from palm_cache.extraction import work
from palm_cache.extraction.datasets.palm_layout import read
from palm_cache.extraction.extract import Extraction, extract
from palm_cache.extraction.prompts import Prompts
from palm_cache.params import Resources
from palm_cache.store.features import FeatureStore
from palm_cache.store.header import LIMITS, read_header
from palm_cache.store.places import local
from palm_cache.types import Clip, Clips, ClipTable

pytestmark = pytest.mark.usefixtures("small_chunks")


def test_every_clip_and_prompt_is_embedded_once(run: Run, out: Path, encoder: SpectrumEncoder) -> None:
    done = run()
    assert (done.n_clips, done.embedded, done.failures, done.notes) == (18, 18, (), ())
    features = FeatureStore(out).read()
    assert features.audio.shape == (18, 1, 12)
    assert features.class_names == ("high tone", "low tone")
    # Prompts are padded to the longest beside them: the same but for rounding.
    prompts = encoder.embed_text(["high tone", "The is a recording of  low tone."])
    torch.testing.assert_close(features.text[[0, 1], [0, 1]], prompts)


def test_a_complete_store_is_left_alone(run: Run, out: Path, cache: Path, encoder: SpectrumEncoder) -> None:
    run()
    folders = (out, cache)
    before = {
        file: file.stat().st_mtime_ns for one in folders for file in one.rglob("*.json") if file.is_file()
    }
    assert run().embedded == 0
    assert encoder.batches != []
    encoder.batches.clear()
    assert run().embedded == 0
    assert encoder.batches == []
    assert before == {file: file.stat().st_mtime_ns for file in before}


def test_what_a_row_is_does_not_depend_on_its_companions(
    run: Run, out: Path, folder: Path, encoder: SpectrumEncoder
) -> None:
    run(batch_size=4)
    together = read_arrays(out)
    for file in (folder / "audios").iterdir():
        if file.name != "train_0_3.wav":
            write_tone(file, 50 + 7 * len(file.name), seconds=0.3)
    run(batch_size=4)
    row = together["path"].tolist().index("audios/train_0_3.wav")
    shutil.rmtree(out.parents[1])
    run(batch_size=4)
    assert np.array_equal(read_arrays(out)["audio"][row], together["audio"][row])


def test_an_interrupted_extraction_loses_nothing_that_was_embedded_and_gives_the_same_bits(
    run: Run, out: Path, encoder: SpectrumEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    whole = read_arrays(out)
    shutil.rmtree(out.parents[1])
    embed, calls = SpectrumEncoder.embed_audio, itertools.count()

    def stop(self: SpectrumEncoder, waveforms):  # type: ignore[no-untyped-def]
        if next(calls) >= 2:
            raise KeyboardInterrupt
        return embed(self, waveforms)

    with monkeypatch.context() as patch:
        patch.setattr(SpectrumEncoder, "embed_audio", stop)
        with pytest.raises(KeyboardInterrupt):
            run(batch_size=4)
    assert not out.exists()
    assert run(batch_size=4).embedded == 18 - 8
    assert_same(read_arrays(out), whole)


def test_a_rebuild_that_is_interrupted_leaves_the_old_store_and_loses_nothing(
    run: Run, out: Path, folder: Path, encoder: SpectrumEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a row of the table has changed meanwhile."""
    run()
    old = read_arrays(out)
    newer = SpectrumEncoder(version=2)
    for module in (stage_one, work):
        monkeypatch.setattr(module, "load_encoder", lambda *given, **options: newer)
    embed, calls = SpectrumEncoder.embed_audio, itertools.count()

    def stop(self: SpectrumEncoder, waveforms):  # type: ignore[no-untyped-def]
        if next(calls) >= 3:
            raise KeyboardInterrupt
        return embed(self, waveforms)

    with monkeypatch.context() as patch:
        patch.setattr(SpectrumEncoder, "embed_audio", stop)
        with pytest.raises(KeyboardInterrupt):
            run(on_stale="rebuild", batch_size=4)
    assert_same(read_arrays(out), old)
    table = folder / "train.csv"
    table.write_text(table.read_text().replace("train_0_5.wav,low tone", "train_0_5.wav,high tone"))
    assert run(on_stale="rebuild", batch_size=4).embedded == 18 - 12
    assert np.allclose(read_arrays(out)["audio"], 2 * old["audio"])
    assert [file.name for file in out.parent.iterdir()] == ["mini.zarr"]


@pytest.mark.parametrize(
    ("change", "message"),
    [("encoder", "is stale: .*version 1, now 2"), ("views", "is stale: views 1, now 3")],
)
def test_a_store_by_another_recipe_is_refused_and_replaced_only_on_request(
    run: Run, out: Path, change: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    first = read_arrays(out)
    params: dict[str, object] = {}
    if change == "encoder":
        newer = SpectrumEncoder(version=2)
        for module in (stage_one, work):
            monkeypatch.setattr(module, "load_encoder", lambda *given, **options: newer)
    else:
        params["views"] = 3
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    with pytest.raises(StaleStoreError, match=message):
        run(**params)
    assert before == {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    assert run(on_stale="rebuild", **params).embedded == 18
    assert run(**params).embedded == 0
    monkeypatch.undo()
    assert first["audio"].shape[0] == 18


def test_going_back_to_an_earlier_recipe_costs_nothing(run: Run, out: Path) -> None:
    run()
    first = read_arrays(out)
    run(views=2, on_stale="rebuild")
    done = run(on_stale="rebuild")
    assert done.embedded == 0
    assert done.notes == (f"{out} was stale (views 2, now 1) and has been made anew",)
    assert_same(read_arrays(out), first)


def test_other_templates_and_text_towers_embed_text_only(
    run: Run, out: Path, encoder: SpectrumEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    prompts = Prompts(("a {c}",))
    done = run(prompts)
    assert (done.embedded, done.notes) == (
        0,
        ("other templates than before: text was embedded anew",),
    )
    assert run(prompts).notes == ()
    assert FeatureStore(out).text().shape == (2, 3, 12)
    digest = FeatureStore(out).header.digest
    monkeypatch.setattr(SpectrumEncoder, "text_identity", {"encoder": "spectrum", "letters": 127})
    assert run(prompts).embedded == 0
    assert FeatureStore(out).header.digest != digest


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


def test_views_of_long_clips_differ_and_a_short_clip_goes_through_the_encoder_once(
    folder: Path, out: Path, run: Run, encoder: SpectrumEncoder
) -> None:
    write_tone(folder / "audios" / "train_0_0.wav", 200, seconds=3)
    run(views=3, batch_size=1)
    audio = FeatureStore(out).read().audio
    assert len({tuple(view.tolist()) for view in audio[0]}) == 3
    assert len({tuple(view.tolist()) for view in audio[1]}) == 1
    assert encoder.embedded == 17 + 3


def test_progress_counts_every_clip(folder: Path, out: Path, encoder: SpectrumEncoder) -> None:
    said: list[tuple[str, int, int]] = []
    extract(read(folder), "mini", out, progress=lambda *what: said.append(what))
    assert [entry for entry in said if entry[0] == "embedding"] == [
        ("embedding", n, 18) for n in range(1, 19)
    ]
    said.clear()
    resources = Resources(check="content")
    extract(read(folder), "mini", out, resources=resources, progress=lambda *what: said.append(what))
    assert {what for what, _, _ in said} == {"checking"}  # files are read, and nothing is embedded


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
    (root / "train.csv").write_text("\n".join(lines[:-1]) + "\n")
    (root / "test.csv").write_text("\n".join([lines[0], lines[-1]]) + "\n")
    return root


def extract_part(part: Path, cache: Path, **params: object) -> tuple[Extraction, Path]:
    out = cache.parent / "Part" / "mini.zarr"
    return extract(read(part), "mini", out, *parted(**params), cache=cache), out


def test_what_another_dataset_shares_is_embedded_once(
    run: Run, out: Path, part: Path, cache: Path, encoder: SpectrumEncoder
) -> None:
    run()
    done, sibling = extract_part(part, cache)
    assert (done.n_clips, done.embedded) == (5, 0)
    mine, theirs = read_arrays(sibling), read_arrays(out)
    hashes = [one.tobytes() for one in theirs["content_sha256"]]
    places = [hashes.index(one.tobytes()) for one in mine["content_sha256"]]
    assert places == [9, 4, 3, 10, 5]
    assert np.array_equal(mine["audio"], theirs["audio"][places])


def test_a_dataset_of_the_same_name_elsewhere_costs_the_first_nothing(
    run: Run, folder: Path, out: Path, cache: Path, tmp_path: Path, encoder: SpectrumEncoder
) -> None:
    run()
    other = write_palm_folder(tmp_path / "other" / "Tones", train=2, test=1, classes=("a", "b"))
    extract(read(other), "mini", out, cache=cache)
    assert FeatureStore(out).header.class_names == ("a", "b")
    assert run().embedded == 0


def test_the_same_bytes_under_two_names_are_embedded_once_and_said(
    run: Run, folder: Path, out: Path, encoder: SpectrumEncoder
) -> None:
    for name in ("test_0_0", "test_0_1", "train_1_0"):
        shutil.copy(folder / "audios" / "train_0_0.wav", folder / "audios" / f"{name}.wav")
    done = run(batch_size=1)
    assert (done.embedded, encoder.embedded) == (15, 15)
    assert done.notes == (
        "test clips that are byte for byte also training clips: 2 of 6 in fold 1; accuracy on them says "
        "nothing",
        "1 sound bears several labels, e.g. audios/train_0_0.wav: the same bytes in different classes",
    )
    audio = FeatureStore(out).read().audio
    rows = [FeatureStore(out).clip_names().index(f"audios/{name}.wav") for name in ("train_0_0", "test_0_1")]
    assert torch.equal(audio[rows[0]], audio[rows[1]])


def test_several_jobs_give_the_same_store_from_relative_places_too(
    run: Run, out: Path, folder: Path, encoder: SpectrumEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(batch_size=4)
    whole = read_arrays(out)
    shutil.rmtree(out.parents[1])
    monkeypatch.chdir(out.parents[2])
    monkeypatch.setattr(work, "_shared", [])
    with joblib.parallel_config("threading"):
        done = extract(
            read(Path("Tones")),
            "mini",
            Path("features", "Tones", "mini.zarr"),
            *parted(jobs=2, batch_size=4),
            cache=Path("features", ".cache"),
        )
    work.forget()
    assert done.embedded == 18
    assert_same(read_arrays(out), whole)


def test_a_worker_that_goes_on_with_another_embedder_lets_go_of_the_first(
    run: Run, out: Path, encoder: SpectrumEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "_shared", [])
    before, began = embedder_threads(), []
    for batch_size in (4, 3):
        with joblib.parallel_config("threading"):
            assert run(jobs=2, batch_size=batch_size).embedded == 18
        began.append(embedder_threads() - before)
        shutil.rmtree(out.parents[1])
    assert began[0]
    assert not began[0] & embedder_threads()
    work.forget()
    assert embedder_threads() == before


def test_nothing_to_do_reaches_for_no_cluster(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "RACY_NS", 0)
    run()
    assert run(cluster="dask://127.0.0.1:9").embedded == 0


def test_rows_may_be_stretches_of_one_file(out: Path, tmp_path: Path, encoder: SpectrumEncoder) -> None:
    file = tmp_path / "long.wav"
    write_tone(file, 300, seconds=4)
    clips = Clips.of(
        Clip(file, "long.wav", None, start, end)
        for start, end in ((0.0, 1.0), (1.0, 2.0), (2.5, None), (0.0, None))
    )
    table = ClipTable("Long", (), clips, ())
    assert extract(table, "mini", out).embedded == 4
    store = FeatureStore(out)
    assert store.stretches()[0].tolist() == [0.0, 1.0, 2.5, 0.0]
    assert store.labels().tolist() == [-1] * 4
    assert len({row.tobytes() for row in store.audio()}) == 4
    more = Clips.of((*clips, Clip(file, "long.wav", None, 3.0, 4.0)))
    assert extract(replace(table, clips=more), "mini", out).embedded == 1


def test_a_first_look_takes_a_few_clips_of_every_class(run: Run, out: Path) -> None:
    assert run(limit=2).n_clips == 8
    features = FeatureStore(out).read()
    assert torch.bincount(features.labels).tolist() == [4, 4]
    assert (len(features.folds[0].train), len(features.folds[0].test)) == (4, 4)
    done = run()
    assert (done.n_clips, done.embedded) == (18, 10)
    assert FeatureStore(out).header.limited == ""


def test_a_store_of_some_clips_says_so_and_what_it_takes_the_place_of(
    run: Run, look: Look, out: Path
) -> None:
    run()
    assert FeatureStore(out).header.limited == ""
    told = "holds of every class the first 1 to train on and the first 1 to test on alone, of 18 clips in all"
    planned = look(limit=1)
    (note,) = run(limit=1).notes
    assert (planned.notes, planned.gone) == ((note,), ())
    assert note.startswith(f"this store {told} (limit 1); it held 18 before")
    assert FeatureStore(out).header.limited.startswith(told)
    (again,) = run(limit=1).notes
    assert again == f"this store {told} (limit 1)"
    assert run().notes == ()
    assert run(limit=18).notes == ()  # which leaves nothing out


def test_the_limit_decides_nothing_of_the_recipe_and_stores_without_it_are_read(run: Run, out: Path) -> None:
    run()
    whole = FeatureStore(out).header
    attributes = json.loads((out / "zarr.json").read_text())["attributes"]
    older = {name: value for name, value in attributes.items() if name not in LIMITS}
    assert read_header(older).limited == ""
    limited = replace(whole, limit=1, limited_from=18)
    assert (limited.digest, limited.fingerprint) == (whole.digest, whole.fingerprint)


def test_the_header_says_how_it_was_made(run: Run, out: Path, folder: Path) -> None:
    run()
    attributes = json.loads((out / "zarr.json").read_text())["attributes"]
    assert attributes["recipe"]["encoder"] == "spectrum"
    assert attributes["recipe"]["views"] == 1
    assert {"device", "torch", "libsndfile", "palm-cache"} <= attributes["made_with"].keys()
