"""Heads on a model hub: their addresses, and how one comes from there."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from palm_cache.errors import AbsentRepositoryError, OutputError, ParameterError, PlaceError, StoreError
from palm_cache.extraction.hub import HUB_TIMEOUT, refusal
from palm_cache.store.layout import SHARED_FILE
from palm_cache.types import AnyPath

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

MAX_BYTES = 2**30
"""Size of a head that is fetched, at most."""

PAGE = "README.md"

MAX_PAGE_BYTES = 2**20

OF_THIS_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
"""What a file system refuses for, and no network."""

LOG_IN = "log in with: hf auth login (or set HF_TOKEN)"


@dataclass(frozen=True, slots=True)
class HubAddress:
    """A repository of a hub and what of it is meant; ``str`` gives ``hf://user/name@revision``."""

    repository: str
    """``user/name``."""
    revision: str | None = None
    """A branch, tag or commit; ``None`` is what is there now."""

    def __str__(self) -> str:
        return f"hf://{self.repository}" + (f"@{self.revision}" if self.revision else "")

    @classmethod
    def parse(cls, given: AnyPath) -> Self | None:
        """Return the address that is written there, ``None`` where it is a path; raise as :meth:`require`."""
        return cls.require(given) if os.fspath(given).startswith("hf:") else None

    @classmethod
    def require(cls, given: AnyPath) -> Self:
        """Return the address that is written there.

        Raises
        ------
        ParameterError
            If it is none.
        """
        text = os.fspath(given)
        # A Path makes one slash of two.
        match = re.fullmatch(r"hf:/{1,2}((?:[\w-][\w.-]*/)[\w-][\w.-]*)(?:@([\w-][\w./-]*))?", text, re.ASCII)
        if match is None or ".." in text:
            raise ParameterError(f"{text}: write hf://user/name, or hf://user/name@REVISION")
        return cls(match[1], match[2])

    @property
    def name(self) -> str:
        """The repository's name without its owner."""
        return self.repository.rpartition("/")[2]


def fetch_head(address: HubAddress, *, page: bool = False) -> tuple[Path, HubAddress]:
    """Fetch the file with a head into the hub's local cache, if it is not there.

    What is pinned to a commit and lies in that cache needs no hub.

    Parameters
    ----------
    page : bool
        Fetch its ``README.md`` too, if there is one.

    Returns
    -------
    Path
        The file, see :func:`palm_cache.store.shared.read_shared`; a page lies beside it.
    HubAddress
        With the commit that it is of.

    Raises
    ------
    PlaceError
        If the hub cannot be reached or does not show the repository.
    StoreError
        If there is no head in it, or one that is far too large.
    OutputError
        If the local cache cannot hold it.
    """
    from huggingface_hub import hf_hub_download

    cached = _in_cache(address)
    if cached is not None and not page:
        return cached, address
    try:
        model = look_up(address)
    except PlaceError:
        if cached is None:
            raise
        return cached, address
    sizes = {file.rfilename: file.size for file in model.siblings or ()}
    if SHARED_FILE not in sizes:
        raise StoreError(f"{address}: no head there ({SHARED_FILE}); palm-cache push uploads one")
    if not 0 < (sizes[SHARED_FILE] or 0) <= MAX_BYTES:
        raise StoreError(f"{address}: {SHARED_FILE} has {sizes[SHARED_FILE]} bytes, which no head has")
    if not re.fullmatch("[0-9a-f]{40}", commit := str(model.sha)):
        raise StoreError(f"{address}: the hub's answer {commit[:60]!r} is no commit")
    pages = [PAGE] if page and 0 < (sizes.get(PAGE) or 0) <= MAX_PAGE_BYTES else []
    with hub_errors(address):
        *_, file = (
            hf_hub_download(address.repository, name, revision=commit) for name in (*pages, SHARED_FILE)
        )
    return Path(file), replace(address, revision=commit)


def _in_cache(address: HubAddress) -> Path | None:
    """Return the file with a head of a commit that was fetched before."""
    from huggingface_hub import try_to_load_from_cache

    if not re.fullmatch("[0-9a-f]{40}", address.revision or ""):
        return None  # what a branch or a tag means may have changed
    file = try_to_load_from_cache(address.repository, SHARED_FILE, revision=address.revision)
    return Path(file) if isinstance(file, str) else None


def look_up(address: HubAddress) -> ModelInfo:
    """Return what the hub knows of a repository; raise as :func:`hub_errors`."""
    from huggingface_hub import HfApi

    with hub_errors(address):
        return HfApi().model_info(
            address.repository, revision=address.revision, files_metadata=True, timeout=HUB_TIMEOUT
        )


@contextmanager
def hub_errors(address: HubAddress) -> Iterator[None]:
    """Turn what the hub's client raises into one line.

    Raises
    ------
    AbsentRepositoryError
        If there is no such repository, or not for this user.
    OutputError
        If this machine cannot keep what the hub gives.
    PlaceError
        For everything else.
    """
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError as error:
        raise PlaceError(f"{address}: ask for access on its page, then {LOG_IN}") from error
    except RepositoryNotFoundError as error:
        raise AbsentRepositoryError(
            f"{address}: no such repository, or a private one; check the name, or {LOG_IN}"
        ) from error
    except RevisionNotFoundError as error:
        raise PlaceError(f"{address}: the repository has no revision {address.revision}") from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno in OF_THIS_MACHINE:
            raise OutputError(
                f"{address}: cannot be kept in the hub's local cache: {error.strerror}; free some space, or "
                "choose another folder with HF_HOME"
            ) from error
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
        why = {
            401: f"the hub does not accept your token; {LOG_IN}",
            403: "your token may not write there; name one of your own, or make a token that may write",
        }.get(status, f"{refusal(error)}, or try again")
        raise PlaceError(f"{address}: {why}") from error
