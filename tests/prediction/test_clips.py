from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
import soundfile
import torch
from samples import RATE, write_tone
from workshop import Workshop

from palm_cache.adaptation.evaluate import evaluate_files
from palm_cache.adaptation.fit import fit_store
from palm_cache.cli.results import ResultFormat
from palm_cache.extraction.datasets.registry import read_dataset
from palm_cache.extraction.extract import extract
from palm_cache.extraction.recorded import load_text_tower
from palm_cache.params import FitParams, Recipe
from palm_cache.params.use import LoadingParams
from palm_cache.prediction.answers import NONE_OF_THESE, Answer, Failure, label_of, likeliest, printable
from palm_cache.prediction.classifier import Classifier
from palm_cache.prediction.clips import predict_files
from palm_cache.store.features import FeatureStore
from palm_cache.store.run_names import run_name
from palm_cache.types.runs import Training


def predict(classifier: Classifier, found: Sequence[Path | Failure], **how: int) -> list[Answer | Failure]:
    return list(predict_files(classifier, found, **how))


def logarithms_of(results: list[Answer | Failure]) -> torch.Tensor:
    return torch.stack([result.probabilities.log() for result in results if isinstance(result, Answer)])


@pytest.mark.parametrize("views", ["first", "mean"])
@pytest.mark.parametrize("head", ["palm", "zero-shot", "coop", "cocoop"])
def test_a_clip_gets_the_logits_that_its_row_in_the_store_got(
    workshop: Workshop, head: str, views: str
) -> None:
    """Short clips, and one that has to be cropped; heads that learn words go through the text tower."""
    file = workshop.heads if views == "first" else workshop.mean_heads
    check_scored_clips(workshop, file, head)


@pytest.mark.parametrize("batch_size", [1, 16])
def test_a_long_clip_is_heard_whole_where_the_head_learned_from_means(
    workshop: Workshop, tmp_path: Path, batch_size: int
) -> None:
    table = read_dataset(str(workshop.data))
    store = extract(table, "mini", tmp_path / "means" / "mini.zarr", Recipe(long="mean")).store
    tower = partial(load_text_tower, loading=LoadingParams(device="cpu"))
    params = FitParams(("palm",), shots=(4,), seeds=(0,), training=Training(epochs=5))
    file = fit_store(store, tmp_path / "runs", params, load_tower=tower).heads_file
    evaluate_files(tmp_path / "runs", load_tower=tower)
    results = check_scored_clips(workshop, file, "palm", batch_size=batch_size)
    crops = predict(Classifier.load(workshop.heads), [workshop.data / "audios" / "long.flac"])
    assert [result.remarks for result in results] == [()] * len(results)
    assert len(crops[0].remarks) == 1
    silence = tmp_path / "silence.wav"
    soundfile.write(silence, np.zeros(30 * RATE), RATE)
    failures = predict(Classifier.load(file), [silence, tmp_path / "absent.wav"])
    assert [failure.reason[:20] for failure in failures] == ["nothing but silence:", "no such file"]


def check_scored_clips(workshop: Workshop, file: Path, head: str, **how: int) -> list[Answer | Failure]:
    """Compare predictions with the logits that evaluation wrote down; return them."""
    classifier = Classifier.load(file, head)
    name = run_name(classifier.head.run)
    with h5py.File(file.parents[2] / "predictions.h5") as scored:
        group = scored[f"Tones/mini/{name}"]
        rows, expected = group["row"][:], torch.from_numpy(group["logits"][:])
    names = FeatureStore(workshop.store).clip_names()
    assert "audios/long.flac" in [names[row] for row in rows]
    results = predict(classifier, [workshop.data / names[row] for row in rows], **how)
    calibration = classifier.head.calibration
    temperature = calibration.temperature if calibration else 1.0
    told = logarithms_of(results)
    wanted = (expected.double() / temperature).log_softmax(dim=1)
    torch.testing.assert_close(temperature * told, temperature * wanted, atol=2e-4, rtol=0)
    torch.testing.assert_close(told.exp().sum(dim=1), torch.ones(len(told), dtype=torch.float64))
    return results


def test_a_calibrated_head_and_one_that_is_not_are_among_those_compared(workshop: Workshop) -> None:
    runs = {run: Classifier.load(workshop.heads, run).head.calibration for run in ("palm", "zero-shot")}
    assert [calibration is None for calibration in runs.values()] == [False, True]
    assert runs["palm"] is not None
    assert runs["palm"].temperature != 1


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_results_come_in_order_whatever_the_batches(
    workshop: Workshop, tmp_path: Path, batch_size: int
) -> None:
    """Clips of one, two and six windows, and failures between them."""
    found: list[Path | Failure] = []
    for number, seconds in enumerate((0.5, 3, 1, 11, 1.5, 3.5, 2)):
        write_tone(tmp_path / f"{number}.wav", 200 + 90 * number, seconds=seconds, seed=number)
        found += [tmp_path / f"{number}.wav", Failure(f"input {number}", "not there")]
    classifier = Classifier.load(workshop.heads)
    results = predict(classifier, found, batch_size=batch_size)
    assert [result.path for result in results] == [
        entry.path if isinstance(entry, Failure) else str(entry) for entry in found
    ]
    alone = [predict(classifier, [entry])[0] for entry in found if isinstance(entry, Path)]
    torch.testing.assert_close(logarithms_of(results), logarithms_of(alone), atol=1e-4, rtol=0)


def test_what_cannot_be_heard_is_named_and_the_rest_goes_on(workshop: Workshop, tmp_path: Path) -> None:
    good = workshop.data / "audios" / "test_0_0.wav"
    noise = np.random.default_rng(0).standard_normal(RATE)
    soundfile.write(tmp_path / "quiet.wav", 2e-5 * noise.clip(-4, 4), RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "nan.wav", np.full(RATE, np.nan), RATE, subtype="FLOAT")
    (tmp_path / "page.wav").write_text("<html>")
    (tmp_path / "empty.wav").touch()
    hole = np.concatenate([noise, np.zeros(13 * RATE), noise]) / 10
    soundfile.write(tmp_path / "hole.wav", hole, RATE)
    names = ("quiet.wav", "nan.wav", "page.wav", "empty.wav", "hole.wav", "absent.wav")
    found = [good, *(tmp_path / name for name in names), tmp_path, good]
    results = predict(Classifier.load(workshop.heads), found)
    assert [isinstance(result, Answer) for result in results] == [True, *[False] * 7, True]
    assert [result.reason for result in results if isinstance(result, Failure)] == [
        "nothing but silence: the peak is below -80 dB of full scale",
        "NaN or infinity among the samples",
        "cannot be decoded: format not recognised",
        "the file is empty",
        "nothing but silence: the peak is below -80 dB of full scale in the 12 s at its centre",
        "no such file",
        "a directory, not a file",
    ]


def test_a_file_in_opposite_phase_is_heard_and_that_is_said(workshop: Workshop, tmp_path: Path) -> None:
    sound, rate = soundfile.read(workshop.data / "audios" / "test_0_0.wav", always_2d=True)
    soundfile.write(tmp_path / "phase.wav", sound[:, :1] * [1, -1], rate)
    plain, phase = predict(
        Classifier.load(workshop.heads),
        [workshop.data / "audios" / "test_0_0.wav", tmp_path / "phase.wav"],
    )
    assert phase.remarks == ("the channels cancel each other; only channel 1 is heard",)
    assert plain.remarks == ()
    torch.testing.assert_close(phase.probabilities.log(), plain.probabilities.log(), atol=1e-2, rtol=0)


def test_a_constant_value_is_no_sound(workshop: Workshop, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "dc.wav", np.full(30 * RATE, 0.5), RATE)
    soundfile.write(tmp_path / "one.wav", np.full(1, 0.5), RATE)
    results = predict(Classifier.load(workshop.heads), [tmp_path / "dc.wav", tmp_path / "one.wav"])
    assert [result.reason for result in results if isinstance(result, Failure)] == [
        "nothing but a constant value, which is silence in the 12 s at its centre",
        "a single sample, which is no sound",
    ]


def test_a_vector_that_is_not_finite_is_a_failure_of_its_clip_alone(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = Classifier.load(workshop.heads)
    embed = classifier.encoder.embed_audio

    def spoil_the_second(waveforms: torch.Tensor) -> torch.Tensor:
        embeddings = embed(waveforms).clone()
        embeddings[1] = torch.nan
        return embeddings

    monkeypatch.setattr(classifier.encoder, "embed_audio", spoil_the_second)
    clips = sorted((workshop.data / "audios").glob("test_*.wav"))[:3]
    results = predict(classifier, clips)
    assert [isinstance(result, Failure) for result in results] == [False, True, False]
    assert results[1].reason == "the encoder returned NaN or infinity"


def test_it_says_of_a_file_that_is_cropped_that_only_its_centre_was_heard(workshop: Workshop) -> None:
    clips = [workshop.data / "audios" / name for name in ("long.flac", "test_0_0.wav")]
    results = predict(Classifier.load(workshop.heads), clips)
    said = "lasts longer than the 12 s that mini reads at once: only the centre was heard; `timeline` hears"
    assert [result.remarks for result in results] == [(f"{said} everything",), ()]


def test_progress_counts_inputs(workshop: Workshop) -> None:
    said: list[tuple[str, int, int]] = []
    clips = sorted((workshop.data / "audios").glob("test_*.wav"))[:2]
    list(predict_files(Classifier.load(workshop.heads), clips, progress=lambda *step: said.append(step)))
    assert said == [("predicting", 1, 2), ("predicting", 2, 2)]


def test_an_answer_names_the_likeliest_and_nothing_below_the_threshold() -> None:
    probabilities = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    names = ("dog", "siren", "rain")
    assert likeliest(probabilities, names, top=2) == [("siren", 0.5), ("rain", 0.3)]
    assert label_of(probabilities, names, threshold=0.5) == "siren"
    assert label_of(probabilities, names, threshold=0.51) == NONE_OF_THESE
    unsure = ResultFormat(names, 1, 0.51, over_time=False).row(Answer("a.wav", probabilities))
    assert (unsure["label"], unsure["probability"]) == (None, None)
    assert len(likeliest(probabilities, names, top=9)) == 3


def test_a_path_is_printed_on_one_line_and_as_utf_8() -> None:
    assert printable(Path("Vögel/Straße 7.wav")) == "Vögel/Straße 7.wav"
    assert printable("a\nb.wav") == "a%0Ab.wav"
    assert printable(Path("caf\udce9.wav")) == "caf%E9.wav"
