"""Birds and small creatures: what sings, croaks and buzzes."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from pipelines.mini.world.dsp import (
    RATE,
    Sound,
    add,
    band,
    decay,
    glide,
    length,
    log_uniform,
    low_pass,
    noise,
    onsets,
    peak,
    pulse_wave,
    recur,
    saw,
    sine,
    swell,
    throat,
    tones,
    vibrato,
    vocalise,
    wander,
)
from pipelines.mini.world.family import family


def syllable(rng: Generator, base: float) -> Sound:
    """Sing one syllable: a sweep, an arch or a trill."""
    n = length(rng, 0.03, 0.25)
    freq = base * glide(n, *np.exp(rng.uniform(-0.45, 0.45, rng.integers(2, 4))))
    if rng.random() < 0.3:
        freq = freq * (1 + rng.uniform(0.03, 0.2) * sine(rng.uniform(25, 90), n))
    return tones(np.clip(freq, 300, 7500), n, [1, rng.uniform(0, 0.35), rng.uniform(0, 0.15)]) * swell(
        n, 0.3, 0.4
    )


@family(
    "bird, bird chirping, birdsong, songbird, chirping birds, tweet, bird singing, sparrow, canary, bird call"
)
def birdsong(rng: Generator) -> Sound:
    """Phrases of a few syllables, by one bird or several."""
    n = length(rng, 0.6, 3.2)
    out = np.zeros(n)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        base = log_uniform(rng, 1300, 6000)
        motif = [syllable(rng, base) for _ in range(rng.integers(1, 5))]
        level = rng.uniform(0.3, 1)
        for number, at in enumerate(onsets(rng, n, rng.uniform(2, 11), rng.uniform(0.05, 0.6))):
            add(out, motif[number % len(motif)], at, level * rng.uniform(0.6, 1))
    return out


@family("parrot, bird squawk, hawk, eagle, bird of prey, falcon cry, seagull, gulls, peacock", most_repeats=3)
def bird_cry(rng: Generator) -> Sound:
    """A harsh, high cry that sinks."""
    n = length(rng, 0.2, 1.0)
    base = log_uniform(rng, 600, 2200)
    freq = base * glide(n, rng.uniform(0.7, 1.1), rng.uniform(1, 1.5), rng.uniform(0.6, 1))
    out = tones(freq * (1 + 0.03 * sine(rng.uniform(20, 80), n)), n, [0.7, 1, 0.7, 0.5, 0.3])
    return (out + rng.uniform(0.1, 1) * noise(rng, n)) * swell(n, 0.15, 0.4)


@family("crow, crow cawing, raven, caw, crows", most_repeats=4)
def crow(rng: Generator) -> Sound:
    """A rough caw."""
    n = length(rng, 0.25, 0.7)
    freq = rng.uniform(350, 650) * glide(n, 0.9, 1.05, 0.85)
    return vocalise(throat(rng, freq, n, 0.4, 0.12), [(1000, 1800, 2800), (900, 1500, 2600)]) * swell(
        n, 0.15, 0.3
    )


@family("rooster, cock crowing, rooster crow, cockerel, cock-a-doodle-doo", most_repeats=2)
def rooster(rng: Generator) -> Sound:
    """Three short tones and a long one."""
    base, parts = rng.uniform(350, 650), []
    for seconds, start, end in ((0.18, 0.8, 1.0), (0.15, 1.1, 1.2), (0.2, 1.1, 1.4), (0.8, 1.5, 0.8)):
        n = int(seconds * rng.uniform(0.8, 1.3) * RATE)
        source = throat(rng, base * glide(n, start, end * 1.1, end), n, 0.1, 0.03)
        parts += [
            vocalise(source, [(900, 1900, 3000), (1100, 2100, 3300)]) * swell(n, 0.15, 0.25),
            np.zeros(600),
        ]
    return np.concatenate(parts)


@family("chicken, hen, hen clucking, clucking, poultry, turkey, gobble")
def chicken(rng: Generator) -> Sound:
    """Short clucks, at times a longer one."""
    n = length(rng, 1.2, 3.0)

    def cluck() -> Sound:
        m = length(rng, 0.05, 0.12 if rng.random() < 0.85 else 0.5)
        freq = rng.uniform(350, 700) * glide(m, 1, rng.uniform(0.7, 1.3))
        return vocalise(throat(rng, freq, m, 0.15, 0.05), [(900, 2000, 3000)]) * swell(m, 0.2, 0.5)

    return recur(rng, n, rng.uniform(2, 7), 0.6, cluck)


@family("duck, duck quacking, goose, geese, quack, ducks", most_repeats=5)
def duck(rng: Generator) -> Sound:
    """A nasal quack."""
    n = length(rng, 0.12, 0.4)
    source = throat(rng, rng.uniform(150, 450) * glide(n, 1, 1.1, 0.8), n, 0.1, 0.03)
    return vocalise(source, [(1000, 1400, 2600), (800, 1300, 2400)]) * swell(n, 0.15, 0.4)


@family("owl, owl hooting, hoot, pigeon, dove cooing, cuckoo, cooing", most_repeats=3)
def owl(rng: Generator) -> Sound:
    """Soft low hoots in a rhythm."""
    base, parts = log_uniform(rng, 250, 700), []
    for _ in range(rng.integers(1, 5)):
        n = length(rng, 0.1, 0.5)
        freq = base * glide(n, 0.95, 1, 0.93) * (1 + rng.uniform(0, 0.03) * sine(rng.uniform(10, 30), n))
        parts += [tones(freq, n, [1, 0.15, 0.08]) * swell(n, 0.3, 0.4), np.zeros(length(rng, 0.04, 0.3))]
    return np.concatenate(parts)


@family("cricket, crickets, cicadas, grasshopper, insects at night, chirping insects")
def crickets(rng: Generator) -> Sound:
    """High narrow chirps, pulsed at two rates; or a steady cicada buzz."""
    n = length(rng, 2.0, 3.4)
    out = np.zeros(n)
    for _ in range(rng.integers(1, 4)):
        freq = log_uniform(rng, 2200, 6500)
        gate = pulse_wave(n, rng.uniform(15, 60), 0.5, 0.004) * pulse_wave(
            n, rng.uniform(0.7, 5), rng.uniform(0.3, 1), 0.01
        )
        tone = sine(freq, n) if rng.random() < 0.6 else band(noise(rng, n), freq * 0.85, freq * 1.15)
        out += rng.uniform(0.3, 1) * np.roll(peak(tone) * gate, rng.integers(n))
    return out


@family("bee, fly buzzing, bees, mosquito, insect, buzzing insect, wasp, bumblebee, hornet")
def bee(rng: Generator) -> Sound:
    """Wings that buzz, nearer and farther."""
    n = length(rng, 1.5, 3.2)
    freq = log_uniform(rng, 110, 700) * (1 + wander(rng, n, rng.uniform(2, 8), -0.12, 0.12))
    return low_pass(saw(freq, n), log_uniform(rng, 1200, 6000)) * wander(rng, n, 3, 0.1, 1)


@family("frog, frogs, toad, frog croaking, ribbit", most_repeats=4)
def frog(rng: Generator) -> Sound:
    """Croaks: a pulsed low voice, once or twice."""
    n = length(rng, 0.15, 0.6)
    pulsed = np.clip(sine(rng.uniform(18, 60), n), 0, 1)
    source = throat(rng, log_uniform(rng, 90, 400) * glide(n, 0.9, 1.2), n, 0.1, 0.03)
    return (
        vocalise(source, [(rng.uniform(400, 900), rng.uniform(1200, 2600), 3000)])
        * pulsed
        * swell(n, 0.2, 0.3)
    )


@family("snake, snake hissing, rattlesnake, hissing cat, reptile hiss", most_repeats=2)
def snake(rng: Generator) -> Sound:
    """A hiss, or a rattle."""
    n = length(rng, 0.6, 2.5)
    out = band(noise(rng, n), rng.uniform(2000, 4000), 7800)
    if rng.random() < 0.4:
        out = out * np.clip(sine(rng.uniform(30, 70), n), 0, 1) ** 2
    return out * swell(n, 0.2, 0.4)


@family("bat, squeaking, mouse, rat, squeak, guinea pig, rubber duck, squeaky toy", most_repeats=6)
def squeak(rng: Generator) -> Sound:
    """A short high squeak."""
    n = length(rng, 0.04, 0.25)
    freq = log_uniform(rng, 1000, 5000) * glide(n, 0.8, rng.uniform(1, 1.5), 0.9)
    return tones(freq, n, [1, 0.5, 0.3, 0.2]) * swell(n, 0.3, 0.4) + 0.05 * noise(rng, n) * decay(n, 0.2)


@family("wings, flapping wings, bird flying away, wing beats, flock of birds taking off")
def wings(rng: Generator) -> Sound:
    """Soft beats of air, several a second."""
    n = length(rng, 0.6, 2.2)
    m = length(rng, 0.06, 0.12)
    low = log_uniform(rng, 200, 900)
    return recur(
        rng, n, rng.uniform(6, 15), 0.1, lambda: band(noise(rng, m), low, low * 5) * swell(m, 0.3, 0.5)
    ) * swell(n, 0.05, 0.5)


@family("dolphin, whale, whale song, sea lion, underwater animal", most_repeats=2)
def whale(rng: Generator) -> Sound:
    """Long gliding tones."""
    n = length(rng, 0.8, 2.5)
    freq = log_uniform(rng, 120, 1800) * glide(n, *np.exp(rng.uniform(-0.7, 0.7, 4)))
    return tones(vibrato(rng, n, 1, 4, 0.03) * freq, n, [1, 0.4, 0.3, 0.1]) * swell(n)
