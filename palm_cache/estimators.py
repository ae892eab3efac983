"""Heads as scikit-learn classifiers of cached embeddings.

They check arrays, keep the order of the classes and hand everything else to a
:class:`~palm_cache.adaptation.heads.base.Head`: on the same clips, in the same order and with the same seed
they learn what ``palm-cache fit`` learns. Heads that learn words of the prompt (COOP, COCOOP) need a text
tower and are fitted by :func:`palm_cache.fit` alone.
"""

from __future__ import annotations

from numbers import Integral
from typing import Any, Self

import numpy as np
import torch
from numpy.random import RandomState
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_array, check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from palm_cache.adaptation.heads import find_head
from palm_cache.adaptation.heads.base import Head, Shots, need_finite, unit
from palm_cache.adaptation.heads.prototype import class_means
from palm_cache.errors import ArrayError, ParameterError
from palm_cache.types import BARE_TEMPLATE
from palm_cache.types.runs import Training

_FLOATS = (np.float64, np.float32)


class HeadClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Any head that needs no text tower, by its name.

    Parameters
    ----------
    head : str
        See ``palm-cache heads``.
    text : array-like, shape (n_classes, dim), optional
        Embedding of every class's prompt, of any length, in the order of the sorted classes. What is
        given to :meth:`fit` goes before it. Where neither is given, the classifier knows nothing of
        language, and is not the paper's: the mean of every class's training clips stands in for its prompt,
        and heads that hold clips out to choose hyperparameters, which such a mean would betray, have no
        zero-shot prediction at all; ``palm-tuned``, which starts from one, is refused. Heads that read no
        prompts do not look at it.
    classes : array-like, shape (n_classes,), optional
        Name of the class of every row of ``text``, sorted, where clips to learn from may lack some of them,
        as in a fold of cross-validation; by default the classes are those of the clips.
    epochs, lr, momentum, batch_size
        Of SGD, for heads that are trained by it; the defaults are the paper's protocol.
    random_state : int, RandomState or None
        Seed of start and shuffling; a whole number is the ``seed`` of ``palm-cache fit``.

    Attributes
    ----------
    classes_ : array, shape (n_classes,)
        Sorted.
    n_features_in_ : int
        Length of an embedding.
    head_ : Head
        What was fitted.
    state_ : dict of array
        What it learned, under the head's own names, e.g. ``class_embeddings`` (n_classes, dim).

    Examples
    --------
    >>> import palm_cache
    >>> features = palm_cache.open_features("data/features/demo/mini.zarr")
    >>> train, test = features.few_shot(fold=1, shots=4, seed=0)
    >>> dagger = palm_cache.HeadClassifier("palm-dagger")
    >>> dagger = dagger.fit(features.centre[train], features.labels[train], text=features.text())
    >>> dagger.predict(features.centre[test]).shape == test.shape
    True
    """

    def __init__(
        self,
        head: str = "palm",
        text: ArrayLike | None = None,
        *,
        classes: ArrayLike | None = None,
        epochs: int = 50,
        lr: float = 0.05,
        momentum: float = 0.9,
        batch_size: int = 16,
        random_state: int | RandomState | None = 0,
    ) -> None:
        self.head = head
        self.text = text
        self.classes = classes
        self.epochs = epochs
        self.lr = lr
        self.momentum = momentum
        self.batch_size = batch_size
        self.random_state = random_state

    def fit(
        self, X: ArrayLike, y: ArrayLike, text: ArrayLike | None = None, groups: ArrayLike | None = None
    ) -> Self:
        """Learn from labelled embeddings.

        Parameters
        ----------
        X : array-like, shape (n_clips, dim)
            Embeddings of any length. Their order counts: it is what the seed shuffles.
        y : array-like, shape (n_clips,)
            Class of every clip, numbers or names.
        text : array-like, shape (n_classes, dim), optional
            In place of the parameter of the same name.
        groups : array-like, shape (n_clips,), optional
            Equal for clips that are held out together where a head chooses hyperparameters: those of one
            recording, say. By default every clip is by itself.

        Raises
        ------
        ArrayError
            If ``X`` or ``text`` is not finite or does not fit, or ``y`` holds one class only. It is a
            ``ValueError`` too, as scikit-learn demands.
        ParameterError
            If the head needs a text tower, or a parameter makes no sense.
        """
        rows, classes = validate_data(self, X, y, dtype=_FLOATS, ensure_all_finite=False)
        _check_finite(rows, "X")
        if classes.dtype.kind == "f":  # of whole numbers and names scikit-learn warns where shots are few
            check_classification_targets(classes)
        present = np.unique(classes)
        if len(present) < 2:
            raise ArrayError(f"y holds one class only, {present.tolist()[0]!r}; a classifier needs two")
        self.classes_ = self._known_classes(present)
        labels = np.searchsorted(self.classes_, classes)
        head = self._make_head()
        audio, of_clips = unit(_tensor(rows)).float(), torch.from_numpy(labels)
        text = self.text if text is None else text
        if text is not None:
            prompts = self._prompts(text)
        elif head.chooses:
            prompts = torch.zeros(len(self.classes_), self.n_features_in_)
        else:
            prompts = class_means(audio, of_clips, len(self.classes_))
        together = None if groups is None else _group_numbers(groups, rows)
        shots = Shots(
            audio[None], of_clips[None], prompts[None], (_seed(self.random_state),), groups=together
        )
        states = head.fit(shots)
        need_finite({name: value[0] for name, value in states.items()}, head, type(self).__name__)
        self.head_ = head
        self.state_ = {name: value[0].numpy() for name, value in states.items()}
        return self

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the head's logits of embeddings, (n_clips, dim), of any length.

        Returns
        -------
        array, shape (n_clips, n_classes)
            Of two classes, (n_clips,): how far the second is ahead of the first.
        """
        logits = self._logits(X).numpy()
        return np.asarray(logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits)

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the softmax of the logits of embeddings, -> (n_clips, n_classes); it is not calibrated."""
        return np.asarray(torch.softmax(self._logits(X), dim=1).numpy())

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the class of every embedding, shape (n_clips,), as :attr:`classes_` names it."""
        best = self._logits(X).argmax(dim=1).numpy()
        return np.asarray(self.classes_[best])

    def _make_head(self) -> Head:
        kind = find_head(self.head)
        if kind.needs_text_tower:
            raise ParameterError(
                f"head {self.head!r} learns words: it needs the encoder's text tower; "
                "fit it with: palm_cache.fit"
            )
        if kind.n_encoders > 1:
            raise ParameterError(
                f"head {self.head!r} needs the features of {kind.n_encoders} encoders; "
                "fit it with: palm_cache.fit"
            )
        return kind(BARE_TEMPLATE, Training(self.epochs, self.lr, self.momentum, self.batch_size))

    def _known_classes(self, present: NDArray[Any]) -> NDArray[Any]:
        """Return the classes that were named, or else those of the clips."""
        if self.classes is None:
            return present
        known = np.unique(np.asarray(self.classes))
        if not np.array_equal(known, np.asarray(self.classes)):
            raise ArrayError("classes must be sorted, each named once: the order of the rows of text")
        strange = np.setdiff1d(present, known)
        if len(strange):
            raise ArrayError(f"y holds {strange.tolist()[0]!r}, which is not among classes")
        return known

    def _prompts(self, text: ArrayLike) -> Tensor:
        """Return the text embeddings at unit length, one row per class."""
        rows = check_array(text, dtype=_FLOATS, ensure_all_finite=False, input_name="text")
        _check_finite(rows, "text")
        expected = (len(self.classes_), self.n_features_in_)
        if rows.shape != expected:
            raise ArrayError(
                f"text has shape {rows.shape}, expected {expected}: a row per class of y, in sorted order; "
                "where y may lack some, name all with classes=[...]"
            )
        return unit(_tensor(rows)).float()

    def _logits(self, X: ArrayLike) -> Tensor:
        check_is_fitted(self)
        rows = validate_data(self, X, dtype=_FLOATS, ensure_all_finite=False, reset=False)
        _check_finite(rows, "X")
        # In double precision a clip's score does not depend on its companions in the batch.
        state = {name: _tensor(value) for name, value in self.state_.items()}
        state |= {name: value.double() for name, value in state.items() if value.is_floating_point()}
        return self.head_.logits(state, _tensor(rows).double()).double()


class PalmClassifier(HeadClassifier):
    """PALM: a learned context and gate per class, in the feature space of the text encoder.

    Parameters are those of :class:`HeadClassifier`, and so are the attributes; ``text`` is the embedding
    of every class's bare name.

    References
    ----------
    Hanif et al., "PALM: Few-Shot Prompt Learning for Audio Language Models", EMNLP 2024.

    Examples
    --------
    >>> import palm_cache
    >>> features = palm_cache.open_features("data/features/demo/mini.zarr")
    >>> train, test = features.few_shot(fold=1, shots=4, seed=0)
    >>> palm = palm_cache.PalmClassifier(text=features.text(), epochs=20)
    >>> palm = palm.fit(features.centre[train], features.labels[train])
    >>> palm.score(features.centre[test], features.labels[test]) > 0.5
    True
    """

    def __init__(
        self,
        text: ArrayLike | None = None,
        *,
        classes: ArrayLike | None = None,
        epochs: int = 50,
        lr: float = 0.05,
        momentum: float = 0.9,
        batch_size: int = 16,
        random_state: int | RandomState | None = 0,
    ) -> None:
        super().__init__(
            "palm",
            text,
            classes=classes,
            epochs=epochs,
            lr=lr,
            momentum=momentum,
            batch_size=batch_size,
            random_state=random_state,
        )


class ZeroShotClassifier(HeadClassifier):
    """Cosine with the prompt of every class; from labelled clips it learns only which classes there are.

    Parameters
    ----------
    text, classes : array-like, optional
        As for :class:`HeadClassifier`. Without text the classifier is the nearest class mean, and no longer
        zero-shot.

    Examples
    --------
    >>> import palm_cache
    >>> features = palm_cache.open_features("data/features/demo/mini.zarr")
    >>> zero_shot = palm_cache.ZeroShotClassifier(features.text("The is a recording of  {c}."))
    >>> zero_shot = zero_shot.fit(features.centre, features.labels)
    >>> zero_shot.predict_proba(features.centre[:5]).shape == (5, len(features.class_names))
    True
    """

    def __init__(self, text: ArrayLike | None = None, *, classes: ArrayLike | None = None) -> None:
        super().__init__("zero-shot", text, classes=classes)


def _group_numbers(groups: ArrayLike, rows: NDArray[np.floating[Any]]) -> Tensor:
    """Return the number of every clip's group, (1, n_clips)."""
    check_consistent_length(rows, groups)
    _, numbers = np.unique(column_or_1d(groups), return_inverse=True)
    return torch.from_numpy(numbers[None])


def _seed(random_state: int | RandomState | None) -> int:
    """Return a head's seed: a whole number is the seed itself, anything else draws one."""
    if isinstance(random_state, Integral):
        return int(random_state)
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))


def _tensor(array: NDArray[Any]) -> Tensor:
    """Copy an array, which may be read-only or mapped from a file, into a tensor."""
    return torch.from_numpy(np.array(array))


def _check_finite(rows: NDArray[np.floating[Any]], name: str) -> None:
    """Refuse NaN and infinity, and say where."""
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        more = f" (and in {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise ArrayError(
            f"{name} contains NaN or infinity in row {bad[0]}{more}; "
            "leave such rows out, or embed their clips anew"
        )
