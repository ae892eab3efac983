"""The report: one folder with a page in HTML, the same in Markdown, and its figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, cast

import pandas as pd

from palm_cache.adaptation.tasks import half_of
from palm_cache.errors import DataError, counted
from palm_cache.report.base_novel import base_novel_section
from palm_cache.report.comparison import compare_with_paper, deviations
from palm_cache.report.content import Figure, Section, Table
from palm_cache.report.evidence import (
    HOW,
    ONE_SEED,
    HeadRuns,
    Place,
    by_kind,
    certainty,
    errors,
    reference_heads,
)
from palm_cache.report.figures import accuracy_by_head
from palm_cache.report.fonts import lacking_note
from palm_cache.report.freshness import Behind, doubtful_sections, look_behind
from palm_cache.report.identity import paper_name, unlike_published
from palm_cache.report.inside import inside
from palm_cache.report.means import (
    HEADINGS,
    NAMES_AND_ACCURACY,
    count_shots,
    format_rows,
    on_some_folds,
    percent,
    span,
    summarise,
)
from palm_cache.report.render import as_markdown, as_page
from palm_cache.report.statistics import LEVEL, accuracy_interval
from palm_cache.report.verdict import verdict
from palm_cache.report.which_head import which_head
from palm_cache.store.atomic import check_target, parse_json, replacing
from palm_cache.store.fingerprint import library_versions
from palm_cache.store.layout import command_line
from palm_cache.store.outputs import FIGURE, REPORT_PAGE, REPORT_TEXT
from palm_cache.store.scores import read_predictions, read_prompts, read_scores, tell_apart
from palm_cache.types import ALL_TEMPLATES
from palm_cache.types.runs import ALL_SHOTS, BASE_NOVEL, Training, is_base_only

_READING = (
    "Accuracy and macro F1 on each fold's test clips, scored once after training: mean over folds, then "
    "mean ± standard deviation over seeds. Heads without shots learn nothing and have one run per fold. "
    "All runs classify cached embeddings of frozen encoders in evaluation mode."
)


_BASE_ALONE = (
    f"All of these heads learned from the first half of the classes alone (--split {BASE_NOVEL}) and choose "
    "among all classes here; what they reach on either half by itself is below."
)


class Report(NamedTuple):
    """What was written."""

    page: Path
    """In HTML."""
    summary: pd.DataFrame
    """What :func:`summarise` made of the scores."""
    verdict: str
    """Which head is ahead, in one sentence."""
    notes: tuple[str, ...]
    """Which scores are, or may be, of an earlier state of their store, or of some clips alone; letters that
    figures lack."""


def write_report(out: Path, *, against: str | None = None, heads: Path | None = None) -> Report:
    """Write ``OUT/report/``: ``index.html``, ``report.md`` and the figures, from what lies in ``OUT``.

    ``scores.csv`` must be there. ``predictions.h5`` adds intervals, paired tests and confusion, and
    ``prompts.csv`` the study of prompts; where they are absent the report says so.

    Parameters
    ----------
    out : Path
    against : str, optional
        The head that the others are compared with. By default PALM, on datasets where it did not run
        zero-shot, else the first by its name.
    heads : Path, optional
        The folder below which heads lie, to look inside; ``out`` by default.

    Raises
    ------
    StoreError, DataError
        If the scores are missing, none, or of another format.
    UnknownNameError
        If there are no predictions of the head to compare with.
    DamagedStoreError
        If the predictions cannot be read.
    OutputError
        If the report cannot be written.
    """
    stored, prompts = out / "predictions.h5", out / "prompts.csv"
    every = read_scores(out / "scores.csv")
    if every.empty:
        raise DataError(f"{out / 'scores.csv'}: nothing is scored there; fit on a dataset with test clips")
    split = every["variant"].map(is_base_only)
    # What learned from some classes alone is no rival of what learned from all; alone it has them to itself.
    rivals = every if split.all() else every[~split]
    scores, predictions = tell_apart(rivals), read_predictions(stored) if stored.exists() else []
    summary, kinds = summarise(scores), by_kind(predictions, scores)
    compared_with = reference_heads(kinds, against)
    behind = look_behind(every, heads or out)
    makers = {
        stored: command_line("evaluate", heads=heads, out=out),
        prompts: command_line("prompts", out=out),
    }
    missing = [f"{file.name} (make it with: {maker})" for file, maker in makers.items() if not file.exists()]
    parts = (
        *doubtful_sections(behind),
        which_head(scores, kinds),
        _results(scores, kinds, bool(split.all()), behind),
        *_beside_the_paper(scores, behind),
        base_novel_section(every),
        _prompts(read_prompts(prompts)) if prompts.exists() else None,
        *([certainty(kinds, compared_with), errors(kinds, compared_with)] if kinds else []),
        inside(kinds, heads or out),
        _provenance(scores, out / "scores.csv", missing, _short_draws(scores, kinds)),
    )
    sections = [section for section in parts if section is not None]
    folder = out / "report"
    figures = [block for section in sections for block in section.blocks if isinstance(block, Figure)]
    first = verdict(scores, kinds)
    if split.all():
        first = f"Of heads that learned from base classes alone, {first}"
    files = {f"{figure.name}.svg": (FIGURE, figure.svg) for figure in figures}
    files["report.md"] = REPORT_TEXT, as_markdown(first, sections)
    files["index.html"] = REPORT_PAGE, as_page(first, sections)
    for name, (kind, _) in files.items():
        check_target(folder / name, "out", kind)
    for name, (kind, text) in files.items():
        with replacing(folder / name, kind=kind) as temporary:
            temporary.write_text(text, encoding="utf-8")
    notes = [one.note for one in behind.values() if one.note]
    if lacking := frozenset().union(*(figure.lacking for figure in figures)):
        notes.append(lacking_note(lacking))
    return Report(folder / "index.html", summary, first, tuple(notes))


def _results(
    scores: pd.DataFrame,
    kinds: Mapping[Place, list[HeadRuns]],
    base_alone: bool,
    behind: Mapping[Place, Behind],
) -> Section:
    """Show a table per dataset and encoder: narrow enough for a phone, and never two encoders as one."""
    summary, tables, marked = summarise(scores), [], False
    for key, rows in summary.groupby(["dataset", "encoder"], sort=False):
        place = cast("Place", key)
        of_place = {(kind.head, kind.shots): kind for kind in kinds.get(place, [])}
        cells = []
        for head, shots, row in zip(rows["head"], rows["shots"], format_rows(rows), strict=True):
            kind = of_place.get((str(head), int(shots)))
            interval = [_interval(kind)] if of_place else []
            cells.append((*row[2:NAMES_AND_ACCURACY], *interval, *row[NAMES_AND_ACCURACY:]))
            marked = marked or (kind is not None and kind.one_seed)
        heading = [f"{100 * LEVEL:.0f} % interval"] if of_place else []
        headings = (*HEADINGS[2:NAMES_AND_ACCURACY], *heading, *HEADINGS[NAMES_AND_ACCURACY:])
        mark = behind[place].mark
        caption = ", ".join(place) + (f" ({mark})" if mark else "")
        tables.append(Table(headings, tuple(cells), caption))
    notes = [*([_BASE_ALONE] if base_alone else []), _READING, *on_some_folds(scores)]
    notes += [*([HOW] if kinds else []), *([ONE_SEED] if marked else [])]
    return Section("Results", (*notes, *tables, accuracy_by_head(summary)))


def _interval(kind: HeadRuns | None) -> str:
    if kind is None:
        return "-"
    interval = accuracy_interval([kind.outcomes])
    return f"{percent(interval.low)} to {percent(interval.high)}" + "*" * kind.one_seed


def _beside_the_paper(scores: pd.DataFrame, behind: Mapping[Place, Behind]) -> list[Section | None]:
    """One section per encoder with datasets of the paper: two encoders are never averaged."""
    sections = []
    for encoder, runs in scores.groupby("encoder"):
        named = sorted(filter(paper_name, runs["dataset"].unique()))
        whys = {name: unlike_published(name, behind[name, str(encoder)].store) for name in named}
        unlike = {name: why for name, why in whys.items() if why}
        sections.append(compare_with_paper(runs, str(encoder), unlike))
    return sections


def _prompts(prompts: pd.DataFrame) -> Section:
    """Show zero-shot's accuracy under every wording of the prompt, mean over folds."""
    # Datasets may have been extracted with prompts of their own.
    wordings = sorted(prompts["template"].unique(), key=lambda wording: wording == ALL_TEMPLATES)
    means = prompts.groupby(["dataset", "encoder", "template"])["accuracy"].mean().unstack("template")
    rows = []
    for key, of_place in means.iterrows():
        dataset, encoder = cast("tuple[str, str]", key)
        single = of_place.drop(ALL_TEMPLATES, errors="ignore")
        spread = f"{100 * (single.max() - single.min()):.2f}"
        rows.append((dataset, encoder, *(percent(of_place[wording]) for wording in wordings), spread))
    headings = ("dataset", "encoder", *wordings, "best - worst")
    note = (
        "Zero-shot accuracy in %, mean over folds, under every prompt template, {c} standing for the "
        "class name, and with all, the mean of their embeddings (after paper Figure 2, which gives 43.3 "
        "for {c} and 53.5 for the authors' prompt on ESC50 with PENGI)."
    )
    # A row per wording is what fits a page.
    turned = tuple(zip(headings, *rows, strict=True))
    return Section("How much the prompt's wording matters", (note, Table(turned[0], turned[1:])))


def _short_draws(scores: pd.DataFrame, kinds: Mapping[Place, list[HeadRuns]]) -> list[str]:
    """Say which draws have fewer clips than shots times the classes that are drawn from."""
    short_draws = []
    for place, of_place in kinds.items():
        n_classes = len(next(iter(of_place[0].runs.values())).class_names)
        runs = scores[(scores["dataset"] == place[0]) & (scores["encoder"] == place[1])]
        runs = runs[runs["shots"] < ALL_SHOTS]
        for key, drawn in runs.groupby([runs["variant"].map(is_base_only), "shots"])["n_train"]:
            base_only, shots = cast("tuple[bool, int]", key)
            n_asked = shots * (half_of(n_classes) if base_only else n_classes)
            if drawn.min() < n_asked:
                short_draws.append(
                    f"{', '.join(place)}: {span(drawn)} of {counted(n_asked, 'clip')} at {count_shots(shots)}"
                )
    return short_draws


def _provenance(scores: pd.DataFrame, file: Path, missing: list[str], short: list[str]) -> Section:
    rows = tuple(
        (str(dataset), str(encoder), str(fingerprint)[:12], str(len(runs)), span(runs["n_test"]))
        for (dataset, encoder, fingerprint), runs in scores.groupby(["dataset", "encoder", "fingerprint"])
    )
    blocks: list[str | Table | Figure] = [
        Table(("dataset", "encoder", "encoder fingerprint", "runs", "test clips per run"), rows),
        *_protocol(scores),
        f"Scores of {datetime.fromtimestamp(file.stat().st_mtime, UTC):%Y-%m-%d}; report made with "
        + ", ".join(f"{name} {number}" for name, number in library_versions().items())
        + ".",
    ]
    if short:
        blocks.append(
            f"Draws with fewer clips than asked for, as some classes have fewer: {'; '.join(short)}."
        )
    if missing:
        blocks.append(f"Not there, and so not in this report: {'; '.join(missing)}.")
    return Section("Where the numbers come from", tuple(blocks))


def _protocol(scores: pd.DataFrame) -> list[str]:
    """Name the settings of training that are not the paper's, or the heads that are trained by all of them.

    Only momentum tells heads that follow the paper's protocol from those that descend in another way.
    """
    paper = asdict(Training())
    heads_of: dict[str, set[str]] = {}
    wholly = set[str]()
    for head, text in scores[["head", "hyperparameters"]].drop_duplicates().itertuples(index=False):
        settings = cast("dict[str, object]", parse_json(text))
        if paper.keys() <= settings.keys():
            wholly.add(head)
        for deviation in deviations(text) if "momentum" in settings else ():
            heads_of.setdefault(deviation, set()).add(head)
    if heads_of:
        named = (f"{deviation} ({', '.join(sorted(heads))})" for deviation, heads in sorted(heads_of.items()))
        return [f"Not trained as in the paper: {'; '.join(named)}."]
    asked = ", ".join(f"{name} {value}" for name, value in paper.items())
    return [f"Trained as in the paper: {', '.join(sorted(wholly))}, with {asked}."] if wholly else []
