"""Beijing-Opera: single strokes of four percussion instruments."""

from __future__ import annotations

import re
from functools import partial
from pathlib import PurePosixPath

from palm_cache.extraction.datasets.card import DatasetCard
from palm_cache.extraction.datasets.published_layouts import read_unsplit


def class_of(path: PurePosixPath) -> str | None:
    """Return the instrument: ``222141__ajaysm__bangu-11.wav`` is a bangu."""
    match = re.search("|".join(CARD.class_names), path.name.lower())
    return match[0] if match else None


CARD = DatasetCard(
    name="Beijing-Opera",
    aliases=("beijing_opera", "beijingopera", "beijing opera", "bo-perc"),
    description="single strokes of four percussion instruments of the Beijing Opera",
    source="https://compmusic.upf.edu/bo-perc-dataset",
    licence="CC BY 4.0",
    size="69 MB",
    how_to_get="palm-cache download Beijing-Opera, or put the PALM tables beside the audio of the source",
    split="five folds that only the PALM authors' tables define",
    tree="""\
<number>__ajaysm__<instrument>-<number>.wav
with the PALM tables beside them: csv_files/train_1.csv ... test_5.csv
""",
    class_names=("bangu", "daluo", "naobo", "xiaoluo"),
    test_clips=(48, 47, 47, 47, 47),
    n_clips=236,
    bibtex="""\
@inproceedings{tian2014study,
  author = {Tian, Mi and Srinivasamurthy, Ajay and Sandler, Mark and Serra, Xavier},
  title = {A Study of Instrument-wise Onset Detection in {Beijing} Opera Percussion Ensembles},
  booktitle = {IEEE International Conference on Acoustics, Speech and Signal Processing (ICASSP)},
  pages = {2159--2163},
  year = {2014},
  doi = {10.1109/ICASSP.2014.6853981}
}
""",
    hub="MahiA/Beijing-Opera",
    read=partial(read_unsplit, class_of),
)
