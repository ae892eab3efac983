"""Instruments, drums and a band in the street."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from pipelines.mini.world.dsp import (
    RATE,
    Sound,
    add,
    band,
    clock,
    decay,
    drive,
    glide,
    high_pass,
    length,
    log_uniform,
    low_pass,
    metal,
    modes,
    noise,
    onsets,
    peak,
    recur,
    saw,
    sine,
    square,
    swell,
    thud,
    tones,
    vibrato,
)
from pipelines.mini.world.family import family

SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 3, 5, 7, 10), (0, 2, 4, 7, 9))
"""Major, minor, blues-like and folk scales, in semitones."""


def melody(rng: Generator, low: float, high: float) -> list[tuple[float, int]]:
    """Draw notes: frequency and length in samples."""
    base, scale = log_uniform(rng, low, high), SCALES[rng.integers(len(SCALES))]
    beat = length(rng, 0.12, 0.5)
    at, notes = int(rng.integers(len(scale))), []
    for _ in range(rng.integers(3, 14)):
        at += int(rng.integers(-2, 3))
        pitch = base * 2 ** (at // len(scale) + scale[at % len(scale)] / 12)
        notes.append((float(np.clip(pitch, 40, 3500)), int(beat * rng.choice([0.5, 1, 1, 2]))))
    return notes


def pluck(rng: Generator, freq: float, n: int, seconds: float, bright: float) -> Sound:
    """Pluck a string: harmonics that fade, the higher the faster."""
    t, out = clock(n), np.zeros(n)
    place = rng.uniform(0.1, 0.4)
    for k in range(1, 25):
        if freq * k > 7500:
            break
        gain = np.abs(np.sin(np.pi * k * place)) / k ** (2 - bright)
        out += (
            gain
            * np.exp(-6.9 * t / seconds * (1 + 0.15 * k))
            * np.sin(2 * np.pi * freq * k * (1 + 1e-4 * k * k) * t)
        )
    return peak(out) * np.minimum(1, t / 0.002)


def bowed(rng: Generator, freq: float, n: int, bright: float) -> Sound:
    """Bow a string, or blow a reed or brass: a steady tone with vibrato."""
    wave = saw(vibrato(rng, n, freq, rng.uniform(4, 7), rng.uniform(0.002, 0.012)), n)
    return peak(low_pass(wave, min(7500, freq * bright + 600))) * swell(n, rng.uniform(0.05, 0.25), 0.2)


def play(notes: list[tuple[float, int]], voice: Callable[[float, int], Sound], ring: float) -> Sound:
    """Play notes one after the other; each may ring into the next."""
    out = np.zeros(sum(n for _, n in notes) + int(ring * RATE))
    at = 0
    for freq, n in notes:
        add(out, voice(freq, n + int(ring * RATE)), at)
        at += n
    return out


@family("guitar, acoustic guitar, guitar strumming, banjo, ukulele, lute, plucked string, mandolin")
def guitar(rng: Generator) -> Sound:
    """Plucked notes or strummed chords."""
    seconds, bright = rng.uniform(0.5, 2.5), rng.uniform(0.5, 1.2)
    chord = (1, 1.26, 1.5, 2) if rng.random() < 0.4 else (1,)

    def voice(freq: float, n: int) -> Sound:
        out = np.zeros(n)
        for number, ratio in enumerate(chord):
            add(out, pluck(rng, freq * ratio, n, seconds, bright), number * 250)
        return out

    return play(melody(rng, 80, 350), voice, 0.6)


@family("electric guitar, rock guitar, distorted guitar, heavy metal music, rock music, guitar riff")
def electric_guitar(rng: Generator) -> Sound:
    """Power chords through an overdriven amplifier."""
    notes = melody(rng, 70, 220)

    def voice(freq: float, n: int) -> Sound:
        return sum(pluck(rng, freq * k, n, 3, 1.2) for k in (1, 1.5, 2))

    return low_pass(drive(play(notes, voice, 0.1), log_uniform(rng, 5, 40)), 4500)


@family("piano, piano music, playing the piano, keyboard instrument, harpsichord, piano chord")
def piano(rng: Generator) -> Sound:
    """Struck strings, in single notes or with a bass."""
    seconds, bright = rng.uniform(0.8, 3), rng.uniform(0.2, 0.8)

    def voice(freq: float, n: int) -> Sound:
        low = pluck(rng, freq / 2, n, seconds, bright) if rng.random() < 0.3 else 0
        return (
            pluck(rng, freq, n, seconds, bright) + low + 0.1 * low_pass(noise(rng, n), 800) * decay(n, 0.05)
        )

    return play(melody(rng, 150, 600), voice, 0.7)


@family("harp, music box, kalimba, xylophone, marimba, glockenspiel, vibraphone, celesta")
def mallets(rng: Generator) -> Sound:
    """Bars or tines: few modes, clear attack."""
    ratio, seconds = rng.choice([2.76, 3.0, 4.0]), rng.uniform(0.2, 1.5)

    def voice(freq: float, n: int) -> Sound:
        return peak(modes(rng, n, [freq, freq * ratio, freq * 6.3], seconds, 1.0))

    return play(melody(rng, 250, 1100), voice, 0.5)


@family("violin, strings, cello, fiddle, string orchestra, orchestra, viola")
def violin(rng: Generator) -> Sound:
    """Bowed strings, alone or in parts."""
    bright = rng.uniform(4, 12)
    parts = rng.choice([1, 1, 3])

    def voice(freq: float, n: int) -> Sound:
        return sum(
            bowed(rng, freq * k * rng.uniform(0.997, 1.003), n, bright) for k in (1, 1.25, 1.5)[:parts]
        )

    return play([(f, 2 * n) for f, n in melody(rng, 130, 600)], voice, 0.1)


@family("trumpet, brass, fanfare, trombone, tuba, brass band, saxophone, french horn, clarinet")
def brass(rng: Generator) -> Sound:
    """Tones whose brightness swells with loudness."""
    bright = rng.uniform(3, 9)

    def voice(freq: float, n: int) -> Sound:
        dull, clear = bowed(rng, freq, n, 2), bowed(rng, freq, n, bright)
        mix = swell(n, 0.3, 0.3)
        return dull * (1 - mix) + clear * mix

    return play(melody(rng, 110, 500), voice, 0.03)


@family("flute, recorder, pan flute, ocarina, wooden flute, tin whistle, pipe")
def flute(rng: Generator) -> Sound:
    """Nearly pure tones with breath."""
    breath = rng.uniform(0.03, 0.3)

    def voice(freq: float, n: int) -> Sound:
        tone = tones(vibrato(rng, n, freq, 5, 0.006), n, [1, 0.3, 0.12, 0.05])
        return (tone + breath * peak(band(noise(rng, n), freq, freq * 4))) * swell(n, 0.12, 0.2)

    return play(melody(rng, 350, 1300), voice, 0.03)


@family("organ, church organ, accordion, harmonica, bagpipes, hurdy-gurdy, barrel organ")
def organ(rng: Generator) -> Sound:
    """Steady chords of pipes or reeds."""
    gains = [rng.uniform(0.2, 1) / k ** rng.uniform(0.2, 1) for k in range(1, 11)]

    def voice(freq: float, n: int) -> Sound:
        parts = (tones(freq * k * rng.uniform(0.998, 1.002), n, gains) for k in (1, 1.25, 1.5))
        return sum(parts) * swell(n, 0.03, 0.05)

    return play([(f, 2 * n) for f, n in melody(rng, 110, 450)], voice, 0.05)


@family("synthesizer, electronic music, techno, synth bass, bass guitar, bass, dance music, synth pad")
def synthesizer(rng: Generator) -> Sound:
    """A sequence of filtered saws or squares, often with a kick drum."""
    wave = [saw, square][rng.integers(2)]
    cut = log_uniform(rng, 300, 5000)

    def voice(freq: float, n: int) -> Sound:
        return low_pass(wave(freq, n), cut) * decay(n, rng.uniform(0.2, 2))

    out = peak(play(melody(rng, 45, 400), voice, 0.05))
    if rng.random() < 0.6:
        out = out + recur(rng, len(out), rng.uniform(1.8, 2.4), 0.0, lambda: kick(rng), 0.0)
    return out


def kick(rng: Generator) -> Sound:
    """Beat a bass drum."""
    n = 5000
    return sine(45 + rng.uniform(80, 200) * np.exp(-clock(n) * 35), n) * decay(n, 0.3) + 0.1 * noise(
        rng, n
    ) * decay(n, 0.02)


def snare(rng: Generator) -> Sound:
    """Beat a snare drum."""
    n = 4000
    rattle = high_pass(noise(rng, n), rng.uniform(800, 2000)) * decay(n, rng.uniform(0.1, 0.25))
    return peak(rattle) + 0.6 * sine(rng.uniform(160, 260), n) * decay(n, 0.1)


def hat(rng: Generator) -> Sound:
    """Beat a hi-hat."""
    n = 4000
    return high_pass(noise(rng, n), rng.uniform(4000, 6500)) * decay(n, rng.uniform(0.03, 0.25))


@family("drums, drum kit, drum beat, drum, drumming, rhythm, percussion, drum loop")
def drum_kit(rng: Generator) -> Sound:
    """A beat of kick, snare and hi-hat."""
    n, step = length(rng, 2.0, 3.6), length(rng, 0.1, 0.25)
    out = np.zeros(n)
    patterns = [
        (kick(rng), rng.random(8) < 0.4, 1.0),
        (snare(rng), rng.random(8) < 0.3, 0.7),
        (hat(rng), rng.random(8) < 0.8, 0.35),
    ]
    for number, at in enumerate(range(0, n, step)):
        for sound, pattern, level in patterns:
            if pattern[number % 8]:
                add(out, sound, at, level * rng.uniform(0.7, 1))
    return out


@family("bass drum, kick drum, tom, war drums, timpani, taiko, djembe, bongo, hand drum", most_repeats=5)
def bass_drum(rng: Generator) -> Sound:
    """A skin that is struck."""
    n = length(rng, 0.3, 1.0)
    base = log_uniform(rng, 55, 300)
    skin = modes(rng, n, [base * k for k in (1, 1.59, 2.14, 2.3, 2.65)], rng.uniform(0.15, 0.8), 1.0)
    return peak(skin) + 0.5 * thud(rng, n, base, 0.2) + rng.uniform(0, 0.3) * noise(rng, n) * decay(n, 0.02)


@family("snare drum, drum roll, snare, marching drum, military drum")
def snare_drum(rng: Generator) -> Sound:
    """Single strokes, a march or a roll."""
    n = length(rng, 0.6, 2.8)
    return recur(rng, n, rng.choice([2, 4, 8, 16, 24]), 0.05, lambda: snare(rng), 0.3)


@family(
    "cymbal, hi-hat, crash cymbal, cymbals, hi hat, tambourine, shaker, maracas, triangle",
    most_repeats=4,
)
def cymbal(rng: Generator) -> Sound:
    """Bright noise of many modes; a crash or short shakes."""
    n = length(rng, 0.15, 2.2)
    seconds = n / RATE * rng.uniform(0.6, 1.5)
    out = peak(high_pass(noise(rng, n), log_uniform(rng, 2000, 5000))) * decay(n, seconds)
    return out + rng.uniform(0, 0.7) * peak(metal(rng, n, rng.uniform(300, 900), seconds, 20))


@family(
    "street music, music, street musician, band, busker, song, street performance, live music, folk music, "
    "street band"
)
def street_music(rng: Generator) -> Sound:
    """Two or three instruments at once, mostly with a beat, at some distance."""
    players = [guitar, piano, violin, brass, flute, organ, synthesizer, drum_kit, mallets, electric_guitar]
    n = length(rng, 2.4, 3.6)
    out = np.zeros(n)
    for number in rng.choice(len(players), rng.integers(2, 4), replace=False):
        add(out, np.resize(peak(players[number](rng)), n), 0, rng.uniform(0.4, 1))
    if rng.random() < 0.4:
        beat = onsets(rng, n, rng.uniform(1.5, 3), 0.0)
        for count, at in enumerate(beat):
            add(out, kick(rng) if count % 2 == 0 else snare(rng), at, 0.6)
    return low_pass(out, log_uniform(rng, 2500, 7900)) + rng.uniform(0, 0.03) * noise(rng, n, -3)


@family(
    "record scratch, turntable, vinyl scratch, dj scratching, tape stop, slide whistle, cartoon",
    most_repeats=3,
)
def scratch(rng: Generator) -> Sound:
    """A sound dragged back and forth."""
    n = length(rng, 0.25, 1.2)
    freq = log_uniform(rng, 150, 1500) * glide(n, *np.exp(rng.uniform(-1, 1, 5)))
    return tones(freq, n, [1, 0.6, 0.4, 0.3, 0.2]) + rng.uniform(0, 0.8) * noise(rng, n) * swell(n)
