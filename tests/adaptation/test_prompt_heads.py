"""COOP and COCOOP against the authors' own numbers and against plain loops."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from spectrum import LetterTower
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from palm_cache.adaptation.fit import fit_runs, text_of
from palm_cache.adaptation.heads.base import Shots, Words, cosine_logits, unit
from palm_cache.adaptation.heads.cocoop import Cocoop, CocoopZebra, conditional_logits
from palm_cache.adaptation.heads.coop import Coop, CoopZebra, PromptLearner, prompt_tokens
from palm_cache.adaptation.heads.descent import draw_orders, sgd
from palm_cache.adaptation.heads.palm import Palm
from palm_cache.errors import ParameterError
from palm_cache.extraction.encoders.pengi import PengiEncoder, PengiTextTower
from palm_cache.params import FitParams
from palm_cache.types import ZERO_SHOT_TEMPLATE, Features
from palm_cache.types.runs import Training

CLASSES = ("dog", "church bell", "children's playing")
PAPER_CLASSES = (4, 6, 50, 10, 10, 10, 8, 4, 15, 10, 6)
"""Classes of the paper's eleven datasets."""


def read_record(file: Path) -> dict[str, Tensor]:
    with np.load(file) as recorded:
        return {name: torch.from_numpy(np.asarray(recorded[name])) for name in recorded.files}


@pytest.fixture(scope="module")
def two_layers(golden_pengi: PengiEncoder) -> PengiTextTower:
    """PENGI's text tower cut to its first two layers, as in the records."""
    tower = copy.deepcopy(golden_pengi.text_tower())
    tower._tower.clip.encoder.layers = tower._tower.clip.encoder.layers[:2]
    return tower


def words_of(record: Mapping[str, Tensor], golden: Path, tower: PengiTextTower) -> Words:
    """Find the class names of a record by their token ids."""
    names = {
        tuple(row["coop"]): row["classname"] for row in json.loads((golden / "token_ids.json").read_text())
    }
    lengths = record["attention_mask"].sum(dim=1).tolist()
    rows = zip(record["input_ids"].tolist(), lengths, strict=True)
    return Words(tower, tuple(names[tuple(ids[:length])] for ids, length in rows))


def check_against_record(
    record: Mapping[str, Tensor],
    start: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    logits: Callable[[Mapping[str, Tensor], Tensor], Tensor],
    max_clips: int | None,
) -> None:
    scores = logits(start, record["test_x32"][None])[0]
    torch.testing.assert_close(scores, record["logits32_init"], atol=1e-4, rtol=0)
    batches = len(record["losses"])
    # A first step of rate 1 without momentum goes down the gradient itself.
    once = Training(lr=1.0, momentum=0.0)
    orders, nothing = record["orders"][None, :1], torch.empty(1, 0, 0)
    shots = Shots(record["train_x"][None], record["train_y"][None], nothing, (0,))
    after, _ = sgd(start, logits, shots, orders[..., :16], once, max_clips=max_clips)
    for name, gradient in gradients.items():
        torch.testing.assert_close((start[name] - after[name])[0], gradient, atol=1e-4, rtol=1e-3)
    _, losses = sgd(start, logits, shots, orders[..., : 16 * batches], Training(), max_clips=max_clips)
    torch.testing.assert_close(losses[0].double(), record["losses"], atol=1e-4, rtol=0)


def test_coop_has_the_authors_losses_and_gradients(golden: Path, two_layers: PengiTextTower) -> None:
    record = read_record(golden / "train_coop.npz")
    words = words_of(record, golden, two_layers)
    tokens = prompt_tokens(words)

    def logits(parameters: Mapping[str, Tensor], audio: Tensor) -> Tensor:
        return cosine_logits(unit(words.tower.encode_behind(parameters["context"], tokens)), audio)

    start = {"context": record["init_ctx"][None]}
    check_against_record(record, start, {"context": record["grad0_ctx"]}, logits, None)


@pytest.mark.parametrize("max_clips", [None, 5])
def test_cocoop_has_the_authors_losses_and_gradients(
    golden: Path, two_layers: PengiTextTower, max_clips: int | None
) -> None:
    record = read_record(golden / "train_cocoop.npz")
    words = words_of(record, golden, two_layers)
    tokens = prompt_tokens(words)
    names = {
        "context": "ctx",
        "meta_weight1": "meta_net.linear1.weight",
        "meta_bias1": "meta_net.linear1.bias",
        "meta_weight2": "meta_net.linear2.weight",
        "meta_bias2": "meta_net.linear2.bias",
    }
    start = {name: record[f"init_{official}"][None] for name, official in names.items()}
    gradients = {name: record[f"grad0_{official}"] for name, official in names.items()}

    def logits(parameters: Mapping[str, Tensor], audio: Tensor) -> Tensor:
        return conditional_logits(parameters, audio, tokens, words)

    check_against_record(record, start, gradients, logits, max_clips)


def make_shots(tower: LetterTower, runs: int = 2, clips: int = 21) -> Shots:
    generator = torch.Generator().manual_seed(0)
    audio = unit(torch.randn(runs, clips, 32, generator=generator, dtype=torch.float64))
    labels = torch.randint(len(CLASSES), (runs, clips), generator=generator)
    text = unit(torch.randn(len(CLASSES), 32, generator=generator, dtype=torch.float64))
    return Shots(audio, labels, text.expand(runs, -1, -1), tuple(range(3, 3 + runs)), Words(tower, CLASSES))


def prompt(tower: LetterTower, context: Tensor, name: str) -> Tensor:
    """Encode one class's prompt behind a context, all by itself."""
    tokens = tower.tokens([f"{name}."], n_context=16)
    return tower.encode(torch.cat([context, tokens.embeddings[0, 16:]])[None], tokens)[0]


def plain_coop(
    tower: LetterTower,
    audio: Tensor,
    labels: Tensor,
    seed: int,
    training: Training,
    zero_shot: Tensor | None = None,
) -> Tensor:
    """COOP's context; with the prompts of zero-shot as ZEBRA trains it."""
    generator = torch.Generator().manual_seed(seed)
    context = nn.Parameter((0.02 * torch.randn(16, 8, generator=generator)).double())
    orders = draw_orders(len(labels), training.epochs, generator)
    optimiser = torch.optim.SGD([context], lr=training.lr, momentum=training.momentum)
    for order in orders:
        for batch in order.split(training.batch_size):
            text = torch.stack([normalize(prompt(tower, context, name), dim=0) for name in CLASSES])
            loss = plain_loss(100 * audio[batch] @ text.T, audio[batch], labels[batch], zero_shot)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return context.detach()


def plain_loss(logits: Tensor, audio: Tensor, labels: Tensor, zero_shot: Tensor | None) -> Tensor:
    """Cross entropy; with the prompts of zero-shot ZEBRA's loss, as its equations have it."""
    if zero_shot is None:
        return cross_entropy(logits, labels)
    log_shares = torch.log_softmax(0.5 * logits + 0.5 * (100 * audio @ zero_shot.T), dim=1)
    entropy = -(log_shares.exp() * log_shares).sum(dim=1)
    return (-log_shares[torch.arange(len(labels)), labels] - 0.05 * entropy).mean()


def plain_cocoop(
    tower: LetterTower,
    audio: Tensor,
    labels: Tensor,
    seed: int,
    training: Training,
    zero_shot: Tensor | None = None,
) -> tuple[list[Tensor], Tensor]:
    """Train clip by clip and class by class, with torch's own modules."""
    generator = torch.Generator().manual_seed(seed)
    context = nn.Parameter((0.02 * torch.randn(16, 8, generator=generator)).double())
    network = nn.Sequential(nn.Linear(32, 2), nn.ReLU(), nn.Linear(2, 8)).double()
    with torch.no_grad():
        for weights, n_in in zip(network.parameters(), (32, 32, 2, 2), strict=True):
            weights.copy_((2 * torch.rand(weights.shape, generator=generator) - 1) / n_in**0.5)
    orders = draw_orders(len(labels), training.epochs, generator)
    parameters = [context, *network.parameters()]
    optimiser = torch.optim.SGD(parameters, lr=training.lr, momentum=training.momentum)

    def scores(clip: Tensor) -> Tensor:
        own = context + network(clip)
        return torch.stack([100 * normalize(prompt(tower, own, name), dim=0) @ clip for name in CLASSES])

    for order in orders:
        for batch in order.split(training.batch_size):
            logits = torch.stack([scores(clip) for clip in audio[batch]])
            loss = plain_loss(logits, audio[batch], labels[batch], zero_shot)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return [value.detach() for value in parameters], torch.stack([scores(clip) for clip in audio]).detach()


def test_coop_equals_a_plain_loop_over_runs() -> None:
    tower, training = LetterTower(32, dtype=torch.float64), Training(epochs=4)
    shots = make_shots(tower)
    state = Coop("", training).fit(shots)
    for run, seed in enumerate(shots.seeds):
        context = plain_coop(tower, shots.audio[run], shots.labels[run], seed, training)
        torch.testing.assert_close(state["context"][run], context, atol=1e-9, rtol=0)


def test_coop_zebra_is_its_equations() -> None:
    tower, training = LetterTower(32, dtype=torch.float64), Training(epochs=4)
    shots = make_shots(tower)
    state = CoopZebra("", training).fit(shots)
    for run, seed in enumerate(shots.seeds):
        audio, zero_shot = shots.audio[run], shots.text[run]
        context = plain_coop(tower, audio, shots.labels[run], seed, training, zero_shot)
        # The authors add 1e-8 to every probability before its logarithm.
        torch.testing.assert_close(state["context"][run], context, atol=1e-6, rtol=0)
        learned = torch.stack([normalize(prompt(tower, context, name), dim=0) for name in CLASSES])
        expected = 0.5 * (100 * audio @ learned.T) + 0.5 * (100 * audio @ zero_shot.T)
        alone = {name: value[run] for name, value in state.items()}
        torch.testing.assert_close(CoopZebra.logits(alone, audio), expected, atol=1e-3, rtol=0)
        plain = plain_coop(tower, audio, shots.labels[run], seed, training)
        assert (plain - context).abs().max() > 1e-3


@pytest.mark.parametrize("template", ["", "{c}"])
def test_coop_zebra_is_half_the_zero_shot_of_its_template(features: Features, template: str) -> None:
    params = FitParams(
        heads=("coop-zebra",),
        shots=(2,),
        seeds=(0,),
        folds=(1,),
        template=template,
        training=Training(epochs=1),
    )
    tower = LetterTower(24)
    (head,), _ = fit_runs(features, params, tower=tower)
    assert head.template == (template or ZERO_SHOT_TEMPLATE)
    tokens = prompt_tokens(Words(tower, features.class_names))
    behind = unit(tower.encode_behind(head.state["context"], tokens))
    expected = (behind + text_of(features, head.template)) / 2
    torch.testing.assert_close(head.state["class_embeddings"], expected, atol=1e-5, rtol=0)


def test_cocoop_equals_a_plain_loop_over_runs_clips_and_classes() -> None:
    tower, training = LetterTower(32, dtype=torch.float64), Training(epochs=4)
    shots = make_shots(tower)
    state = Cocoop("", training).fit(shots)
    names = ("context", "meta_weight1", "meta_bias1", "meta_weight2", "meta_bias2")
    for run, seed in enumerate(shots.seeds):
        learned, scores = plain_cocoop(tower, shots.audio[run], shots.labels[run], seed, training)
        for name, value in zip(names, learned, strict=True):
            torch.testing.assert_close(state[name][run], value, atol=1e-9, rtol=0)
        alone = {name: state[name][run] for name in names}
        torch.testing.assert_close(
            Cocoop.logits(alone, shots.audio[run], shots.words), scores, atol=1e-7, rtol=0
        )


def test_cocoop_zebra_is_its_equations() -> None:
    tower, training = LetterTower(32, dtype=torch.float64), Training(epochs=4)
    shots = make_shots(tower)
    state = CocoopZebra("", training).fit(shots)
    for run, seed in enumerate(shots.seeds):
        audio, labels, zero_shot = shots.audio[run], shots.labels[run], shots.text[run]
        learned, scores = plain_cocoop(tower, audio, labels, seed, training, zero_shot)
        torch.testing.assert_close(state["context"][run], learned[0], atol=1e-6, rtol=0)
        expected = 0.5 * scores + 0.5 * (100 * audio @ zero_shot.T)
        alone = {name: value[run] for name, value in state.items()}
        torch.testing.assert_close(CocoopZebra.logits(alone, audio, shots.words), expected, atol=1e-3, rtol=0)
        assert (plain_cocoop(tower, audio, labels, seed, training)[0][0] - learned[0]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", [Coop, Cocoop, CocoopZebra])
def test_a_small_tower_gets_small_pieces_and_gives_the_same(kind: type[PromptLearner]) -> None:
    shots = make_shots(LetterTower(32, dtype=torch.float64), runs=4)
    assert shots.words is not None
    small = LetterTower(32, dtype=torch.float64)
    small.max_prompts = 7
    whole = kind("", Training(epochs=2)).fit(shots)
    pieces = kind("", Training(epochs=2)).fit(replace(shots, words=Words(small, CLASSES)))
    assert max(small.batches) <= 7
    for name, value in whole.items():
        torch.testing.assert_close(pieces[name], value, atol=1e-9, rtol=0)
    small.batches.clear()
    torch.testing.assert_close(
        kind.logits(
            {name: value[0] for name, value in pieces.items()}, shots.audio[0], Words(small, CLASSES)
        ),
        kind.logits(whole, shots.audio, shots.words)[0],
        atol=1e-7,
        rtol=0,
    )
    assert max(small.batches, default=0) <= 7


@pytest.mark.parametrize("name", ["coop", "cocoop"])
def test_without_a_text_tower_nothing_is_trained(features: Features, name: str) -> None:
    with pytest.raises(
        ParameterError, match=f"head '{name}' learns words: it needs the encoder's text tower"
    ):
        fit_runs(features, FitParams(heads=("palm", name), shots=(2,)))


def test_parameters_are_counted_as_in_the_paper() -> None:
    """Table 3 of the paper, at PENGI's 1024 and 512 dimensions; of COCOOP it counts the network alone."""

    def mean(kind: type[Palm] | type[Coop] | type[Cocoop]) -> int:
        return round(sum(kind.n_params(count, 1024, 512, 0) for count in PAPER_CLASSES) / len(PAPER_CLASSES))

    assert (mean(Palm), mean(Coop), mean(Cocoop)) == (12_393, 8_192, 107_072)
    assert mean(Cocoop) - mean(Coop) == 98_880


@pytest.mark.parametrize("kind", [Coop, Cocoop])
def test_what_is_learned_is_what_is_counted(kind: type[Coop] | type[Cocoop]) -> None:
    shots = make_shots(LetterTower(32))
    state = kind("", Training(epochs=1)).fit(replace(shots, audio=shots.audio.float()))
    learned = sum(value[0].numel() for name, value in state.items() if name != "class_embeddings")
    assert learned == kind.n_params(len(CLASSES), 32, 8, 0)
