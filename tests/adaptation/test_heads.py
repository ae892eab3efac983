from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from contracts import check_blindness, check_head
from hypothesis import given
from hypothesis import strategies as st
from samples import make_features

from palm_cache.adaptation.fit import fit_runs, text_of
from palm_cache.adaptation.heads import HEADS, find_head
from palm_cache.adaptation.heads.base import unit
from palm_cache.adaptation.heads.palm import mix_context
from palm_cache.adaptation.heads.prototype import Prototype
from palm_cache.errors import DataError, ParameterError, UnknownNameError
from palm_cache.params import FitParams
from palm_cache.types import BARE_TEMPLATE, Features
from palm_cache.types.runs import FittedHead, Training


@pytest.mark.parametrize("name", HEADS)
def test_every_head_keeps_the_contract(name: str) -> None:
    check_head(HEADS[name])


def test_every_head_is_listed_by_its_own_name() -> None:
    assert [head.name for head in HEADS.values()] == list(HEADS)


@given(seed=st.integers(0, 1000), gate=st.floats(-20, 20))
def test_mixed_embeddings_have_unit_rows(seed: int, gate: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    text, context = torch.randn(2, 5, 16, generator=generator)
    mixed = mix_context(unit(text), context, torch.full((5,), gate))
    torch.testing.assert_close(mixed.norm(dim=1), torch.ones(5))


def test_a_closed_gate_gives_the_text_and_an_open_one_the_context() -> None:
    text, context = unit(torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(mix_context(text, context, torch.full((3,), -40.0)), text)
    torch.testing.assert_close(mix_context(text, context, torch.full((3,), 40.0)), context)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match=r"text \(3, 8\), context \(4, 8\)"):
        mix_context(torch.ones(3, 8), torch.ones(4, 8), torch.ones(4))


def test_palm_dagger_is_zero_shot_with_the_bare_class_name(features: Features) -> None:
    dagger, bare = (
        fit_runs(features, FitParams(heads=(head,), template=BARE_TEMPLATE))[0]
        for head in ("palm-dagger", "zero-shot")
    )
    for one, other in zip(dagger, bare, strict=True):
        assert torch.equal(one.state["class_embeddings"], other.state["class_embeddings"])


def test_palm_dagger_is_palm_without_context(features: Features) -> None:
    """With no context the gate only scales the text, and the norm takes the scale out again."""
    text = text_of(features, BARE_TEMPLATE)
    gate = torch.rand(len(text), generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(mix_context(text, torch.zeros_like(text), gate), text)


def test_zero_shot_reads_any_template_of_the_store(features: Features) -> None:
    for template in features.templates:
        head = fit_runs(features, FitParams(heads=("zero-shot",), template=template))[0][0]
        assert head.template == template
        torch.testing.assert_close(head.state["class_embeddings"], text_of(features, template))


@pytest.mark.parametrize("name", ["palm", "palm-prototype", "palm-tuned"])
def test_palm_starts_from_the_prompt_that_is_asked_for_and_else_from_the_bare_name(
    features: Features, name: str
) -> None:
    def fit(template: str, given: Features = features) -> FittedHead:
        params = FitParams(
            heads=(name,), template=template, folds=(1,), seeds=(0,), training=Training(epochs=2)
        )
        return fit_runs(given, params)[0][0]

    published, bare = fit(""), fit(BARE_TEMPLATE)
    assert published.template == BARE_TEMPLATE
    assert published.run == bare.run
    torch.testing.assert_close(published.state["class_embeddings"], bare.state["class_embeddings"])
    for template in (features.templates[3], "all"):
        started = fit(template)
        assert started.template == template
        assert "template=" in started.run.variant
        # The same as where the store holds that text as the bare name's.
        moved = features.text.clone()
        moved[:, features.templates.index(BARE_TEMPLATE)] = text_of(features, template)
        expected = fit("", replace(features, text=moved))
        torch.testing.assert_close(started.state["class_embeddings"], expected.state["class_embeddings"])


def test_the_mean_of_all_prompts_is_taken_of_unit_vectors(features: Features) -> None:
    long = features.text * torch.arange(1, 9)[:, None]
    expected = torch.nn.functional.normalize(features.text, dim=-1).mean(dim=1)
    expected = torch.nn.functional.normalize(expected, dim=-1)
    torch.testing.assert_close(text_of(replace(features, text=long), "all"), expected)
    head = fit_runs(features, FitParams(heads=("zero-shot",), template="all"))[0][0]
    torch.testing.assert_close(head.state["class_embeddings"], expected)


def test_descriptions_that_the_store_lacks_are_missed_by_name(features: Features) -> None:
    with pytest.raises(UnknownNameError, match=r"holds no descriptions; .* extract .*--descriptions FILE"):
        fit_runs(features, FitParams(heads=("zero-shot",), template="descriptions"))
    described = replace(features, templates=(*features.templates[:-1], "descriptions"))
    head = fit_runs(described, FitParams(heads=("palm-dagger", "zero-shot"), template="descriptions"))[0][-1]
    torch.testing.assert_close(head.state["class_embeddings"], unit(features.text[:, -1]))


def test_palm_learns_from_its_shots() -> None:
    features = make_features(noise=0.3, shift=3)
    zero_shot, palm = (
        fit_runs(features, FitParams(heads=(name,), shots=(8,), folds=(1,), seeds=(0,)))[0][0]
        for name in ("palm-dagger", "palm")
    )
    test = features.folds[0].test

    def accuracy(head: object) -> float:
        logits = find_head(head.run.head).logits(head.state, features.audio[test, 0])  # type: ignore[attr-defined]
        return float((logits.argmax(1) == features.labels[test]).float().mean())

    assert accuracy(palm) > accuracy(zero_shot) + 0.1


def test_a_run_does_not_depend_on_the_runs_beside_it(features: Features) -> None:
    alone = fit_runs(features, FitParams(heads=("palm",), seeds=(1,), folds=(2,), shots=(4,)))[0][0]
    together = fit_runs(features, FitParams(heads=("palm",), seeds=(0, 1, 2), shots=(4,)))[0]
    same = next(head for head in together if head.run == alone.run)
    torch.testing.assert_close(same.state["context"], alone.state["context"], atol=1e-5, rtol=0)
    torch.testing.assert_close(same.state["gate"], alone.state["gate"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", HEADS)
def test_no_head_looks_at_test_clips(name: str) -> None:
    check_blindness(HEADS[name])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_a_state_that_cannot_be_computed_with_is_refused_whatever_the_head(
    value: float, features: Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = {"class_embeddings": torch.full((1, 4, 24), value), "bias": torch.zeros(1, 4)}
    monkeypatch.setattr(Prototype, "fit", lambda self, shots: broken)
    params = FitParams(heads=("prototype",), shots=(4,), seeds=(0,), folds=(1,))
    with pytest.raises(ParameterError, match="fold1-seed0: prototype's class_embeddings is not finite"):
        fit_runs(features, params)


def test_an_unknown_head_names_the_near_matches() -> None:
    with pytest.raises(UnknownNameError, match="unknown head 'plam'; did you mean palm"):
        find_head("plam")


def test_the_training_that_is_asked_for_is_recorded(features: Features) -> None:
    training = Training(epochs=2, lr=0.1)
    head = fit_runs(features, FitParams(heads=("palm",), training=training))[0][0]
    assert head.hyperparameters == {"epochs": 2, "lr": 0.1, "momentum": 0.9, "batch_size": 16}
