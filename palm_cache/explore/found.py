"""What a search found as one page that needs nothing but a browser: sounds and spectrograms lie in it."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from palm_cache.errors import AudioError
from palm_cache.extraction.audio.snippets import playable, read_snippet, spectrogram
from palm_cache.pages.rendering import render
from palm_cache.retrieval.find import SearchResult
from palm_cache.store.atomic import replacing
from palm_cache.store.outputs import FOUND_PAGE
from palm_cache.types import Place, Progress, no_progress
from palm_cache.types.stretches import stretch_text


def write_found(result: SearchResult, out: Path, progress: Progress = no_progress) -> None:
    """Write the page; a row whose file is gone or cannot be read stays and says so.

    Raises
    ------
    OutputError
        If it cannot be written, or another file is there.
    """
    rows = []
    for row, file in zip(result.records(), result.files, strict=True):
        rows.append({**row, **_heard(row, file)})
        progress("drawing", len(rows), len(result.files))
    page = render(
        Path(__file__).with_name("template"),
        "found.html.j2",
        styles=("found.css",),
        command="search",
        query=result.query,
        measure=result.measure,
        rows=rows,
    )
    with replacing(out, "html", FOUND_PAGE) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _heard(row: dict[str, Any], file: Place | None) -> dict[str, str]:
    """Return the sound and the picture of a row, or why there is none."""
    start, end = row["start"], row["end"]
    place = f"row {row['row']} of {row['dataset']}"
    facts = {"place": ", ".join(filter(None, (place, stretch_text(start, end)))), "sound": ""}
    if file is None:
        return facts
    try:
        snippet = read_snippet(file, start, end)
    except AudioError as error:
        return {**facts, "note": str(error)}
    sound, media_type = playable(snippet)
    return {
        **facts,
        "sound": f"data:{media_type};base64,{base64.b64encode(sound).decode()}",
        "picture": base64.b64encode(spectrogram(snippet)).decode(),
        "seconds": f"{snippet.seconds:.1f}",
        "top": f"{snippet.rate / 2000:g}",
    }
