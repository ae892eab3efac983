"""Prompts of one's own decide text alone, and what cannot be one is named by file and line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from spectrum import Run, SpectrumEncoder

from palm_cache.errors import DataError, EncoderError, ParameterError, UnknownNameError
from palm_cache.extraction.prompts import Prompts
from palm_cache.params import PromptFiles
from palm_cache.store.features import FeatureStore
from palm_cache.types import BARE_TEMPLATE, TEMPLATES, ZERO_SHOT_TEMPLATE

DESCRIBED = {"high tone": ("a shrill whistle", "a flute"), "low tone": ("a deep hum",)}


def test_templates_are_held_beside_the_papers_two_in_the_order_of_their_file(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufeffa {c}, far away\r\n\r\n  {c}\r\n{c} hörbar\r\n".encode())
    prompts = Prompts.read(PromptFiles(templates=str(file)))
    assert prompts.held == (BARE_TEMPLATE, ZERO_SHOT_TEMPLATE, "a {c}, far away", "{c} hörbar")
    assert Prompts().held == Prompts.read(PromptFiles()).held == TEMPLATES


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a {c}\nsome dog\n", r"prompts\.txt, line 2: 'some dog' has no \{c\}, which stands for the class"),
        (
            b"a {c}\n{c}\n\na {c} \n",
            r"prompts\.txt, line 4: 'a \{c\}' is there already \(prompts.txt, line 1\)",
        ),
        (b"", r"prompts\.txt: holds no template; write one a line"),
        (b"\n \n", r"prompts\.txt: holds no template"),
        (b"\x89PNG\r\n\x1a\n\x00", r"prompts\.txt, line 1: .* has no \{c\}"),
    ],
)
def test_what_is_no_template_is_named_by_its_line(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes(content)
    with pytest.raises(ParameterError, match=message):
        Prompts.read(PromptFiles(templates=str(file)))
    with pytest.raises(DataError, match=r"gone\.txt: cannot read the table: No such file"):
        Prompts.read(PromptFiles(templates=str(tmp_path / "gone.txt")))


def test_from_python_bad_prompts_are_named_too() -> None:
    with pytest.raises(ParameterError, match="template 2: 'dog' has no"):
        Prompts(("{c}", "dog"))
    with pytest.raises(ParameterError, match="templates: holds no template"):
        Prompts(())
    with pytest.raises(ParameterError, match="descriptions of 'dog': one is empty, or there twice"):
        Prompts(descriptions={"dog": ("it barks", "it barks")})


def test_one_template_and_one_description_are_no_letters() -> None:
    alone = Prompts("{c} outside", {"dog": "bark"})  # type: ignore[arg-type]
    assert alone == Prompts(("{c} outside",), {"dog": ("bark",)})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("classname,words\ndog,it barks\n", r"unknown column in texts\.csv: 'text'"),
        ("classname,text\ndog,\n", r"texts\.csv, row 2: text is empty"),
        ("classname,text\n,it barks\n", r"texts\.csv, row 2: classname is empty"),
        ("classname,text\ndog,it barks\ndog,it barks\n", r"row 3: 'dog' has this description already"),
        ("classname,text\n", r"texts\.csv: holds no descriptions"),
        ("", r"unknown column in texts\.csv: 'classname'"),
    ],
)
def test_what_is_no_description_is_named_by_its_row(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "texts.csv"
    file.write_text(content)
    with pytest.raises((DataError, UnknownNameError), match=message):
        Prompts.read(PromptFiles(descriptions=str(file)))


@pytest.mark.parametrize("parameter", ["templates", "descriptions"])
def test_of_a_file_that_is_not_there_it_is_said_which_was_meant(tmp_path: Path, parameter: str) -> None:
    (tmp_path / "texts.csv").touch()
    meant = r"text\.csv: cannot read the table: No such file.*; did you mean .*texts\.csv\?"
    with pytest.raises(DataError, match=meant):
        Prompts.read(PromptFiles(**{parameter: str(tmp_path / "text.csv")}))


def test_descriptions_are_of_just_the_classes_of_the_dataset(run: Run) -> None:
    wrong = {"high tone": ("a whistle",), "lwo tone": ("a hum",)}
    with pytest.raises(UnknownNameError, match="'lwo tone'; did you mean low tone"):
        run(Prompts(descriptions=wrong))
    with pytest.raises(DataError, match=r"Tones: 1 class has no description: low tone"):
        run(Prompts(descriptions={"high tone": ("a whistle",)}))


def test_several_descriptions_of_a_class_are_averaged_after_normalising(
    run: Run, out: Path, tmp_path: Path, encoder: SpectrumEncoder
) -> None:
    rows = [f'{name},"{text}"\n' for name, texts in DESCRIBED.items() for text in texts]
    (tmp_path / "texts.csv").write_text("classname,text\n" + "".join(rows))
    prompts = Prompts.read(PromptFiles(descriptions=str(tmp_path / "texts.csv")))
    assert prompts == Prompts(descriptions=DESCRIBED)
    run(prompts)
    store = FeatureStore(out)
    assert store.header.templates == (*TEMPLATES, "descriptions")
    assert store.header.descriptions == DESCRIBED
    whistle, flute, hum = torch.nn.functional.normalize(
        encoder.embed_text([text for texts in DESCRIBED.values() for text in texts]).double()
    )
    expected = torch.nn.functional.normalize(torch.stack([(whistle + flute) / 2, hum])).numpy()
    np.testing.assert_allclose(store.text()[:, -1], expected, atol=1e-6)
    assert store.problems() == []
    assert run(prompts).notes == ()
    assert run(Prompts()).notes == (
        "other templates, other descriptions than before: text was embedded anew",
    )
    assert FeatureStore(out).header.descriptions == {}


def test_other_prompts_read_no_audio(run: Run, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palm_cache.store.places.local.RACY_NS", 0)
    run()
    audio = FeatureStore(out).audio()

    def refuse(*_: object) -> None:
        raise AssertionError("audio was opened")

    monkeypatch.setattr("palm_cache.extraction.reading.open_regular", refuse)
    assert run(Prompts(("{c}!", "some {c}"), DESCRIBED)).embedded == 0
    np.testing.assert_array_equal(FeatureStore(out).audio(), audio)


def test_a_prompt_that_is_too_long_is_named_before_any_clip_is_embedded(
    run: Run, encoder: SpectrumEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(prompts: list[str]) -> torch.Tensor:
        raise EncoderError(f"prompt {prompts[-1][:40]!r}... has 99 tokens, spectrum reads 77; shorten it")

    monkeypatch.setattr(encoder, "embed_text", refuse)
    with pytest.raises(EncoderError, match="'I hear low tone I hear"):
        run(Prompts(("I hear {c} " * 9,)))
    assert encoder.embedded == 0


def test_an_encoder_that_reads_no_text_is_given_no_prompts(
    run: Run, encoder: SpectrumEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder, "text_tower", lambda: None)
    with pytest.raises(ParameterError, match="mini: embeds sound only; leave out templates and descriptions"):
        run(Prompts(("a {c}",)))
