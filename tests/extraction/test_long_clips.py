"""Clips that are longer than an encoder hears: what is left out is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from samples import write_tone
from spectrum import Run

from palm_cache.extraction.encoders.base import Window
from palm_cache.extraction.reading import CuttingRule

LONG = "longer than the 1 s that spectrum hears; of each {} embedded (`long` mean hears all, `window` cuts)"


@pytest.mark.parametrize(
    ("recipe", "embedded"),
    [({}, "its centre is"), ({"views": 3}, "3 crops are"), ({"views": 12}, ""), ({"long": "mean"}, "")],
)
def test_an_extraction_says_once_what_is_left_out_of_long_clips(
    run: Run, folder: Path, recipe: dict[str, object], embedded: str
) -> None:
    for number, seconds in enumerate((11, 12, 9)):
        write_tone(folder / "audios" / f"train_0_{number}.wav", 300, seconds=seconds)
    notes = [note for note in run(**recipe).notes if "longer than" in note]
    told = f"2 clips: {LONG.format(embedded)}, e.g. audios/train_0_0.wav"
    assert notes == ([told] if embedded else [])
    assert not any("longer than" in note for note in run(**recipe).notes)


@pytest.mark.parametrize(
    ("seconds", "heard", "cropped"),
    [
        (3600.0, 12, True),
        (60.0, 12, True),
        (30.0, 7, True),
        (13.0, 12, False),
        (12.0, 12, False),
        (10.0, 5, False),
        (5.0, 7, False),
    ],
)
def test_what_benchmarks_leave_out_as_a_matter_of_course_goes_unsaid(
    seconds: float, heard: int, cropped: bool
) -> None:
    assert CuttingRule(100, Window(100 * heard), views=1, long="crop").crops(seconds) == cropped
