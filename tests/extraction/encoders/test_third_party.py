"""Encoders of somebody's: the example of "Bring your own encoder", and what others may get wrong."""

from __future__ import annotations

import importlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from contracts import check_encoder
from own_example import write_example
from samples import write_palm_folder
from spectrum import LetterTower
from torch import Tensor

from palm_cache.errors import EncoderError
from palm_cache.extraction.datasets.palm_layout import read
from palm_cache.extraction.encoders import own_code
from palm_cache.extraction.encoders.base import Encoder, EncoderCard, Request, Window
from palm_cache.extraction.encoders.engine import CPU
from palm_cache.extraction.encoders.registry import load_encoder
from palm_cache.extraction.encoders.text import PromptTower, embed_prompts
from palm_cache.extraction.encoders.third_party import load_own
from palm_cache.extraction.extract import extract
from palm_cache.types import PromptTokens

SPEC = "python:my_encoder:Birds:birds.pt"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in a folder with the example in it."""
    torch.manual_seed(0)
    write_example(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield
    for name in ("my_encoder", "my_scale"):
        sys.modules.pop(name, None)


def test_class_names_that_nobody_reads_have_not_collapsed(tmp_path: Path) -> None:
    extraction = extract(read(write_palm_folder(tmp_path / "Tones")), SPEC, tmp_path / "birds.zarr")
    assert extraction.embedded == 12
    assert not any("class names" in note for note in extraction.notes)


def test_an_option_behind_the_colon_is_part_of_the_recipe_and_a_place_of_weights_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the vectors of one option would be taken for those of another."""
    module = (tmp_path / "my_encoder.py").read_text()
    (tmp_path / "my_scale.py").write_text(module.replace("request.source", '"birds.pt"'))
    table = read(write_palm_folder(tmp_path / "Tones"))

    def embedded(option: str) -> int:
        return extract(
            table, f"python:my_scale:Birds:{option}", tmp_path / f"{Path(option).name}.zarr"
        ).embedded

    shutil.copy("birds.pt", tmp_path / "Tones" / "moved.pt")
    assert [embedded(option) for option in ("7", "1", "7")] == [12, 12, 0]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert [embedded(option) for option in ("birds.pt", "Tones/moved.pt", "~/Tones/moved.pt")] == [12, 0, 0]
    assert "option" in load_encoder(f"python:my_scale:Birds:{'too long for a name ' * 20}").identity


def test_the_example_is_complete_and_keeps_the_contract() -> None:
    encoder = load_encoder(SPEC, device="cpu")
    check_encoder(encoder)
    again = load_encoder(SPEC, device="cpu")
    assert encoder.identity == again.identity
    assert encoder.dim == 32


def _same(vectors: Tensor) -> Tensor:
    return vectors


class Loudness(torch.nn.Module):
    """Mean power of four quarters of a clip, (batch, ..., samples) -> (batch, 4), then something more."""

    def __init__(self, more: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.more = more

    def forward(self, waveforms: Tensor) -> Tensor:
        return self.more(torch.stack([part.square().mean(-1) for part in waveforms.chunk(4, dim=-1)], dim=-1))


class Letters(PromptTower):
    """The mean of four numbers for each letter, then something more."""

    def __init__(self, more: Callable[[Tensor], Tensor] = _same, reads: int = 9_999) -> None:
        super().__init__(CPU, dim=4, token_dim=8, identity={})
        self._tower, self._more, self._reads = LetterTower(4), more, reads

    def tokens(self, texts: Sequence[str], n_context: int) -> PromptTokens:
        return self._tower.tokens([text[: self._reads] for text in texts], n_context)

    def encode_rows(self, embeddings: Tensor, mask: Tensor, context: slice) -> Tensor:
        return self._more(self._tower.encode(embeddings, PromptTokens(embeddings, mask, context)))


def load(kind: type[Encoder] | None = None, more: Callable[[Tensor], Tensor] = _same, **how: Any) -> Encoder:
    class Ears(kind or Encoder):  # type: ignore[misc]
        card = EncoderCard("ears")

        @classmethod
        def load(cls, request: Request) -> Encoder:
            given = {"dim": 4, "sample_rate": 8_000, "window": Window(8_000), "constants": {}, **how}
            return cls(request, Loudness(more), **given)

    return load_own(Ears, Request("ears", "", CPU))


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_network_may_be_of_torchscript() -> None:
    class Scripted(Encoder):
        card = EncoderCard("scripted")

        @classmethod
        def load(cls, request: Request) -> Encoder:
            network = torch.jit.trace(torch.nn.Conv1d(1, 4, 8_000), torch.zeros(1, 1, 8_000))
            window = Window(8_000)
            return cls(request, network, dim=4, sample_rate=8_000, window=window, constants={"network": "0"})

        def embed_windows(self, waveforms: Tensor) -> Tensor:
            return self.run_tower(waveforms)[..., 0]

    check_encoder(load_own(Scripted, Request("scripted", "", CPU)))


class Overwriting(Encoder):
    """Scales in place."""

    def front_end(self, waveforms: Tensor) -> Tensor:
        waveforms *= 32_768
        return waveforms[:, 0]


def test_an_encoder_may_work_in_place_and_read_prompts_of_any_length() -> None:
    encoder = load(Overwriting, text=Letters(), constants={"fft": (512, 256)})
    waveforms = torch.ones(1, 1, 8_000)
    assert torch.equal(encoder.embed_audio(waveforms), torch.full((1, 4), 32_768.0**2))
    assert torch.equal(waveforms, torch.ones(1, 1, 8_000))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"constants": {"mel": torch.zeros(2)}}, "constants are not what JSON can hold: TypeError"),
        ({"constants": {1: 2}}, "constants are not what JSON can hold: TypeError"),
        ({"made_with": {"licence": object()}}, "constants are not what JSON can hold: TypeError"),
        ({"dim": 4.0}, r"no encoder can have dim 4\.0; what is counted is an int above 0"),
        (
            {"window": Window(8_000, max_windows=3)},
            "hears only the first of a clip's windows, of which it asks for up to 3",
        ),
        ({"window": Window(8_000, padding="nan")}, r"made NaN or infinity of a clip, .* left out\?"),
        ({"more": lambda v: v.cumsum(0)}, "a clip's vector depends on the clips beside it"),
        (
            {"more": lambda v: v[:, :3]},
            r"made vectors of shape \(2, 3\) from .* \(2, 1, 8000\); it promised \(2, 4\)",
        ),
        (
            {"more": lambda v: v.nothing},
            r"cannot embed clips of 8000 and 5334 samples, waveforms of shape \(2, 1, 8000\): AttributeError"
            r".* \(test_third_party\.py, line \d+, in <lambda>\)",
        ),
        ({"more": lambda v: (v, v)}, r"made tuple; wanted is a tensor of floats, \(batch, dim\)"),
        ({"more": lambda v: v.numpy()}, "made ndarray; wanted is a tensor of floats"),
        ({"more": lambda v: v + 1j}, r"made torch\.complex64; wanted is a tensor of floats"),
        ({"more": lambda v: exit(2)}, r"cannot embed clips .*: SystemExit: 2 \(test_third_party\.py, line"),
        ({"window": 8_000}, "Encoder was made with int where it wants Window"),
        ({"constants": None}, "Encoder was made with NoneType where it wants Mapping"),
        ({"text": abs}, "Encoder was made with builtin_function_or_method where it wants PromptTower"),
        ({"more": lambda v: v + torch.randn_like(v)}, "another vector of the same clip each time"),
        ({"dim": 3, "more": lambda v: v[:, :3], "text": Letters()}, "its text tower makes 4 numbers, .* 3"),
        (
            {"text": Letters(lambda v: v[:, :3])},
            r"made vectors of shape \(2, 3\) from 2 prompts; it promised \(2, 4\)",
        ),
        ({"text": Letters(lambda v: v / 0)}, "made NaN or infinity of prompt 'dog'"),
        ({"text": Letters(lambda v: v - v.mean(0))}, "a prompt's vector depends on the prompts beside it"),
        ({"text": Letters(lambda v: v.nothing)}, "cannot embed a prompt: AttributeError"),
        ({"text": Letters(reads=77)}, "cuts long prompts off and does not say so"),
    ],
)
def test_a_promise_that_is_broken_is_named(how: dict[str, Any], message: str) -> None:
    with pytest.raises(EncoderError, match=rf"^ears: .*{message}") as caught:
        load(**how)
    assert "\n" not in str(caught.value)


def test_a_text_tower_that_breaks_its_promise_later_is_named_too() -> None:
    def of_two_rows(vectors: Tensor) -> Tensor:
        return vectors if len(vectors) <= 2 else vectors[:2]

    tower = load(text=Letters(of_two_rows)).text_tower()
    assert tower is not None
    with pytest.raises(EncoderError, match=r"^ears: made vectors of shape \(2, 4\) from 3 prompts"):
        embed_prompts(tower, ["dog", "cat", "bell"])


@pytest.mark.parametrize(
    "of_clip",
    [lambda waveforms: waveforms, lambda waveforms: float(waveforms.sum()), lambda waveforms: [waveforms]],
)
def test_an_encoder_that_keeps_a_clip_in_itself_is_refused(of_clip: Callable[[Tensor], Any]) -> None:
    class Keeping(Encoder):
        def front_end(self, waveforms: Tensor) -> Tensor:
            self.shape, self.table, self.heard = (
                waveforms.shape,
                getattr(self, "table", [0]),
                of_clip(waveforms),
            )
            return waveforms[:, 0]

    with pytest.raises(EncoderError, match=r"keeps something of a clip in self\.heard; several threads"):
        load(Keeping)


def test_an_encoder_may_count_and_keep_what_is_of_no_clip() -> None:
    class Counting(Encoder):
        calls, seconds = 0, 0.0

        def front_end(self, waveforms: Tensor) -> Tensor:
            self.calls, self.seconds = self.calls + 1, time.perf_counter()
            self.taper, self.shape = torch.hann_window(4), tuple(waveforms.shape)
            return waveforms[:, 0]

    load(Counting)


def test_two_classes_of_a_module_with_one_card_are_two_encoders(tmp_path: Path) -> None:
    with Path("my_encoder.py").open("a") as module:
        module.write("\n\nclass Loud(Birds):\n    def front_end(self, waveforms):\n")
        module.write("        return 2 * super().front_end(waveforms)\n")
    table = read(write_palm_folder(tmp_path / "Tones"))
    first = extract(table, SPEC, tmp_path / "features" / "birds.zarr")
    second = extract(table, SPEC.replace("Birds", "Loud"), tmp_path / "features" / "loud.zarr")
    assert (first.embedded, second.embedded) == (12, 12)


def test_code_that_was_edited_since_it_was_loaded_is_not_taken_for_what_is_run() -> None:
    first = load_encoder(SPEC, device="cpu").identity
    with Path("my_encoder.py").open("a") as module:
        module.write("# edited\n")
    with pytest.raises(EncoderError, match=r"my_encoder\.py: it, or .*, was edited since Python loaded it"):
        load_encoder(SPEC, device="cpu")
    importlib.reload(sys.modules["my_encoder"])
    assert load_encoder(SPEC, device="cpu").identity != first


def test_what_imports_code_that_was_edited_is_reloaded_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, helper = Path("my_encoder.py"), tmp_path / "my_scale.py"
    helper.write_text("SCALE = 1\n")
    encoder.write_text(f"from my_scale import SCALE\n{encoder.read_text()}")
    monkeypatch.setattr(own_code, "_RUN", {})
    first = load_encoder(SPEC, device="cpu").identity
    helper.write_text("SCALE = 2 + 1\n")
    for name in ("my_scale", "my_encoder"):
        with pytest.raises(EncoderError, match=rf"{name}\.py: it, or what it imports, was edited"):
            load_encoder(SPEC, device="cpu")
        importlib.reload(sys.modules[name])
    assert sys.modules["my_encoder"].SCALE == 3
    assert load_encoder(SPEC, device="cpu").identity != first


def test_a_script_has_code_and_a_notebook_none(monkeypatch: pytest.MonkeyPatch) -> None:
    script = ModuleType("__main__")
    script.__file__ = str(Path("my_encoder.py").resolve())
    monkeypatch.setitem(sys.modules, "__main__", script)
    monkeypatch.setattr(own_code, "_RUN", {})
    assert own_code.hash_run_code("__main__") == own_code.hash_code("__main__")
    del script.__file__
    with pytest.raises(EncoderError, match=r"__main__: has no file, .* in a notebook with %%writefile"):
        own_code.hash_run_code("__main__")


def test_an_encoder_that_hears_the_padding_is_refused() -> None:
    class Deaf(Encoder):
        def front_end(self, waveforms: Tensor) -> Tensor:
            return waveforms[:, 0].nan_to_num(nan=1.0)

    with pytest.raises(EncoderError, match="is padding masked"):
        load(Deaf, window=Window(8_000, padding="nan"))
