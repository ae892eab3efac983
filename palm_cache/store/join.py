"""Features of the same clips from several encoders, side by side."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from palm_cache.errors import StoreError, counted
from palm_cache.store.features import FeatureStore
from palm_cache.types import Features, Place


def read_features(stores: Sequence[Place]) -> Features:
    """Read one feature store whole, or join the features of several, of one dataset by different encoders.

    Of encoders that read no text the text embeddings are zeros; those that read some go first. Raises
    ``StoreError`` if a store is missing, or they do not belong together or come in the wrong order.
    """
    return read_opened([FeatureStore(path) for path in stores])


def read_opened(opened: Sequence[FeatureStore]) -> Features:
    """Return the same of stores that are open: whoever reads more of them reads the same state."""
    for store, other in combinations(opened, 2):
        if store.header.encoder == other.header.encoder:
            raise StoreError(
                f"{store.path} and {other.path} are both of {store.header.encoder}; join stores of different "
                "encoders"
            )
    joined = opened[0].read()
    if len(opened) == 1:
        return joined
    others = [_follow(opened[0], joined, other) for other in opened[1:]]
    return _side_by_side([joined, *others])


def _follow(lead: FeatureStore, features: Features, other: FeatureStore) -> Features:
    """Return what another store holds for the clips of the first, row by row, as the cache knows them.

    A clip that is there twice has the same embedding twice; one that is missing or failed in the other store
    is not usable.
    """
    followed = other.read()
    if followed.templates and not features.templates:
        raise StoreError(
            f"{lead.path} holds no text embeddings, {other.path} does: heads read the first encoder's; name "
            f"{followed.encoder} before {features.encoder}"
        )
    same = ["class_names", "templates", "descriptions"]
    if not followed.templates:
        nothing = torch.zeros(len(followed.class_names), len(features.templates), followed.text.shape[2])
        followed, same = replace(followed, templates=features.templates, text=nothing), same[:1]
    for what in same:
        if getattr(other.header, what) != getattr(lead.header, what):
            raise StoreError(
                f"{other.path}: other {what.replace('_', ' ')} than {lead.path}; join stores of one dataset, "
                "extracted with the same prompts"
            )
    if followed.audio.shape[1] != features.audio.shape[1]:
        raise StoreError(
            f"{other.path} has {counted(followed.audio.shape[1], 'view')} a clip, {lead.path} "
            f"{features.audio.shape[1]}; extract both with the same `views`"
        )
    usable = followed.usable.tolist()
    place = {key.tobytes(): row for row, key in enumerate(other.row_keys()) if usable[row]}
    rows = torch.tensor([place.get(key.tobytes(), -1) for key in lead.row_keys()])
    if not (rows >= 0).any():
        raise StoreError(f"{other.path} and {lead.path} share no clip; are they of one dataset?")
    audio = torch.where((rows >= 0)[:, None, None], followed.audio[rows], 0.0)
    return replace(
        features,
        encoder=followed.encoder,
        fingerprint=followed.fingerprint,
        digest=followed.digest,
        audio=audio,
        text=followed.text,
        usable=features.usable & (rows >= 0),
    )


def _side_by_side(features: Sequence[Features]) -> Features:
    """Concatenate embeddings, each scaled to unit length first, so that every encoder counts the same."""
    return replace(
        features[0],
        encoder="+".join(part.encoder for part in features),
        fingerprint=joined_hash([part.fingerprint for part in features]),
        digest=joined_hash([part.digest for part in features]),
        audio=concatenate([part.audio for part in features]),
        text=concatenate([part.text for part in features]),
        usable=torch.stack([part.usable for part in features]).all(dim=0),
        parts=tuple(part.audio.shape[2] for part in features),
    )


def concatenate(parts: Sequence[Tensor]) -> Tensor:
    """Put embeddings (..., dim) side by side, each at unit length."""
    return torch.cat([normalize(part, dim=-1) for part in parts], dim=-1)


def joined_hash(hashes: Sequence[str]) -> str:
    """Return what stands for the fingerprints, or digests, of joined features; for one it is itself."""
    if len(hashes) == 1:
        return hashes[0]
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()
