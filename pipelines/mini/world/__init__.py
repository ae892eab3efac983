"""Families of synthesised sounds with their names; importing this registers all of them."""

from pipelines.mini.world import (
    alarms,
    animals,
    birds,
    engines,
    music,
    objects,
    people,
    tools,
    water,
    weapons,
    weather,
)
from pipelines.mini.world.family import FAMILIES, Family
from pipelines.mini.world.recording import CLIP_SAMPLES, record

__all__ = [
    "CLIP_SAMPLES",
    "FAMILIES",
    "Family",
    "alarms",
    "animals",
    "birds",
    "engines",
    "music",
    "objects",
    "people",
    "record",
    "tools",
    "water",
    "weapons",
    "weather",
]
