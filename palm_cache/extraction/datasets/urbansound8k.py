"""UrbanSound8K: ten folds of urban sounds."""

from __future__ import annotations

from pathlib import Path

from palm_cache.extraction.datasets.card import DatasetCard
from palm_cache.extraction.datasets.published_layouts import cross_validation, palm_tables_first
from palm_cache.extraction.datasets.tables import build_table
from palm_cache.types import ClipTable

METADATA = Path("metadata", "UrbanSound8K.csv")


def read_published(root: Path, dataset: str) -> ClipTable:
    """Read ``metadata/UrbanSound8K.csv`` by :func:`.cross_validation`, and ``audio/foldN/``.

    Folds and classes are what the metadata holds, so that stand-ins of any size can be read.
    """
    columns = ("slice_file_name", "fold", "class")
    folds = cross_validation(root / METADATA, columns, lambda name, fold: f"audio/fold{fold}/{name}")
    return build_table(dataset, root, folds)


CARD = DatasetCard(
    name="UrbanSound8K",
    aliases=("us8k", "urbansound", "urbansound-8k", "urbansound_8k", "urban-sound-8k", "urban_sound_8k"),
    description="urban sounds of up to 4 s in ten predefined folds",
    source="https://urbansounddataset.weebly.com/urbansound8k.html",
    licence="CC BY-NC 3.0",
    size="6.0 GB packed, 6.8 GB unpacked",
    how_to_get="palm-cache download UrbanSound8K, or request it at the source and unpack it there",
    split="its ten published folds",
    tree="""\
metadata/UrbanSound8K.csv        columns slice_file_name, fold, class, ...
audio/fold1 ... fold10/*.wav
""",
    class_names=(
        "air conditioner",
        "car horn",
        "children playing",
        "dog bark",
        "drilling",
        "engine idling",
        "gun shot",
        "jackhammer",
        "siren",
        "street music",
    ),
    test_clips=(873, 888, 925, 990, 936, 823, 838, 806, 816, 837),
    n_clips=8732,
    bibtex="""\
@inproceedings{salamon2014dataset,
  author = {Salamon, Justin and Jacoby, Christopher and Bello, Juan Pablo},
  title = {A Dataset and Taxonomy for Urban Sound Research},
  booktitle = {Proceedings of the 22nd ACM International Conference on Multimedia},
  pages = {1041--1044},
  year = {2014},
  doi = {10.1145/2647868.2655045}
}
""",
    hub="MahiA/UrbanSound8K",
    read=palm_tables_first(read_published),
)
