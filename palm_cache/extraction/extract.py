"""Stage one: embed the chunks of a store that are missing or outdated, and just those."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from palm_cache.errors import StaleStoreError
from palm_cache.extraction.chunks import ChunkResult, Worker, embed_chunks, known_embeddings
from palm_cache.extraction.encoders.base import Encoder, full_identity
from palm_cache.extraction.encoders.registry import encoder_options, load_encoder
from palm_cache.extraction.plan import Plan, find_doubts, plan_extraction, siblings_of, standing, successor_of
from palm_cache.extraction.runtime import check_runtime
from palm_cache.extraction.spread import check_address, embed_elsewhere
from palm_cache.params import ExtractParams, OnStale
from palm_cache.store import trees
from palm_cache.store.features import FORMAT_VERSION, MEAN_POLICY, VIEW_POLICY, FeatureStore, StoreHeader
from palm_cache.store.fingerprint import fingerprint, library_versions
from palm_cache.store.locks import locked
from palm_cache.store.places import absolute
from palm_cache.types import TEMPLATES, Clip, ClipTable, Place, Progress, no_progress


@dataclass(frozen=True, slots=True)
class Extraction:
    """What an extraction did."""

    store: Place
    n_clips: int
    embedded: int
    """Clips that went through the encoder."""
    failures: tuple[tuple[str, str], ...]
    """(path, reason) of every clip that has no embedding."""
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Target:
    """The store to fill, and what its predecessor is good for."""

    store: FeatureStore
    donor: Place | None = None
    """A store of the same encoder, laid out otherwise, whose embeddings are kept."""
    notes: tuple[str, ...] = ()


def extract(
    table: ClipTable,
    spec: str,
    out: Place,
    params: ExtractParams,
    *,
    progress: Progress = no_progress,
) -> Extraction:
    """Embed every clip of a dataset once and keep the result in a feature store.

    Parameters
    ----------
    table : ClipTable
        The dataset.
    spec : str
        Which encoder.
    out : Place
        The store's folder. An unfinished or outdated store there is completed.
    params : ExtractParams
        How it runs.
    progress : callable
        Told about every step.

    Raises
    ------
    ParameterError
        If ``params.cluster`` is no address of a cluster.
    ClusterError
        If the cluster cannot be reached or loses its workers.
    StaleStoreError
        If the store was made otherwise and ``params.on_stale`` is ``"refuse"``.
    StoreError
        If another extraction is writing to the store.
    AudioError
        If a clip cannot be read and ``params.on_error`` is ``"fail"``.
    OutputError
        If the store cannot be written.
    """
    check_address(params.cluster)
    with locked(out, "another extraction is writing to this store"):
        encoders = [_load(spec, params, device) for device in params.devices]
        encoder = encoders[0]
        header = describe(table, encoder, params.views)
        target = _target(out, header, table, encoder, params.on_stale)
        todo = list(find_doubts(target.store, table.clips, progress))
        wanted = [clip for chunk in todo for clip in table.clips[target.store.rows(chunk)]]
        checked = check_runtime(encoder, wanted)
        siblings = siblings_of(out, header) if todo else ()
        worker = Worker(
            store=target.store.path,
            donors=tuple(map(absolute, (target.donor, *siblings) if target.donor else siblings)),
            encoder=spec,
            fingerprint=header.fingerprint,
            params=params,
            session=uuid.uuid4().hex,
        )
        results = _embed_chunks(worker, encoders, target.store, table.clips, todo, progress)
        if target.store.path != out:
            trees.replace(out, target.store.path)
        failures = tuple(FeatureStore(out).failures())
    embedded = sum(result.embedded for result in results)
    shared = sum((Counter(result.known) for result in results), Counter[Place]())
    reused = [
        f"{shared[absolute(path)]:,} clip(s) took their embedding from {path}"
        for path in siblings
        if shared[absolute(path)]
    ]
    said = dict.fromkeys(note for result in results for note in result.notes)
    notes = (*table.notes, *target.notes, *reused, *checked, *said)
    return Extraction(out, len(table.clips), embedded, failures, notes)


def dry_run(
    table: ClipTable,
    spec: str,
    out: Place,
    params: ExtractParams,
    *,
    progress: Progress = no_progress,
) -> Plan:
    """Find out what :func:`extract` would do with the same arguments, and write nothing.

    The encoder is loaded: whether a store is stale depends on its weights.
    """
    encoder = _load(spec, params, params.devices[0])
    return plan_extraction(out, describe(table, encoder, params.views), table, progress)


def _load(spec: str, params: ExtractParams, device: str) -> Encoder:
    return load_encoder(spec, device=device, **encoder_options(params))


def describe(table: ClipTable, encoder: Encoder, views: int) -> StoreHeader:
    """Return the header of the store that a dataset, an encoder and options make."""
    identity = full_identity(encoder)
    return StoreHeader(
        format_version=FORMAT_VERSION,
        dataset=table.dataset,
        encoder=encoder.spec,
        fingerprint=fingerprint(identity),
        identity=identity,
        dim=encoder.dim,
        token_dim=encoder.text_tower().token_dim,
        sample_rate=encoder.sample_rate,
        seconds=encoder.window.stretch / encoder.sample_rate,
        views=views,
        view_policy=VIEW_POLICY if encoder.window.long == "crop" else MEAN_POLICY,
        templates=TEMPLATES,
        class_names=table.class_names,
        versions=library_versions(),
    )


def _target(
    out: Place, header: StoreHeader, table: ClipTable, encoder: Encoder, on_stale: OnStale
) -> _Target:
    """Return the store to fill: the one at ``out`` if it fits, else a successor built beside it.

    The old store stays until its successor is complete: whoever interrupts a rebuild loses nothing.
    """
    successor = successor_of(out)
    trees.finish_replacing(out, successor)
    found = standing(out, header, table)
    if found.state == "absent":
        return _Target(_create(out, header, table, encoder))
    if found.state == "fits" and found.store is not None:
        found.store.remove_leftovers()
        return _Target(found.store)
    if found.state == "stale" and on_stale == "refuse":
        raise StaleStoreError(
            f"{out} is stale: {found.reason}; make it anew with --on-stale rebuild, or choose another --out"
        )
    if found.state == "stale":
        trees.check_ours(out)
        note, donor = f"{out} was stale ({found.reason}) and has been made anew", None
    else:
        note, donor = f"{out}: {found.reason}; clips that were known kept their embeddings", out
    return _Target(_resume_or_create(successor, header, table, encoder), donor, (note,))


def _create(path: Place, header: StoreHeader, table: ClipTable, encoder: Encoder) -> FeatureStore:
    prompts = [template.replace("{c}", name) for name in table.class_names for template in header.templates]
    text = encoder.embed_text(prompts).reshape(len(table.class_names), len(header.templates), encoder.dim)
    return FeatureStore.create(path, header, table, text)


def _resume_or_create(path: Place, header: StoreHeader, table: ClipTable, encoder: Encoder) -> FeatureStore:
    """Go on with a successor that an interrupted run left, if it is the one wanted."""
    found = standing(path, header, table)
    if found.state == "fits" and found.store is not None:
        found.store.remove_leftovers()
        return found.store
    if found.state != "absent":
        trees.remove(path)
    return _create(path, header, table, encoder)


def _embed_chunks(
    worker: Worker,
    encoders: Sequence[Encoder],
    store: FeatureStore,
    clips: tuple[Clip, ...],
    todo: list[int],
    progress: Progress,
) -> list[ChunkResult]:
    """Embed chunks, in this process or elsewhere."""
    if not todo:
        return []
    total, done = sum(len(clips[store.rows(chunk)]) for chunk in todo), 0
    if worker.params.jobs == 1 and not worker.params.cluster:

        def tick() -> None:
            nonlocal done
            done += 1
            progress("embedding", done, total)

        def closing() -> None:
            progress("interrupted: finishing this chunk (again: at once)", done, total)

        chunks = {chunk: clips[store.rows(chunk)] for chunk in todo}
        known = known_embeddings(worker.donors)
        return embed_chunks(store, chunks, encoders, worker.params, known=known, tick=tick, closing=closing)
    results = []
    progress("embedding", 0, total)
    for result in embed_elsewhere(worker, ((chunk, clips[store.rows(chunk)]) for chunk in todo)):
        results.append(result)
        done += result.clips
        progress("embedding", done, total)
    return results
