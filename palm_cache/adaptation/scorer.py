"""A fitted head at work on embeddings: logits, and the probabilities that they stand for."""

from __future__ import annotations

import torch
from torch import Tensor

from palm_cache.adaptation.heads import find_head
from palm_cache.adaptation.heads.base import Words
from palm_cache.errors import DamagedStoreError, EncoderError, StaleStoreError, UnknownNameError, reason_of
from palm_cache.store.remedies import fit_command
from palm_cache.store.run_names import run_name
from palm_cache.types import TextTower
from palm_cache.types.runs import FittedHead, Run


class Scorer:
    """Says what is in clips by their embeddings (dim,); ``tower`` is for heads that look at them through it.

    Raises
    ------
    EncoderError
        If the head needs the text tower and there is none.
    StaleStoreError
        If an earlier palm-cache fitted it, whose heads of this name were others.
    DamagedStoreError
        If the head does not fit the embeddings, or scores other classes than it names.
    """

    def __init__(self, head: FittedHead, dim: int, tower: TextTower | None = None) -> None:
        self.head, self.kind = head, find_head(head.run.head)
        self._words = None
        if self.kind.scores_through_tower:
            if tower is None:
                raise EncoderError(
                    f"run {run_name(head.run)}: learned words, which only a text tower can read"
                )
            self._words = Words(tower, head.class_names)
        self._check(dim)

    @torch.no_grad()
    def logits(self, embeddings: Tensor) -> Tensor:
        """Score embeddings as an encoder gives them, (n, dim) -> (n, n_classes)."""
        return self.kind.logits(self.head.state, embeddings, self._words)

    @torch.no_grad()
    def clip_logits(self, clips: Tensor) -> Tensor:
        """Score clips by their first view or the mean of all, (n, views, dim) -> (n, n_classes)."""
        n_views = 1 if self.head.test_views == "first" else clips.shape[1]
        return self.logits(clips[:, :n_views].flatten(0, 1)).view(len(clips), n_views, -1).mean(dim=1)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Turn logits (..., n_classes) into probabilities, float64: calibrated if the head is."""
        return (logits.double() / temperature_of(self.head)).softmax(dim=-1)

    def _check(self, dim: int) -> None:
        name, again = run_name(self.head.run), f"fit again with: {fit_command([self.head.run])}"
        try:
            scores = self.logits(torch.ones(1, dim))
        except KeyError as error:
            raise outdated(self.head.run, error.args[0]) from error
        except (RuntimeError, LookupError, TypeError, ValueError) as error:
            raise DamagedStoreError(
                f"run {name}: its arrays do not fit {dim}-d embeddings of {self.head.run.encoder} "
                f"({reason_of(error)}); {again}"
            ) from error
        if not torch.isfinite(scores).all():
            raise DamagedStoreError(f"run {name}: its scores are not finite; {again}")
        n_classes = len(self.head.class_names)
        if scores.shape != (1, n_classes):
            raise DamagedStoreError(
                f"run {name}: it scores {scores.shape[-1]} classes but names {n_classes}; {again}"
            )


def outdated(run: Run, missing: str) -> StaleStoreError:
    """Return the error of a run whose state has not what its head looks for by now."""
    return StaleStoreError(
        f"run {run_name(run)}: fitted by another version of palm-cache, whose {run.head} had no {missing!r}; "
        f"fit again with: {fit_command([run])}"
    )


def is_outdated(head: FittedHead, dim: int) -> bool:
    """Tell whether the head of a run on embeddings (dim,) has become another since it was fitted."""
    try:
        if not find_head(head.run.head).scores_through_tower:
            Scorer(head, dim)
    except (StaleStoreError, UnknownNameError):
        return True
    except DamagedStoreError:
        pass
    return False


def temperature_of(head: FittedHead) -> float:
    """Return what a head's logits are divided by before the softmax: 1 where it is not calibrated."""
    return head.calibration.temperature if head.calibration else 1.0
