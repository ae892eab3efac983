from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from contracts import check_encoder, make_waveforms
from samples import make_features, write_sample
from spectrum import SpectrumEncoder
from transformers import RobertaTokenizerFast

from palm_cache.errors import EncoderError, StaleStoreError, UnknownNameError
from palm_cache.extraction.encoders import msclap, pengi, pretrained, registry
from palm_cache.extraction.encoders.base import Request, Window
from palm_cache.extraction.encoders.cards import CODE, REMOTE_CODE
from palm_cache.extraction.encoders.engine import CPU, Engine
from palm_cache.extraction.encoders.registry import cards, encoder_names, load_encoder, split_spec
from palm_cache.extraction.recipe import audio_recipe, format1_print, recipe_of
from palm_cache.extraction.recorded import load_same_encoder, load_text_tower
from palm_cache.params import Recipe
from palm_cache.params.use import LoadingParams
from palm_cache.store.features import FeatureStore
from palm_cache.store.fingerprint import fingerprint

MINI_OF_FORMAT_1 = "f0dc2adc2016f45bdcddf8b86e883c143c41d2bf2c0bb5312040c310fe79df03"
"""Fingerprint of every store of format 1 that mini made in fp32 by crops."""

OWN = """
    import torch
    from palm_cache.extraction.encoders.base import Encoder, EncoderCard, Window


    class Loudness(torch.nn.Module):
        def forward(self, waveforms):
            return waveforms.unflatten(1, (4, -1)).std(2)


    class Ears(Encoder):
        card = EncoderCard("ears")

        @classmethod
        def load(cls, request):
            {load}
            return cls(request, Loudness(), dim=4, sample_rate=8000, window=Window(8000), constants={{}})


    class Deaf:
        pass
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder whose modules are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    forget_modules()


def forget_modules() -> None:
    """Have the modules that tests write imported anew."""
    for name in [name for name in sys.modules if name.startswith(("my_", "broken_"))]:
        del sys.modules[name]
    importlib.invalidate_caches()


def write_ears(folder: Path, load: str = "pass") -> None:
    (folder / "my_ears.py").write_text(textwrap.dedent(OWN.format(load=load)))


def test_a_recipe_is_found_again_in_what_is_recorded() -> None:
    for recipe in (
        Recipe(),
        Recipe(views=4),
        Recipe(long="mean"),
        Recipe(precision="bf16"),
        Recipe(precision="bf16", compile=True),
    ):
        assert recipe_of(audio_recipe(load_encoder("mini", recipe, device="cpu"), recipe)) == recipe
    assert recipe_of({"window": [1, 1, "tile", "mean"], "precision": "bf16"}) == Recipe(
        long="mean", precision="bf16"
    )
    assert recipe_of({"window": [1, 1, "tile"], "runtime": "openvino 2026.4"}) == Recipe(runtime="openvino")
    assert recipe_of({}, tokenizer="here") == Recipe(tokenizer="here")


def test_a_store_of_format_1_is_recognised() -> None:
    encoder = load_encoder("mini", device="cpu")
    assert format1_print(encoder, Recipe()) == MINI_OF_FORMAT_1
    assert format1_print(encoder, Recipe(long="mean")) != MINI_OF_FORMAT_1
    assert format1_print(SpectrumEncoder(), Recipe()) is None


def test_the_same_encoder_is_loaded_by_its_record_old_or_new_and_another_refused() -> None:
    said = {"purpose": "made it", "advice": "extract again", "loading": LoadingParams(device="cpu")}
    encoder = load_encoder("mini", device="cpu")
    recorded = audio_recipe(encoder, Recipe())
    for wanted in (fingerprint(recorded), MINI_OF_FORMAT_1):
        assert load_same_encoder("mini", recorded, wanted, **said).spec == "mini"
    other = {**recorded, "weights_sha256": "0"}
    with pytest.raises(StaleStoreError, match=r"other weights than those that made it .*; extract again"):
        load_same_encoder("mini", other, fingerprint(other), **said)


def test_an_encoders_own_number_changes_its_recipe_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def prints() -> list[str]:
        return [
            fingerprint(audio_recipe(one, Recipe()))
            for one in (load_encoder("mini", device="cpu"), SpectrumEncoder())
        ]

    before = prints()
    monkeypatch.setattr(SpectrumEncoder, "IMPLEMENTATION", 2)
    assert prints()[0] == before[0]
    assert prints()[1] != before[1]


def test_unknown_encoders_and_missing_sources_are_named() -> None:
    with pytest.raises(UnknownNameError, match="did you mean mini"):
        load_encoder("minni")
    with pytest.raises(EncoderError, match="mini takes no source; write just: mini"):
        load_encoder("mini:x")
    with pytest.raises(EncoderError, match=r"say which weights: pengi:CHECKPOINT, e\.g\. pengi:base\.pth"):
        load_encoder("pengi")
    assert split_spec("clap:a/b@c") == ("clap", "a/b@c")
    assert {card.name for card in cards()} >= {"mini", "clap", "pengi"}
    assert all(card.description and card.window and card.licence for card in cards())


def test_a_name_that_would_be_taken_for_joined_encoders_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "a+b"
    place.mkdir()
    with pytest.raises(EncoderError, match=r"clap:.*a\+b': \+ stands between the names of joined encoders"):
        load_encoder(f"clap:{place}")


def test_a_class_of_the_users_own_is_an_encoder(here: Path) -> None:
    write_ears(here)
    encoder = load_encoder("python:my_ears:Ears", device="cpu")
    check_encoder(encoder)
    assert encoder.identity["encoder"] == "ears"
    # What a file says of code is not followed, only what the user says.
    recorded = audio_recipe(encoder, Recipe())
    said = {"purpose": "made it", "advice": "", "loading": LoadingParams(device="cpu")}
    with pytest.raises(EncoderError, match="name it: encoder python:my_ears:Ears"):
        load_same_encoder(encoder.spec, recorded, fingerprint(recorded), **said)
    load_same_encoder(
        encoder.spec,
        recorded,
        fingerprint(recorded),
        **{**said, "loading": LoadingParams(encoder.spec, "cpu")},
    )


def test_code_of_the_users_own_may_import_its_neighbours_late_and_print(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_ears(here, "from my_sibling import anything; print('loading')")
    (here / "my_sibling.py").write_text("anything = 1\n")
    load_encoder("python:my_ears:Ears", device="cpu")
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "loading\n")


IMPORTING = """
    import torch, my_package.parts as parts
    from my_constants import FFT
    from my_ears import Ears


    class Sharper(Ears):
        def front_end(self, waveforms):
            from my_package.lazily import sharpen

            return sharpen(waveforms[:, 0])
"""


def test_the_code_of_ones_own_encoder_is_all_that_it_imports_and_is_not_installed(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in (here, here / "site-packages"):
        monkeypatch.syspath_prepend(folder)
    write_ears(here)
    files = {
        "my_sharper.py": textwrap.dedent(IMPORTING),
        "my_constants.py": "FFT = 512\n",
        "my_package/__init__.py": "",
        "my_package/parts.py": "from . import beside\n",
        "my_package/beside.py": "import numpy, installed\n",
        "my_package/lazily.py": "sharpen = abs\n",
        "my_package/other.py": "",
        "site-packages/installed/__init__.py": "",
    }
    for name, code in files.items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(code)

    def code() -> object:
        forget_modules()
        return load_encoder("python:my_sharper:Sharper", device="cpu").identity[CODE]

    before = code()
    assert code() == before
    for name in ["my_ears.py", *files]:
        content = (here / name).read_text()
        (here / name).write_text(f"{content}# mended\n")
        counts = name not in ("my_package/other.py", "site-packages/installed/__init__.py")
        assert (code() != before) == counts, name
        (here / name).write_text(content)


def test_a_store_from_before_code_was_recorded_is_by_other_code(here: Path) -> None:
    write_ears(here)
    recorded = audio_recipe(load_encoder("python:my_ears:Ears", device="cpu"), Recipe())
    old = {key: value for key, value in recorded.items() if key != CODE}
    loading = LoadingParams("python:my_ears:Ears", "cpu")
    with pytest.raises(StaleStoreError, match="other code than those that made it"):
        load_same_encoder(loading.encoder, old, fingerprint(old), loading, purpose="made it", advice="")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("python:my_ears", r"write python:MODULE:CLASS"),
        (
            "python:my_ears.py:Ears",
            "with the names that Python imports, not a file's, e",
        ),
        ("python:./my_ears:Ears", r"write python:MODULE:CLASS"),
        ("python:no_ears:Ears", r"cannot import Ears from no_ears: ModuleNotFoundError"),
        ("python:my_ears:Nose", r"no Nose in \S+my_ears\.py; did you mean Ears\?"),
        ("python:broken_folder:Nose", r"no Nose in broken_folder; write it there"),
        ("python:my_ears:Deaf", r"my_ears\.Deaf is no subclass of"),
        ("python:broken_ears:Silent", r"broken_ears\.Silent has no @classmethod load\(cls, request\)"),
        ("python:broken_ears:Plain", r"broken_ears\.Plain has no @classmethod load\(cls, request\)"),
        (
            "python:broken_script:Ears",
            r"cannot import Ears from broken_script: SystemExit: give a file \(broken_script\.py, line 1",
        ),
    ],
)
def test_what_is_no_encoder_is_said(here: Path, spec: str, message: str) -> None:
    write_ears(here)
    (here / "broken_folder").mkdir()
    (here / "broken_script.py").write_text("raise SystemExit('give a file')\n")
    (here / "broken_ears.py").write_text(
        "from my_ears import Encoder, EncoderCard\n"
        "class Silent(Encoder):\n    card = EncoderCard('silent')\n"
        "class Plain(Silent):\n    def load(self, request):\n        pass\n"
    )
    with pytest.raises(EncoderError, match=message):
        load_encoder(spec, device="cpu")


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (
            "open('gone.pt')",
            r"cannot be loaded: FileNotFoundError.*'gone\.pt' \(my_ears\.py, line 16, in load\)",
        ),
        ("raise SystemExit(2)", r"cannot be loaded: SystemExit: 2 \(my_ears\.py, line 16, in load\)"),
        ("return cls.__new__(cls)", "whose __init__ called Encoder's"),
        ("return 3", "load must return an encoder"),
    ],
)
def test_what_cannot_be_loaded_is_said(here: Path, load: str, message: str) -> None:
    write_ears(here, load)
    with pytest.raises(EncoderError, match=message) as caught:
        load_encoder("python:my_ears:Ears", device="cpu")
    assert "\n" not in str(caught.value)


def test_installed_packages_add_encoders(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_ears(here)
    monkeypatch.syspath_prepend(here)
    (here / "broken_ears.py").write_text("import no_such_package\n")
    entries = [
        SimpleNamespace(name="ears", value="my_ears:Ears"),
        SimpleNamespace(name="broken", value="broken_ears:Ears"),
        SimpleNamespace(name="mini", value="broken_ears:Ears"),  # takes no name of ours
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: entries)
    assert load_encoder("ears", device="cpu").spec == "ears"
    assert [name for name in encoder_names() if "ears" in name or "broken" in name] == ["ears", "broken"]
    assert "ears" in [card.name for card in cards()]
    with pytest.raises(
        EncoderError, match=r"encoder broken: cannot import .* No module named 'no_such_package'"
    ):
        load_encoder("broken", device="cpu")
    assert load_encoder("mini", device="cpu").spec == "mini"


@pytest.mark.parametrize(
    ("window", "rate", "message"),
    [
        (Window(0), 8000, r"window \(samples\) 0"),
        (Window(100, max_windows=0), 8000, "windows 0"),
        (Window(100, padding="zeros"), 8000, "padding 'zeros'"),  # type: ignore[arg-type]
        (Window(100), 0, "sample rate 0"),
        (Window(100.5), 8000.0, r"sample rate 8000\.0, window \(samples\) 100\.5"),  # type: ignore[arg-type]
    ],
)
def test_constants_that_make_no_sense_are_refused(window: Window, rate: int, message: str) -> None:
    class Odd(SpectrumEncoder):
        def __init__(self) -> None:
            super(SpectrumEncoder, self).__init__(
                Request("odd", "", CPU),
                torch.nn.Identity(),
                dim=1,
                sample_rate=rate,
                window=window,
                constants={},
            )

    with pytest.raises(EncoderError, match=message):
        Odd()


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


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (
            {"state_dict": ["module.audio_branch.x", "module.text_branch.y"]},
            "weights for laion: use laion:w.pt",
        ),
        ({"model": ["caption_decoder.x"]}, "these are weights for pengi: use pengi:w.pt"),
        (
            {"model": ["caption_encoder.base.h.0", "audio_encoder.base.htsat.x"]},
            "for msclap: use msclap:w.pt",
        ),
        ({"model": ["something.else"]}, r"a file"),
    ],
)
@pytest.mark.parametrize("name", ["clap", "hf", "pe-audio", "onnx"])
def test_a_file_where_something_else_is_wanted_is_named_for_what_it_is(
    here: Path, name: str, file: dict[str, list[str]], message: str
) -> None:
    torch.save({key: dict.fromkeys(names, torch.zeros(2)) for key, names in file.items()}, here / "w.pt")
    with pytest.raises(EncoderError, match=rf"^{name}:w\.pt: .*{message}"):
        load_encoder(f"{name}:w.pt", device="cpu")


@pytest.mark.parametrize("kind", ["msclap", "laion", "pengi"])
def test_a_tokenizer_that_is_not_here_is_asked_of_the_hub(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Transformers makes an empty tokenizer of nothing; it must not pass for another model's."""
    asked: list[str] = []

    def ask(what: str, name: str, revision: str | None, advice: str) -> None:
        asked.append(name)
        raise EncoderError(f"{what}: not in the local cache, and the hub does not give it")

    monkeypatch.setattr(pretrained, "_check_reachable", ask)
    load = {
        "msclap": lambda: msclap.load_text_tokenizer("some/tokenizer", bert=False),
        "laion": lambda: pretrained.load_tokenizer(RobertaTokenizerFast, "some/tokenizer", "RoBERTa", {}),
        "pengi": lambda: pengi.load_clip_tokenizer("some/tokenizer"),
    }
    with pytest.raises(EncoderError, match="tokenizer some/tokenizer: not in the local cache"):
        load[kind]()
    assert asked == ["some/tokenizer"]


def test_a_text_tower_that_does_not_exist_is_not_looked_for_in_anybodys_code(tmp_path: Path) -> None:
    header = FeatureStore(write_sample(tmp_path / "store.zarr", make_features())).header
    silent = replace(header, encoder="hf:somebody/model", text_recipe=None, recipe={REMOTE_CODE: "0" * 64})
    with pytest.raises(EncoderError, match="hf:somebody/model: embeds sound only"):
        load_text_tower(silent, LoadingParams(device="cpu", tokenizer=""))
