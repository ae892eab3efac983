from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import soundfile
import torch
from contracts import PROMPTS, check_encoder, make_waveforms
from safetensors.torch import save_file
from torch.nn.functional import normalize
from torchaudio.functional import resample

from palm_cache.errors import EncoderError
from palm_cache.extraction.audio.waveforms import cut_windows
from palm_cache.extraction.datasets.demo import synthesise
from palm_cache.extraction.datasets.registry import read_dataset
from palm_cache.extraction.encoders.mini import WEIGHTS, MiniEncoder
from palm_cache.extraction.encoders.mini_towers import CNN_DIM, CNN_SHARE, SAMPLE_RATE, word_buckets
from palm_cache.extraction.encoders.registry import load_encoder
from palm_cache.params import Recipe
from palm_cache.types import ZERO_SHOT_TEMPLATE


@pytest.fixture(scope="module")
def encoder() -> MiniEncoder:
    return MiniEncoder.load()


def test_mini_keeps_the_contract(encoder: MiniEncoder) -> None:
    check_encoder(encoder)


def test_weights_are_small_and_their_hash_is_in_the_identity(encoder: MiniEncoder) -> None:
    content = WEIGHTS.read_bytes()
    assert len(content) <= 4 * 2**20
    identity = encoder.format1_identity()
    assert identity["weights_sha256"] == hashlib.sha256(content).hexdigest()


def test_both_parts_of_an_audio_vector_have_their_share(encoder: MiniEncoder) -> None:
    audio = encoder.embed_audio(make_waveforms(encoder, 3, windows=2))
    torch.testing.assert_close(audio[:, :CNN_DIM].norm(dim=1), torch.full((3,), CNN_SHARE**0.5))
    torch.testing.assert_close(audio.norm(dim=1), torch.ones(3))


def test_text_ends_in_zeros_where_audio_holds_its_statistics(encoder: MiniEncoder) -> None:
    text = encoder.embed_text(PROMPTS)
    assert (text[:, CNN_DIM:] == 0).all()
    torch.testing.assert_close(text.norm(dim=1), torch.ones(len(PROMPTS)))


def test_cnn_vectors_of_windows_are_averaged_before_they_are_scaled(encoder: MiniEncoder) -> None:
    waveforms = make_waveforms(encoder, 2).view(1, 2, -1)
    logs = []
    hook = encoder.towers.audio.register_forward_hook(
        lambda _, inputs, output: logs.append((inputs[0], output))
    )
    audio = encoder.embed_audio(waveforms)
    hook.remove()
    windows = encoder.towers.audio.windows(logs[0][0][0])
    torch.testing.assert_close(windows.mean(0, keepdim=True), logs[0][1])
    torch.testing.assert_close(
        audio[:, :CNN_DIM], CNN_SHARE**0.5 * normalize(windows.mean(0, keepdim=True), dim=1)
    )


def test_level_does_not_count(encoder: MiniEncoder) -> None:
    waveforms = make_waveforms(encoder, 2)
    torch.testing.assert_close(
        encoder.embed_audio(0.01 * waveforms), encoder.embed_audio(waveforms), atol=1e-3, rtol=0
    )


def test_bf16_is_close_to_fp32(encoder: MiniEncoder) -> None:
    half = load_encoder("mini", Recipe(precision="bf16"), device="cpu")
    assert half.identity != encoder.identity
    waveforms = make_waveforms(encoder, 3)
    cosines = (half.embed_audio(waveforms) * encoder.embed_audio(waveforms)).sum(1)
    assert (cosines > 0.995).all()


@pytest.mark.parametrize("prompt", ["", " ", "\t\n", "\u3000"])
def test_empty_prompts_are_refused(encoder: MiniEncoder, prompt: str) -> None:
    with pytest.raises(EncoderError, match="empty"):
        encoder.embed_text(["dog", prompt])


@pytest.mark.parametrize(
    "prompt", ["?", "犬の鳴き声", "🐕", "собака", "a", "\udcff", "x" * 5000, "dog " * 2000]
)
def test_any_other_text_has_a_vector(encoder: MiniEncoder, prompt: str) -> None:
    text = encoder.embed_text([prompt])
    assert torch.isfinite(text).all()
    assert text.norm() > 0.99


def test_no_prompts_give_no_rows(encoder: MiniEncoder) -> None:
    assert encoder.embed_text([]).shape == (0, encoder.dim)


def test_case_and_separators_do_not_count(encoder: MiniEncoder) -> None:
    text = encoder.embed_text(["Dog_Bark", "dog bark", "DOG-BARK!"])
    torch.testing.assert_close(text[0], text[1])
    torch.testing.assert_close(text[0], text[2])


def test_hashes_are_the_same_on_every_machine() -> None:
    assert sorted(set(word_buckets("dog"))) == [3608, 5022, 5572, 6028, 6250, 6525]


def test_it_learned_which_prompt_fits(encoder: MiniEncoder) -> None:
    """A steady siren-like sweep is nearer to ``siren`` than to what sounds otherwise."""
    time = torch.arange(encoder.window.samples) / encoder.sample_rate
    sweep = 600 * torch.exp(0.4 * torch.sin(2 * torch.pi * 0.5 * time))
    turns = 2 * torch.pi * sweep.cumsum(0) / encoder.sample_rate
    siren = torch.sin(turns) + 0.5 * torch.sin(2 * turns)
    noise = 0.02 * torch.randn(len(time), generator=torch.Generator().manual_seed(0))
    audio = encoder.embed_audio((siren + noise).view(1, 1, -1))
    scores = audio @ encoder.embed_text(["siren", "dog bark", "jackhammer", "footsteps", "water"]).T
    assert scores.argmax() == 0


def _read(file: Path) -> torch.Tensor:
    sound, rate = soundfile.read(file, dtype="float32", always_2d=True)
    return resample(torch.from_numpy(sound.mean(axis=1)), rate, SAMPLE_RATE)


def test_the_demo_is_recognised_by_name_and_not_by_chance(encoder: MiniEncoder, tmp_path: Path) -> None:
    """Zero-shot on sounds that it never heard, against the same with every name shifted."""
    synthesise(tmp_path / "demo", clips_per_class=10, seed=0)
    table = read_dataset("demo", tmp_path / "demo")
    audio = [encoder.embed_audio(cut_windows(_read(clip.file), encoder.window)[None]) for clip in table.clips]
    text = encoder.embed_text([ZERO_SHOT_TEMPLATE.replace("{c}", name) for name in table.class_names])
    scores, labels = torch.cat(audio) @ text.T, torch.tensor([clip.label for clip in table.clips])
    shifted = [float((scores.roll(shift, dims=1).argmax(1) == labels).float().mean()) for shift in range(10)]
    assert shifted[0] > 0.6
    assert sum(shifted[1:]) / 9 < 0.15


def test_foreign_weights_are_refused(tmp_path: Path) -> None:
    damaged = tmp_path / "mini.safetensors"
    damaged.write_bytes(WEIGHTS.read_bytes()[:1000])
    other = tmp_path / "other.safetensors"
    save_file({"text.weight": torch.zeros(3)}, other)
    for path in (other, damaged, tmp_path / "absent.safetensors"):
        with pytest.raises(EncoderError, match="cannot load mini's weights") as caught:
            MiniEncoder.load(weights=path)
        assert "\n" not in str(caught.value)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_the_cpu(encoder: MiniEncoder) -> None:
    other = load_encoder("mini", device="cuda")
    waveforms = make_waveforms(encoder, 3, windows=2)
    torch.testing.assert_close(
        other.embed_audio(waveforms), encoder.embed_audio(waveforms), atol=1e-3, rtol=0
    )
    torch.testing.assert_close(other.embed_text(PROMPTS), encoder.embed_text(PROMPTS), atol=1e-3, rtol=0)
