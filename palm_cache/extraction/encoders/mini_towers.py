"""The networks of ``mini``: log-mel and CNN over sounds, a bag of hashed words over prompts.

Their weights are trained by ``pipelines/mini`` and stored as :class:`MiniTowers` holds them.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import cast

import torch
import torchaudio
from torch import Tensor, nn
from torch.nn import functional

from palm_cache.errors import EncoderError

SAMPLE_RATE = 16_000  # Hz
WINDOW_SAMPLES = 2 * SAMPLE_RATE
MAX_WINDOWS = 6  # 12 s
FRAME_SAMPLES = 640  # 40 ms
HOP_SAMPLES = 320  # 20 ms
FFT_SAMPLES = 1024
N_MELS = 64
LOWEST_HZ = 40.0
HIGHEST_HZ = SAMPLE_RATE / 2
FLOOR = 1e-5  # power, relative to the clip's mean: 50 dB below it counts as silence
SILENCE = 1e-12  # power: what keeps digital silence from dividing by zero

N_CEPSTRA = 20  # cosine transform over mels: timbre apart from pitch
N_STATISTICS = 5 * (N_MELS + N_CEPSTRA)

CNN_DIM = 256
STATISTICS_DIM = 256
DIM = CNN_DIM + STATISTICS_DIM
CNN_SHARE = 0.7  # of the squared length of an audio vector

N_BUCKETS = 8192
TOKEN_DIM = 64
GRAM_LENGTHS = (3, 4, 5)  # characters
CONTEXT_SCORE = -2.0
"""Attention score of a learned context vector: what a filler word of a prompt gets (the median over the
templates is -2.1). Were it learned with the vector, the context would soon outbid every class name or
fall silent, and training would stop either way."""

FRONT_END = {
    "frame": [FRAME_SAMPLES, HOP_SAMPLES, FFT_SAMPLES],
    "mel": [N_MELS, LOWEST_HZ, HIGHEST_HZ, FLOOR],
    "cepstra": N_CEPSTRA,
    "cnn_share": CNN_SHARE,
}
TOKENIZER = {"hash": "crc32", "buckets": N_BUCKETS, "grams": list(GRAM_LENGTHS)}


class MelFrontEnd(nn.Module):
    """Waveform to mel power, and mel power to the log-mel that both branches read."""

    frame: Tensor
    mel: Tensor

    def __init__(self) -> None:
        super().__init__()
        mel = torchaudio.functional.melscale_fbanks(
            FFT_SAMPLES // 2 + 1, LOWEST_HZ, HIGHEST_HZ, N_MELS, SAMPLE_RATE
        )
        self.register_buffer("frame", torch.hann_window(FRAME_SAMPLES), persistent=False)
        self.register_buffer("mel", mel, persistent=False)

    def forward(self, waveforms: Tensor) -> Tensor:
        """Return mel power, (..., samples) -> (..., frames, mels)."""
        frames = waveforms.unfold(-1, FRAME_SAMPLES, HOP_SAMPLES) * self.frame
        power: Tensor = torch.view_as_real(torch.fft.rfft(frames, n=FFT_SAMPLES)).square().sum(-1) @ self.mel
        return power


def log_mel(power: Tensor) -> Tensor:
    r"""Take the logarithm of mel power relative to the clip's own mean.

    .. math:: \log_{10}(P / \bar P + \mathrm{floor})

    Parameters
    ----------
    power : Tensor, shape (batch, ..., mels)
        The mean is taken over all but the first axis, so the level of a clip does not count.
    """
    level = power.flatten(1).mean(1).view(-1, *[1] * (power.ndim - 1))
    return torch.log10(power / (level + SILENCE) + FLOOR)


def clip_statistics(logs: Tensor) -> Tensor:
    """Summarise the log-mel of whole clips, bin by bin.

    Parameters
    ----------
    logs : Tensor, shape (batch, windows, frames, mels)

    Returns
    -------
    Tensor, shape (batch, 5 * (mels + N_CEPSTRA))
        Mean, standard deviation, mean absolute change from frame to frame, 10% and 90% quantile, of
        every mel bin and of every cepstral coefficient.
    """
    bins = torch.arange(N_MELS, device=logs.device) + 0.5
    orders = torch.arange(N_CEPSTRA, device=logs.device).unsqueeze(1)
    logs = torch.cat([logs, logs @ torch.cos(torch.pi / N_MELS * orders * bins).T / N_MELS**0.5], dim=-1)
    frames = logs.flatten(1, 2)
    change = (logs[:, :, 1:] - logs[:, :, :-1]).abs().mean((1, 2))
    # Order statistics by sorting: torch.quantile would interpolate, and is absent on some devices.
    ordered = frames.sort(dim=1).values
    low, high = ordered[:, frames.shape[1] // 10], ordered[:, frames.shape[1] * 9 // 10]
    return torch.cat([frames.mean(1), frames.std(1), change, low, high], dim=1)


class ConvBlock(nn.Module):
    """Convolution, batch normalisation, ReLU; with a short cut where the shape stays the same."""

    def __init__(self, n_in: int, n_out: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_in, n_out, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(n_out)
        self.shortcut = stride == 1 and n_in == n_out

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, n_in, frames, mels) to (batch, n_out, frames / stride, mels / stride)."""
        y = functional.relu(self.norm(self.conv(x)))
        return x + y if self.shortcut else y


class MiniAudioTower(nn.Module):
    """CNN over log-mel windows, and the fixed projection of the clip's statistics."""

    mel_mean: Tensor
    mel_std: Tensor
    statistics_mean: Tensor
    statistics_std: Tensor
    projection: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mel_mean", torch.zeros(N_MELS))
        self.register_buffer("mel_std", torch.ones(N_MELS))
        self.register_buffer("statistics_mean", torch.zeros(N_STATISTICS))
        self.register_buffer("statistics_std", torch.ones(N_STATISTICS))
        self.register_buffer("projection", torch.zeros(N_STATISTICS, STATISTICS_DIM))
        self.blocks = nn.Sequential(
            ConvBlock(2, 32, kernel=5, stride=2),
            ConvBlock(32, 64, stride=2),
            ConvBlock(64, 96, stride=2),
            ConvBlock(96, 96),
            ConvBlock(96, 160, stride=2),
            ConvBlock(160, 160),
        )
        # 64 mels halved four times leave 4 rows; the mean over time keeps them apart.
        self.head = nn.Sequential(nn.Linear(5 * 160, 256), nn.ReLU(), nn.Linear(256, CNN_DIM))

    def windows(self, logs: Tensor) -> Tensor:
        """Embed log-mel windows, (batch, frames, mels) -> (batch, CNN_DIM), not normalised."""
        x = ((logs - self.mel_mean) / self.mel_std).unsqueeze(1)  # (B, 1, T, M)
        pitch = torch.linspace(-1, 1, N_MELS, device=x.device).expand_as(x)
        x = torch.cat([x, pitch], dim=1).contiguous(memory_format=torch.channels_last)
        x = self.blocks(x)  # (B, 160, T / 16, 4)
        pooled = torch.cat([x.mean(2).flatten(1), x.amax((2, 3))], dim=1)  # (B, 5 * 160)
        return cast(Tensor, self.head(pooled))

    def statistics(self, logs: Tensor) -> Tensor:
        """Project clip statistics, (batch, windows, frames, mels) -> (batch, STATISTICS_DIM)."""
        standard = (clip_statistics(logs) - self.statistics_mean) / self.statistics_std
        # Standardised by the training world; real sound may lie far outside it.
        return standard.clamp(-4, 4) @ self.projection

    def forward(self, logs: Tensor) -> Tensor:
        """Embed clips, (batch, windows, frames, mels) -> (batch, CNN_DIM), mean over windows."""
        n_clips, n_windows = logs.shape[:2]
        return self.windows(logs.flatten(0, 1)).float().view(n_clips, n_windows, -1).mean(1)


class WordBag(nn.Module):
    """A bag of words; a word is the mean of its hashed self and its hashed letter groups."""

    def __init__(self) -> None:
        super().__init__()
        self.buckets = nn.EmbeddingBag(N_BUCKETS, TOKEN_DIM, mode="mean")
        self.weight = nn.Linear(TOKEN_DIM, 1, bias=False)
        self.head = nn.Sequential(nn.Linear(TOKEN_DIM, 256), nn.ReLU(), nn.Linear(256, CNN_DIM))

    def token_embeddings(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Look up the words of prompts.

        Returns
        -------
        tokens : Tensor, shape (n_prompts, n_words, TOKEN_DIM)
            One vector per word; zeros where a prompt has fewer words than the longest.
        mask : Tensor, shape (n_prompts, n_words)
            bool, True where there is a word.

        Raises
        ------
        EncoderError
            If a prompt is empty.
        """
        words = [split_words(prompt) for prompt in prompts]
        device = self.weight.weight.device
        mask = torch.zeros(len(words), max(map(len, words), default=0), dtype=torch.bool)
        hashes: list[int] = []
        offsets: list[int] = []
        for row, prompt_words in enumerate(words):
            mask[row, : len(prompt_words)] = True
            for word in prompt_words:
                offsets.append(len(hashes))
                hashes.extend(word_buckets(word))
        mask = mask.to(device)
        if not hashes:
            return torch.zeros(*mask.shape, TOKEN_DIM, device=device), mask
        vectors = self.buckets(
            torch.tensor(hashes, dtype=torch.int64, device=device),
            torch.tensor(offsets, dtype=torch.int64, device=device),
        )
        tokens = torch.zeros(*mask.shape, TOKEN_DIM, dtype=vectors.dtype, device=device)
        return tokens.masked_scatter(mask.unsqueeze(-1), vectors), mask

    def pool(self, tokens: Tensor, mask: Tensor, context: slice = slice(0)) -> Tensor:
        r"""Turn bags of word vectors into text features; differentiable in ``tokens``.

        .. math:: \mathrm{mlp}\Big(\sum_i \mathrm{softmax}_i(q \cdot w_i)\, w_i\Big)

        Parameters
        ----------
        tokens : Tensor, shape (batch, n_words, TOKEN_DIM)
            Word vectors :math:`w_i`; learned context vectors may stand among them.
        mask : Tensor, shape (batch, n_words)
            bool, True where there is a word.
        context : slice
            Where learned vectors stand: :data:`CONTEXT_SCORE` takes the place of their :math:`q \cdot w_i`.

        Returns
        -------
        Tensor, shape (batch, CNN_DIM)
            Not normalised.
        """
        shares = self.shares(tokens, mask, context)
        return cast(Tensor, self.head((shares.unsqueeze(1) @ tokens).squeeze(1)))

    def shares(self, tokens: Tensor, mask: Tensor, context: slice) -> Tensor:
        """Return the shares of words in their bags, (batch, n_words): see :meth:`pool`."""
        learned = torch.zeros(mask.shape[1], dtype=torch.bool, device=mask.device)
        learned[context] = True
        scores = self.weight(tokens).squeeze(-1).masked_fill(learned, CONTEXT_SCORE)
        return cast(Tensor, scores.masked_fill(~mask, -torch.inf).softmax(dim=1))

    def pool_behind(self, context: Tensor, tokens: Tensor, mask: Tensor, places: slice) -> Tensor:
        r"""Do as :meth:`pool` for every bag with every context in its open places.

        All of a context has one share :math:`s` of a bag, whatever it is, so that it comes in by its sum and
        what comes from the words is known before: with the first layer :math:`W`

        .. math:: W \sum_i s_i w_i = W \sum_{i \text{ a word}} s_i w_i + s\,W \sum_j v_j

        Parameters
        ----------
        context : Tensor, shape (..., n_context, TOKEN_DIM)
        tokens, mask : Tensor
            Of the bags; what stands in the open places is of no account.
        places : slice
            The open places.

        Returns
        -------
        Tensor, shape (..., batch, CNN_DIM)
        """
        shares = self.shares(tokens, mask, places)
        words = torch.cat([shares[:, : places.start], shares[:, places.stop :]], dim=1).unsqueeze(1)
        bags = torch.cat([tokens[:, : places.start], tokens[:, places.stop :]], dim=1)
        first, activation, second = self.head
        constant = first((words @ bags).squeeze(1))  # (B, 256)
        added = functional.linear(context.sum(dim=-2), cast(Tensor, first.weight))  # (..., 256)
        hidden = torch.addcmul(constant, shares[:, places.start, None], added.unsqueeze(-2))
        return cast(Tensor, second(activation(hidden)))

    def forward(self, prompts: Sequence[str]) -> Tensor:
        """Embed prompts, -> (n_prompts, CNN_DIM), not normalised."""
        return self.pool(*self.token_embeddings(prompts))


class MiniTowers(nn.Module):
    """Both towers, as trained and as stored."""

    def __init__(self) -> None:
        super().__init__()
        self.front_end = MelFrontEnd()
        self.audio = MiniAudioTower()
        self.text = WordBag()


def split_words(prompt: str) -> list[str]:
    """Split a prompt into words: runs of letters and digits, else whatever is not space.

    Raises
    ------
    EncoderError
        If nothing is left.
    """
    folded = unicodedata.normalize("NFKC", prompt).casefold()
    words = re.findall(r"[^\W_]+", folded) or folded.split()
    if not words:
        raise EncoderError(f"prompt {prompt!r} is empty; mini needs at least one word")
    return words


@lru_cache(maxsize=1 << 14)
def word_buckets(word: str) -> tuple[int, ...]:
    """Hash a word and its letter groups, the same on every machine."""
    marked = f"<{word}>"
    grams = {marked[i : i + n] for n in GRAM_LENGTHS for i in range(len(marked) - n + 1)} - {marked}
    # The word itself counts once per three groups, so that common letters do not drown it.
    pieces = [marked] * (1 + len(grams) // 3) + sorted(grams)
    return tuple(zlib.crc32(piece.encode("utf-8", "surrogatepass")) % N_BUCKETS for piece in pieces)
