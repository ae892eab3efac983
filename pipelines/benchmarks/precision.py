"""How good a search is, on any labelled store: precision at 10 per class, beside the class's share of rows.

``python -m pipelines.benchmarks.precision STORE [--k 10] [--encoder SPEC] [--device D]``

By text the query is the class's name, as ``palm-cache search --text`` embeds it. By example it is every row
of the class, one after the other; the row itself is not among what it finds. A row with the same sound is, so
a dataset with copies flatters. Chance is the share of the class among all rows.
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray

from palm_cache.errors import EncoderError
from palm_cache.params.use import LoadingParams
from palm_cache.retrieval.queries import text_query
from palm_cache.retrieval.ranking import nearest
from palm_cache.retrieval.stores import Stores
from palm_cache.store.places import place


def by_example(stores: Stores, k: int) -> NDArray[np.float64]:
    """Return the precision of the k nearest other rows, (rows,); NaN for rows without label or embedding."""
    found = np.full(stores.n_clips, np.nan)
    among = stores.usable & (stores.labels >= 0)
    rows = np.flatnonzero(among)
    queries = np.concatenate([stores.audio(span)[:, 0] for span in stores.spans()])[rows]
    ranking = nearest(stores, queries, k + 1, among=among)
    for row, others in zip(rows.tolist(), ranking.rows, strict=True):
        kept = others[others != row][:k]
        found[row] = (stores.labels[kept] == stores.labels[row]).mean()
    return found


def by_text(stores: Stores, k: int, loading: LoadingParams) -> NDArray[np.float64]:
    """Return the precision of the k rows nearest to every class's name, (n_classes,)."""
    queries = np.stack([text_query(stores, name, loading) for name in stores.class_names])
    among = stores.usable & (stores.labels >= 0)
    ranking = nearest(stores, queries, k, among=among)
    wanted = np.arange(len(stores.class_names))[:, None]
    return np.asarray((stores.labels[ranking.rows] == wanted).mean(axis=1))


def main() -> None:
    """Print a table in Markdown, a line per class and one for their mean."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--encoder")
    parser.add_argument("--device", default="auto")
    asked = parser.parse_args()
    stores = Stores([place(asked.store)])
    examples = by_example(stores, asked.k)
    try:
        texts = by_text(stores, asked.k, LoadingParams(asked.encoder, asked.device))
    except EncoderError as error:
        print(f"no search by text: {error}\n")
        texts = np.full(len(stores.class_names), np.nan)
    print(f"| class | rows | share | by text, P@{asked.k} | by example, P@{asked.k} |\n|---|---|---|---|---|")
    usable = stores.usable & (stores.labels >= 0)
    lines = []
    for label, name in enumerate(stores.class_names):
        of_class = usable & (stores.labels == label)
        share = of_class.sum() / usable.sum()
        lines.append((share, texts[label], np.nanmean(examples[of_class]) if of_class.any() else np.nan))
        print(f"| {name} | {of_class.sum()} | {_cells(lines[-1])} |")
    print(f"| **mean** | {usable.sum()} | {_cells(np.nanmean(lines, axis=0))} |")


def _cells(shares: NDArray[np.float64] | tuple[float, ...]) -> str:
    return " | ".join("" if np.isnan(share) else f"{100 * share:.1f} %" for share in shares)


if __name__ == "__main__":
    main()
