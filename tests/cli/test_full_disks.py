"""What full disks, closed outputs and disks that are away do to a command: one line, nothing half done."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import call, fail, succeed
from samples import make_features, write_sample, write_tone
from typer.testing import Result
from workshop import Workshop


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str, stdout: str | int = os.devnull) -> subprocess.CompletedProcess[str]:
    """Run a command as a process of its own."""
    with open(stdout, "w") as target:  # noqa: PTH123, of a descriptor too
        return subprocess.run(
            [sys.executable, "-c", "from palm_cache.cli import app; app()", *words],
            stdout=target,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize(
    "words", [("encoders",), ("encoders", "--json"), ("--help",), ("--version",), ("predict", "--help")]
)
def test_an_output_that_takes_nothing_is_told_in_one_line(words: tuple[str, ...]) -> None:
    done = run(*words, stdout="/dev/full")
    assert done.returncode == 1
    assert (
        done.stderr.strip()
        == "error: standard output: cannot write: no space left on device; send it elsewhere"
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_results_that_find_no_room_on_stdout_are_told_in_one_line(workshop: Workshop) -> None:
    for words in ((), ("--csv", "-")):
        done = run("predict", str(workshop.heads), str(workshop.data / "audios"), *words, stdout="/dev/full")
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith("error: standard output: cannot write: no space left")
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [(), ("--json",), ("--csv", "-")])
def test_labels_are_whole_though_nobody_reads_standard_output(
    folder: Path, workshop: Workshop, words: tuple[str, ...]
) -> None:
    long = str(workshop.data / "audios" / "long.flac")
    Path("broken.wav").write_bytes(b"RIFF")
    predict = ("predict", str(workshop.heads), long, "broken.wav", "--timeline", "--no-merge", *words)
    call(*predict, "--audacity", "whole")
    reader, writer = os.pipe()
    os.close(reader)
    done = run(*predict, "--audacity", "labels", stdout=writer)
    assert done.returncode == 1
    assert "standard output takes no more; the labels are written to the end" in done.stderr
    assert "failed broken.wav: " in done.stderr
    cut, whole = (next(Path(folder).rglob("long.flac.txt")).read_text() for folder in ("labels", "whole"))
    assert cut == whole != ""


def test_a_page_and_copies_are_written_though_nobody_reads_standard_output(
    folder: Path, workshop: Workshop
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    search = ("search", str(workshop.store), "--row", "0", "-k", "2")
    assert run(*search, "--html", "found.html", "--copy", "found", stdout=writer).returncode == 1
    assert "</html>" in Path("found.html").read_text()
    assert len(list(Path("found").iterdir())) == 2


def test_a_closed_output_is_told_in_one_line() -> None:
    script = "import sys; sys.stdout = None\nfrom palm_cache.cli import app; app()"
    done = subprocess.run(
        [sys.executable, "-c", script, "encoders"], stderr=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "error: standard output is closed; send it somewhere, if only to /dev/null\n"


def call_with_room_for(n_bytes: int, *words: str) -> Result:
    """Run a command that may make no file longer than this: writing fails in the midst, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, limits[1]))
    try:
        return call(*words)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("n_bytes", [0, 100, 1000])
def test_what_finds_no_room_leaves_nothing_half_written(
    folder: Path, workshop: Workshop, n_bytes: int
) -> None:
    heads, clips = str(workshop.heads), str(workshop.data / "audios")
    long = str(workshop.data / "audios" / "long.flac")
    sliding = ("--timeline", "--window", "0.1", "--no-merge")
    for words in (
        ("fit", "--store", str(workshop.store), "--shots", "1", "--seeds", "0", "--epochs", "1"),
        ("export", heads, "--to", "safetensors", "--out", "head.safetensors"),
        ("export", heads, "--to", "onnx", "--run", "palm", "--out", "head.onnx"),
        ("predict", heads, clips, *sliding, "--csv", "answers.csv"),
        ("predict", heads, long, *sliding, "--audacity", "labels.txt"),
        ("explore", str(workshop.store), "--method", "pca", "--out", "page.html"),
        ("store", "export", str(workshop.store), "store.h5"),
    ):
        done = call_with_room_for(n_bytes, *words)
        assert done.exit_code == 1, (words, done.stderr)
        assert "cannot write: file too large" in done.stderr.splitlines()[-1]
        assert [file for file in folder.rglob("*") if file.is_file() and file.name != ".lock"] == []


def test_scores_that_find_no_room_leave_the_earlier_ones(folder: Path) -> None:
    write_sample(folder / "mini.zarr", make_features())
    words = ("--store", "mini.zarr", "--head", "knn", "--folds", "1", "--shots", "1")
    succeed("fit", *words, "--seeds", "0")
    before = {file: file.read_bytes() for file in (folder / "runs").rglob("*") if file.is_file()}
    done = call_with_room_for(600, "fit", *words, "--seeds", "1")
    assert done.exit_code == 1
    assert "heads.h5: cannot write: file too large" in done.stderr
    assert {file: file.read_bytes() for file in (folder / "runs").rglob("*") if file.is_file()} == before


def test_a_disk_that_is_away_in_part_does_not_empty_a_store(folder: Path) -> None:
    for name in ("low", "mid", "high"):
        for number in range(3):
            write_tone(folder / "Sounds" / name / f"{number}.wav", frequency=200 + 10 * number + len(name))
    store = folder / "data" / "features" / "Sounds" / "mini.zarr"
    succeed("extract", "--dataset", "Sounds")
    for name in ("low", "mid"):
        (folder / "Sounds" / name).rename(folder / name)
    before = (store / "zarr.json").read_bytes()
    refused = fail("extract", "--dataset", "Sounds")
    assert "of its 9 clips the files of 6 are gone" in refused
    assert fail("extract", "--dataset", "Sounds", "--dry-run") == refused
    assert "--prune" in refused
    assert (store / "zarr.json").read_bytes() == before
    (folder / "mid").rename(folder / "Sounds" / "mid")
    assert (
        "no more in the dataset: 3 clips that the store held"
        in succeed("extract", "--dataset", "Sounds").stderr
    )
    (folder / "Sounds" / "mid").rename(folder / "mid")
    assert "3 clips" in succeed("extract", "--dataset", "Sounds", "--prune").stdout
