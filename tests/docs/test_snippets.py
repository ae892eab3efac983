"""Every snippet of README and documentation is run, with small stand-ins at the places that it names."""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import subprocess
import webbrowser
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from drive import kind_of, write_recordings
from label_page import label_by_ear
from miniatures import write_miniature
from own_example import write_example
from samples import write_palm_folder, write_tone
from tiny_clap import save_tiny_clap
from typer.testing import CliRunner

from palm_cache.cli import app
from palm_cache.extraction.datasets.demo import synthesise
from palm_cache.extraction.datasets.registry import require_card
from palm_cache.report.freshness import OUT_OF_DATE, look_behind
from palm_cache.store.scores import read_scores
from pipelines.benchmarks.random_pengi import save_small_tokenizer

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs" / "pages").glob("*.md")))

TRIED_ELSEWHERE = (
    *("make", "dvc", ".", "pip", "python", "python3", "find"),
    *("palm-cache download", "palm-cache datasets --check"),  # of real datasets, whole ones
    "palm-cache bench",  # takes minutes
    *("palm-cache push", "palm-cache pull", "palm-cache predict hf://me/city-sounds"),  # needs a hub
)
"""What a line may begin with that is not run here: it installs, or tests of its own run it."""


@dataclass(frozen=True)
class Snippet:
    """A fenced block of a page."""

    language: str
    text: str
    line: int


def snippets(page: Path) -> Iterator[Snippet]:
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"^```(sh|python)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield Snippet(match[1], match[2], text[: match.start()].count("\n") + 2)


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory, pengi_checkpoint: Path) -> Path:
    """What the snippets take for granted: datasets, folders and checkpoints, all of them small."""
    folder = tmp_path_factory.mktemp("reader") / "first"
    synthesise(folder / "data" / "raw" / "demo", clips_per_class=5)
    write_two_folds(folder / "data" / "raw" / "UrbanSound8K")
    write_miniature("ESC50", folder / "data" / "raw" / "ESC50")
    write_palm_folder(folder / "path" / "to" / "birds", classes=("blackbird", "wren"))
    # A directory of that name is taken before the hub is asked.
    save_tiny_clap(folder / "laion" / "clap-htsat-unfused")
    save_small_tokenizer(folder / "openai" / "clip-vit-base-patch32")
    (folder / "base.pth").symlink_to(pengi_checkpoint)
    write_example(folder)
    write_recordings(folder / "recordings")
    (folder / "prompts.txt").write_text("{c} in the street\n{c}, far away\n")
    described = [f"{name},the sound of a {name}" for name in require_card("demo").class_names]
    (folder / "descriptions.csv").write_text("\n".join(["classname,text", *described]) + "\n")
    write_tone(folder / "night.flac", 440, seconds=20)
    with contextlib.chdir(folder):  # what the quickstart leaves behind
        for line in (
            "palm-cache extract --dataset demo",
            "palm-cache fit --dataset demo --shots 4 --seeds 0",
        ):
            run_line(line, "before the first page")
    # Moved, as is what the reader has: where a dataset of the same name is still there, this is another.
    return folder.rename(folder.with_name("then"))


def write_two_folds(root: Path) -> None:
    """Write UrbanSound8K as published, with two of its classes and of its folds."""
    lines = ["slice_file_name,fold,class"]
    for fold in (1, 2):
        for label, name in enumerate(("dog_bark", "siren")):
            lines.append(f"{fold}-{label}.wav,{fold},{name}")
            write_tone(root / "audio" / f"fold{fold}" / f"{fold}-{label}.wav", 300 * (label + 1), seed=fold)
    (root / "metadata").mkdir()
    (root / "metadata" / "UrbanSound8K.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture
def workplace(stand_ins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "here"
    shutil.copytree(stand_ins, folder, symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(webbrowser, "open", lambda address: True)
    label_by_ear(monkeypatch, lambda path: kind_of(path) if path[0].isdecimal() else "sound", ["random"])
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_snippet_of_the_page_runs(page: Path, workplace: Path) -> None:
    names: dict[str, object] = {}
    before = set(Path().iterdir())
    for snippet in snippets(page):
        where = f"{page.name}, line {snippet.line}"
        if snippet.language == "python":
            exec(compile(snippet.text, where, "exec"), names)
            continue
        for line in snippet.text.replace("\\\n", " ").splitlines():
            run_line(line, where)
    for scores in Path().glob("*/scores.csv"):  # whoever follows the page has no scores that are out of date
        behind = look_behind(read_scores(scores), scores.parent)
        assert [one.note for one in behind.values() if one.mark == OUT_OF_DATE] == []
    if page.parent == ROOT:  # whoever follows README is in a clone, which then looks as before to git
        left = {f"{path}/" if path.is_dir() else str(path) for path in set(Path().iterdir()) - before}
        asked = ["git", "check-ignore", "--no-index", *left]
        ignored = subprocess.run(asked, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
        assert left == set(ignored.splitlines())


def run_line(line: str, where: str) -> None:
    words = shlex.split(line, comments=True)
    if not words or any(line.split()[: len(known.split())] == known.split() for known in TRIED_ELSEWHERE):
        return
    assert words[0] == "palm-cache", f"{where}: {line}: neither palm-cache nor among what is tried elsewhere"
    if words[1] == "synthesise":
        words += ["--clips-per-class", "5"]  # as the stand-in
    arguments = [name for word in words[1:] for name in expand(word)]
    result = CliRunner().invoke(app, arguments)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, f"{where}: {line}\n{result.output}"


def expand(word: str) -> list[str]:
    """Do a shell's work on patterns."""
    return sorted(map(str, Path().glob(word))) if "*" in word else [word]
