"""Animals with voices like ours: dogs, cats, farm animals, monsters; and hooves."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from pipelines.mini.world.dsp import (
    RATE,
    Sound,
    add,
    band,
    decay,
    drive,
    glide,
    length,
    log_uniform,
    low_pass,
    noise,
    peak,
    recur,
    sine,
    swell,
    throat,
    thud,
    vibrato,
    vocalise,
    wander,
    wood,
)
from pipelines.mini.world.family import family


@family("dog bark, dog, barking dog, dog barking, barking, puppy, woof, dogs, yapping dog", most_repeats=5)
def dog_bark(rng: Generator) -> Sound:
    """A pitch that jumps up and falls at once, clear to hoarse; alone or two or three in a row."""
    size, base = rng.uniform(0.6, 1.9), log_uniform(rng, 120, 1000)
    breath, rough = log_uniform(rng, 0.05, 2.5), log_uniform(rng, 0.01, 0.2)
    closed, wide = (450 * size, 1050 * size, 2400 * size**0.5), (800 * size, 1500 * size, 2900 * size**0.5)
    jump = (rng.uniform(0.6, 1), rng.uniform(1.0, 1.7), rng.uniform(0.5, 0.9))
    attack, release = rng.uniform(0.02, 0.3), rng.uniform(0.3, 0.7)
    n = length(rng, 0.07, 0.45)
    parts = []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        freq = base * rng.uniform(0.92, 1.08) * glide(n, *jump)
        bark = vocalise(throat(rng, freq, n, breath, rough), [closed, wide, closed]) * swell(
            n, attack, release
        )
        parts += [bark, np.zeros(length(rng, 0.03, 0.35))]
    return drive(np.concatenate(parts[:-1]), log_uniform(rng, 0.5, 5))


@family("dog growl, growling, growl, snarl, growling dog, angry animal", most_repeats=2)
def growl(rng: Generator) -> Sound:
    """A low, very rough voice."""
    n = length(rng, 0.6, 2.2)
    source = throat(rng, rng.uniform(35, 110) * (1 + wander(rng, n, 4, -0.1, 0.1)), n, 0.5, 0.25)
    return drive(vocalise(source, [(400, 1000, 2300), (550, 1200, 2500)]), 2) * swell(n)


@family("wolf, wolf howling, howl, howling, coyote, howling dog")
def howl(rng: Generator) -> Sound:
    """A long tone that rises, holds and falls."""
    n = length(rng, 1.2, 3.2)
    freq = rng.uniform(280, 650) * glide(n, 0.6, 1, 1.02, 0.95, 0.65) * vibrato(rng, n, 1, 5, 0.01)
    return vocalise(throat(rng, freq, n, 0.05, 0.005), [(500, 900, 2500), (600, 1000, 2500)]) * swell(
        n, 0.2, 0.3
    )


@family("cat, cat meowing, meow, kitten, cat mewing", most_repeats=3)
def cat(rng: Generator) -> Sound:
    """A vowel that opens and closes."""
    n = length(rng, 0.3, 1.2)
    freq = rng.uniform(350, 850) * glide(n, 0.85, rng.uniform(1.05, 1.3), rng.uniform(0.7, 1))
    shape = [(450, 2300, 3300), (1000, 1800, 3200), (600, 1100, 3000)]
    return vocalise(throat(rng, freq, n, 0.05, 0.01), shape) * swell(n, 0.2, 0.4)


@family("purring, cat purring, purr")
def purr(rng: Generator) -> Sound:
    """Soft low pulses, breathing in and out."""
    n = length(rng, 2.0, 3.2)
    out = low_pass(throat(rng, rng.uniform(22, 32), n, 0.5, 0.1), rng.uniform(400, 1200))
    return out * (0.4 + 0.6 * np.abs(sine(rng.uniform(0.3, 0.6), n)))


@family("sheep or goat, sheep, goat, bleating, goat bleating, sheep bleating, lamb, baa, ram", most_repeats=3)
def sheep(rng: Generator) -> Sound:
    """A nasal vowel with a fast tremble."""
    n = length(rng, 0.35, 1.5)
    tremble = sine(rng.uniform(6, 16), n)
    freq = (
        log_uniform(rng, 110, 550)
        * glide(n, rng.uniform(0.9, 1.1), 1, rng.uniform(0.75, 1))
        * (1 + rng.uniform(0.01, 0.1) * tremble)
    )
    source = throat(rng, freq, n, log_uniform(rng, 0.05, 0.8), log_uniform(rng, 0.01, 0.15))
    first, second = rng.uniform(450, 950), rng.uniform(1300, 2200)
    out = vocalise(
        source, [(first * 0.7, second * 0.8, 2700), (first, second, 2700), (first, second * 0.95, 2600)]
    )
    return out * (1 + rng.uniform(0.2, 0.9) * tremble) * swell(n, 0.1, 0.3)


@family("cow, cow mooing, moo, cattle, bull, ox, moose", most_repeats=2)
def cow(rng: Generator) -> Sound:
    """A long low vowel that opens."""
    n = length(rng, 0.8, 2.4)
    freq = rng.uniform(75, 190) * glide(n, 0.85, 1.1, 1, rng.uniform(0.7, 1))
    return vocalise(
        throat(rng, freq, n, 0.1, 0.03), [(250, 700, 2000), (450, 950, 2200), (400, 900, 2200)]
    ) * swell(n, 0.15, 0.2)


@family("horse, horse neighing, neigh, whinny, horse whinny, pony, donkey, braying", most_repeats=2)
def horse_neigh(rng: Generator) -> Sound:
    """A high trembling cry that sinks into a snort."""
    n = length(rng, 0.7, 2.4)
    tremble = 1 + rng.uniform(0.05, 0.25) * sine(rng.uniform(6, 14), n)
    freq = (
        log_uniform(rng, 350, 1300) * glide(n, rng.uniform(0.6, 1), 1.1, 0.9, rng.uniform(0.3, 0.6)) * tremble
    )
    source = throat(rng, freq, n, rng.uniform(0.1, 0.5), rng.uniform(0.01, 0.08))
    return (
        vocalise(source, [(900, 1700, 3000), (1000, 1900, 3100), (600, 1300, 2500)])
        * tremble
        * swell(n, 0.1, 0.4)
    )


@family("horse snorting, snort, horse breathing, snorting animal, horse", most_repeats=3)
def horse_snort(rng: Generator) -> Sound:
    """Air through loose lips."""
    n = length(rng, 0.4, 1.2)
    flutter = np.clip(sine(rng.uniform(14, 35), n), 0, 1)
    return (
        band(noise(rng, n), rng.uniform(150, 500), rng.uniform(1800, 5000))
        * (0.3 + flutter)
        * swell(n, 0.1, 0.6)
    )


@family("horse galloping, hooves, horse hooves, galloping, horse walking, horse, hoofbeats, horse riding")
def hooves(rng: Generator) -> Sound:
    """Knocks in the rhythm of walk, trot or gallop."""
    n = length(rng, 1.5, 3.4)
    pattern = [(0, 0.25, 0.5, 0.75), (0, 0.5), (0, 0.18, 0.36)][rng.integers(3)]
    base, soft = log_uniform(rng, 150, 900), rng.random()
    out = np.zeros(n)
    stride = rng.uniform(0.4, 1.1)
    for start in np.arange(0, n / RATE, stride):
        for share in pattern:
            m = 2400
            hit = (1 - soft) * peak(wood(rng, m, base * rng.uniform(0.9, 1.1), 0.06)) + soft * thud(
                rng, m, 80, 0.1
            )
            add(out, hit, int((start + share * stride + rng.normal(0, 0.008)) * RATE), rng.uniform(0.5, 1))
    return out


@family("pig, pigs, oink, grunting pig, boar, hog, snorting", most_repeats=4)
def pig(rng: Generator) -> Sound:
    """Grunts, or a squeal."""
    n = length(rng, 0.12, 0.5)
    squeal = rng.random() < 0.2
    freq = (rng.uniform(500, 1200) if squeal else rng.uniform(50, 140)) * glide(n, 0.9, 1.1, 0.9)
    source = throat(rng, freq, n, 0.6, 0.05 if squeal else 0.3)
    return vocalise(source, [(500, 1200, 2400), (700, 1500, 2600)]) * swell(n, 0.2, 0.4)


@family(
    "roar, lion, lion roaring, monster, bear, dragon, tiger, beast, dinosaur, monster growl",
    most_repeats=2,
)
def roar(rng: Generator) -> Sound:
    """A huge rough voice."""
    n = length(rng, 0.7, 2.8)
    freq = log_uniform(rng, 40, 220) * glide(n, 0.8, 1.2, 1, rng.uniform(0.5, 0.9))
    source = throat(rng, freq, n, rng.uniform(0.3, 1.2), rng.uniform(0.08, 0.3))
    size = rng.uniform(0.6, 1.1)
    shape = [(400 * size, 900 * size, 2300), (700 * size, 1200 * size, 2500), (450 * size, 900 * size, 2200)]
    return drive(vocalise(source, shape), rng.uniform(1, 5)) * swell(n, 0.15, 0.4)


@family("elephant, elephant trumpeting, trumpeting animal", most_repeats=2)
def elephant(rng: Generator) -> Sound:
    """A brassy, tearing cry."""
    n = length(rng, 0.6, 1.8)
    freq = rng.uniform(300, 600) * glide(n, 0.8, 1.2, 1.1, 0.8) * (1 + 0.03 * sine(rng.uniform(25, 60), n))
    return drive(vocalise(throat(rng, freq, n, 0.3, 0.06), [(700, 1400, 2800)]), 5) * swell(n, 0.1, 0.3)


@family("monkey, chimpanzee, ape, monkeys, gorilla, jungle animal")
def monkey(rng: Generator) -> Sound:
    """Hoots that grow louder and higher."""
    n = length(rng, 1.0, 2.6)
    base = rng.uniform(300, 800)

    def hoot() -> Sound:
        m = length(rng, 0.07, 0.2)
        return vocalise(
            throat(rng, base * glide(m, 0.8, 1.2, 0.9), m, 0.3, 0.03), [(600, 1000, 2700)]
        ) * swell(m)

    return recur(rng, n, rng.uniform(3, 8), 0.2, hoot) * np.linspace(rng.uniform(0.2, 1), 1, n)


@family("animal eating, chewing, eating, crunching, biting an apple, chomp, munching")
def eating(rng: Generator) -> Sound:
    """Wet, crackling bites."""
    n = length(rng, 1.0, 3.0)

    def bite() -> Sound:
        m = length(rng, 0.08, 0.25)
        grains = recur(
            rng,
            m,
            rng.uniform(80, 250),
            0.9,
            lambda: band(rng.standard_normal(160), 700, 5000) * decay(160, 0.01),
        )
        return peak(grains) * swell(m, 0.2, 0.5)

    return recur(rng, n, rng.uniform(1.5, 4), 0.2, bite)
