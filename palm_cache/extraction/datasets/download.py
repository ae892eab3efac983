"""Getting the PALM authors' copies of the datasets from the hub.

A download grows in ``data/raw/.<Name>.partial``, in which the hub's client keeps files that are complete;
running it again goes on there. When everything has arrived, its checksums agree and archives are
unpacked, the folder is renamed to ``data/raw/<Name>``.
"""

from __future__ import annotations

import glob
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palm_cache.errors import DataError, OutputError, counted, described
from palm_cache.extraction.datasets.card import DatasetCard
from palm_cache.extraction.datasets.unpack import MEGABYTE, megabytes, unpack
from palm_cache.extraction.hub import HUB_TIMEOUT, ask_hub
from palm_cache.store.atomic import check_vacant, locked, write_errors
from palm_cache.types import Progress, no_progress

LISTING_TIMEOUT = 60.0
"""Seconds for the sizes of all files of a hub that has answered."""

LARGE = 256 * MEGABYTE
"""Bytes from which a file that was cut off is gone on with, not started anew as the hub's client does."""

NOT_WANTED = (".gitattributes", "*.DS_Store")


@dataclass(frozen=True, slots=True)
class RemoteCopy:
    """A dataset on the hub as it is now."""

    repository: str
    """``owner/name``."""
    revision: str
    """Commit hash."""
    files: Mapping[str, int]
    """Bytes by path."""

    @property
    def n_bytes(self) -> int:
        """Size of all files together."""
        return sum(self.files.values())


def download(
    card: DatasetCard,
    root: Path,
    *,
    announce: Callable[[str], None] = lambda message: None,
    progress: Progress = no_progress,
    endpoint: str | None = None,
) -> RemoteCopy:
    """Download a dataset, or go on with a download that was interrupted.

    Parameters
    ----------
    card : DatasetCard
        Which dataset.
    root : Path
        Folder to make; it appears when everything is in it.
    announce : callable
        Told what is about to happen, with size and licence, before it does.
    progress : callable
        Told how many MB are done, and of how many.
    endpoint : str, optional
        Another hub than the one that the environment names.

    Raises
    ------
    DataError
        If there is no copy on the hub, the hub is out of reach or breaks off, or a checksum differs.
    OutputError
        If there is something at ``root`` already, or it cannot be written.
    StoreError
        If another download is writing there.
    """
    if card.hub is None:
        raise DataError(f"{card.name} is on no hub: {card.how_to_get}")
    check_vacant(root, "root")
    with locked(root, "another download is writing to this folder", "root"):
        copy = _look_up(card, card.hub, endpoint)
        partial = root.with_name(f".{root.name}.partial")
        missing = copy.n_bytes - sum(_arrived(copy, path, partial) for path in copy.files)
        announce(
            f"{copy.repository}, revision {copy.revision[:12]}: {counted(len(copy.files), 'file')}, "
            f"{megabytes(copy.n_bytes):,} MB, {megabytes(missing):,} MB of them to download -> {root}"
        )
        announce(f"licence of {card.name}: {card.licence}; see {card.source}")
        with write_errors(root, "root"):
            partial.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(partial).free
        if missing > free:
            raise OutputError(
                f"{root}: {megabytes(missing):,} MB are needed, {megabytes(free):,} are free; "
                "free some space or choose another `root`"
            )
        with write_errors(root, "root"), _broken_off(copy.repository):
            _fetch(copy, partial, progress, endpoint)
            announce("comparing checksums")
            _compare_checksums(copy, partial, endpoint)
        _put_in_place(partial, root, progress)
    return copy


def _look_up(card: DatasetCard, repository: str, endpoint: str | None) -> RemoteCopy:
    """Ask the hub what there is: briefly at first, so that one out of reach is said at once."""

    def complain(refused: str) -> DataError:
        return DataError(f"{repository}: {refused}, or get {card.name} from {card.source}")

    revision = ask_hub(lambda api: api.dataset_info(repository, timeout=HUB_TIMEOUT).sha, complain, endpoint)
    info = ask_hub(
        lambda api: api.dataset_info(
            repository, revision=revision, files_metadata=True, timeout=LISTING_TIMEOUT
        ),
        complain,
        endpoint,
    )
    from huggingface_hub.utils import filter_repo_objects

    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    wanted = filter_repo_objects(sizes, ignore_patterns=list(NOT_WANTED))
    files = {path: sizes[path] for path in wanted}
    if revision is None or not files:
        raise complain("the hub has no files of it; check the name")
    return RemoteCopy(repository, revision, files)


def _arrived(copy: RemoteCopy, path: str, partial: Path) -> int:
    """Return how many bytes of a file are here already."""
    for file in (partial / path, _part(copy, path, partial)):
        if file.is_file():
            return min(file.stat().st_size, copy.files[path])
    return 0


def _part(copy: RemoteCopy, path: str, partial: Path) -> Path:
    """Return where a large file grows; the revision in its name keeps two versions apart."""
    return partial / f"{path}.{copy.revision}.part"


@contextmanager
def _broken_off(repository: str) -> Iterator[None]:
    """Turn whatever the hub's client raises, but for write errors, into one line."""
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
        logging,
    )

    verbosity, bars = logging.get_verbosity(), not are_progress_bars_disabled()
    logging.set_verbosity_error()  # it tells every retry, with addresses of a thousand characters
    disable_progress_bars()
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        on_wire = isinstance(error, ConnectionError | TimeoutError)
        if isinstance(error, OSError) and error.errno is not None and not on_wire:
            raise
        raise DataError(
            f"{repository}: the hub broke off ({described(error)}); "
            "what has arrived is kept: run the same command again to resume"
        ) from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            enable_progress_bars()


def _fetch(copy: RemoteCopy, partial: Path, progress: Progress, endpoint: str | None) -> None:
    """Download what is missing: large files one by one, the others several at a time."""
    from huggingface_hub import snapshot_download

    large = [path for path, size in copy.files.items() if size >= LARGE]
    for path in large:
        if not (partial / path).is_file():
            others = sum(_arrived(copy, other, partial) for other in copy.files if other != path)
            _fetch_large(copy, path, partial, _counter(progress, others, copy.n_bytes), endpoint)
    arrived = sum(_arrived(copy, path, partial) for path in copy.files)
    snapshot_download(
        copy.repository,
        repo_type="dataset",
        revision=copy.revision,
        local_dir=partial,
        ignore_patterns=[*NOT_WANTED, *map(glob.escape, large)],
        tqdm_class=_counter(progress, arrived, copy.n_bytes),
        endpoint=endpoint,
    )


def _fetch_large(
    copy: RemoteCopy, path: str, partial: Path, counter: type[Any], endpoint: str | None
) -> None:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    url = hf_hub_url(copy.repository, path, repo_type="dataset", revision=copy.revision, endpoint=endpoint)
    part = _part(copy, path, partial)
    part.parent.mkdir(parents=True, exist_ok=True)
    with part.open("ab") as unfinished:
        if unfinished.tell() > copy.files[path]:
            unfinished.truncate(0)
        http_get(
            url,
            unfinished,
            resume_size=unfinished.tell(),
            headers=build_hf_headers(),
            expected_size=copy.files[path],
            tqdm_class=counter,
        )
    part.replace(partial / path)


def _counter(progress: Progress, done: int, total: int) -> type[Any]:
    """Return a class of progress bar for the hub's client that shows nothing and reports MB.

    The client has a bar for bytes on the wire, one for bytes on disk and one for files: the largest
    number of bytes is what is done.
    """
    from huggingface_hub.utils import tqdm

    bars: list[Any] = []
    lock = threading.Lock()

    class Counter(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]
            if kwargs.get("unit") == "B":
                bars.append(self)

        def update(self, n: float | None = 1) -> None:
            with lock:
                self.n += n or 0
                if bars:
                    arrived = int(max(bar.n for bar in bars))
                    progress("downloading", megabytes(min(done + arrived, total)), megabytes(total))

    return Counter


def _compare_checksums(copy: RemoteCopy, partial: Path, endpoint: str | None) -> None:
    """Compare all files with the hub's checksums; remove what differs, so that it is fetched again."""
    from huggingface_hub import HfApi

    found = HfApi(endpoint=endpoint).verify_repo_checksums(
        copy.repository, repo_type="dataset", revision=copy.revision, local_dir=partial
    )
    wrong = [mismatch["path"] for mismatch in found.mismatches]
    for path in wrong:
        (partial / path).unlink(missing_ok=True)
    if wrong:
        raise DataError(
            f"{copy.repository}: {counted(len(wrong), 'file')} arrived damaged, e.g. {wrong[0]}; "
            "run the same command again to get them anew"
        )


def _put_in_place(partial: Path, root: Path, progress: Progress) -> None:
    """Unpack archives and rename the folder; only then remove what is not needed any more."""
    archives = sorted(partial.glob("*.zip"))
    with write_errors(root, "root"):
        for archive in archives:
            unpack(archive, partial, progress=progress)
        if root.exists():
            root.rmdir()
        partial.rename(root)
        for file in (*(root / archive.name for archive in archives), *root.glob("*.part")):
            file.unlink()
        shutil.rmtree(root / ".cache", ignore_errors=True)  # the client's records
