"""NS-Instruments: NSynth, single notes of ten families of instruments."""

from __future__ import annotations

from pathlib import Path

from palm_cache.errors import DataError, counted
from palm_cache.extraction.datasets.card import DatasetCard
from palm_cache.extraction.datasets.published_layouts import of_classes, palm_tables_first
from palm_cache.extraction.datasets.tables import TableRow, build_table, read_json
from palm_cache.types import ClipTable


@palm_tables_first
def read(root: Path, dataset: str) -> ClipTable:
    """Read ``nsynth-train`` and ``nsynth-test``, without the family that has no test clips."""
    folds = [(_rows(root, "nsynth-train"), _rows(root, "nsynth-test"))]
    kept = of_classes(folds, CARD.class_names)
    left_out = sum(map(len, folds[0])) - sum(map(len, kept[0]))
    notes = ["nsynth-valid is not used; which clips the PALM authors trained on only their tables tell"]
    if left_out:
        notes.append(
            f"{counted(left_out, 'clip')} of families that the paper leaves out (synth_lead), not read"
        )
    return build_table(dataset, root, kept, notes)


def _rows(root: Path, part: str) -> list[TableRow]:
    file = root / part / "examples.json"
    notes = read_json(file)
    if not isinstance(notes, dict):
        raise DataError(f"{file}: notes by name expected, found a {type(notes).__name__}")
    rows = []
    for number, (name, note) in enumerate(notes.items(), start=1):
        family = note.get("instrument_family_str") if isinstance(note, dict) else None
        if not isinstance(family, str):
            raise DataError(f"{file}: note {name!r} has no instrument_family_str")
        rows.append(TableRow(f"{part}/examples.json", number, f"{part}/audio/{name}.wav", family))
    return rows


CARD = DatasetCard(
    name="NS-Instruments",
    aliases=("ns_instruments", "nsinstruments", "nsynth", "ns"),
    description="NSynth: single notes of 4 s of ten families of instruments",
    source="https://magenta.tensorflow.org/datasets/nsynth",
    licence="CC BY 4.0",
    size="24 GB packed",
    how_to_get="palm-cache download NS-Instruments, or get json/wav files from the source and unpack them",
    split="its published train/test split without the family synth_lead, which has no test clips",
    tree="""\
nsynth-train/examples.json, nsynth-train/audio/*.wav
nsynth-test/examples.json, nsynth-test/audio/*.wav
""",
    class_names=(
        "bass",
        "brass",
        "flute",
        "guitar",
        "keyboard",
        "mallet",
        "organ",
        "reed",
        "string",
        "vocal",
    ),
    test_clips=(4096,),
    n_clips=None,
    bibtex="""\
@inproceedings{engel2017neural,
  author = {Engel, Jesse and Resnick, Cinjon and Roberts, Adam and Dieleman, Sander
            and Norouzi, Mohammad and Eck, Douglas and Simonyan, Karen},
  title = {Neural Audio Synthesis of Musical Notes with {WaveNet} Autoencoders},
  booktitle = {Proceedings of the 34th International Conference on Machine Learning},
  pages = {1068--1077},
  year = {2017},
  eprint = {1704.01279}
}
""",
    hub="MahiA/NS-Instruments",
    read=read,
)
