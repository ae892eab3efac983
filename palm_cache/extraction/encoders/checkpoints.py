"""Weights from the files of torch that models' authors publish: nothing but tensors leaves them."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor, nn

from palm_cache.errors import EncoderError
from palm_cache.extraction.encoders.cards import CARDS


class _Ignored:
    """Stands where a checkpoint holds a number or type of numpy, which is of no use here."""

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


_IGNORED = [
    (_Ignored, f"numpy.{name}")
    for name in ("core.multiarray.scalar", "_core.multiarray.scalar", "dtype", "ndarray")
]


@dataclass(frozen=True, slots=True)
class Publication:
    """How a model's authors publish its weights."""

    model: str
    """For messages."""
    key: str
    """Under which a file holds the tensors."""
    get_it: str
    """Where the right file lies, for messages."""
    begin: tuple[str, ...]
    """How the names of tensors begin."""
    unused: re.Pattern[str]
    """Found in the names of those that are of no use."""

    def read(self, subject: str, source: str) -> dict[str, Tensor]:
        """Read a file's tensors by name, without the ``module.`` that parallel training puts before.

        Numbers of any precision are given in float32. Objects of any kind are not unpickled. A file in
        torch's present format is mapped into memory: only what is copied leaves the disk.

        Parameters
        ----------
        subject : str
            The spec, for messages; it begins with the encoder's name.

        Raises
        ------
        EncoderError
            If it is missing, damaged or another model's; what it is is said as far as it can be known.
        """
        file = Path(source).expanduser()
        if not file.is_file():
            reason = "not a file" if file.exists() else "no such file"
            raise EncoderError(f"{subject}: {reason}; {self.get_it}")
        try:
            content = load_plain(file)
        except Exception as error:  # torch raises nearly anything for a file that is no checkpoint
            raise EncoderError(f"{subject}: {_what_it_is(file)}; {self.get_it}") from error
        refuse_others(subject, source, content)
        if not isinstance(content, Mapping) or not isinstance(content.get(self.key), Mapping):
            raise EncoderError(
                f"{subject}: a checkpoint without {self.key!r}, so not {self.model}'s; {self.get_it}"
            )
        tensors = _named(content[self.key])
        state = {
            # A copy: a view would keep all of the file mapped.
            name: value.to(torch.float32 if value.is_floating_point() else value.dtype, copy=True)
            for name, value in tensors.items()
            if name.startswith(self.begin) and not self.unused.search(name)
        }
        if not state:
            first = ", ".join(list(tensors)[:3]) or "none"
            raise EncoderError(
                f"{subject}: another model's checkpoint (its first weights: {first}); {self.get_it}"
            )
        return state

    def fill(
        self,
        subject: str,
        towers: Mapping[str, nn.Module],
        state: Mapping[str, Tensor],
        official: Callable[[str], str],
    ) -> None:
        """Put weights under official names into towers that were made on torch's device ``meta``.

        Parameters
        ----------
        towers : mapping of str to nn.Module
            By the prefix of their names.
        official : callable
            From a prefixed name in a tower to the official one. Where three names become one with ``.qkv.``
            in it, query, key and value are one matrix there.

        Raises
        ------
        EncoderError
            Naming everything that is missing, surplus or misshaped.
        """
        shapes = official_shapes(towers, official)
        problems = {
            "missing": sorted(shapes.keys() - state.keys()),
            "surplus": sorted(state.keys() - shapes.keys()),
            "misshaped": [
                f"{name} {tuple(state[name].shape)} instead of {tuple(shape)}"
                for name, shape in sorted(shapes.items())
                if name in state and state[name].shape != shape
            ],
        }
        complaints = [f"{kind}: {', '.join(names)}" for kind, names in problems.items() if names]
        if complaints:
            raise EncoderError(f"{subject}: not {self.model}'s weights; {'; '.join(complaints)}")
        for prefix, tower in towers.items():
            own = {name: _part(name, state[official(prefix + name)]) for name in tower.state_dict()}
            tower.load_state_dict(own, assign=True)


def load_plain(file: Path | BinaryIO) -> Any:
    """Load what ``torch.save`` wrote: tensors, numbers and containers; numpy's numbers are left out.

    Raises
    ------
    Exception
        Nearly any, where there are objects in it, or it is something else.
    """
    with torch.serialization.safe_globals(list(_IGNORED)), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of archives of TorchScript; the error follows
        # A zip on disk can be mapped into memory; what old versions of torch wrote cannot.
        mapped = isinstance(file, Path) and zipfile.is_zipfile(file)
        return torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)


def _named(content: object) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        return {}
    return {
        str(name).removeprefix("module."): value
        for name, value in content.items()
        if isinstance(value, Tensor)
    }


def refuse_others(subject: str, source: str, content: object) -> None:
    """Raise where a file is known to be another encoder's than that which ``subject`` begins with."""
    states = [content.get(name) for name in ("model", "state_dict")] if isinstance(content, Mapping) else []
    for tensors in map(_named, (*states, content)):
        for card in CARDS.values():
            if any(all(_some_begin(tensors, start) for start in starts) for starts in card.weights):
                if subject.partition(":")[0] != card.name:
                    use = f"{card.name}:" + (" with its directory" if card.model_types else source)
                    raise EncoderError(f"{subject}: these are weights for {card.name}: use {use}")
                return


def _some_begin(names: Iterable[str], start: str) -> bool:
    return any(name.startswith(start) for name in names)


def misplaced(subject: str, source: str, otherwise: str) -> EncoderError:
    """Return the error for a file where something else is wanted: what it is, or ``otherwise``."""
    try:
        refuse_others(subject, source, load_plain(Path(source).expanduser()))
    except EncoderError as error:
        return error
    except Exception:  # whatever it is, it is none of the checkpoints that are known
        pass
    return EncoderError(f"{subject}: {otherwise}")


_HTSAT = (
    (".batch_norm.", ".bn0."),
    (".layernorm_before.", ".norm1."),
    (".layernorm_after.", ".norm2."),
    (".attention.self.query.", ".attn.qkv."),
    (".attention.self.key.", ".attn.qkv."),
    (".attention.self.value.", ".attn.qkv."),
    (".attention.self.", ".attn."),
    (".attention.output.dense.", ".attn.proj."),
    (".intermediate.dense.", ".mlp.fc1."),
    (".output.dense.", ".mlp.fc2."),
)


def official_htsat(name: str) -> str:
    """Return the name that HTSAT's authors gave to a weight of transformers' ``ClapAudioModel``."""
    for own, official in _HTSAT:
        name = name.replace(own, official)
    return name


def shape_of(state: Mapping[str, Tensor], name: str) -> tuple[int, int]:
    """Return the shape of a matrix; a small one where it is missing: :meth:`Publication.fill` says so."""
    tensor = state.get(name)
    return (1, 64) if tensor is None or tensor.ndim != 2 else (tensor.shape[0], tensor.shape[1])


def count_layers(state: Mapping[str, Tensor], before: str) -> int:
    """Return how many layers have weights whose names begin with ``before`` and the layer's number."""
    numbered = re.compile(re.escape(before) + r"(\d+)\.")
    return len({match[1] for name in state if (match := numbered.match(name))})


def bert_sizes(state: Mapping[str, Tensor], prefix: str) -> dict[str, Any]:
    """Tell the sizes of BERT or RoBERTa by its weights, as transformers' configurations call them."""
    words, width = shape_of(state, f"{prefix}embeddings.word_embeddings.weight")
    return {
        "vocab_size": words,
        "hidden_size": width,
        "num_hidden_layers": count_layers(state, f"{prefix}encoder.layer."),
        "num_attention_heads": max(1, width // 64),
        "intermediate_size": shape_of(state, f"{prefix}encoder.layer.0.intermediate.dense.weight")[0],
        "max_position_embeddings": shape_of(state, f"{prefix}embeddings.position_embeddings.weight")[0],
    }


def number_places(embeddings: nn.Module) -> None:
    """Compute what embeddings of BERT do not save, which is empty where they were made on device ``meta``."""
    places = torch.arange(cast(Any, embeddings).position_embeddings.num_embeddings)[None]
    embeddings.register_buffer("position_ids", places, persistent=False)
    embeddings.register_buffer("token_type_ids", torch.zeros_like(places), persistent=False)


def official_shapes(towers: Mapping[str, nn.Module], official: Callable[[str], str]) -> dict[str, torch.Size]:
    """Return the shapes of the weights that :meth:`Publication.fill` wants, under their official names."""
    shapes: dict[str, torch.Size] = {}
    for prefix, tower in towers.items():
        for name, tensor in tower.state_dict().items():
            named, shape = official(prefix + name), tensor.shape
            shapes[named] = torch.Size([3 * shape[0], *shape[1:]]) if ".qkv." in named else shape
    return shapes


def _part(name: str, tensor: Tensor) -> Tensor:
    """Cut query, key or value out of the matrix that holds all three."""
    for part, kind in enumerate(("query", "key", "value")):
        if f".attention.self.{kind}." in name and ".blocks." in name:
            return tensor.chunk(3)[part].clone()
    return tensor


def _what_it_is(file: Path) -> str:
    """Say what a file seems to be that torch cannot load."""
    with file.open("rb") as opened:
        start = opened.read(512)
    size = f"{file.stat().st_size:,} bytes"
    if start.lstrip()[:1] == b"<":
        return f"a web page, not a checkpoint ({size})"
    if zipfile.is_zipfile(file):
        return f"not a checkpoint of plain tensors ({size})"
    if start[:2] == b"PK":
        return f"a damaged checkpoint, most likely a download that was cut off ({size})"
    return f"not a checkpoint that torch can read ({size})"
