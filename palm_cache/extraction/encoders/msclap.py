"""Microsoft's CLAP of 2022 and 2023 from its authors' checkpoints, told apart by their weights.

2023: PENGI's audio encoder (7 s), and GPT-2. 2022: Cnn14 of PANNs (5 s), and BERT. STFT kernels and mel bank
come from the checkpoint. The original strings the channels of a stereo file together and takes a random crop;
here, as everywhere, it is their mean, cropped at the centre.

B. Elizalde et al., "CLAP: Learning Audio Concepts from Natural Language Supervision", ICASSP 2023;
"Natural Language Supervision for General-Purpose Audio Representations", ICASSP 2024.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizerFast,
    GPT2Config,
    GPT2Model,
    GPT2TokenizerFast,
)

from palm_cache.extraction.encoders.base import Request
from palm_cache.extraction.encoders.cards import CARDS
from palm_cache.extraction.encoders.checkpoints import (
    Publication,
    bert_sizes,
    count_layers,
    number_places,
    shape_of,
)
from palm_cache.extraction.encoders.engine import Engine
from palm_cache.extraction.encoders.pengi_towers import (
    AUDIO,
    DIM,
    FRONT_END,
    TEXT,
    MelTower,
    MicrosoftEncoder,
    PengiAudioTower,
    Projection,
    official,
)
from palm_cache.extraction.encoders.tokens import TokenTable, TokenTower, Vocabulary

BASE = f"{TEXT}base."

CHANNELS = (64, 128, 256, 512, 1024, 2048)
"""Of Cnn14's blocks."""

PUBLICATION = Publication(
    "Microsoft's CLAP",
    "model",
    "get one from https://huggingface.co/microsoft/msclap",
    (AUDIO, TEXT),
    # AudioSet's classifiers, and tables that are computed.
    re.compile(
        r"\.htsat\.(tscam_conv|head)\.|\.fc_audioset\.|\.attn_mask$|\.position_ids$|\.masked_bias$|\.attn\.bias$"
    ),
)

BERT = Vocabulary("BERT", BertTokenizerFast, "google-bert/bert-base-uncased", {"pad": 0}, files="vocab.txt")
GPT2 = Vocabulary(
    "GPT-2",
    GPT2TokenizerFast,
    "openai-community/gpt2",
    {"pad": 0},
    special={"pad_token": "!"},  # as the authors do: it is split off whatever stands beside it
)


class Cnn14Block(nn.Module):
    """Two convolutions of Cnn14, each with batch normalisation and ReLU, and mean pooling."""

    def __init__(self, n_in: int, n_out: int, pool: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(n_out), nn.BatchNorm2d(n_out)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, n_in, frames, mels) to (batch, n_out, frames / pool, mels / pool)."""
        x = functional.relu(self.bn1(self.conv1(x)))
        x = functional.relu(self.bn2(self.conv2(x)))
        return functional.avg_pool2d(x, self.pool)


class Cnn14Tower(MelTower):
    """PANNs' Cnn14 and the projection into the shared space.

    Q. Kong et al., "PANNs: Large-Scale Pretrained Audio Neural Networks for Audio Pattern Recognition", 2020.
    """

    seconds = 5

    def __init__(self) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(64)
        for number, (n_in, n_out) in enumerate(zip((1, *CHANNELS), CHANNELS, strict=False), start=1):
            self.add_module(f"conv_block{number}", Cnn14Block(n_in, n_out, pool=2 if number < 6 else 1))
        self.fc1 = nn.Linear(CHANNELS[-1], CHANNELS[-1])
        self.projection = Projection(CHANNELS[-1], DIM)

    def forward(self, log_mel: Tensor) -> Tensor:
        """Embed, (batch, frames, mels) -> (batch, DIM)."""
        x = self.bn0(log_mel[:, None].transpose(1, 3)).transpose(1, 3)
        for number in range(1, len(CHANNELS) + 1):
            x = self.get_submodule(f"conv_block{number}")(x)
        x = x.mean(dim=3)
        embedding = functional.relu(self.fc1(x.amax(dim=2) + x.mean(dim=2)))
        projected: Tensor = self.projection(embedding)
        return projected


class MsClapTextTower(TokenTower):
    """BERT or GPT-2 and the projection, pooled where its authors pool.

    GPT-2 is pooled at the end token. Its authors find that place by counting ids that are not 0, their
    padding; 0 is the exclamation mark too, so each of those moves the place by one, as it does here.
    """

    def __init__(self, spec: str, tower: nn.ModuleDict, tokenizer: Any, engine: Engine) -> None:
        base: Any = tower["base"]
        self._gpt = isinstance(base, GPT2Model)
        super().__init__(
            spec,
            engine,
            tower,
            base.get_input_embeddings(),
            tokenizer,
            dim=DIM,
            limit=77 if self._gpt else 100,
            starts=not self._gpt,
        )

    def token_table(self, texts: Sequence[str], n_context: int) -> TokenTable:
        """Tokenise texts, with open places before each, for BERT behind its start token."""
        if not self._gpt:
            return super().token_table(texts, n_context)
        table = super().token_table([f"{text} <|endoftext|>" for text in texts], n_context)
        for mask, ids in zip(table.mask, table.ids, strict=True):
            mask[n_context + int(ids.count_nonzero()) :] = False  # the pooled place is the last that counts
        return table

    def encode_rows(self, embeddings: Tensor, mask: Tensor, context: slice) -> Tensor:
        """Encode, -> (rows, DIM)."""
        model: Any = self._tower["base"]
        if self._gpt:
            states = model(inputs_embeds=embeddings).last_hidden_state
            pooled = states[torch.arange(len(states), device=states.device), mask.sum(dim=1) - 1]
        else:
            attended = mask.to(torch.int64)
            pooled = model(inputs_embeds=embeddings, attention_mask=attended).last_hidden_state[:, 0]
        projected: Tensor = self._tower["projection"](pooled)
        return projected


class MsClapEncoder(MicrosoftEncoder):
    """Microsoft's CLAP."""

    card = CARDS["msclap"]

    @classmethod
    def load(cls, request: Request) -> Self:
        """Load the authors' checkpoint, and GPT-2's or BERT's tokenizer, which the recipe may name."""
        state = PUBLICATION.read(request.spec, request.source)
        audio, text = build_towers(request.spec, state)
        tokenizer = (BERT if is_2022(state) else GPT2).load(request.recipe.tokenizer)
        return cls(request, audio, MsClapTextTower(request.spec, text, tokenizer, request.engine))


def is_2022(state: Mapping[str, Tensor]) -> bool:
    """Tell the release by the audio encoder."""
    return f"{AUDIO}base.conv_block1.conv1.weight" in state


def build_towers(subject: str, state: Mapping[str, Tensor]) -> tuple[MelTower, nn.ModuleDict]:
    """Make both towers from weights under official names; raise as :meth:`.Publication.fill`."""
    old = is_2022(state)
    with torch.device("meta"):
        audio = Cnn14Tower() if old else PengiAudioTower()
        base: Any = BertModel(BertConfig(**bert_sizes(state, BASE))) if old else GPT2Model(_gpt2(state))
        text = nn.ModuleDict({"base": base, "projection": Projection(base.config.hidden_size, DIM)})
    PUBLICATION.fill(subject, {AUDIO: audio, TEXT: text}, state, _official_2022 if old else official)
    if old:
        number_places(base.embeddings)
    else:
        for block in base.h:
            places = base.config.n_positions
            causal = torch.ones(1, 1, places, places, dtype=torch.bool).tril()
            block.attn.register_buffer("bias", causal, persistent=False)
    return audio, text


def _official_2022(name: str) -> str:
    if name.startswith((TEXT, f"{AUDIO}projection.")):
        return name
    name = name.removeprefix(AUDIO)
    return f"{AUDIO}base.{FRONT_END.get(name, name)}"


def _gpt2(state: Mapping[str, Tensor]) -> GPT2Config:
    """Tell the size of GPT-2 by the weights."""
    words, width = shape_of(state, f"{BASE}wte.weight")
    return GPT2Config(
        vocab_size=words,
        n_embd=width,
        n_layer=count_layers(state, f"{BASE}h."),
        n_head=max(1, width // 64),
        n_inner=shape_of(state, f"{BASE}h.0.mlp.c_fc.weight")[1],
        n_positions=shape_of(state, f"{BASE}wpe.weight")[0],
        bos_token_id=None,
        eos_token_id=None,
    )
