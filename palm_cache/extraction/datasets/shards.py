"""Clips inside Parquet, Arrow and tar shards.

A Hugging Face dataset saved on disk is Arrow files with its schema's metadata; on the hub it is Parquet
shards. A WebDataset is tar files in which the members of one sample share all of their name before the
first dot. They should follow each other; ``tar cf x.tar *.wav *.cls`` puts them far apart.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from palm_cache.errors import DataError, ParameterError
from palm_cache.extraction.datasets.listing import ending
from palm_cache.extraction.datasets.members import Member
from palm_cache.extraction.datasets.texts import TextTable, check_regular
from palm_cache.store.atomic import parse_json
from palm_cache.types import Place
from palm_cache.types.audio_names import AUDIO_ENDINGS

BATCH_ROWS = 64
"""Rows that are read at once: with them their audio."""

STARTS = {
    b"RIFF": ".wav",
    b"RF64": ".wav",
    b"fLaC": ".flac",
    b"OggS": ".ogg",
    b"FORM": ".aiff",
    b"ID3": ".mp3",
}
"""Endings for audio without a name, by what it begins with."""


def has_audio(container: Place) -> bool:
    """Tell whether a Parquet or Arrow file has a column of audio bytes.

    Raises
    ------
    DataError
        If it is damaged.
    ParameterError
        If pyarrow is not installed.
    """
    with _opened(container) as (schema, _):
        return _audio_column(schema) is not None


def header(container: Place) -> tuple[str, ...]:
    """Return the names of the columns of a Parquet or Arrow file."""
    with _opened(container) as (schema, _):
        return tuple(schema.names)


def read_plain(container: Place) -> TextTable:
    """Read a Parquet or Arrow file without audio as text; class numbers become names where it has them."""
    with _opened(container) as (schema, batches):
        classes = _class_names(schema)
        rows = [
            tuple(_text(value, classes.get(name)) for name, value in record.items())
            for batch in batches()
            for record in batch.to_pylist()
        ]
    return TextTable(container.name, tuple(schema.names), tuple(enumerate(rows, start=1)))


def read_shard(container: Place) -> Iterator[Member]:
    """Read the clips of a Parquet or Arrow file; class numbers become names where it has them.

    Raises
    ------
    DataError
        If it is damaged, or a clip has no bytes.
    """
    with _opened(container) as (schema, batches):
        audio, classes = _audio_column(schema), _class_names(schema)
        number = 0
        for batch in batches():
            for record in batch.to_pylist():
                number += 1
                sound = record.pop(audio)
                content, path = (
                    (sound.get("bytes"), sound.get("path")) if isinstance(sound, dict) else (sound, None)
                )
                if not content:
                    raise DataError(
                        f"{container.name}, row {number}: no audio, only its path {path!r}; save the dataset "
                        "with its audio in it (embed_external_files), or give the folder of the files"
                    )
                fields = {name: _text(value, classes.get(name)) for name, value in record.items()}
                yield Member(_audio_name(str(path or number), content), content, fields)


@dataclass(slots=True)
class _Sample:
    """What a tar file holds of one sample; its members need not follow each other."""

    kinds: set[str] = field(default_factory=set)
    """Endings of its members."""
    fields: dict[str, str] = field(default_factory=dict)
    heard: bool = False
    """Whether its audio has been met."""


def read_tar(container: Place) -> Iterator[Member]:
    """Read the samples of a tar file that have audio; what else it holds of them (cls, txt, json) are fields.

    The fields of all members are complete when the last one has been read.

    Raises
    ------
    DataError
        If it is damaged.
    """
    samples: dict[str, _Sample] = {}
    for name, content in _tar_members(container):
        path = PurePosixPath(name)
        stem, _, extension = path.name.partition(".")
        key, kind = str(path.parent / stem), f".{extension.lower()}"
        if key not in samples or kind in samples[key].kinds:
            samples[key] = _Sample()
        sample = samples[key]
        sample.kinds.add(kind)
        if ending(f"x{kind}") not in AUDIO_ENDINGS:
            _tell(sample.fields, kind, content, f"{container.name}, {path.name}")
        elif not sample.heard:
            sample.heard = True
            yield Member(path.name, content, sample.fields)


def _tar_members(container: Place) -> Iterator[tuple[str, bytes]]:
    check_regular(container)
    try:
        with container.open("rb") as file, tarfile.open(None, "r|*", file) as archive:
            for member in archive:
                opened = archive.extractfile(member) if member.isreg() else None
                if opened is not None and not PurePosixPath(member.name).name.startswith("."):
                    yield member.name, opened.read()
            # tarfile takes the end of the file for the end of the archive, which is a block of zeros.
            if archive.fileobj is None or archive.fileobj.tell() - archive.offset != tarfile.BLOCKSIZE:
                raise tarfile.ReadError("it ends before its end mark")
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"{container}: damaged: {error}; get it again") from error


def _tell(fields: dict[str, str], kind: str, content: bytes, where: str) -> None:
    """Add what a member beside the audio says of it; a class or a text of its own goes before JSON's."""
    if kind in (".cls", ".txt"):
        fields["label" if kind == ".cls" else "text"] = content.decode(errors="surrogateescape").strip()
    elif kind == ".json":
        try:
            told = parse_json(content)
        except ValueError as error:
            raise DataError(f"{where}: not JSON: {error}; mend the shard") from error
        for key, value in (told if isinstance(told, dict) else {}).items():
            fields.setdefault(key, _text(value, None))


@contextmanager
def _opened(container: Place) -> Iterator[tuple[Any, Callable[[], Iterator[Any]]]]:
    """Give the schema of a Parquet or Arrow file, and what reads its batches."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ParameterError(
            f"{container}: reading it needs pyarrow: pip install 'palm-cache[parquet]'"
        ) from error
    check_regular(container)
    try:
        with container.open("rb") as file:
            if ending(container.name) == ".parquet":
                parquet = pq.ParquetFile(file)
                yield parquet.schema_arrow, lambda: parquet.iter_batches(batch_size=BATCH_ROWS)
                return
            try:
                stream = pa.ipc.open_stream(file)
                yield stream.schema, lambda: (part for batch in stream for part in _small(batch))
            except pa.ArrowInvalid:
                file.seek(0)
                whole = pa.ipc.open_file(file)
                numbers = range(whole.num_record_batches)
                yield whole.schema, lambda: (part for n in numbers for part in _small(whole.get_batch(n)))
    except (pa.ArrowException, OSError) as error:
        # Arrow's own OSError has no number; a disk's or a network's is no damage.
        if isinstance(error, OSError) and (error.errno or not isinstance(container, Path)):
            raise
        raise DataError(f"{container}: damaged: {' '.join(str(error).split())}; get it again") from error


def _small(batch: Any) -> Iterator[Any]:
    return (batch.slice(start, BATCH_ROWS) for start in range(0, batch.num_rows, BATCH_ROWS))


def _audio_column(schema: Any) -> str | None:
    """Return the column with the audio: what its maker calls audio, else the first of the usual kind."""
    import pyarrow as pa

    told = [name for name, feature in _features(schema).items() if feature.get("_type") == "Audio"]
    with_bytes = [
        field.name
        for field in schema
        if (pa.types.is_struct(field.type) and {"bytes", "path"} <= {part.name for part in field.type})
        or (field.name in ("audio", "bytes", "wav", "sound") and pa.types.is_binary(field.type))
    ]
    return next(iter([name for name in told if name in schema.names] + with_bytes), None)


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """Return what the ``datasets`` library wrote about the columns."""
    try:
        info = parse_json((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = info.get("info", {}).get("features", {})
    except (ValueError, AttributeError):
        return {}
    return {name: feature for name, feature in features.items() if isinstance(feature, dict)}


def _class_names(schema: Any) -> dict[str, list[str]]:
    return {
        name: feature["names"]
        for name, feature in _features(schema).items()
        if feature.get("_type") == "ClassLabel" and isinstance(feature.get("names"), list)
    }


def _text(value: object, names: list[str] | None) -> str:
    if value is None or (value == -1 and names):
        return ""
    if names and isinstance(value, int) and value < len(names):
        return str(names[value])
    return str(value)


def _audio_name(name: str, content: bytes) -> str:
    if ending(name) in AUDIO_ENDINGS:
        return name
    suffix = next((ending for start, ending in STARTS.items() if content.startswith(start)), ".wav")
    return f"{name}{suffix}"
