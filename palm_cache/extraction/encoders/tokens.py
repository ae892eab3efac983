"""Text towers of transformers: token ids laid out as a table, with open places for learned context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from palm_cache.errors import EncoderError
from palm_cache.extraction.encoders.base import hash_weights
from palm_cache.extraction.encoders.engine import Engine, freeze
from palm_cache.extraction.encoders.pretrained import (
    TRANSFORMERS,
    from_directory_or_hub,
    hash_tokenizer,
)
from palm_cache.extraction.encoders.text import PromptTower
from palm_cache.params import CLIP_TOKENIZER
from palm_cache.types import PromptTokens


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokenizer of a text model whose weights come without it, and how it is told from another's."""

    model: str
    """For messages."""
    kind: Any
    """transformers' class."""
    hub_id: str
    """Where it lies, for who names no other."""
    ids: Mapping[str, int]
    """Of special tokens: ``bos``, ``eos``, ``pad``."""
    files: str = "vocab.json and merges.txt"
    """What a directory with it holds, for messages."""
    special: Mapping[str, str] = field(default_factory=dict)
    """What stands for special tokens that it does not know itself."""

    def load(self, source: str) -> Any:
        """Load it from a directory or a hub; CLIP's, which nobody has to name, stands for the model's own.

        Raises
        ------
        EncoderError
            If it is not there or another model's.
        """
        source = self.hub_id if source == CLIP_TOKENIZER else source
        subject = f"tokenizer {source}"
        advice = f"give a directory with {self.model}'s {self.files}, or a hub id (`tokenizer`)"
        tokenizer = from_directory_or_hub(
            subject, source, lambda repository: repository.tokenizer(self.kind), advice
        )
        tokenizer.add_special_tokens(dict(self.special))
        ids = {name: getattr(tokenizer, f"{name}_token_id") for name in self.ids}
        if ids != self.ids:
            have, wanted = (", ".join(f"{name} {told[name]}" for name in ids) for told in (ids, self.ids))
            raise EncoderError(
                f"{subject}: not {self.model}'s: its tokens are {have}, wanted {wanted}; {advice}"
            )
        return tokenizer


@dataclass(frozen=True, slots=True)
class TokenTable:
    """Token ids of prompts."""

    ids: Tensor
    """(n_prompts, length) int64; the padding's id in open places and behind the end."""
    mask: Tensor
    """(n_prompts, length) bool; True for a token or an open place."""
    context: slice
    """The open places, right behind the start token, where there is one."""


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
    dim : int
        Length of a feature.
    limit : int
        Tokens that it reads.
    starts : bool
        Whether every text begins with a start token.
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
        starts: bool = True,
        **decisive: object,
    ) -> None:
        if tokenizer.pad_token_id is None or len(tokenizer) > words.num_embeddings:
            raise EncoderError(
                f"{reader}: another model's tokenizer: {len(tokenizer)} tokens, the padding's id "
                f"{tokenizer.pad_token_id}; the text tower knows {words.num_embeddings}"
            )
        first, bare = (
            tokenizer("a", add_special_tokens=special)["input_ids"][:1] for special in (True, False)
        )
        if starts and first == bare:
            raise EncoderError(f"{reader}: another model's tokenizer: it puts no start token before a text")
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
        self._reader, self._tokenizer, self._limit, self._before = reader, tokenizer, limit, int(starts)
        self._tower: Any = tower
        self._words = words

    def token_table(self, texts: Sequence[str], n_context: int) -> TokenTable:
        """Tokenise texts, each with open places behind its start token.

        Raises
        ------
        EncoderError
            If a text and its context are longer than the tower reads.
        """
        # Not verbose: of a text that is too long an error is raised here, and the tokenizer need not warn.
        rows: list[list[int]] = self._tokenizer(list(texts), verbose=False)["input_ids"] if texts else []
        before, length = self._before, n_context + max(map(len, rows), default=0)
        ids = torch.full((len(rows), length), self._tokenizer.pad_token_id)
        mask = torch.zeros(len(rows), length, dtype=torch.bool)
        for number, (text, row) in enumerate(zip(texts, rows, strict=True)):
            if len(row) + n_context > self._limit:
                behind = f" behind {n_context} of context" if n_context else ""
                raise EncoderError(
                    f"prompt {text[:40]!r}... has {len(row)} tokens{behind}, {self._reader} reads "
                    f"{self._limit}; shorten it"
                )
            ids[number, :before] = torch.tensor(row[:before])
            ids[number, before + n_context : n_context + len(row)] = torch.tensor(row[before:])
            mask[number, : n_context + len(row)] = True
        return TokenTable(ids, mask, slice(before, before + n_context))

    def tokens(self, texts: Sequence[str], n_context: int) -> PromptTokens:
        """Embed the tokens of texts, each with open places before it; raise as :meth:`token_table`."""
        table = self.token_table(texts, n_context)
        embeddings = self._words(table.ids.to(self.engine.device))
        return PromptTokens(embeddings.float().cpu(), table.mask, table.context)
