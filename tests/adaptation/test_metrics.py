from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import classification_report

from palm_cache.adaptation.metrics import measure


def test_macro_means_are_those_of_the_report_that_the_authors_use() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(5, (200,), generator=generator)
    logits = torch.randn(200, 5, generator=generator)
    logits[:, 3] -= 100  # a class that is never predicted
    report = classification_report(labels, logits.argmax(1), output_dict=True, zero_division=0)
    metrics = measure(logits, labels)
    assert metrics["accuracy"] == report["accuracy"]
    assert metrics["macro_f1"] == report["macro avg"]["f1-score"]
    assert metrics["macro_precision"] == report["macro avg"]["precision"]
    assert metrics["macro_recall"] == report["macro avg"]["recall"]


def test_the_loss_of_even_logits_is_the_log_of_the_number_of_classes() -> None:
    assert measure(torch.zeros(3, 7), torch.tensor([0, 1, 2]))["loss"] == pytest.approx(math.log(7))


def test_a_published_zero_shot_row_follows_from_predicting_one_class() -> None:
    """Beijing-Opera, fold 2: 13 of the 47 test clips are of the only class that is predicted."""
    labels = torch.tensor([0] * 13 + [1] * 12 + [2] * 11 + [3] * 11)
    logits = torch.zeros(47, 4)
    logits[:, 0] = 1
    metrics = measure(logits, labels)
    found = {name: round(value, 4) for name, value in metrics.items() if name != "loss"}
    assert found == {"accuracy": 0.2766, "macro_f1": 0.1083, "macro_precision": 0.0691, "macro_recall": 0.25}
