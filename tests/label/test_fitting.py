"""The thread that fits: what it does not survive on its own would never be noticed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from samples import make_features, write_sample

from palm_cache.errors import EncoderError
from palm_cache.label import fitting, rounds
from palm_cache.label.fitting import Fitter
from palm_cache.label.rounds import Examples, held_out
from palm_cache.label.words import Words
from palm_cache.store.features import FeatureStore

ROWS = {row: f"class {row % 4}" for row in range(40)}
NAMES = tuple(f"class {number}" for number in range(4))


@pytest.fixture
def fitter(tmp_path: Path) -> Iterator[Fitter]:
    store = FeatureStore(write_sample(tmp_path / "store.zarr", make_features(noise=0.3)))
    features = store.read()
    words = Words(replace(store.header, text_recipe=None), pytest.fail)
    with Fitter(
        features.audio.numpy(), features.usable.numpy(), np.arange(len(features.labels)), words
    ) as fitter:
        yield fitter


def first(count: int) -> dict[int, str]:
    return dict(list(ROWS.items())[:count])


def test_a_fit_that_fails_is_told_and_the_next_labels_are_fitted_on(
    fitter: Fitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitter.take(first(8), NAMES)
    assert fitter.wait(60)

    def fail(_: Examples) -> None:
        raise ZeroDivisionError("nobody thought of this")

    with monkeypatch.context() as patch:
        patch.setattr(fitting, "Classifier", fail)
        fitter.take(first(12), NAMES)
        assert fitter.wait(60)
    assert fitter.fit.failure == (
        "fitting failed, so the newest labels do not count yet: ZeroDivisionError: nobody thought of this"
    )
    assert fitter.fit.growth[-1].rows == 8  # what was known is still shown
    fitter.take(first(16), NAMES)
    assert fitter.wait(60)
    assert (fitter.fit.failure, fitter.fit.growth[-1].rows) == ("", 16)


def test_new_labels_count_before_earlier_rounds_are_judged(
    fitter: Fitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a restart all rounds so far are judged anew; a label that comes meanwhile must not wait."""
    began, released = threading.Event(), threading.Event()
    judged: list[int] = []

    def slow(examples: Examples, go_on: Callable[[], None]) -> object:
        judged.append(len(examples.labels))
        if len(examples.labels) == 10:
            began.set()
            assert released.wait(60)
        return held_out(examples, go_on)

    monkeypatch.setattr(fitting, "held_out", slow)
    fitter.take(first(35), NAMES)
    assert began.wait(60)
    fitter.take(first(36), NAMES)
    released.set()
    assert fitter.wait(60)
    assert judged == [35, 10, 36, 10, 20, 30]
    assert [point.rows for point in fitter.fit.growth] == [10, 20, 30, 36]


def test_the_end_does_not_wait_for_all_rounds_to_be_judged(
    fitter: Fitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(examples: Examples, go_on: Callable[[], None]) -> None:
        go_on()
        time.sleep(0.2)

    monkeypatch.setattr(fitting, "ROUND", 1)
    monkeypatch.setattr(fitting, "held_out", slow)
    fitter.take(ROWS, NAMES)
    assert fitter.wait(60, scored=True)
    before = time.monotonic()
    fitter.__exit__()
    assert time.monotonic() - before < 2
    assert not fitter._thread.is_alive()


def test_the_end_waits_for_the_one_fit_that_is_under_way(
    fitter: Fitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that was still computing had Python abort."""
    began, fits = threading.Event(), list[int]()

    class Slow(rounds.Classifier):
        def __init__(self, examples: Examples) -> None:
            fits.append(len(examples.labels))
            began.set()
            time.sleep(0.3)
            super().__init__(examples)

    monkeypatch.setattr(rounds, "Classifier", Slow)
    fitter.take(first(20), NAMES)
    assert began.wait(60)
    fitter.__exit__()
    assert not fitter._thread.is_alive()
    assert fits == [16]  # of five


def test_a_class_that_came_meanwhile_waits_for_the_next_fit(fitter: Fitter) -> None:
    """Rows and classes are taken together: a row of a class that is not there yet would end the thread."""
    for count in range(1, 40):
        fitter.take(first(count), tuple(dict.fromkeys(first(count).values())))
    assert fitter.wait(60)
    assert (fitter.fit.failure, fitter.fit.growth[-1].rows) == ("", 39)


class Tower:
    """Reads names of up to ten letters."""

    dim = 24

    def tokens(self, texts: list[str], n_context: int) -> None:
        raise EncoderError("clap: the prompt has 99 tokens, at most 77 are read")


def test_names_that_the_encoder_cannot_read_leave_the_sound(tmp_path: Path) -> None:
    store = FeatureStore(write_sample(tmp_path / "store.zarr", make_features(noise=0.3)))
    features = store.read()
    words = Words(replace(store.header, text_recipe={"of": "a test"}), Tower)  # type: ignore[arg-type]
    rows = np.arange(len(features.labels))
    with Fitter(features.audio.numpy(), features.usable.numpy(), rows, words) as fitter:
        fitter.take(first(20), NAMES)
        assert fitter.wait(60)
    assert fitter.fit.probabilities is not None
    assert fitter.fit.failure == ""
    assert words.unread == (
        "names of classes are not read, sound alone counts: 'class 0': clap: the prompt has 99 tokens, "
        "at most 77 are read"
    )


def test_a_tower_that_breaks_while_it_is_loaded_turns_text_off(tmp_path: Path) -> None:
    store = FeatureStore(write_sample(tmp_path / "store.zarr", make_features()))

    def load() -> None:
        raise ImportError("No module named 'birds'")

    words = Words(replace(store.header, text_recipe={"of": "a test"}), load)  # type: ignore[arg-type]
    assert words.classes(NAMES) is None
    assert words.off == "the text tower cannot be loaded: ImportError: No module named 'birds'"


def test_after_many_rounds_some_of_them_are_judged(fitter: Fitter, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restart with thousands of labels must not fit for hours."""
    monkeypatch.setattr(fitting, "ROUND", 2)
    monkeypatch.setattr(fitting, "MAX_POINTS", 5)
    fitter.take(ROWS, NAMES)
    assert fitter.wait(60)
    assert [point.rows for point in fitter.fit.growth] == [8, 16, 24, 32, 40]


def test_a_label_that_was_changed_is_judged_anew(fitter: Fitter) -> None:
    fitter.take(first(12), NAMES)
    assert fitter.wait(60)
    before = fitter.fit.growth[0]
    fitter.take({**first(12), 3: "class 0", 7: "class 1"}, NAMES)
    assert fitter.wait(60)
    assert fitter.fit.growth[0].mean < before.mean
