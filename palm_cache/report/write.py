"""The report: one folder with a page in HTML, the same in Markdown, and its figures."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pandas as pd

from palm_cache.report.choice import which_head
from palm_cache.report.comparison import compare_with_paper
from palm_cache.report.content import Figure, Section, Table
from palm_cache.report.evidence import Kind, by_kind, certainty, errors
from palm_cache.report.figures import accuracy_by_head
from palm_cache.report.render import as_markdown, as_page
from palm_cache.report.tables import HEADINGS, format_rows, percent, span, summarise
from palm_cache.store.files import replacing
from palm_cache.store.fingerprint import library_versions
from palm_cache.store.scores import read_predictions, read_prompts, read_scores, tell_apart
from palm_cache.types import Training

TITLE = "palm-cache report"

_READING = (
    "Accuracy and macro F1 on each fold's test clips, scored once after training: mean over folds, then "
    "mean ± standard deviation over seeds. Heads without shots learn nothing and have one run per fold. "
    "All runs classify cached embeddings of frozen encoders in evaluation mode."
)


def write_report(out: Path) -> tuple[Path, pd.DataFrame]:
    """Write ``OUT/report/``: ``index.html``, ``report.md`` and the figures, from what lies in ``OUT``.

    ``scores.csv`` must be there. ``predictions.h5`` adds intervals, paired tests and confusion, and
    ``prompts.csv`` the study of prompts; where they are absent the report says so.

    Returns
    -------
    page : Path
        The HTML page.
    summary : DataFrame
        What :func:`summarise` made of the scores.

    Raises
    ------
    StoreError, DataError
        If the scores are missing or of another format.
    DamagedStoreError
        If the predictions cannot be read.
    OutputError
        If the report cannot be written.
    """
    stored = out / "predictions.h5"
    scores, predictions = tell_apart(
        read_scores(out / "scores.csv"), read_predictions(stored) if stored.exists() else ()
    )
    summary = summarise(scores)
    missing = []
    kinds: dict[tuple[str, str], list[Kind]] = {}
    if stored.exists():
        kinds = by_kind(predictions, scores)
    else:
        missing.append("predictions.h5 (make it with: palm-cache evaluate)")
    choice = which_head(scores, kinds)
    sections = [_results(summary), *([choice] if choice else []), *_beside_the_paper(scores)]
    if (out / "prompts.csv").exists():
        sections.append(_prompts(read_prompts(out / "prompts.csv")))
    else:
        missing.append("prompts.csv (make it with: palm-cache prompts)")
    sections += [certainty(kinds), errors(kinds)] if kinds else []
    sections.append(_provenance(scores, out / "scores.csv", missing))
    folder = out / "report"
    for section in sections:
        for block in section.blocks:
            if isinstance(block, Figure):
                _write(folder / f"{block.name}.svg", block.svg)
    _write(folder / "report.md", as_markdown(TITLE, sections))
    _write(folder / "index.html", as_page(TITLE, sections))
    return folder / "index.html", summary


def _results(summary: pd.DataFrame) -> Section:
    table = Table(HEADINGS, tuple(map(tuple, format_rows(summary))))
    return Section("Results", (_READING, table, accuracy_by_head(summary)))


def _beside_the_paper(scores: pd.DataFrame) -> list[Section]:
    """One section per encoder: two encoders are never averaged."""
    compared = [compare_with_paper(runs, str(encoder)) for encoder, runs in scores.groupby("encoder")]
    return [section for section in compared if section is not None]


def _prompts(prompts: pd.DataFrame) -> Section:
    """Show zero-shot's accuracy under every wording of the prompt, mean over folds."""
    wordings = list(prompts["template"].unique())
    means = prompts.groupby(["dataset", "encoder", "template"])["accuracy"].mean().unstack("template")
    rows = []
    for key, of_place in means.iterrows():
        dataset, encoder = cast("tuple[str, str]", key)
        single = of_place[wordings[:-1]]
        spread = f"{100 * (single.max() - single.min()):.2f}"
        rows.append((dataset, encoder, *(percent(of_place[wording]) for wording in wordings), spread))
    headings = ("dataset", "encoder", *wordings, "best - worst")
    note = (
        "Zero-shot accuracy in %, mean over folds, under every prompt template, {c} standing for the "
        "class name, and with the mean of all their embeddings (after paper Figure 2, which gives 43.3 "
        "for {c} and 53.5 for the authors' prompt on ESC50 with PENGI)."
    )
    # A row per wording is what fits a page.
    turned = tuple(zip(headings, *rows, strict=True))
    return Section("How much the prompt's wording matters", (note, Table(turned[0], turned[1:])))


def _provenance(scores: pd.DataFrame, file: Path, missing: list[str]) -> Section:
    rows = tuple(
        (str(dataset), str(encoder), str(fingerprint)[:12], str(len(runs)), span(runs["n_test"]))
        for (dataset, encoder, fingerprint), runs in scores.groupby(["dataset", "encoder", "fingerprint"])
    )
    blocks: list[str | Table | Figure] = [
        Table(("dataset", "encoder", "encoder fingerprint", "runs", "test clips per run"), rows),
        _deviations(scores),
        f"Scores of {datetime.fromtimestamp(file.stat().st_mtime, UTC):%Y-%m-%d}; report made with "
        + ", ".join(f"{name} {number}" for name, number in library_versions().items())
        + ".",
    ]
    if missing:
        blocks.append(f"Not there, and so not in this report: {'; '.join(missing)}.")
    return Section("Where the numbers come from", tuple(blocks))


def _deviations(scores: pd.DataFrame) -> str:
    """Name the settings of training that are not the paper's."""
    paper = asdict(Training())
    found: dict[str, set[str]] = {}
    for head, text in scores[["head", "hyperparameters"]].drop_duplicates().itertuples(index=False):
        settings = json.loads(text) if isinstance(text, str) and text else {}
        for name, value in settings.items():
            if name in paper and value != paper[name]:
                found.setdefault(f"{name} {value} instead of {paper[name]}", set()).add(head)
    if not found:
        return f"Trained as in the paper: {', '.join(f'{name} {value}' for name, value in paper.items())}."
    said = "; ".join(f"{what} ({', '.join(sorted(heads))})" for what, heads in sorted(found.items()))
    return f"Not trained as in the paper: {said}."


def _write(file: Path, text: str) -> None:
    with replacing(file) as temporary:
        temporary.write_text(text, encoding="utf-8")
