from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from samples import parted, read_arrays, write_tone
from spectrum import Look, Run, SpectrumEncoder

from palm_cache.errors import DataError, OutputError
from palm_cache.extraction.datasets.palm_layout import read
from palm_cache.extraction.datasets.windows import cut_rows
from palm_cache.extraction.extract import Extractor
from palm_cache.extraction.matching import row_of
from palm_cache.extraction.plan import Plan, Reason
from palm_cache.extraction.prompts import Prompts
from palm_cache.params import ReadingParams
from palm_cache.types import ClipTable


def counts(plan: Plan) -> dict[Reason, int]:
    return {why: len(names) for why, names in plan.groups.items()}


def test_reasons_name_parameters_as_python_does() -> None:
    assert "--" not in " ".join(Reason)


def test_without_a_store_every_clip_is_new(look: Look, out: Path) -> None:
    plan = look()
    assert (plan.n_clips, plan.to_embed, plan.kept, counts(plan)) == (18, 18, 0, {Reason.NEW: 18})
    assert not out.exists()


def test_a_plan_says_beforehand_that_the_store_may_not_be_written(look: Look, out: Path) -> None:
    out.mkdir(parents=True)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"something else here \(notes\.txt\), not a feature store"):
        look()


def test_of_a_finished_store_nothing_is_to_be_done(look: Look, run: Run) -> None:
    run()
    plan = look()
    assert (plan.to_embed, plan.kept, plan.groups, plan.gone) == (0, 18, {}, ())


def test_every_clip_that_would_be_embedded_is_named_with_its_reason(
    look: Look, run: Run, folder: Path
) -> None:
    run()
    write_tone(folder / "audios" / "train_0_1.wav", 333)
    write_tone(folder / "audios" / "new.wav", 500)
    (folder / "audios" / "train_0_2.wav").unlink()
    (folder / "audios" / "train_0_4.wav").unlink()
    (folder / "audios" / "train_0_3.wav").rename(folder / "audios" / "moved.wav")
    table = folder / "train.csv"
    rows = table.read_text().replace("train_0_3", "moved")
    table.write_text(rows + "audios/new.wav,low tone\naudios/away.wav,low tone\n")
    plan = look()
    assert plan.groups == {
        Reason.NEW: ("audios/new.wav",),
        Reason.CHANGED: ("audios/train_0_1.wav",),
        Reason.UNREADABLE: ("audios/away.wav",),
    }
    assert plan.gone == ("audios/train_0_3.wav",)
    kept = "2 audio files cannot be read now; earlier embeddings are kept (`prune` drops them)"
    assert plan.notes == (kept,)
    assert look(prune=True).groups[Reason.UNREADABLE] == tuple(
        f"audios/{name}.wav" for name in ("train_0_2", "train_0_4", "away")
    )
    done = run()
    assert kept in done.notes
    assert done.failures == (("audios/away.wav", "no such file", ""),)
    assert plan.to_embed == done.embedded == 2


def test_a_plan_for_files_all_of_which_are_away_is_refused_as_the_extraction_is(
    look: Look, folder: Path
) -> None:
    shutil.rmtree(folder / "audios")
    with pytest.raises(DataError, match="none of its 18 audio files can be read"):
        look()


def test_a_plan_for_another_recipe_says_what_is_stale(look: Look, run: Run) -> None:
    run()
    plan = look(views=3)
    assert plan.stale == "views 1, now 3"
    assert counts(plan) == {Reason.STALE: 18}


def test_recorded_failures_and_a_lost_cache_are_told_apart(
    look: Look, run: Run, folder: Path, cache: Path
) -> None:
    (folder / "audios" / "train_0_2.wav").write_bytes(b"<html>")
    run()
    assert look().groups == {Reason.FAILED: ("audios/train_0_2.wav",)}
    assert look().to_embed == 0
    shutil.rmtree(cache)
    assert counts(look()) == {Reason.LOST: 18}


def test_a_content_that_is_there_twice_is_to_be_embedded_once(look: Look, run: Run, folder: Path) -> None:
    shutil.copy(folder / "audios" / "train_0_0.wav", folder / "audios" / "train_0_1.wav")
    assert look().to_embed == run().embedded == 17


def test_what_is_planned_is_what_is_done_after_a_change_of_the_text(look: Look, run: Run, out: Path) -> None:
    run()
    assert look().other_text == ""
    prompts = Prompts(("{c}", "a {c}"))
    assert look(prompts).other_text == "other templates"
    assert look(prompts).to_embed == run(prompts).embedded == 0
    assert read_arrays(out)["text"].shape == (2, 3, 12)


def test_windows_that_were_never_embedded_are_new(
    out: Path, cache: Path, folder: Path, encoder: SpectrumEncoder
) -> None:
    def windows(hop: float) -> ClipTable:
        return cut_rows(read(folder), ReadingParams(window=0.4, hop=hop))

    before, after = windows(0.4), windows(0.2)
    with Extractor("mini", *parted()) as extractor:
        extractor.extract(before, out, cache)
        shared = {row_of(clip) for clip in before.clips} & {row_of(clip) for clip in after.clips}
        assert counts(extractor.plan(after, out, cache)) == {Reason.NEW: len(after.clips) - len(shared)}
        shutil.rmtree(cache)
        assert counts(extractor.plan(after, out, cache)) == {
            Reason.NEW: len(after.clips) - len(shared),
            Reason.LOST: len(shared),
        }
