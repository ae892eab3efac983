"""The report: one folder with a page in Markdown and its figures."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from palm_cache.report.figures import draw_accuracy_by_head, draw_accuracy_by_shots
from palm_cache.report.tables import HEADINGS, format_rows, markdown_table, summarise
from palm_cache.store.files import replacing
from palm_cache.store.scores import read_scores

PAGE = """\
# palm-cache report

{table}

Accuracy and macro F1 on each fold's test clips, scored once after training: mean over folds, then mean ±
standard deviation over seeds. Heads without shots learn nothing and have one run per fold. All runs
classify cached embeddings of frozen encoders in evaluation mode; published PALM numbers were made with
the encoders in training mode, so compare with care.

![Test accuracy by head, each at its largest number of shots](accuracy_by_head.svg)

![Test accuracy by shots](accuracy_by_shots.svg)

## Where the numbers come from

{provenance}
"""


def write_report(out: Path) -> tuple[Path, pd.DataFrame]:
    """Write ``OUT/report/report.md`` and its two figures from ``OUT/scores.csv``.

    Returns
    -------
    page : Path
    summary : DataFrame
        What :func:`summarise` made of the scores.

    Raises
    ------
    StoreError, DataError
        If the scores are missing or of another format.
    OutputError
        If the report cannot be written.
    """
    scores = read_scores(out / "scores.csv")
    summary = summarise(scores)
    folder = out / "report"
    draw_accuracy_by_head(summary, folder / "accuracy_by_head.svg")
    draw_accuracy_by_shots(summary, folder / "accuracy_by_shots.svg")
    table = markdown_table(HEADINGS, format_rows(summary))
    page = folder / "report.md"
    with replacing(page) as temporary:
        temporary.write_text(PAGE.format(table=table, provenance=_provenance(scores)), encoding="utf-8")
    return page, summary


def _provenance(scores: pd.DataFrame) -> str:
    rows = [
        [str(dataset), str(encoder), str(fingerprint)[:12], str(len(runs)), _span(runs["n_test"])]
        for (dataset, encoder, fingerprint), runs in scores.groupby(["dataset", "encoder", "fingerprint"])
    ]
    return markdown_table(["dataset", "encoder", "encoder fingerprint", "runs", "test clips per run"], rows)


def _span(numbers: pd.Series[int]) -> str:
    least, most = numbers.min(), numbers.max()
    return str(least) if least == most else f"{least}-{most}"
