"""Giving fitted heads to others through a model hub, and taking theirs: ``push`` and ``pull``.

What is pushed is the file that ``export --to safetensors`` writes, and a page of what it is for people.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from palm_cache.errors import AbsentRepositoryError, OutputError, ParameterError, PlaceError
from palm_cache.prediction.classifier import refuse_joined
from palm_cache.prediction.head_card import pack_head
from palm_cache.prediction.hub_heads import LOG_IN, PAGE, HubAddress, fetch_head, hub_errors, look_up
from palm_cache.prediction.model_card import readme
from palm_cache.prediction.sources import find_heads
from palm_cache.store.atomic import check_vacant, write_errors
from palm_cache.store.layout import SHARED_FILE
from palm_cache.store.places.local import LocalFolder
from palm_cache.store.shared import open_head, read_shared
from palm_cache.types import AnyPath

ADDRESS_FILE = "address.txt"
"""Says in a folder that was pulled where it came from, with the commit."""

WHAT_HUBS_PUT = {".gitattributes", PAGE}
"""Files of a repository that was just made."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """A head that is ready to be pushed; nothing has left this machine yet."""

    address: HubAddress
    files: Mapping[str, bytes]
    card: Mapping[str, object]
    exists: bool
    """Whether there is such a repository already."""
    private: bool
    """Whether only its owner sees it, or will."""


def prepare_push(heads: AnyPath, to: str, run: str | None = None, *, private: bool = False) -> Parcel:
    """Make everything that :func:`send` uploads, and look whether it may go there: see :func:`push`."""
    address = HubAddress.require(to)
    if address.revision:
        raise ParameterError(f"{to}: write hf://user/name to push a head there")
    source = find_heads(heads)
    opened = open_head(source.file, run)
    refuse_joined(opened.head)
    content, card = pack_head(opened, source.file)
    files = {SHARED_FILE: content, PAGE: readme(card, address.repository).encode()}
    _need_token(address)
    try:
        model = look_up(address)
    except AbsentRepositoryError:
        return Parcel(address, files, card, exists=False, private=private)
    names = {file.rfilename for file in model.siblings or ()}
    if SHARED_FILE not in names and (others := sorted(names - WHAT_HUBS_PUT)):
        raise OutputError(f"{address}: holds something else ({', '.join(others[:3])}); choose another name")
    if private and not model.private:
        raise OutputError(
            f"{address}: is there and everybody sees it; make it private on its page, or choose another name"
        )
    return Parcel(address, files, card, exists=True, private=bool(model.private))


def send(parcel: Parcel) -> HubAddress:
    """Upload a head, in one commit.

    Returns
    -------
    HubAddress
        With the commit.

    Raises
    ------
    PlaceError
        If the hub cannot be reached or does not let this user write there.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api, repository = HfApi(), parcel.address.repository
    with hub_errors(parcel.address):
        if not parcel.exists:
            api.create_repo(repository, private=parcel.private)
        commit = api.create_commit(
            repository,
            [CommitOperationAdd(name, content) for name, content in parcel.files.items()],
            commit_message=f"Share {parcel.card['run']}",
        )
    return replace(parcel.address, revision=commit.oid)


def push(heads: AnyPath, to: str, run: str | None = None, *, private: bool = False) -> HubAddress:
    """Share a fitted head through a model hub, for everybody if it is not private.

    Parameters
    ----------
    heads : path
        A ``heads.h5`` or the folder that it lies in, or a shared head.
    to : str
        ``hf://user/name``; the repository is made if it is not there.
    run : str, optional
        Which run of the file, by its name or the beginning of it; by default the one that ``predict`` takes.
    private : bool
        Let nobody else see a repository that is made for it.

    Returns
    -------
    HubAddress
        With the commit; ``str`` of it is what ``predict`` and :func:`pull` take.

    Raises
    ------
    ParameterError
        If the address is none, or one of a revision.
    StoreError, UnknownNameError, EncoderError
        If there is no such head, or it reads several encoders.
    PlaceError
        If the hub cannot be reached, nobody is logged in, or this user may not write there.
    OutputError
        If the repository holds something else, or can be seen by all and should not.

    Examples
    --------
    >>> import palm_cache
    >>> features = palm_cache.extract("Tones")
    >>> fitted = palm_cache.fit(features, palm_cache.FitParams(heads=("palm",), shots=(4,)))
    >>> shared = palm_cache.push(fitted.heads, "hf://me/tones")
    >>> len(shared.revision)
    40
    >>> palm_cache.predict("hf://me/tones", "Tones/audios").run
    'palm-4shots-fold1-seed0'
    """
    return send(prepare_push(heads, to, run, private=private))


def pull(address: str, out: AnyPath | None = None) -> tuple[Path, HubAddress]:
    """Fetch a shared head into a folder that ``predict`` takes without a network.

    Parameters
    ----------
    address : str
        ``hf://user/name``, with ``@REVISION`` behind it or not.
    out : path, optional
        The folder to make; by default the repository's name.

    Returns
    -------
    Path
        The folder, with ``head.safetensors``, ``README.md`` and ``address.txt``.
    HubAddress
        With the commit that was fetched.

    Raises
    ------
    ParameterError
        If the address is none.
    PlaceError
        If the hub cannot be reached or does not have it.
    StoreError
        If what lies there is no head that can be read.
    OutputError
        If there is something in the folder, or it cannot be written.

    Examples
    --------
    >>> import palm_cache
    >>> folder, address = palm_cache.pull("hf://me/tones", "tones")
    >>> sorted(file.name for file in folder.iterdir())
    ['README.md', 'address.txt', 'head.safetensors']
    >>> palm_cache.predict(folder, "Tones/audios").run
    'palm-4shots-fold1-seed0'
    """
    parsed = HubAddress.require(address)
    folder = Path(out if out is not None else parsed.name)
    check_vacant(folder, "out")
    file, pinned = fetch_head(parsed, page=True)
    read_shared(file)  # what cannot be read is not kept
    with write_errors(folder), LocalFolder(folder).workspace() as work:
        made = work / "head"
        made.mkdir()
        for fetched in filter(Path.is_file, (file, file.with_name(PAGE))):
            shutil.copyfile(fetched, made / fetched.name)
        (made / ADDRESS_FILE).write_text(f"{pinned}\n")
        made.replace(folder)
    return folder, pinned


def _need_token(address: HubAddress) -> None:
    from huggingface_hub import get_token

    if get_token() is None:
        raise PlaceError(f"{address}: nobody is logged in on the hub; {LOG_IN}")
