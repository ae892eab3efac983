"""Things in a house: doors, glass, coins, keys, paper, cloth."""

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
    glide,
    high_pass,
    length,
    log_uniform,
    low_pass,
    metal,
    modes,
    noise,
    peak,
    pulses,
    recur,
    resonances,
    sine,
    swell,
    thud,
    wander,
    wood,
)
from pipelines.mini.world.family import family


@family("door slam, door, closing a door, door closing, slamming door, car door, gate", most_repeats=2)
def door_slam(rng: Generator) -> Sound:
    """A heavy thud with the click of a latch."""
    n = length(rng, 0.3, 1.0)
    out = thud(rng, n, rng.uniform(60, 160), rng.uniform(0.1, 0.4)) + 0.6 * peak(
        wood(rng, n, rng.uniform(120, 350), 0.12)
    )
    add(out, click(rng, 900, 5000, 0.03), int(rng.uniform(0, 0.1) * RATE), rng.uniform(0.1, 0.6))
    return out


@family(
    "door creak, creaking door, squeaking hinge, creak, creaking wood, opening a door, rusty hinge, "
    "rope creaking"
)
def door_creak(rng: Generator) -> Sound:
    """Stick and slip, its rate gliding up and down through resonances."""
    n = length(rng, 0.5, 2.4)
    rate = log_uniform(rng, 25, 450) * glide(n, *np.exp(rng.uniform(-0.8, 0.8, 5)))
    freqs = [log_uniform(rng, 300, 4000) for _ in range(5)]
    out = resonances(
        pulses(rng, rate, n, 0.15, 0.3), freqs, [f / 12 for f in freqs], rng.uniform(0.3, 1, 5).tolist()
    )
    return out * swell(n, 0.2, 0.3) * wander(rng, n, 8, 0.3, 1)


@family("knock, knocking, knocking on a door, door knock, tapping, wood knock", most_repeats=2)
def knock(rng: Generator) -> Sound:
    """Two to five knocks on wood."""
    n = length(rng, 0.5, 1.4)
    base = log_uniform(rng, 130, 700)
    return recur(rng, n, rng.uniform(3, 8), 0.06, lambda: peak(wood(rng, 2600, base, 0.08)), 0.2)


@family(
    "glass breaking, breaking glass, shattering glass, broken window, smashing a bottle, window smash",
    most_repeats=2,
)
def glass_break(rng: Generator) -> Sound:
    """A burst, then splinters that tinkle down."""
    n = length(rng, 0.5, 1.8)

    def splinter() -> Sound:
        base = log_uniform(rng, 1800, 6500)
        return peak(modes(rng, 2400, [base, base * 1.4, base * 1.9], rng.uniform(0.04, 0.2), 0.2))

    out = recur(rng, n, rng.uniform(25, 90), 0.95, splinter, 0.7) * decay(n, rng.uniform(0.6, 2.5), 0.005)
    return peak(out) + rng.uniform(0.3, 1.2) * high_pass(noise(rng, n), 1200) * decay(
        n, rng.uniform(0.06, 0.3)
    )


@family(
    "clinking glasses, glass, glass clink, dishes, plates, cutlery, toasting, bottle, dishes clattering",
    most_repeats=5,
)
def clink(rng: Generator) -> Sound:
    """Hard, clear, ringing touches."""
    n = length(rng, 0.15, 0.8)
    base = log_uniform(rng, 1000, 4500)
    return peak(
        modes(
            rng,
            n,
            [base * k for k in (1, 2.32, 4.25, 1.5 * rng.uniform(0.9, 1.1))],
            rng.uniform(0.1, 0.8),
            0.2,
        )
    )


@family("coins, coin, coins dropping, money, jingling coins, keys, keys jingling, jingling, chain mail")
def coins(rng: Generator) -> Sound:
    """Small bright pieces of metal that hit each other."""
    n = length(rng, 0.4, 2.6)
    base = log_uniform(rng, 1800, 4500)

    def touch() -> Sound:
        return peak(metal(rng, 4000, base * rng.uniform(0.8, 1.3), rng.uniform(0.05, 0.4), 5))

    return recur(rng, n, rng.uniform(4, 28), 0.8, touch, 0.6)


@family(
    "chain, chains, rattling chains, chain rattling, anchor chain, drawbridge, shackles, armor, "
    "chest of metal"
)
def chain(rng: Generator) -> Sound:
    """Links of heavy metal that rattle."""
    n = length(rng, 0.8, 3.0)
    base = log_uniform(rng, 400, 1500)
    return recur(
        rng,
        n,
        rng.uniform(6, 25),
        0.6,
        lambda: peak(metal(rng, 2500, base * rng.uniform(0.8, 1.3), 0.12, 9)),
        0.5,
    )


@family("zipper, zip, tearing paper, ripping, tearing cloth, velcro, tape, unzipping", most_repeats=2)
def zipper(rng: Generator) -> Sound:
    """A fast row of tiny ticks whose rate changes."""
    n = length(rng, 0.25, 1.2)
    ticks = pulses(rng, log_uniform(rng, 60, 500) * glide(n, 0.6, rng.uniform(1, 2.5)), n, 0.1, 0.3)
    low = log_uniform(rng, 1000, 3000)
    return peak(band(ticks, low, low * 3)) + rng.uniform(0.1, 0.8) * peak(
        band(noise(rng, n), low, low * 3)
    ) * wander(rng, n, 60, 0, 1)


@family(
    "cloth, clothes rustling, fabric, backpack, flag flapping, cape, putting on clothes, bag",
    most_repeats=3,
)
def cloth(rng: Generator) -> Sound:
    """Soft low rustle in a few strokes."""
    n = length(rng, 0.3, 1.5)
    out = band(noise(rng, n, -2), log_uniform(rng, 150, 600), log_uniform(rng, 1500, 5000))
    return out * np.clip(wander(rng, n, rng.uniform(5, 14), -0.3, 1), 0, 1) * swell(n)


@family("page turning, turning a page, book, paper, opening a letter, cards, shuffling cards", most_repeats=3)
def page(rng: Generator) -> Sound:
    """A papery flick."""
    n = length(rng, 0.15, 0.8)
    crisp = high_pass(noise(rng, n) * np.abs(wander(rng, n, 80, 0, 1)), log_uniform(rng, 1000, 3000))
    return crisp * swell(n, rng.uniform(0.1, 0.7), 0.3)


@family("ball bouncing, bouncing ball, basketball, ping pong, tennis, table tennis, ball hit")
def ball(rng: Generator) -> Sound:
    """Bounces that come faster and softer."""
    n = length(rng, 1.0, 2.8)
    out, at, gap, level = np.zeros(n), 0.0, rng.uniform(0.25, 0.7), 1.0
    base, hard = log_uniform(rng, 80, 900), rng.random()
    while at * RATE < n and gap > 0.03:
        hit = hard * peak(wood(rng, 2000, base * 1.5, 0.05)) + (1 - hard) * thud(rng, 2000, base, 0.08)
        add(out, hit, int(at * RATE), level)
        at, gap, level = at + gap, gap * rng.uniform(0.7, 0.95), level * 0.85
    return out


@family("pop, balloon pop, cork, opening a bottle, champagne, popping, plop", most_repeats=4)
def pop(rng: Generator) -> Sound:
    """A short hollow burst."""
    n = length(rng, 0.08, 0.4)
    out = sine(glide(n, rng.uniform(250, 1200), rng.uniform(150, 1800)), n) * decay(
        n, rng.uniform(0.03, 0.12), 0.001
    )
    return out + rng.uniform(0.1, 1) * band(noise(rng, n), 400, 6000) * decay(n, 0.04)


@family(
    "box, opening a chest, cardboard box, drawer, crate, putting something down, wooden box, "
    "dropping an object",
    most_repeats=3,
)
def box(rng: Generator) -> Sound:
    """A slide and a hollow bump."""
    n = length(rng, 0.25, 0.9)
    out = peak(low_pass(crackle(rng, n, 300), 2500)) * swell(n, 0.5, 0.2) * rng.uniform(0.1, 0.5)
    add(
        out,
        peak(wood(rng, 4000, rng.uniform(90, 300), 0.15)) + thud(rng, 4000, 80, 0.1),
        int(n * rng.uniform(0, 0.6)),
    )
    return out


@family(
    "lock, unlocking a door, key in a lock, lockpicking, handcuffs, bolt, trap, mechanism",
    most_repeats=2,
)
def lock(rng: Generator) -> Sound:
    """Small metal parts that turn, scrape and snap."""
    n = length(rng, 0.3, 1.2)
    base = log_uniform(rng, 900, 3000)
    out = recur(rng, n, rng.uniform(5, 14), 0.7, lambda: peak(metal(rng, 1500, base, 0.06, 6)), 0.6)
    add(out, click(rng, 500, 4000, 0.04), int(n * 0.7), rng.uniform(0.5, 2))
    return out


@family("magic, magic spell, sparkle, fairy dust, wind chimes, twinkle, enchantment, healing spell, shimmer")
def sparkle(rng: Generator) -> Sound:
    """Many small high bells, rising or falling."""
    n = length(rng, 0.8, 3.0)
    out = np.zeros(n)
    pitches = np.sort(np.exp(rng.uniform(np.log(900), np.log(6500), rng.integers(8, 40))))
    if rng.random() < 0.5:
        pitches = pitches[::-1]
    for number, pitch in enumerate(pitches):
        m = 6000
        add(
            out,
            sine(pitch, m) * decay(m, rng.uniform(0.1, 0.5)),
            int(number / len(pitches) * n * 0.8 + rng.integers(500)),
            rng.uniform(0.3, 1),
        )
    return out + rng.uniform(0, 0.05) * high_pass(noise(rng, n), 3000)


@family("cooking, frying, sizzling, frying pan, bacon, frying food, sizzle")
def frying(rng: Generator) -> Sound:
    """Dense fine crackle over a hiss."""
    n = length(rng, 2.0, 3.4)
    spatter = high_pass(crackle(rng, n, log_uniform(rng, 150, 1500), 1.2), rng.uniform(1000, 3000))
    return peak(spatter) + rng.uniform(0.2, 1) * high_pass(noise(rng, n), rng.uniform(1500, 4000))


@family("slime, squelch, mud, squishing, blood splatter, gore, wet impact, goo", most_repeats=3)
def squelch(rng: Generator) -> Sound:
    """A wet, sucking noise."""
    n = length(rng, 0.15, 0.8)
    wet = recur(
        rng, n, rng.uniform(40, 150), 0.9, lambda: click(rng, 250, rng.uniform(900, 3000), 0.015), 0.6
    )
    swept = sine(
        glide(n, rng.uniform(150, 500), rng.uniform(200, 1200)) * (1 + wander(rng, n, 60, -0.3, 0.3)), n
    )
    return (peak(wet) + rng.uniform(0, 0.5) * swept * wander(rng, n, 30, 0, 1)) * swell(n, 0.2, 0.5)
