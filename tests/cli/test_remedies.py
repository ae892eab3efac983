"""A command that an error names mends what the error is about, pasted as it is printed."""

from __future__ import annotations

import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import pytest
from command_line import fail, succeed
from samples import make_features, write_sample

FEATURES = make_features(n_classes=4, clips_per_class=6, n_folds=2)
STORE = "stores of mine/clusters/mini.zarr"
OUT = "results of mine"
HEADS = f"{OUT}/clusters/mini/heads.h5"
PLAIN = ("fit", "--out", OUT, "--no-calibrate")
FIT = (*PLAIN, "--head", "prototype", "--shots", "1", "--seeds", "0")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a store that does not lie where stores lie by default."""
    monkeypatch.chdir(tmp_path)
    write_sample(Path(STORE), FEATURES)
    return tmp_path


def change_store() -> None:
    """Move all clips into other folds."""
    write_sample(Path(STORE), replace(FEATURES, folds=FEATURES.folds[::-1]))


def do_as_told(*words: str) -> str:
    """Run a command that fails, and the one that the error ends with; return the error."""
    told = fail(*words)
    succeed(*shlex.split(told[told.rindex("palm-cache ") :])[1:])
    return told


def mend(*words: str) -> str:
    """Do as told, after which the command must succeed."""
    told = do_as_told(*words)
    succeed(*words)
    return told


@pytest.mark.parametrize("features", [(), ("--store", STORE)])
def test_heads_that_are_not_there_are_fitted_where_they_are_looked_for(features: tuple[str, ...]) -> None:
    Path(OUT).mkdir()
    if not features:
        write_sample(Path("data/features/clusters/mini.zarr"), FEATURES)
        features = ("--dataset", "clusters", "--encoder", "mini")
    mend("evaluate", *features, "--out", OUT)
    assert Path(HEADS).is_file()


def test_heads_of_an_earlier_state_of_a_store_are_fitted_again_as_they_were() -> None:
    succeed(*PLAIN, "--store", STORE, "--head", "prototype", "--shots", "1,2", "--seeds", "5")
    change_store()
    told = mend("evaluate", "--out", OUT)
    assert told.endswith(f"--head prototype --shots 1,2 --seeds 5 --out '{OUT}'")
    with h5py.File(HEADS) as file:
        assert len(file) == 4


def test_the_options_of_a_variant_are_named_too() -> None:
    split = ("--epochs", "2", "--split", "base-novel")
    succeed(*PLAIN, "--store", STORE, "--head", "palm", "--shots", "1", "--seeds", "0", *split)
    change_store()
    mend("evaluate", "--out", OUT)
    with h5py.File(HEADS) as file:
        assert sorted(file) == [f"palm@epochs=2,split=base-novel-1shots-fold{fold}-seed0" for fold in (1, 2)]


def test_heads_on_joined_features_are_fitted_again_on_all_of_them() -> None:
    other = Path(STORE).with_name("clap-x.zarr")
    write_sample(other, replace(FEATURES, encoder="clap:me/x", digest="e" * 64))
    joined = ("--dataset", "clusters", "--encoder", "mini", "--encoder", "clap:me/x")
    succeed(*FIT, *joined, "--features", "stores of mine")
    change_store()
    told = mend("evaluate", "--out", OUT)
    assert "--dataset clusters --encoder mini --encoder clap:me/x --features 'stores of mine'" in told


def test_a_damaged_run_is_fitted_again() -> None:
    succeed(*FIT, "--store", STORE)
    with h5py.File(HEADS, "a") as file:
        file["prototype-1shots-fold2-seed0/class_embeddings"][0, 0] += 1
    mend("evaluate", "--out", OUT)


def test_a_heads_file_of_another_format_is_removed_and_fitted_again() -> None:
    succeed(*FIT, "--store", STORE)
    write_sample(Path("data/features/clusters/mini.zarr"), FEATURES)
    with h5py.File(HEADS, "a") as file:
        file.attrs["format_version"] = 99
    assert "update it, or remove the file and fit again with" in fail("evaluate", "--out", OUT)
    Path(HEADS).unlink()
    mend("evaluate", "--out", OUT)


@pytest.mark.parametrize("run", [(), ("--run", "prototype-2shots-seed7")])
def test_predictions_that_are_not_there_are_made_for_the_store_and_the_run(run: tuple[str, ...]) -> None:
    predictions = ("--predictions", f"{OUT}/predictions.h5")
    words = ("explore", STORE, *predictions, *run)
    told = do_as_told(*words)
    succeed(*words, *(() if run else ("--run", "palm-16shots-seed0")))
    assert ("--head prototype --shots 2 --seeds 7" in told) == bool(run)


def test_predictions_that_are_lost_are_made_of_the_heads() -> None:
    succeed(*FIT, "--store", STORE)
    Path(OUT, "predictions.h5").unlink()
    told = mend("explore", STORE, "--predictions", f"{OUT}/predictions.h5", "--run", "prototype")
    assert "palm-cache evaluate" in told


def test_predictions_of_an_earlier_state_of_a_store_are_made_again() -> None:
    succeed(*FIT, "--store", STORE)
    labels = FEATURES.labels.roll(1)
    write_sample(Path(STORE), replace(FEATURES, labels=labels))
    mend("explore", STORE, "--predictions", f"{OUT}/predictions.h5", "--run", "prototype-1shots-seed0")


def test_scores_that_are_not_there_are_made_where_they_are_looked_for() -> None:
    write_sample(Path("data/features/clusters/mini.zarr"), FEATURES)
    Path(OUT).mkdir()
    mend("report", "--out", OUT)


def test_a_report_says_which_scores_are_out_of_date_and_what_to_do() -> None:
    other = str(write_sample(Path("other.zarr"), replace(FEATURES, dataset="other")))
    for store in (STORE, other):
        succeed(*FIT, "--store", store)
    assert "note: " not in succeed("report", "--out", OUT).stderr
    change_store()
    told = succeed("report", "--out", OUT).stderr
    assert f"note: clusters, mini: {STORE} changed after these heads were fitted" in told
    assert "other.zarr" not in told
    for page in ("report.md", "index.html"):
        text = Path(OUT, "report", page).read_text()
        assert "Scores that are out of date" in text
        assert "clusters, mini (out of date)" in text
        assert "other, mini (out of date)" not in text
    succeed(*shlex.split(told[told.rindex("palm-cache ") :])[1:])
    assert "note: " not in succeed("report", "--out", OUT).stderr
    assert "out of date" not in Path(OUT, "report", "report.md").read_text()


def test_a_report_says_where_a_store_is_gone_that_nothing_tells_whether_its_scores_are_current() -> None:
    succeed(*FIT, "--store", STORE)
    change_store()
    shutil.rmtree(STORE)
    told = succeed("report", "--out", OUT).stderr
    assert "note: clusters, mini: nothing tells whether these scores are current" in told
    assert f"{STORE}: no feature store here; make it with: palm-cache extract" in told
    text = Path(OUT, "report", "report.md").read_text()
    assert "## Scores that are perhaps out of date" in text
    assert "clusters, mini (perhaps out of date)" in text


def test_scores_of_joined_features_are_out_of_date_when_one_store_changed() -> None:
    second = Path(STORE).with_name("clap-x.zarr")
    write_sample(second, replace(FEATURES, encoder="clap:me/x"))
    joined = ("--dataset", "clusters", "--encoder", "mini", "--encoder", "clap:me/x")
    succeed(*FIT, *joined, "--features", "stores of mine")
    assert "note: " not in succeed("report", "--out", OUT).stderr
    write_sample(second, replace(FEATURES, encoder="clap:me/x", folds=FEATURES.folds[::-1]))
    assert "clap-x.zarr changed after these heads" in succeed("report", "--out", OUT).stderr


def test_a_report_names_the_commands_that_make_what_it_lacks() -> None:
    write_sample(Path("data/features/clusters/mini.zarr"), FEATURES)
    succeed(*FIT, "--store", STORE)
    Path(OUT, "predictions.h5").unlink()
    succeed("report", "--out", OUT)
    page = Path(OUT, "report", "report.md").read_text()
    for command in (f"palm-cache evaluate --out '{OUT}'", f"palm-cache prompts --out '{OUT}'"):
        assert f"make it with: {command})" in page
        succeed(*shlex.split(command)[1:])
    succeed("report", "--out", OUT)
    assert "make it with" not in Path(OUT, "report", "report.md").read_text()
