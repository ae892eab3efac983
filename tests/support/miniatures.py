"""Miniature copies of the paper's datasets: two classes, two clips per class and part, tiny tones.

``write_miniature("ESC50", root)`` writes a folder in the PALM layout; with ``layout="published"``, the tree
that the dataset's own makers publish. A part is a fold of a dataset with several, else the training or the
test clips. File names and labels are written out here, apart from the readers, so that these are tested.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from samples import write_tone

Layout = Literal["palm", "published"]

CLIPS = 2
"""Clips per class and part."""


@dataclass(frozen=True)
class Sound:
    """One clip of a miniature."""

    number: int
    """Counted from 0 over the whole miniature."""
    label: int
    """0 or 1."""
    part: int
    """Fold, counted from 1; where there is one split, 1 is the training and 2 the test part."""


@dataclass(frozen=True)
class Miniature:
    """How a dataset's miniature is laid out."""

    classes: tuple[str, str]
    folds: int
    file_name: Callable[[Sound], str]
    place: Callable[[Sound], str]
    """Folder of a clip in the published layout, "" for the root."""
    describe: Callable[[Path, Sequence[Sound]], None]
    """Writes the published metadata."""
    audio_seed: int


def write_miniature(name: str, root: Path, layout: Layout = "palm") -> Path:
    """Write the miniature of a dataset, known by its name as on its card, and return its folder."""
    miniature = MINIATURES[name]
    sounds = _sounds(miniature)
    for sound in sounds:
        folder = _palm_folder(name, sound) if layout == "palm" else miniature.place(sound)
        write_tone(
            root / folder / miniature.file_name(sound),
            300.0 * 3**sound.label + 11 * (sound.number % 7),
            seconds=0.25,
            seed=1000 * miniature.audio_seed + sound.number,
        )
    if layout == "palm":
        write_palm_tables(name, root)
    else:
        miniature.describe(root, sounds)
    return root


def write_palm_tables(name: str, root: Path) -> None:
    """Write the tables of a miniature in the PALM layout, wherever its audio lies."""
    miniature = MINIATURES[name]
    sounds = _sounds(miniature)
    root.mkdir(parents=True, exist_ok=True)
    if miniature.folds == 1:
        _write_table(root / "train.csv", name, [sound for sound in sounds if sound.part == 1])
        _write_table(root / "test.csv", name, [sound for sound in sounds if sound.part == 2])
        return
    (root / "csv_files").mkdir(exist_ok=True)
    for fold in range(1, miniature.folds + 1):
        for part in ("train", "test"):
            chosen = [sound for sound in sounds if (sound.part == fold) == (part == "test")]
            _write_table(root / "csv_files" / f"{part}_{fold}.csv", name, chosen)


def _sounds(miniature: Miniature) -> list[Sound]:
    parts = range(1, max(miniature.folds, 2) + 1)
    places = [(label, part) for part in parts for label in (0, 1) for _ in range(CLIPS)]
    return [Sound(number, label, part) for number, (label, part) in enumerate(places)]


def _palm_folder(name: str, sound: Sound) -> str:
    return f"audios/fold{sound.part}" if name == "UrbanSound8K" else "audios"


def _write_table(file: Path, name: str, sounds: Sequence[Sound]) -> None:
    miniature = MINIATURES[name]
    lines = ["path,classname"]
    for sound in sounds:
        path = f"{_palm_folder(name, sound)}/{miniature.file_name(sound)}"
        lines.append(f"{path},{miniature.classes[sound.label]}")
    file.write_text("\n".join(lines) + "\n")


def _write_lines(file: Path, lines: Sequence[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n")


def _nothing(root: Path, sounds: Sequence[Sound]) -> None:
    """File names and folders are all that this dataset is published with."""


def _describe_esc50(root: Path, sounds: Sequence[Sound]) -> None:
    lines = ["filename,fold,target,category,esc10,src_file,take"]
    for sound in sounds:
        category = ("crying_baby", "clapping")[sound.label]
        lines.append(f"{_esc50_name(sound)},{sound.part},{(20, 22)[sound.label]},{category},False,1,A")
    _write_lines(root / "meta" / "esc50.csv", lines)


def _esc50_name(sound: Sound) -> str:
    return f"{sound.part}-{10000 + sound.number}-A-{(20, 22)[sound.label]}.wav"


def _describe_nsynth(root: Path, sounds: Sequence[Sound]) -> None:
    for part, folder in ((1, "nsynth-train"), (2, "nsynth-test")):
        notes = {}
        for sound in sounds:
            if sound.part == part:
                family = ("bass", "flute")[sound.label]
                notes[_nsynth_name(sound)[:-4]] = {"pitch": 60, "instrument_family_str": family}
        (root / folder / "examples.json").write_text(json.dumps(notes))


def _nsynth_name(sound: Sound) -> str:
    return f"{('bass', 'flute')[sound.label]}_acoustic_{sound.number:03}-060-050.wav"


def _describe_tut(root: Path, sounds: Sequence[Sound]) -> None:
    scenes = ("cafe/restaurant", "city_center")
    line = {sound: f"audio/{_tut_name(sound)}\t{scenes[sound.label]}" for sound in sounds}
    _write_lines(root / "meta.txt", [f"{line[sound]}\ta{sound.number:03}" for sound in sounds])
    for fold in range(1, 5):
        lists = root / "evaluation_setup"
        _write_lines(lists / f"fold{fold}_train.txt", [line[sound] for sound in sounds if sound.part != fold])
        _write_lines(
            lists / f"fold{fold}_evaluate.txt", [line[sound] for sound in sounds if sound.part == fold]
        )


def _tut_name(sound: Sound) -> str:
    return f"a{sound.number:03}_0_10.wav"


def _describe_urbansound8k(root: Path, sounds: Sequence[Sound]) -> None:
    lines = ["slice_file_name,fsID,start,end,salience,fold,classID,class"]
    for sound in sounds:
        class_id, name = ((3, "dog_bark"), (8, "siren"))[sound.label]
        lines.append(f"{_urbansound8k_name(sound)},1,0.0,4.0,1,{sound.part},{class_id},{name}")
    _write_lines(root / "metadata" / "UrbanSound8K.csv", lines)


def _urbansound8k_name(sound: Sound) -> str:
    return f"{100 + sound.number}-{(3, 8)[sound.label]}-0-0.wav"


def _describe_vocalsound(root: Path, sounds: Sequence[Sound]) -> None:
    for part, name in ((1, "tr"), (2, "te")):
        entries = [
            {"wav": f"/somewhere/else/audio_16k/{_vocalsound_name(sound)}", "labels": "/m/0"}
            for sound in sounds
            if sound.part == part
        ]
        _write_lines(root / "datafiles" / f"{name}.json", [json.dumps({"data": entries})])


def _vocalsound_name(sound: Sound) -> str:
    return f"f{sound.number:04}_0_{('laughter', 'throatclearing')[sound.label]}.wav"


ESC50 = Miniature(
    ("crying baby", "clapping"), 5, _esc50_name, lambda sound: "audio", _describe_esc50, audio_seed=3
)

MINIATURES: dict[str, Miniature] = {
    "Beijing-Opera": Miniature(
        ("bangu", "xiaoluo"),
        5,
        lambda sound: (
            f"{222100 + sound.number}__ajaysm__{('bangu', 'xiaoluo')[sound.label]}-{sound.number:02}.wav"
        ),
        lambda sound: "",
        _nothing,
        audio_seed=1,
    ),
    "CREMA-D": Miniature(
        ("anger", "sad"),
        1,
        lambda sound: f"{1001 + sound.number}_DFA_{('ANG', 'SAD')[sound.label]}_XX.wav",
        lambda sound: "AudioWAV",
        _nothing,
        audio_seed=2,
    ),
    "ESC50": ESC50,
    "ESC50-Actions": ESC50,
    "GT-Music-Genre": Miniature(
        ("blues", "rock"),
        1,
        lambda sound: f"{('blues', 'rock')[sound.label]}.{sound.number:05}.wav",
        lambda sound: f"genres_original/{('blues', 'rock')[sound.label]}",
        _nothing,
        audio_seed=4,
    ),
    "NS-Instruments": Miniature(
        ("bass", "flute"),
        1,
        _nsynth_name,
        lambda sound: f"nsynth-{('train', 'test')[sound.part - 1]}/audio",
        _describe_nsynth,
        audio_seed=5,
    ),
    "RAVDESS": Miniature(
        ("angry", "neutral"),
        1,
        lambda sound: f"03-01-{('05', '01')[sound.label]}-01-01-01-{sound.number + 1:02}.wav",
        lambda sound: f"Actor_{sound.number + 1:02}",
        _nothing,
        audio_seed=6,
    ),
    "SESA": Miniature(
        ("casual", "siren"),
        1,
        lambda sound: f"{('casual', 'siren')[sound.label]}_{sound.number:03}.wav",
        lambda sound: ("train", "test")[sound.part - 1],
        _nothing,
        audio_seed=7,
    ),
    "TUT2017": Miniature(
        ("cafe/restaurant", "city_center"), 4, _tut_name, lambda sound: "audio", _describe_tut, audio_seed=8
    ),
    "UrbanSound8K": Miniature(
        ("dog bark", "siren"),
        10,
        _urbansound8k_name,
        lambda sound: f"audio/fold{sound.part}",
        _describe_urbansound8k,
        audio_seed=9,
    ),
    "VocalSound": Miniature(
        ("Laughter", "Throat clearing"),
        1,
        _vocalsound_name,
        lambda sound: "audio_16k",
        _describe_vocalsound,
        audio_seed=10,
    ),
}
"""By the name on the card."""
