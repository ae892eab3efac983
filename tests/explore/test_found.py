"""The page of a search: no reader without a browser is needed, and in one it plays."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from chromium import Browser, find_chromium
from samples import write_tone

from palm_cache.errors import OutputError
from palm_cache.explore.found import write_found
from palm_cache.retrieval.find import COLUMNS, GONE, SearchResult


def found_rows(folder: Path) -> SearchResult:
    """Two rows that are there, one that is gone and one that is no sound, with names that are no markup."""
    write_tone(folder / "a.wav", 440, seconds=3, rate=44_100)
    (folder / "page.wav").write_text("<html>")
    rows = [
        (0.9, "Odd & <b>", 0, "a.wav", 0.0, None, "tone", ""),
        (0.8, "Odd & <b>", 1, "a.wav", 1.0, 2.5, None, ""),
        (0.7, "Odd & <b>", 2, "<script>alert(1)</script>.wav", 0.0, None, None, GONE),
        (0.6, "Odd & <b>", 3, "page.wav", 0.0, None, None, ""),
    ]
    files = (folder / "a.wav", folder / "a.wav", None, folder / "page.wav")
    return SearchResult(pd.DataFrame(rows, columns=list(COLUMNS)), "text: <i>tone</i>", "cosine", files)


def test_rows_that_cannot_be_heard_stay_and_say_why(tmp_path: Path) -> None:
    write_found(found_rows(tmp_path), tmp_path / "found.html")
    page = (tmp_path / "found.html").read_text()
    assert page.count("<article") == 4
    assert page.count("<audio") == 2
    assert GONE in page
    assert "cannot be decoded" in page
    assert "<script>" not in page
    assert "<i>" not in page
    assert "1-2.5 s" in page


def test_a_sound_is_not_overwritten_by_the_page(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        write_found(found_rows(tmp_path), tmp_path / "a.wav")


@pytest.mark.parametrize("width", [1280, 390])
def test_it_plays_in_a_browser_and_fits_a_telephone(tmp_path: Path, width: int) -> None:
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium here")
    write_found(found_rows(tmp_path), tmp_path / "found.html")
    browser = Browser(program, tmp_path / "profile")
    try:
        page = browser.open((tmp_path / "found.html").as_uri(), width, 800)
        seconds = page.run("return [...document.querySelectorAll('audio')].map((sound) => sound.duration);")
        pictures = page.run("return [...document.images].map((image) => image.naturalWidth);")
        wide = page.run("return document.documentElement.scrollWidth > window.innerWidth;")
        console = page.console()
    finally:
        browser.close()
    assert seconds == pytest.approx([3.0, 1.5], abs=0.01)
    assert pictures == [400, 400]
    assert not wide
    assert console == []
