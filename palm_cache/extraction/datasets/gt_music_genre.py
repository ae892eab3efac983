"""GT-Music-Genre: GTZAN, half-minute excerpts of ten genres of music."""

from __future__ import annotations

from functools import partial
from pathlib import PurePosixPath

from palm_cache.extraction.datasets.card import DatasetCard
from palm_cache.extraction.datasets.published_layouts import read_unsplit


def class_of(path: PurePosixPath) -> str | None:
    """Return the genre: ``genres_original/blues/blues.00000.wav`` is blues."""
    genre = path.name.split(".")[0]
    return genre if genre in CARD.class_names else None


CARD = DatasetCard(
    name="GT-Music-Genre",
    aliases=("gt_music_genre", "gtmusicgenre", "gtzan", "gtzan-genre", "gtzan_genre"),
    description="GTZAN: excerpts of 30 s of ten genres of music",
    source="https://www.kaggle.com/datasets/andradaolteanu/gtzan-dataset-music-genre-classification",
    licence="not stated by its makers",
    size="1.3 GB",
    how_to_get="palm-cache download GT-Music-Genre, or put the PALM tables beside the audio of the source",
    split="one train/test split that only the PALM authors' tables define, without the damaged jazz.00054",
    tree="""\
genres_original/<genre>/<genre>.<number>.wav        or genres/<genre>/<genre>.<number>.au
with the PALM tables beside it: train.csv, test.csv
""",
    class_names=(
        "blues",
        "classical",
        "country",
        "disco",
        "hiphop",
        "jazz",
        "metal",
        "pop",
        "reggae",
        "rock",
    ),
    test_clips=(200,),
    n_clips=999,
    bibtex="""\
@article{tzanetakis2002musical,
  author = {Tzanetakis, George and Cook, Perry},
  title = {Musical Genre Classification of Audio Signals},
  journal = {IEEE Transactions on Speech and Audio Processing},
  volume = {10},
  number = {5},
  pages = {293--302},
  year = {2002},
  doi = {10.1109/TSA.2002.800560}
}
""",
    hub="MahiA/GT-Music-Genre",
    read=partial(read_unsplit, class_of),
)
