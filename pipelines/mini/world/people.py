"""People: footsteps, cries, laughter, crowds, children, the body."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from pipelines.mini.world.dsp import (
    RATE,
    Sound,
    add,
    band,
    click,
    clock,
    crackle,
    decay,
    drive,
    glide,
    high_pass,
    length,
    log_uniform,
    low_pass,
    metal,
    noise,
    onsets,
    peak,
    recur,
    sine,
    swell,
    throat,
    thud,
    vibrato,
    vocalise,
    vowel,
    wander,
    wood,
)
from pipelines.mini.world.family import family


def step(rng: Generator, ground: int, base: float) -> Sound:
    """Set down a heel and a sole on: earth, gravel, wood, stone, metal, snow or sand, mud or water."""
    n = 5200
    sole = int(rng.uniform(0.04, 0.12) * RATE)
    out = np.zeros(n)
    if ground in (1, 5):
        grit = band(crackle(rng, n, rng.uniform(300, 1500), 1), 700 if ground == 1 else 1500, 7000)
        out += peak(grit) * swell(n, 0.2, 0.6) ** 2
    for at, level in ((0, 1.0), (sole, rng.uniform(0.2, 0.7))):
        if ground == 0:
            part = thud(rng, 2000, base * 0.4, 0.08)
        elif ground == 2:
            part = peak(wood(rng, 2000, base, 0.07))
        elif ground == 4:
            part = peak(metal(rng, 3000, base * 2, 0.2, 8))
        elif ground == 6:
            part = peak(band(noise(rng, 2500), 300, 3500) * swell(2500, 0.2, 0.6))
        else:
            part = thud(rng, 800, base * 0.5, 0.04)[:720] * 0.4 + click(rng, base * 2, base * 12, 0.03)
        add(out, part, at, level * (0.4 if ground in (1, 5) else 1))
    return out


@family(
    "footsteps, footstep, walking, running, steps, walking on gravel, walking on wood, walking in snow, "
    "boots, footsteps on sand, running steps, person walking"
)
def footsteps(rng: Generator) -> Sound:
    """Steps at a walk or a run, or one alone."""
    ground, base = int(rng.integers(7)), log_uniform(rng, 120, 450)
    if rng.random() < 0.3:
        return step(rng, ground, base)
    n = length(rng, 1.2, 3.4)
    return recur(rng, n, rng.uniform(1.3, 4.5), 0.04, lambda: step(rng, ground, base), 0.2)


def cry(rng: Generator, n: int, base: float, shape: list[float], rough: float) -> Sound:
    """Cry out on an open vowel."""
    scale = (base / 140) ** 0.25
    vowels = [vowel(rng, scale) for _ in range(rng.integers(1, 3))]
    source = throat(rng, base * glide(n, *shape), n, rng.uniform(0.05, 0.5), rough)
    return drive(vocalise(source, vowels), rng.uniform(0.5, 3))


@family(
    "human cry of pain, cry of pain, grunt, groan, pain, ouch, man grunting, hurt, moan, human pain, "
    "dying man",
    most_repeats=3,
)
def pain(rng: Generator) -> Sound:
    """A short, strained cry that sinks."""
    n = length(rng, 0.15, 1.3)
    shape = [rng.uniform(0.8, 1.1), rng.uniform(1, 1.5), rng.uniform(0.5, 0.9)]
    return cry(rng, n, log_uniform(rng, 90, 450), shape, rng.uniform(0.01, 0.12)) * swell(
        n, 0.1, rng.uniform(0.3, 0.6)
    )


@family(
    "scream, screaming, shriek, human scream, scream of terror, woman screaming, yell, human cry of pain",
    most_repeats=2,
)
def scream(rng: Generator) -> Sound:
    """A long, high, rough cry."""
    n = length(rng, 0.5, 2.5)
    shape = [rng.uniform(0.7, 1), 1.1, rng.uniform(0.9, 1.2), rng.uniform(0.6, 1)]
    return drive(cry(rng, n, log_uniform(rng, 350, 1300), shape, rng.uniform(0.01, 0.1)), 3) * swell(
        n, 0.1, 0.3
    )


@family("shouting, shout, battle cry, man shouting, voice, command, hey, warrior yell, cheer", most_repeats=3)
def shout(rng: Generator) -> Sound:
    """One to three loud syllables."""
    parts = []
    base = log_uniform(rng, 130, 420)
    for _ in range(rng.integers(1, 4)):
        n = length(rng, 0.12, 0.6)
        parts.append(cry(rng, n, base * rng.uniform(0.85, 1.2), [0.9, 1.1, 0.8], 0.02) * swell(n, 0.15, 0.3))
    return np.concatenate(parts)


def talk(rng: Generator, n: int, base: float, rate: float) -> Sound:
    """Babble syllables with consonants between, no words."""
    out = np.zeros(n)
    scale = (base / 120) ** 0.3
    for at in onsets(rng, n, rate, 0.35):
        m = int(RATE / rate * rng.uniform(0.6, 1.1))
        freq = base * rng.uniform(0.8, 1.35) * glide(m, 1, rng.uniform(0.85, 1.2))
        voice = vocalise(throat(rng, freq, m, 0.05, 0.01), [vowel(rng, scale), vowel(rng, scale)])
        add(out, voice * swell(m, 0.2, 0.3), at, rng.uniform(0.4, 1))
        if rng.random() < 0.5:
            k = length(rng, 0.03, 0.1)
            add(out, high_pass(noise(rng, k), rng.uniform(1500, 4500)) * swell(k), at, rng.uniform(0.05, 0.3))
    return out


@family("speech, talking, man speaking, woman speaking, person talking, conversation, human voice, narration")
def speech(rng: Generator) -> Sound:
    """One voice that babbles."""
    n = length(rng, 1.2, 3.4)
    return talk(rng, n, log_uniform(rng, 85, 280), rng.uniform(3, 6.5))


@family(
    "crowd, crowd talking, people chattering, restaurant, audience, cafeteria, many people talking, market"
)
def crowd(rng: Generator) -> Sound:
    """Many voices at once."""
    n = length(rng, 2.2, 3.4)
    voices = (
        np.roll(talk(rng, n, log_uniform(rng, 90, 280), rng.uniform(3, 6)), rng.integers(n))
        for _ in range(rng.integers(5, 9))
    )
    return low_pass(sum(voices, start=np.zeros(n)), log_uniform(rng, 1500, 7000)) + 0.05 * noise(rng, n, -4)


@family(
    "children playing, children, kids playing, playground, kids, children shouting, school yard, "
    "children laughing, kids screaming"
)
def children(rng: Generator) -> Sound:
    """High voices that call, babble and shriek, outdoors."""
    n = length(rng, 2.2, 3.6)
    out = np.zeros(n)
    for _ in range(rng.integers(2, 6)):
        voice = np.roll(talk(rng, n, log_uniform(rng, 240, 520), rng.uniform(2.5, 5)), rng.integers(n))
        out += rng.uniform(0.2, 1) * voice * (wander(rng, n, 1.5, -0.6, 1) > 0)
    for at in rng.integers(0, n, rng.integers(1, 6)):
        m = length(rng, 0.2, 0.9)
        call = cry(
            rng, m, log_uniform(rng, 350, 1000), [0.9, rng.uniform(1, 1.5), rng.uniform(0.7, 1.2)], 0.02
        )
        add(out, call * swell(m, 0.15, 0.3), int(at), rng.uniform(0.2, 1))
    return out + rng.uniform(0.01, 0.1) * noise(rng, n, -3)


@family("laughing, laughter, laugh, giggling, person laughing, chuckle, evil laugh", most_repeats=2)
def laughter(rng: Generator) -> Sound:
    """Ha-ha: short breathy syllables that sink."""
    n = length(rng, 0.8, 2.6)
    base, vowel_ = log_uniform(rng, 110, 480), vowel(rng, rng.uniform(1, 1.3))
    rate = rng.uniform(3.5, 6.5)
    out = np.zeros(n)
    for at in onsets(rng, n, rate, 0.06):
        m = int(RATE / rate * rng.uniform(0.6, 0.9))
        freq = base * (1.2 - 0.4 * at / n) * glide(m, 1.1, 0.9)
        add(out, vocalise(throat(rng, freq, m, 0.4, 0.02), [vowel_]) * swell(m, 0.3, 0.5), at)
    return out


@family("baby crying, crying baby, baby, infant crying, crying, sobbing, toddler")
def baby(rng: Generator) -> Sound:
    """Wails about a second long with gasps between."""
    n = length(rng, 1.6, 3.4)

    def wail() -> Sound:
        m = length(rng, 0.5, 1.2)
        freq = rng.uniform(350, 620) * glide(m, 0.8, 1.15, 1.05, 0.75)
        return vocalise(throat(rng, freq, m, 0.1, 0.02), [(1000, 1900, 3500), (900, 1700, 3400)]) * swell(
            m, 0.15, 0.3
        )

    return recur(rng, n, rng.uniform(0.7, 1.3), 0.1, wail)


@family("cough, coughing, sneeze, sneezing, clearing throat, person coughing", most_repeats=3)
def cough(rng: Generator) -> Sound:
    """A burst of air with a little voice."""
    n = length(rng, 0.2, 0.6)
    source = throat(rng, rng.uniform(90, 250) * glide(n, 1.2, 0.8), n, 1.5, 0.15)
    return vocalise(source, [vowel(rng), vowel(rng)]) * decay(n, rng.uniform(0.2, 0.7), 0.01)


@family(
    "breathing, breath, panting, "  # codespell:ignore panting
    "sigh, gasp, heavy breathing, whispering, inhaling"
)
def breathing(rng: Generator) -> Sound:
    """Noise through a mouth, in and out."""
    n = length(rng, 1.0, 3.2)
    flow = np.abs(sine(rng.uniform(0.3, 2), n))
    return vocalise(rng.standard_normal(n), [vowel(rng), vowel(rng), vowel(rng)]) * flow


@family("snoring, snore, sleeping, person snoring")
def snoring(rng: Generator) -> Sound:
    """A rattle on each breath."""
    n = length(rng, 2.0, 3.4)
    source = throat(rng, rng.uniform(25, 70), n, 1.0, 0.2)
    return vocalise(source, [(300, 900, 2200), (500, 1200, 2400)]) * np.clip(
        sine(rng.uniform(0.3, 0.6), n), 0.05, 1
    )


@family("applause, clapping, hand clapping, audience applause, hands clapping, cheering crowd")
def applause(rng: Generator) -> Sound:
    """Claps of few or of hundreds of hands."""
    n = length(rng, 1.6, 3.4)

    def clap() -> Sound:
        low = rng.uniform(500, 1200)
        return click(rng, low, low * rng.uniform(2.5, 5), rng.uniform(0.02, 0.06))

    if rng.random() < 0.3:
        return recur(rng, n, rng.uniform(1.5, 5), 0.05, clap)
    dense = band(noise(rng, n) * np.abs(wander(rng, n, 120, 0, 1)), 600, 5000)
    return peak(recur(rng, n, rng.uniform(30, 120), 1.0, clap, 0.6)) + rng.uniform(0, 1) * peak(dense)


@family("stadium, stadium crowd, crowd cheering, roaring crowd, sports fans, goal")
def stadium(rng: Generator) -> Sound:
    """A wash of open vowels from thousands."""
    n = length(rng, 2.0, 3.4)
    voices = [throat(rng, log_uniform(rng, 150, 500) * glide(n, 0.9, 1.1, 1), n, 0.5, 0.05) for _ in range(5)]
    out = vocalise(sum(voices, start=np.zeros(n)), [(700, 1200, 2600), (600, 1000, 2500)])
    return (out + peak(band(noise(rng, n), 400, 3000))) * wander(rng, n, 1.5, 0.4, 1)


@family("singing, choir, singer, opera singer, chant, voices singing, humming a tune")
def singing(rng: Generator) -> Sound:
    """Held vowels with vibrato, by one voice or a choir."""
    n = length(rng, 1.6, 3.4)
    base = log_uniform(rng, 110, 500)
    out = np.zeros(n)
    for _ in range(rng.choice([1, 1, 3, 5])):
        notes = base * 2 ** (rng.choice([0, 2, 3, 5, 7], rng.integers(2, 6)) / 12)
        freq = np.interp(clock(n), np.linspace(0, n / RATE, len(notes)), notes) * vibrato(
            rng, n, 1, 5.5, 0.02
        )
        out += vocalise(throat(rng, freq, n, 0.03, 0.003), [vowel(rng), vowel(rng)])
    return out


@family("human whistling, person whistling, whistling a tune, whistling")
def whistling(rng: Generator) -> Sound:
    """A pure tone that follows a tune, with breath."""
    n = length(rng, 1.0, 3.2)
    notes = log_uniform(rng, 700, 1800) * 2 ** (rng.choice([0, 2, 4, 5, 7, 9], rng.integers(2, 9)) / 12)
    freq = np.interp(np.linspace(0, len(notes) - 1, n) ** 1.0, np.arange(len(notes)), notes) * vibrato(
        rng, n, 1, 6, 0.008
    )
    return sine(freq, n) * wander(rng, n, 4, 0.3, 1) + 0.03 * noise(rng, n)


@family("heartbeat, heart, beating heart, pulse, heart beating")
def heartbeat(rng: Generator) -> Sound:
    """Two dull thuds, again and again."""
    n = length(rng, 2.0, 3.4)

    def beat() -> Sound:
        out = np.zeros(8000)
        add(out, thud(rng, 3000, rng.uniform(40, 80), 0.12), 0)
        add(out, thud(rng, 3000, rng.uniform(45, 90), 0.1), int(rng.uniform(0.18, 0.3) * RATE), 0.7)
        return low_pass(out, 300)

    return recur(rng, n, rng.uniform(0.9, 2.2), 0.01, beat, 0.05)
