"""What every encoder and every head must keep; each is checked by the same code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from samples import make_features
from spectrum import LetterTower

from palm_cache.adaptation.fit import fit_runs
from palm_cache.adaptation.heads.base import Head, Shots, Words, unit
from palm_cache.errors import EncoderError
from palm_cache.extraction.audio.waveforms import cut_windows
from palm_cache.extraction.encoders.base import Encoder
from palm_cache.extraction.recipe import audio_recipe
from palm_cache.params import FitParams, Recipe
from palm_cache.store.fingerprint import fingerprint
from palm_cache.types import BARE_TEMPLATE
from palm_cache.types.runs import FittedHead, Training

PROMPTS = ["dog", "The is a recording of  a church bell.", "Rain", "naïve Álarm 7"]


def make_waveforms(encoder: Encoder, count: int, windows: int = 1) -> torch.Tensor:
    """Noisy tones of different pitch and level, (count, windows, samples)."""
    time = torch.arange(encoder.window.samples * windows) / encoder.sample_rate
    pitch = 110 * 2 ** torch.arange(count)[:, None]
    noise = torch.randn(count, len(time), generator=torch.Generator().manual_seed(0))
    tones = 0.3 * torch.sin(2 * torch.pi * pitch * time) + 0.02 * noise
    return tones.unflatten(1, (windows, encoder.window.samples))


def check_encoder(encoder: Encoder, tolerance: float = 1e-5) -> None:
    """Check shapes, types, independence of batch companions, determinism and identity.

    The tolerance is of numbers up to 1, of larger ones a share of the largest.
    """
    waveforms = make_waveforms(encoder, 3)
    audio = encoder.embed_audio(waveforms)
    _check_embeddings(audio, 3, encoder.dim)
    assert torch.equal(encoder.embed_audio(waveforms), audio)
    for row in range(3):
        _assert_same(encoder.embed_audio(waveforms[row : row + 1])[0], audio[row], tolerance)
    silence = encoder.embed_audio(torch.zeros(1, 1, encoder.window.samples))
    assert torch.isfinite(silence).all()
    if encoder.window.max_windows > 1:
        many = encoder.embed_audio(make_waveforms(encoder, 2, windows=encoder.window.max_windows))
        assert many.shape == (2, encoder.dim)
    _check_companions(encoder, tolerance)
    recipes = [audio_recipe(encoder, Recipe())]
    if encoder.text_tower() is not None:
        check_text_tower(encoder, tolerance)
        text = encoder.text_identity
        assert text is not None
        recipes.append(text)
    else:
        assert encoder.text_identity is None
        with pytest.raises(EncoderError, match="embeds sound only, no text"):
            encoder.embed_text(PROMPTS)
    for recipe in recipes:
        assert json.loads(json.dumps(recipe)) == recipe
        assert len(fingerprint(recipe)) == 64
    assert json.loads(json.dumps(encoder.made_with)) == encoder.made_with


def _check_embeddings(embeddings: torch.Tensor, rows: int, dim: int) -> None:
    assert embeddings.shape == (rows, dim)
    assert embeddings.dtype == torch.float32
    assert embeddings.device.type == "cpu"
    assert torch.isfinite(embeddings).all()
    assert (embeddings.norm(dim=1) > 0).all()
    assert not torch.allclose(embeddings[0], embeddings[1], atol=1e-4)
    assert not embeddings.requires_grad


def _check_companions(encoder: Encoder, tolerance: float) -> None:
    """One short clip alone, and among seven longer ones in one batch: the same vector."""
    whole = make_waveforms(encoder, 8)[:, 0]
    lengths = [encoder.window.samples * part // 9 for part in range(2, 10)]
    batch = torch.stack(
        [cut_windows(clip[:length], encoder.window) for clip, length in zip(whole, lengths, strict=True)]
    )
    together = encoder.embed_audio(batch)
    for row in (0, 5):
        _assert_same(encoder.embed_audio(batch[row : row + 1])[0], together[row], tolerance)


def _assert_same(vectors: torch.Tensor, others: torch.Tensor, tolerance: float) -> None:
    torch.testing.assert_close(vectors, others, atol=tolerance * _scale(others), rtol=0)


def _scale(vectors: torch.Tensor) -> float:
    return max(1.0, float(vectors.detach().abs().max()))


def check_text_tower(encoder: Encoder, tolerance: float) -> None:
    """Check that the tower is the one behind ``embed_text``, that context reaches it, that it is frozen."""
    tower = encoder.text_tower()
    assert tower is not None
    expected = encoder.embed_text(PROMPTS)
    _check_embeddings(expected, len(PROMPTS), encoder.dim)
    assert torch.equal(encoder.embed_text(PROMPTS), expected)
    for row, prompt in enumerate(PROMPTS):
        _assert_same(encoder.embed_text([prompt])[0], expected[row], tolerance)
    plain = tower.tokens(PROMPTS, n_context=0)
    assert plain.embeddings.shape == (*plain.mask.shape, tower.token_dim)
    _assert_same(tower.encode(plain.embeddings, plain), expected, tolerance)
    tokens = tower.tokens(PROMPTS, n_context=3)
    assert tokens.mask.shape[1] == plain.mask.shape[1] + 3
    context = torch.randn(2, 1, 3, tower.token_dim, generator=torch.Generator().manual_seed(0))
    context.requires_grad_()
    filled = tokens.embeddings.expand(2, -1, -1, -1).clone()
    filled[:, :, tokens.context] = context
    features = tower.encode(filled, tokens)
    assert features.shape == (2, len(PROMPTS), encoder.dim)
    behind = tower.encode_behind(context[:, 0], tokens)
    torch.testing.assert_close(unit(behind), unit(features), atol=tolerance, rtol=0)
    weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(1))
    slopes = [
        torch.autograd.grad((weights * unit(one)).sum(), context, retain_graph=True)[0]
        for one in (behind, features)
    ]
    torch.testing.assert_close(*slopes, atol=tolerance * float(slopes[1].abs().max()) * 10, rtol=0)
    assert not torch.allclose(features[0], features[1], atol=1e-4)
    # Alone, without companions and their padding, a prompt has the same features.
    for row, prompt in enumerate(PROMPTS):
        alone = tower.tokens([prompt], n_context=3)
        own = alone.embeddings.clone()
        own[:, alone.context] = context[1].detach()
        _assert_same(tower.encode(own, alone)[0], features[1, row], tolerance)
    features[0, :, : encoder.dim // 4].sum().backward()
    assert context.grad is not None
    assert context.grad[0].norm() > 0
    assert context.grad[1].norm() == 0
    assert tower.tokens([], n_context=0).mask.shape[0] == 0


def check_head(kind: type[Head]) -> None:
    """Check shapes, reproducibility, batching over runs, what is recorded and what is looked at."""
    features = make_features(parts=parts_for(kind))
    params = FitParams(heads=(kind.name,), shots=(4,), seeds=(0, 1), training=Training(epochs=3))
    tower = LetterTower(24)
    words = Words(tower, features.class_names)
    heads, _ = fit_runs(features, params, tower=tower)
    assert len(heads) == (3 * 2 if kind.trained else 3)
    for head in heads:
        assert head.n_params == kind.n_params(4, 24, 8, 16)
        logits = kind.logits(head.state, features.audio[:, 0], words)
        assert logits.shape == (120, 4)
        assert torch.isfinite(logits).all()
        # The length of an embedding carries nothing; a power of two changes no digit of it.
        torch.testing.assert_close(
            kind.logits(head.state, 8 * features.audio[:, 0], words), logits, atol=1e-3, rtol=0
        )
        # What it chose is recorded, as JSON can hold it, and only that varies between runs.
        recorded = dict(json.loads(json.dumps(head.hyperparameters)))
        chosen = {name: recorded.pop(name) for name in kind.chooses}
        assert chosen == {name: head.state[name].tolist() for name in kind.chooses}
        assert recorded == kind(head.template, params.training).hyperparameters
    _check_same_states(heads, fit_runs(features, params, tower=tower)[0])
    _check_given_choices(kind, heads[0], tower)
    _check_batching(kind)
    _check_absent_class(kind)


def _check_given_choices(kind: type[Head], head: FittedHead, tower: LetterTower) -> None:
    """What a run chose is taken as it is on other clips, where the head would choose otherwise."""
    other = make_features(parts=parts_for(kind), noise=2.0, seed=1)
    params = FitParams(heads=(kind.name,), shots=(3,), seeds=(5,), folds=(1,), training=Training(epochs=3))
    chosen = {name: head.state[name] for name in kind.chooses}
    (given,), _ = fit_runs(other, params, tower=tower, chosen=chosen)
    assert all(torch.equal(given.state[name], value) for name, value in chosen.items())


def parts_for(kind: type[Head]) -> tuple[int, ...]:
    """How the 24 numbers of :func:`make_features` are divided for a head that needs several encoders."""
    return (10, 14) if kind.n_encoders == 2 else ()


def _check_same_states(heads: Sequence[FittedHead], others: Sequence[FittedHead]) -> None:
    for one, other in zip(heads, others, strict=True):
        assert one.state.keys() == other.state.keys()
        assert all(torch.equal(one.state[name], other.state[name]) for name in one.state)


def check_blindness(kind: type[Head]) -> None:
    """Check that neither labels nor embeddings of test clips change a head, nor prompts it does not read."""
    features = make_features(parts=parts_for(kind))
    params = FitParams(heads=(kind.name,), shots=(4,), seeds=(0,), folds=(1,), training=Training(epochs=3))
    test = features.folds[0].test
    labels, audio = features.labels.clone(), features.audio.clone()
    labels[test], audio[test] = labels[test].roll(1), audio[test].flip(0)
    assert not torch.equal(labels, features.labels)
    others = [replace(features, labels=labels), replace(features, audio=audio)]
    if kind.reads_text:
        _check_blindness_to_names(kind)
    else:
        others.append(replace(features, text=-features.text))
    tower = LetterTower(24)
    honest, _ = fit_runs(features, params, tower=tower)
    for changed in others:
        _check_same_states(honest, fit_runs(changed, params, tower=tower)[0])


def _noise(kind: type[Head], n_classes: int, labels: torch.Tensor, names: Sequence[str], seed: int) -> Shots:
    """Shots of noise, (runs, n_train) labels, with a prompt of noise for every class."""
    generator = torch.Generator().manual_seed(seed)
    audio = unit(torch.randn(*labels.shape, 24, generator=generator))
    text = unit(torch.randn(len(labels), n_classes, 24, generator=generator))
    words, seeds = Words(LetterTower(24), tuple(names)), tuple(range(5, 5 + len(labels)))
    return Shots(audio, labels, text * kind.reads_text, seeds, words, parts=parts_for(kind))


def _check_absent_class(kind: type[Head]) -> None:
    """A class without a training clip is never guessed by heads that know nothing else of it."""
    labels = torch.arange(12)[None] % 2  # of three classes the last is missing
    shots = _noise(kind, 3, labels, ("dog", "church bell", "siren"), seed=1)
    state = kind(BARE_TEMPLATE, Training(epochs=3)).fit(shots)
    clips = torch.randn(1, 200, 24, generator=torch.Generator().manual_seed(3))
    logits = kind.logits(state, clips, shots.words)
    assert torch.isfinite(logits).all()
    if not kind.reads_text:
        assert set(logits.argmax(dim=-1).flatten().tolist()) == {0, 1}


def _check_blindness_to_names(kind: type[Head]) -> None:
    """The name of a class without a clip changes nothing that is learned of the others."""
    states = []
    for sign, name in ((1, "siren"), (-1, "xylophone")):
        names = ("dog", "church bell", "rain", "wind", name)
        shots = _noise(kind, 5, torch.arange(24).repeat(2, 1) % 4, names, seed=2)
        shots.text[:, 4] *= sign
        states.append(kind(BARE_TEMPLATE, Training(epochs=3)).fit(shots))
    for name in states[0]:
        one, other = states[0][name], states[1][name]
        for axis in (axis for axis, size in enumerate(one.shape) if size == 5):
            one, other = one.narrow(axis, 0, 4), other.narrow(axis, 0, 4)
        torch.testing.assert_close(
            one, other, atol=1e-5, rtol=1e-5, msg=lambda said, name=name: f"{name}: {said}"
        )


def _check_batching(kind: type[Head]) -> None:
    """Runs fitted together, and logits of all of them at once, equal runs fitted alone."""
    labels = torch.arange(12).repeat(2, 1) % 3
    shots = _noise(kind, 3, labels, ("dog", "church bell", "siren"), seed=0)  # prompts of either run
    head = kind(BARE_TEMPLATE, Training(epochs=3))
    together = head.fit(shots)
    logits = kind.logits(together, shots.audio, shots.words)
    assert logits.shape == (2, 12, 3)
    for run in range(2):
        alone = head.fit(shots.of_runs(torch.tensor([run])))
        for name, value in alone.items():
            torch.testing.assert_close(together[name][run], value[0], atol=1e-5, rtol=0)
        own = kind.logits(alone, shots.audio[run], shots.words)[0]
        torch.testing.assert_close(own, logits[run], atol=1e-3, rtol=0)
