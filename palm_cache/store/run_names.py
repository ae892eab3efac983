"""Names of runs, and which run is meant by one."""

from __future__ import annotations

import re
from collections.abc import Iterable

from palm_cache.errors import UnknownNameError
from palm_cache.types import ALL_TEMPLATES, DESCRIPTIONS
from palm_cache.types.runs import Run, parse_shots, spell_shots

PREFERRED_HEAD = "palm"
"""Taken where a file holds several heads and nobody says which."""


def run_name(run: Run) -> str:
    """Return the name of a run inside its dataset and encoder, e.g. ``palm-16shots-fold1-seed0``."""
    return f"{run.method}-{spell_shots(run.shots)}shots-fold{run.fold}-seed{run.seed}"


def split_run_name(name: str) -> tuple[str, int, int, int]:
    """Return method, shots, fold and seed of a run's name: the inverse of :func:`run_name`."""
    # Exported files are named after runs: nothing in a name may lead into another folder.
    match = re.fullmatch(r"([^/\\\x00-\x1f\x7f-\x9f]+)-(\d+|all)shots-fold(\d+)-seed(\d+)", name, re.ASCII)
    if match is None:
        raise ValueError(f"{name!r} is not the name of a run")
    return match[1], parse_shots(match[2]), int(match[3]), int(match[4])


def without_variant(name: str) -> str:
    """Return a run's name, or what of it is given, without its variant."""
    return re.sub(r"@.*?(?=-(?:\d+|all)shots|$)", "", name)


def parse_variant(variant: str) -> dict[str, object]:
    """Return the options that a variant names: ``lr=0.005`` is one. Of a prompt it knows the hash alone."""
    options: dict[str, object] = {**dict(pair.split("=", 1) for pair in variant.split(",") if "=" in pair)}
    if options.get("template", ALL_TEMPLATES) not in (ALL_TEMPLATES, DESCRIPTIONS):
        options["template"] = "TEXT"
    return options


def run_named(name: str, dataset: str, encoder: str) -> Run:
    """Return the run of a name: the inverse of :func:`run_name`."""
    method, shots, fold, seed = split_run_name(name)
    head, _, variant = method.partition("@")
    return Run(dataset, encoder, head, shots, fold, seed, variant)


def choose_run(runs: Iterable[Run], wanted: str | None = None) -> Run:
    """Return the run that is meant.

    Of several that fit: a head that learns before one that does not, PALM before others, then the head
    whose name comes first; most shots; one with the default options before others; first fold, first seed.

    Parameters
    ----------
    runs : iterable of Run
        At least one.
    wanted : str, optional
        Name of a run, or its beginning: ``palm``, ``palm-16``, ``palm-16shots``, ``palm@lr=0.005``; a head,
        and what ends at a hyphen, come before others. What fits no name may leave out the variant.

    Raises
    ------
    UnknownNameError
        If no run is called that.
    """
    runs = list(runs)
    fitting = runs
    if wanted is not None:
        of_head = [run for run in runs if run.head == wanted]
        named = [run for run in runs if f"{run_name(run)}-".startswith(f"{wanted}-")]
        begun = [run for run in runs if _begins(run_name(run), wanted)]
        plain = [run for run in runs if _begins(without_variant(run_name(run)), wanted)]
        fitting = of_head or named or begun or plain
    if not fitting:
        names = {run: run.method if "@" in str(wanted) else run.head for run in runs}
        kinds = {f"{name}-{spell_shots(run.shots)}shots" for run, name in names.items()}
        known = kinds if "shot" in str(wanted) else set(names.values())
        raise UnknownNameError.among("run", str(wanted), sorted(known))
    return min(fitting, key=preference)


def _begins(name: str, wanted: str) -> bool:
    """Tell whether a name begins so, its numbers whole: ``palm-1`` is no beginning of ``palm-16shots``."""
    rest = name.removeprefix(wanted)
    return wanted != "" and rest != name and not (wanted[-1].isdigit() and re.match(r"[\d.e]", rest))


def preference(run: Run) -> tuple[object, ...]:
    """Return what the run that is preferred has the least of."""
    learned_first = (run.shots == 0, run.head != PREFERRED_HEAD, run.head)
    return (*learned_first, -run.shots, run.variant, run.fold, run.seed)
