"""Figures as vector graphics that can be read in black and white and by the colour-blind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from palm_cache.store.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette; markers, dashes and hatches tell the heads apart without colour.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 3)))
HATCHES = ("", "//", "..", "xx", "\\\\", "++", "oo", "--")

_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    # Fixed identifiers: the same scores draw the same bytes.
    "svg.hashsalt": "palm-cache",
    # Names come from data: a "$" in one is a dollar, not mathematics.
    "text.parse_math": False,
}


def draw_accuracy_by_head(summary: pd.DataFrame, file: Path) -> None:
    """Draw a bar per head for every dataset and encoder, each head at its largest number of shots.

    Parameters
    ----------
    summary : DataFrame
        From :func:`palm_cache.report.tables.summarise`.
    """
    best = summary.sort_values("shots").groupby(["dataset", "encoder", "head"], as_index=False).last()
    bars: list[dict[str, Any]] = best.to_dict("records")  # type: ignore[assignment]
    groups = sorted({(bar["dataset"], bar["encoder"]) for bar in bars})
    # From the weakest to the strongest.
    heads = [str(head) for head in summary.groupby("head")["accuracy"].max().sort_values().index]
    width = 0.8 / len(heads)
    with _figure(file, inches=max(4.5, 1.2 + 0.42 * len(groups) * (len(heads) + 1))) as axes:
        for place, head in enumerate(heads):
            mine = [bar for bar in bars if bar["head"] == head]
            shift = (place - (len(heads) - 1) / 2) * width
            axes.bar(
                [groups.index((bar["dataset"], bar["encoder"])) + shift for bar in mine],
                [100 * bar["accuracy"] for bar in mine],
                width,
                yerr=[100 * bar["accuracy_sd"] for bar in mine],  # NaN, one seed: no error bar
                color=COLOURS[place % 8],
                hatch=HATCHES[place % 8],
                edgecolor="black",
                linewidth=0.6,
                capsize=3,
                label=_label(head, sorted({bar["shots"] for bar in mine})),
            )
        several = len({encoder for _, encoder in groups}) > 1
        names = [f"{dataset}\n{encoder}" if several else dataset for dataset, encoder in groups]
        axes.set_xticks(range(len(groups)), names)
        axes.set_ylabel("test accuracy (%)")
        axes.set_ylim(0, 100)
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))


def draw_accuracy_by_shots(summary: pd.DataFrame, file: Path) -> None:
    """Draw accuracy against shots per head, mean over datasets; each encoder has lines of its own.

    Heads that learn nothing have no shots: a horizontal line.
    """
    several = summary["encoder"].nunique() > 1
    series = summary["head"] + (", " + summary["encoder"] if several else "")
    order = summary.groupby(series)["accuracy"].max().sort_values().index
    shots = sorted({int(number) for number in summary["shots"] if number > 0})
    with _figure(file, inches=6.0) as axes:
        for place, name in enumerate(order):
            mean = 100 * summary[series == name].groupby("shots")["accuracy"].mean()
            style: dict[str, Any] = {
                "color": COLOURS[place % 8],
                "linestyle": DASHES[place % 8],
                "label": name,
            }
            if list(mean.index) == [0]:
                axes.axhline(float(mean.iloc[0]), **style)
            else:
                axes.plot(mean.index.to_numpy(), mean.to_numpy(), marker=MARKERS[place % 8], **style)
        if shots:
            axes.set_xscale("log", base=2)
            axes.set_xticks(shots, [str(number) for number in shots])
        else:
            axes.set_xticks([])
        axes.set_xlabel("shots (clips per class)")
        axes.set_ylabel("test accuracy (%), mean over datasets")
        axes.set_ylim(0, 100)
        axes.grid(axis="y", linewidth=0.4, alpha=0.6)
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))


@contextmanager
def _figure(file: Path, inches: float) -> Iterator[Axes]:
    """Give axes to draw on and write them as SVG."""
    # A Figure of its own and no pyplot: nothing global is opened that must be closed.
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(inches, 3.6), layout="constrained")
        yield figure.subplots()
        with replacing(file) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})


def _label(head: str, shots: list[int]) -> str:
    return head if shots == [0] else f"{head}, {'/'.join(map(str, shots))} shots"
