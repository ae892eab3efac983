"""Figures as vector graphics that can be read in black and white and by the colour-blind."""

from __future__ import annotations

import io
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from zlib import crc32

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import figure as canvas
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from palm_cache.errors import visible
from palm_cache.report.content import Figure
from palm_cache.report.fonts import fonts_with
from palm_cache.types.runs import ALL_SHOTS, spell_shots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette; markers and dashes tell the heads apart without colour.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "h")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 3)))

STYLED = (
    *("palm", "proker", "gda", "tip-adapter", "auto", "prototype", "zero-shot", "coop"),
    *("linear-probe", "kernel-ridge", "knn", "muka", "cocoop", "palm-tuned", "palm-dagger", "tip-adapter-f"),
    *("palm-prototype", "proker-hybrid", "malp", "coop-zebra", "cocoop-zebra", "muka-cosine", "subt"),
    *("muka-first", "proker-published", "muka-first-cosine", "muka-published", "muka-crossed"),
)
"""Heads in the order in which they were given a colour and a marker, which they keep: add new ones at the
end. The first eight, which meet most often, share no colour."""

MOST_STYLED = 40
"""Heads that can have a place in :data:`STYLED`; those that have none take one behind it, by their name."""

LONGEST_NAME = 28
"""Letters of a name on a figure."""

SMALLEST_LOSS = 1e-6
"""A loss below it is drawn there: the axis is logarithmic."""

MAX_NUMBERED = 16
"""Classes up to which a confusion matrix carries numbers."""

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


def styles(heads: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return how lines are drawn: a head has one colour in all figures, and alone in one also one marker.

    Parameters
    ----------
    heads : mapping
        The head of every line by the line's name. Lines of one head differ in marker and dashes.
    """
    drawn: dict[str, dict[str, Any]] = {}
    earlier = Counter[str]()
    for name in sorted(heads):
        head = heads[name].partition("@")[0]
        free = MOST_STYLED - len(STYLED)
        place = STYLED.index(head) if head in STYLED else len(STYLED) + crc32(head.encode()) % free
        way = place + MOST_STYLED * earlier[head]
        earlier[head] += 1
        drawn[name] = {
            "color": COLOURS[place % len(COLOURS)],
            "marker": MARKERS[way % len(MARKERS)],
            "linestyle": DASHES[(way + way // len(DASHES)) % len(DASHES)],
        }
    return drawn


def accuracy_by_head(summary: pd.DataFrame) -> Figure:
    """Draw a mark per head, each at its largest number of shots.

    Of one dataset and encoder every head has a row; of several, every dataset and encoder.

    Parameters
    ----------
    summary : DataFrame
        From :func:`palm_cache.report.means.summarise`.
    """
    best = summary.sort_values("shots").groupby(["dataset", "encoder", "head"], as_index=False).last()
    places = sorted(set(zip(best["dataset"], best["encoder"], strict=True)), reverse=True)
    # From the weakest to the strongest.
    heads = [str(head) for head in summary.groupby("head")["accuracy"].max().sort_values().index]
    labels = {head: _label(head, sorted(set(best.loc[best["head"] == head, "shots"]))) for head in heads}
    alone = len(places) == 1
    style = styles({head: head for head in heads})

    def draw(axes: Axes) -> None:
        for number, head in enumerate(heads):
            of_head = best[best["head"] == head]
            # A little apart, so that error bars do not cover one another.
            shift = 0.5 * ((number + 0.5) / len(heads) - 0.5)
            keys = zip(of_head["dataset"], of_head["encoder"], strict=True)
            axes.errorbar(
                100 * of_head["accuracy"],
                [number] if alone else [places.index(key) + shift for key in keys],
                xerr=100 * of_head["accuracy_sd"].fillna(0),
                **{**style[head], "linestyle": "none"},
                markeredgecolor="black",
                markeredgewidth=0.5,
                capsize=2,
                clip_on=False,  # a marker at 100 % is drawn whole
                label=labels[head],
            )
        several = len({encoder for _, encoder in places}) > 1
        names = [
            f"{_short(dataset)}\n{_short(encoder)}" if several else _short(dataset)
            for dataset, encoder in places
        ]
        rows = [labels[head] for head in heads] if alone else names
        axes.set_yticks(range(len(rows)), rows)
        axes.set_ylim(-0.5, len(rows) - 0.5)
        axes.set_xlabel("test accuracy (%)")
        axes.grid(axis="x", linewidth=0.4, alpha=0.6)
        if not alone:
            axes.set_xlim(0, 100)
            axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))

    where = f" on {_short(places[0][0])} with {_short(places[0][1])}" if alone else ""
    caption = f"Test accuracy by head{where}, each at its largest number of shots; ± the deviation over seeds"
    if alone:
        return _figure("accuracy_by_head", caption, draw, 7.0, 0.3 * len(heads) + 1.0)
    height = max(0.22 * len(heads) + 1.0, 0.5 * len(places) + 1.0)
    return _figure("accuracy_by_head", caption, draw, 7.0, height)


def accuracy_by_shots(summary: pd.DataFrame) -> Figure:
    """Draw accuracy against shots per head, mean over an encoder's datasets; each encoder has its own lines.

    Heads that learn nothing have no shots: a horizontal line. Names stand at the ends of the lines.
    """
    several = summary["encoder"].nunique() > 1
    series = summary["head"] + (", " + summary["encoder"] if several else "")
    drawn = styles(dict(zip(series, summary["head"], strict=True)))
    means = 100 * summary.groupby([series.rename("series"), "shots"])["accuracy"].mean().unstack("shots")
    order = means.max(axis=1).sort_values().index
    shots = sorted({int(number) for number in summary["shots"] if number > 0})
    # All clips, which are more in one class than in another, stand where twice the most shots would.
    place_of = {
        number: 2 * shots[-2] if number == ALL_SHOTS and len(shots) > 1 else number for number in shots
    }
    low, high = max(0.0, means.min().min() - 3), min(100.0, means.max().max() + 3)
    height = max(3.6, 0.2 * len(order) + 1.2)
    averaged = summary.groupby("encoder")["dataset"].agg(frozenset)
    over = ", mean over datasets" if len(averaged.iloc[0]) > 1 or averaged.nunique() > 1 else ""
    caption = f"Test accuracy by shots{over}" + ", which are not the same of all encoders" * (
        averaged.nunique() > 1
    )

    def draw(axes: Axes) -> None:
        ends, of_lines = {}, {}
        for name in map(str, order):
            mean = means.T[name].dropna()
            ends[name] = float(mean.iloc[-1])
            style = of_lines[name] = drawn[name] | {"markersize": 5}
            if list(mean.index) == [0]:
                del style["marker"], style["markersize"]
                axes.axhline(ends[name], **style)
            else:
                axes.plot([place_of[number] for number in mean.index], mean.to_numpy(), **style)
        if shots:
            axes.set_xscale("log", base=2)
            axes.set_xticks(list(place_of.values()), [spell_shots(number) for number in shots])
        else:
            axes.set_xticks([])
        axes.set_xlabel("shots (clips per class)")
        axes.set_ylabel(f"test accuracy (%){over}")
        axes.set_ylim(low, high)
        axes.grid(axis="y", linewidth=0.4, alpha=0.6)
        inches = height - 0.8  # of the axes, about
        _name_lines(axes, ends, of_lines, 0.17 * (high - low) / inches)

    return _figure("accuracy_by_shots", caption, draw, 7.0, height)


def losses_by_epoch(losses: Mapping[str, NDArray[np.float32]]) -> Figure:
    """Draw the mean training loss of every epoch, a line each.

    Parameters
    ----------
    losses : mapping of array
        By dataset, encoder and head, with a comma and a space between them.
    """
    drawn = styles({name: name.rpartition(", ")[2] for name in losses})

    def draw(axes: Axes) -> None:
        for name, values in losses.items():
            axes.plot(
                np.arange(1, len(values) + 1),
                np.maximum(values, SMALLEST_LOSS),
                label=_short(name),
                **{**drawn[name], "marker": None},
            )
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")  # matplotlib's own is mathematics, which is not parsed here
        axes.set_xlabel("epoch")
        axes.set_ylabel("loss on the shots")
        axes.grid(axis="y", linewidth=0.4, alpha=0.6)
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))

    caption = "Loss on the shots while they are learned: before each step, mean over an epoch and runs"
    return _figure("losses_by_epoch", caption, draw, 7.0)


def _name_lines(
    axes: Axes, ends: Mapping[str, float], styles: Mapping[str, Mapping[str, Any]], gap: float
) -> None:
    """Write the name of every line at the right, at the height of its end or as near to it as others allow.

    Least squares under a least distance is isotonic regression, once the distances are taken off.
    """
    names = sorted(ends, key=lambda name: ends[name])
    steps = gap * np.arange(len(names))
    low, high = axes.get_ylim()
    beside = isotonic_regression([ends[name] for name in names] - steps).x
    heights = np.clip(beside, low, max(low, high - steps[-1])) + steps
    aside = axes.get_yaxis_transform()  # x in shares of the axes' width, y in per cent
    for name, place in zip(names, heights, strict=True):
        around: dict[str, Any] = {"transform": aside, "clip_on": False}
        axes.plot((1, 1.05), (ends[name], place), color="0.7", linewidth=0.6, **around)
        axes.plot((1.06, 1.1, 1.14), (place,) * 3, markevery=(1, 2), **styles[name], **around)
        axes.text(1.16, place, _short(name), va="center", fontsize=9, **around)


def confusion_matrix(name: str, caption: str, counts: NDArray[np.int64], classes: Sequence[str]) -> Figure:
    """Draw what every class was taken for, as shares of its test clips; numbers where there is room.

    Parameters
    ----------
    counts : array, shape (n_classes, n_classes)
        Rows are the truth.
    """
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    each = 0.2 if len(classes) > MAX_NUMBERED else 0.42  # inches
    side = each * len(classes) + 3

    names = [_short(name) for name in classes]

    def draw(axes: Axes) -> None:
        axes.imshow(shares, cmap="Greys", vmin=0, vmax=1)
        axes.set_xticks(range(len(classes)), names, rotation=90)
        axes.set_yticks(range(len(classes)), names)
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class")
        axes.tick_params(length=0, labelsize=7 if len(classes) > MAX_NUMBERED else 9)
        if len(classes) > MAX_NUMBERED:
            return
        for row, column in zip(*np.nonzero(counts), strict=True):
            share = shares[row, column]
            axes.text(
                column,
                row,
                f"{100 * share:.0f}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if share > 0.55 else "black",
            )

    return _figure(name, caption, draw, side, side)


def _figure(
    name: str, caption: str, draw: Callable[[Axes], None], inches: float, height: float = 3.6
) -> Figure:
    """Draw on axes of their own and return the graphic as SVG, in fonts that have its letters."""
    svg = _drawn(draw, inches, height, ())
    families, lacking = fonts_with(frozenset(letter for letter in svg if not letter.isascii()))
    if families:
        svg = _drawn(draw, inches, height, families)
    return Figure(name, caption, svg, inches, lacking)


def _drawn(draw: Callable[[Axes], None], inches: float, height: float, families: Sequence[str]) -> str:
    # A figure of its own and no pyplot: nothing global is opened that must be closed.
    with mpl.rc_context({**_STYLE, "font.family": ["sans-serif", *families]}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # which letters those are, a note says
        figure = canvas.Figure(figsize=(inches, height), layout="constrained")
        draw(figure.subplots())
        svg = io.StringIO()
        figure.savefig(svg, format="svg", metadata={"Title": "palm-cache", "Date": None})
    return svg.getvalue()


def _short(name: str) -> str:
    """Return a name that leaves room for what is drawn; tables have it in full."""
    name = visible(name)  # no XML holds control characters
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


def _label(head: str, shots: list[int]) -> str:
    return head if shots == [0] else f"{head}, {'/'.join(map(spell_shots, shots))} shots"
