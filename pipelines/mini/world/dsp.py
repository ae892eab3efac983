"""Building blocks of synthesis: noises, filters, envelopes, tones, struck bodies, voices.

Sounds are mono float64 arrays at :data:`RATE`. Frequencies are in Hz, times in seconds. Every
draw comes from the generator that is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import signal

Sound = NDArray[np.float64]

RATE = 16_000  # Hz
TOP = 7_800.0  # Hz: highest frequency that is synthesised


def length(rng: Generator, low: float, high: float) -> int:
    """Draw a number of samples that lasts between two times."""
    return int(rng.uniform(low, high) * RATE)


def log_uniform(rng: Generator, low: float, high: float) -> float:
    """Draw a positive number, uniform in its logarithm."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def clock(n: int) -> Sound:
    """Return the time of each of n samples."""
    return np.arange(n) / RATE


# Noises and filters


def noise(rng: Generator, n: int, slope: float = 0.0) -> Sound:
    """Draw noise whose spectrum changes by ``slope`` dB per octave; peak 1."""
    if slope == 0:
        return peak(rng.standard_normal(n))
    spectrum = np.fft.rfft(rng.standard_normal(n))
    freqs = np.maximum(np.fft.rfftfreq(n, 1 / RATE), 40)
    return peak(np.fft.irfft(spectrum * (freqs / 1000) ** (slope / 6.02), n))


def crackle(rng: Generator, n: int, per_second: float, spread: float = 1.5) -> Sound:
    """Draw single-sample impulses at random times, their levels log-normal."""
    out = np.zeros(n)
    count = rng.poisson(per_second * n / RATE) + 1
    levels = np.exp(spread * rng.standard_normal(count)) * rng.choice([-1, 1], count)
    np.add.at(out, rng.integers(0, n, count), levels)
    return out


def band(x: Sound, low: float, high: float, order: int = 2) -> Sound:
    """Keep what lies between two frequencies."""
    low = min(max(low, 15), 7000)
    high = min(max(high, low * 1.05), 7950)
    return signal.sosfilt(signal.butter(order, [low, high], "bandpass", fs=RATE, output="sos"), x)


def low_pass(x: Sound, cut: float, order: int = 2) -> Sound:
    """Keep what lies below a frequency."""
    return signal.sosfilt(signal.butter(order, min(cut, 7900), "low", fs=RATE, output="sos"), x)


def high_pass(x: Sound, cut: float, order: int = 2) -> Sound:
    """Keep what lies above a frequency."""
    return signal.sosfilt(signal.butter(order, min(cut, 7500), "high", fs=RATE, output="sos"), x)


def resonate(x: Sound, freq: float, quality: float) -> Sound:
    """Filter by one resonance of gain 1."""
    b, a = signal.iirpeak(min(freq, TOP), quality, fs=RATE)
    return signal.lfilter(b, a, x)


def resonances(x: Sound, freqs: Sequence[float], widths: Sequence[float], gains: Sequence[float]) -> Sound:
    """Filter by parallel resonances."""
    parts = zip(freqs, widths, gains, strict=True)
    return sum((g * resonate(x, f, max(f / w, 0.6)) for f, w, g in parts if f < TOP), start=np.zeros_like(x))


# Envelopes


def decay(n: int, seconds: float, attack: float = 0.002) -> Sound:
    """Rise at once and fall by 60 dB within a time."""
    t = clock(n)
    return np.exp(-6.9 * t / seconds) * np.minimum(1, (t + 1 / RATE) / attack)


def swell(n: int, rise: float = 0.2, fall: float = 0.3) -> Sound:
    """Rise and fall softly; rise and fall are shares of the length."""
    at = np.linspace(0, 1, n)
    ramp = np.minimum(1, np.minimum(at / max(rise, 1e-3), (1 - at) / max(fall, 1e-3)))
    return np.sin(ramp * np.pi / 2) ** 2


def wander(rng: Generator, n: int, per_second: float, low: float, high: float) -> Sound:
    """Draw a smooth random curve between two values."""
    count = max(3, int(n / RATE * per_second) + 2)
    points = rng.uniform(low, high, count)
    return np.interp(np.linspace(0, count - 1, n), np.arange(count), points)


def glide(n: int, *values: float) -> Sound:
    """Go through values at even distances, geometrically (they must be positive)."""
    at = np.linspace(0, len(values) - 1, n)
    return np.exp(np.interp(at, np.arange(len(values)), np.log(values)))


def pulse_wave(n: int, rate: float, duty: float, edge: float = 0.01) -> Sound:
    """Switch on and off at a rate, with soft edges."""
    on = ((clock(n) * rate) % 1 < duty).astype(float)
    width = max(2, int(edge * RATE))
    return np.convolve(on, np.ones(width) / width, mode="same")


def vibrato(rng: Generator, n: int, base: float, rate: float, depth: float) -> Sound:
    """Return a frequency that swings around a base by a share ``depth``."""
    return base * (1 + depth * np.sin(2 * np.pi * rate * clock(n) + rng.uniform(0, 6.28)))


# Tones


def phase(freq: Sound | float, n: int) -> Sound:
    """Integrate a frequency to a phase in turns."""
    return np.cumsum(np.broadcast_to(freq, n)) / RATE


def sine(freq: Sound | float, n: int) -> Sound:
    """Return a sine of constant or changing frequency."""
    return np.sin(2 * np.pi * phase(freq, n))


def tones(freq: Sound | float, n: int, gains: Sequence[float]) -> Sound:
    """Add harmonics 1, 2, ... with gains; those beyond the band are left out."""
    turns = phase(freq, n)
    highest = float(np.max(freq))
    out = np.zeros(n)
    for number, gain in enumerate(gains, start=1):
        if gain and highest * number < TOP:
            out += gain * np.sin(2 * np.pi * number * turns)
    return out


def saw(freq: Sound | float, n: int) -> Sound:
    """Return a sawtooth."""
    return 2 * (phase(freq, n) % 1) - 1


def square(freq: Sound | float, n: int, duty: float = 0.5) -> Sound:
    """Return a square wave."""
    return np.where(phase(freq, n) % 1 < duty, 1.0, -1.0)


def pulses(rng: Generator, freq: Sound | float, n: int, jitter: float = 0.0, shimmer: float = 0.0) -> Sound:
    """Return one impulse per period, between samples, with unsteady periods and levels."""
    steps = np.broadcast_to(freq, n) / RATE
    if jitter:
        steps = steps * (
            1 + jitter * np.interp(np.arange(n), np.arange(0, n, 40), rng.standard_normal((n + 39) // 40))
        )
    turns = np.cumsum(np.maximum(steps, 1e-6))
    at = np.flatnonzero(np.diff(np.floor(turns)) > 0)
    share = (turns[at + 1] % 1) / np.maximum(steps[at + 1], 1e-6)
    gain = 1 + shimmer * rng.standard_normal(len(at))
    out = np.zeros(n)
    out[at] += gain * np.clip(share, 0, 1)
    out[at + 1] += gain * (1 - np.clip(share, 0, 1))
    return out


def modes(rng: Generator, n: int, freqs: Sequence[float], seconds: float, tilt: float = 0.5) -> Sound:
    """Strike a body: damped sines; higher ones are weaker and shorter, the more so by ``tilt``."""
    t = clock(n)
    out = np.zeros(n)
    first = min(freqs)
    for freq in freqs:
        if freq < TOP:
            gain = rng.uniform(0.3, 1) * (first / freq) ** tilt
            fall = seconds * rng.uniform(0.6, 1.2) * (first / freq) ** (0.5 * tilt)
            out += gain * np.exp(-6.9 * t / fall) * np.sin(2 * np.pi * freq * t + rng.uniform(0, 6.28))
    return out


def metal(rng: Generator, n: int, base: float, seconds: float, count: int = 14) -> Sound:
    """Strike a piece of metal: many inharmonic modes that ring."""
    freqs = base * np.cumprod(np.concatenate([[1.0], rng.uniform(1.06, 1.5, count - 1)]))
    return modes(rng, n, list(freqs), seconds, tilt=rng.uniform(0.0, 0.5))


def wood(rng: Generator, n: int, base: float, seconds: float) -> Sound:
    """Strike a piece of wood: a few modes that die at once, and a click."""
    freqs = [base, base * rng.uniform(1.5, 2.1), base * rng.uniform(2.4, 3.3), base * rng.uniform(3.8, 5.4)]
    click = band(noise(rng, n), base, base * 6) * decay(n, 0.03)
    return peak(modes(rng, n, freqs, seconds, 0.8)) + rng.uniform(0.2, 1) * peak(click)


def thud(rng: Generator, n: int, freq: float, seconds: float) -> Sound:
    """Hit something soft and heavy: a sine that sinks, and low noise."""
    tone = sine(freq * (1 + np.exp(-clock(n) * rng.uniform(15, 50))), n) * decay(n, seconds)
    return tone + rng.uniform(0.2, 0.8) * peak(low_pass(noise(rng, n), freq * 6)) * decay(n, seconds * 0.6)


def click(rng: Generator, low: float = 800, high: float = 6000, seconds: float = 0.02) -> Sound:
    """Make a short click in a band."""
    n = int(max(seconds * 1.5, 0.01) * RATE)
    return peak(band(noise(rng, n), low, high) * decay(n, seconds, 0.0005))


# Voices

VOWELS = (
    (730, 1090, 2440),
    (270, 2290, 3010),
    (300, 870, 2240),
    (530, 1840, 2480),
    (570, 840, 2410),
    (660, 1720, 2410),
    (490, 1350, 1690),
    (440, 1020, 2240),
)
"""First three formants of spoken vowels: a, i, u, e, o, ae, er, o closed."""


def throat(rng: Generator, freq: Sound | float, n: int, breath: float = 0.05, rough: float = 0.01) -> Sound:
    """Excite a vocal tract: impulses of an unsteady pitch, softened, with breath."""
    source = pulses(rng, freq, n, jitter=rough, shimmer=rough * 4)
    voiced = peak(signal.lfilter([1.0], [1, -rng.uniform(0.88, 0.97)], source))
    return voiced + breath * rng.standard_normal(n) * 0.3


def vocalise(
    source: Sound, formants: Sequence[Sequence[float]], gains: Sequence[float] = (1, 0.6, 0.3, 0.15)
) -> Sound:
    """Shape a source by a row of vowels, one after the other, fading from each to the next."""
    n = len(source)
    at = np.linspace(0, max(len(formants) - 1, 0), n)
    out = np.zeros(n)
    for number, vowel in enumerate(formants):
        share = np.clip(1 - np.abs(at - number), 0, 1)
        inside = np.flatnonzero(share)
        start, stop = max(0, inside[0] - 400), inside[-1] + 1
        widths = [60 + 0.05 * freq for freq in vowel]
        part = resonances(source[start:stop], vowel, widths, gains[: len(vowel)])
        out[start:stop] += share[start:stop] * part
    return peak(out)


def vowel(rng: Generator, scale: float = 1.0) -> list[float]:
    """Draw a vowel for a vocal tract that is shorter than a man's by a factor."""
    freqs = VOWELS[rng.integers(len(VOWELS))]
    return [scale * freq * rng.uniform(0.93, 1.07) for freq in (*freqs, 3500)]


# Putting together


def peak(x: Sound) -> Sound:
    """Scale to a peak of 1."""
    return x / (np.max(np.abs(x)) + 1e-9)


def drive(x: Sound, amount: float) -> Sound:
    """Saturate."""
    return np.tanh(amount * peak(x))


def add(out: Sound, part: Sound, at: int, gain: float = 1.0) -> None:
    """Add a part at a sample; what reaches beyond the end is cut."""
    if 0 <= at < len(out):
        end = min(len(out), at + len(part))
        out[at:end] += gain * part[: end - at]


def onsets(rng: Generator, n: int, per_second: float, unsteady: float) -> list[int]:
    """Draw the samples at which something recurs; ``unsteady`` 0 is a clock, 1 pure chance."""
    times: list[int] = []
    at = rng.uniform(0, min(1 / per_second, n / RATE * 0.5))
    while at * RATE < n:
        times.append(int(at * RATE))
        steady = 1 + 0.1 * unsteady * rng.standard_normal()
        at += max(0.008, (1 - unsteady) * steady + unsteady * rng.exponential()) / per_second
    return times


def recur(
    rng: Generator,
    n: int,
    per_second: float,
    unsteady: float,
    grain: Callable[[], Sound],
    spread: float = 0.3,
) -> Sound:
    """Let something recur, each time drawn anew, at levels that vary by ``spread`` (nepers)."""
    out = np.zeros(n)
    for at in onsets(rng, n, per_second, unsteady):
        add(out, grain(), at, float(np.exp(spread * rng.standard_normal())))
    return out


def echoes(x: Sound, seconds: float, gain: float, count: int) -> Sound:
    """Add fading repetitions, within the same length."""
    out = x.copy()
    for number in range(1, count + 1):
        shift = int(seconds * number * RATE)
        if shift < len(x):
            out[shift:] += gain**number * low_pass(x[: len(x) - shift], 5000 / number)
    return out


def reverberate(rng: Generator, x: Sound, seconds: float, wet: float) -> Sound:
    """Put a sound into a room that fades by 60 dB within a time."""
    n = int(seconds * RATE)
    tail = rng.standard_normal(n) * np.exp(-6.9 * clock(n) / seconds)
    tail = low_pass(tail, log_uniform(rng, 1500, 7500), 1)
    tail /= np.sqrt(np.sum(tail**2)) + 1e-9
    return (1 - wet) * x + wet * signal.fftconvolve(x, tail)[: len(x)]
