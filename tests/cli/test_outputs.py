"""What an option of output finds in its place: an earlier output gives way, anything else stays."""

from __future__ import annotations

import importlib.util
import itertools
import shutil
from pathlib import Path

import pandas as pd
import pytest
from command_line import fail, succeed
from workshop import Workshop

AUDACITY = "0.500000\t1.250000\twren\n2.000000\t3.000000\tblackbird\n"
LABELS = "path,start,end,classname,time\nnight.flac,0.0,2.0,wren,2026-11-28T08:41:00+00:00\n"
CODE = "import torch\n\n\nclass MyEncoder(torch.nn.Module):\n    pass\n"
PAGE = "<!doctype html>\n<html>\n<head><title>My notes</title></head>\n</html>\n"

OUTPUTS = {
    "answers.csv": "predict heads.h5 night.flac --csv",
    "stretches.csv": "predict heads.h5 night.flac --timeline --csv",
    "rows.csv": "predict heads.h5 --store STORE --top 2 --csv",
    "rows.parquet": "predict heads.h5 --store STORE --parquet",
    "night.txt": "predict heads.h5 night.flac --timeline --audacity",
    "map.html": "explore STORE --method pca --out",
    "found.html": "search STORE --row 0 --html",
    "found.csv": "search STORE --row 0 --csv",
    "head.safetensors": "export heads.h5 --to safetensors --out",
    "head.onnx": "export heads.h5 --to onnx --run palm --out",
}
"""What each command that writes to a file of a user's choice is given before the file."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with heads, scores and a recording."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(workshop.heads, "heads.h5")
    shutil.copy(workshop.heads.parents[2] / "scores.csv", "scores.csv")
    shutil.copy(workshop.data / "audios" / "long.flac", "night.flac")
    return tmp_path


def command(output: str, file: str, workshop: Workshop) -> list[str]:
    return [*(str(workshop.store) if word == "STORE" else word for word in OUTPUTS[output].split()), file]


@pytest.mark.parametrize(
    ("output", "file", "content"),
    [
        ("night.txt", "night.txt", AUDACITY),
        ("answers.csv", "labels.csv", LABELS),
        ("stretches.csv", "labels.csv", LABELS),
        ("rows.csv", "labels.csv", LABELS),
        ("rows.csv", "scores.csv", None),
        ("rows.csv", "heads.h5", None),
        ("rows.parquet", "labels.csv", LABELS),
        ("map.html", "heads.h5", None),
        ("map.html", "notes.html", PAGE),
        ("found.html", "my_encoder.py", CODE),
        ("found.html", "notes.html", PAGE),
        ("found.csv", "labels.csv", LABELS),
        ("found.csv", "scores.csv", None),
        ("head.safetensors", "heads.h5", None),
        ("head.safetensors", "my_encoder.py", CODE),
        ("head.onnx", "heads.h5", None),
    ],
)
def test_a_file_that_is_no_earlier_output_stays(
    output: str, file: str, content: str | None, workshop: Workshop
) -> None:
    if content is not None:
        Path(file).write_text(content)
    before = Path(file).read_bytes()
    words = command(output, file, workshop)
    assert f"error: {file}: is there already and is no " in (message := fail(*words))
    assert message.endswith(f"that palm-cache wrote; choose another place with {words[-2]}, or remove it")
    assert Path(file).read_bytes() == before


def test_what_bears_the_name_of_a_card_stays(folder: Path) -> None:
    Path("head.safetensors.json").write_text('{"mine": 1}')
    message = fail("export", "heads.h5", "--to", "safetensors", "--out", "head.safetensors")
    assert "head.safetensors.json: is there already and is no card of a head" in message
    assert Path("head.safetensors.json").read_text() == '{"mine": 1}'
    assert not Path("head.safetensors").exists()


def test_a_table_of_a_users_own_in_parquet_stays(workshop: Workshop) -> None:
    pytest.importorskip("pyarrow")
    pd.DataFrame({"path": ["night.flac"], "label": ["wren"]}).to_parquet("labels.parquet")
    before = Path("labels.parquet").read_bytes()
    assert "is no table of predictions" in fail(*command("rows.parquet", "labels.parquet", workshop))
    assert Path("labels.parquet").read_bytes() == before


@pytest.mark.parametrize("output", OUTPUTS)
def test_an_earlier_output_and_an_empty_file_are_replaced(output: str, workshop: Workshop) -> None:
    package = {"head.onnx": "onnxscript", "rows.parquet": "pyarrow"}.get(output)
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}")
    Path(output).touch()
    written = []
    for _ in range(2):
        succeed(*command(output, output, workshop))
        written.append(Path(output).read_bytes())
        Path(output).write_bytes(written[0])
    assert written[0] == written[1] != b""


def test_results_of_a_users_own_stay_and_earlier_ones_are_replaced(workshop: Workshop) -> None:
    shutil.copytree(workshop.heads.parents[2], "runs")
    own = {"metrics.json": '{"accuracy": 0.5}', "report/report.md": "# Mine\n", "report/index.html": PAGE}
    for name, content in own.items():
        words = ("report" if "report" in name else "evaluate", "--out", "runs")
        Path("runs", name).parent.mkdir(exist_ok=True)
        Path("runs", name).write_text(content)
        scores = Path("runs/scores.csv").stat().st_mtime_ns
        message = fail(*words)
        assert f"error: runs/{name}: is there already and is no " in message
        assert message.endswith("that palm-cache wrote; choose another place with --out, or remove it")
        assert Path("runs", name).read_text() == content
        assert Path("runs/scores.csv").stat().st_mtime_ns == scores
        Path("runs", name).unlink()
        for _ in range(2):
            succeed(*words)
    figures = list(Path("runs/report").glob("*.svg"))
    assert figures
    figures[0].write_text("<svg/>")
    assert f"error: {figures[0]}: is there already and is no figure" in fail("report", "--out", "runs")


def test_outputs_of_two_kinds_do_not_replace_each_other(workshop: Workshop) -> None:
    kinds = ("answers.csv", "found.csv", "map.html", "found.html", "head.safetensors")
    for output in kinds:
        succeed(*command(output, output, workshop))
    for output, other in itertools.permutations(kinds, 2):
        assert f"{other}: is there already" in fail(*command(output, other, workshop))


def test_a_track_that_audacity_has_saved_is_a_users(workshop: Workshop) -> None:
    words = command("night.txt", "night.txt", workshop)
    succeed(*words)
    first, *others = Path("night.txt").read_text().splitlines()
    Path("night.txt").write_text("\n".join([first, *(line.rstrip("\t") for line in others), AUDACITY]))
    before = Path("night.txt").read_bytes()
    assert "night.txt: is there already and is no label track that palm-cache wrote" in fail(*words)
    assert Path("night.txt").read_bytes() == before


@pytest.mark.parametrize("output", ["answers.csv", "stretches.csv", "rows.csv", "found.csv"])
def test_a_table_that_another_program_has_saved_is_a_users(output: str, workshop: Workshop) -> None:
    """Corrections of a night were replaced by the next."""
    words = command(output, output, workshop)
    succeed(*words)
    table = pd.read_csv(output)
    table.loc[0, "label"] = "wren"
    table.to_csv(output, index=False)
    before = Path(output).read_bytes()
    assert f"{output}: is there already and is no table of" in fail(*words)
    assert Path(output).read_bytes() == before


def test_label_tracks_of_a_folder_are_looked_at_before_anything_is_written(workshop: Workshop) -> None:
    shutil.copy("night.flac", "day.flac")
    words = ("predict", "heads.h5", "day.flac", "night.flac", "--timeline", "--audacity", "tracks")
    succeed(*words)
    assert sorted(file.name for file in Path("tracks").iterdir()) == ["day.flac.txt", "night.flac.txt"]
    succeed(*words)
    Path("tracks/day.flac.txt").unlink()
    Path("tracks/night.flac.txt").write_text(AUDACITY)
    assert "tracks/night.flac.txt: is there already" in fail(*words)
    assert [file.name for file in Path("tracks").iterdir()] == ["night.flac.txt"]
    assert Path("tracks/night.flac.txt").read_text() == AUDACITY


def test_label_tracks_go_into_a_folder_unless_a_text_file_is_named(workshop: Workshop) -> None:
    words = ("predict", "heads.h5", "night.flac", "--timeline", "--audacity")
    Path("there").mkdir()
    for target in ("there", "new"):
        succeed(*words, target)
        assert [file.name for file in Path(target).iterdir()] == ["night.flac.txt"]
    assert "--audacity heads.h5: is no folder; name one, or" in fail(*words, "heads.h5")
    shutil.copy("night.flac", "day.flac")
    several = ("predict", "heads.h5", "day.flac", *words[2:])
    assert "--audacity x.txt: is one file, for 2 recordings; name a folder" in fail(*several, "x.txt")
    assert not Path("x.txt").exists()
