"""What counts as audio in a folder."""

from __future__ import annotations

READABLE_ENDINGS = (
    *(".wav", ".wave", ".w64", ".rf64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2"),
    *(".aif", ".aiff", ".aifc", ".au", ".snd", ".caf"),
)
"""Lower case; a file's own may have any."""

OTHER_ENDINGS = (".m4a", ".aac", ".wma", ".amr", ".ape", ".wv")
"""Audio that libsndfile cannot decode: named as such rather than passed over in silence."""

AUDIO_ENDINGS = frozenset((*READABLE_ENDINGS, *OTHER_ENDINGS))
