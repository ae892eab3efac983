from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import h5py
import pytest
import soundfile
from command_line import call, fail, succeed
from samples import RATE, write_tone
from workshop import Workshop

from palm_cache.prediction import timeline
from palm_cache.store.heads import read_head, read_heads, read_runs
from palm_cache.store.run_names import run_name


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two clips, one of each class, and a file that is none."""
    monkeypatch.chdir(tmp_path)
    write_tone(Path("clips/high.wav"), 607, seconds=0.6, seed=100)
    write_tone(Path("clips/low.flac"), 207, seconds=0.6)
    Path("clips/page.wav").write_text("<html>")
    return tmp_path


@pytest.fixture
def heads(workshop: Workshop) -> str:
    return str(workshop.heads)


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_a_table_names_what_is_heard_and_what_is_not(heads: str) -> None:
    result = call("predict", heads, "clips", "absent.wav", "--top", "2")
    assert result.exit_code == 3
    heading, rule, *lines = result.stdout.splitlines()
    assert heading.split() == ["path", "label", "probability"]
    assert set(rule) == {"─", " "}
    assert [line.split()[:-2] for line in lines] == [
        ["clips/high.wav", "high", "tone"],
        ["low", "tone"],
        ["clips/low.flac", "low", "tone"],
        ["high", "tone"],
    ]
    assert all(line.endswith(" %") for line in lines)
    assert "failed clips/page.wav: cannot be decoded: format not recognised" in result.stderr
    assert "failed absent.wav: no such file" in result.stderr
    assert "2 of 4 inputs failed" in result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminal")
def test_on_a_terminal_every_row_has_lines_of_its_own_above_the_bar(heads: str, folder: Path) -> None:
    for number in range(6):
        shutil.copy("clips/high.wav", f"clips/high {number}.wav")
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", "from palm_cache.cli import app; app()", "predict", heads, "clips"],
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    printed = b""
    with suppress(OSError):  # which is how its end is told
        while piece := os.read(ours, 4096):
            printed += piece
    os.close(ours)
    assert process.wait() == 3
    erase = "\x1b[2K"
    rows = [line.rpartition(erase)[2] for line in printed.decode().splitlines() if "high tone" in line]
    assert len(rows) == 7
    assert all(row.startswith("clips/high") for row in rows), rows
    (failure,) = [line.rpartition(erase)[2] for line in printed.decode().splitlines() if "page.wav" in line]
    assert re.sub(r"\x1b\[[0-9;]*m", "", failure).startswith("failed clips/page.wav")


def test_without_failures_it_exits_with_0(heads: str) -> None:
    assert "failed" not in succeed("predict", heads, "clips/low.flac").stderr


def test_it_says_which_run_was_taken_and_what_its_probabilities_are_worth(heads: str) -> None:
    said = succeed("predict", heads, "clips/low.flac").stderr
    why = "of the heads calibrated on its shots, the one with the least held-out loss"
    reason = f"one of 7 runs (another: --run): {why}; probabilities are calibrated"
    assert f"note: palm@epochs=20-4shots-fold1-seed0, {reason}\n" in said
    said = succeed("predict", heads, "clips/low.flac", "--run", "coop").stderr
    assert (
        "note: coop@epochs=20-4shots-fold1-seed0; probabilities are not calibrated: palm-cache calibrate"
        in said
    )
    said = succeed("predict", heads, "clips/low.flac", "--run", "zero-shot").stderr
    assert "not calibrated: it learned from no shots that could be held out" in said


def test_a_run_of_one_shot_is_not_said_to_want_a_calibration(workshop: Workshop) -> None:
    """The command that it was told to run could only fail."""
    words = ("--shots", "1", "--seeds", "0", "--head", "prototype", "--no-evaluate")
    succeed("fit", "--store", str(workshop.store), *words)
    said = succeed("predict", "runs/Tones/mini", "--store", str(workshop.store)).stderr
    assert "not calibrated: it learned from no shots that could be held out" in said


def test_a_folder_stands_for_the_heads_in_it(heads: str) -> None:
    assert "high tone" in succeed("predict", str(Path(heads).parent), "clips/high.wav").stdout


def test_json_is_one_document_with_failures_in_it(heads: str) -> None:
    result = call("predict", heads, "clips", "--json", "--top", "2", "--threshold", "0.2")
    assert result.exit_code == 3
    document = json.loads(result.stdout)
    assert document["run"] == "palm@epochs=20-4shots-fold1-seed0"
    assert document["classes"] == ["high tone", "low tone"]
    assert document["calibration"]["n_clips"] == 8
    high, low, page = document["results"]
    assert (high["path"], high["label"]) == ("clips/high.wav", "high tone")
    assert low["label"] == "low tone"
    assert [one["label"] for one in high["top"]] == ["high tone", "low tone"]
    assert high["probability"] == high["top"][0]["probability"]
    assert sum(one["probability"] for one in high["top"]) == pytest.approx(1)
    assert page == {"path": "clips/page.wav", "error": "cannot be decoded: format not recognised"}
    empty = json.loads(call("predict", heads, "-", "--json").stdout)
    assert empty["results"] == [{"path": "-", "error": "no paths on standard input"}]


def test_csv_has_a_row_for_every_input(heads: str) -> None:
    printed = call("predict", heads, "clips", "--csv", "-").stdout
    rows = rows_of(printed)
    assert [row["label"] for row in rows] == ["high tone", "low tone", ""]
    assert [row["error"] for row in rows] == ["", "", "cannot be decoded: format not recognised"]
    assert all(0.5 < float(row["probability"]) <= 1 for row in rows[:2])
    written = call("predict", heads, "clips", "--csv", "new/answers.csv")
    assert written.stdout == "3 rows -> new/answers.csv (1 without an answer)\n"
    assert Path("new/answers.csv").read_text() == printed


def test_below_the_threshold_it_is_none_of_these(heads: str) -> None:
    words = ("predict", heads, "clips/low.flac", "--top", "2", "--threshold", "1")
    assert "none of these" in succeed(*words).stdout
    (row,) = rows_of(succeed(*words, "--csv", "-").stdout)
    assert (row["label"], row["label_2"]) == ("none of these", "low tone")
    assert (row["probability"], float(row["probability_2"]) > 0.5) == ("", True)
    (result,) = json.loads(succeed(*words, "--json").stdout)["results"]
    assert (result["label"], result["probability"]) == (None, None)
    assert result["top"][0]["label"] == "low tone"


def test_paths_come_from_standard_input(heads: str) -> None:
    for listed in (b"clips/low.flac\nclips/high.wav\n", b"clips/low.flac\0clips/high.wav\0"):
        printed = succeed("predict", heads, "-", "--csv", "-", stdin=listed).stdout
        assert [row["path"] for row in rows_of(printed)] == ["clips/low.flac", "clips/high.wav"]
    assert "standard input holds audio" in fail("predict", heads, "-", stdin=b"RIFF....WAVE")


def test_rows_go_to_stdout_while_a_bar_stands_on_stderr(heads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes stderr for a terminal
    result = succeed("predict", heads, "clips/low.flac", "--csv", "-")
    assert [row["path"] for row in rows_of(result.stdout)] == ["clips/low.flac"]
    assert "predicting" in result.stderr


def write_recording() -> None:
    """Five seconds low, three of silence, five high; by a low tone's standards."""
    parts = []
    for number, frequency in enumerate((207, 607)):
        write_tone(Path(f"{number}.wav"), frequency, seconds=5, seed=100 * number)
        parts.append(soundfile.read(f"{number}.wav")[0])
    with soundfile.SoundFile("night.flac", "w", RATE, 1) as sound:
        sound.write(parts[0])
        sound.write(0 * parts[0][: 3 * RATE])
        sound.write(parts[1])


def test_a_recording_becomes_a_timeline_and_a_label_track(heads: str) -> None:
    write_recording()
    words = ("predict", heads, "night.flac", "--timeline", "--window", "1")
    result = succeed(*words, "--csv", "-", "--audacity", "labels/night.txt")
    assert "labels of 1 recording -> labels/night.txt" in result.stderr
    rows = rows_of(result.stdout)
    assert [(row["start"], row["end"], row["label"]) for row in rows] == [
        ("0.0", "5.0", "low tone"),
        ("5.0", "8.0", "silence"),
        ("8.0", "13.0", "high tone"),
    ]
    tracks = Path("labels/night.txt").read_text().splitlines()
    assert tracks == ["0.000000\t5.000000\tlow tone\t", "8.000000\t13.000000\thigh tone\t"]
    table = succeed(*words).stdout.splitlines()
    assert table[2].split()[:5] == ["night.flac", "0:00:00.0", "0:00:05.0", "low", "tone"]
    results = json.loads(succeed(*words, "--no-merge", "--json").stdout)["results"]
    assert [result["start"] for result in results] == list(range(13))
    assert [result.get("silent", False) for result in results] == [False] * 5 + [True] * 3 + [False] * 5


def test_only_recordings_that_were_heard_have_a_label_track(heads: str) -> None:
    words = ("--timeline", "--audacity", "labels")
    said = call("predict", heads, "clips/page.wav", *words).stderr
    assert ("1 of 1 input failed" in said, "labels of" in said) == (True, False)
    assert not Path("labels").exists()
    said = call("predict", heads, "clips/page.wav", "clips/low.flac", *words).stderr
    assert "labels of 1 recording -> labels" in said
    assert [file.name for file in Path("labels").iterdir()] == ["low.flac.txt"]


def test_a_stretch_below_the_threshold_has_no_label_in_a_track(heads: str) -> None:
    write_recording()
    words = ("predict", heads, "night.flac", "--timeline", "--threshold", "1", "--audacity", "night.txt")
    assert "none of these" in succeed(*words).stdout
    assert Path("night.txt").read_text() == ""


def test_what_the_downmix_does_is_said_in_one_line_for_all_files(heads: str) -> None:
    sound, rate = soundfile.read("clips/low.flac", always_2d=True)
    Path("phases").mkdir()
    for number in range(3):
        soundfile.write(f"phases/{number}.wav", sound[:, :1] * [1, -1], rate)
    for words in ((), ("--timeline",)):
        said = succeed("predict", heads, "phases", *words).stderr
        (line,) = [line for line in said.splitlines() if "cancel" in line]
        assert line.startswith(
            "note: phases/0.wav and 2 more: the channels cancel each other; only channel 1"
        )


def test_a_file_that_is_longer_than_the_encoder_reads_is_told_of(heads: str) -> None:
    write_recording()
    result = succeed("predict", heads, "night.flac", "clips/low.flac")
    assert "note: night.flac: lasts longer than the 12 s that mini reads at once: only" in result.stderr
    assert "--timeline hears everything" in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("--window", "1"),
        ("--hop", "1"),
        ("--audacity", "x.txt"),
        ("--csv", "-", "--json"),
        ("--threshold", "1.5"),
        ("--top", "0"),
    ],
)
def test_wrong_usage_exits_with_2(heads: str, words: tuple[str, ...]) -> None:
    assert call("predict", heads, "clips", *words).exit_code == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--run", "plam"), "unknown run 'plam'; did you mean palm?"),
        (("--encoder", "minni"), "unknown encoder 'minni'; did you mean mini?"),
        (("--timeline", "--window", "13"), "--window 13 s: mini reads at most 12 s at once"),
        (("--timeline", "--hop", "3"), "--hop 3 s: choose one above 0 and up to the window of 2 s"),
        (("--csv", "clips/low.flac/x.csv"), "cannot write: "),
    ],
)
def test_mistakes_are_told_in_one_line(heads: str, words: tuple[str, ...], message: str) -> None:
    assert message in fail("predict", heads, "clips", *words)


def test_an_option_that_is_missing_is_told_in_one_line_with_its_choices(heads: str) -> None:
    result = call("export", heads)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == "Error: Missing option '--to'. Choose from: safetensors, onnx"


def test_heads_that_are_not_there_are_named() -> None:
    assert "nowhere/heads.h5: no heads here; fit some" in fail("predict", "nowhere/heads.h5", "clips")
    assert "no heads here; fit some" in fail("export", "nowhere", "--to", "onnx")
    assert "no heads here; fit some" in fail("calibrate", "nowhere")


def test_heads_of_another_encoder_are_refused(heads: str) -> None:
    shutil.copy(heads, "heads.h5")
    with h5py.File("heads.h5", "r+") as file:
        identity = json.loads(file.attrs["identity"]) | {"weights_sha256": "0" * 64}
        file.attrs["identity"] = json.dumps(identity)
        file["palm@epochs=20-4shots-fold1-seed0"].attrs["fingerprint"] = "0" * 64
        file.attrs["format_version"] = 1  # without checksums
    message = fail("predict", "heads.h5", "clips")
    assert "encoder mini: other weights than those that heads.h5 was fitted on (fingerprint " in message
    assert "wanted 000000000000); give the ones it was fitted on with --encoder" in message


def test_ctrl_c_leaves_a_whole_document_of_what_was_done(heads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_recording()
    cut_windows = timeline.cut_windows
    seen = []

    def interrupted(*window: object) -> object:
        seen.append(window)
        if len(seen) > 3:
            raise KeyboardInterrupt
        return cut_windows(*window)

    monkeypatch.setattr(timeline, "cut_windows", interrupted)
    words = ("--timeline", "--window", "1", "--no-merge", "--batch-size", "1")
    result = call("predict", heads, "night.flac", *words, "--json", "--audacity", "night.txt")
    assert result.exit_code == 130
    assert "interrupted: what was printed or written stands" in result.stderr
    results = json.loads(result.stdout)["results"]
    assert [one["start"] for one in results] == [0, 1]  # where the third ends, the fourth would have told
    assert len(Path("night.txt").read_text().splitlines()) == 2


def test_calibrate_fits_the_temperature_of_the_runs_that_are_asked_for(workshop: Workshop) -> None:
    shutil.copy(workshop.heads, "heads.h5")
    printed = succeed("calibrate", "heads.h5", "--run", "coop").stdout
    assert "coop@epochs=20-4shots-fold1-seed0" in printed
    done = json.loads(succeed("calibrate", "heads.h5", "--all", "--json").stdout)
    heads = {run_name(head.run): head for head in read_heads(Path("heads.h5"))[0]}
    assert set(done) == set(heads) - {"zero-shot-0shots-fold1-seed0"}
    for name, calibration in done.items():
        assert heads[name].calibration.temperature == calibration["temperature"]
    assert "Tones: no shots to hold out" in fail("calibrate", "heads.h5", "--run", "zero-shot")
    moved = fail("calibrate", "heads.h5", "--store", "elsewhere.zarr")
    assert "elsewhere.zarr: no feature store here" in moved


def test_fit_calibrates_what_predict_takes_first(workshop: Workshop) -> None:
    words = ("fit", "--store", str(workshop.store), "--shots", "2,4", "--seeds", "0,1", "--epochs", "2")
    succeed(*words, "--head", "palm,zero-shot,coop", "--no-evaluate")
    path = Path("runs/Tones/mini/heads.h5")
    calibrated = [run for run in read_runs(path) if read_head(path, run)[0].calibration]
    assert [run_name(run) for run in calibrated] == ["palm@epochs=2-4shots-fold1-seed0"]
    succeed(*words, "--head", "palm", "--no-evaluate", "--no-calibrate", "--out", "other")
    assert not any(head.calibration for head in read_heads(Path("other/Tones/mini/heads.h5"))[0])


def test_export_says_what_it_wrote(heads: str) -> None:
    result = succeed("export", heads, "--to", "safetensors", "--run", "coop", "--out", "coop.st")
    assert result.stdout == "coop@epochs=20-4shots-fold1-seed0 -> coop.st, coop.st.json\n"
    written = json.loads(succeed("export", heads, "--to", "safetensors", "--out", "x.st", "--json").stdout)
    assert written["file"] == "x.st"
    assert written["card"] == json.loads(Path("x.st.json").read_text())
    assert "'cocoop' learns words" in fail("export", heads, "--to", "onnx", "--run", "cocoop", "--out", "x")
    assert call("export", heads, "--to", "pickle").exit_code == 2


def test_heads_are_not_listened_to_where_classes_are_named(heads: str, tmp_path: Path) -> None:
    shutil.copy(heads, tmp_path / "head.safetensors")
    for given in (heads, str(Path(heads).parent), "head.safetensors", "hf://me/city"):
        result = call("predict", given, "clips", "--classes", "low tone,high tone")
        assert result.exit_code == 2
        told = " ".join(result.stderr.split())
        assert f"--classes: goes without heads, and {given} holds some; give one of them" in told


def test_classes_that_cannot_be_told_apart_are_wrong_usage() -> None:
    for names in ("siren", "siren,siren", "siren,"):
        result = call("predict", "--classes", names, "clips")
        assert result.exit_code == 2
        assert "--classes: give two or more, each once" in result.stderr


def test_what_looks_like_an_address_and_is_none_says_how_one_is_written() -> None:
    assert "hf:me/city: write hf://user/name" in fail("predict", "hf:me/city", "clips")
