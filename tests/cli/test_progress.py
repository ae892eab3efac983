"""Progress: what is said of rate and remaining time, and when."""

from __future__ import annotations

import re

import pytest

from palm_cache.cli import progress as progress_module
from palm_cache.cli.progress import LEAST_SECONDS, Pace, progress_bar


def test_nothing_is_said_of_a_rate_before_there_is_enough_to_divide() -> None:
    pace = Pace(0, now=100.0)
    pace.report(0, now=100.0)
    pace.report(64, now=100.001)  # 64,000 clips/s?
    assert pace.describe(400, now=100.001, unit="clips") == ""
    pace.report(128, now=104.0)
    assert pace.describe(400, now=104.0, unit="clips") == "32 clips/s, 0:00:08 left"
    waiting = Pace(10, now=0.0)
    waiting.report(10, now=2 * LEAST_SECONDS)
    assert waiting.rate() is None


def test_what_was_done_before_and_long_ago_is_no_part_of_the_rate() -> None:
    pace = Pace(1000, now=0.0)
    for second in range(1, 101):  # one a second, and then ten
        pace.report(1000 + second, now=float(second))
    assert pace.rate() == pytest.approx(1.0)
    for second in range(101, 141):
        pace.report(1100 + 10 * (second - 100), now=float(second))
    assert pace.rate() == pytest.approx(10.0)


def test_remaining_time_goes_down_between_two_reports() -> None:
    pace = Pace(0, now=0.0)
    pace.report(1, now=100.0)
    assert pace.describe(3, now=100.0, unit="files") == "0.01 files/s, 0:03:20 left"
    assert pace.describe(3, now=160.0, unit="files") == "0.01 files/s, 0:02:20 left"
    assert pace.seconds_left(3, now=1e6) == 0


def test_done_work_has_no_remaining_time() -> None:
    pace = Pace(0, now=0.0)
    pace.report(5000, now=4.0)
    assert pace.describe(5000, now=9.0, unit="clips") == "1,250 clips/s"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that progress is told, to be moved by hand."""
    now = [0.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_now_and_then(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("clips") as progress:
        for done in range(0, 101, 2):
            progress("embedding", done, 100)
            clock[0] += 1.0
    assert capsys.readouterr().err.splitlines() == [
        "embedding: 30/100 clips, 2 clips/s, 0:00:35 left",
        "embedding: 60/100 clips, 2 clips/s, 0:00:20 left",
        "embedding: 90/100 clips, 2 clips/s, 0:00:05 left",
    ]


def test_a_terminal_shows_one_bar_per_task(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes stderr for a terminal
    monkeypatch.setenv("COLUMNS", "80")
    with progress_bar("clips") as progress:
        for what, total in (("checking", 3), ("embedding", 1_000_000)):
            for done in range(0, total + 1, total // 3):
                progress(what, done, total)
    told = capsys.readouterr().err
    assert "0/100\x1b" not in told  # what rich takes for the total until it is told
    last_frame = told.rpartition("\x1b[2K")[2]
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", last_frame).split("\n")
    assert [line.split()[0] for line in lines if line.strip()] == ["checking", "embedding"]
    assert "3/3" in lines[0]
    assert "999999/1000000" in lines[1]
    assert "/s" not in last_frame
