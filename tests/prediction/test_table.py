from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from samples import write_tone
from workshop import Workshop

import palm_cache
from palm_cache.errors import StoreError, UnknownNameError
from palm_cache.prediction.classifier import Classifier
from palm_cache.prediction.clips import predict_files
from palm_cache.prediction.timeline import Sliding, listen


def test_files_get_what_the_command_line_gives_them(workshop: Workshop, tmp_path: Path) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_text("<html>")
    clips = sorted((workshop.data / "audios").glob("test_*.wav"))
    told: list[tuple[str, int, int]] = []
    heard = palm_cache.predict(
        workshop.heads, [*clips[:2], str(broken), clips[2]], progress=lambda *step: told.append(step)
    )
    results = list(predict_files(Classifier.load(workshop.heads), clips[:3]))
    expected = torch.stack([result.probabilities for result in results])  # type: ignore[union-attr]
    np.testing.assert_allclose(heard.probabilities[[0, 1, 3]], expected, rtol=1e-4)
    assert np.isnan(heard.probabilities[2]).all()
    assert heard.run == "palm@epochs=20-4shots-fold1-seed0"
    assert heard.calibrated
    names = [heard.class_names[place] for place in heard.probabilities[[0, 1, 3]].argmax(axis=1)]
    assert heard.table["label"].fillna("missing").tolist() == [*names[:2], "missing", names[2]]
    assert heard.table["path"].tolist() == [str(path) for path in (*clips[:2], broken, clips[2])]
    assert heard.table["error"].tolist() == ["", "", "cannot be decoded: format not recognised", ""]
    assert heard.table["probability"].isna().tolist() == [False, False, True, False]
    assert told[-1] == ("predicting", 4, 4)


def test_a_threshold_names_no_class_but_keeps_the_numbers(workshop: Workshop) -> None:
    clip = workshop.data / "audios" / "test_0_0.wav"
    sure, unsure = (palm_cache.predict(workshop.heads, clip, threshold=limit) for limit in (0.5, 1.0))
    assert sure.table["label"].tolist() == [sure.class_names[sure.probabilities[0].argmax()]]
    assert unsure.table["label"].isna().all()
    assert unsure.table["probability"].isna().all()
    np.testing.assert_array_equal(unsure.probabilities, sure.probabilities)


def test_folders_and_patterns_are_searched(workshop: Workshop) -> None:
    folder = palm_cache.predict(workshop.heads, workshop.data / "audios", run="zero-shot")
    pattern = palm_cache.predict(workshop.heads, f"{workshop.data}/audios/test_*.wav", run="zero-shot")
    assert len(pattern.table) < len(folder.table) == 13
    assert not folder.calibrated
    nothing = palm_cache.predict(workshop.heads, [])
    assert (len(nothing.table), nothing.probabilities.shape) == (0, (0, 2))


def test_a_timeline_has_a_row_per_stretch(workshop: Workshop, tmp_path: Path) -> None:
    recording = tmp_path / "long.wav"
    write_tone(recording, 300, seconds=9)
    heard = palm_cache.predict(workshop.heads, recording, timeline=True, hop=1.0)
    table = heard.table
    assert list(table.columns) == ["path", "start", "end", "label", "probability", "error"]
    assert table["start"].iloc[0] == 0
    assert table["end"].iloc[-1] == pytest.approx(9, abs=0.01)
    assert table["start"].iloc[1:].tolist() == table["end"].iloc[:-1].tolist()
    assert (table["label"].iloc[1:].to_numpy() != table["label"].iloc[:-1].to_numpy()).all()
    classifier = Classifier.load(workshop.heads)
    stretches = list(listen(classifier, [recording], Sliding.over(classifier, None, 1.0)))
    weights = [one.end - one.start for one in stretches]  # type: ignore[union-attr]
    mean = np.average([one.probabilities for one in stretches], axis=0, weights=weights)  # type: ignore[union-attr]
    lengths = table["end"] - table["start"]
    np.testing.assert_allclose(np.average(heard.probabilities, axis=0, weights=lengths), mean, rtol=1e-6)


def test_heads_and_runs_that_are_not_there_are_named(workshop: Workshop, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no heads here"):
        palm_cache.predict(tmp_path / "heads.h5", [])
    with pytest.raises(UnknownNameError, match="unknown run 'plam'"):
        palm_cache.predict(workshop.heads, [], run="plam")
