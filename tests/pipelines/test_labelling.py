"""The study of proposals on a small store."""

from __future__ import annotations

import numpy as np
import pytest
from samples import make_features

from pipelines.labelling import study


def test_the_study_labels_with_what_the_page_proposes(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "CHECKPOINTS", (0, 5, 12))
    monkeypatch.setattr(study, "SEEDS", (0, 1))
    points = study.run(make_features(noise=0.3, failed=[7]))
    assert len(points) == 2 * 4 * 2 * 3
    last = points[points["labels"] == 12]
    assert last.groupby("text")["accuracy"].mean().min() > 0.6
    before = points[(points["labels"] == 0) & (points["text"] == "read")]["accuracy"]
    assert before.nunique() == 1
    assert points[(points["labels"] == 0) & (points["text"] == "not read")]["accuracy"].isna().all()
    shown = points.dropna(subset=["shown"])
    assert (shown["low"] <= shown["shown"]).all()
    assert (shown["shown"] <= shown["high"]).all()
    assert "| uncertain and diverse | " in study.table(points)
    study.draw(points, tmp_path / "labelling.svg")
    assert (tmp_path / "labelling.svg").read_text().count("<svg") == 1
    assert np.isfinite(last["rest"]).all()
