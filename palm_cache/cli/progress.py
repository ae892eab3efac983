"""How far long work is, on stderr: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

import typer

from palm_cache.types import Progress

QUIET_SECONDS = 15.0
"""Where stderr is a file or a pipe, a line at most this often."""

RECENT_SECONDS = 30.0
"""A rate is that of so much time, as long as there is any progress in it: work changes its pace."""

LEAST_SECONDS = 2.0
"""Before so much time has gone by, nothing is said of a rate: there is too little to divide."""


class Pace:
    """How quickly one part of the work goes on.

    Parameters
    ----------
    done : int
        What was done before; it is no work of this part.
    now : float
        Seconds on the clock of all later calls.
    """

    def __init__(self, done: int, now: float) -> None:
        self._reports = deque([(now, done)])

    def report(self, done: int, now: float) -> None:
        """Take note of how much is done."""
        self._reports.append((now, done))
        while len(self._reports) > 2 and now - self._reports[1][0] >= RECENT_SECONDS:
            self._reports.popleft()

    def rate(self) -> float | None:
        """Return how much was done per second of late; ``None`` where it cannot be told yet."""
        (begin, before), (end, done) = self._reports[0], self._reports[-1]
        if end - begin < LEAST_SECONDS or done <= before:
            return None
        return (done - before) / (end - begin)

    def seconds_left(self, total: int, now: float) -> float | None:
        """Return how long the rest will take at this rate, counted from now."""
        rate, (end, done) = self.rate(), self._reports[-1]
        return None if rate is None else max((total - done) / rate - (now - end), 0.0)

    def describe(self, total: int, now: float, unit: str) -> str:
        """Return rate and remaining time in words; nothing where they cannot be told yet."""
        rate, left = self.rate(), self.seconds_left(total, now)
        if rate is None or left is None:
            return ""
        shown = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
        done = self._reports[-1][1]
        return f"{shown} {unit}/s" + (f", {timedelta(seconds=round(left))} left" if done < total else "")


@contextmanager
def progress_bar(unit: str, units: Mapping[str, str] | None = None) -> Iterator[Progress]:
    """Show progress with rate and remaining time on stderr.

    Parameters
    ----------
    unit : str
        What is counted, in the plural.
    units : mapping, optional
        What is counted in some parts of the work, by their names.
    """
    units = units or {}
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _line_progress(unit, units)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TaskID, TextColumn
    from rich.progress import Progress as Bars
    from rich.text import Text

    class PaceColumn(ProgressColumn):
        def render(self, task: Task) -> Text:
            pace: Pace = task.fields["pace"]
            return Text(pace.describe(int(task.total or 0), time.monotonic(), task.fields["unit"]))

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(), PaceColumn())
    with Bars(*columns, console=console) as bars:
        tasks: dict[str, tuple[TaskID, Pace]] = {}

        def report(what: str, done: int, total: int) -> None:
            now = time.monotonic()
            if what not in tasks:
                pace = Pace(done, now)
                task = bars.add_task(what, total=total, completed=done, pace=pace, unit=units.get(what, unit))
                tasks[what] = task, pace
            task, pace = tasks[what]
            pace.report(done, now)
            bars.update(task, completed=done, total=total)

        yield report


def _line_progress(unit: str, units: Mapping[str, str]) -> Progress:
    """Report in plain lines, not too often, for logs."""
    paces: dict[str, Pace] = {}
    last = time.monotonic()

    def report(what: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        pace = paces.setdefault(what, Pace(done, now))
        pace.report(done, now)
        count = units.get(what, unit)
        if now - last >= QUIET_SECONDS and (described := pace.describe(total, now, count)):
            last = now
            typer.echo(f"{what}: {done}/{total} {count}, {described}", err=True)

    return report
