"""Captions for the training world: a name, bare or in a phrase, among random filler words.

Without the variety a prompt's wording would move zero-shot accuracy more than its content.
"""

from __future__ import annotations

from numpy.random import Generator

from pipelines.mini.world.family import listed

OPENINGS = listed(
    "a recording of, the sound of, sound of, this is a recording of, this is the sound of, an audio clip of, "
    "i can hear, we hear, you can hear, there is, here is, listen to, audio of, a clip of, noise of, "
    "an example of, a short sample with, in this recording there is, someone recorded, field recording of, "
    "a sound effect of, this audio contains, it sounds like, the recording is of, the is a recording of, "
    "a noisy recording of, this is"
)
ENDINGS = listed(
    "can be heard, is heard, in the background, can be heard in the background, in the distance, nearby, "
    "recorded outside, sound, sounds, noise, sound effect, is playing, is going on, in a room, "
    "with some noise, on a street, recorded with a microphone, audio, clip, recording, in this clip, "
    "is audible, at night, again and again"
)
ARTICLES = listed("a, an, the, some, one, this, that, another, my, several")
ADJECTIVES = listed(
    "loud, quiet, distant, close, short, long, faint, repeated, old, big, small, strange, typical, clear, "
    "muffled, heavy, light, fast, slow, single, realistic"
)
FILLERS = listed(
    "and, of, with, very, from, at, on, it, is, was, there, here, now, then, just, maybe, please, today, "
    "which, while, as, by, for, to, in, um, one, two, track, file, sample, scene, place, time, day, people, "
    "thing, something, someone, what, that, how, world, photo, description, category, label, class, type, "
    "event, kind, example, named, called, following, part, mono, stereo, take"
)
LETTERS = "aabcdeefghiijklmnoopqrstuuvwxyz"


def caption(rng: Generator, name: str) -> str:
    """Write one caption for a name; a third of them are the bare name."""
    if rng.random() < 0.33:
        return decorate(rng, name)
    words = name.split()
    if len(words) == 2 and rng.random() < 0.1:
        name = " of ".join(reversed(words))
    if rng.random() < 0.3:
        name = f"{pick(rng, ADJECTIVES)} {name}"
    if rng.random() < 0.5:
        name = f"{pick(rng, ARTICLES)} {name}"
    opening = pick(rng, OPENINGS) if rng.random() < 0.6 else ""
    ending = pick(rng, ENDINGS) if rng.random() < 0.4 else ""
    parts = f"{opening} {name} {ending}".split()
    for _ in range(rng.integers(0, 4)):
        filler = pick(rng, FILLERS) if rng.random() < 0.6 else nonsense(rng)
        parts.insert(int(rng.integers(len(parts) + 1)), filler)
    return " ".join(parts)


def decorate(rng: Generator, name: str) -> str:
    """Write a bare name the way class lists do: as it is, or inflected."""
    way = rng.random()
    if way < 0.1 and not name.endswith("s"):
        return f"{name}s"
    return f"{pick(rng, ARTICLES)} {name}" if way < 0.2 else name


def nonsense(rng: Generator) -> str:
    """Make up a word, so that unknown words learn to weigh little."""
    return "".join(LETTERS[rng.integers(len(LETTERS))] for _ in range(rng.integers(2, 9)))


def pick(rng: Generator, options: tuple[str, ...]) -> str:
    """Draw one of some strings."""
    return options[rng.integers(len(options))]
