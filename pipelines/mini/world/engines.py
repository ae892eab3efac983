"""Engines, vehicles, blowers: what hums, rattles and roars by itself."""

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
    echoes,
    glide,
    high_pass,
    length,
    log_uniform,
    low_pass,
    metal,
    noise,
    peak,
    pulses,
    recur,
    resonances,
    sine,
    swell,
    tones,
    vibrato,
    wander,
)
from pipelines.mini.world.family import family


def firing(rng: Generator, freq: Sound | float, n: int, rough: float) -> Sound:
    """Fire cylinders through an exhaust pipe."""
    base = rng.uniform(60, 180)
    freqs = [base, base * rng.uniform(2, 3), base * rng.uniform(4, 7), rng.uniform(1000, 2500)]
    widths = [freq * rng.uniform(0.4, 1) for freq in freqs]
    gains = [1, 0.7, rng.uniform(0.2, 0.6), rng.uniform(0.05, 0.3)]
    cylinders = pulses(rng, freq, n, rough, 0.2)
    bursts = np.convolve(np.abs(cylinders), np.exp(-np.arange(120) / 40))[:n] * noise(rng, n)
    return peak(resonances(cylinders, freqs, widths, gains)) + rng.uniform(0.05, 0.5) * peak(
        low_pass(bursts, 3000)
    )


@family(
    "engine idling, engine, idling engine, car engine, motor running, car idling, engine running, "
    "idling vehicle"
)
def engine_idling(rng: Generator) -> Sound:
    """A slow, unsteady rumble of firing cylinders, with hum, rattle and hiss in any proportion."""
    n = length(rng, 2.0, 3.4)
    freq = log_uniform(rng, 8, 90) * (1 + wander(rng, n, 2, -0.06, 0.06))
    out = firing(rng, freq, n, log_uniform(rng, 0.003, 0.15))
    if rng.random() < 0.6:
        base = float(freq[0]) * rng.choice([0.5, 1, 1])
        harmonics = [rng.uniform(0, 1) / k ** rng.uniform(0.2, 1) for k in range(1, 24)]
        hum = peak(tones(vibrato(rng, n, base, rng.uniform(0.5, 6), 0.02), n, harmonics))
        out = rng.uniform(0.2, 1) * peak(out) + rng.uniform(0.3, 1.5) * hum
    if rng.random() < 0.5:
        rattle = band(pulses(rng, freq, n, 0.1, 0.6), rng.uniform(600, 2000), 5000)
        out = out + rng.uniform(0.05, 0.6) * peak(rattle)
    out = out * (1 + rng.uniform(0, 0.6) * sine(float(freq[0]) * rng.choice([0.25, 0.5, 1]), n))
    out = drive(out + log_uniform(rng, 0.01, 0.4) * noise(rng, n, rng.uniform(-7, -1)), rng.uniform(0.5, 3))
    return low_pass(out, log_uniform(rng, 400, 7500))


@family("diesel truck, truck, lorry, bus, tractor, tank, heavy vehicle, bulldozer")
def truck(rng: Generator) -> Sound:
    """A heavy diesel: knocking, with the weight of a big exhaust."""
    n = length(rng, 2.0, 3.4)
    freq = log_uniform(rng, 18, 50) * glide(n, 1, rng.uniform(0.8, 1.5))
    out = firing(rng, freq, n, 0.06)
    knock = band(pulses(rng, freq, n, 0.06, 0.4), 1000, 4500)
    tracks = metal(rng, 2000, rng.uniform(400, 900), 0.08, 8)
    out = peak(low_pass(out, 1500)) + rng.uniform(0.1, 0.5) * peak(knock) + 0.2 * noise(rng, n, -5)
    if rng.random() < 0.3:
        out = out + rng.uniform(0.1, 0.5) * recur(rng, n, rng.uniform(5, 14), 0.2, lambda: peak(tracks))
    return out


@family("motorcycle, motorbike, scooter, go-kart, revving engine, moped")
def motorcycle(rng: Generator) -> Sound:
    """An engine that revs up, or goes through gears."""
    n = length(rng, 1.5, 3.2)
    base = log_uniform(rng, 35, 110)
    freq = glide(n, base, *(base * rng.uniform(1, 4, rng.integers(1, 5))))
    return drive(firing(rng, freq, n, 0.04), rng.uniform(1, 5))


@family("car passing by, traffic, car, passing car, driving, road noise, vehicle, racing car")
def car_passing(rng: Generator) -> Sound:
    """Tyres and engine that come and go, sinking in pitch."""
    n = length(rng, 2.0, 3.2)
    near = np.exp(-(((clock(n) / n * RATE - rng.uniform(0.3, 0.7)) / rng.uniform(0.15, 0.4)) ** 2))
    freq = log_uniform(rng, 40, 150) * glide(n, 1.15, 1.1, 0.9, 0.87)
    tyres = band(noise(rng, n), 200, rng.uniform(1200, 4500))
    return (peak(tyres) + rng.uniform(0.1, 1) * firing(rng, freq, n, 0.03)) * (0.1 + near)


@family(
    "air conditioner, air conditioning, ventilation, air conditioning unit, refrigerator, fridge hum, "
    "compressor"
)
def air_conditioner(rng: Generator) -> Sound:
    """Steady broad noise of moved air over mains hum and a slow compressor."""
    n = length(rng, 2.5, 3.4)
    air = low_pass(noise(rng, n, rng.uniform(-8, -1)), log_uniform(rng, 600, 7000))
    mains = rng.choice([50, 60]) * rng.uniform(0.96, 1.0)
    hum = tones(
        mains, n, [rng.uniform(0.1, 1), 1, rng.uniform(0, 0.5), rng.uniform(0, 0.8), 0, rng.uniform(0, 0.4)]
    )
    beat = 1 + rng.uniform(0, 0.25) * sine(rng.uniform(0.5, 12), n)
    out = rng.uniform(0.3, 1.2) * peak(air) + rng.uniform(0, 0.9) * peak(hum)
    if rng.random() < 0.3:
        out = out + rng.uniform(0.02, 0.2) * sine(rng.uniform(300, 1500), n)
    if rng.random() < 0.3:
        rattle = recur(rng, n, rng.uniform(8, 30), 0.1, lambda: click(rng, 600, 3000, 0.01))
        out = out + rng.uniform(0.03, 0.2) * peak(rattle)
    return out * beat


@family("fan, electric fan, ceiling fan, propeller fan, computer fan, rotating blades")
def fan(rng: Generator) -> Sound:
    """Air chopped by blades."""
    n = length(rng, 2.5, 3.4)
    blades = rng.uniform(8, 90)
    chop = 1 + rng.uniform(0.2, 0.8) * sine(vibrato(rng, n, blades, 0.5, 0.01), n)
    air = band(noise(rng, n, -3), rng.uniform(80, 300), log_uniform(rng, 1000, 5000))
    return peak(air) * chop + rng.uniform(0, 0.5) * tones(blades, n, [0, 0.5, 1, 0.6, 0.4])


@family("vacuum cleaner, hoover, hair dryer, blender, mixer, hand dryer, food processor, leaf blower")
def vacuum_cleaner(rng: Generator) -> Sound:
    """A fast motor's whine in a roar of air."""
    n = length(rng, 2.0, 3.4)
    base = log_uniform(rng, 120, 700)
    freq = (
        base
        * np.minimum(1, 0.4 + np.linspace(0, rng.uniform(1, 20), n))
        * (1 + wander(rng, n, 1, -0.03, 0.03))
    )
    whine = tones(freq, n, [1, 0.7, 0.3, 0.5, 0.2, 0.3, 0.1, 0.2])
    air = band(noise(rng, n), rng.uniform(200, 800), log_uniform(rng, 3000, 7500))
    return rng.uniform(0.2, 0.9) * peak(whine) + peak(air)


@family("helicopter, chopper, rotor, helicopter rotor, helicopter flying")
def helicopter(rng: Generator) -> Sound:
    """Blade slap ten to thirty times a second, over turbine noise."""
    n = length(rng, 2.0, 3.4)
    rate = rng.uniform(9, 28)
    m = int(RATE / rate)
    slap = low_pass(noise(rng, m), log_uniform(rng, 300, 1800)) * decay(m, rng.uniform(0.05, 0.15), 0.01)
    out = peak(recur(rng, n, rate, 0.0, lambda: slap, 0.08))
    return (
        out
        + rng.uniform(0.1, 0.5) * peak(band(noise(rng, n), 300, 4000))
        + 0.05 * sine(rng.uniform(800, 3000), n)
    )


@family("airplane, plane, jet, jet engine, aircraft, rocket engine, spaceship, propeller plane, turbine")
def aircraft(rng: Generator) -> Sound:
    """A roar with a whistle, or a propeller's drone."""
    n = length(rng, 2.0, 3.4)
    if rng.random() < 0.5:
        freq = log_uniform(rng, 60, 160) * glide(n, 1.08, 0.92)
        out = tones(freq, n, [1 / k**0.6 for k in range(1, 16)]) + 0.4 * noise(rng, n, -3)
    else:
        roar = noise(rng, n, rng.uniform(-6, -2)) * wander(rng, n, 6, 0.7, 1)
        out = roar + rng.uniform(0.02, 0.3) * sine(
            glide(n, rng.uniform(800, 4000), rng.uniform(800, 4000)), n
        )
    return out * swell(n, rng.uniform(0.01, 0.5), rng.uniform(0.01, 0.5))


@family("train, railway, train on tracks, subway, steam train, tram, locomotive")
def train(rng: Generator) -> Sound:
    """Wheels over rail joints in pairs, or steam in puffs."""
    n = length(rng, 2.2, 3.4)
    ground = peak(band(noise(rng, n), 100, rng.uniform(800, 3000)))
    rate = rng.uniform(1, 4)
    if rng.random() < 0.4:
        puff = np.clip(sine(rate * 1.5, n), 0, None) ** 0.7
        return peak(band(noise(rng, n), 300, 5000)) * puff + 0.2 * ground

    def joint() -> Sound:
        part = np.zeros(6000)
        for at in (0, int(RATE * 0.15)):
            add(part, band(noise(rng, 1500), 150, 2500) * decay(1500, 0.08), at)
        return part

    out = peak(recur(rng, n, rate, 0.05, joint)) + rng.uniform(0.15, 0.6) * ground
    if rng.random() < 0.3:
        out = out + 0.2 * sine(rng.uniform(2000, 4500) * (1 + wander(rng, n, 10, -0.02, 0.02)), n)
    return out


@family("washing machine, dishwasher, machinery, factory, industrial machine, conveyor belt, machine")
def machinery(rng: Generator) -> Sound:
    """A cycle of thumps, hums and hisses that repeats."""
    n = length(rng, 2.2, 3.4)
    cycle = np.zeros(length(rng, 0.25, 1.2))
    for at in rng.uniform(0, 0.9, rng.integers(2, 5)):
        m = length(rng, 0.05, 0.25)
        low = log_uniform(rng, 80, 2000)
        add(cycle, peak(band(noise(rng, m), low, low * 4)) * decay(m, 0.2, 0.005), int(at * len(cycle)))
    hum = tones(rng.uniform(30, 120), n, [1, 0.8, 0.6, 0.5, 0.3, 0.2])
    return (
        peak(np.resize(cycle, n))
        + rng.uniform(0.1, 0.8) * peak(hum)
        + rng.uniform(0, 0.3) * noise(rng, n, -4)
    )


@family("lawn mower, generator, boat engine, outboard motor, motor boat, small engine")
def lawn_mower(rng: Generator) -> Sound:
    """A steady fast engine, less rough than a car's."""
    n = length(rng, 2.2, 3.4)
    freq = log_uniform(rng, 35, 90) * (1 + wander(rng, n, 1.5, -0.04, 0.04))
    out = firing(rng, freq, n, 0.02)
    return drive(out + rng.uniform(0.1, 0.4) * noise(rng, n, -2), rng.uniform(1, 3))


@family("electric hum, humming, mains hum, transformer, power station, drone")
def electric_hum(rng: Generator) -> Sound:
    """Mains and its harmonics, steady."""
    n = length(rng, 2.2, 3.4)
    mains = rng.choice([50, 60, 100, 120])
    out = tones(mains, n, [rng.uniform(0, 1) / k**0.5 for k in range(1, 14)])
    return peak(out) + rng.uniform(0, 0.2) * noise(rng, n, -3)


@family("car starting, starting an engine, engine start, ignition, starter motor", most_repeats=2)
def car_starting(rng: Generator) -> Sound:
    """A labouring starter, then the engine catches."""
    m, n = length(rng, 0.4, 1.3), length(rng, 0.6, 1.5)
    starter = tones(
        rng.uniform(90, 250) * (1 + 0.15 * sine(rng.uniform(5, 12), m)), m, [1, 0.8, 0.6, 0.5, 0.3]
    )
    idle = rng.uniform(20, 40)
    engine = firing(rng, glide(n, idle * 1.5, idle * 2.5, idle), n, 0.05) * swell(n, 0.1, 0.05)
    return np.concatenate([0.7 * peak(starter + 0.3 * noise(rng, m)), peak(engine)])


@family("steam, hiss, steam hissing, gas leak, air release, spray can, pressure valve, air brake")
def steam(rng: Generator) -> Sound:
    """Gas that escapes: bright noise, in one or several puffs."""
    n = length(rng, 0.4, 3.0)
    out = high_pass(noise(rng, n, rng.uniform(-2, 3)), log_uniform(rng, 800, 4000))
    return out * (decay(n, rng.uniform(0.5, 3), 0.02) if rng.random() < 0.5 else swell(n, 0.1, 0.4))


@family("radio static, static, white noise, interference, television noise, tuning a radio")
def static(rng: Generator) -> Sound:
    """Flat noise with crackle and, at times, a heterodyne."""
    n = length(rng, 1.5, 3.2)
    out = noise(rng, n) + rng.uniform(0, 0.6) * peak(crackle(rng, n, 60))
    if rng.random() < 0.4:
        out = out + 0.4 * sine(np.abs(wander(rng, n, 2, 200, 4000)), n)
    return echoes(out, 0.003, 0.4, 2) if rng.random() < 0.3 else out
