from __future__ import annotations

import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from contracts import make_waveforms

from palm_cache.errors import EncoderError
from palm_cache.extraction.encoders import compiled
from palm_cache.extraction.encoders.compiled import CompiledTower
from palm_cache.extraction.encoders.registry import load_encoder
from palm_cache.params import Recipe

CPU = torch.device("cpu")


class Tower(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(5, 3)

    def forward(self, log_mel: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.gelu(self.inner(log_mel)).mean(dim=1)


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The programs that torch makes; they are traced as ever but not translated to C++, which takes long."""
    made: list[object] = []
    compile_module = torch.compile

    def backend(program: Any, inputs: object) -> object:
        made.append(program)
        return program.forward

    def traced(module: torch.nn.Module, *, dynamic: bool, options: object) -> object:
        return compile_module(module, dynamic=dynamic, backend=backend)

    monkeypatch.setattr(torch, "compile", traced)
    torch._dynamo.reset()
    return made


@torch.inference_mode()
def test_one_program_serves_every_number_of_clips(programs: list[object]) -> None:
    tower = Tower().eval().requires_grad_(False)
    fast = CompiledTower(tower, CPU)
    for count in (4, 2, 1, 7):
        mel = torch.randn(count, 6, 5)
        torch.testing.assert_close(fast(mel), tower(mel), atol=1e-6, rtol=0)
    assert len(programs) == 1


def test_several_workers_share_a_program(programs: list[object]) -> None:
    encoder, plain = load_encoder("mini", Recipe(compile=True)), load_encoder("mini")
    waveforms = make_waveforms(encoder, 6)
    with ThreadPoolExecutor(3, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        embeddings = torch.cat(list(pool.map(encoder.embed_audio, waveforms[:, None].unbind())))
    torch.testing.assert_close(embeddings, plain.embed_audio(waveforms), atol=1e-5, rtol=0)
    assert len(programs) == 1


def test_in_fp32_it_is_the_same_encoder_and_in_bf16_another() -> None:
    def identity(**options: Any) -> Mapping[str, object]:
        return load_encoder("mini", Recipe(**options)).identity

    assert identity(compile=True) == identity()
    assert identity(compile=True, precision="bf16") != identity(precision="bf16")


def test_without_a_compiler_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    with pytest.raises(EncoderError, match=r"no C\+\+ compiler here .* or leave compile out"):
        load_encoder("mini", Recipe(compile=True))


@pytest.mark.skipif(not any(map(shutil.which, compiled.CPU_COMPILERS)), reason="no C++ compiler here")
@torch.inference_mode()
def test_what_torch_compiles_gives_the_same() -> None:
    tower = Tower().eval().requires_grad_(False)
    fast = CompiledTower(tower, CPU)
    mel = torch.randn(4, 6, 5)
    torch.testing.assert_close(fast(mel), tower(mel), atol=1e-6, rtol=0)
