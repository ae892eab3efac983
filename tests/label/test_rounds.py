"""Proposals and fits, on arrays."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest

from palm_cache.label.rounds import (
    PROPOSALS,
    Classifier,
    Examples,
    accuracy,
    can_fit,
    held_out,
    propose,
    random_order,
    random_sample,
)

DIM = 16


def clusters(n_classes: int = 3, each: int = 20, noise: float = 0.5) -> tuple[NDArray[np.float32], ...]:
    """Audio, labels and text of classes that are clusters around their prompts."""
    random = np.random.default_rng(0)
    text = random.standard_normal((n_classes, DIM)).astype(np.float32)
    labels = np.arange(n_classes * each) % n_classes
    audio = text[labels] + noise * random.standard_normal((len(labels), DIM)).astype(np.float32)
    return audio, labels, text


def some(
    audio: NDArray[np.float32],
    labels: NDArray[np.int64],
    n_classes: int,
    text: NDArray[np.float32] | None = None,
) -> Examples:
    """Examples of a recording each."""
    return Examples(audio, labels, np.arange(len(labels)), n_classes, text)


def test_a_classifier_learns_from_labels_and_names_every_class() -> None:
    audio, labels, text = clusters(noise=1.0)
    for known in (text, None):
        shares = Classifier(some(audio[:30], labels[:30], 3, known)).probabilities(audio[30:])
        assert shares.shape == (30, 3)
        np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)
        assert (shares.argmax(axis=1) == labels[30:]).mean() > 0.8


def test_before_two_classes_have_labels_names_alone_are_read() -> None:
    audio, labels, text = clusters()
    unit = [vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (audio, text)]
    nearest = (unit[0] @ unit[1].T).argmax(axis=1)
    for count in (0, 1):
        shares = Classifier(some(audio[:count], labels[:count], 3, text)).probabilities(audio)
        assert (shares.argmax(axis=1) == nearest).all()


def test_without_text_a_class_without_a_label_has_no_share() -> None:
    audio, labels, _ = clusters()
    seen = labels != 1
    shares = Classifier(some(audio[seen], labels[seen], 3)).probabilities(audio)
    assert (shares[:, 1] == 0).all()
    assert (shares[seen].argmax(axis=1) == labels[seen]).all()


@pytest.mark.parametrize(("n_labels", "n_classes"), [(0, 3), (1, 3)])
def test_where_nothing_can_be_told_apart_there_is_no_classifier(n_labels: int, n_classes: int) -> None:
    audio, labels, text = clusters()
    blind = some(audio[:n_labels], labels[:n_labels], n_classes)
    alone = some(audio[:1], labels[:1], 1, text[:1])
    for examples in (blind, alone):
        assert not can_fit(examples)


def test_many_classes_with_one_label_each_are_fitted_without_a_warning() -> None:
    audio, labels, text = clusters(n_classes=30, each=1)
    assert Classifier(Examples(audio, labels, np.arange(30), 30, text)).probabilities(audio).shape == (30, 30)


def test_held_out_rows_are_judged_without_any_row_of_their_recording() -> None:
    """Labels that only a recording's other rows give away: by rows all is right, by recordings nothing is."""
    random = np.random.default_rng(0)
    recording = np.repeat(np.arange(10), 4)
    centres = 5 * random.standard_normal((10, 64))
    audio = (centres[recording] + 0.01 * random.standard_normal((40, 64))).astype(np.float32)
    labels = random.permutation(np.arange(10) % 2)[recording]
    alone = held_out(Examples(audio, labels, np.arange(40), 2))
    grouped = held_out(Examples(audio, labels, recording, 2))
    assert alone is not None
    assert grouped is not None
    assert alone.mean() == 1
    assert grouped.mean() < 0.8
    assert (grouped.reshape(10, 4).std(axis=1) == 0).all()


def test_there_is_nothing_to_hold_out_of_one_recording() -> None:
    audio, labels, text = clusters()
    assert held_out(Examples(audio, labels, np.zeros(len(labels), int), 3, text)) is None
    assert held_out(Examples(audio[:0], labels[:0], np.arange(0), 3, text)) is None


@pytest.mark.parametrize(("right", "of"), [(0, 10), (7, 10), (30, 60), (120, 120)])
def test_the_interval_is_close_to_wilsons_where_every_row_is_alone(right: int, of: int) -> None:
    told = accuracy(np.arange(of) < right, np.arange(of))
    wilson = binomtest(right, of).proportion_ci(method="wilson")
    assert told.mean == right / of
    assert (told.low, told.high) == pytest.approx((wilson.low, wilson.high), abs=0.08)


def test_rows_of_one_recording_are_no_evidence_of_their_own() -> None:
    random = np.random.default_rng(1)
    right = random.random(20) < 0.7
    alone = accuracy(right, np.arange(20))
    copied = accuracy(np.repeat(right, 9), np.repeat(np.arange(20), 9))
    assert copied.mean == pytest.approx(alone.mean)
    assert (copied.low, copied.high) == pytest.approx((alone.low, alone.high))


def test_intervals_hold_what_they_promise() -> None:
    random = np.random.default_rng(2)
    inside = []
    for _ in range(400):
        share = np.repeat(random.beta(4, 2, 25), 4)  # recordings differ: their rows go together
        told = accuracy(random.random(100) < share, np.repeat(np.arange(25), 4))
        inside.append(told.low <= 4 / 6 <= told.high)
    assert np.mean(inside) > 0.93


@pytest.mark.parametrize("by", PROPOSALS)
def test_only_open_rows_are_proposed_once_each(by: str) -> None:
    audio, labels, text = clusters()
    labelled = np.array([0, 1, 2, 3])
    open_to = np.ones(60, bool)
    open_to[40:] = False
    shares = Classifier(some(audio[labelled], labels[labelled], 3, text)).probabilities(audio)
    for probabilities in (shares, None):
        rows = propose(by, audio, labelled, open_to, probabilities, 12)  # type: ignore[arg-type]
        assert len(rows) == len(set(rows.tolist())) == 12
        assert set(rows.tolist()) <= set(range(4, 40))
    assert len(propose(by, audio, labelled, open_to, shares, 99)) == 36  # type: ignore[arg-type]
    assert open_to.sum() == 40


def test_proposals_are_what_they_are_called() -> None:
    audio, _, _ = clusters()
    none, every = np.zeros(0, int), np.ones(60, bool)
    shares = np.full((60, 3), 1 / 3, np.float32)
    shares[:] = [0.8, 0.1, 0.1]
    shares[[7, 30]] = [[0.40, 0.35, 0.25], [0.45, 0.35, 0.2]]
    shares[50] = [0.05, 0.9, 0.05]
    assert propose("uncertain", audio, none, every, shares, 2).tolist() == [7, 30]
    assert propose("likely", audio, none, every, shares, 1, of_class=1).tolist() == [50]
    audio[:] = audio[0]
    audio[33] = -audio[0]
    assert propose("diverse", audio, np.array([0]), every, shares, 1).tolist() == [33]
    # Of rows equally in doubt, the one that differs; among all, however odd, only those in doubt.
    shares[:10] = 1 / 3
    audio[8] = audio[0] + np.eye(DIM)[0].astype(np.float32) * 5
    assert propose("both", audio, np.array([0]), every, shares, 1).tolist() == [8]


def test_rows_proposed_at_random_make_up_a_random_sample_whatever_else_is_labelled() -> None:
    audio, _, _ = clusters()
    usable = np.ones(60, bool)
    usable[[4, 9]] = False
    labelled = np.zeros(0, int)
    for _ in range(3):
        labelled = np.append(labelled, propose("random", audio, labelled, usable, None, 5))
    order = random_order(60)
    assert labelled.tolist() == [row for row in order.tolist() if usable[row]][:15]
    is_labelled = np.zeros(60, bool)
    is_labelled[labelled] = True
    is_labelled[order[-1]] = True  # labelled for another reason
    assert random_sample(is_labelled, usable).tolist() == labelled.tolist()
    assert len(random_sample(usable, usable)) == 58
