from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import serve
from miniatures import write_miniature
from samples import upload, write_tone
from typer.testing import CliRunner, Result

from palm_cache.cli import app
from palm_cache.extraction.datasets.registry import CARDS


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*words: str) -> Result:
    result = CliRunner().invoke(app, list(words))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_the_list_says_what_is_here_and_where() -> None:
    write_miniature("ESC50", Path("data/raw/ESC50"))
    result = call("datasets")
    assert result.exit_code == 0
    lines = {line.split()[0]: line for line in result.stdout.splitlines() if line.strip()}
    assert {card.name for card in CARDS} < set(lines)
    assert lines["ESC50"].split()[1] == "data/raw/ESC50"
    assert lines["ESC50-Actions"].split()[1] == "data/raw/ESC50"
    assert lines["SESA"].split()[1] == "no"
    listed = {row["name"]: row for row in json.loads(call("datasets", "--json").stdout)}
    assert (listed["ESC50"]["here"], listed["ESC50"]["looked_for"]) == (True, "data/raw/ESC50")
    assert (listed["SESA"]["here"], listed["SESA"]["looked_for"]) == (False, "data/raw/SESA")
    assert (listed["SESA"]["clips"], listed["VocalSound"]["clips"]) == (585, None)


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_a_card_is_shown_whole(card) -> None:  # type: ignore[no-untyped-def]
    result = call("datasets", card.name.upper())
    assert result.exit_code == 0
    for part in (card.source, card.licence, card.size, card.how_to_get, ", ".join(card.class_names)):
        assert part in result.stdout
    assert all(f"    {line}\n" in result.stdout for line in (card.tree + card.bibtex).splitlines())
    shown = json.loads(call("datasets", card.name, "--json").stdout)
    assert shown["bibtex"] == card.bibtex
    assert shown["class_names"] == list(card.class_names)
    assert shown["test_clips"] == list(card.test_clips)
    assert shown["here"] is False


def test_a_broken_copy_is_named_file_by_file_with_exit_code_1() -> None:
    root = write_miniature("SESA", Path("data/raw/SESA"))
    (root / "audios" / "siren_007.wav").unlink()
    (root / "audios" / "casual_001.wav").write_bytes(b"")
    result = call("datasets", "--check", "sesa")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[:6] == [
        "SESA in data/raw/SESA: not as it should be; 8 clips, 2 classes, 1 fold",
        "  2 of 4 classes missing: explosion, gunshot",
        "  8 clips instead of 585",
        "  test clips: 4 instead of 105 in fold 1",
        "  missing or empty: audios/casual_001.wav",
        "  missing or empty: audios/siren_007.wav",
    ]
    told = json.loads(call("datasets", "--check", "sesa", "--json").stdout)
    assert told["sound"] is False
    assert told["missing"] == ["audios/casual_001.wav", "audios/siren_007.wav"]
    assert told["differences"][1] == "8 clips instead of 585"
    assert told["unreadable"] == {}  # what is empty is said once


def test_a_sound_copy_exits_with_0_and_long_lists_are_cut() -> None:
    root = write_miniature("UrbanSound8K", Path("elsewhere"))
    assert call("datasets", "--check", "us8k", "--root", "elsewhere").exit_code == 1
    write_miniature("SESA", Path("mine"))
    sound = call("datasets", "--check", "./mine")
    assert sound.exit_code == 0
    assert sound.stdout.splitlines() == [
        "mine in mine: OK; 8 clips, 2 classes, 1 fold",
        "  classes: casual (4), siren (4)",
        "  fold 1: 4 to train on, 4 to test on",
        "  length: 0.00 h in 8 files; 0.25 s to 0.25 s, half of them up to 0.25 s",
        "  rates: 16,000 Hz (8); 8 of 1 channel",
    ]
    for file in root.rglob("*.wav"):
        file.unlink()
    lines = call("datasets", "--check", "us8k", "--root", "elsewhere").stdout.splitlines()
    assert sum(line.startswith("  missing or empty: ") for line in lines) == 20
    assert "  and 20 more files; all of them with --json" in lines


def test_what_lies_in_the_files_is_told_before_anything_is_embedded() -> None:
    root = write_miniature("SESA", Path("mine"))
    audios = root / "audios"
    shutil.copy(audios / "casual_000.wav", audios / "siren_007.wav")
    (audios / "casual_001.wav").write_bytes(b"RIFF no more")
    (audios / "siren_006.wav").write_bytes((audios / "siren_006.wav").read_bytes()[:4000])
    table = root / "train.csv"
    table.write_text(table.read_text().replace("casual_001.wav,casual", "casual_001.wav,Casual"))
    result = call("datasets", "--check", "./mine")
    assert result.exit_code == 1
    assert "  classes: Casual (1), casual (3), siren (4)" in result.stdout
    assert "  cannot be read: audios/casual_001.wav: cannot be decoded: " in result.stdout
    assert "  cannot be read: audios/siren_006.wav: cut off: 3992 of 8036 bytes" in result.stdout
    assert "  the same content: audios/casual_000.wav, audios/siren_007.wav" in result.stdout
    assert "  1 sound bears several labels, e.g. audios/casual_000.wav: the same bytes in" in result.stdout
    assert "  test clips that are byte for byte also training clips: 1 of 4 in fold 1" in result.stdout
    assert "note: classes whose names hardly differ: 'Casual' (1), 'casual' (3)" in result.stderr
    told = json.loads(call("datasets", "--check", "./mine", "--json").stdout)
    assert told["clips_per_class"] == {"Casual": 1, "casual": 3, "siren": 4}
    assert (told["clips"], told["files"], told["unlabelled"]) == (8, 8, 0)
    assert told["seconds"] == {"total": 1.5, "shortest": 0.25, "median": 0.25, "longest": 0.25}
    assert (told["rates"], told["channels"]) == ({"16000": 6}, {"1": 6})
    assert list(told["unreadable"]) == ["audios/casual_001.wav", "audios/siren_006.wav"]
    assert told["sound"] is False
    assert told["duplicates"] == [["audios/casual_000.wav", "audios/siren_007.wav"]]


def test_rows_that_encoders_do_not_hear_whole_are_told() -> None:
    for name in ("wren/1.wav", "robin/1.wav"):
        write_tone(Path("birds", name), 300, seconds=12)
    told = "  2 rows are longer than 10.5 s, up to 12 s: an encoder that hears less embeds their centre alone"
    assert told in call("datasets", "--check", "birds").stdout
    assert "an encoder that hears less" not in call("datasets", "--check", "birds", "--window", "5").stdout


def test_the_root_may_be_a_url(bucket: str) -> None:
    root = write_miniature("SESA", Path("mine"))
    upload(root, f"{bucket}/x/SESA")
    told = json.loads(call("datasets", "--check", "sesa", "--root", f"{bucket}/x/SESA", "--json").stdout)
    assert (told["clips"], told["missing"], told["source"]) == (8, [], f"{bucket}/x/SESA")
    assert call("datasets", "sesa", "--root", f"{bucket}/x/SESA").stdout.splitlines()[2] == (
        f"  here: {bucket}/x/SESA"
    )


def test_how_a_folder_is_read_can_be_told() -> None:
    write_miniature("SESA", Path("mine"))
    both = json.loads(call("datasets", "--check", "mine", "--as", "table", "--json").stdout)
    assert "read as 2 tables, test.csv, train.csv (path=path,label=classname)" in both["notes"]
    assert both["folds"] == [{"train": 4, "test": 4}]
    told = json.loads(
        call(
            *("datasets", "--check", "mine/train.csv", "--columns", "path=path,label=classname", "--json"),
            *("--window", "0.1", "--hop", "0.05", "--test", "none"),
        ).stdout
    )
    assert told["dataset"] == "train"
    assert (told["files"], told["clips"], told["folds"]) == (4, 16, [{"train": 16, "test": 0}])


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (
            ("datasets", "esc51"),
            1,
            "error: unknown dataset (and no such folder) 'esc51'; did you mean ESC50?",
        ),
        (("datasets", "--check", "esc50"), 1, "error: ESC50 is not in data/raw/ESC50 (881 MB, CC BY-NC 3.0;"),
        (("datasets", "--check"), 2, "say which dataset"),
        (("datasets", "--root", "x"), 2, "say which dataset"),
        (("datasets", "--as", "flat"), 2, "say which dataset"),
        (("datasets", "esc50", "--as", "flat"), 2, "goes with --check"),
        (("datasets", "--check", ".", "--as", "flit"), 2, "'flit' is not one of"),
        (("datasets", "--check", ".", "--test", "some"), 2, "'some' is not one of"),
        (("datasets", "--check", ".", "--columns", "path"), 2, "--columns: 'path' is not field=column"),
        (("datasets", "--check", ".", "--columns", "pat=x"), 2, "'pat'; did you mean path?"),
        (("datasets", "--check", ".", "--hop", "2"), 2, "--hop: goes with --window"),
        (("datasets", "--check", "."), 1, "no audio (looked for .wav, .wave"),
        (("download", "demo"), 1, "error: demo is on no hub: make it with: palm-cache synthesise"),
        (
            ("download", "esc51"),
            1,
            "error: unknown dataset (and no such folder) 'esc51'; did you mean ESC50?",
        ),
        (("download",), 2, "Missing argument"),
    ],
)
def test_mistakes_are_told_with_the_next_step(words: tuple[str, ...], code: int, message: str) -> None:
    result = call(*words)
    assert result.exit_code == code
    assert result.stdout == ""
    assert message in result.stderr


def test_download_gets_a_dataset_from_the_hub_that_the_environment_names(workplace: Path) -> None:
    source = write_miniature("SESA", workplace / "source")
    files = {
        file.relative_to(source).as_posix(): file.read_bytes() for file in source.rglob("*") if file.is_file()
    }
    command = [sys.executable, "-c", "from palm_cache.cli import app; app()", "download", "sesa"]
    with serve({"MahiA/SESA": files}) as hub:
        environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(workplace / "cache")}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"8 clips -> data/raw/SESA (MahiA/SESA, revision {hub.revision[:12]})\n"
    said = done.stderr.splitlines()
    assert said[0].startswith(f"MahiA/SESA, revision {hub.revision[:12]}: 10 files, 1 MB, 1 MB of them")
    assert said[1] == "licence of SESA: CC BY 4.0; see https://zenodo.org/records/3519845"
    assert "note: 8 clips instead of 585" in said
    assert call("datasets", "--check", "sesa").exit_code == 1  # a miniature is not SESA
