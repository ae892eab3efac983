"""MALP and SubT against a loop over runs, clips and autograd that is written by hand."""

from __future__ import annotations

from dataclasses import replace

import torch
from samples import make_shots
from torch.nn.functional import cross_entropy, normalize

from palm_cache.adaptation.heads.base import Shots
from palm_cache.adaptation.heads.descent import draw_orders
from palm_cache.adaptation.heads.malp import SHARE, Malp
from palm_cache.adaptation.heads.palm import CONTEXT_STD
from palm_cache.adaptation.heads.subt import SubT
from palm_cache.types import BARE_TEMPLATE
from palm_cache.types.runs import Training

TRAINING = Training(epochs=3, batch_size=5)


def in_double(shots: Shots) -> Shots:
    return replace(
        shots, audio=normalize(shots.audio.double(), dim=-1), text=normalize(shots.text.double(), dim=-1)
    )


def malp_by_hand(shots: Shots, run: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(shots.seeds[run])
    _, n_classes, dim = shots.text.shape
    context = (CONTEXT_STD * torch.randn(n_classes, dim, generator=generator)).double().requires_grad_()
    gate = torch.rand(n_classes, generator=generator).double().requires_grad_()
    vectors = (CONTEXT_STD * torch.randn(3, dim, generator=generator)).double().requires_grad_()
    shares = torch.full((2,), SHARE).double().requires_grad_()
    orders = draw_orders(shots.labels.shape[1], TRAINING.epochs, generator)
    optimiser = torch.optim.SGD([context, gate, vectors, shares], lr=0.05, momentum=0.9)
    for order in orders:
        for batch in torch.split(order, TRAINING.batch_size):
            loss = torch.zeros((), dtype=torch.float64)
            for clip in batch:
                similarities = []
                for label in range(n_classes):
                    trust = torch.sigmoid(gate[label])
                    mixed = (1 - trust) * shots.text[0, label] + trust * context[label]
                    text = mixed / mixed.norm() + shares[1] * vectors[1]
                    sound = shots.audio[run, clip] + shares[0] * vectors[0]
                    left, right = torch.cat([sound, vectors[2]]), torch.cat([text, vectors[2]])
                    similarities.append(left @ right / left.norm() / right.norm())
                loss = loss + cross_entropy(
                    100 * torch.stack(similarities)[None], shots.labels[run, clip][None]
                )
            optimiser.zero_grad()
            (loss / len(batch)).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return {
        "context": context, "gate": gate, "audio_prompt": vectors[0], "text_prompt": vectors[1],
        "shared_prompt": vectors[2], "audio_share": shares[0], "text_share": shares[1],
    }  # fmt: skip


def test_malp_learns_what_a_loop_by_hand_learns() -> None:
    shots = in_double(make_shots(runs=2, clips_per_class=3))
    state = Malp(BARE_TEMPLATE, TRAINING).fit(shots)
    for run in range(2):
        for name, expected in malp_by_hand(shots, run).items():
            torch.testing.assert_close(state[name][run], expected.detach(), atol=1e-8, rtol=0)


def subt_by_hand(shots: Shots, run: int, seen: list[int]) -> torch.Tensor:
    """Return class embeddings, those of classes that are not seen by the rule for new ones."""
    generator = torch.Generator().manual_seed(shots.seeds[run])
    text = shots.text[0, seen]
    left, sizes, start = torch.linalg.svd(text, full_matrices=False)
    learned = start.clone().requires_grad_()
    orders = draw_orders(shots.labels.shape[1], TRAINING.epochs, generator)
    optimiser = torch.optim.SGD([learned], lr=0.0125, momentum=0.9)

    def embeddings() -> torch.Tensor:
        frozen, turned = (left @ torch.diag(sizes) @ rows for rows in (start, learned))
        return normalize(normalize(frozen, dim=1) + normalize(turned, dim=1), dim=1)

    for order in orders:
        for batch in torch.split(order, TRAINING.batch_size):
            targets = torch.tensor([seen.index(int(shots.labels[run, clip])) for clip in batch])
            loss = cross_entropy(100 * shots.audio[run, batch] @ embeddings().T, targets)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    found = torch.empty_like(shots.text[0])
    found[seen] = embeddings().detach()
    turn = start.T @ learned.detach()
    for label in set(range(shots.n_classes)) - set(seen):
        prompt = shots.text[0, label]
        share = (start @ prompt).norm()
        assert 0 <= share <= 1
        found[label] = normalize(prompt + share * normalize(prompt @ turn, dim=0), dim=0)
    return found


def test_subt_learns_what_a_loop_by_hand_learns() -> None:
    shots = in_double(make_shots(runs=2, clips_per_class=3, noise=2.0, shift=2.0))
    state = SubT(BARE_TEMPLATE, TRAINING).fit(shots)
    for run in range(2):
        expected = subt_by_hand(shots, run, [0, 1, 2, 3])
        torch.testing.assert_close(state["class_embeddings"][run], expected, atol=1e-8, rtol=0)
        assert (expected - shots.text[0]).abs().max() > 0.01


def test_subt_turns_the_prompt_of_a_class_without_clips_as_it_turned_the_others() -> None:
    shots = in_double(make_shots(runs=2, clips_per_class=3, noise=2.0, shift=2.0))
    labels = shots.labels.clone()
    labels[0, labels[0] == 1], labels[1, labels[1] == 2] = 3, 0
    state = SubT(BARE_TEMPLATE, TRAINING).fit(replace(shots, labels=labels))
    for run, seen in ((0, [0, 2, 3]), (1, [0, 1, 3])):
        expected = subt_by_hand(replace(shots, labels=labels), run, seen)
        torch.testing.assert_close(state["class_embeddings"][run], expected, atol=1e-8, rtol=0)


def test_subt_bears_two_classes_of_one_prompt() -> None:
    shots = in_double(make_shots(runs=1, clips_per_class=4))
    text = shots.text.clone()
    text[:, 1] = text[:, 0]
    state = SubT(BARE_TEMPLATE, TRAINING).fit(replace(shots, text=text))
    assert state["class_embeddings"].isfinite().all()
    torch.testing.assert_close(state["class_embeddings"][0, 0], state["class_embeddings"][0, 1])
