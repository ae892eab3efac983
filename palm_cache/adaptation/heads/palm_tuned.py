"""PALM whose learning rate, scale and epochs are chosen for every run from its shots."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from palm_cache.adaptation.heads.base import (
    SCALE,
    Shots,
    Words,
    class_weights,
    in_parts,
    no_tick,
    unit,
)
from palm_cache.adaptation.heads.hyperparameters import (
    TEMPERATURES,
    Grid,
    choose,
    clearly_worse,
    cross_validation_folds,
    example_losses,
    held_out_weights,
)
from palm_cache.adaptation.heads.palm import Palm, mix_context
from palm_cache.adaptation.heads.palm_descent import Variants, descend
from palm_cache.errors import ParameterError

FOLDS = 4
"""Parts of the shots that are held out in turn."""

RECIPES = Grid(((0.0005, 100.0), (0.005, 100.0), (0.005, 30.0), (0.05, 30.0)), default=(0.0005, 100.0))
"""Learning rates and logit scales that are tried. The paper's, 0.05 at 100, moves so far in its first steps
that it forgets the prompts; what is tried goes up to a tenth of its pace, which grows with rate and
squared scale."""

EPOCHS = Grid((0, 2, 5, 12, 30), default=5)
"""After how many passes over the shots learning may stop. The default is for one shot, where nothing can be
held out: a few slow steps from the prompts."""

MAX_NUMBERS = 2**25
"""Numbers of one batch of contexts, 128 MiB."""


class PalmTuned(Palm):
    r"""PALM that starts from the prompts and goes as far as its own held-out shots allow.

    The context starts at zero, where the gate cancels and every class embedding is its prompt. Learning rate,
    logit scale and epochs are chosen by stratified cross-validation: of all candidates that held-out shots do
    not clearly prove worse than the best, the one that moves least. Few clips prove little, and prompts are
    worth a lot. Then every class embedding goes half of the way back to its prompt,

    .. math:: w_c = \mathrm{unit}(t_c + t'_c),

    for shots come from few recordings, and what is tuned to them and what the prompt says err in different
    ways: that costs little where the clips to come are like the shots, and gains much where they are not.
    Every class counts the same. Learning rate and epochs that are asked for are not
    looked at; momentum and batch size are.

    References
    ----------
    Ours; PALM is Hanif et al., EMNLP 2024. Going half of the way back is what Wortsman et al., "Robust
    Fine-tuning of Zero-Shot Models", CVPR 2022, recommend where nothing is known of the clips to come.
    """

    name = "palm-tuned"
    learns = "as palm, from the prompts, as far and as fast as held-out shots allow, and half back"
    # It starts from the prompts, and class means would betray the clips that it holds out to choose.
    can_start_from_shots = False
    chooses = ("learning_rate", "scale", "passes", "held_out")
    source = "ours, after Hanif et al., EMNLP 2024, arXiv:2409.19806"

    @property
    def hyperparameters(self) -> dict[str, object]:
        """Return what is not chosen."""
        return {"momentum": self.training.momentum, "batch_size": self.training.batch_size}

    def n_steps(self, n_examples: int) -> int:
        """Return 1: runs choose for themselves how long they train."""
        return 1

    def start(self, shots: Shots, run: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return no context and the gate that PALM draws."""
        gate = torch.rand(shots.n_classes, generator=generator)
        return {"context": torch.zeros_like(shots.text[run]), "gate": gate}

    def fit(self, shots: Shots) -> dict[str, Tensor]:
        """Choose, then train every run as was chosen for it.

        Raises
        ------
        ParameterError
            If there are no prompts to start from.
        """
        if not shots.text.any():
            raise ParameterError(f"head {self.name!r} starts from the classes' prompts: give `text`")
        together = MAX_NUMBERS // (FOLDS * len(RECIPES.values) * shots.text[0].numel())
        state = in_parts(self._fit, replace(shots, tick=no_tick), together)
        shots.tick(len(shots.seeds))
        return state

    def _fit(self, shots: Shots) -> dict[str, Tensor]:
        start, orders = self.draw(shots, int(EPOCHS.candidates.max()))
        chosen = shots.chosen or self._choose(shots, start, orders)
        learned = self._train(shots, start, orders, chosen)
        tuned = mix_context(shots.text, learned["context"], learned["gate"])
        return {**learned, **chosen, "class_embeddings": unit(shots.text + tuned)}

    def _choose(self, shots: Shots, start: Mapping[str, Tensor], orders: Tensor) -> dict[str, Tensor]:
        dealt = cross_validation_folds(shots.labels, shots.n_classes, shots.together, FOLDS)
        losses = self._search(shots, start, orders, dealt)
        shares = held_out_weights(shots.labels, dealt >= 0, shots.n_classes)
        rates, scales = RECIPES.candidates.unbind(dim=1)
        paces = (rates * scales.square())[:, None] * EPOCHS.candidates
        worse = clearly_worse(losses.flatten(1, 2), shares).view(losses.shape[:3])
        table = paces.expand_as(worse).masked_fill(worse, torch.inf)
        chosen = choose(table, {"recipe": RECIPES, "passes": EPOCHS}, dealt >= 0, shots.views)
        rate, scale = chosen.pop("recipe").unbind(dim=1)
        return {**chosen, "learning_rate": rate, "scale": scale, "passes": chosen["passes"].long()}

    def _search(self, shots: Shots, start: Mapping[str, Tensor], orders: Tensor, dealt: Tensor) -> Tensor:
        """Return held-out losses by recipe and epochs, (runs, recipes, epochs, n_examples)."""
        n_classes, (runs, n_examples) = shots.n_classes, shots.labels.shape
        rates, scales = RECIPES.candidates.to(shots.audio).unbind(dim=1)
        kept = torch.stack([dealt != fold for fold in range(FOLDS)], dim=1)  # (runs, folds, n_examples)
        weights = class_weights(shots.labels, n_classes)[:, None] * kept
        weights = weights / weights.mean(dim=2, keepdim=True)
        weights = weights.to(shots.audio).repeat_interleave(len(rates), dim=1)
        own = dealt.clamp(min=0)[:, None, None, :, None].expand(-1, 1, len(rates), -1, n_classes)
        share = held_out_weights(shots.labels, dealt >= 0, n_classes)[:, None]
        tables: list[Tensor] = []

        def judge(epoch: int, cosines: Tensor) -> None:
            if epoch not in EPOCHS.values:
                return
            by_fold = cosines.view(runs, FOLDS, len(rates), n_examples, n_classes)
            scores = SCALE * by_fold.gather(1, own)[:, 0]
            each = torch.stack([example_losses(factor * scores, shots.labels) for factor in TEMPERATURES])
            best = (each * share).sum(dim=3).argmin(dim=0)  # (runs, recipes)
            tables.append(each.gather(0, best[None, ..., None].expand(1, *each.shape[1:]))[0])

        variants = Variants(rates.repeat(runs * FOLDS), scales.repeat(runs * FOLDS), weights.flatten(0, 1))
        self._descend(shots, start, orders, variants, judge)
        return torch.stack(tables, dim=2)

    def _train(
        self, shots: Shots, start: Mapping[str, Tensor], orders: Tensor, chosen: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Train every run as was chosen for it, those of equally many epochs together."""
        learned = {name: value.clone() for name, value in start.items()}
        weights = class_weights(shots.labels, shots.n_classes).to(shots.audio)
        for epochs in sorted({*chosen["passes"].tolist()} - {0}):
            batch = (chosen["passes"] == epochs).nonzero()[:, 0]
            rates, scales = (chosen[name][batch].to(shots.audio) for name in ("learning_rate", "scale"))
            begun = {name: value[batch] for name, value in start.items()}
            variants = Variants(rates, scales, weights[batch])
            moved = self._descend(shots.of_runs(batch), begun, orders[batch, :epochs], variants)
            for name, value in moved.items():
                learned[name][batch] = value
        return learned

    def _descend(
        self,
        shots: Shots,
        start: Mapping[str, Tensor],
        orders: Tensor,
        variants: Variants,
        watch: Callable[[int, Tensor], None] | None = None,
    ) -> dict[str, Tensor]:
        return descend(start, shots, orders, self.training, variants=variants, watch=watch)[0]

    @staticmethod
    def logits(state: Mapping[str, Tensor], audio: Tensor, words: Words | None = None) -> Tensor:
        """Return the chosen scale times the cosines of clips with the class embeddings."""
        scale = state["scale"].to(audio)[..., None, None]
        return scale * (unit(audio) @ state["class_embeddings"].transpose(-1, -2))
