"""How good logits are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.nn.functional import cross_entropy


@dataclass(frozen=True, slots=True)
class Metrics:
    """Test scores of one run; macro means are over the classes that occur or are predicted."""

    accuracy: float
    macro_f1: float
    macro_precision: float
    macro_recall: float
    loss: float
    """Mean cross entropy."""


def measure(logits: Tensor, labels: Tensor) -> Metrics:
    """Score logits (n_clips, n_classes) against labels (n_clips,).

    Macro means as scikit-learn's ``classification_report`` gives them, which the authors used; a class
    that is never predicted has precision 0.
    """
    predicted, actual = logits.argmax(dim=1).numpy(), labels.numpy()
    n_classes = logits.shape[1]
    hits = np.bincount(actual[predicted == actual], minlength=n_classes)
    n_actual, n_predicted = (np.bincount(classes, minlength=n_classes) for classes in (actual, predicted))
    counted = n_actual + n_predicted > 0
    hits, n_actual, n_predicted = hits[counted], n_actual[counted], n_predicted[counted]
    # By hand: scikit-learn takes longer to import than a fit of the demo.
    return Metrics(
        accuracy=float(hits.sum() / len(actual)),
        macro_f1=float(np.mean(2 * hits / (n_actual + n_predicted))),
        macro_precision=float(np.mean(hits / np.maximum(n_predicted, 1))),
        macro_recall=float(np.mean(hits / np.maximum(n_actual, 1))),
        loss=float(cross_entropy(logits.double(), labels)),
    )
