"""Ten city sounds, synthesised: what the demo dataset is made of.

Each generator takes a random generator and a number of samples at :data:`RATE` and returns one clip
before noise, room and level. They imitate how the real things sound: what turns, hits, blows or sings,
with random speed, pitch, timbre and rhythm, so that no two clips of a class are alike. They are written
apart from the sounds that the encoder ``mini`` was trained on, and must stay so: the demo measures it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy  # loads scipy.signal when it is first used: to list datasets takes none of it
from numpy.random import Generator
from numpy.typing import NDArray

RATE = 22_050
"""Hz."""

Waveform = NDArray[np.float64]


def band(sound: Waveform, low: float, high: float) -> Waveform:
    """Keep what lies between two frequencies in Hz."""
    sections = scipy.signal.butter(2, (low, high), "bandpass", fs=RATE, output="sos")
    return np.asarray(scipy.signal.sosfilt(sections, sound))


def oscillate(pitch: Waveform, weights: Waveform) -> Waveform:
    """Sum harmonics with the given weights over a changing pitch in Hz, (n,)."""
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    sound = np.zeros_like(phase)
    for number, weight in enumerate(weights, start=1):
        sound += weight * np.sin(number * phase) * (number * pitch < RATE / 2)
    return sound


def wander(rng: Generator, n: int, hertz: float) -> Waveform:
    """Return a smooth random curve, about -1 to 1, that turns about ``hertz`` times a second."""
    knots = max(3, int(hertz * n / RATE) + 3)
    return np.interp(np.linspace(0, knots - 1, n), np.arange(knots), rng.uniform(-1, 1, knots))


def strike(rng: Generator, n: int, decay: float) -> Waveform:
    """Return noise that dies away with a time constant in seconds."""
    return rng.standard_normal(n) * np.exp(-np.arange(n) / (decay * RATE))


def place(sound: Waveform, events: list[tuple[float, Waveform]]) -> Waveform:
    """Add events at their times in seconds; what lies outside is cut off."""
    for second, event in events:
        start = int(second * RATE)
        if 0 <= start < len(sound):
            stop = min(len(sound), start + len(event))
            sound[start:stop] += event[: stop - start]
    return sound


def swell(n: int, attack: float, release: float) -> Waveform:
    """Return an envelope that rises and falls linearly within the given seconds."""
    time = np.arange(n) / RATE
    return np.asarray(np.clip(np.minimum(time / attack, (time[-1] - time) / release), 0, 1))


def air_conditioner(rng: Generator, n: int) -> Waveform:
    """A fan's broad low rush, the hum of its motor and blades, perhaps a loose panel."""
    rush = band(rng.standard_normal(n), rng.uniform(40, 120), rng.uniform(500, 2500))
    hum = oscillate(np.full(n, rng.choice([50.0, 60.0]) * 2), rng.uniform(0.1, 1, 5) / np.arange(1, 6))
    blades = 1 + rng.uniform(0.05, 0.35) * np.sin(2 * np.pi * rng.uniform(4, 14) * np.arange(n) / RATE)
    sound = rush / np.std(rush) * blades + rng.uniform(0.05, 0.6) * hum
    if rng.random() < 0.4:
        rattle = band(rng.standard_normal(n), 1500, 5000) * (wander(rng, n, 25) > 0.6)
        sound += rng.uniform(0.1, 0.5) * rattle
    return sound


def car_horn(rng: Generator, n: int) -> Waveform:
    """Two reeds a third apart or one, rich in harmonics, in one or several blasts."""
    root = rng.uniform(300, 480)
    reeds = [root] if rng.random() < 0.25 else [root, root * rng.choice([1.19, 1.25, 1.33])]
    weights = rng.uniform(0.5, 1, 14) / np.arange(1, 15) ** rng.uniform(0.4, 1.0)
    sound, second = np.zeros(n), rng.uniform(0, 0.5)
    while second < n / RATE - 0.2:
        length = int(rng.choice([rng.uniform(0.15, 0.4), rng.uniform(0.6, 2.5)]) * RATE)
        pitch = 1 - 0.02 * np.exp(-np.arange(length) / (0.03 * RATE))
        blast = sum((oscillate(reed * pitch, weights) for reed in reeds), np.zeros(length))
        place(sound, [(second, np.tanh(1.2 * blast) * swell(length, 0.015, 0.04))])
        second += length / RATE + rng.uniform(0.1, 0.9)
    return sound


def children_playing(rng: Generator, n: int) -> Waveform:
    """Many high voices at once: calls, laughter, squeals, some far away."""
    sound = np.zeros(n)
    for _ in range(rng.integers(6, 16)):
        second, loudness = rng.uniform(-0.2, n / RATE), rng.uniform(0.2, 1) ** 2
        syllables = rng.integers(1, 6)
        base = rng.uniform(280, 620)
        for syllable in range(syllables):
            length = int(rng.uniform(0.08, 0.35) * RATE)
            glide = base * (1 + 0.25 * rng.uniform(-1, 1) * np.linspace(0, 1, length))
            glide *= rng.uniform(0.85, 1.2)
            voice = oscillate(glide * (1 + 0.02 * wander(rng, length, 12)), 1 / np.arange(1, 13) ** 1.1)
            first, second_formant = rng.uniform(500, 1100), rng.uniform(1400, 3000)
            voice = band(voice, first * 0.7, first * 1.3) + 0.6 * band(
                voice, second_formant * 0.8, second_formant * 1.2
            )
            voice += 0.03 * rng.standard_normal(length)
            at = second + syllable * rng.uniform(0.12, 0.3)
            place(sound, [(max(at, 0), loudness * voice * swell(length, 0.02, 0.06))])
    return sound


def dog_bark(rng: Generator, n: int) -> Waveform:
    """Barks of one dog, large or small: a quick rise and fall of pitch with a rough throat."""
    size = rng.uniform(0.6, 2.0)
    sound, second = np.zeros(n), rng.uniform(0.05, 0.6)
    gap = rng.uniform(0.2, 0.8)
    while second < n / RATE - 0.1:
        length = int(rng.uniform(0.09, 0.24) * RATE)
        arch = np.sin(np.linspace(0.25, 1, length) * np.pi) ** 0.7
        pitch = 260 / size * (0.7 + 0.9 * arch) * rng.uniform(0.92, 1.08)
        throat = oscillate(pitch, 1 / np.arange(1, 21) ** 0.6)
        throat *= 1 + 0.5 * wander(rng, length, 90)
        breath = rng.standard_normal(length)
        mouth = band(throat + rng.uniform(0.4, 1.2) * breath, 350 / size, 1900 / size**0.5)
        bark = np.tanh(2 * mouth / np.std(mouth)) * arch * np.exp(-2 * np.linspace(0, 1, length))
        place(sound, [(second, bark * rng.uniform(0.6, 1))])
        second += length / RATE + gap * rng.choice([0.6, 1, 1, 2.2])
    return sound


def drilling(rng: Generator, n: int) -> Waveform:
    """An electric drill: a whining motor that bites and slows, and grinding noise."""
    speed = rng.uniform(140, 420)
    load = 1 - 0.12 * np.clip(wander(rng, n, 1.2), 0, 1)
    run_up = 1 - rng.uniform(0, 0.9) * np.exp(-np.arange(n) / (rng.uniform(0.05, 0.3) * RATE))
    pitch = speed * load * run_up * (1 + 0.01 * wander(rng, n, 30))
    whine = oscillate(pitch, rng.uniform(0.2, 1, 18) / np.arange(1, 19) ** 0.45)
    grind = band(rng.standard_normal(n), rng.uniform(1200, 2500), rng.uniform(5000, 9500))
    grind *= 1 + 0.7 * np.sin(2 * np.pi * np.cumsum(pitch / rng.integers(2, 5)) / RATE)
    bite = 0.5 + 0.5 * np.clip(wander(rng, n, 1.5) + 0.5, 0, 1)
    return whine / np.std(whine) + rng.uniform(0.5, 1.6) * bite * grind / np.std(grind)


def engine_idling(rng: Generator, n: int) -> Waveform:
    """Slow combustion strokes through an exhaust, unequal between cylinders."""
    rate = rng.uniform(11, 32)
    cylinders = rng.choice([3, 4, 6, 8])
    strengths = rng.uniform(0.5, 1.2, cylinders)
    events, second, stroke = [], 0.0, 0
    resonance = rng.uniform(60, 160)
    while second < n / RATE:
        length = int(0.12 * RATE)
        time = np.arange(length) / RATE
        thump = np.sin(2 * np.pi * resonance * time) * np.exp(-time * rng.uniform(30, 60))
        thump += 0.25 * band(strike(rng, length, 0.02), 100, 900)
        events.append((second, thump * strengths[stroke % cylinders]))
        second += 1 / rate * (1 + 0.04 * rng.standard_normal())
        stroke += 1
    sound = place(np.zeros(n), events)
    belt = oscillate(np.full(n, rate * rng.uniform(8, 16)), 1 / np.arange(1, 8))
    hiss = band(rng.standard_normal(n), 300, rng.uniform(1500, 4000))
    return sound / np.std(sound) + rng.uniform(0.02, 0.25) * belt + rng.uniform(0.03, 0.3) * hiss


def gun_shot(rng: Generator, n: int) -> Waveform:
    """Sharp blasts with a muzzle boom and echoes from walls."""
    shots = 1 if rng.random() < 0.55 else int(rng.integers(2, 9))
    interval = rng.choice([rng.uniform(0.08, 0.16), rng.uniform(0.3, 0.9)])
    length = int(1.6 * RATE)
    crack = strike(rng, length, rng.uniform(0.004, 0.02))
    boom = band(strike(rng, length, rng.uniform(0.05, 0.25)), 40, rng.uniform(250, 900))
    tail = band(strike(rng, length, rng.uniform(0.2, 0.5)), 150, rng.uniform(1500, 4000))
    blast = crack + rng.uniform(0.8, 2.5) * boom / np.std(boom[:4000]) * 0.4 + rng.uniform(0.03, 0.15) * tail
    for _ in range(rng.integers(0, 4)):
        delay = int(rng.uniform(0.05, 0.5) * RATE)
        blast[delay:] += rng.uniform(0.05, 0.3) * band(blast[: length - delay], 80, 2500)
    begin = rng.uniform(0.05, 0.8)
    events = [
        (begin + shot * interval * rng.uniform(0.95, 1.05), blast * rng.uniform(0.7, 1))
        for shot in range(shots)
    ]
    return np.tanh(1.5 * place(np.zeros(n), events))


def jackhammer(rng: Generator, n: int) -> Waveform:
    """A chisel that hits pavement many times a second, and its compressed air."""
    rate = rng.uniform(9, 26)
    ring = rng.uniform(700, 3200)
    events, second = [], rng.uniform(0, 0.1)
    while second < n / RATE:
        length = int(0.09 * RATE)
        time = np.arange(length) / RATE
        steel = np.sin(2 * np.pi * ring * time) * np.exp(-time * rng.uniform(60, 160))
        steel += 0.6 * np.sin(2 * np.pi * 2.32 * ring * time) * np.exp(-time * 190)
        thud = 1.5 * band(strike(rng, length, 0.015), 60, 400)
        chips = band(strike(rng, length, rng.uniform(0.004, 0.02)), 1500, 8000)
        events.append((second, (steel + thud + chips) * rng.uniform(0.7, 1)))
        second += 1 / rate * (1 + 0.03 * rng.standard_normal())
    hits = place(np.zeros(n), events)
    air = band(rng.standard_normal(n), 500, 6000)
    sound = hits / np.std(hits) + rng.uniform(0.1, 0.4) * air
    if rng.random() < 0.4:
        sound *= wander(rng, n, 1.0) > -0.6
    return sound


def siren(rng: Generator, n: int) -> Waveform:
    """Wail, yelp or two tones, as they pass by."""
    time = np.arange(n) / RATE
    low, high = rng.uniform(420, 750), rng.uniform(1000, 1650)
    kind = rng.choice(["wail", "yelp", "two tones"])
    phase = rng.uniform(0, 1)
    if kind == "two tones":
        turn = ((time / rng.uniform(0.8, 1.4) + phase) % 1 < 0.5).astype(float)
        pitch = low * (1 + turn * rng.uniform(0.25, 0.4))
    else:
        period = rng.uniform(2.0, 5.0) if kind == "wail" else rng.uniform(0.22, 0.4)
        turn = 0.5 - 0.5 * np.cos(2 * np.pi * (time / period + phase))
        pitch = low * (high / low) ** turn
    doppler = 1 + rng.uniform(-0.03, 0.03) * np.linspace(-1, 1, n)
    weights = rng.uniform(0.4, 1, 8) / np.arange(1, 9) ** rng.uniform(0.8, 1.6)
    weights[0] = 1
    passing = 0.6 + 0.4 * np.sin(np.linspace(0, np.pi, n) + rng.uniform(-1, 1))
    return np.tanh(1.5 * oscillate(pitch * doppler, weights)) * passing


def street_music(rng: Generator, n: int) -> Waveform:
    """A tune with chords and a beat on plucked, blown or bowed strings, drums or not."""
    beat = rng.uniform(0.22, 0.5)
    scale = 2 ** (np.array([0, 2, 4, 7, 9, 12, 14]) / 12) * rng.uniform(180, 360)
    plucked = rng.random() < 0.55
    weights = rng.uniform(0.3, 1, 10) / np.arange(1, 11) ** rng.uniform(0.8, 1.8)
    sound, step = np.zeros(n), 0
    degree = int(rng.integers(0, 7))
    while step * beat < n / RATE:
        length = int(beat * RATE * rng.choice([1, 1, 2, 0.5]) * (2 if plucked else 1))
        degree = int(np.clip(degree + rng.integers(-2, 3), 0, 6))
        notes = [scale[degree]] + ([scale[0] / 2, scale[2] / 2, scale[3] / 2] if step % 4 == 0 else [])
        for note in notes:
            vibrato = 1 + (0 if plucked else 0.008) * np.sin(2 * np.pi * 5.5 * np.arange(length) / RATE)
            tone = oscillate(note * vibrato, weights)
            decay = np.exp(-np.arange(length) / (0.25 * RATE)) if plucked else 1.0
            place(sound, [(step * beat, tone * decay * swell(length, 0.01 if plucked else 0.05, 0.05))])
        step += 1
    if rng.random() < 0.6:
        for number in range(int(n / RATE / beat) + 1):
            drum = band(strike(rng, 4000, 0.03), 60, 220) * 8 if number % 2 == 0 else strike(rng, 4000, 0.02)
            place(sound, [(number * beat, rng.uniform(0.3, 0.9) * drum)])
    return sound


SOUNDS: dict[str, Callable[[Generator, int], Waveform]] = {
    "air_conditioner": air_conditioner,
    "car_horn": car_horn,
    "children_playing": children_playing,
    "dog_bark": dog_bark,
    "drilling": drilling,
    "engine_idling": engine_idling,
    "gun_shot": gun_shot,
    "jackhammer": jackhammer,
    "siren": siren,
    "street_music": street_music,
}
"""In the order of UrbanSound8K's class numbers."""


def reverberate(rng: Generator, sound: Waveform) -> Waveform:
    """Put a sound into a street: a room response of dying noise, more or less of it."""
    seconds = rng.uniform(0.1, 0.7)
    response = strike(rng, int(seconds * RATE), seconds / 5)
    response = band(response, 100, rng.uniform(2500, 8000))
    wet = scipy.signal.fftconvolve(sound, response)[: len(sound)]
    share = rng.uniform(0.05, 0.5)
    mixed = (1 - share) * sound / (np.std(sound) + 1e-9) + share * wet / (np.std(wet) + 1e-9)
    return np.asarray(mixed)


def street_noise(rng: Generator, n: int) -> Waveform:
    """Return distant traffic: noise that falls towards high frequencies and comes and goes."""
    spectrum = np.fft.rfft(rng.standard_normal(n))
    spectrum /= np.maximum(np.arange(len(spectrum)), 20) ** rng.uniform(0.3, 0.9)
    return np.asarray(np.fft.irfft(spectrum, n) * (1 + 0.4 * wander(rng, n, 0.7)))


def double_rate(sound: Waveform) -> Waveform:
    """Resample a sound to twice :data:`RATE`."""
    return np.asarray(scipy.signal.resample_poly(sound, 2, 1))
