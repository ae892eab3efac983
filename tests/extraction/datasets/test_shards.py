"""Clips inside Parquet, Arrow and tar shards, made here as the libraries that write them do."""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import succeed
from samples import upload, write_tone

from palm_cache.errors import DataError, ParameterError
from palm_cache.extraction.datasets.members import members_waste
from palm_cache.extraction.datasets.registry import check_dataset, read_dataset
from palm_cache.params import ReadingParams
from palm_cache.store.prune import remove_waste
from palm_cache.types import ClipTable

NAMES = ["robin", "wren"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def sounds(tmp_path: Path) -> list[tuple[str, bytes, int]]:
    """Name, bytes and class of six clips in two containers."""
    made = []
    for number in range(6):
        file = tmp_path / "made" / f"{number}.{'flac' if number % 2 else 'wav'}"
        write_tone(file, 300 + 40 * number, seconds=0.2, seed=number)
        made.append((file.name, file.read_bytes(), number % 2))
    return made


Sounds = list[tuple[str, bytes, int]]


def audio_table(sounds: Sounds, *, named: bool = True) -> pa.Table:
    """A table as the ``datasets`` library lays it out."""
    features = {
        "audio": {"_type": "Audio"},
        "label": {"_type": "ClassLabel", "names": NAMES},
        "speaker": {"dtype": "string", "_type": "Value"},
    }
    rows = {
        "audio": pa.array(
            [{"bytes": content, "path": name if named else None} for name, content, _ in sounds],
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        ),
        "label": pa.array([label for _, _, label in sounds], pa.int64()),
        "speaker": [f"s{number // 2}" for number in range(len(sounds))],
    }
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.table(rows).replace_schema_metadata(metadata)


def write_hub_shards(root: Path, sounds: Sounds) -> None:
    (root / "data").mkdir(parents=True)
    for number in (0, 1):
        part = audio_table(sounds[3 * number : 3 * number + 3], named=number == 0)
        pq.write_table(part, root / "data" / f"train-0000{number}-of-00002.parquet")
    (root / "README.md").write_text("x")


def write_saved(root: Path, sounds: Sounds, stream: bool = True) -> None:
    root.mkdir(parents=True)
    table = audio_table(sounds)
    with pa.OSFile(str(root / "data-00000-of-00001.arrow"), "wb") as file:
        writer = (pa.ipc.new_stream if stream else pa.ipc.new_file)(file, table.schema)
        with writer:
            writer.write_table(table)
    (root / "state.json").write_text("{}")
    (root / "dataset_info.json").write_text("{}")
    (root / "cache-0123.arrow").write_bytes(b"an intermediate result")


def write_arrow_file(root: Path, sounds: Sounds) -> None:
    write_saved(root, sounds, stream=False)


def write_tars(root: Path, sounds: Sounds) -> None:
    root.mkdir(parents=True)
    for shard in (0, 1):
        with tarfile.open(root / f"sounds-{shard:06}.tar", "w") as archive:
            for name, content, label in sounds[3 * shard : 3 * shard + 3]:
                stem, _, extension = name.partition(".")
                more = {"label": NAMES[label], "speaker": "s"}
                add(archive, f"./{stem}.{extension.upper()}", content)
                add(archive, f"./._{stem}.{extension}", b"x")
                add(archive, f"./{stem}.json", json.dumps(more).encode())


def write_tars_with_classes(root: Path, sounds: Sounds) -> None:
    root.mkdir(parents=True)
    with tarfile.open(root / "sounds.tar.gz", "w:gz") as archive:
        for name, content, label in sounds:
            add(archive, f"x/{name}", content)
            add(archive, f"x/{name.partition('.')[0]}.cls", f"{NAMES[label]}\n".encode())
            add(archive, f"x/{name.partition('.')[0]}.txt", b"a caption")


def write_tar_by_kinds(root: Path, sounds: Sounds) -> None:
    """As ``tar cf sounds.tar *.cls *.wav *.json`` does."""
    root.mkdir(parents=True)
    with tarfile.open(root / "sounds.tar", "w") as archive:
        for name, _, label in sounds[:3]:
            add(archive, f"{name.partition('.')[0]}.cls", NAMES[label].encode())
        for name, content, _ in sounds:
            add(archive, name, content)
        for name, _, label in sounds:
            told = {"label": NAMES[label] if int(name[0]) > 2 else "a number", "speaker": name}
            add(archive, f"{name.partition('.')[0]}.json", json.dumps(told).encode())


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def contents(table: ClipTable) -> set[tuple[bytes, str | None]]:
    return {(clip.file.read_bytes(), table.class_of(clip)) for clip in table.clips}


every_container = pytest.mark.parametrize(
    ("write", "told"),
    [
        (write_hub_shards, "read as 2 shards with audio inside (path=path,label=label)"),
        (write_saved, "read as 1 shard with audio inside (path=path,label=label)"),
        (write_arrow_file, "read as 1 shard with audio inside (path=path,label=label)"),
        (write_tars, "read as 2 shards with audio inside (path=path,label=label)"),
        (write_tars_with_classes, "read as 1 shard with audio inside (path=path,label=label)"),
        (write_tar_by_kinds, "read as 1 shard with audio inside (path=path,label=label)"),
    ],
)


@every_container
def test_clips_come_out_byte_for_byte_with_their_classes(
    write: Callable[[Path, Sounds], None], told: str, tmp_path: Path, sounds: Sounds, cache: Path
) -> None:
    root = tmp_path / "birds"
    write(root, sounds)
    table = read_dataset(str(root))
    assert contents(table) == {(content, NAMES[label]) for _, content, label in sounds}
    assert table.notes[0] == told
    assert table.source == str(root)
    assert {clip.file.suffix.lower() for clip in table.clips} == {".wav", ".flac"}
    assert any(f"unpacked into {cache}/palm-cache/members/" in note for note in table.notes)
    assert all("/" in clip.name and not clip.name.startswith("/") for clip in table.clips)


@every_container
def test_a_container_is_unpacked_once_and_again_when_it_has_changed(
    write: Callable[[Path, Sounds], None], told: str, tmp_path: Path, sounds: Sounds
) -> None:
    root = tmp_path / "birds"
    write(root, sounds)
    first = read_dataset(str(root))
    again = read_dataset(str(root))
    assert [clip.file for clip in again.clips] == [clip.file for clip in first.clips]
    assert not any("unpacked into" in note for note in again.notes)
    for file in [*root.rglob("*.*")]:
        if file.is_file():
            file.unlink()
    write(tmp_path / "other", sounds[:5])
    for file in (tmp_path / "other").rglob("*.*"):
        if file.is_file():
            file.rename(root / file.relative_to(tmp_path / "other"))
    assert contents(read_dataset(str(root))) == {(content, NAMES[label]) for _, content, label in sounds[:5]}


def test_a_split_and_a_group_are_taken_from_the_shards(tmp_path: Path, sounds: Sounds) -> None:
    root = tmp_path / "birds"
    write_hub_shards(root, sounds)
    data = root / "data"
    (data / "train-00001-of-00002.parquet").rename(data / "test-00000-of-00001.parquet")
    (fold,) = read_dataset(str(root)).folds
    assert (len(fold.train), len(fold.test)) == (3, 3)
    grouped = read_dataset(str(root), reading=ReadingParams(group="speaker", test="none"))
    assert tuple(grouped.groups or ()) == ("s0", "s0", "s1") * 2


@pytest.mark.parametrize("named", [{}, {"slice_file_name": "x.wav"}], ids=["AudioCaps", "UrbanSound8K"])
def test_times_of_what_clips_of_a_shard_were_cut_from_are_not_theirs(
    named: dict[str, str], tmp_path: Path, sounds: Sounds
) -> None:
    rows = [
        {"audio": {"bytes": content, "path": None}, "class": "siren", "start": 0.05, "end": 0.1, **named}
        for _, content, _ in sounds
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train-00000-of-00001.parquet")
    table = read_dataset(str(tmp_path))
    assert [(clip.start, clip.end) for clip in table.clips] == [(0.0, None)] * len(sounds)
    assert any(note.startswith("columns not used: ") and "start, end" in note for note in table.notes)
    asked = read_dataset(str(tmp_path), reading=ReadingParams(columns=("start=start",)))
    assert [(clip.start, clip.end) for clip in asked.clips] == [(0.05, 0.1)] * len(sounds)


def test_a_shard_that_is_called_by_a_class_is_no_part_of_a_split(tmp_path: Path, sounds: Sounds) -> None:
    for vehicle in ("train", "car"):
        rows = [{"audio": {"bytes": content, "path": None}, "class": vehicle} for _, content, _ in sounds]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"vehicles-{vehicle}-0.parquet")
    folds = read_dataset(str(tmp_path)).folds
    assert {len(fold.train) + len(fold.test) for fold in folds} == {2 * len(sounds)}


def test_a_sound_beside_more_shards_is_not_the_dataset(tmp_path: Path, sounds: Sounds) -> None:
    write_tars(tmp_path / "birds", sounds)
    (tmp_path / "birds" / "preview.wav").write_bytes(b"x")
    table = read_dataset(str(tmp_path / "birds"))
    assert len(table.clips) == len(sounds)
    assert "not read, as it lies beside shards: preview.wav" in table.notes


def test_one_shard_may_be_the_dataset(tmp_path: Path, sounds: Sounds) -> None:
    write_tars(tmp_path / "birds", sounds)
    table = read_dataset(str(tmp_path / "birds" / "sounds-000001.tar"))
    assert table.dataset == "sounds-000001"
    assert contents(table) == {(content, NAMES[label]) for _, content, label in sounds[3:]}


def test_samples_of_one_name_stay_two_and_of_two_sounds_of_one_the_first_counts(
    tmp_path: Path, sounds: Sounds
) -> None:
    (tmp_path / "birds").mkdir()
    with tarfile.open(tmp_path / "birds" / "x.tar", "w") as archive:
        for _, content, label in sounds[:2]:
            add(archive, "a.wav", content)
            add(archive, "a.cls", NAMES[label].encode())
        add(archive, "a.flac", sounds[2][1])
    table = read_dataset(str(tmp_path / "birds"))
    assert contents(table) == {(content, NAMES[label]) for _, content, label in sounds[:2]}


def test_names_inside_a_container_lead_nowhere(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "birds").mkdir()
    write_tone(tmp_path / "x.wav", 300, seconds=0.1)
    with tarfile.open(tmp_path / "birds" / "x.tar", "w") as archive:
        for name in ("../../../../escaped.wav", "/tmp/absolute.wav", "a\\..\\b.wav", "new\nline.wav"):
            add(archive, name, (tmp_path / "x.wav").read_bytes())
        link = tarfile.TarInfo("link.wav")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    table = read_dataset(str(tmp_path / "birds"))
    assert [Path(clip.name).name for clip in table.clips] == [
        *("000000-escaped.wav", "000001-absolute.wav", "000002-b.wav", "000003-new_line.wav")
    ]
    assert all(cache in clip.file.parents and not clip.file.is_symlink() for clip in table.clips)


@pytest.mark.parametrize("kind", ["parquet", "tar", "arrow"])
def test_a_container_that_is_cut_off_is_named_and_nothing_of_it_stays(
    kind: str, tmp_path: Path, sounds: Sounds, cache: Path
) -> None:
    root = tmp_path / "birds"
    write = {"parquet": write_hub_shards, "tar": write_tars, "arrow": write_saved}[kind]
    write(root, sounds)
    file = sorted(root.rglob(f"[dst]*[0-9].{kind}"))[0]
    whole = file.read_bytes()
    for kept in (len(whole) // 2, len(whole) // 2 // 512 * 512, 100):
        file.write_bytes(whole[:kept])
        with pytest.raises(DataError, match=rf"{file.name}: damaged: .*get it again"):
            read_dataset(str(root))
    assert not list(cache.rglob("*.wav"))
    file.write_bytes(whole)
    assert len(read_dataset(str(root)).clips) == 6


def test_what_a_killed_process_left_of_unpacking_goes_with_the_next_unpacking(
    tmp_path: Path, sounds: Sounds, cache: Path
) -> None:
    write_tars(tmp_path / "birds", sounds)
    code = (
        "import os, signal, sys; from palm_cache.extraction.datasets import members, registry\n"
        "members.json.dumps = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "registry.read_dataset(sys.argv[1])\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "birds")], check=False)
    assert killed.returncode == -signal.SIGKILL
    (unpacked,) = (cache / "palm-cache" / "members").iterdir()
    assert len([*unpacked.rglob("*.WAV")]) == 2
    read_dataset(str(tmp_path / "birds"))
    assert {file.name for file in unpacked.iterdir()} == {".source", "sounds-000000", "sounds-000001"}


def test_a_dataset_saved_with_paths_only_says_how_to_save_it(tmp_path: Path, sounds: Sounds) -> None:
    write_saved(tmp_path / "birds", [(name, b"", label) for name, _, label in sounds])
    with pytest.raises(DataError, match=r"row 1: no audio, only its path '0\.wav'; .*embed_external_files"):
        read_dataset(str(tmp_path / "birds"))


def test_without_pyarrow_parquet_says_what_to_install(
    tmp_path: Path, sounds: Sounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_hub_shards(tmp_path / "birds", sounds)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(ParameterError, match=r"needs pyarrow: pip install 'palm-cache\[parquet\]'"):
        read_dataset(str(tmp_path / "birds"))


def test_shards_in_a_bucket_are_read_like_those_on_a_disk(
    bucket: str, tmp_path: Path, sounds: Sounds
) -> None:
    for name, write in (("hub", write_hub_shards), ("tars", write_tars)):
        write(tmp_path / name, sounds)
        upload(tmp_path / name, f"{bucket}/{name}")
        check = check_dataset(f"{bucket}/{name}")
        assert check.sound
        assert contents(check.table) == {(content, NAMES[label]) for _, content, label in sounds}
        assert not any("unpacked" in note for note in read_dataset(f"{bucket}/{name}").notes)


def test_what_was_unpacked_of_a_dataset_that_is_gone_can_be_pruned(
    tmp_path: Path, cache: Path, sounds: Sounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mine/birds", "mine/others", "drive/birds"):
        write_tars(tmp_path / name, sounds)
        read_dataset(str(tmp_path / name))
    assert members_waste(tmp_path) == []
    shutil.rmtree(tmp_path / "mine" / "birds")
    (tmp_path / "drive").rename(tmp_path / "unmounted")
    (waste,) = members_waste(tmp_path / "mine")
    assert str(tmp_path / "mine" / "birds") in waste.why
    monkeypatch.chdir(tmp_path / "mine")
    assert members_waste(Path()) == [waste]
    assert len(members_waste(tmp_path)) == 2
    remove_waste(waste)
    assert members_waste(tmp_path / "mine") == []
    (tmp_path / "unmounted").rename(tmp_path / "drive")
    for name in ("mine/others", "drive/birds"):
        table = read_dataset(str(tmp_path / name))
        assert not any("unpacked into" in note for note in table.notes)
        assert all(clip.file.exists() for clip in table.clips)
    assert len(list((cache / "palm-cache" / "members").iterdir())) == 2


def test_prune_leaves_what_was_unpacked_of_another_projects_dataset_unless_it_is_named(
    tmp_path: Path, sounds: Sounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tars(tmp_path / "drive" / "birds", sounds)
    read_dataset(str(tmp_path / "drive" / "birds"))
    (tmp_path / "drive").rename(tmp_path / "unmounted")
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    assert "nothing to remove" in succeed("cache", "prune", "--yes").stdout
    named = ("--unpacked-of", str(tmp_path / "drive"))
    assert "1 removed" in succeed("cache", "prune", "--yes", *named).stdout
