"""Whether scores are of the features that are there now: the store may have changed since."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from palm_cache.errors import PalmCacheError
from palm_cache.report.content import Section
from palm_cache.report.evidence import Place
from palm_cache.store.heads import opened_heads
from palm_cache.store.join import joined_hash
from palm_cache.store.layout import heads_path
from palm_cache.store.root import StoreRoot


def stale_places(scores: pd.DataFrame, heads: Path) -> dict[Place, str]:
    """Find the datasets and encoders whose scores are of an earlier state of their store.

    What is compared is the digest of the features that the heads were fitted on, which heads files record,
    with that of the store that lies there now. Where either is gone, nothing can be said.

    Parameters
    ----------
    heads : Path
        The folder below which heads lie.

    Returns
    -------
    dict of str
        What is the matter, and what to do.
    """
    stale: dict[Place, str] = {}
    for dataset, encoder in sorted(set(zip(scores["dataset"], scores["encoder"], strict=True))):
        try:
            with opened_heads(heads_path(heads, dataset, encoder)) as opened:
                stores = opened.stores()
                headers = [StoreRoot(store).header for store in stores]
                changed = opened.digests() - {joined_hash([header.digest for header in headers])}
                again = opened.fit_command()
        except PalmCacheError:
            continue
        if changed:
            stale[dataset, encoder] = (
                f"{dataset}, {encoder}: {' and '.join(map(str, stores))} changed after these heads were "
                f"fitted: the scores are of what was there before. Fit and score again with: {again}"
            )
    return stale


def stale_section(stale: dict[Place, str]) -> Section | None:
    """Return the section of the report that says which scores are stale, ``None`` where none is."""
    return Section("Scores that are out of date", tuple(stale.values())) if stale else None
