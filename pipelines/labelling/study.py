"""Which proposals of the label page help: a labeller who knows the hidden labels, with each kind of proposal.

``python -m pipelines.labelling.study STORE [--out DIR]``

The store's labels are hidden. The labeller starts with the class names alone, is shown what
:func:`palm_cache.label.rounds.propose` proposes, in rounds as on the page, and answers from the truth.
After so many labels the page's classifier is scored on the test rows of fold 1. A seed decides which four
fifths of the training rows there are to be labelled, so that deterministic proposals have a spread too.

Done once with class names that the encoder reads, and once as with an encoder that reads no text.
Writes ``labelling.csv``, a row per run and number of labels, and ``labelling.svg``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from palm_cache.label.rounds import (
    ROUND,
    Classifier,
    Examples,
    Proposal,
    accuracy,
    can_fit,
    held_out,
    propose,
)
from palm_cache.retrieval.queries import mean_direction
from palm_cache.store.features import FeatureStore
from palm_cache.types import Features

CHECKPOINTS = (0, 15, 30, 60, 120)

SEEDS = (0, 1, 2)

POOL_SHARE = 0.8
"""Of the training rows."""

STRATEGIES: dict[Proposal, tuple[str, str, str, str]] = {
    "both": ("uncertain and diverse", "#0072B2", "o", "-"),
    "uncertain": ("uncertain", "#D55E00", "s", "--"),
    "diverse": ("diverse", "#009E73", "^", "-."),
    "random": ("at random", "#000000", "x", ":"),
}
"""What each kind of proposal is called, and its colour, marker and dashes."""


@dataclass(frozen=True)
class Study:
    """A labelled store with its labels hidden."""

    audio: NDArray[np.float32]
    truth: NDArray[np.int64]
    """What the labeller knows."""
    n_classes: int
    text: NDArray[np.float32] | None
    """(n_classes, dim), ``None`` for an encoder that reads none."""
    pool: NDArray[np.int64]
    """Rows that can be labelled."""
    test: NDArray[np.int64]

    @classmethod
    def of(cls, features: Features, *, reads: bool) -> Study:
        """Hide the labels of a store."""
        fold, usable = features.folds[0], features.usable.numpy()
        pool, test = (rows[usable[rows]] for rows in (fold.train.numpy(), fold.test.numpy()))
        text = mean_direction(features.text) if reads else None
        audio = features.audio[:, 0].numpy()
        return cls(audio, features.labels.numpy(), len(features.class_names), text, pool, test)


def label(study: Study, by: Proposal, seed: int) -> Iterator[dict[str, object]]:
    """Label rounds of proposed rows and yield what the classifier is worth at every checkpoint."""
    open_to = np.zeros(len(study.audio), bool)
    pool = np.random.RandomState(seed).permutation(study.pool)
    open_to[pool[: round(POOL_SHARE * len(pool))]] = True
    labelled = np.zeros(0, np.int64)
    while True:
        examples = Examples(
            study.audio[labelled], study.truth[labelled], labelled, study.n_classes, study.text
        )
        classifier = Classifier(examples) if can_fit(examples) else None
        if len(labelled) in CHECKPOINTS:
            rest = np.setdiff1d(np.flatnonzero(open_to), labelled)
            yield {"labels": len(labelled), **_scores(study, examples, classifier, labelled, rest)}
        if len(labelled) >= CHECKPOINTS[-1]:
            return
        shares = classifier.probabilities(study.audio) if classifier else None
        count = min(ROUND, min(point for point in CHECKPOINTS if point > len(labelled)) - len(labelled))
        proposed = propose(by, study.audio, labelled, open_to, shares, count, seed=seed)
        labelled = np.concatenate([labelled, proposed])


def _scores(
    study: Study,
    examples: Examples,
    classifier: Classifier | None,
    labelled: NDArray[np.int64],
    rest: NDArray[np.int64],
) -> dict[str, float]:
    """Return accuracy on test rows and on rows not labelled yet, and what the page shows."""
    said = {"classes": float(len(np.unique(examples.labels)))}
    for name, rows in (("accuracy", study.test), ("rest", rest)) if classifier is not None else ():
        guess = classifier.probabilities(study.audio[rows]).argmax(axis=1)
        said[name] = float((guess == study.truth[rows]).mean())
    right = held_out(examples)
    if right is not None:
        shown = accuracy(right, labelled)
        said |= {"shown": shown.mean, "low": shown.low, "high": shown.high}
    return said


def run(features: Features) -> pd.DataFrame:
    """Return a row per way of proposing, seed and checkpoint, with text and without."""
    rows = [
        {"text": "read" if reads else "not read", "proposed": by, "seed": seed, **point}
        for reads in (True, False)
        for study in [Study.of(features, reads=reads)]
        for by in STRATEGIES
        for seed in SEEDS
        for point in label(study, by, seed)
    ]
    return pd.DataFrame(rows)


def table(points: pd.DataFrame) -> str:
    """Return mean and standard deviation over seeds, as Markdown."""
    lines = []
    for reads, of_text in points.groupby("text", sort=False):
        lines += [f"Class names {reads}:", ""]
        lines += ["| proposed | " + " | ".join(f"{n} labels" for n in CHECKPOINTS) + " |"]
        lines += ["|" + "---|" * (len(CHECKPOINTS) + 1)]
        for by, (name, *_) in STRATEGIES.items():
            of_kind = of_text[of_text["proposed"] == by].groupby("labels")["accuracy"]
            cells = [
                f"{100 * mean:.1f} ± {100 * spread:.1f}" if mean == mean else "-"
                for mean, spread in zip(of_kind.mean(), of_kind.std(), strict=True)
            ]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def draw(points: pd.DataFrame, out: Path) -> None:
    """Draw accuracy over labels, a panel with text and one without."""
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "palm-cache", "font.size": 10}):
        figure = Figure(figsize=(9, 3.8), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for axes, (reads, of_text) in zip(panels, points.groupby("text", sort=False), strict=True):
            for by, (name, colour, marker, dashes) in STRATEGIES.items():
                of_kind = of_text[of_text["proposed"] == by].groupby("labels")["accuracy"]
                mean, low, high = 100 * of_kind.mean(), 100 * of_kind.min(), 100 * of_kind.max()
                axes.plot(mean.index, mean, dashes, marker=marker, color=colour, label=name)
                axes.fill_between(mean.index, low, high, color=colour, alpha=0.12, linewidth=0)
            axes.set_title(f"class names {reads}", fontsize=10)
            axes.set_xlabel("labels given")
            axes.set_xticks(CHECKPOINTS)
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(axis="y", alpha=0.3)
        panels[0].set_ylabel("accuracy on the test rows (%)")
        panels[1].legend(frameon=False, title="proposed", loc="lower right")
        figure.savefig(out, metadata={"Date": None})


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path, help="a labelled feature store")
    parser.add_argument("--out", type=Path, default=Path("pipelines/labelling/results"))
    chosen = parser.parse_args()
    points = run(FeatureStore(chosen.store).read())
    chosen.out.mkdir(parents=True, exist_ok=True)
    points.to_csv(chosen.out / "labelling.csv", index=False, float_format="%.4f")
    draw(points, chosen.out / "labelling.svg")
    print(table(points))
    told = points.dropna(subset=["low"])
    inside = (told["low"] <= told["rest"]) & (told["rest"] <= told["high"])
    shown = told.assign(inside=inside, off=100 * (told["shown"] - told["rest"]))
    print("What the page shows, against the accuracy on all rows that are not labelled yet:")
    print(shown.groupby(["text", "proposed"], sort=False)[["inside", "off"]].mean().round(2))


if __name__ == "__main__":
    main()
