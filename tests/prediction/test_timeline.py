from __future__ import annotations

import io
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from samples import make_features
from spectrum import SpectrumEncoder
from torchaudio.functional import resample

from palm_cache.adaptation.fit import fit_runs
from palm_cache.errors import ParameterError
from palm_cache.extraction.audio.waveforms import cut_windows
from palm_cache.params import FitParams, Recipe
from palm_cache.prediction.answers import Answer, Failure
from palm_cache.prediction.classifier import Classifier
from palm_cache.prediction.label_tracks import LabelTracks
from palm_cache.prediction.timeline import Sliding, join, listen
from palm_cache.types.runs import FittedHead

RATE = SpectrumEncoder().sample_rate


def sound(*parts: tuple[float, float], rate: int = RATE) -> np.ndarray:
    """Tones of (seconds, Hz), with a little noise; 0 Hz is silence."""
    generator = np.random.default_rng(0)
    pieces = []
    for seconds, frequency in parts:
        time = np.arange(int(seconds * rate)) / rate
        noisy = 0.4 * np.sin(2 * np.pi * frequency * time) + 0.01 * generator.standard_normal(len(time))
        pieces.append(noisy * (frequency > 0))
    return np.concatenate(pieces).astype(np.float32)


@pytest.fixture
def classifier() -> Classifier:
    """Tells tones of 500 Hz, 1,500 Hz and 3,000 Hz apart."""
    encoder = SpectrumEncoder()
    tones = [torch.from_numpy(sound((0.5, frequency))) for frequency in (500, 1_500, 3_000)]
    embeddings = torch.nn.functional.normalize(encoder.embed_audio(torch.stack(tones)[:, None]), dim=-1)
    template = fit_runs(make_features(n_classes=3), FitParams(heads=("zero-shot",), folds=(1,)))[0][0]
    head = FittedHead(
        **{name: getattr(template, name) for name in FittedHead.__slots__}
        | {"state": {"class_embeddings": embeddings}, "class_names": ("low", "middle", "high")}
    )
    return Classifier(head, [(encoder, Recipe())])


def heard(
    classifier: Classifier, file: Path, window: float | None = None, hop: float | None = None, **how: int
) -> list[Answer | Failure]:
    return list(listen(classifier, [file], Sliding.over(classifier, window, hop), **how))


def named(results: list[Answer | Failure]) -> list[str]:
    names = ("low", "middle", "high")
    return [
        "-" if result.probabilities is None else names[int(result.probabilities.argmax())]
        for result in results
        if isinstance(result, Answer)
    ]


@pytest.mark.parametrize("rate", [8_000, 44_100])
@pytest.mark.parametrize(
    ("window", "hop"), [(None, None), (0.5, 0.2), (1.0, 0.25), (0.3, 0.3), (0.5, 0.4999)]
)
def test_it_equals_a_plain_loop_over_the_recording_read_whole(
    classifier: Classifier, tmp_path: Path, rate: int, window: float | None, hop: float | None
) -> None:
    recording = sound((1.2, 500), (0.9, 3_000), (40.33, 1_500), (1.1, 500), rate=rate)
    soundfile.write(tmp_path / "long.wav", recording, rate, subtype="FLOAT")
    results = heard(classifier, tmp_path / "long.wav", window, hop)
    whole = resample(torch.from_numpy(recording), rate, RATE)
    samples, step = round((window or 0.5) * RATE), round((hop or window or 0.5) * RATE)
    starts = [*range(0, len(whole) - samples, step), len(whole) - samples]
    assert len(results) == len(starts)
    for result, start in zip(results, starts, strict=True):
        windows = cut_windows(whole[start : start + samples], SpectrumEncoder().window)
        expected = classifier.scorer.probabilities(
            classifier.scorer.logits(classifier.encoder.embed_audio(windows[None]))
        )[0]
        torch.testing.assert_close(result.probabilities, expected, atol=1e-3, rtol=0)
        middle = (start + samples / 2) / RATE
        assert result.start <= middle <= result.end
    assert (results[0].start, results[-1].end) == (0, pytest.approx(len(whole) / RATE))
    for one, other in pairwise(results):
        assert one.end == other.start


def test_the_last_stretch_ends_with_the_recording_not_with_a_sample_of_the_encoders(
    classifier: Classifier, tmp_path: Path
) -> None:
    rate, frames = 44_100, 66_151  # at the encoder's rate no whole number of samples
    soundfile.write(tmp_path / "long.wav", sound((2, 500), rate=rate)[:frames], rate)
    *_, last = heard(classifier, tmp_path / "long.wav")
    assert isinstance(last, Answer)
    assert last.end == frames / rate


def test_a_stretch_ends_in_the_middle_of_the_overlap(classifier: Classifier, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.wav", sound((1.0, 500)), RATE)
    results = heard(classifier, tmp_path / "long.wav", window=0.5, hop=0.2)
    # Windows at 0, 0.2, 0.4 and, moved back to end with the recording, 0.5 s.
    assert [(result.start, result.end) for result in results] == [
        (0, pytest.approx(0.35)),
        (pytest.approx(0.35), pytest.approx(0.55)),
        (pytest.approx(0.55), pytest.approx(0.7)),
        (pytest.approx(0.7), pytest.approx(1.0)),
    ]


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_silence_between_sounds_is_silence(classifier: Classifier, tmp_path: Path, batch_size: int) -> None:
    soundfile.write(tmp_path / "long.wav", sound((1, 500), (1.5, 0), (1, 3_000)), RATE)
    results = heard(classifier, tmp_path / "long.wav", batch_size=batch_size)
    assert named(results) == ["low", "low", "-", "-", "-", "high", "high"]


def test_a_silent_recording_is_a_failure_too(classifier: Classifier, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.wav", sound((2, 0)), RATE)
    *stretches, failure = heard(classifier, tmp_path / "long.wav")
    assert named(stretches) == ["-"] * 4
    assert failure == Failure(
        str(tmp_path / "long.wav"), "nothing but silence: the peak is below -80 dB of full scale"
    )


def test_a_recording_in_opposite_phase_is_heard_and_that_is_said_once(
    classifier: Classifier, tmp_path: Path
) -> None:
    tones = sound((4, 500), (4, 3_000))
    soundfile.write(tmp_path / "clip.wav", np.stack([tones, -tones], axis=1), RATE)
    results = heard(classifier, tmp_path / "clip.wav")
    assert named(results)[0] == "low"
    assert named(results)[-1] == "high"
    remarks = [result.remarks for result in results if isinstance(result, Answer)]
    assert remarks[:-1] == [()] * (len(results) - 1)
    assert remarks[-1] == ("the channels cancel each other; only channel 1 is heard",)
    assert list(join(iter(results), lambda stretch: 0))[-1].remarks == remarks[-1]


def test_an_mp3_that_does_not_say_how_long_it_is_is_heard_to_its_end(
    classifier: Classifier, tmp_path: Path
) -> None:
    """A second of noise comes first: a guess by its frames would end the recording far too early."""
    noise = np.random.default_rng(1).standard_normal(RATE) / 5
    content = io.BytesIO()
    soundfile.write(content, np.concatenate([noise, sound((30, 3_000))]), RATE, format="MP3")
    mp3 = content.getvalue()
    (tmp_path / "clip.mp3").write_bytes(mp3[mp3.index(mp3[:2], 4) :])
    assert heard(classifier, tmp_path / "clip.mp3")[-1].end == pytest.approx(31, abs=0.3)


def test_a_recording_shorter_than_a_window_is_one_stretch(classifier: Classifier, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "short.wav", sound((0.2, 3_000)), RATE)
    (result,) = heard(classifier, tmp_path / "short.wav")
    assert (result.start, result.end) == (0, 0.2)
    assert named([result]) == ["high"]


def test_what_lies_before_the_damage_is_told(classifier: Classifier, tmp_path: Path) -> None:
    recording = sound((35, 500), (35, 3_000))
    recording[65 * RATE] = np.nan
    soundfile.write(tmp_path / "long.wav", recording, RATE, subtype="FLOAT")
    *stretches, failure = heard(classifier, tmp_path / "long.wav")
    assert isinstance(failure, Failure)
    assert failure.reason == "NaN or infinity among the samples; heard up to 60.0 s"
    assert named(stretches) == ["low"] * 70 + ["high"] * 50
    assert stretches[-1].end == 60


def test_failures_and_recordings_come_in_order(classifier: Classifier, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", sound((0.5, 500)), RATE)
    (tmp_path / "b.wav").write_text("<html>")
    found = [Failure("x*", "no"), tmp_path / "a.wav", tmp_path / "b.wav", tmp_path / "a.wav"]
    results = list(listen(classifier, found, Sliding.over(classifier)))
    assert [Path(result.path).name for result in results] == ["x*", "a.wav", "b.wav", "a.wav"]
    assert results[2] == Failure(str(tmp_path / "b.wav"), "cannot be decoded: format not recognised")


def test_progress_counts_seconds_of_sound(classifier: Classifier, tmp_path: Path) -> None:
    for name, seconds in (("a.wav", 2), ("b.wav", 3)):
        soundfile.write(tmp_path / name, sound((seconds, 500)), RATE)
    said: list[tuple[str, int, int]] = []
    found = [tmp_path / "a.wav", tmp_path / "absent.wav", tmp_path / "b.wav"]
    for _ in listen(
        classifier, found, Sliding.over(classifier, hop=0.5), progress=lambda *step: said.append(step)
    ):
        pass
    assert {what for what, _, _ in said} == {"listening"}
    assert [done for _, done, _ in said] == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5]
    assert said[-1][2] == 5


@pytest.mark.parametrize(
    ("window", "hop", "message"),
    [
        (1.5, None, r"window 1.5 s: mini reads at most 1 s at once"),
        (0.0, None, r"window 0 s"),
        (
            0.5,
            0.6,
            r"hop 0.6 s: choose one above 0 and up to the window of 0.5 s, else parts are never heard",
        ),
        (None, 0.0, r"hop 0 s"),
    ],
)
def test_a_window_or_hop_that_makes_no_sense_is_refused(
    classifier: Classifier, window: float | None, hop: float | None, message: str
) -> None:
    with pytest.raises(ParameterError, match=message):
        Sliding.over(classifier, window, hop)


def test_neighbours_of_one_name_are_joined_and_averaged_over_time() -> None:
    def stretch(path: str, start: float, end: float, *probabilities: float) -> Answer:
        return Answer(path, torch.tensor(probabilities) if probabilities else None, start, end)

    results = [
        stretch("a", 0, 1, 0.8, 0.2),
        stretch("a", 1, 4, 0.6, 0.4),
        stretch("a", 4, 5),
        stretch("a", 5, 6),
        stretch("a", 6, 7, 0.1, 0.9),
        Failure("a", "damaged"),
        stretch("b", 0, 1, 0.2, 0.8),
        stretch("c", 0, 1, 0.2, 0.8),
    ]
    joined = list(
        join(iter(results), lambda one: None if one.probabilities is None else one.probabilities.argmax())
    )
    places = [(one.path, one.start, one.end) if isinstance(one, Answer) else one.path for one in joined]
    assert places == [("a", 0, 4), ("a", 4, 6), ("a", 6, 7), "a", ("b", 0, 1), ("c", 0, 1)]
    torch.testing.assert_close(joined[0].probabilities, torch.tensor([0.65, 0.35]))
    assert joined[1].probabilities is None


@given(probabilities=st.lists(st.lists(st.floats(0.01, 1), min_size=3, max_size=3), min_size=1, max_size=30))
def test_joining_loses_no_time_and_keeps_every_label(probabilities: list[list[float]]) -> None:
    rows = torch.tensor(probabilities, dtype=torch.float64)
    rows /= rows.sum(dim=1, keepdim=True)
    stretches = [Answer("a", row, second, second + 1) for second, row in enumerate(rows)]
    joined = list(join(iter(stretches), lambda one: int(one.probabilities.argmax())))
    assert [joined[0].start, *(one.end for one in joined)] == [
        0.0,
        *(one.start for one in joined[1:]),
        len(rows),
    ]
    for one in joined:
        inside = rows[int(one.start) : int(one.end)].argmax(dim=1)
        assert set(inside.tolist()) == {int(one.probabilities.argmax())}
        torch.testing.assert_close(one.probabilities.sum(), torch.ones((), dtype=torch.float64))


def test_label_tracks_are_what_audacity_reads(tmp_path: Path) -> None:
    with closing(LabelTracks(tmp_path / "night.txt", [Path("night.wav")])) as tracks:
        tracks.write("night.wav", 0, 1.5, "dog bark")
        tracks.write("night.wav", 1.5, 3, None)
        assert (tmp_path / "night.txt").read_text() == "0.000000\t1.500000\tdog bark\t\n"  # written through
        tracks.write("night.wav", 3, 4.25, "Käuzchen")
    lines = (tmp_path / "night.txt").read_text(encoding="utf-8").splitlines()
    assert lines == ["0.000000\t1.500000\tdog bark\t", "3.000000\t4.250000\tKäuzchen\t"]


def test_several_recordings_have_a_track_each_also_an_empty_one(tmp_path: Path) -> None:
    with closing(LabelTracks(tmp_path / "tracks", [Path("x/one.wav"), Path("x/two.wav")])) as tracks:
        tracks.write("x/one.wav", 0, 1, "rain")
        tracks.write("x/two.wav", 0, 1, None)
    assert (tmp_path / "tracks" / "one.wav.txt").read_text() == "0.000000\t1.000000\train\t\n"
    assert (tmp_path / "tracks" / "two.wav.txt").read_text() == ""


def test_recordings_of_one_name_have_tracks_in_folders_like_theirs(tmp_path: Path) -> None:
    """A station names its files by the time, on every card."""
    names = ["drive/A/0100.wav", "drive/A/later/0200.wav", "drive/B/0100.wav"]
    with closing(LabelTracks(tmp_path, list(map(Path, names)))) as tracks:
        for name in names:
            tracks.write(name, 0, 1, name[6])
    written = {
        file.relative_to(tmp_path).as_posix(): file.read_text()[18] for file in tmp_path.rglob("*.txt")
    }
    assert written == {"A/0100.wav.txt": "A", "A/later/0200.wav.txt": "A", "B/0100.wav.txt": "B"}
