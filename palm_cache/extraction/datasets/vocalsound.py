"""VocalSound: laughter, sighs, coughs, throat clearing, sneezes and sniffs of 3,365 people."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from palm_cache.errors import DataError
from palm_cache.extraction.datasets.card import DatasetCard
from palm_cache.extraction.datasets.published_layouts import palm_tables_first
from palm_cache.extraction.datasets.tables import TableRow, build_table, read_json
from palm_cache.types import ClipTable

AUDIO_FOLDERS = ("audio_44k", "data_44k", "audio_16k")
"""As the two releases name them; the first that is there is read."""

SOUNDS = {
    "cough": "Cough",
    "laughter": "Laughter",
    "sigh": "Sigh",
    "sneeze": "Sneeze",
    "sniff": "Sniff",
    "throatclearing": "Throat clearing",
}
"""By the last part of a file's name."""


@palm_tables_first
def read(root: Path, dataset: str) -> ClipTable:
    """Read the training and test list of ``datafiles``; ``f0003_0_cough.wav`` is a Cough."""
    folder = next((name for name in AUDIO_FOLDERS if (root / name).is_dir()), None)
    if folder is None:
        raise DataError(f"{root}: no folder {' or '.join(AUDIO_FOLDERS)}; VocalSound as published has one")
    folds = [(_rows(root, "tr", folder), _rows(root, "te", folder))]
    notes = ["datafiles/val.json is not used; which clips the PALM authors trained on only their tables tell"]
    return build_table(dataset, root, folds, notes)


def _rows(root: Path, part: str, folder: str) -> list[TableRow]:
    file = root / "datafiles" / f"{part}.json"
    content = read_json(file)
    entries = content.get("data") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{file}: a list of recordings under 'data' expected")
    rows = []
    for number, entry in enumerate(entries, start=1):
        wav = entry.get("wav") if isinstance(entry, dict) else None
        # The lists carry the paths of the machine that they were made on.
        name = PurePosixPath(wav).name if isinstance(wav, str) else ""
        sound = PurePosixPath(name).stem.rpartition("_")[2]
        if sound not in SOUNDS:
            raise DataError(
                f"{file}, entry {number}: {name or entry!r} names no sound; known: {', '.join(SOUNDS)}"
            )
        rows.append(TableRow(f"datafiles/{file.name}", number, f"{folder}/{name}", SOUNDS[sound]))
    return rows


CARD = DatasetCard(
    name="VocalSound",
    aliases=("vocal-sound", "vocal_sound", "vocal sound"),
    description="laughter, sighs, coughs, throat clearing, sneezes and sniffs of 3,365 people",
    source="https://github.com/YuanGongND/vocalsound",
    licence="CC BY-SA 4.0",
    size="4.8 GB packed",
    how_to_get="palm-cache download VocalSound, or get it from the source and unpack it there",
    split="its published train/test split",
    tree="""\
datafiles/tr.json, te.json
audio_44k/*.wav        or audio_16k/*.wav
""",
    class_names=tuple(SOUNDS.values()),
    test_clips=(3591,),
    n_clips=None,
    bibtex="""\
@inproceedings{gong2022vocalsound,
  author = {Gong, Yuan and Yu, Jin and Glass, James},
  title = {Vocalsound: A Dataset for Improving Human Vocal Sounds Recognition},
  booktitle = {IEEE International Conference on Acoustics, Speech and Signal Processing (ICASSP)},
  pages = {151--155},
  year = {2022},
  doi = {10.1109/ICASSP43922.2022.9746828}
}
""",
    hub="MahiA/VocalSound",
    read=read,
)
