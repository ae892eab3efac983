"""CREMA-D: actors saying twelve sentences in six emotions."""

from __future__ import annotations

from functools import partial
from pathlib import PurePosixPath

from palm_cache.extraction.datasets.card import DatasetCard
from palm_cache.extraction.datasets.published_layouts import read_unsplit

EMOTIONS = {
    "ANG": "anger",
    "DIS": "disgust",
    "FEA": "fear",
    "HAP": "happy",
    "NEU": "neutral",
    "SAD": "sad",
}
"""By the code in a file's name."""


def class_of(path: PurePosixPath) -> str | None:
    """Return the emotion: ``1001_DFA_ANG_XX.wav`` is anger (actor, sentence, emotion, level)."""
    codes = path.stem.split("_")
    return EMOTIONS.get(codes[2]) if len(codes) == 4 else None


CARD = DatasetCard(
    name="CREMA-D",
    aliases=("crema_d", "cremad", "crema"),
    description="91 actors saying twelve sentences in six emotions",
    source="https://github.com/CheyneyComputerScience/CREMA-D",
    licence="ODbL 1.0",
    size="606 MB",
    how_to_get="palm-cache download CREMA-D, or put the PALM tables beside the AudioWAV folder of the source",
    split="one train/test split that only the PALM authors' tables define",
    tree="""\
AudioWAV/<actor>_<sentence>_<emotion>_<level>.wav
with the PALM tables beside it: train.csv, test.csv
""",
    class_names=tuple(EMOTIONS.values()),
    test_clips=(1489,),
    n_clips=7442,
    bibtex="""\
@article{cao2014crema,
  author = {Cao, Houwei and Cooper, David G. and Keutmann, Michael K. and Gur, Ruben C.
            and Nenkova, Ani and Verma, Ragini},
  title = {{CREMA-D}: Crowd-sourced Emotional Multimodal Actors Dataset},
  journal = {IEEE Transactions on Affective Computing},
  volume = {5},
  number = {4},
  pages = {377--390},
  year = {2014},
  doi = {10.1109/TAFFC.2014.2336244}
}
""",
    hub="MahiA/CREMA-D",
    read=partial(read_unsplit, class_of),
)
