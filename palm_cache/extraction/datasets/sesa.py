"""SESA: sounds that matter to surveillance, and everyday sounds that could be taken for them."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from palm_cache.errors import DataError
from palm_cache.extraction.datasets.card import DatasetCard
from palm_cache.extraction.datasets.listing import list_files
from palm_cache.extraction.datasets.published_layouts import palm_tables_first
from palm_cache.extraction.datasets.tables import TableRow, build_table
from palm_cache.types import ClipTable


@palm_tables_first
def read(root: Path, dataset: str) -> ClipTable:
    """Read the folders ``train`` and ``test``: ``casual_000.wav`` is of the class casual."""
    return build_table(dataset, root, [(_rows(root, "train"), _rows(root, "test"))])


def _rows(root: Path, part: str) -> list[TableRow]:
    rows = [
        TableRow(part, number, f"{part}/{path}", PurePosixPath(path).name.partition("_")[0])
        for number, path in enumerate(list_files(root / part).audio, start=1)
    ]
    if not rows:
        raise DataError(f"{root / part}: no audio files; SESA as published has the folders train and test")
    return rows


CARD = DatasetCard(
    name="SESA",
    aliases=(),
    description="gunshots, explosions, sirens, and everyday sounds that could be taken for them",
    source="https://zenodo.org/records/3519845",
    licence="CC BY 4.0",
    size="70 MB",
    how_to_get="palm-cache download SESA, or get it from the source and unpack it there",
    split="its published train/test split",
    tree="""\
train/<class>_<number>.wav
test/<class>_<number>.wav
""",
    class_names=("casual", "explosion", "gunshot", "siren"),
    test_clips=(105,),
    n_clips=585,
    bibtex="""\
@misc{spadini2019sound,
  author = {Spadini, Tito},
  title = {Sound Events for Surveillance Applications},
  publisher = {Zenodo},
  year = {2019},
  doi = {10.5281/zenodo.3519845}
}
""",
    hub="MahiA/SESA",
    read=read,
)
