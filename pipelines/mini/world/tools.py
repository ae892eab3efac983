"""Tools and work: hammers, axes, saws, drills, pickaxes, office things."""

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
    pulse_wave,
    pulses,
    recur,
    resonances,
    saw,
    sine,
    swell,
    thud,
    tones,
    vibrato,
    wander,
    wood,
)
from pipelines.mini.world.family import family


@family("hammering, hammer, hammering a nail, carpentry, nailing, hitting with a hammer")
def hammering(rng: Generator) -> Sound:
    """Regular blows on a nail in wood."""
    n = length(rng, 1.0, 3.0)
    base, ring = log_uniform(rng, 250, 900), log_uniform(rng, 1500, 4000)

    def blow() -> Sound:
        m = 3000
        return peak(wood(rng, m, base, 0.08)) + rng.uniform(0.2, 0.8) * peak(metal(rng, m, ring, 0.12, 6))

    return recur(rng, n, rng.uniform(1.2, 4), 0.08, blow, 0.2)


@family(
    "chopping or sawing wood, chopping wood, wood chopping, axe, axe hitting wood, woodcutting, "
    "felling a tree, lumberjack, splitting wood",
    most_repeats=4,
)
def chopping_wood(rng: Generator) -> Sound:
    """An axe in wood: a deep knock, splinters, sometimes a crack."""
    n = length(rng, 0.15, 0.6)
    out = peak(wood(rng, n, log_uniform(rng, 90, 450), rng.uniform(0.05, 0.2)))
    out += rng.uniform(0, 0.7) * peak(thud(rng, n, rng.uniform(60, 150), 0.1))
    splinters = band(crackle(rng, n, rng.uniform(50, 400)), 800, 5000) * decay(n, rng.uniform(0.05, 0.3))
    return out + rng.uniform(0, 0.6) * peak(splinters)


@family("sawing wood, hand saw, sawing, wood saw, sawing a plank, saw cutting wood, chopping or sawing wood")
def hand_saw(rng: Generator) -> Sound:
    """Rasping strokes back and forth."""
    n = length(rng, 1.2, 3.2)
    rate = rng.uniform(0.8, 4)
    stroke = np.abs(sine(rate / 2, n)) ** rng.uniform(0.6, 2)
    teeth = pulses(rng, np.maximum(stroke * log_uniform(rng, 60, 300), 5), n, 0.2, 0.3)
    rasp = peak(low_pass(teeth, 5000)) + rng.uniform(0.3, 1.5) * noise(rng, n)
    low = log_uniform(rng, 500, 2000)
    out = peak(band(rasp, low, low * rng.uniform(2, 4))) * stroke
    return out * (1 - 0.5 * rng.random() * (sine(rate / 2, n) > 0))


@family(
    "drilling, power drill, electric drill, drill, drilling a hole, drilling machine, screwdriver machine"
)
def drilling(rng: Generator) -> Sound:
    """A motor whine with harmonics and rough noise that gives way under load; some stop and start."""
    n = length(rng, 1.2, 3.2)
    base = log_uniform(rng, 50, 700)
    freq = base * (1 + wander(rng, n, rng.uniform(1, 5), rng.uniform(-0.3, -0.03), 0.05))
    if rng.random() < 0.4:
        freq = freq * np.minimum(1, 0.3 + np.linspace(0, rng.uniform(2, 12), n))
    gains = [rng.uniform(0.2, 1) / k ** rng.uniform(0.1, 1) for k in range(1, 25)]
    whine = rng.uniform(0, 0.8) * peak(sine(freq * rng.uniform(3, 13), n))
    motor = peak(tones(freq, n, gains)) + whine
    grind = band(noise(rng, n), log_uniform(rng, 300, 2500), rng.uniform(3500, 7500))
    grind = peak(grind * (1 + rng.uniform(0, 1) * sine(freq * rng.choice([0.5, 1]), n)))
    if rng.random() < 0.35:  # hammer drill
        blows = band(pulses(rng, rng.uniform(25, 65), n, 0.03), 150, log_uniform(rng, 1500, 6000))
        grind = grind + rng.uniform(0.5, 2) * peak(blows)
    out = drive(motor + log_uniform(rng, 0.1, 3) * grind, rng.uniform(0.6, 2.5))
    if rng.random() < 0.3:
        out = out * np.roll(
            pulse_wave(n, rng.uniform(0.4, 1.5), rng.uniform(0.4, 0.9), 0.08), rng.integers(n)
        )
    return out


@family("jackhammer, pneumatic drill, pneumatic hammer, breaking concrete, road drill, demolition hammer")
def jackhammer(rng: Generator) -> Sound:
    """Hard blows, six to thirty-six a second, dull to clanking, with air, rubble and pauses."""
    n = length(rng, 1.2, 3.2)
    rate = log_uniform(rng, 6, 36)
    m = int(RATE / rate * rng.uniform(0.8, 1.6))
    low, width = log_uniform(rng, 120, 1800), rng.uniform(3, 14)
    fall, weight = log_uniform(rng, 0.02, 0.15), rng.uniform(0, 1.2)

    def blow() -> Sound:
        hit = peak(band(noise(rng, m), low, low * width)) * decay(m, fall, 0.001)
        return hit + weight * thud(rng, m, rng.uniform(50, 130), 0.06)

    ring = metal(rng, m, log_uniform(rng, 300, 2500), log_uniform(rng, 0.02, 0.15), 10)
    share = rng.uniform(0, 1.2)
    out = recur(rng, n, rate, rng.uniform(0.0, 0.08), lambda: blow() + share * peak(ring), 0.15)
    if rng.random() < 0.3:
        out = out * np.roll(
            pulse_wave(n, rng.uniform(0.3, 1.2), rng.uniform(0.5, 0.9), 0.02), rng.integers(n)
        )
    air = band(noise(rng, n), rng.uniform(100, 900), 6000) * log_uniform(rng, 0.02, 0.4)
    rubble = band(crackle(rng, n, rng.uniform(20, 200)), 500, 5000) * rng.uniform(0, 0.3)
    return drive(peak(out), rng.uniform(0.8, 3)) + air + peak(rubble) * rng.uniform(0, 0.2)


@family(
    "mining stone with a pickaxe, pickaxe, mining, pickaxe hitting stone, mining stone, breaking rocks, "
    "digging rock, chiselling stone, quarry work",
    most_repeats=4,
)
def pickaxe(rng: Generator) -> Sound:
    """Metal on stone: a hard ringing click and falling pebbles."""
    n = length(rng, 0.15, 0.8)
    base = log_uniform(rng, 700, 3500)
    out = peak(metal(rng, n, base, log_uniform(rng, 0.05, 0.5), 9))
    out += rng.uniform(0.3, 1.2) * peak(
        band(noise(rng, n), base * 0.4, base * 2) * decay(n, rng.uniform(0.02, 0.08))
    )
    out += rng.uniform(0, 0.8) * peak(thud(rng, n, rng.uniform(90, 250), 0.06))
    m = max(n - 1500, 800)
    pebbles = recur(rng, m, rng.uniform(8, 50), 0.9, lambda: click(rng, 900, 5000, 0.01), 0.8) * decay(m, 0.6)
    add(out, peak(pebbles), min(1500, n - 100), rng.uniform(0, 0.4))
    return out


@family("digging, shovel, digging with a shovel, spade in gravel, shovelling sand", most_repeats=3)
def digging(rng: Generator) -> Sound:
    """A blade thrust into grit, then a throw."""
    n = length(rng, 0.4, 1.0)
    grit = band(noise(rng, n) * np.abs(wander(rng, n, 60, 0, 1)), log_uniform(rng, 600, 1800), 6500)
    out = peak(grit) * swell(n, 0.15, 0.7)
    return out + rng.uniform(0, 0.4) * peak(metal(rng, n, rng.uniform(1000, 2500), 0.3, 8))


@family("chainsaw, chain saw, motor saw, brush cutter, hedge trimmer")
def chainsaw(rng: Generator) -> Sound:
    """A buzzing two-stroke engine that revs."""
    n = length(rng, 1.2, 3.2)
    freq = log_uniform(rng, 70, 160) * (1 + np.abs(wander(rng, n, rng.uniform(1, 4), -0.2, 0.9)))
    out = peak(
        resonances(
            pulses(rng, freq, n, 0.04, 0.2), (300, 900, 2200, 4000), (200, 500, 900, 1500), (1, 1, 0.9, 0.6)
        )
    )
    return drive(out + rng.uniform(0.05, 0.3) * noise(rng, n), rng.uniform(1, 5))


@family("circular saw, angle grinder, grinding metal, table saw, grinder, cutting metal")
def grinder(rng: Generator) -> Sound:
    """A high whine with bright noise, lower while it cuts."""
    n = length(rng, 1.2, 3.0)
    freq = log_uniform(rng, 350, 1500) * (1 - np.clip(wander(rng, n, 1.5, -0.2, 0.2), 0, 1))
    whine = peak(tones(freq, n, [1, 0.6, 0.5, 0.3, 0.2, 0.2]))
    return whine + rng.uniform(0.3, 2) * peak(high_pass(noise(rng, n), log_uniform(rng, 1200, 4000)))


@family("sanding, sandpaper, scrubbing, scraping, brushing, sweeping with a broom, writing with chalk")
def scraping(rng: Generator) -> Sound:
    """Noisy strokes without pitch."""
    n = length(rng, 1.0, 3.0)
    strokes = np.clip(sine(rng.uniform(1, 4), n) + rng.uniform(-0.3, 0.6), 0, None)
    low = log_uniform(rng, 800, 3500)
    return band(noise(rng, n), low, low * rng.uniform(1.8, 4)) * strokes * wander(rng, n, 20, 0.5, 1)


@family("blacksmith, forging iron, anvil and hammer, smithy, metalwork")
def blacksmith(rng: Generator) -> Sound:
    """Ringing blows on an anvil."""
    n = length(rng, 1.2, 3.0)
    freqs = [log_uniform(rng, 500, 1500) * k for k in (1, 1.58, 2.24, 2.92, 3.71, 4.4)]
    ring = peak(modes(rng, RATE, freqs, rng.uniform(0.3, 1.2), 0.2))
    return recur(rng, n, rng.uniform(1, 3.5), 0.1, lambda: ring, 0.4)


@family("scissors, cutting hair, snipping, shears, cutting paper", most_repeats=4)
def scissors(rng: Generator) -> Sound:
    """A bright slide that closes with a click."""
    n = length(rng, 0.12, 0.35)
    out = high_pass(noise(rng, n), rng.uniform(2000, 4000)) * swell(n, 0.7, 0.1)
    add(out, metal(rng, 1500, rng.uniform(2500, 4500), 0.08, 6), int(n * 0.8), 0.4)
    return out


@family("keyboard typing, typing, computer keyboard, typewriter, typing on a keyboard")
def typing(rng: Generator) -> Sound:
    """Irregular small clicks in pairs."""
    n = length(rng, 1.2, 3.0)
    low = log_uniform(rng, 700, 2500)

    def key() -> Sound:
        part = np.zeros(2200)
        add(part, click(rng, low, low * 3, 0.015), 0)
        add(part, click(rng, low * 0.8, low * 3, 0.012), int(rng.integers(500, 1400)), 0.5)
        return part

    return recur(rng, n, rng.uniform(4, 12), 0.5, key, 0.4)


@family("mouse click, switch, light switch, button press, click, camera shutter, latch", most_repeats=4)
def switch(rng: Generator) -> Sound:
    """One or two dry clicks."""
    out = np.zeros(length(rng, 0.08, 0.3))
    low = log_uniform(rng, 600, 2500)
    for at in (0, int(rng.integers(400, len(out) - 400))):
        add(out, click(rng, low, low * 4, rng.uniform(0.008, 0.03)), at, rng.uniform(0.3, 1))
    return out


@family("clock, clock ticking, ticking clock, tick tock, wall clock, watch ticking")
def clock_tick(rng: Generator) -> Sound:
    """Ticks as regular as can be, two kinds in turn."""
    n = length(rng, 2.0, 3.2)
    rate = rng.choice([1, 2, 2, 4, 5])
    kinds = [
        peak(modes(rng, 1200, [log_uniform(rng, 1200, 4500) * k for k in (1, 1.7, 2.3)], 0.03))
        for _ in range(2)
    ]
    out = np.zeros(n)
    for number, at in enumerate(onsets(rng, n, rate, 0.0)):
        add(out, kinds[number % 2], at)
    return out


@family("sewing machine, ratchet, winding a clock, stapler machine, mechanical clatter, printer")
def clatter(rng: Generator) -> Sound:
    """Fast mechanical clicks over a motor hum."""
    n = length(rng, 1.2, 3.0)
    low = log_uniform(rng, 500, 2000)
    part = click(rng, low, low * 3, rng.uniform(0.01, 0.03))
    out = recur(rng, n, rng.uniform(7, 25), 0.05, lambda: part, 0.3)
    return peak(out) + rng.uniform(0, 0.3) * peak(
        tones(vibrato(rng, n, rng.uniform(50, 200), 3, 0.02), n, [1, 0.6, 0.4])
    )


@family("welding, electric sparks, electric arc, electricity, short circuit, electric shock, lightning spell")
def electricity(rng: Generator) -> Sound:
    """Buzzing arcs that break off and crackle."""
    n = length(rng, 0.5, 2.5)
    mains = rng.choice([50, 60, 100, 120]) * rng.uniform(0.98, 1.02)
    buzz = high_pass(saw(mains, n) * noise(rng, n), rng.uniform(300, 1500))
    gate = (wander(rng, n, rng.uniform(8, 40), 0, 1) > rng.uniform(0.2, 0.6)).astype(float)
    sparks = high_pass(crackle(rng, n, rng.uniform(30, 400)), 1000)
    return peak(buzz) * low_pass(gate, 300) + rng.uniform(0.2, 0.8) * peak(sparks)


@family("robot, servo motor, robot movement, mechanical arm, electric motor, automatic door", most_repeats=3)
def servo(rng: Generator) -> Sound:
    """A small motor that starts, whines and stops."""
    n = length(rng, 0.3, 1.5)
    base = log_uniform(rng, 150, 900)
    freq = glide(n, base, base * rng.uniform(1.1, 2.2), base * rng.uniform(0.8, 1.6))
    out = tones(freq, n, [1, 0.5, 0.7, 0.2, 0.4, 0.1, 0.2]) + 0.3 * noise(rng, n, -3)
    return band(out, 150, 6000) * swell(n, 0.1, 0.1)
