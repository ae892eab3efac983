from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from contracts import check_encoder
from spectrum import SpectrumEncoder

from palm_cache.errors import EncoderError, StaleStoreError, UnknownNameError
from palm_cache.extraction.encoders import laion, msclap, pengi, pretrained, registry
from palm_cache.extraction.encoders.base import Request, Window
from palm_cache.extraction.encoders.cards import CODE
from palm_cache.extraction.encoders.engine import CPU
from palm_cache.extraction.encoders.registry import cards, encoder_names, load_encoder, split_spec
from palm_cache.extraction.encoders.tokens import Vocabulary
from palm_cache.extraction.recipe import audio_recipe
from palm_cache.extraction.recorded import load_same_encoder
from palm_cache.params import Recipe
from palm_cache.params.use import LoadingParams
from palm_cache.store.fingerprint import fingerprint

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


def test_code_of_the_users_own_may_import_its_neighbours_late(here: Path) -> None:
    write_ears(here, "from my_sibling import anything")
    (here / "my_sibling.py").write_text("anything = 1\n")
    load_encoder("python:my_ears:Ears", device="cpu")


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


@pytest.mark.parametrize("vocabulary", [msclap.GPT2, laion.VOCABULARY, pengi.VOCABULARY])
def test_a_tokenizer_that_is_not_here_is_asked_of_the_hub(
    monkeypatch: pytest.MonkeyPatch, vocabulary: Vocabulary
) -> None:
    """Transformers makes an empty tokenizer of nothing; it must not pass for another model's."""
    asked: list[str] = []

    def ask(what: str, name: str, revision: str | None, advice: str) -> None:
        asked.append(name)
        raise EncoderError(f"{what}: not in the local cache, and the hub does not give it")

    monkeypatch.setattr(pretrained, "_check_reachable", ask)
    with pytest.raises(EncoderError, match="tokenizer some/tokenizer: not in the local cache"):
        vocabulary.load("some/tokenizer")
    assert asked == ["some/tokenizer"]
