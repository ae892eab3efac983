"""Signals: sirens, horns, bells, beeps, telephones."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from pipelines.mini.world.dsp import (
    RATE,
    Sound,
    add,
    clock,
    decay,
    drive,
    glide,
    length,
    log_uniform,
    low_pass,
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
    square,
    swell,
    tones,
    vibrato,
    wander,
)
from pipelines.mini.world.family import family


def buzz(rng: Generator, freq: Sound | float, n: int) -> Sound:
    """Sound a tone with a random, fairly bright spectrum."""
    tilt = rng.uniform(0.3, 2.0)
    return peak(tones(freq, n, [rng.uniform(0.3, 1) / k**tilt for k in range(1, 14)]))


@family(
    "siren, police siren, ambulance siren, emergency siren, police car, fire engine siren, ambulance, "
    "emergency vehicle"
)
def siren(rng: Generator) -> Sound:
    """Wail, yelp, two tones in turn, or a sweep that starts over."""
    n = length(rng, 2.2, 4.0)
    low = log_uniform(rng, 350, 900)
    high = low * rng.uniform(1.25, 2.6)
    kind = rng.integers(4)
    turn = (
        clock(n) * [rng.uniform(0.15, 0.6), rng.uniform(2, 5), rng.uniform(0.5, 1.8), rng.uniform(1, 4)][kind]
        + rng.random()
    ) % 1
    if kind == 2:
        shape = (turn < 0.5).astype(float)
    elif kind == 3:
        shape = turn
    else:
        shape = 0.5 - 0.5 * np.cos(2 * np.pi * turn)
    freq = low * (high / low) ** shape * glide(n, 1, rng.uniform(0.94, 1.05))
    out = buzz(rng, freq, n)
    return drive(out, rng.uniform(0.5, 3)) * wander(rng, n, 0.7, 0.4, 1)


@family("air raid siren, civil defense siren, tornado siren, warning siren, evacuation alarm")
def air_raid(rng: Generator) -> Sound:
    """A deep siren that winds up or down for seconds."""
    n = length(rng, 2.5, 4.0)
    top = rng.uniform(350, 600)
    freq = glide(n, top * rng.uniform(0.4, 1), top, top * rng.uniform(0.4, 1))
    return buzz(rng, freq, n) + 0.5 * buzz(rng, freq * 1.2, n)


@family(
    "car horn, honking, horn, car honking, honk, beeping car, vehicle horn, truck horn, horn or alarm signal",
    most_repeats=4,
)
def car_horn(rng: Generator) -> Sound:
    """Two buzzing tones a third apart, steady, with hard edges."""
    n = length(rng, 0.15, 2.0)
    base = log_uniform(rng, 220, 550)
    out = buzz(rng, base, n)
    if rng.random() < 0.8:
        out = out + rng.uniform(0.5, 1) * buzz(rng, base * rng.uniform(1.15, 1.4), n)
    return drive(out, rng.uniform(0.7, 4)) * swell(n, 0.03, 0.05) ** 0.5


@family("fog horn, ship horn, train horn, foghorn, steam whistle, train whistle, ferry", most_repeats=2)
def fog_horn(rng: Generator) -> Sound:
    """A long deep chord of horns, or a steam whistle."""
    n = length(rng, 0.8, 3.0)
    if rng.random() < 0.3:
        base = rng.uniform(500, 1100)
        out = sum(sine(base * k * glide(n, 0.94, 1, 0.99), n) for k in (1, 1.19, 1.5)) + 0.5 * noise(rng, n)
        return out * swell(n, 0.1, 0.15)
    base = log_uniform(rng, 60, 330)
    parts = [buzz(rng, base * k, n) for k in (1, rng.uniform(1.18, 1.26), rng.uniform(1.45, 1.55))]
    return sum(parts[: rng.integers(1, 4)], start=np.zeros(n)) * swell(n, 0.1, 0.15)


@family(
    "war horn, signal horn, bugle, battle horn, horn call, hunting horn, horn signal, horn or alarm signal",
    most_repeats=2,
)
def war_horn(rng: Generator) -> Sound:
    """A brass call: one long tone, or a few notes of one series."""
    base = log_uniform(rng, 80, 260)
    series = [[2], [2, 3], [3, 2], [3, 4, 3], [2, 2, 3], [4, 5, 6], [3, 3, 3, 4]][rng.integers(7)]
    parts = []
    for step in series:
        n = length(rng, 0.15, 0.5) if len(series) > 1 else length(rng, 0.8, 2.5)
        freq = vibrato(rng, n, base * step / 2 * rng.uniform(0.99, 1.01), 5, 0.005) * glide(n, 0.97, 1, 1, 1)
        bright = low_pass(saw(freq, n), log_uniform(rng, 900, 4000))
        parts.append(bright * swell(n, 0.15, 0.2))
    return np.concatenate(parts)


@family(
    "alarm, alarm signal, smoke alarm, fire alarm, alarm clock, burglar alarm, warning signal, "
    "horn or alarm signal, beeping"
)
def alarm(rng: Generator) -> Sound:
    """Loud electronic tones in a pattern: beeps, two pitches, sweeps, buzz."""
    n = length(rng, 1.5, 3.4)
    base, rate = log_uniform(rng, 400, 3600), log_uniform(rng, 1, 10)
    kind = rng.integers(4)
    if kind == 0:
        freq = np.full(n, base)
    elif kind == 1:
        freq = base * np.where((clock(n) * rate) % 1 < 0.5, 1, rng.uniform(1.1, 1.7))
    elif kind == 2:
        freq = base * rng.uniform(1.2, 2.5) ** ((clock(n) * rate) % 1)
    else:
        freq = np.full(n, base / 4)
    wave = [sine, square, saw][rng.integers(3)](freq, n)
    gate = pulse_wave(n, rate, rng.uniform(0.3, 0.8), 0.004) if kind in (0, 3) else np.ones(n)
    if kind == 0 and rng.random() < 0.4:
        gate = gate * pulse_wave(n, rate / 4, 0.7, 0.004)
    return low_pass(wave, log_uniform(rng, 3000, 7900)) * gate


@family("reversing beep, truck backing up, backup alarm, beep, countdown beep, heart monitor, checkout beep")
def beeps(rng: Generator) -> Sound:
    """The same pure tone about once a second."""
    n = length(rng, 2.0, 3.4)
    gate = pulse_wave(n, rng.uniform(0.7, 2.5), rng.uniform(0.08, 0.55), 0.005)
    return tones(log_uniform(rng, 600, 2500), n, [1, rng.uniform(0, 0.3), rng.uniform(0, 0.3)]) * gate


@family("buzzer, game show buzzer, wrong answer, door buzzer, error sound", most_repeats=3)
def buzzer(rng: Generator) -> Sound:
    """A harsh low buzz."""
    n = length(rng, 0.2, 1.4)
    return low_pass(square(log_uniform(rng, 70, 300), n, rng.uniform(0.2, 0.5)), log_uniform(rng, 1500, 6000))


@family("telephone ringing, phone ringing, telephone, old telephone bell, telephone bell, ringing phone")
def telephone(rng: Generator) -> Sound:
    """A bell struck twenty times a second, two seconds on, or an electronic warble."""
    n = length(rng, 2.0, 3.4)
    if rng.random() < 0.5:
        freqs = [log_uniform(rng, 900, 2200) * k for k in (1, 1.26, 2.1, 2.7, 3.4)]
        strike = peak(modes(rng, 5000, freqs, 0.6, 0.2))
        out = recur(rng, n, rng.uniform(16, 26), 0.01, lambda: strike, 0.05)
    else:
        low = rng.uniform(500, 1500)
        freq = np.where((clock(n) * rng.uniform(10, 25)) % 1 < 0.5, low, low * rng.uniform(1.15, 1.4))
        out = tones(freq, n, [1, 0.3, 0.2])
    return peak(out) * pulse_wave(n, rng.uniform(0.3, 0.8), 0.65, 0.02)


@family(
    "ringtone, mobile phone, cell phone ringing, video game sound, chiptune, arcade game, electronic melody"
)
def ringtone(rng: Generator) -> Sound:
    """A fast tune of electronic tones."""
    n = length(rng, 1.5, 3.2)
    base, step = log_uniform(rng, 300, 1500), length(rng, 0.06, 0.25)
    tune = base * 2 ** (rng.choice([0, 2, 4, 5, 7, 9, 12], n // step + 1) / 12)
    freq = np.repeat(tune, step)[:n]
    wave = [sine, square, saw][rng.integers(3)](freq, n)
    return wave * (0.3 + np.exp(-((np.arange(n) % step) / step) * rng.uniform(0, 4)))


@family(
    "user interface sound, notification, computer bleep, coin pickup, power up, menu select, bonus",
    most_repeats=3,
)
def bleep(rng: Generator) -> Sound:
    """One or a few short electronic notes."""
    base = log_uniform(rng, 300, 2500)
    ratios = base * 2 ** (np.cumsum(rng.choice([-5, 0, 3, 4, 5, 7], rng.integers(1, 5))) / 12)
    step = length(rng, 0.04, 0.2)
    parts = [
        tones(freq, step, [1, rng.uniform(0, 0.5), rng.uniform(0, 0.5)]) * decay(step, 0.4, 0.004)
        for freq in ratios
    ]
    return np.concatenate(parts)


def bell(rng: Generator, n: int, base: float, seconds: float) -> Sound:
    """Strike a bell: hum, prime, a minor third, fifth and octave."""
    ratios = [k * rng.uniform(0.99, 1.01) for k in (0.5, 1, 1.2, 1.5, 2, 2.5, 2.67, 3, 4, 5.3)]
    return peak(modes(rng, n, [base * k for k in ratios], seconds, rng.uniform(0.2, 0.8)))


@family(
    "church bell, bell, bell tolling, church bells, tower bell, ringing bell, gong, temple bell",
    most_repeats=3,
)
def church_bell(rng: Generator) -> Sound:
    """A big bell that rings long."""
    n = length(rng, 1.2, 3.2)
    return bell(rng, n, log_uniform(rng, 150, 900), rng.uniform(1.5, 6))


@family(
    "bicycle bell, small bell, doorbell, hand bell, ding, chime, reception bell, sleigh bells",
    most_repeats=4,
)
def small_bell(rng: Generator) -> Sound:
    """A small bell, struck once, twice or trilled."""
    n = length(rng, 0.4, 1.6)
    base, out = log_uniform(rng, 700, 3500), np.zeros(n)
    for at in onsets(rng, n // 2, rng.choice([1, 3, 8, 15]), 0.02):
        add(out, bell(rng, n, base, rng.uniform(0.3, 1.5)), at)
    return out


@family("whistle, referee whistle, blowing a whistle, sports whistle, police whistle", most_repeats=3)
def referee_whistle(rng: Generator) -> Sound:
    """A shrill tone, trilled by a pea."""
    n = length(rng, 0.2, 1.4)
    trill = sine(rng.uniform(20, 60), n)
    out = sine(rng.uniform(1800, 3800) * (1 + 0.02 * trill), n) * (1 + rng.uniform(0, 0.8) * trill)
    return (out + rng.uniform(0.05, 0.3) * noise(rng, n)) * swell(n, 0.05, 0.1)


@family("kazoo, party horn, vuvuzela, toy trumpet, clown horn, bicycle horn, air horn", most_repeats=3)
def air_horn(rng: Generator) -> Sound:
    """A reed in a tube: nasal and steady."""
    n = length(rng, 0.2, 2.0)
    freq = log_uniform(rng, 180, 700) * glide(n, rng.uniform(0.8, 1.0), 1, 1, rng.uniform(0.8, 1))
    source = pulses(rng, freq, n, 0.01)
    formants = (rng.uniform(600, 1200), rng.uniform(1500, 2500), 3300)
    return drive(resonances(source, formants, (200, 300, 500), (1, 0.8, 0.4)), 2) * swell(n, 0.05, 0.1)


@family("metal detector, sonar, sonar ping, submarine, radar, ping", most_repeats=3)
def sonar(rng: Generator) -> Sound:
    """A pure tone that rings away."""
    n = length(rng, 0.8, 2.0)
    out = sine(log_uniform(rng, 500, 2500) * glide(n, 1, rng.uniform(0.9, 1)), n) * decay(
        n, rng.uniform(0.6, 2), 0.01
    )
    shift = int(rng.uniform(0.1, 0.3) * RATE)
    out[shift:] += 0.3 * out[:-shift]
    return out
