"""What the study says of its own intervals and of calibration."""

from __future__ import annotations

from pathlib import Path

from samples import make_features, write_sample

from palm_cache.adaptation.evaluate import evaluate_files
from palm_cache.adaptation.fit import fit_store
from palm_cache.params import FitParams
from palm_cache.report.evidence import by_kind
from palm_cache.store.scores import read_predictions, read_scores
from pipelines.heads.certainty import calibrations, coverage


def test_intervals_hold_the_mean_and_three_seeds_are_too_few_to_tell(tmp_path: Path) -> None:
    store = write_sample(tmp_path / "features.zarr", make_features(noise=1.2))
    fit_store(store, tmp_path, FitParams(heads=("prototype",), shots=(1,), seeds=tuple(range(12))))
    fit_store(store, tmp_path, FitParams(heads=("tip-adapter",), shots=(1,)))
    evaluate_files(tmp_path)
    (kinds,) = by_kind(
        read_predictions(tmp_path / "predictions.h5"), read_scores(tmp_path / "scores.csv")
    ).values()
    found = {kind.head: coverage(kind, tries=60) for kind in kinds}
    assert found["tip-adapter"] is None
    held, differ = found["prototype"] or (0, 1)
    assert held >= 0.85
    assert differ <= 0.2


def test_losses_before_and_after_calibration_are_those_of_test_clips(tmp_path: Path) -> None:
    store = write_sample(tmp_path / "features.zarr", make_features(noise=1.2, n_folds=2))
    rows = list(calibrations(store, ("prototype",)))
    assert [(head, shots) for head, shots, _, _ in rows] == [("prototype", shots) for shots in (2, 4, 16)]
    assert all(after <= 1.01 * before for _, _, before, after in rows)
