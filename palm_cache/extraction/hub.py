"""Asking a model and data hub whether it is there, before its patient client is let loose."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from palm_cache.errors import PalmCacheError, described

if TYPE_CHECKING:  # half a second, and most commands ask no hub
    from huggingface_hub import HfApi

HUB_TIMEOUT = 5.0
"""Seconds after which a hub counts as out of reach; its own client tries for minutes."""

T = TypeVar("T")


def ask_hub(
    question: Callable[[HfApi], T], complain: Callable[[str], PalmCacheError], endpoint: str | None = None
) -> T:
    """Ask the hub, or the one at ``endpoint``, one question, once.

    The question is given the client and should pass it :data:`HUB_TIMEOUT`. ``complain`` makes the error from
    what :func:`refusal` says: the hub is out of reach, or does not have it.
    """
    from huggingface_hub import HfApi

    try:
        return question(HfApi(endpoint=endpoint))
    except Exception as error:
        raise complain(refusal(error)) from error


def refusal(error: Exception) -> str:
    """Say that the hub cannot be reached, or does not give what it was asked for, and what to check."""
    if getattr(error, "response", None) is None:
        return f"the hub cannot be reached ({described(error)}); check the network"
    return f"the hub does not give it ({described(error)}); check the name"
