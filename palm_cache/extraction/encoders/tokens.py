"""Token ids of prompts laid out as a table, with open places for learned context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from palm_cache.errors import EncoderError


@dataclass(frozen=True, slots=True)
class TokenTable:
    """Token ids of prompts that begin with a start token."""

    ids: Tensor
    """(n_prompts, length) int64; the padding's id in open places and behind the end."""
    mask: Tensor
    """(n_prompts, length) bool; True for a token or an open place."""
    context: slice
    """The open places, right behind the start token."""


def lay_out(
    texts: Sequence[str],
    rows: Sequence[Sequence[int]],
    n_context: int,
    *,
    padding: int,
    limit: int,
    reader: str,
) -> TokenTable:
    """Put tokenised texts into a table, with ``n_context`` open places behind every start token.

    Parameters
    ----------
    texts : sequence of str
        For messages.
    rows : sequence of sequences of int
        Token ids of every text, start and end included, padding not.
    padding : int
        Id that fills up.
    limit : int
        Tokens that the text tower reads.
    reader : str
        What reads them, for messages.

    Raises
    ------
    EncoderError
        If a text and its context are longer than ``limit``.
    """
    for text, row in zip(texts, rows, strict=True):
        if len(row) + n_context > limit:
            behind = f" behind {n_context} of context" if n_context else ""
            raise EncoderError(
                f"prompt {text[:40]!r}... has {len(row)} tokens{behind}, {reader} reads {limit}; shorten it"
            )
    length = n_context + max(map(len, rows), default=0)
    ids = torch.full((len(rows), length), padding)
    mask = torch.zeros(len(rows), length, dtype=torch.bool)
    for number, row in enumerate(rows):
        ids[number, 0] = row[0]
        ids[number, 1 + n_context : n_context + len(row)] = torch.tensor(row[1:])
        mask[number, : n_context + len(row)] = True
    return TokenTable(ids, mask, slice(1, 1 + n_context))
