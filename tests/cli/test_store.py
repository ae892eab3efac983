from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
import typer
from command_line import at_a_terminal, call, fail, succeed
from samples import flip_bit, make_features, write_palm_folder, write_sample, write_tone

STORE = "data/features/Tones/mini.zarr"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of twelve clips and its store, at their places in a folder that was moved since."""
    folder = tmp_path_factory.mktemp("made") / "first"
    write_palm_folder(folder / "Tones")
    succeed("extract", "--dataset", str(folder / "Tones"), "--out", str(folder / STORE))
    return folder.rename(folder.with_name("then"))


@pytest.fixture
def workplace(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder, from which commands are run."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "of the user"))  # prune looks there, too
    return tmp_path


def test_a_dry_run_says_what_and_why_and_makes_no_folder(workplace: Path) -> None:
    shutil.rmtree("data")
    words = ("extract", "--dataset", "Tones", "--dry-run")
    assert succeed(*words).stdout.splitlines() == [
        "12 clips -> data/features/Tones/mini.zarr (12 to embed, 0 known)",
        "  12 new: audios/train_0_0.wav, audios/train_0_1.wav, audios/train_0_2.wav and 9 more",
    ]
    assert "note: read as audio without labels: 12 files" in succeed(*words, "--as", "flat").stderr
    assert succeed(*words, "--window", "0.1").stdout.splitlines()[1] == (
        "  74 new: audios/train_0_0.wav (5 rows), audios/train_0_1.wav (6 rows), "
        "audios/train_0_2.wav (7 rows) and 9 more"
    )
    assert not Path("data").exists()


def test_a_dry_run_names_a_stale_store_and_does_not_fail(workplace: Path) -> None:
    words = ("extract", "--dataset", "Tones", "--dry-run", "--cache", "data/features/Tones/.cache")
    Path("Tones/audios/train_0_1.wav").write_bytes(b"<html>")
    succeed(*(word for word in words if word != "--dry-run"))
    for group in json.loads(succeed(*words, "--json").stdout)["groups"], succeed(*words).stdout:
        assert "could not be decoded before (--retry-failed tries again)" in group
    write_tone(Path("Tones/audios/train_0_1.wav"), 333)
    planned = json.loads(succeed(*words, "--json").stdout)
    assert (planned["to_embed"], planned["kept"], planned["stale"]) == (1, 11, "")
    assert planned["groups"] == {"changed content": ["audios/train_0_1.wav"]}
    stale = succeed(*words, "--views", "2").stdout
    assert "  stale: views 1, now 2; --on-stale rebuild makes it anew\n" in stale
    several = json.loads(succeed(*words, "--dataset", "urbansound8k", "--json").stdout)
    assert [plan["to_embed"] for plan in several["stores"]] == [1]
    assert several["absent"] == ["urbansound8k"]


def test_verify_compares_with_the_dataset_and_with_the_encoder(workplace: Path) -> None:
    words = ("store", "verify", STORE, "--dataset", "Tones", "--recompute", "5")
    sound = succeed(*words)
    verdict, again = sound.stdout.splitlines()
    assert verdict == f"{STORE}: OK; 12 clips"
    assert again.startswith("  5 clips embedded again: largest difference ")
    write_tone(Path("Tones/audios/train_0_1.wav"), 333)
    result = call(*words[:-1], "12", "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["problems"] == [
        "1 clip of changed content: audios/train_0_1.wav",
        "row 1, audios/train_0_1.wav: cannot be embedded again: the file has changed",
    ]
    assert found["recomputed"]["compared"] == 11
    assert (
        "make it anew, from what the cache knows, with this and the options by which its dataset and prompts "
        "were read: palm-cache extract"
    ) in result.stderr


def test_verify_compares_with_the_dataset_where_the_encoder_is_not_here(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("palm_cache.extraction.recorded.load_encoder", pytest.fail)
    assert succeed("store", "verify", STORE, "--dataset", "Tones").stdout == f"{STORE}: OK; 12 clips\n"


def test_verify_finds_the_audio_where_the_store_was_made_or_says_that_it_is_not_there(
    workplace: Path,
) -> None:
    succeed("extract", "--dataset", "Tones")
    words = ("store", "verify", STORE, "--recompute", "3")
    assert "3 clips embedded again" in succeed(*words).stdout
    Path("Tones").rename("Elsewhere")
    lost = fail(*words)
    assert lost.startswith("error: Tones: its files are not in /")
    assert lost.endswith("/Tones; give the folder they are in now with --dataset")
    for given in (("--dataset", "Elsewhere"), ("--root", "Elsewhere")):
        assert "3 clips embedded again" in succeed(*words, *given).stdout


def test_verify_of_a_folder_called_like_a_known_dataset_reads_the_folder(workplace: Path) -> None:
    """Beside the store of another folder of that name, and with the known dataset at its own place."""
    write_palm_folder(Path("other/demo"), train=3)
    Path("Tones").rename("demo")
    for dataset in ("other/demo", "./demo"):
        succeed("extract", "--dataset", dataset)
    stores = sorted(map(str, Path("data/features").glob("demo*/mini.zarr")))
    assert len(stores) == 2
    for store in stores:
        assert "OK" in succeed("store", "verify", store, "--recompute", "12").stdout


def test_verify_refuses_to_recompute_with_another_encoder(workplace: Path) -> None:
    other = write_sample(Path("other.zarr"), make_features())
    words = ("store", "verify", str(other), "--dataset", "Tones", "--recompute", "3")
    result = call(*words)
    assert result.exit_code == 1
    assert "than those that made the clusters store" in result.stderr


def damage(store: Path) -> Path:
    root = store / "zarr.json"
    root.write_text(root.read_text().replace('"dim": 24', '"dim": 25'))
    return store


def test_gc_shows_what_is_of_no_use_and_removes_it_only_when_told_to(workplace: Path) -> None:
    write_sample(Path("data/features/clusters/clap-x.zarr"), make_features())
    assert succeed("store", "gc").stdout == "data/features: nothing to remove\n"
    useless = damage(write_sample(Path("data/features/clusters/mini.zarr"), make_features()))
    shown = succeed("store", "gc").stdout
    assert "data/features/clusters/mini.zarr" in shown
    assert "damaged" in shown
    assert shown.endswith("nothing removed; --yes removes it\n")
    listed = json.loads(succeed("store", "gc", "--json").stdout)
    assert [item["place"] for item in listed["waste"]] == [str(useless)]
    assert listed["removed"] == 0
    piped = succeed("store", "gc", stdin=b"y\n")  # of whatever stands before a pipe
    assert piped.stdout.endswith("nothing removed; --yes removes it\n")
    assert useless.is_dir()
    with at_a_terminal():
        assert "Remove these 1 (0.0 MB)?" in succeed("store", "gc", stdin=b"n\n").output
        assert useless.is_dir()
        assert "1 removed, 0.0 MB" in succeed("store", "gc", stdin=b"y\n").stdout
    assert not useless.exists()
    assert Path(STORE).is_dir()


def test_a_folder_of_stores_that_is_misspelt_does_not_pass_for_an_empty_one(workplace: Path) -> None:
    for command in (("store", "gc"), ("cache", "info"), ("cache", "prune")):
        told = fail(*command, "--features", "data/feature")
        assert told == "error: data/feature: no such folder; did you mean data/features?"


def test_an_interrupt_is_no_answer(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(question: str, **_: object) -> bool:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise typer.Abort from None  # as typer does

    useless = damage(write_sample(Path("data/features/clusters/mini.zarr"), make_features()))
    monkeypatch.setattr(typer, "confirm", interrupted)
    with at_a_terminal():
        result = call("store", "gc")
    assert result.exit_code == 130
    assert "interrupted: " in result.stderr
    assert useless.is_dir()


def test_gc_with_yes_does_not_ask(workplace: Path) -> None:
    useless = damage(write_sample(Path("elsewhere/clusters/mini.zarr"), make_features()))
    removed = succeed("store", "gc", "--features", "elsewhere", "--yes", "--json").stdout
    assert json.loads(removed)["removed"] == 1
    assert not useless.exists()


def test_the_cache_is_shown_and_loses_what_no_store_is_made_of_only_when_told_to(workplace: Path) -> None:
    where = ("--cache", "data/features/Tones/.cache")  # beside --out
    known = json.loads(succeed("cache", "info", *where, "--json").stdout)
    counts = {one["kind"]: one["contents"] for one in known["recipes"]}
    assert (counts["audio"], counts["text"]) == (12, 16)
    assert all(one["used_by"] == [STORE] for one in known["recipes"] if one["kind"] != "files")
    assert STORE in succeed("cache", "info", *where).stdout
    (words,) = Path(where[1]).glob("audio-*/recipe.json")
    words.write_bytes(b"{")
    assert "audio; its recipe.json is damaged" in succeed("cache", "info", *where).stdout
    succeed("extract", "--dataset", "Tones", *where)
    assert "is damaged" not in succeed("cache", "info", *where).stdout
    assert succeed("cache", "prune", *where).stdout == f"{where[1]}: nothing to remove\n"
    succeed("extract", "--dataset", "Tones", "--views", "2", "--out", "two.zarr", *where)
    spared = succeed("cache", "prune", *where, "--yes")
    assert spared.stdout == f"{where[1]}: nothing to remove\n"
    assert "note: 1 recipe left out, written to in the last hour: an extraction may be at it" in spared.stderr
    where += ("--recent",)
    listed = succeed("cache", "prune", *where).stdout
    assert "audio of a recipe that no store here is made by" in listed
    assert listed.endswith("nothing removed; --yes removes it\n")
    assert json.loads(succeed("cache", "prune", *where, "--yes", "--json").stdout)["removed"] == 1
    where = where[:2]
    (root := Path(STORE, "zarr.json")).write_bytes((whole := root.read_bytes())[:-100])
    spared = succeed("cache", "prune", *where, "--recent", "--yes")
    assert spared.stdout == f"{where[1]}: nothing to remove\n"
    assert f"note: 2 recipes left out: {STORE} cannot be read and may be made of them; mend" in spared.stderr
    root.write_bytes(whole)
    kept = json.loads(succeed("cache", "info", *where, "--json").stdout)["recipes"]
    assert sorted({one["kind"] for one in kept} - {"files"}) == ["audio", "text"]
    assert "(0 embedded now, 12 known)" in succeed("extract", "--dataset", "Tones", *where).stdout


@pytest.mark.parametrize(
    ("lost", "files"),
    [("content_sha256/c", ["content_sha256/c/0/0"]), ("audio", ["audio/c/0/0/0", "audio/zarr.json"])],
)
def test_verify_names_files_that_are_missing_and_extract_makes_the_store_anew(
    workplace: Path, lost: str, files: list[str]
) -> None:
    shutil.rmtree(Path(STORE) / lost)
    told = call("store", "verify", STORE).stdout.splitlines()
    assert told[0].startswith(f"{STORE}: {len(files)} problem")
    assert told[1:] == [f"  {file} is missing" for file in files]
    words = ("extract", "--dataset", "Tones", "--cache", "data/features/Tones/.cache")
    assert "(0 embedded now, 12 known)" in succeed(*words).stdout
    succeed("store", "verify", STORE)


@pytest.mark.parametrize("out", [(), ("--out", "kept/tones.zarr")])
@pytest.mark.parametrize("damaged", ["zarr.json", "audio/c/0/0/0"])
def test_a_damaged_store_is_made_anew_by_the_command_that_the_error_names(
    workplace: Path, out: tuple[str, ...], damaged: str
) -> None:
    options = ("--views", "2", "--limit", "2", "--on-stale", "rebuild", "--prune")
    succeed("extract", "--dataset", "./Tones", *options, *out)
    store = out[-1] if out else STORE
    whole = json.loads(succeed("store", "info", store, "--json").stdout)
    file = Path(store, damaged)
    file.write_bytes(
        file.read_bytes().replace(b'"token_dim": ', b'"token_dim": 1') if damaged[-1] == "n" else b"?"
    )
    told = fail("fit", "--store", store)
    mended = succeed(*shlex.split(told[told.rindex("palm-cache ") :])[1:]).stdout
    assert "(0 embedded now, 8 known)" in mended
    assert json.loads(succeed("store", "info", store, "--json").stdout) == whole


def test_what_a_damaged_store_does_not_tell_is_left_to_the_user(workplace: Path) -> None:
    """As of a copy, from which the way to its dataset leads elsewhere, and of a root that is lost."""
    succeed("extract", "--dataset", "Tones", "--prune")
    shutil.copytree(STORE, "copies/x.zarr")
    flip_bit(Path("copies/x.zarr/label/c/0"))
    told = fail("fit", "--store", "copies/x.zarr")
    assert told.endswith("extract --dataset NAME_OR_DIR --out copies/x.zarr")
    Path(STORE, "zarr.json").write_bytes(b"{")
    assert fail("fit", "--store", STORE).endswith("extract --dataset NAME_OR_DIR")


def test_a_store_is_exported_and_comes_back(workplace: Path) -> None:
    assert succeed("store", "export", STORE, "x.h5").stdout == "12 clips -> x.h5\n"
    exported = json.loads(succeed("store", "export", "x.h5", "back.zarr", "--json").stdout)
    assert exported == {"store": "x.h5", "target": "back.zarr", "n_clips": 12}
    assert "back.zarr: OK; 12 clips" in succeed("store", "verify", "back.zarr").stdout
    assert "x.h5: there is something here already" in fail("store", "export", STORE, "x.h5")


def test_stages_one_and_two_work_in_a_bucket(workplace: Path, bucket: str) -> None:
    features = ("--features", f"{bucket}/features")
    extracted = succeed("extract", "--dataset", "Tones", *features)
    store = f"{bucket}/features/Tones/mini.zarr"
    assert extracted.stdout == f"12 clips -> {store} (12 embedded now, 0 known)\n"
    assert json.loads(succeed("store", "info", store, "--json").stdout)["clips"] == 12
    assert "OK; 12 clips" in succeed("store", "verify", store, "--recompute", "2").stdout
    rows = json.loads(succeed("fit", *features, "--shots", "2", "--seeds", "0", "--json").stdout)
    assert json.loads(succeed("evaluate", "--json").stdout) == rows  # heads.h5 remembers the URL
    assert (
        json.loads(succeed("fit", "--store", store, "--shots", "2", "--seeds", "0", "--json").stdout) == rows
    )
    assert "(0 embedded now, 12 known)" in succeed("extract", "--dataset", "Tones", *features).stdout
    assert succeed("store", "gc", *features).stdout == f"{bucket}/features: nothing to remove\n"
    assert "/.cache: nothing to remove\n" in succeed("cache", "prune", *features).stdout
    assert f"{bucket}/no.zarr: no feature store here" in fail("store", "info", f"{bucket}/no.zarr")
