"""Whether a dataset that is called like one of the paper's is that dataset, by what its store says."""

from __future__ import annotations

from palm_cache.errors import StoreError, counted
from palm_cache.extraction.datasets.registry import require_card, root_of, source_of
from palm_cache.report import published
from palm_cache.store.features import FeatureStore


def paper_name(dataset: str) -> str | None:
    """Return the paper's spelling of a dataset's name, ``None`` where it has none of that name."""
    return {name.lower(): name for name in published.names()}.get(dataset.lower())


def unlike_published(dataset: str, store: FeatureStore | None) -> str:
    """Say why a dataset is not known to be the published one of its name; "" where it is.

    Anybody's folder may bear the name, with the same classes and as many clips: so only what was read as the
    published one is known to be it, or, of stores that do not say that, what lies where that is looked for.

    Parameters
    ----------
    dataset : str
        Called like one of the paper's.
    store : FeatureStore or None
        What its scores are of; ``None`` where that is not known.
    """
    if store is None:
        return "the features that its scores are of are not there"
    card, header = require_card(dataset), store.header
    home = source_of(root_of(card))
    if header.published != card.name and (header.published or header.source != home):
        return f"it was read from {header.source or 'a place that is not known'}, not as the published one"
    if header.class_names != card.class_names:
        classes = counted(len(header.class_names), "class", "classes")
        return f"its {classes} are not the {card.n_classes} published ones"
    try:
        tested = tuple(test for _, test in store.fold_sizes())
    except StoreError as error:
        return str(error)
    if tested in (card.test_clips, card.published_test_clips):
        return ""
    return f"its folds test {_listed(tested)} clips, the published ones {_listed(card.test_clips)}"


def _listed(counts: tuple[int, ...]) -> str:
    return ", ".join(f"{count:,}" for count in counts) or "no"
