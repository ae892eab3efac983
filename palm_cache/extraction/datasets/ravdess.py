"""RAVDESS: actors speaking and singing two sentences in eight emotions."""

from __future__ import annotations

from functools import partial
from pathlib import PurePosixPath

from palm_cache.extraction.datasets.card import DatasetCard
from palm_cache.extraction.datasets.published_layouts import read_unsplit

EMOTIONS = {
    "01": "neutral",
    "02": "calm",
    "03": "happy",
    "04": "sad",
    "05": "angry",
    "06": "fearful",
    "07": "disgust",
    "08": "surprised",
}
"""By the third number of a file's name."""


def class_of(path: PurePosixPath) -> str | None:
    """Return the emotion: ``03-01-05-01-02-01-12.wav`` is angry.

    The numbers are modality, speech or song, emotion, intensity, sentence, repetition, actor.
    """
    codes = path.stem.split("-")
    return EMOTIONS.get(codes[2]) if len(codes) == 7 else None


CARD = DatasetCard(
    name="RAVDESS",
    aliases=(),
    description="24 actors speaking and singing two sentences in eight emotions",
    source="https://zenodo.org/records/1188976",
    licence="CC BY-NC-SA 4.0",
    size="1.1 GB",
    how_to_get="palm-cache download RAVDESS, or put the PALM tables beside the Actor folders of the source",
    split="one train/test split that only the PALM authors' tables define",
    tree="""\
Actor_01 ... Actor_24/<seven numbers>.wav        of Audio_Speech_Actors_01-24 and Audio_Song_Actors_01-24
with the PALM tables beside them: train.csv, test.csv
""",
    class_names=tuple(sorted(EMOTIONS.values())),
    test_clips=(491,),
    n_clips=2452,
    bibtex="""\
@article{livingstone2018ryerson,
  author = {Livingstone, Steven R. and Russo, Frank A.},
  title = {The {Ryerson} Audio-Visual Database of Emotional Speech and Song ({RAVDESS})},
  journal = {PLoS ONE},
  volume = {13},
  number = {5},
  pages = {e0196391},
  year = {2018},
  doi = {10.1371/journal.pone.0196391}
}
""",
    hub="MahiA/RAVDESS",
    read=partial(read_unsplit, class_of),
)
