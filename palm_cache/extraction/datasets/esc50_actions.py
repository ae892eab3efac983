"""ESC50-Actions: the ten classes of ESC-50 that are sounds of people, in ESC-50's own folds.

Its audio is ESC-50's, and the folder of ESC50 is good for both.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from palm_cache.extraction.datasets import esc50, palm_layout
from palm_cache.extraction.datasets.card import DatasetCard
from palm_cache.extraction.datasets.published_layouts import ORDER_NOTE, of_classes
from palm_cache.extraction.datasets.tables import build_table
from palm_cache.types import ClipTable


def read(root: Path, dataset: str) -> ClipTable:
    """Read ESC50-Actions, or its ten classes out of an ESC50 folder, in the PALM layout or as published.

    Raises
    ------
    DataError
        If there are no tables, they are malformed, or hold none of the ten classes.
    """
    if not palm_layout.has_tables(root):
        actions = of_classes(esc50.read_published_folds(root), CARD.class_names)
        return build_table(dataset, root, actions, [ORDER_NOTE])
    folds, _ = palm_layout.read_folds(root)
    actions = of_classes(folds, CARD.class_names)
    table = build_table(dataset, root, actions)
    if actions == folds:
        return table
    note = (
        "read from ESC50's tables, whose order may not be that of the PALM authors' tables of ESC50-Actions"
    )
    return replace(table, notes=(note, *table.notes))


CARD = DatasetCard(
    name="ESC50-Actions",
    aliases=("esc50_actions", "esc50actions", "esc-50-actions", "esc-50_actions", "esc_50_actions"),
    description="the ten classes of ESC-50 that are sounds of people",
    source="https://github.com/karolpiczak/ESC-50",
    licence="CC BY-NC 3.0",
    size="881 MB, nothing beside ESC50",
    how_to_get="get ESC50, whose audio it shares, or: palm-cache download ESC50-Actions",
    split="ESC-50's five published folds",
    tree="""\
that of ESC50
""",
    class_names=(
        "breathing",
        "brushing teeth",
        "clapping",
        "coughing",
        "crying baby",
        "drinking sipping",
        "footsteps",
        "laughing",
        "sneezing",
        "snoring",
    ),
    test_clips=(80,) * 5,
    n_clips=400,
    bibtex=esc50.CARD.bibtex,
    hub="MahiA/ESC50-Actions",
    shares_audio_with="ESC50",
    read=read,
)
