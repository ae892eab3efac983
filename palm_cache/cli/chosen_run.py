"""Which run of a head answers, and what its probabilities are worth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from palm_cache.cli.terminal import say
from palm_cache.types.runs import spell_shots

if TYPE_CHECKING:
    from palm_cache.prediction.sources import HeadSource
    from palm_cache.types.runs import Calibration, FittedHead, Run


def say_which(heads: HeadSource, run: str | None, head: FittedHead) -> None:
    """Say which run it is and what its probabilities are worth."""
    from palm_cache.store.run_names import run_name
    from palm_cache.store.shared import runs_in

    name, calibration = run_name(head.run), head.calibration
    if calibration:
        worth = f"probabilities calibrated on {calibration.n_clips} held-out shots"
    elif head.run.shots and heads.many:
        worth = f"probabilities are not calibrated: palm-cache calibrate {heads.name} --run {name}"
    elif head.run.shots:
        worth = "probabilities are not calibrated"
    else:
        worth = "probabilities are not calibrated: it learned from no shots that could be held out"
    runs = runs_in(heads.file) if run is None else ()
    reason = f", {_why_default(calibration, runs)}" if len(runs) > 1 else ""
    say(f"note: {name}{reason}; {worth}")


def _why_default(calibration: Calibration | None, runs: Sequence[Run]) -> str:
    """Say why a run is taken where nobody named one: wherever one is calibrated, that decides."""
    others = f"of {len(runs)} runs ({_kinds(runs)}; choose with --run)"
    if calibration is None:
        return f"one {others}"
    return f"the best on held-out shots (loss {calibration.loss:.3f}) {others}"


def _kinds(runs: Iterable[Run]) -> str:
    """Name heads and shots of runs: ``palm 1, 16 shots; zero-shot``."""
    shots: dict[str, set[int]] = {}
    for run in runs:
        shots.setdefault(run.method, set()).add(run.shots)
    return "; ".join(
        f"{head} {', '.join(map(spell_shots, sorted(of_head)))} shots" if any(of_head) else head
        for head, of_head in sorted(shots.items())
    )
