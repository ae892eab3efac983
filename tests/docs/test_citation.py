from __future__ import annotations

from pathlib import Path

import yaml

import palm_cache

ROOT = Path(__file__).parents[2]


def test_the_citation_is_of_this_version_and_of_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["version"] == palm_cache.__version__
    assert citation["authors"][0]["name"] in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert [reference["url"] for reference in citation["references"]] == ["https://arxiv.org/abs/2409.19806"]
