from __future__ import annotations

import pytest
import torch
from contracts import make_waveforms

from palm_cache.extraction.encoders import engine
from palm_cache.extraction.encoders.engine import CPU, Engine
from palm_cache.extraction.encoders.registry import load_encoder
from palm_cache.params import Recipe


@pytest.fixture
def nobody_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as torch's switches go: what other tests have left open holds them."""
    monkeypatch.setattr(engine, "_PRODUCTS", engine._Products())


@pytest.mark.usefixtures("nobody_computes")
def test_float32_products_are_exact_whatever_the_process_chose() -> None:
    """A process may let CPUs multiply in bf16 and has then used torch's new switches."""
    encoder = load_encoder("mini", device="cpu")
    waveforms = make_waveforms(encoder, 2)
    expected, texts = encoder.embed_audio(waveforms), encoder.embed_text(["dog"])
    switch = torch.backends.mkldnn.matmul
    before = switch.fp32_precision
    torch.set_float32_matmul_precision("medium")
    try:
        assert switch.fp32_precision == "bf16"
        assert torch.equal(encoder.embed_audio(waveforms), expected)
        assert torch.equal(encoder.embed_text(["dog"]), texts)
        assert switch.fp32_precision == "bf16"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert switch.fp32_precision in (before, "ieee")


@pytest.mark.usefixtures("nobody_computes")
def test_they_stay_exact_for_a_thread_while_another_is_done_and_are_then_as_they_were() -> None:
    switch = torch.backends.mkldnn.matmul
    torch.set_float32_matmul_precision("medium")
    try:
        one, other = CPU.products(), CPU.products()
        one.__enter__()
        other.__enter__()
        one.__exit__(None, None, None)
        assert switch.fp32_precision == "ieee"
        other.__exit__(None, None, None)
        assert switch.fp32_precision == "bf16"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_tf32_is_a_recipe_of_its_own_and_exact_where_there_is_none() -> None:
    encoder, exact = (load_encoder("mini", Recipe(precision=p), device="cpu") for p in ("tf32", "fp32"))
    assert encoder.identity["precision"] == "tf32"
    assert encoder.identity != exact.identity
    waveforms = make_waveforms(encoder, 2)
    assert torch.equal(encoder.embed_audio(waveforms), exact.embed_audio(waveforms))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_tf32_on_a_gpu_is_near_fp32_and_fp32_stays_exact() -> None:
    encoder, exact = (load_encoder("mini", Recipe(precision=p), device="cuda") for p in ("tf32", "fp32"))
    waveforms = make_waveforms(encoder, 4)
    expected = exact.embed_audio(waveforms)
    assert torch.cosine_similarity(encoder.embed_audio(waveforms), expected).min() > 0.9999
    torch.backends.cuda.matmul.fp32_precision = torch.backends.cudnn.conv.fp32_precision = "tf32"
    assert torch.equal(exact.embed_audio(waveforms), expected)


def test_an_engine_computes_text_in_torch() -> None:
    cpu = torch.device("cpu")
    assert Engine(cpu, "bf16", "openvino").text == Engine(cpu, "fp32")
    assert Engine(cpu, "bf16", compiled=True).text == Engine(cpu, "bf16")
