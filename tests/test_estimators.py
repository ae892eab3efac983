from __future__ import annotations

import numpy as np
import pytest
import torch
from samples import make_features
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold, cross_val_score, cross_validate
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, Normalizer
from sklearn.utils.estimator_checks import check_estimator

from palm_cache.adaptation.fit import fit_runs, text_of
from palm_cache.adaptation.heads import HEADS, find_head
from palm_cache.adaptation.heads.base import Shots, unit
from palm_cache.adaptation.tasks import few_shot
from palm_cache.errors import ArrayError, ParameterError, UnknownNameError
from palm_cache.estimators import HeadClassifier, PalmClassifier, ZeroShotClassifier
from palm_cache.params import FitParams
from palm_cache.types import Features
from palm_cache.types.runs import Training

WORDLESS = [name for name, head in HEADS.items() if not head.needs_text_tower and head.n_encoders == 1]

CHOOSING = [
    name
    for name in WORDLESS
    if HEADS[name].reads_text and HEADS[name].chooses and name != "palm-tuned"  # it starts from prompts
]
"""Heads with a zero-shot prediction that choose by holding clips out."""

EXPECTED_FAILURES: dict[str, str] = {}
"""Checks of scikit-learn that an estimator may fail, with the reason; none does."""


@pytest.mark.parametrize(
    "estimator",
    [PalmClassifier(epochs=10), ZeroShotClassifier(), HeadClassifier("palm-dagger")],
    ids=lambda estimator: type(estimator).__name__,
)
def test_scikit_learns_own_checks_pass(estimator: HeadClassifier) -> None:
    # Array API input is checked only where SCIPY_ARRAY_API is set: skipped without a word.
    results = check_estimator(estimator, expected_failed_checks=EXPECTED_FAILURES, on_skip=None)
    states = [result["status"] for result in results]
    assert states.count("passed") >= 50
    assert states.count("xfail") == len(EXPECTED_FAILURES)


@pytest.mark.parametrize("name", WORDLESS)
def test_an_estimator_learns_what_fit_learns_on_the_same_clips(name: str, features: Features) -> None:
    training = Training(epochs=5)
    params = FitParams(heads=(name,), shots=(4,), seeds=(3,), folds=(2,), training=training)
    (fitted,), _ = fit_runs(features, params)
    run = fitted.run
    train = few_shot(features, fold=2, shots=run.shots or 4, seed=3).train
    audio = features.audio[:, 0]
    estimator = HeadClassifier(name, text_of(features, fitted.template), epochs=5, random_state=3)
    estimator.fit(audio[train].numpy(), features.labels[train].numpy())
    assert estimator.state_.keys() == fitted.state.keys()
    for key, value in fitted.state.items():
        # Trained in single precision, here in the span of the shots.
        np.testing.assert_allclose(estimator.state_[key], value, atol=1e-5, rtol=1e-5)
    logits = HEADS[name].logits(fitted.state, audio).numpy()
    np.testing.assert_allclose(estimator.decision_function(audio), logits, atol=1e-3)
    np.testing.assert_array_equal(estimator.predict(audio), logits.argmax(axis=1))


def test_palm_is_the_head_of_that_name_and_zero_shot_too(features: Features) -> None:
    audio, labels = features.audio[:, 0].numpy(), features.labels.numpy()
    text = features.text[:, 0].numpy()
    for one, other in (
        (
            PalmClassifier(text, epochs=3, random_state=1),
            HeadClassifier("palm", text, epochs=3, random_state=1),
        ),
        (ZeroShotClassifier(text), HeadClassifier("zero-shot", text)),
    ):
        np.testing.assert_array_equal(
            one.fit(audio, labels).decision_function(audio), other.fit(audio, labels).decision_function(audio)
        )


def test_zero_shot_without_text_is_the_nearest_class_mean() -> None:
    features = make_features(noise=3)
    audio = torch.nn.functional.normalize(features.audio[:, 0], dim=1).numpy()
    labels = features.labels.numpy()
    # Of unit vectors, the nearest of unit means has the largest cosine.
    means = Normalizer().fit_transform([audio[labels == label].mean(axis=0) for label in range(4)])
    reference = KNeighborsClassifier(1).fit(means, range(4)).predict(audio)
    assert (reference != labels).sum() > 0
    np.testing.assert_array_equal(ZeroShotClassifier().fit(audio, labels).predict(audio), reference)


@pytest.mark.parametrize("name", CHOOSING)
def test_without_text_what_is_held_out_is_not_in_a_stand_in_for_its_prompt(name: str) -> None:
    """On clips without any class nothing can be learned, and what judges them must not say otherwise."""
    generator = np.random.RandomState(0)
    audio, labels = generator.randn(60, 200), np.repeat(np.arange(3), 20)
    classifier = HeadClassifier(name).fit(audio, labels)
    assert classifier.predict_proba(generator.randn(200, 200)).max(axis=1).mean() < 0.75


def test_without_text_a_head_that_starts_from_prompts_is_refused_and_does_not_guess(
    features: Features,
) -> None:
    with pytest.raises(ParameterError, match="'palm-tuned' starts from the classes' prompts: give text"):
        HeadClassifier("palm-tuned").fit(features.audio[:, 0].numpy(), features.labels.numpy())


def test_a_class_that_a_fold_lacks_keeps_its_row_of_text(features: Features) -> None:
    audio, text = features.audio[:, 0].numpy(), features.text[:, 0].numpy()
    names = np.array(["alarm", "dog", "rain", "siren"])
    labels = names[features.labels]
    known = PalmClassifier(text, classes=names, epochs=3).fit(audio[labels != "dog"], labels[labels != "dog"])
    assert known.classes_.tolist() == names.tolist()
    assert known.predict_proba(audio).shape == (120, 4)
    assert (known.predict(audio[labels == "dog"]) == "dog").any()
    rare = np.concatenate([np.flatnonzero(labels != "dog"), np.flatnonzero(labels == "dog")[:2]])
    scores = cross_val_score(
        PalmClassifier(text, classes=names, epochs=3), audio[rare], labels[rare], cv=KFold(4)
    )
    assert np.isfinite(scores).all()
    with pytest.raises(ArrayError, match=r"text has shape \(4, 24\), expected \(3, 24\).* classes=\["):
        PalmClassifier(text).fit(audio[labels != "dog"], labels[labels != "dog"])
    with pytest.raises(ArrayError, match="y holds 'siren', which is not among classes"):
        PalmClassifier(text[:3], classes=names[:3]).fit(audio, labels)
    with pytest.raises(ArrayError, match="classes must be sorted"):
        PalmClassifier(text, classes=names[::-1]).fit(audio, labels)


def test_text_given_to_fit_goes_before_the_parameter(features: Features) -> None:
    audio, labels, text = features.audio[:, 0].numpy(), features.labels.numpy(), features.text[:, 0].numpy()
    by_parameter = ZeroShotClassifier(text).fit(audio, labels)
    by_fit = ZeroShotClassifier(text[::-1].copy()).fit(audio, labels, text=text)
    np.testing.assert_array_equal(by_parameter.predict_proba(audio), by_fit.predict_proba(audio))


def test_classes_may_be_names_in_any_order(features: Features) -> None:
    audio, text = features.audio[:, 0].numpy(), features.text[:, 0].numpy()
    names = np.array(["dog", "siren", "rain", "alarm"])
    order = np.argsort(names)
    palm = PalmClassifier(text[order], epochs=5).fit(audio, names[features.labels])
    assert palm.classes_.tolist() == sorted(names)
    assert palm.score(audio, names[features.labels]) > 0.9
    np.testing.assert_allclose(palm.predict_proba(audio).sum(axis=1), 1)
    np.testing.assert_array_equal(
        palm.predict(audio), palm.classes_[palm.predict_proba(audio).argmax(axis=1)]
    )


def test_two_classes_have_one_decision_value_per_clip() -> None:
    features = make_features(n_classes=2)
    audio, labels = features.audio[:, 0].numpy(), features.labels.numpy()
    palm = PalmClassifier(epochs=3).fit(audio, labels)
    decision = palm.decision_function(audio)
    assert decision.shape == labels.shape
    np.testing.assert_array_equal(palm.predict(audio), (decision > 0).astype(int))


def test_cloning_pipelines_and_searches_work(features: Features) -> None:
    audio, labels, text = features.audio[:, 0].numpy(), features.labels.numpy(), features.text[:, 0].numpy()
    palm = PalmClassifier(text, epochs=2)
    copy = clone(palm)
    assert copy.get_params().keys() == palm.get_params().keys()
    np.testing.assert_array_equal(copy.text, text)
    assert palm.set_params(epochs=3).epochs == 3
    assert cross_val_score(palm, audio, labels, cv=StratifiedKFold(3)).min() > 0.7
    routed = cross_validate(ZeroShotClassifier(), audio, labels, cv=3, params={"text": text})
    direct = cross_validate(ZeroShotClassifier(text), audio, labels, cv=3)
    np.testing.assert_array_equal(routed["test_score"], direct["test_score"])
    pipeline = make_pipeline(FunctionTransformer(lambda rows: 7 * rows), PalmClassifier(text))
    search = GridSearchCV(pipeline, {"palmclassifier__epochs": [1, 4]}, cv=3, refit=False)
    assert search.fit(audio, labels).cv_results_["mean_test_score"].min() > 0.7


def test_a_whole_number_is_the_seed_and_none_draws_another(features: Features) -> None:
    audio, labels = features.audio[:, 0].numpy(), features.labels.numpy()

    def learned(random_state: object) -> np.ndarray:
        return PalmClassifier(epochs=1, random_state=random_state).fit(audio, labels).state_["context"]

    np.testing.assert_array_equal(learned(5), learned(np.int64(5)))
    np.testing.assert_array_equal(learned(np.random.RandomState(1)), learned(np.random.RandomState(1)))
    assert not np.array_equal(learned(np.random.RandomState(1)), learned(1))
    assert not np.array_equal(learned(None), learned(None))


def test_bad_input_is_refused_with_the_place() -> None:
    audio, labels = make_blobs(30, n_features=5, random_state=0)
    palm = PalmClassifier(epochs=1).fit(audio, labels)
    broken = audio.copy()
    broken[[7, 9], 2] = np.nan
    for call in (lambda: palm.fit(broken, labels), lambda: palm.predict(broken)):
        with pytest.raises(ArrayError, match=r"X contains NaN or infinity in row 7 \(and in 1 more\)"):
            call()
    with pytest.raises(ArrayError, match="text contains NaN or infinity in row 1"):
        palm.fit(audio, labels, text=np.array([[0.0] * 5, [np.inf] * 5, [0.0] * 5]))
    with pytest.raises(ArrayError, match=r"text has shape \(2, 5\), expected \(3, 5\)"):
        palm.fit(audio, labels, text=np.ones((2, 5)))
    with pytest.raises(ArrayError, match=r"y holds one class only, 0\.0;"):
        palm.fit(audio, np.zeros(30))
    with pytest.raises(ParameterError, match=r"PalmClassifier: palm's context is not finite: .* lr 1e\+30"):
        PalmClassifier(lr=1e30).fit(audio, labels)
    with pytest.raises(ParameterError, match="head 'coop' learns words"):
        HeadClassifier("coop").fit(audio, labels)
    with pytest.raises(UnknownNameError, match="did you mean palm"):
        HeadClassifier("plam").fit(audio, labels)


def test_clips_of_one_group_are_held_out_together(features: Features) -> None:
    audio, labels = features.audio[:24, 0].numpy(), features.labels[:24].numpy()
    copied, groups = np.repeat(audio, 3, axis=0), np.repeat([f"recording {row}" for row in range(24)], 3)
    text = np.asarray(features.text[:, 0])
    alone, grouped = (
        HeadClassifier("gda").fit(copied, np.repeat(labels, 3), text, groups=given)
        for given in (None, groups)
    )
    shots = Shots(
        unit(torch.from_numpy(copied))[None],
        torch.from_numpy(np.repeat(labels, 3))[None],
        unit(torch.from_numpy(text))[None],
        (0,),
        groups=torch.arange(24).repeat_interleave(3)[None],
    )
    expected = find_head("gda")("{c}", Training()).fit(shots)
    for name, value in expected.items():
        np.testing.assert_allclose(grouped.state_[name], value[0], atol=1e-6)
    assert alone.state_["alpha"] > grouped.state_["alpha"]  # its copies make every clip look easy
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        HeadClassifier("gda").fit(copied, np.repeat(labels, 3), text, groups=groups[:5])
    with pytest.raises(ValueError, match="should be a 1d array"):
        HeadClassifier("gda").fit(
            copied, np.repeat(labels, 3), text, groups=np.stack([groups, groups], axis=1)
        )


def test_one_clip_a_class_is_no_reason_to_warn() -> None:
    audio = np.random.default_rng(0).standard_normal((30, 8))
    assert HeadClassifier("prototype").fit(audio, np.arange(30)).predict(audio).tolist() == list(range(30))
