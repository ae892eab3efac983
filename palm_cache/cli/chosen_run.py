"""Which run of a head answers, and what its probabilities are worth."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from palm_cache.cli.terminal import note

if TYPE_CHECKING:
    from palm_cache.prediction.sources import HeadSource
    from palm_cache.types.runs import FittedHead


def say_which(heads: HeadSource, run: str | None, head: FittedHead) -> None:
    """Say which run it is and what its probabilities are worth."""
    from palm_cache.store.layout import command_line
    from palm_cache.store.run_names import run_name
    from palm_cache.store.shared import runs_in

    name, best = run_name(head.run), head.calibration is not None
    worth = "calibrated" if best else "not calibrated"
    if not head.run.shots:
        worth += ": it learned from no shots that could be held out"
    elif heads.many and not best:
        worth += f": {command_line('calibrate', heads.name, run=name)}"
    runs = len(runs_in(heads.file)) if run is None else 1
    why = f"the best of {runs} runs on held-out shots" if best else f"one of {runs} runs"
    chosen = f", {why} (another: --run)" if runs > 1 else ""
    note(f"{name}{chosen}; probabilities are {worth}")


def about(heads: HeadSource | None, head: FittedHead, threshold: float, **more: object) -> dict[str, object]:
    """Return what a JSON document says before results; without fitted heads it names no run of a file."""
    from palm_cache.store.run_names import run_name

    return {
        "heads": heads.name if heads else None,
        "run": run_name(head.run) if heads else head.run.head,
        **more,
        "classes": list(head.class_names),
        "calibration": asdict(head.calibration) if head.calibration else None,
        "threshold": threshold,
    }
