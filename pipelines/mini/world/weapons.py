"""Weapons and violence: explosions, shots, blades, bows."""

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
    modes,
    noise,
    peak,
    pulse_wave,
    recur,
    saw,
    sine,
    square,
    swell,
    thud,
    wander,
    wood,
)
from pipelines.mini.world.family import family


@family("explosion, blast, detonation, bomb, big explosion, grenade, exploding bomb", most_repeats=2)
def explosion(rng: Generator) -> Sound:
    """Boom with a long low tail, and debris that falls."""
    n = length(rng, 0.8, 3.2)
    seconds = rng.uniform(0.6, 3.0)
    body = low_pass(noise(rng, n, rng.uniform(-9, -2)), log_uniform(rng, 300, 4000)) * decay(n, seconds, 0.01)
    rumble = low_pass(noise(rng, n), rng.uniform(60, 200)) * decay(n, seconds * 1.3, 0.05)
    crack = noise(rng, n) * decay(n, rng.uniform(0.05, 0.3))
    debris = band(crackle(rng, n, log_uniform(rng, 10, 200)), 300, rng.uniform(1500, 5000)) * decay(
        n, seconds * 1.5
    )
    out = peak(body) + rng.uniform(0.2, 1.5) * peak(rumble) + rng.uniform(0, 0.8) * crack
    out = out + rng.uniform(0, 0.4) * peak(debris)
    out *= 1 + rng.uniform(0, 0.6) * wander(rng, n, rng.uniform(5, 25), -1, 1)
    return drive(out, log_uniform(rng, 0.5, 6))


@family("cannon, cannon fire, artillery, mortar shot, distant explosion, cannon shot", most_repeats=3)
def cannon(rng: Generator) -> Sound:
    """Deep boom without much above it, often with an echo."""
    n = length(rng, 0.7, 2.5)
    out = thud(rng, n, rng.uniform(35, 90), rng.uniform(0.4, 1.4))
    out += (
        0.8
        * peak(low_pass(noise(rng, n, -4), log_uniform(rng, 150, 900)))
        * decay(n, rng.uniform(0.4, 1.6), 0.005)
    )
    return echoes(drive(out, rng.uniform(0.8, 4)), rng.uniform(0.15, 0.5), rng.uniform(0, 0.5), 3)


def shot(rng: Generator, n: int, seconds: float, cut: float) -> Sound:
    """Fire once: a crack, a body, a tail."""
    crack = high_pass(noise(rng, n), rng.uniform(300, 2000)) * decay(n, rng.uniform(0.03, 0.15), 0.0005)
    body = low_pass(noise(rng, n), cut) * decay(n, seconds, 0.001)
    boom = sine(glide(n, rng.uniform(120, 300), rng.uniform(40, 90)), n) * decay(n, rng.uniform(0.08, 0.3))
    tail = low_pass(noise(rng, n, -3), cut / 2) * decay(n, seconds * 3, 0.02)
    out = (
        rng.uniform(0.4, 1) * crack
        + peak(body)
        + rng.uniform(0, 0.8) * boom
        + rng.uniform(0, 0.3) * peak(tail)
    )
    return drive(out, log_uniform(rng, 0.8, 8))


@family(
    "gunshot, gun shot, gun, pistol shot, rifle shot, gunfire, shotgun blast, firing a gun, handgun",
    most_repeats=4,
)
def gunshot(rng: Generator) -> Sound:
    """One shot, in the open, in a street or muffled."""
    n = length(rng, 0.25, 1.6)
    out = shot(rng, n, rng.uniform(0.08, 0.7), log_uniform(rng, 700, 6000))
    if rng.random() < 0.5:
        out = echoes(out, rng.uniform(0.06, 0.4), rng.uniform(0.1, 0.5), 3)
    return out


@family("machine gun, automatic gunfire, burst of shots, automatic rifle, minigun")
def machine_gun(rng: Generator) -> Sound:
    """The same shot many times a second."""
    n = length(rng, 0.6, 3.0)
    one = shot(rng, length(rng, 0.08, 0.3), rng.uniform(0.06, 0.2), log_uniform(rng, 900, 6000))
    return recur(rng, n, rng.uniform(6, 18), 0.02, lambda: one, 0.1)


@family("gun reload, reloading a gun, cocking a gun, weapon loading, gun click", most_repeats=3)
def gun_reload(rng: Generator) -> Sound:
    """Two or three metallic clicks with a slide between."""
    n = length(rng, 0.3, 1.0)
    out = np.zeros(n)
    for at in np.sort(rng.uniform(0, 0.8, rng.integers(2, 5))):
        part = click(rng, 600, 6500, rng.uniform(0.02, 0.06))
        part = peak(part) + 0.5 * metal(rng, len(part), rng.uniform(900, 2500), 0.1)
        add(out, part, int(at * n), rng.uniform(0.5, 1))
    slide = band(noise(rng, n), 1500, 5000) * swell(n, 0.4, 0.4)
    return out + rng.uniform(0, 0.2) * slide


@family("ricochet, ricocheting bullet, bullet whizzing by, bullet impact", most_repeats=3)
def ricochet(rng: Generator) -> Sound:
    """A hit, then a whine that sinks."""
    n = length(rng, 0.3, 1.0)
    top = rng.uniform(1500, 5000)
    whine = sine(glide(n, top, top * rng.uniform(0.25, 0.8)) * (1 + 0.02 * sine(rng.uniform(20, 60), n)), n)
    out = whine * decay(n, rng.uniform(0.4, 1.2), 0.01)
    out += 0.3 * peak(band(noise(rng, n), top * 0.5, top * 1.5)) * decay(n, 0.3)
    add(out, click(rng, 500, 7000, 0.04), 0)
    return out


@family(
    "laser weapon, laser gun, laser, laser shot, blaster, ray gun, phaser, sci-fi weapon, zap, space gun",
    most_repeats=4,
)
def laser(rng: Generator) -> Sound:
    """A tone that falls fast, clean or buzzing, with or without a burst of noise."""
    n = length(rng, 0.12, 1.1)
    start = log_uniform(rng, 600, 6500)
    end = max(40.0, start * log_uniform(rng, 0.03, 0.6))
    freq = (
        glide(n, start, end)
        if rng.random() < 0.6
        else end + (start - end) * np.exp(-clock(n) * rng.uniform(4, 25))
    )
    if rng.random() < 0.15:
        freq = freq[::-1]
    freq = freq * (1 + rng.uniform(0, 0.4) * sine(log_uniform(rng, 8, 200), n))
    wave = [sine, saw, square][rng.integers(3)](np.clip(freq, 30, 7000), n)
    out = wave * decay(n, rng.uniform(0.2, 1.5), rng.uniform(0.001, 0.03))
    if rng.random() < 0.5:
        out = out + rng.uniform(0.1, 0.8) * noise(rng, n, rng.uniform(-6, 2)) * decay(
            n, rng.uniform(0.05, 0.5)
        )
    if rng.random() < 0.4:
        out = echoes(out, rng.uniform(0.02, 0.15), rng.uniform(0.2, 0.6), 4)
    if rng.random() < 0.3:
        boom = thud(rng, n, rng.uniform(50, 150), 0.4) + 0.5 * low_pass(noise(rng, n), 2500) * decay(n, 0.5)
        out = drive(peak(out) + rng.uniform(0.3, 1.5) * peak(boom), log_uniform(rng, 0.8, 4))
    return low_pass(out, log_uniform(rng, 2000, 7900))


@family("energy beam, force field, plasma, energy weapon charging, science fiction hum, teleport")
def energy_beam(rng: Generator) -> Sound:
    """A steady or rising electronic hum with shimmer."""
    n = length(rng, 0.8, 3.0)
    base = log_uniform(rng, 60, 900)
    freq = glide(n, base, base * log_uniform(rng, 0.5, 4)) * (1 + 0.1 * sine(rng.uniform(2, 40), n))
    out = saw(freq, n) + saw(freq * rng.uniform(1.005, 1.03), n) + sine(freq * rng.uniform(1.5, 5), n)
    out *= 1 - rng.uniform(0, 0.9) * pulse_wave(n, rng.uniform(4, 30), 0.5)
    return low_pass(out, log_uniform(rng, 700, 7000)) * swell(n, rng.uniform(0.02, 0.5), 0.3)


@family(
    "bow and arrow, shooting an arrow, arrow, bow, archery, crossbow, arrow flying, bowstring release, "
    "arrow hit",
    most_repeats=3,
)
def bow_and_arrow(rng: Generator) -> Sound:
    """Any of: a creaking draw, the string's twang, the whoosh of flight, a hit in wood."""
    n = length(rng, 0.25, 1.3)
    out = np.zeros(n)
    parts = rng.random(4) < (0.25, 0.75, 0.7, 0.5)
    string = modes(
        rng, n, [log_uniform(rng, 70, 300) * k for k in (1, 2.02, 3.05, 4.1, 5.2)], rng.uniform(0.08, 0.4)
    )
    snap = band(noise(rng, n), 300, rng.uniform(1500, 5000)) * decay(n, rng.uniform(0.02, 0.08))
    if parts[0]:
        creak = recur(rng, n // 2, rng.uniform(30, 80), 0.4, lambda: click(rng, 400, 2500, 0.008))
        add(out, peak(creak), 0, rng.uniform(0.1, 0.4))
    start = int(rng.uniform(0.3, 0.5) * n) if parts[0] else 0
    if parts[1] or not parts[2]:
        add(out, peak(string) + rng.uniform(0.2, 1.2) * peak(snap), start)
    if parts[2]:
        flight = length(rng, 0.1, 0.5)
        centre = log_uniform(rng, 300, 4000)
        whoosh = peak(band(noise(rng, flight), centre * 0.6, centre * 1.6)) * swell(
            flight, rng.uniform(0.1, 0.6), 0.4
        )
        add(out, whoosh, start + int(0.02 * RATE), rng.uniform(0.2, 1))
    if parts[3]:
        hit = wood(rng, length(rng, 0.1, 0.25), log_uniform(rng, 120, 500), rng.uniform(0.05, 0.2))
        add(out, peak(hit), min(n - 1500, start + length(rng, 0.1, 0.5)), rng.uniform(0.5, 1.2))
    return out


@family(
    "sword fighting, sword, swords clashing, sword fight, clashing blades, fencing, blade hitting a blade, "
    "sword hit, metal weapon",
    most_repeats=4,
)
def sword_fight(rng: Generator) -> Sound:
    """Blades that meet once or a few times: bright ringing metal, scrapes, whooshes before."""
    n = length(rng, 0.3, 1.6)
    out = np.zeros(n)
    base, seconds = log_uniform(rng, 350, 3500), log_uniform(rng, 0.05, 1.2)
    count = int(rng.integers(8, 40))
    for at in np.sort(rng.uniform(0, 0.7, rng.choice([1, 1, 2, 3, 4]))):
        hit = metal(rng, n, base * rng.uniform(0.9, 1.1), seconds, count)
        clash = high_pass(noise(rng, n), log_uniform(rng, 800, 4000)) * decay(n, log_uniform(rng, 0.02, 0.25))
        hit = peak(hit) + rng.uniform(0.2, 1.2) * peak(clash)
        add(out, hit, int(at * n), rng.uniform(0.4, 1))
    if rng.random() < 0.35:
        scrape = (
            band(noise(rng, n), base * 1.5, base * 4) * (0.5 + wander(rng, n, 40, 0, 1)) * swell(n, 0.2, 0.4)
        )
        out = peak(out) + rng.uniform(0.1, 0.6) * peak(scrape)
    if rng.random() < 0.3:
        out = np.concatenate([0.4 * swish(rng, length(rng, 0.1, 0.3)), out])
    return out


@family(
    "drawing a sword, sword drawn from its sheath, knife sharpening, metal scraping, unsheathing",
    most_repeats=2,
)
def sword_draw(rng: Generator) -> Sound:
    """A scrape of metal that rises and rings out."""
    n = length(rng, 0.3, 1.2)
    base = log_uniform(rng, 1200, 3500)
    scrape = band(noise(rng, n), base, base * 2.5) * swell(n, 0.6, 0.15)
    ring = metal(rng, n, base, rng.uniform(0.5, 1.5), 10)
    return peak(scrape) + rng.uniform(0.2, 0.7) * peak(np.roll(ring, n // 3) * (np.arange(n) > n // 3))


def swish(rng: Generator, n: int) -> Sound:
    """Move something fast through air."""
    centre = log_uniform(rng, 400, 3000)
    dark = peak(band(noise(rng, n), centre * 0.5, centre))
    bright = peak(band(noise(rng, n), centre, centre * 2.5))
    mix = np.sin(np.linspace(0, np.pi, n))
    return (dark * (1 - mix) + bright * mix) * swell(n, rng.uniform(0.3, 0.6), 0.4)


@family("whoosh, swish, sword swing, swinging a sword through the air, fast movement", most_repeats=4)
def whoosh(rng: Generator) -> Sound:
    """One swish."""
    return swish(rng, length(rng, 0.15, 0.7))


@family("whip, whip crack, cracking a whip, lash", most_repeats=3)
def whip(rng: Generator) -> Sound:
    """A swish that ends in a sharp crack."""
    crack = high_pass(noise(rng, 3000), 800) * decay(3000, rng.uniform(0.04, 0.15), 0.0003)
    return np.concatenate([rng.uniform(0.1, 0.4) * swish(rng, length(rng, 0.1, 0.35)), crack])


@family("fireworks, firework, firecracker, rocket and bang, pyrotechnics")
def fireworks(rng: Generator) -> Sound:
    """Rising whistles, bangs and sizzling crackle."""
    n = length(rng, 2.0, 3.5)
    out = np.zeros(n)
    for at in rng.uniform(0, 0.7, rng.integers(1, 5)):
        bang = thud(rng, length(rng, 0.3, 0.8), rng.uniform(50, 150), 0.4)
        add(
            out, bang + 0.5 * noise(rng, len(bang)) * decay(len(bang), 0.15), int(at * n), rng.uniform(0.4, 1)
        )
        fizz = high_pass(crackle(rng, length(rng, 0.4, 1.2), rng.uniform(30, 200)), 1000)
        add(out, peak(fizz) * decay(len(fizz), 1.5, 0.05), int(at * n + 3000), rng.uniform(0.1, 0.5))
    if rng.random() < 0.6:
        m = length(rng, 0.4, 1.2)
        add(out, sine(glide(m, rng.uniform(800, 1500), rng.uniform(1800, 4500)), m) * swell(m), 0, 0.3)
    return out


@family("punch, body hit, slap, fist fight, kick, body fall, blow", most_repeats=4)
def punch(rng: Generator) -> Sound:
    """A dull hit, sometimes with a slap on top."""
    n = length(rng, 0.1, 0.4)
    out = thud(rng, n, rng.uniform(60, 180), rng.uniform(0.08, 0.25))
    slap = band(noise(rng, n), rng.uniform(500, 1200), rng.uniform(2500, 6000)) * decay(
        n, rng.uniform(0.02, 0.08)
    )
    return peak(out) + rng.uniform(0, 1.0) * peak(slap)


@family("armor hit, hit on a shield, metal clang, clanging metal, dropped metal, anvil", most_repeats=4)
def metal_clang(rng: Generator) -> Sound:
    """A big piece of metal that is struck."""
    n = length(rng, 0.3, 1.6)
    out = metal(rng, n, log_uniform(rng, 150, 900), log_uniform(rng, 0.15, 1.6), 18)
    return peak(out) + rng.uniform(0.1, 0.6) * band(noise(rng, n), 500, 5000) * decay(n, 0.05)
