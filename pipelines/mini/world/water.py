"""Water in all its ways."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from pipelines.mini.world.dsp import (
    Sound,
    add,
    band,
    clock,
    decay,
    glide,
    high_pass,
    length,
    log_uniform,
    low_pass,
    noise,
    peak,
    recur,
    sine,
    swell,
    thud,
    wander,
)
from pipelines.mini.world.family import family


def bubble(rng: Generator, low: float, high: float) -> Sound:
    """One bubble: a short sine that rises as the bubble nears the surface."""
    n = length(rng, 0.015, 0.09)
    freq = log_uniform(rng, low, high)
    rise = rng.uniform(0, 6)
    return (
        sine(np.minimum(freq * (1 + rise * clock(n)), 7500), n)
        * decay(n, rng.uniform(0.02, 0.1), 0.001)
        * (low / freq) ** 0.3
    )


@family("water, stream, river, running water, flowing water, brook, creek, fountain")
def stream(rng: Generator) -> Sound:
    """Hundreds of bubbles a second over a soft hiss."""
    n = length(rng, 2.2, 3.4)
    low = log_uniform(rng, 250, 900)
    bubbles = recur(rng, n, log_uniform(rng, 25, 220), 1.0, lambda: bubble(rng, low, low * 6), 0.8)
    hiss = band(noise(rng, n, -2), log_uniform(rng, 200, 900), log_uniform(rng, 2000, 7500))
    return rng.uniform(0.2, 1) * peak(bubbles) + rng.uniform(0.1, 1) * peak(hiss) * wander(rng, n, 6, 0.7, 1)


@family("waterfall, rapids, shower, tap running, water tap, faucet, water spraying, sprinkler, water")
def waterfall(rng: Generator) -> Sound:
    """A broad steady roar or hiss of water."""
    n = length(rng, 2.2, 3.4)
    out = band(noise(rng, n, rng.uniform(-5, 1)), log_uniform(rng, 100, 1000), rng.uniform(4000, 7800))
    bubbles = recur(rng, n, rng.uniform(20, 90), 1.0, lambda: bubble(rng, 500, 3000), 0.6)
    return peak(out) * wander(rng, n, 12, 0.75, 1) + rng.uniform(0, 0.4) * peak(bubbles)


@family("sea waves, waves, ocean, surf, beach, sea, water lapping on the shore, ocean waves")
def waves(rng: Generator) -> Sound:
    """Noise that swells and recedes over seconds, brighter as it breaks."""
    n = length(rng, 2.6, 4.0)
    swellings = 0.5 + 0.5 * sine(rng.uniform(0.12, 0.6), n)
    low = low_pass(noise(rng, n, -4), rng.uniform(400, 1200))
    foam = high_pass(noise(rng, n), rng.uniform(1000, 3000))
    return peak(low) * (0.3 + swellings) + rng.uniform(0.1, 0.6) * peak(foam) * swellings ** rng.uniform(1, 4)


@family(
    "splash, water splash, splashing, jumping into water, diving, something falling into water, water",
    most_repeats=3,
)
def splash(rng: Generator) -> Sound:
    """An impact, a burst of spray, then drops and bubbles."""
    n = length(rng, 0.4, 1.6)
    seconds = rng.uniform(0.3, 1.2)
    spray = band(noise(rng, n), log_uniform(rng, 300, 1200), 7000) * decay(
        n, seconds, rng.uniform(0.005, 0.06)
    )
    drops = recur(rng, n, rng.uniform(20, 90), 1.0, lambda: bubble(rng, 400, 3500), 0.8) * decay(
        n, seconds * 2, 0.1
    )
    out = peak(spray) + rng.uniform(0.1, 1) * peak(drops)
    return out + rng.uniform(0, 0.9) * peak(thud(rng, n, rng.uniform(60, 160), 0.2))


@family("swimming, walking in water, rowing, paddling, wading, water sloshing, oars, water movement, water")
def sloshing(rng: Generator) -> Sound:
    """Soft splashes in a rhythm, with gurgles."""
    n = length(rng, 1.2, 3.4)

    def stroke() -> Sound:
        m = length(rng, 0.25, 0.7)
        wash = band(noise(rng, m), log_uniform(rng, 250, 900), log_uniform(rng, 2000, 6000)) * swell(
            m, 0.3, 0.6
        )
        gurgle = recur(rng, m, rng.uniform(15, 60), 1.0, lambda: bubble(rng, 250, 1800), 0.6)
        return peak(wash) + rng.uniform(0.2, 1.2) * peak(gurgle)

    return recur(rng, n, rng.uniform(0.8, 3), 0.3, stroke)


@family("pouring water, filling a glass, pouring a drink, pouring, filling a bottle, liquid, water pouring")
def pouring(rng: Generator) -> Sound:
    """Bubbling in a vessel whose resonance rises as it fills."""
    n = length(rng, 1.2, 3.2)
    start = log_uniform(rng, 250, 700)
    bubbles = recur(rng, n, rng.uniform(40, 150), 1.0, lambda: bubble(rng, start, start * 5), 0.6)
    vessel = sine(glide(n, start, start * rng.uniform(1.3, 4)) * (1 + wander(rng, n, 50, -0.1, 0.1)), n)
    return peak(bubbles) + rng.uniform(0.05, 0.4) * vessel * wander(rng, n, 40, 0, 1) + 0.15 * noise(rng, n)


@family("water drops, dripping, dripping water, drip, leaking tap, water drop, cave, drops")
def dripping(rng: Generator) -> Sound:
    """Single drops, each a click and a rising ping."""
    n = length(rng, 1.5, 3.4)
    low = log_uniform(rng, 400, 1500)

    def drop() -> Sound:
        out = np.zeros(4000)
        add(out, high_pass(noise(rng, 120), 2000) * decay(120, 0.005), 0, 0.3)
        add(out, bubble(rng, low, low * 2), 100)
        return out

    return recur(rng, n, rng.uniform(0.7, 8), rng.uniform(0.1, 1), drop)


@family("bubbles, bubbling, underwater, boiling, boiling water, blowing bubbles, potion, gurgling, aquarium")
def bubbling(rng: Generator) -> Sound:
    """Big slow bubbles."""
    n = length(rng, 1.2, 3.4)
    low = log_uniform(rng, 120, 500)
    out = recur(rng, n, log_uniform(rng, 6, 50), 0.8, lambda: bubble(rng, low, low * 4), 0.5)
    return low_pass(peak(out) + rng.uniform(0, 0.3) * noise(rng, n, -5), log_uniform(rng, 800, 7000))


@family("toilet flush, flushing a toilet, drain, water draining, sink draining, suction")
def flush(rng: Generator) -> Sound:
    """A rush that swells, then gurgles away."""
    n = length(rng, 2.2, 3.6)
    rush = band(noise(rng, n, -2), 150, log_uniform(rng, 2000, 6000)) * swell(n, 0.15, 0.6)
    gurgle = recur(rng, n, rng.uniform(10, 30), 0.8, lambda: bubble(rng, 150, 700), 0.5) * np.linspace(
        0.1, 1, n
    )
    return peak(rush) + rng.uniform(0.2, 0.8) * peak(gurgle)
