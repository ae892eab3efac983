"""Weather, fire and earth."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from pipelines.mini.world.dsp import (
    RATE,
    Sound,
    add,
    band,
    click,
    crackle,
    decay,
    drive,
    high_pass,
    length,
    log_uniform,
    low_pass,
    modes,
    noise,
    peak,
    recur,
    resonate,
    swell,
    thud,
    wander,
    wood,
)
from pipelines.mini.world.family import family


@family("rain, raining, rainfall, heavy rain, rain on a roof, drizzle, downpour, hail")
def rain(rng: Generator) -> Sound:
    """Steady hiss with single drops on top."""
    n = length(rng, 2.5, 3.4)
    hiss = high_pass(noise(rng, n, rng.uniform(-2, 2)), log_uniform(rng, 300, 2500))
    low = log_uniform(rng, 600, 2500)
    drops = band(crackle(rng, n, log_uniform(rng, 30, 2000)), low, low * 4)
    return rng.uniform(0.1, 1) * peak(hiss) + rng.uniform(0.1, 1) * peak(drops)


@family("thunder, thunderstorm, thunder rumbling, lightning, storm, thunderclap")
def thunder(rng: Generator) -> Sound:
    """A crack, or none, and a long uneven rumble."""
    n = length(rng, 2.0, 3.6)
    envelope = np.exp(wander(rng, n, rng.uniform(2, 6), -2.5, 0)) * decay(
        n, rng.uniform(2.5, 8), rng.uniform(0.01, 0.5)
    )
    rumble = low_pass(noise(rng, n, rng.uniform(-6, -2)), log_uniform(rng, 100, 700)) * envelope
    out = peak(rumble)
    if rng.random() < 0.5:
        crack = noise(rng, n) * decay(n, rng.uniform(0.1, 0.6)) * (0.3 + np.abs(wander(rng, n, 80, -1, 1)))
        out = out + rng.uniform(0.2, 0.9) * crack
    if rng.random() < 0.4:
        out = out + rng.uniform(0.03, 0.15) * high_pass(noise(rng, n), 1500)
    return out


@family("wind, wind blowing, strong wind, howling wind, breeze, gust of wind, storm wind")
def wind(rng: Generator) -> Sound:
    """Noise whose band and level wander, at times with a whistling resonance."""
    n = length(rng, 2.5, 3.6)
    level = np.exp(wander(rng, n, rng.uniform(0.5, 3), -2, 0))
    out = peak(low_pass(noise(rng, n, rng.uniform(-8, -3)), log_uniform(rng, 300, 3000))) * level
    if rng.random() < 0.5:
        centre = log_uniform(rng, 250, 1200)
        howl = sum(
            peak(resonate(noise(rng, n), centre * k, 25)) * np.exp(wander(rng, n, 1.5, -3, 0))
            for k in (1, 1.12, 1.27)
        )
        out = out + rng.uniform(0.1, 0.6) * howl
    return out


@family("fire burning, fire, campfire, crackling fire, burning, flames, fireplace, bonfire, burning wood")
def fire(rng: Generator) -> Sound:
    """Crackles and pops over a low flutter of flames and a hiss."""
    n = length(rng, 2.0, 3.6)
    low = log_uniform(rng, 500, 2500)
    fine = band(crackle(rng, n, log_uniform(rng, 8, 250), rng.uniform(1, 2)), low, low * rng.uniform(2, 5))
    pops = recur(
        rng, n, log_uniform(rng, 0.7, 10), 1.0, lambda: click(rng, 400, 5000, rng.uniform(0.005, 0.04)), 0.9
    )
    flutter = low_pass(noise(rng, n, -4), log_uniform(rng, 120, 1500)) * wander(
        rng, n, rng.uniform(4, 16), 0.2, 1
    )
    hiss = high_pass(noise(rng, n), rng.uniform(1500, 4000))
    out = rng.uniform(0.2, 1) * peak(fine) + rng.uniform(0.2, 1) * peak(pops)
    return out + rng.uniform(0.02, 0.9) * peak(flutter) + rng.uniform(0.005, 0.1) * hiss


@family(
    "flamethrower, fireball, fire whoosh, igniting, burst of flame, fire spell, match being lit, torch, "
    "fire burning",
    most_repeats=2,
)
def fire_whoosh(rng: Generator) -> Sound:
    """A rush of flame that flares up and dies down."""
    n = length(rng, 0.5, 2.5)
    out = low_pass(noise(rng, n, -3), log_uniform(rng, 500, 4000)) * wander(
        rng, n, rng.uniform(10, 30), 0.4, 1
    )
    out = peak(out) + rng.uniform(0, 0.3) * peak(high_pass(crackle(rng, n, 80), 1000))
    return out * swell(n, rng.uniform(0.05, 0.4), rng.uniform(0.3, 0.6))


@family(
    "falling rocks, rockslide, avalanche, landslide, stones falling, collapsing building, rubble, earthquake"
)
def rockslide(rng: Generator) -> Sound:
    """Many stones, big and small, tumbling."""
    n = length(rng, 1.2, 3.2)

    def stone() -> Sound:
        m = 2400
        size = log_uniform(rng, 90, 1200)
        return peak(modes(rng, m, [size, size * 1.7, size * 2.9, size * 4.3], 0.06)) * (150 / size) ** 0.4

    out = recur(rng, n, rng.uniform(10, 45), 0.9, stone, 0.7)
    rumble = low_pass(noise(rng, n), rng.uniform(100, 300)) * swell(n, 0.2, 0.4)
    return peak(out) + rng.uniform(0.1, 0.8) * peak(rumble)


@family(
    "stone, dragging stone, stone door, grinding stone, rock scraping, moving a heavy object, "
    "dragging furniture"
)
def stone_drag(rng: Generator) -> Sound:
    """Something heavy pushed over a rough floor."""
    n = length(rng, 0.8, 2.8)
    grit = band(crackle(rng, n, rng.uniform(400, 3000), 0.8), 100, rng.uniform(800, 3500))
    rumble = low_pass(noise(rng, n), rng.uniform(120, 400))
    return (peak(grit) + rng.uniform(0.2, 1) * peak(rumble)) * wander(rng, n, 6, 0.3, 1) * swell(n, 0.1, 0.2)


@family(
    "rustling leaves, leaves, bushes, walking through grass, rustle, forest, paper rustling, crumpling paper"
)
def rustle(rng: Generator) -> Sound:
    """Thousands of tiny dry touches, in waves."""
    n = length(rng, 0.8, 3.2)
    grains = high_pass(crackle(rng, n, log_uniform(rng, 200, 4000), 1.0), log_uniform(rng, 900, 3000))
    return peak(grains) * np.exp(wander(rng, n, rng.uniform(2, 8), -2, 0))


@family(
    "tree falling, falling tree, wood breaking, branch snapping, cracking wood, breaking plank, timber",
    most_repeats=2,
)
def tree_fall(rng: Generator) -> Sound:
    """Creaks and cracks that come faster, then a crash."""
    n = length(rng, 0.4, 2.6)
    out = np.zeros(n)
    for at in np.sort(rng.random(rng.integers(3, 16))) ** 0.6:
        m = 2000
        crack = peak(wood(rng, m, log_uniform(rng, 200, 1200), 0.05)) + band(
            noise(rng, m), 600, 6000
        ) * decay(m, 0.03)
        add(out, crack, int(at * 0.8 * n), rng.uniform(0.2, 1))
    m = length(rng, 0.3, 0.8)
    crash = thud(rng, m, 70, 0.4) + peak(crackle(rng, m, 400)) * decay(m, 0.5)
    add(out, crash, int(0.75 * n), rng.uniform(0, 1.2))
    return out


@family("lava, boiling mud, bubbling lava, volcano, volcanic eruption, rumble, deep rumble")
def rumble(rng: Generator) -> Sound:
    """A deep unsteady rumble with slow gulps."""
    n = length(rng, 2.0, 3.4)
    out = low_pass(noise(rng, n, -4), log_uniform(rng, 60, 250)) * wander(rng, n, 5, 0.4, 1)
    gulps = recur(rng, n, rng.uniform(1, 6), 0.8, lambda: thud(rng, 4000, rng.uniform(60, 200), 0.15))
    return drive(peak(out) + rng.uniform(0, 0.8) * peak(gulps), rng.uniform(1, 3))


@family("ice cracking, ice, glacier, freezing, frozen lake, ice spell", most_repeats=2)
def ice(rng: Generator) -> Sound:
    """High glassy cracks."""
    n = length(rng, 0.5, 2.0)

    def crack() -> Sound:
        base = log_uniform(rng, 900, 5000)
        return peak(modes(rng, RATE // 4, [base * k for k in (1, 1.37, 1.91, 2.6)], rng.uniform(0.05, 0.25)))

    return recur(rng, n, rng.uniform(4, 30), 0.9, crack, 0.8)
