"""How good logits are."""

from __future__ import annotations

import numpy as np
from torch import Tensor
from torch.nn.functional import cross_entropy


def measure(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Score logits (n_clips, n_classes) against labels (n_clips,), by the names of columns of ``scores.csv``.

    Macro means are scikit-learn's ``classification_report``'s, which the authors used, over the classes
    that occur or are predicted; a class that is never predicted has precision 0. ``loss`` is the mean cross
    entropy.
    """
    predicted, actual = logits.argmax(dim=1).numpy(), labels.numpy()
    n_classes = logits.shape[1]
    hits = np.bincount(actual[predicted == actual], minlength=n_classes)
    n_actual, n_predicted = (np.bincount(classes, minlength=n_classes) for classes in (actual, predicted))
    counted = n_actual + n_predicted > 0
    hits, n_actual, n_predicted = hits[counted], n_actual[counted], n_predicted[counted]
    # By hand: scikit-learn takes longer to import than a fit of the demo.
    return {
        "accuracy": float(hits.sum() / len(actual)),
        "macro_f1": float(np.mean(2 * hits / (n_actual + n_predicted))),
        "macro_precision": float(np.mean(hits / np.maximum(n_predicted, 1))),
        "macro_recall": float(np.mean(hits / np.maximum(n_actual, 1))),
        "loss": float(cross_entropy(logits.double(), labels)),
    }
