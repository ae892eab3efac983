"""ESC-50: environmental sounds, 50 classes in five folds."""

from __future__ import annotations

from pathlib import Path

from palm_cache.extraction.datasets.card import DatasetCard
from palm_cache.extraction.datasets.published_layouts import cross_validation, palm_tables_first
from palm_cache.extraction.datasets.splits import Split
from palm_cache.extraction.datasets.tables import build_table
from palm_cache.types import ClipTable

METADATA = Path("meta", "esc50.csv")


def read_published_folds(root: Path) -> Split:
    """Read the rows of ``meta/esc50.csv`` by :func:`.cross_validation`."""
    columns = ("filename", "fold", "category")
    return cross_validation(root / METADATA, columns, lambda name, fold: f"audio/{name}")


@palm_tables_first
def read(root: Path, dataset: str) -> ClipTable:
    """Read ESC50 as published."""
    return build_table(dataset, root, read_published_folds(root))


CARD = DatasetCard(
    name="ESC50",
    aliases=("esc-50", "esc_50"),
    description="environmental sounds of 5 s in five predefined folds",
    source="https://github.com/karolpiczak/ESC-50",
    licence="CC BY-NC 3.0",
    size="881 MB",
    how_to_get="palm-cache download ESC50, or get it from the source and unpack it there",
    split="its five published folds",
    tree="""\
meta/esc50.csv        columns filename, fold, category, ...
audio/*.wav
""",
    class_names=(
        "airplane",
        "breathing",
        "brushing teeth",
        "can opening",
        "car horn",
        "cat",
        "chainsaw",
        "chirping birds",
        "church bells",
        "clapping",
        "clock alarm",
        "clock tick",
        "coughing",
        "cow",
        "crackling fire",
        "crickets",
        "crow",
        "crying baby",
        "dog",
        "door wood creaks",
        "door wood knock",
        "drinking sipping",
        "engine",
        "fireworks",
        "footsteps",
        "frog",
        "glass breaking",
        "hand saw",
        "helicopter",
        "hen",
        "insects",
        "keyboard typing",
        "laughing",
        "mouse click",
        "pig",
        "pouring water",
        "rain",
        "rooster",
        "sea waves",
        "sheep",
        "siren",
        "sneezing",
        "snoring",
        "thunderstorm",
        "toilet flush",
        "train",
        "vacuum cleaner",
        "washing machine",
        "water drops",
        "wind",
    ),
    test_clips=(400,) * 5,
    n_clips=2000,
    bibtex="""\
@inproceedings{piczak2015esc,
  author = {Piczak, Karol J.},
  title = {{ESC}: Dataset for Environmental Sound Classification},
  booktitle = {Proceedings of the 23rd ACM International Conference on Multimedia},
  pages = {1015--1018},
  year = {2015},
  doi = {10.1145/2733373.2806390}
}
""",
    hub="MahiA/ESC50",
    read=read,
)
