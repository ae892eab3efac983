"""Loading what transformers keeps in directories and on hubs: quietly, and with errors of one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from transformers.utils import logging as transformers_logging

from palm_cache.errors import EncoderError
from palm_cache.extraction.hub import HUB_TIMEOUT, ask_hub

T = TypeVar("T")


def from_directory_or_hub(what: str, source: str, load: Callable[[str, bool], T], advice: str) -> T:
    """Load from a directory, else from the hub's local cache, else from a hub that answers.

    Parameters
    ----------
    what : str
        For messages, e.g. ``"clap:laion/clap-htsat-unfused"``.
    source : str
        A directory or a hub id, ``owner/name``.
    load : callable
        Takes a place and whether only local files may be used; raises ``EncoderError``.
    advice : str
        What to do where it cannot be had.

    Raises
    ------
    EncoderError
        If it is neither, or cannot be had.
    """
    directory = Path(source).expanduser()
    with quiet_transformers():
        if directory.is_dir():
            return load(str(directory.resolve()), True)
        if source.count("/") != 1 or source.startswith((".", "/", "~")):
            raise EncoderError(f"{what}: no such directory, and not a hub id (owner/name)")
        try:
            return load(source, True)
        except EncoderError:  # not, or not wholly, in the hub's local cache
            _check_reachable(what, source, advice)
            return load(source, False)


def load_part(what: str, part: str, load: Callable[[], T], advice: str) -> T:
    """Run one of transformers' loaders; it raises nearly anything for a missing or damaged file.

    Raises
    ------
    EncoderError
        With the part's name, the reason and the advice.
    """
    try:
        return load()
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        raise EncoderError(
            f"{what}: cannot load its {part}: {type(error).__name__}: {reason}; {advice}"
        ) from error


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' bars and warnings off stderr."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def _check_reachable(what: str, source: str, advice: str) -> None:
    """Ask the hub for the repository once and briefly."""
    ask_hub(
        lambda api: api.model_info(source, timeout=HUB_TIMEOUT),
        lambda reason: EncoderError(
            f"{what}: not in the local cache, and the hub does not give it ({reason}); "
            f"check name and network, or {advice}"
        ),
    )
