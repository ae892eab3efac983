"""How good logits are."""

from __future__ import annotations

from dataclasses import dataclass

from sklearn.metrics import accuracy_score, precision_recall_fscore_support
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
    predicted = logits.argmax(dim=1)
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels.numpy(), predicted.numpy(), average="macro", zero_division=0
    )
    return Metrics(
        accuracy=float(accuracy_score(labels.numpy(), predicted.numpy())),
        macro_f1=float(f1),
        macro_precision=float(precision),
        macro_recall=float(recall),
        loss=float(cross_entropy(logits.double(), labels)),
    )
