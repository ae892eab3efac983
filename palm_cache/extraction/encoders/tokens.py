"""Text towers of transformers: token ids laid out as a table, with open places for learned context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from palm_cache.errors import EncoderError
from palm_cache.extraction.encoders.base import hash_weights
from palm_cache.extraction.encoders.engine import Engine, freeze
from palm_cache.extraction.encoders.pretrained import TRANSFORMERS, hash_tokenizer
from palm_cache.extraction.encoders.text import PromptTower
from palm_cache.types import PromptTokens


@dataclass(frozen=True, slots=True)
class TokenTable:
    """Token ids of prompts."""

    ids: Tensor
    """(n_prompts, length) int64; the padding's id in open places and behind the end."""
    mask: Tensor
    """(n_prompts, length) bool; True for a token or an open place."""
    context: slice
    """The open places, right behind the start token, where there is one."""


def lay_out(
    texts: Sequence[str],
    rows: Sequence[Sequence[int]],
    n_context: int,
    *,
    padding: int,
    limit: int,
    reader: str,
    before: int = 1,
) -> TokenTable:
    """Put tokenised texts into a table, with ``n_context`` open places behind the first tokens of each.

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
    before : int
        Tokens before the open places: the start token, or none.

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
        ids[number, :before] = torch.tensor(row[:before])
        ids[number, before + n_context : n_context + len(row)] = torch.tensor(row[before:])
        mask[number, : n_context + len(row)] = True
    return TokenTable(ids, mask, slice(before, before + n_context))


class TokenTower(PromptTower):
    """A text model of transformers that reads embeddings of tokens.

    Parameters
    ----------
    reader : str
        What reads the prompts, for messages.
    engine : Engine
    tower : nn.Module
        All that decides a vector but tokenizer and configuration.
    words : nn.Embedding
        Its part that embeds tokens.
    tokenizer : PreTrainedTokenizerFast
        Begins every text with a start token.
    dim : int
        Length of a feature.
    limit : int
        Tokens that it reads.
    **decisive
        What else decides the vector of a prompt.

    Raises
    ------
    EncoderError
        If the tokenizer is another model's.
    """

    def __init__(
        self,
        reader: str,
        engine: Engine,
        tower: nn.Module,
        words: Any,
        tokenizer: Any,
        *,
        dim: int,
        limit: int,
        **decisive: object,
    ) -> None:
        if tokenizer.pad_token_id is None or len(tokenizer) > words.num_embeddings:
            raise EncoderError(
                f"{reader}: another model's tokenizer: {len(tokenizer)} tokens, the padding's id "
                f"{tokenizer.pad_token_id}; the text tower knows {words.num_embeddings}"
            )
        freeze(tower, engine.device)
        super().__init__(
            engine,
            dim=dim,
            token_dim=words.embedding_dim,
            identity={
                "implementation": 1,
                "weights_sha256": hash_weights(tower.state_dict()),
                "tokenizer_sha256": hash_tokenizer(tokenizer),
                **TRANSFORMERS,
                **decisive,
            },
        )
        self._reader, self._words, self._tokenizer, self._limit = reader, words, tokenizer, limit

    def token_table(self, texts: Sequence[str], n_context: int) -> TokenTable:
        """Tokenise texts, each with open places behind its start token; raise as :func:`lay_out`."""
        rows = self._tokenizer(list(texts))["input_ids"] if texts else []
        padding = self._tokenizer.pad_token_id
        return lay_out(texts, rows, n_context, padding=padding, limit=self._limit, reader=self._reader)

    def tokens(self, texts: Sequence[str], n_context: int) -> PromptTokens:
        """Embed the tokens of texts, each with open places before it; raise as :func:`lay_out`."""
        table = self.token_table(texts, n_context)
        embeddings = self._words(table.ids.to(self.engine.device))
        return PromptTokens(embeddings.float().cpu(), table.mask, table.context)
