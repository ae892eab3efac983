from __future__ import annotations

import json
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from cached import RECIPE, hashes, keys_of, make, segments, values
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from palm_cache.errors import OutputError
from palm_cache.store import cache as caching
from palm_cache.store import seen_keys
from palm_cache.store.cache import Cache, UnknownContentError
from palm_cache.store.places import place
from palm_cache.store.segments import RecordedFailure


def test_what_is_added_is_known_here_and_by_whoever_opens_it_next(tmp_path: Path) -> None:
    cache, keys, made = make(tmp_path), hashes(5), values(5)
    cache.add(keys, made)
    for one in (cache, make(tmp_path)):
        assert one.look_up(keys).known.all()
        assert not one.look_up(hashes(3, seed=1)).known.any()
        assert np.array_equal(one.take(keys[[3, 0, 3]]), made[[3, 0, 3]])
        assert one.holds(keys[2].tobytes())
        assert not one.holds(hashes(1, seed=1)[0].tobytes())


@given(st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=8), max_size=9), st.integers(0, 12))
@settings(max_examples=30, deadline=None)
def test_whatever_was_added_and_merged_is_quickly_found_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, added: list[list[int]], recent: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seen_keys, "RECENT_KEYS", recent)
        cache = make(tmp_path_factory.mktemp("cache"))
        for numbers in added:
            cache.add(keys_of(*numbers), values(len(numbers)))
        cache.merge()
        there = set().union(*added)
        for number in range(61):
            assert cache.holds(keys_of(number)[0].tobytes()) == (number in there)


def test_another_process_is_seen_after_a_look(tmp_path: Path) -> None:
    cache, other = make(tmp_path), make(tmp_path)
    other.add(hashes(2), values(2))
    assert not cache.look_up(hashes(2)).known.any()
    cache.refresh()
    assert cache.look_up(hashes(2)).known.all()


def test_another_recipe_kind_or_content_is_another_cache(tmp_path: Path) -> None:
    make(tmp_path).add(hashes(2), values(2))
    assert not Cache(tmp_path, "audio", {**RECIPE, "views": 2}, (2, 3)).look_up(hashes(2)).known.any()
    assert not Cache(tmp_path, "text", RECIPE, (2, 3)).look_up(hashes(2)).known.any()


def test_a_folder_says_in_words_what_it_is_for(tmp_path: Path) -> None:
    cache = make(tmp_path)
    cache.add(hashes(1), values(1))
    words = json.loads(cache.folder.read("recipe.json"))
    assert (words["kind"], words["recipe"]) == ("audio", RECIPE)


def test_a_segment_is_a_safetensors_file_whose_values_lie_as_they_were_made(tmp_path: Path) -> None:
    cache, made = make(tmp_path), values(7)
    cache.add(hashes(7), made)
    tensors = load_file(segments(cache)[0])
    assert np.array_equal(tensors["values"], made)
    keys = np.column_stack([tensors["prefix"], tensors["rest"]]).view(np.uint8)
    assert np.array_equal(keys, hashes(7)[tensors["row"].astype(int)])


def test_a_segment_may_hold_its_tensors_in_any_order(tmp_path: Path) -> None:
    cache, made = Cache(tmp_path, "files", RECIPE, (32,), "uint8"), hashes(5, seed=1)
    cache.add(hashes(5), made)
    (file,) = segments(cache)
    content = file.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    index, checksum = content[start : start + 200], content[start + 360 :]
    assert content[start + 200 : start + 360] == made.tobytes()
    header["checksums"]["data_offsets"], header["values"]["data_offsets"] = [200, 204], [204, 364]
    words = json.dumps(header).encode()
    file.write_bytes(len(words).to_bytes(8, "little") + words + index + checksum + made.tobytes())
    assert np.array_equal(Cache(tmp_path, "files", RECIPE, (32,), "uint8").take(hashes(5)), made)


def test_keys_that_share_their_first_bytes_are_told_apart(tmp_path: Path) -> None:
    cache, keys = make(tmp_path), hashes(4)
    keys[:, :8] = 7
    cache.add(keys[:3], values(3))
    assert cache.look_up(keys).known.tolist() == [True, True, True, False]
    assert np.array_equal(cache.take(keys[[2, 1]]), values(3)[[2, 1]])


def test_an_unknown_key_is_an_error_not_a_zero(tmp_path: Path) -> None:
    cache = make(tmp_path)
    cache.add(hashes(2), values(2))
    with pytest.raises(UnknownContentError, match="1 contents are not known here"):
        cache.take(np.concatenate([hashes(2), hashes(1, seed=1)]))


@settings(max_examples=30)
@given(parts=st.lists(st.lists(st.integers(0, 12), max_size=6), max_size=6), merged=st.booleans())
def test_any_contents_in_any_segments_are_found(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[int]], merged: bool
) -> None:
    cache = make(tmp_path_factory.mktemp("cache"))
    for part in parts:
        made = np.array([np.full((2, 3), number) for number in part], np.float32).reshape(-1, 2, 3)
        cache.add(keys_of(*part) if part else np.empty((0, 32), np.uint8), made)
    if merged:
        cache.merge()
        cache = make(cache.root)  # type: ignore[arg-type]
    wanted = sorted({number for part in parts for number in part})
    known = cache.look_up(keys_of(*range(13))).known
    assert np.flatnonzero(known).tolist() == wanted
    if wanted:
        assert cache.take(keys_of(*wanted))[:, 0, 0].tolist() == wanted


def test_merging_holds_a_few_blocks_of_values_not_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caching, "BLOCKS_HELD", 2)
    cache = Cache(tmp_path, "audio", RECIPE, (1, 4096))
    for seed in range(8):
        cache.add(hashes(128, seed), np.full((128, 1, 4096), seed, np.float32))
    tracemalloc.start()
    cache.merge()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(segments(cache)) == 1
    assert peak < 8 << 20  # of 16 MB
    assert cache.take(hashes(128, 5))[:, 0, 7].tolist() == [5] * 128


@pytest.mark.usefixtures("small")
def test_many_small_segments_become_few_and_nothing_is_lost(tmp_path: Path) -> None:
    cache, keys, made = make(tmp_path), hashes(60), values(60)
    for start in range(0, 60, 3):
        cache.add(keys[start : start + 3], made[start : start + 3])
    reader = make(tmp_path)
    cache.merge()
    assert len(segments(cache)) < 6
    for one in (cache, make(tmp_path), reader):  # the last knows only segments that are gone
        assert np.array_equal(one.take(keys), made)


def test_segments_of_many_keys_are_not_merged_further_however_small_their_values_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caching, "SMALL_KEYS", 800)
    cache = make(tmp_path)
    for seed in range(5):
        cache.add(hashes(400, seed), values(400))
    for _ in range(2):
        cache.merge()
        assert sorted(len(load_file(file)["row"]) for file in segments(cache)) == [400, 800, 800]


def test_what_was_let_go_of_is_merged_and_found_again(tmp_path: Path) -> None:
    cache = make(tmp_path)
    cache.add(hashes(2), values(2))
    cache.forget()
    assert cache.n_keys == 0
    cache.add(hashes(2, 1), values(2, 1))
    cache.forget()
    cache.merge()
    assert (len(segments(cache)), cache.n_keys) == (1, 0)
    cache.refresh()
    assert np.array_equal(cache.take(np.concatenate([hashes(2), hashes(2, 1)]))[2:], values(2, 1))


def test_a_content_that_is_there_twice_is_kept_once(tmp_path: Path) -> None:
    cache = make(tmp_path)
    for _ in range(3):
        cache.add(hashes(4), values(4))
    cache.merge()
    assert load_file(segments(cache)[0])["values"].shape[0] == 4


def test_only_one_process_merges(tmp_path: Path) -> None:
    cache = make(tmp_path)
    for seed in range(3):
        cache.add(hashes(2, seed), values(2))
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with cache.folder.alone("merge") as alone:
            assert alone
            inside.set()
            leave.wait(10)

    other = threading.Thread(target=hold)
    other.start()
    inside.wait(10)
    make(tmp_path).merge()
    leave.set()
    other.join()
    assert len(segments(cache)) == 3
    cache.merge()
    assert len(segments(cache)) == 1


def test_failures_are_known_until_what_found_them_changes(tmp_path: Path) -> None:
    cache = make(tmp_path, by="decoder 1")
    cache.add(hashes(3), values(3), {1: RecordedFailure("too short", "decoder 1")})
    found = make(tmp_path, by="decoder 1").look_up(hashes(3))
    assert found.known.tolist() == [True, False, True]
    assert found.failures == {1: RecordedFailure("too short", "decoder 1")}
    assert make(tmp_path, by="decoder 1").holds(hashes(3)[1].tobytes())
    for again in (make(tmp_path, by="decoder 2"), make(tmp_path, by="decoder 1", retry=True)):
        assert again.look_up(hashes(3)).failures == {}
        assert not again.holds(hashes(3)[1].tobytes())
        assert again.holds(hashes(3)[0].tobytes())


def test_a_failure_that_is_found_again_counts_again(tmp_path: Path) -> None:
    make(tmp_path, by="1").add(hashes(1), values(1), {0: RecordedFailure("old", "1")})
    cache = make(tmp_path, by="1", retry=True)
    cache.add(hashes(1), values(1), {0: RecordedFailure("new", "1")})
    assert cache.look_up(hashes(1)).failures == {0: RecordedFailure("new", "1")}


@pytest.mark.parametrize("merged", [False, True])
def test_a_value_counts_before_a_failure_whichever_came_first(tmp_path: Path, merged: bool) -> None:
    cache = make(tmp_path)
    cache.add(hashes(2), values(2), {0: RecordedFailure("bad", "")})
    cache.add(hashes(1), values(1))
    cache.add(hashes(1), values(1), {0: RecordedFailure("worse", "")})
    if merged:
        cache.merge()
    found = cache.look_up(hashes(2))
    assert (found.known.tolist(), found.failures) == ([True, True], {})
    assert np.array_equal(cache.take(hashes(2)), values(2))


def test_files_of_others_in_its_folder_stay(tmp_path: Path) -> None:
    cache = make(tmp_path)
    for seed in range(3):
        cache.add(hashes(2, seed), values(2))
    assert isinstance(cache.folder.place, Path)
    (cache.folder.place / "notes.txt").write_text("mine")
    (cache.folder.place / "model.safetensors").write_bytes(b"somebody's")
    again = make(tmp_path)
    assert again.damaged == []
    again.merge()
    assert (cache.folder.place / "notes.txt").read_text() == "mine"
    assert (cache.folder.place / "model.safetensors").read_bytes() == b"somebody's"
    assert again.look_up(hashes(2, 1)).known.all()


def test_what_a_folder_says_of_itself_is_written_once_and_mended(tmp_path: Path) -> None:
    """In a folder where each may replace their own files alone, another user's could not be written again."""
    cache = make(tmp_path)
    cache.add(hashes(1), values(1))
    words = Path(str(cache.folder.place), "recipe.json")
    before = words.stat().st_ino
    cache.forget()
    cache.add(hashes(1, seed=1), values(1))
    assert words.stat().st_ino == before
    words.unlink()
    cache.forget()
    cache.merge()
    assert words.is_file()


def test_a_cache_on_an_object_store_is_the_same(tmp_path: Path) -> None:
    away = place(f"memory://{tmp_path.name}/cache")
    cache = Cache(away, "audio", RECIPE, (2, 3))
    for seed in range(3):
        cache.add(hashes(2, seed), values(2, seed))
    cache.merge()
    again = Cache(away, "audio", RECIPE, (2, 3))
    for seed in range(3):
        assert np.array_equal(again.take(hashes(2, seed)), values(2, seed))
    assert len([name for name in again.folder.files() if name.endswith(".safetensors")]) == 1


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write: .*choose another folder with cache"):
        make(tmp_path / "file").add(hashes(1), values(1))
