"""What audio files are called: the one list for all who look for them, or must not write over them."""

from __future__ import annotations

from pathlib import PurePath

READABLE_ENDINGS = (
    *(".wav", ".wave", ".bwf", ".w64", ".rf64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".mp1"),
    *(".mpga", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".sph", ".voc"),
)
OTHER_ENDINGS = (
    *(".m4a", ".m4b", ".aac", ".alac", ".wma", ".amr", ".3ga", ".ape", ".wv", ".mka", ".tta", ".mpc"),
    *(".ac3", ".dts", ".ra", ".spx", ".weba"),
)
"""Audio that libsndfile cannot decode: named as such rather than passed over in silence."""

AUDIO_ENDINGS = frozenset((*READABLE_ENDINGS, *OTHER_ENDINGS))


def is_audio_name(path: str | PurePath) -> bool:
    """Tell whether a file is called like audio, in small letters or capitals, and is not hidden."""
    path = PurePath(path)
    return path.suffix.lower() in AUDIO_ENDINGS and not path.name.startswith(".")
