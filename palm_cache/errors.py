"""Every error that palm-cache raises on purpose.

Each is a :class:`PalmCacheError`, something that the user can mend; a command ends with exit code 1.
A message says what is wrong, where, and what to do next, in one or two lines. It holds names of parameters
in backquotes, as a note does: so a command says them as they are typed.
Anything that is not a ``PalmCacheError`` is a defect of palm-cache and keeps its traceback.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Self

_USER = re.compile(r"(?<=://)(?:[^\s/\"'<>]*|[^\s/@:\"'<>]+:(?!\d+/)[^\s@\"'<>]*)@")
"""User and password before a host; a password may hold slashes, a port is followed by one."""

_TOKEN = re.compile(
    r"(?<=[?&;#])([\w-]*(?:signature|sig|token|credential|secret|password|passwd|pwd|auth|key)=)[^\s&;#\"'<>]+",
    re.I,
)
"""What signs a URL: the parameters of presigned addresses, access tokens."""


def without_credentials(text: str) -> str:
    """Return text whose URLs hold no user, password or signature: what may be shown and stored."""
    if "://" not in text:
        return text
    # A library's own message may repeat them without the URL around them.
    users = {match[0] for match in _USER.finditer(text) if ":" in match[0]}
    shown = _TOKEN.sub(r"\1***", _USER.sub("", text))
    for user in users:
        shown = re.sub(re.escape(user), "", shown, flags=re.I)
    return shown


NAMED = 3
"""Of many names, or of those that may have been meant, so many are named."""

_PARAMETER = re.compile(r"`(\w+)`")
"""A parameter in a message, by its name in Python."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What moves a cursor, ends a line, turns the direction of writing or cannot be written at all."""


def visible(text: str) -> str:
    """Return text with its control characters written out, as Python does: names are read from files."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def naming(message: str, options: Mapping[str, str] = MappingProxyType({})) -> str:
    """Return a message with parameters called as they are on a command line, else as in Python."""
    return _PARAMETER.sub(lambda found: options.get(found[1], found[1]), message)


def near(name: str, known: Iterable[str]) -> list[str]:
    """Return the names that may have been meant by one, in any case of letters, the likeliest first."""
    lowered = {candidate.lower(): candidate for candidate in known}
    return [lowered[match] for match in difflib.get_close_matches(name.lower(), lowered, n=NAMED)]


def did_you_mean(names: Sequence[object]) -> str:
    """Return the question whether one of some names or places was meant, "" if there is none."""
    if not names:
        return ""
    *others, last = map(str, names[:NAMED])
    more = f" (or one of {len(names) - NAMED} more)" if len(names) > NAMED else ""
    return f"did you mean {', '.join(others)}{' or ' if others else ''}{last}{more}?"


def some(names: Sequence[str], most: int = NAMED) -> str:
    """Return the first few of some names, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def reason_of(error: BaseException) -> str:
    """Return on one line, and not a long one, what an error says; of the system's its reason alone."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror[:1].lower()}{error.strerror[1:]}"
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return text if isinstance(error, PalmCacheError) else _shortened(text)


def described(error: BaseException) -> str:
    """Return on one line the kind of an error that code of others has raised, and what it says."""
    return f"{type(error).__name__}: {_shortened(' '.join(str(error).split()))}"


def _shortened(text: str, most: int = 200) -> str:
    return text if len(text) <= most else f"{text[:most]} ..."


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a number of things for people: ``1 file``, ``1,000 files``, ``2 classes``."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


class PalmCacheError(Exception):
    """Base of all errors that a user can mend; a message holds no credentials."""

    def __init__(self, message: str) -> None:
        super().__init__(without_credentials(message))

    def __str__(self) -> str:
        return naming(self.message)

    @property
    def message(self) -> str:
        """What is said, with parameters in backquotes: see :func:`naming`."""
        return str(self.args[0])


class DataError(PalmCacheError):
    """A dataset, table, label or tensor shape is not as it must be."""


class ArrayError(DataError, ValueError):
    """An array handed to an estimator is not as it must be; a ``ValueError``, as scikit-learn demands."""


class AbsentDatasetError(DataError):
    """A dataset that is known by name is not on this machine; of several, the others are worked on."""


class AudioError(DataError):
    """One clip cannot be read; the message is the reason, without the path."""


class ReadingError(AudioError):
    """A clip's bytes cannot be had: no such file, no permission, a failing disk or share.

    No property of the content: the same file may be read the next time.
    """


class UnknownNameError(PalmCacheError):
    """A dataset, encoder, head or parameter that does not exist."""

    @classmethod
    def among(cls, kind: str, name: str, known: Iterable[str]) -> Self:
        """Make the error that names the near matches, else all there is.

        Parameters
        ----------
        kind : str
            What was looked for, e.g. ``"head"``.
        name : str
            What was asked for.
        known : iterable of str
            What exists.
        """
        known = list(known)
        hint = did_you_mean(near(name, known)) or f"known: {', '.join(known)}"
        return cls(f"unknown {kind} {name!r}; {hint}")


class ParameterError(PalmCacheError):
    """An option or parameter has a value that makes no sense."""


class EncoderError(PalmCacheError):
    """An encoder cannot be loaded, or refuses its input."""


class StoreError(PalmCacheError):
    """A feature store or heads file cannot be used."""


class StaleStoreError(StoreError):
    """A store was made by another encoder or with other options than the ones asked for."""


class AbsentStoreError(StoreError):
    """There is no feature store, or one that has not been finished."""


class OlderFormatError(StoreError):
    """A store has the format of an earlier palm-cache, which this one does not read."""


class DamagedStoreError(StoreError):
    """Bytes of a store are missing or fail their checksum."""


class ClusterError(PalmCacheError):
    """A cluster cannot be reached, has no workers or loses them, or a process of ``jobs`` has died."""


class PlaceError(PalmCacheError):
    """A remote place cannot be reached: network, address or credentials; what lies there is not in doubt."""


class AbsentRepositoryError(PlaceError):
    """A hub shows no such repository to this user: there is none, or it is private."""


class OutputError(PalmCacheError):
    """A result cannot be written: no permission, no space, no such folder."""
