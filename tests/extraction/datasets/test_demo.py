from __future__ import annotations

import csv
import re
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

from palm_cache.errors import OutputError, ParameterError
from palm_cache.extraction.datasets import demo
from palm_cache.extraction.datasets.demo import synthesise
from palm_cache.extraction.datasets.published import read
from palm_cache.extraction.datasets.registry import require_card

CLASSES = (
    "air_conditioner",
    "car_horn",
    "children_playing",
    "dog_bark",
    "drilling",
    "engine_idling",
    "gun_shot",
    "jackhammer",
    "siren",
    "street_music",
)
COLUMNS = ["slice_file_name", "fsID", "start", "end", "salience", "fold", "classID", "class"]
CLIPS, FOLDS = 4, 2


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo") / "made"
    synthesise(root, clips_per_class=CLIPS, folds=FOLDS)
    return root


@pytest.fixture
def quiet_studio(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every clip a cheap one, where only the files matter."""
    monkeypatch.setattr(demo, "make_clip", lambda rng, class_name: rng.uniform(-1, 1, 50_000))


def metadata(root: Path) -> list[dict[str, str]]:
    with (root / "metadata" / "UrbanSound8K.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def contents(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}


def test_the_layout_is_the_published_one(made: Path) -> None:
    rows = metadata(made)
    assert list(rows[0]) == COLUMNS
    assert {(int(row["classID"]), row["class"]) for row in rows} == set(enumerate(CLASSES))
    for row in rows:
        parts = re.fullmatch(r"(\d+)-(\d+)-(\d+)-(\d+)\.wav", row["slice_file_name"])
        assert parts is not None
        assert parts[1] == row["fsID"]
        assert parts[2] == row["classID"]
    listed = {f"audio/fold{row['fold']}/{row['slice_file_name']}" for row in rows}
    assert len(listed) == len(rows) == CLIPS * len(CLASSES)
    assert set(contents(made)) == listed | {"metadata/UrbanSound8K.csv"}


def test_the_reader_of_the_real_dataset_reads_it(made: Path) -> None:
    table = read(require_card("demo"), made)
    assert table.dataset == "demo"
    assert table.class_names == tuple(name.replace("_", " ") for name in CLASSES)
    assert len(table.clips) == CLIPS * len(CLASSES)
    assert len(table.folds) == FOLDS
    assert not table.notes


def test_every_fold_has_as_many_clips_of_every_class(made: Path) -> None:
    counts = Counter((row["fold"], row["class"]) for row in metadata(made))
    assert set(counts.values()) == {CLIPS // FOLDS}
    assert len(counts) == FOLDS * len(CLASSES)


def test_a_recording_has_several_clips_of_one_class_in_one_fold(made: Path) -> None:
    recordings = defaultdict(list)
    for row in metadata(made):
        recordings[row["fsID"]].append(row)
    assert max(map(len, recordings.values())) > 1
    for rows in recordings.values():
        assert len({(row["fold"], row["class"]) for row in rows}) == 1
        spans = sorted((float(row["start"]), float(row["end"])) for row in rows)
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))


def test_every_clip_is_audible_16_bit_and_lasts_two_to_four_seconds(made: Path) -> None:
    for row in metadata(made):
        file = made / "audio" / f"fold{row['fold']}" / row["slice_file_name"]
        info = soundfile.info(file)
        assert (info.format, info.subtype) == ("WAV", "PCM_16")
        assert 2 <= info.duration <= 4
        assert float(row["end"]) - float(row["start"]) == pytest.approx(info.duration, abs=1e-4)
        waveform, _ = soundfile.read(file, always_2d=True)
        assert np.isfinite(waveform).all()
        assert (waveform.std(axis=0) > 1e-3).all()


def test_sample_rates_and_channels_are_mixed(made: Path) -> None:
    infos = [soundfile.info(file) for file in made.rglob("*.wav")]
    assert {info.samplerate for info in infos} == {22_050, 44_100}
    assert {info.channels for info in infos} == {1, 2}


def test_made_again_it_is_the_same_byte_for_byte(made: Path, tmp_path: Path) -> None:
    synthesise(tmp_path / "again", clips_per_class=CLIPS, folds=FOLDS)
    assert contents(tmp_path / "again") == contents(made)


@pytest.mark.usefixtures("quiet_studio")
def test_what_is_there_already_is_not_made_again_and_what_is_otherwise_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "demo"
    assert synthesise(root, clips_per_class=4, folds=2)
    before = {file: file.stat().st_mtime_ns for file in root.rglob("*.wav")}
    assert not synthesise(root, clips_per_class=4, folds=2)
    assert {file: file.stat().st_mtime_ns for file in root.rglob("*.wav")} == before
    for other in ({"seed": 1}, {"folds": 4}, {"clips_per_class": 5}):
        with pytest.raises(OutputError, match="something here already"):
            synthesise(root, **{"clips_per_class": 4, "folds": 2, **other})
    next(iter(before)).unlink()
    with pytest.raises(OutputError, match="something here already"):
        synthesise(root, clips_per_class=4, folds=2)


def test_a_clip_is_the_same_whatever_the_number_of_clips(made: Path, tmp_path: Path) -> None:
    synthesise(tmp_path / "fewer", clips_per_class=FOLDS, folds=FOLDS)
    fewer, more = contents(tmp_path / "fewer"), contents(made)
    table = "metadata/UrbanSound8K.csv"
    assert more.pop(table).startswith(fewer.pop(table))
    assert len(fewer) == FOLDS * len(CLASSES)
    assert fewer.items() <= more.items()


@pytest.mark.usefixtures("quiet_studio")
def test_another_seed_gives_other_sounds(tmp_path: Path) -> None:
    for seed in (0, 1):
        synthesise(tmp_path / str(seed), clips_per_class=2, folds=2, seed=seed)
    first, second = ({file.read_bytes() for file in (tmp_path / seed).rglob("*.wav")} for seed in "01")
    assert not first & second


@pytest.mark.usefixtures("quiet_studio")
def test_progress_counts_every_clip(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    synthesise(tmp_path / "demo", clips_per_class=2, folds=2, progress=lambda *call: calls.append(call))
    assert calls == [(done, 20) for done in range(1, 21)]


def test_a_folder_with_something_in_it_is_refused_and_left_alone(tmp_path: Path) -> None:
    root = tmp_path / "demo"
    root.mkdir()
    (root / "precious.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"something here already; remove it or choose another"):
        synthesise(root, clips_per_class=2, folds=2)
    assert contents(tmp_path) == {"demo/precious.txt": b"mine"}


@pytest.mark.usefixtures("quiet_studio")
def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    synthesise(tmp_path / "demo", clips_per_class=2, folds=2)
    assert len(metadata(tmp_path / "demo")) == 20


@pytest.mark.usefixtures("quiet_studio")
def test_interrupted_it_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesise(tmp_path / "demo", clips_per_class=2, folds=2, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_written_the_error_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"demo: cannot write: .*choose another folder"):
        synthesise(tmp_path / "file" / "demo", clips_per_class=2, folds=2)


@pytest.mark.parametrize("wrong", [{"folds": 1}, {"clips_per_class": 4}, {"seed": -1}])
def test_impossible_numbers_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(ParameterError, match="at least 2 folds"):
        synthesise(tmp_path / "demo", **wrong)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_goes_with_the_next_that_makes_the_same(tmp_path: Path) -> None:
    root, others = tmp_path / "demo", tmp_path / ".notes.partial"
    others.mkdir()
    code = (
        "import os, signal, sys; from palm_cache.extraction.datasets.demo import *\n"
        "def die(done, total):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "synthesise(Path(sys.argv[1]), clips_per_class=5, progress=die)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(root)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len([*tmp_path.iterdir()]) == 2
    assert synthesise(root, clips_per_class=5)
    assert {*tmp_path.iterdir()} == {root, others}
