"""Embeddings that tell nothing apart: what a broken checkpoint, a wrong front end or silence gives."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

COLLAPSED_COSINE = 0.98
"""Mean cosine between different rows above which they count as one."""

MAX_ROWS = 2_000
"""Rows that are looked at, spread evenly."""

DEAD_SHARE = 0.5
"""Share of numbers that are the same in every row, above which that is said."""


def collapse_note(what: str, rows: NDArray[np.float32]) -> str | None:
    """Say whether vectors of different things have collapsed into one.

    Parameters
    ----------
    what : str
        What the rows are, for the note: ``"clips"`` or ``"class names"``.
    rows : array, shape (n, dim)
        One vector each, finite, of different contents; zeros (clips that failed) left out before.

    Returns
    -------
    str or None
        One line; ``None`` if nothing is wrong, or fewer than two rows.
    """
    count = len(rows)
    if count < 2:
        return None
    rows = rows[np.linspace(0, count - 1, min(count, MAX_ROWS)).round().astype(int)].astype(np.float64)
    if (rows == rows[0]).all():
        return f"the embeddings of all {count} {what} are equal; {_MEANING[what == 'clips']}"
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    units = rows / np.maximum(norms, 1e-12)
    # |sum of n unit vectors|^2 = n + n (n - 1) * mean cosine of different ones.
    n = len(units)
    cosine = float((np.square(units.sum(axis=0)).sum() - np.square(units).sum()) / (n * (n - 1)))
    if cosine > COLLAPSED_COSINE:
        return (
            f"the embeddings of different {what} are nearly one (mean cosine {cosine:.4f}, above "
            f"{COLLAPSED_COSINE}); {_MEANING[what == 'clips']}"
        )
    # mini's text ends in zeros by design, so dead numbers are looked for among those of sound alone.
    dead = float((np.ptp(rows, axis=0) == 0).mean())
    if what == "clips" and dead > DEAD_SHARE:
        return f"{dead:.0%} of the numbers are the same in all {count} {what}: a part of the encoder is dead"
    return None


_MEANING = {
    True: "usually a broken checkpoint, another model's front end, or recordings that are silent or alike",
    False: "usually a broken text tower or another model's tokenizer: zero-shot and PALM cannot work",
}
"""By whether it is about clips."""
