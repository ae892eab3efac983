"""Asking a model and data hub whether it is there, before its patient client is let loose."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from palm_cache.errors import PalmCacheError

if TYPE_CHECKING:  # half a second, and most commands ask no hub
    from huggingface_hub import HfApi

HUB_TIMEOUT = 5.0
"""Seconds after which a hub counts as out of reach; its own client tries for minutes."""

T = TypeVar("T")


def ask_hub(
    question: Callable[[HfApi], T], complain: Callable[[str], PalmCacheError], endpoint: str | None = None
) -> T:
    """Ask the hub one question, once.

    Parameters
    ----------
    question : callable
        Given the client; should pass it :data:`HUB_TIMEOUT`.
    complain : callable
        Makes the error from the reason why there is no answer.
    endpoint : str, optional
        Another hub than the one that the environment names.

    Raises
    ------
    PalmCacheError
        What ``complain`` made: the hub is out of reach, or does not have it.
    """
    from huggingface_hub import HfApi

    try:
        return question(HfApi(endpoint=endpoint))
    except Exception as error:
        raise complain(reason(error)) from error


def reason(error: Exception) -> str:
    """Return an error of the hub's client in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
