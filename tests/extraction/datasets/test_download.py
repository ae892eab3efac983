"""Downloads from a small hub on loopback: whole, interrupted, damaged, packed."""

from __future__ import annotations

import io
import shutil
import zipfile
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hub_server import Hub, serve
from miniatures import write_miniature

from palm_cache.errors import DataError, OutputError, StoreError
from palm_cache.extraction.datasets import download as module
from palm_cache.extraction.datasets.download import RemoteCopy, download
from palm_cache.extraction.datasets.registry import read_dataset, require_card

Run = Callable[..., RemoteCopy]


def files_below(folder: Path) -> dict[str, bytes]:
    return {
        file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()
    }


@pytest.fixture
def sesa(tmp_path: Path) -> dict[str, bytes]:
    """The files of a miniature of SESA in the PALM layout."""
    return files_below(write_miniature("SESA", tmp_path / "source"))


@pytest.fixture
def packed(sesa: dict[str, bytes]) -> bytes:
    """The same, zipped as the authors zip theirs."""
    return zipped({f"SESA/{path}": content for path, content in sesa.items()})


def zipped(files: dict[str, bytes]) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        for path, content in files.items():
            opened.writestr(path, content)
    return archive.getvalue()


@pytest.fixture
def hub(sesa: dict[str, bytes]) -> Iterator[Hub]:
    with serve({"MahiA/SESA": {**sesa, ".gitattributes": b"*.wav lfs", "audios/.DS_Store": b"x"}}) as hub:
        yield hub


@pytest.fixture
def zip_hub(packed: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with an archive that counts as large; the client writes 5 kB at a time and never waits."""
    monkeypatch.setattr(module, "LARGE", 20_000)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 5000)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert len(packed) > 40_000
    with serve({"MahiA/SESA": {"SESA.zip": packed, "README.md": b"# SESA\n"}}) as hub:
        yield hub


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "raw" / "SESA"


@pytest.fixture
def run(root: Path) -> Run:
    def download_from(hub: Hub, **options: Any) -> RemoteCopy:
        return download(require_card("sesa"), root, endpoint=hub.endpoint, **options)

    return download_from


def test_a_whole_dataset_arrives_and_nothing_else_is_left(
    run: Run, hub: Hub, root: Path, sesa: dict[str, bytes]
) -> None:
    copy = run(hub)
    assert (copy.repository, copy.revision) == ("MahiA/SESA", hub.revision)
    assert copy.n_bytes == sum(map(len, sesa.values()))
    assert files_below(root) == sesa
    assert sorted(path.name for path in root.parent.iterdir()) == ["SESA"]
    assert len(read_dataset("SESA", root).clips) == 8


def test_size_and_licence_are_announced_before_the_first_file_is_asked_for(
    run: Run, hub: Hub, root: Path
) -> None:
    said: list[tuple[str, int]] = []
    run(hub, announce=lambda message: said.append((message, len(hub.requests))))
    assert said[0] == (
        f"MahiA/SESA, revision {hub.revision[:12]}: 10 files, 1 MB, 1 MB of them to download -> {root}",
        2,
    )
    assert said[1][0] == "licence of SESA: CC BY 4.0; see https://zenodo.org/records/3519845"
    assert said[1][1] == 2
    assert all("/resolve/" not in url for _, url, _ in hub.requests[:2])


def test_progress_ends_with_everything(run: Run, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palm_cache.extraction.datasets.unpack.MEGABYTE", 1000)
    told: list[tuple[str, int, int]] = []
    copy = run(hub, progress=lambda *what: told.append(what))
    total = -(-copy.n_bytes // 1000)
    assert told[-1] == ("downloading", total, total)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


def test_a_download_that_broke_off_goes_on_with_the_files_that_are_missing(
    run: Run, hub: Hub, root: Path, sesa: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    cut = {"audios/siren_002.wav", "audios/siren_006.wav"}
    hub.cut_at = {path: [10] * 20 for path in cut}
    with pytest.raises(DataError, match="the hub broke off"):
        run(hub)
    assert not root.exists()
    partial = root.with_name(".SESA.partial")
    kept = {path for path in sesa if (partial / path).exists()}
    assert kept
    assert not kept & cut
    hub.cut_at.clear()
    before = len(hub.requests)
    run(hub)
    assert files_below(root) == sesa
    again = [url for method, url, _ in hub.requests[before:] if method == "GET" and "/resolve/" in url]
    assert len(again) == len(sesa) - len(kept)


def test_a_large_file_whose_connection_is_cut_goes_on_where_it_stopped(
    run: Run, zip_hub: Hub, root: Path, sesa: dict[str, bytes]
) -> None:
    zip_hub.cut_at["SESA.zip"] = [22_000, 31_000]
    run(zip_hub)
    assert zip_hub.served("SESA.zip") == ["", "bytes=20000-", "bytes=30000-"]
    assert files_below(root) == {**sesa, "README.md": b"# SESA\n"}


def test_a_large_file_that_was_interrupted_goes_on_in_the_next_run(
    run: Run, zip_hub: Hub, root: Path, sesa: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("palm_cache.extraction.datasets.unpack.MEGABYTE", 1000)

    def interrupt(what: str, done: int, total: int) -> None:
        if done >= 25:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(zip_hub, progress=interrupt)
    said: list[str] = []
    told: list[int] = []
    run(zip_hub, announce=said.append, progress=lambda what, done, total: told.append(done))
    assert zip_hub.served("SESA.zip") == ["", "bytes=20000-"]
    total = -(-sum(map(len, zip_hub.datasets["MahiA/SESA"].values())) // 1000)
    assert f"{total} MB, {total - 20} MB of them to download" in said[0]
    assert told[0] >= 25
    assert files_below(root) == {**sesa, "README.md": b"# SESA\n"}


def test_a_hub_that_keeps_breaking_off_is_said_in_one_line_and_what_arrived_is_kept(
    run: Run, zip_hub: Hub, root: Path
) -> None:
    zip_hub.cut_at["SESA.zip"] = [12_000] * 20
    with pytest.raises(DataError) as caught:
        run(zip_hub)
    message = str(caught.value)
    assert message.startswith("MahiA/SESA: the hub broke off (")
    assert message.endswith("what has arrived is kept: run the same command again to resume")
    assert "\n" not in message
    zip_hub.cut_at.clear()
    run(zip_hub)
    assert zip_hub.served("SESA.zip")[-1] == "bytes=10000-"
    assert len(read_dataset("SESA", root).clips) == 8


def test_a_file_of_another_revision_is_not_gone_on_with(
    run: Run, zip_hub: Hub, root: Path, packed: bytes
) -> None:
    zip_hub.cut_at["SESA.zip"] = [12_000] * 20
    with pytest.raises(DataError, match="broke off"):
        run(zip_hub)
    zip_hub.cut_at.clear()
    zip_hub.revision = "f" * 40
    run(zip_hub)
    assert zip_hub.served("SESA.zip")[-1] == ""
    assert len(read_dataset("SESA", root).clips) == 8


def test_a_file_that_arrives_damaged_is_removed_and_fetched_anew(
    run: Run, hub: Hub, root: Path, sesa: dict[str, bytes]
) -> None:
    wrong = "audios/casual_000.wav"
    hub.damaged.add(wrong)
    with pytest.raises(DataError, match=r"1 file arrived damaged, e\.g\. audios/casual"):
        run(hub)
    assert not root.exists()
    hub.damaged.clear()
    run(hub)
    assert files_below(root) == sesa
    assert [len(hub.served(path)) for path in (wrong, "train.csv")] == [2, 1]


def test_an_archive_with_a_path_that_leaves_the_folder_is_refused(
    run: Run, root: Path, tmp_path: Path
) -> None:
    archive = zipped({"SESA/train.csv": b"path,classname\n", "SESA/../../../evil.txt": b"x"})
    with (
        serve({"MahiA/SESA": {"SESA.zip": archive}}) as hub,
        pytest.raises(DataError, match=r"SESA\.zip: holds 'SESA/\.\./\.\./\.\./evil\.txt', which leaves"),
    ):
        run(hub)
    assert not root.exists()
    assert list(tmp_path.rglob("evil.txt")) == []


def test_a_dataset_that_the_hub_does_not_have_is_said_with_its_source(run: Run, root: Path) -> None:
    with serve({}) as hub, pytest.raises(DataError) as caught:
        run(hub)
    message = str(caught.value)
    assert message.startswith("MahiA/SESA: the hub does not give it (RepositoryNotFoundError: 404")
    assert message.endswith("check the name, or get SESA from https://zenodo.org/records/3519845")
    assert "\n" not in message
    assert not root.exists()


def test_a_hub_out_of_reach_is_said_at_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve({}) as gone:
        pass
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("waited to try again"))
    with pytest.raises(
        DataError, match=r"the hub cannot be reached \(ConnectError: .*check the network, or get"
    ):
        download(require_card("SESA"), root, endpoint=gone.endpoint)
    assert not root.exists()


def test_the_demo_is_made_not_downloaded(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="demo is on no hub: make it with: palm-cache synthesise"):
        download(require_card("demo"), tmp_path / "demo")


def test_what_is_there_already_is_not_touched(run: Run, hub: Hub, root: Path) -> None:
    root.mkdir(parents=True)
    (root / "mine.wav").write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"SESA: there is something here already; .* choose another root"):
        run(hub)
    assert hub.requests == []
    (root / "mine.wav").unlink()
    run(hub)
    assert (root / "train.csv").is_file()


def test_a_second_download_to_the_same_place_is_sent_away(run: Run, hub: Hub, root: Path) -> None:
    root.parent.mkdir()
    with (
        FileLock(root.with_name(".SESA.lock")),
        pytest.raises(StoreError, match="another download is writing to this folder; wait for it to end"),
    ):
        run(hub)


def test_a_disk_without_room_is_said_before_anything_is_fetched(
    run: Run, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 1000))
    with pytest.raises(
        OutputError, match="1 MB are needed, 1 are free; free some space or choose another root"
    ):
        run(hub)
    assert all("/resolve/" not in url for _, url, _ in hub.requests)


def test_a_place_that_cannot_be_written_is_named(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write: .*choose another folder with root"):
        download(require_card("SESA"), tmp_path / "file" / "SESA", endpoint=hub.endpoint)
