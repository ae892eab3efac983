from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from outcomes import hash_of
from spectrum import SpectrumEncoder

from palm_cache.extraction import work
from palm_cache.extraction.embedding import Embedder
from palm_cache.extraction.work import Work, audio_cache
from palm_cache.params import Recipe
from palm_cache.types import Clip


def test_what_another_process_embeds_meanwhile_is_not_embedded_again(
    clips: list[Clip], one_thread: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked for right before a batch is embedded, not only when a file is read."""
    monkeypatch.setattr(work, "LOOK_SECONDS", 0.0)
    encoder = SpectrumEncoder()
    mine, theirs = (audio_cache(tmp_path, encoder, Recipe()) for _ in range(2))
    keys = np.array([list(bytes.fromhex(hash_of(clip))) for clip in clips[:10]], np.uint8)

    def begin() -> None:  # all has been read by then, nothing embedded
        theirs.add(keys[1:], np.ones((9, *theirs.shape), np.float32))

    with Embedder(encoder, Recipe(), 2) as embedder:
        done = list(Work(embedder, mine, begin).embed(list(enumerate(clips[:10]))))
    assert sorted((one.row, one.how) for one in done) == [
        (0, "embedded"),
        *((row, "known") for row in range(1, 10)),
    ]


def test_what_is_in_the_cache_is_in_no_other_memory(clips: list[Clip], tmp_path: Path) -> None:
    encoder = SpectrumEncoder()
    with Embedder(encoder, Recipe(), 2) as embedder:
        done = Work(embedder, audio_cache(tmp_path, encoder, Recipe()))
        reports = list(done.embed(list(enumerate([*clips, *clips]))))
    assert [report.how for report in reports].count("embedded") == 29
    assert not done._claimed


def test_files_that_are_only_read_begin_nothing(clips: list[Clip], one_thread: None, tmp_path: Path) -> None:
    encoder, begun = SpectrumEncoder(), []
    cache = audio_cache(tmp_path, encoder, Recipe())
    with Embedder(encoder) as embedder:
        first = list(Work(embedder, cache, lambda: begun.append(1)).embed([(0, clips[0])]))
        again = list(Work(embedder, cache, lambda: begun.append(2)).embed([(0, clips[0])]))
    assert [one.how for one in (*first, *again)] == ["embedded", "known"]
    assert begun == [1]
