"""Names in any script are drawn, or it is said once that they are not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import succeed
from samples import make_features, write_sample

from palm_cache.report import fonts
from palm_cache.report.content import Figure
from palm_cache.report.figures import confusion_matrix

BOLD_A = "\U0001d400"
"""A bold A of mathematics: not in matplotlib's usual font, but in one that comes with it."""


@pytest.fixture
def no_fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine with the usual font alone."""
    monkeypatch.setattr(fonts, "_fonts", dict)
    fonts.fonts_with.cache_clear()
    yield
    fonts.fonts_with.cache_clear()


def matrix(*names: str) -> Figure:
    return confusion_matrix("name", "caption", np.eye(len(names), dtype=np.int64), names)


@pytest.mark.usefixtures("no_fonts")
@pytest.mark.filterwarnings("error:Glyph")
def test_letters_that_no_font_has_are_said_in_one_note_and_in_no_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ("口笛", "chien à Łódź", "собака", "cat")
    write_sample(Path("x.zarr"), replace(make_features(), class_names=names))
    succeed("fit", "--store", "x.zarr", "--head", "palm", "--shots", "1,2", "--seeds", "0", "--epochs", "1")
    told = succeed("report").stderr
    assert told.count("note: ") == 1
    assert "note: no font here has the letters 口 笛: figures may show boxes" in told
    assert "Glyph" not in told
    assert "口笛" in Path("runs/report/confusion_1.svg").read_text(encoding="utf-8")


def test_letters_are_drawn_in_a_font_that_has_them() -> None:
    figure = matrix(BOLD_A, "b")
    assert figure.lacking == frozenset()
    (family,), _ = fonts.fonts_with(frozenset(BOLD_A))
    assert family in figure.svg
    assert family not in matrix("a", "b").svg


def test_a_font_of_boxes_has_no_letters() -> None:
    nobody = "\U000e0fff"  # no character
    assert fonts.fonts_with(frozenset(nobody))[1] == {nobody}
