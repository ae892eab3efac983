from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cached import hashes, make, segments, values

from palm_cache.store.cache import UnknownContentError
from palm_cache.store.segments import RecordedFailure


def flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place // 8] ^= 1 << place % 8
    file.write_bytes(content)


@pytest.mark.usefixtures("small")
def test_no_flipped_bit_gives_another_number(tmp_path: Path) -> None:
    keys, made = hashes(5), values(5)
    make(tmp_path).add(keys, made, {4: RecordedFailure("bad", "")})
    (file,) = segments(make(tmp_path))
    content = file.read_bytes()
    generator = np.random.default_rng(0)
    for bit in generator.choice(8 * len(content), 300, replace=False).tolist():
        for other in segments(make(tmp_path)):
            other.unlink()
        file.write_bytes(content)
        flip(file, bit)
        cache = make(tmp_path)
        for row in range(5):
            if cache.look_up(keys[[row]]).known.all():
                try:
                    value = cache.take(keys[[row]])
                except UnknownContentError:
                    continue
                assert row < 4
                assert np.array_equal(value, made[[row]])
        assert cache.look_up(keys).failures in ({}, {4: RecordedFailure("bad", "")})


@pytest.mark.usefixtures("small")
def test_of_a_damaged_segment_what_is_whole_is_kept(tmp_path: Path) -> None:
    cache, keys, made = make(tmp_path), hashes(6), values(6)
    cache.add(keys, made)
    file = segments(cache)[0]
    start = file.read_bytes().index(made[3].tobytes())
    flip(file, 8 * start + 5)
    cache = make(tmp_path)
    with pytest.raises(UnknownContentError, match="2 contents are not known here"):
        cache.take(keys)
    assert cache.look_up(keys).known.tolist() == [True, True, False, False, True, True]
    assert np.array_equal(make(tmp_path).take(keys[[0, 1, 4, 5]]), made[[0, 1, 4, 5]])


def test_however_many_segments_are_damaged_the_rest_is_taken(tmp_path: Path) -> None:
    cache, keys, made = make(tmp_path), hashes(6), values(6)
    for number in range(6):
        cache.add(keys[[number]], made[[number]])
    for number, file in enumerate(segments(cache)[:5]):
        flip(file, 8 * file.read_bytes().index(made[number].tobytes()) + 5)
    known, found = make(tmp_path).take_known(keys)
    assert known.tolist() == [False] * 5 + [True]
    assert np.array_equal(found[5], made[5])
    assert not found[:5].any()


@pytest.mark.parametrize("length", [0, 4, 100, 300])
def test_a_segment_that_was_cut_off_knows_nothing_and_harms_nothing(tmp_path: Path, length: int) -> None:
    cache = make(tmp_path)
    cache.add(hashes(3), values(3))
    file = segments(cache)[0]
    file.write_bytes(file.read_bytes()[:length])
    again = make(tmp_path)
    assert not again.look_up(hashes(3)).known.any()
    assert again.damaged == [file.name]
    again.add(hashes(3), values(3))
    assert np.array_equal(again.take(hashes(3)), values(3))


def test_of_damaged_segments_nothing_is_merged(tmp_path: Path) -> None:
    cache = make(tmp_path)
    for number in range(3):
        cache.add(hashes(3)[[number]], values(3)[[number]])
    before = segments(cache)
    for file in before[:2]:
        file.write_bytes(file.read_bytes()[:100])
    again = make(tmp_path)
    again.merge()
    assert segments(again) == before
    assert again.small == [before[2].name]


@pytest.mark.parametrize("rows", [b"Infinity", b"0", b"-3", b"1e300"])
def test_a_segment_that_claims_rows_that_cannot_be_knows_nothing(tmp_path: Path, rows: bytes) -> None:
    cache = make(tmp_path)
    cache.add(hashes(3), values(3))
    (file,) = segments(cache)
    content = file.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    before, row, behind = content[8:start].partition(b'"row":{"dtype":"U64","shape":[3')
    assert row
    header = before + row[:-1] + rows + behind
    file.write_bytes(len(header).to_bytes(8, "little") + header + content[start:])
    again = make(tmp_path)
    assert again.damaged == [file.name]
    assert not again.look_up(hashes(3)).known.any()
