"""Which dataset a word means to every command: a known one, a folder, a table, the name of stores."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from command_line import call, fail, succeed
from samples import write_palm_folder

import palm_cache

NAMES = ["Sounds", "own/Sounds", "own/Sounds/", "./own/Sounds", "own/../own/Sounds", "{here}/own/Sounds"]


def test_every_command_takes_a_dataset_by_all_its_names(project: Path) -> None:
    shutil.copytree("own/Tones", "own/Sounds")
    shutil.copy("own/Sounds/train.csv", "own/table.csv")
    succeed("extract", "--dataset", "own/Sounds")
    quick = ("--head", "prototype", "--shots", "1", "--seeds", "0")
    for name in (name.format(here=project) for name in NAMES):
        for words in (
            ("extract", "--dry-run", "--dataset", name),
            ("extract", "--dataset", name),
            ("heads", "prototype", "--dataset", name),
            ("fit", *quick, "--dataset", name),
            ("evaluate", "--dataset", name),
            ("prompts", "--dataset", name),
            ("datasets", "--check", name),
            ("store", "verify", "data/features/Sounds/mini.zarr", "--dataset", name),
        ):
            assert call(*words).exit_code == 0, words
    assert sorted(path.name for path in Path("data/features").iterdir() if path.name[0] != ".") == [
        "Other",
        "Sounds",
        "Tones",
    ]


def test_a_name_of_stores_is_followed_to_the_files_or_told_where_they_were(project: Path) -> None:
    shutil.copytree("own/Tones", "own/Sounds")
    succeed("extract", "--dataset", "own/Sounds")
    assert "did you mean Sounds?" in fail("extract", "--dataset", "Sonuds")
    assert "did you mean own/Sounds?" in fail("extract", "--dataset", "own/Sonuds")
    assert "which has no card; what is made of it: palm-cache datasets --check Sounds" in fail(
        "datasets", "Sounds"
    )
    header = Path("data/features/Sounds/mini.zarr/zarr.json")
    whole = header.read_text()
    header.write_text("{")
    assert "Sounds: no store in data/features/Sounds can be read" in fail("extract", "--dataset", "Sounds")
    header.write_text(whole)
    shutil.move("own/Sounds", "elsewhere")
    assert f"its files have left {project / 'own' / 'Sounds'}" in fail("extract", "--dataset", "Sounds")


def test_a_known_name_is_the_known_dataset_whatever_lies_here(project: Path) -> None:
    succeed("synthesise", "--clips-per-class", "5")
    shutil.copytree("own/Tones", "demo")
    not_meant = "note: demo is the known dataset demo; the folder of that name here is ./demo"
    quick = ("--head", "prototype", "--shots", "1", "--seeds", "0", "--json")
    known = succeed("extract", "--dataset", "demo")
    assert not_meant in known.stderr
    assert "50 clips -> data/features/demo/mini.zarr" in known.stdout
    fitted = succeed("fit", "--dataset", "demo", *quick)
    assert {row["dataset"] for row in json.loads(fitted.stdout)} == {"demo"}
    assert not_meant in fitted.stderr
    own = succeed("extract", "--dataset", "./demo")
    assert "note: another dataset is called demo; this one is demo-" in own.stderr
    fitted = succeed("fit", "--dataset", "./demo", *quick)
    assert f"those in data/features/demo are of {project}/data/raw/demo" in fitted.stderr
    assert all(row["dataset"].startswith("demo-") for row in json.loads(fitted.stdout))
    assert not_meant in call("datasets", "--check", "demo").stderr
    assert "; esc50 is the known" not in fail("extract", "--dataset", "esc50")
    Path("esc50").mkdir()
    assert "the folder of that name here is ./esc50" in fail("extract", "--dataset", "esc50")


def test_a_known_dataset_leaves_the_store_of_a_folder_of_its_name_alone(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree("own/Tones", "demo")
    succeed("extract", "--dataset", "./demo")
    succeed("synthesise", "--clips-per-class", "5")
    known = succeed("extract", "--dataset", "demo")
    assert "note: another dataset is called demo; this one is demo-" in known.stderr
    assert "(0 embedded now, 12 known)" in succeed("extract", "--dataset", "./demo").stdout
    (store,) = palm_cache.find_stores("demo")[0][0]
    assert palm_cache.find_stores([Path("demo")]) == palm_cache.find_stores("demo")
    assert str(store) in known.stdout
    # In a project that is copied it is the same one.
    shutil.copytree(project, project.parent / "copy")
    monkeypatch.chdir(project.parent / "copy")
    assert f"50 clips -> {store} (0 embedded now" in succeed("extract", "--dataset", "demo").stdout


def test_the_store_of_a_folder_of_ones_own_never_stands_in_for_a_known_dataset(project: Path) -> None:
    shutil.copytree("own/Tones", "demo")
    succeed("extract", "--dataset", "./demo")
    quick = ("--head", "prototype", "--shots", "1", "--seeds", "0")
    succeed("fit", "--dataset", "./demo", *quick)
    not_made = "the folder of that name here is ./demo, and the stores in data/features/demo are of it; those"
    for words in (("fit", *quick), ("evaluate",), ("prompts",), ("heads",)):
        told = fail(*words, "--dataset", "demo")
        assert not_made in told
        assert told.endswith("made with: palm-cache extract --dataset demo")
    # A copy of a known dataset elsewhere is the known one, for all that is known: it is told where it was.
    shutil.rmtree("demo")
    succeed("synthesise", "--clips-per-class", "5")
    Path("data/raw/demo").rename("copy")
    succeed("extract", "--dataset", "demo", "--root", "copy")
    told = succeed("fit", "--dataset", "demo", *quick).stderr
    assert (
        f"note: demo is the known dataset demo; the stores in data/features/demo are of {project}/copy"
        in told
    )


def test_a_table_with_its_audio_elsewhere_is_not_taken_for_the_folder_of_audio(project: Path) -> None:
    shutil.copy("own/Tones/train.csv", "labels.csv")
    succeed("extract", "--dataset", "labels.csv", "--root", "own/Tones/audios")
    assert "give table and --root again" in fail("extract", "--dataset", "labels")


def test_heads_on_stores_elsewhere_are_evaluated_by_the_dataset_s_name_there(project: Path) -> None:
    for folder in ("runs", "data"):
        shutil.rmtree(folder)
    succeed("extract", "--dataset", str(write_palm_folder(Path("other/Tones"), classes=("a", "b"))))
    elsewhere = ("--dataset", "own/Tones", "--features", "stores")
    succeed("extract", *elsewhere)
    succeed("fit", *elsewhere, "--head", "prototype", "--shots", "1", "--seeds", "0", "--no-evaluate")
    assert json.loads(succeed("evaluate", *elsewhere, "--json").stdout)[0]["dataset"] == "Tones"
    assert "no heads below this folder" in fail("evaluate", "--dataset", "own/Tones")


def test_stores_elsewhere_verify_against_the_dataset_that_they_name(project: Path) -> None:
    succeed("extract", "--dataset", "own/Tones", "--features", "stores")
    assert "OK" in succeed("store", "verify", "stores/Tones/mini.zarr", "--recompute", "1").stdout


def test_tables_of_one_name_in_two_folders_are_two_datasets(project: Path) -> None:
    tables = []
    for site in ("here", "there"):
        shutil.copytree("own/Tones", site)
        tables.append(f"{site}/labels.csv")
        Path(site, "train.csv").rename(tables[-1])
    for table in tables:
        succeed("extract", "--dataset", table)
    quick = ("--head", "prototype", "--shots", "1", "--seeds", "0", "--json")
    fitted = succeed("fit", "--dataset", tables[0], "--dataset", tables[1], *quick)
    names = {row["dataset"] for row in json.loads(fitted.stdout)}
    assert len(names) == 2
    (other,) = names - {"labels"}
    (name,) = names - {other}
    assert f"{tables[1]} has its stores in data/features/{other}; those in data/features/{name} are of" in (
        fitted.stderr
    )
    shutil.rmtree(f"data/features/{other}")
    assert f"palm-cache extract --dataset {tables[1]}" in fail("fit", "--dataset", tables[1], *quick)
    succeed(
        "extract", "--dataset", tables[0], "--root", "own/Tones", "--on-stale", "rebuild", "--out", "x.zarr"
    )


def test_a_table_whose_sounds_lie_elsewhere_is_fitted_by_its_own_name(project: Path) -> None:
    shutil.copy("own/Tones/train.csv", "labels.csv")
    succeed("extract", "--dataset", "labels.csv", "--root", "own/Tones")
    succeed("fit", "--dataset", "labels.csv", "--head", "prototype", "--shots", "1", "--seeds", "0")


def test_a_table_has_its_own_stores_where_another_of_its_name_has_its_sounds_elsewhere(project: Path) -> None:
    shutil.copy("own/Tones/train.csv", "labels.csv")
    shutil.copytree("own/Tones", "there")
    Path("there/train.csv").rename("there/labels.csv")
    succeed("extract", "--dataset", "labels.csv", "--root", "own/Tones")
    succeed("extract", "--dataset", "there/labels.csv")
    quick = ("--head", "prototype", "--shots", "1", "--seeds", "0", "--json")
    for table, name in (("labels.csv", r"labels"), ("there/labels.csv", r"labels-[0-9a-f]{6}")):
        (row,) = json.loads(succeed("fit", "--dataset", table, *quick).stdout)
        assert re.fullmatch(name, row["dataset"])


def test_a_table_that_takes_the_stores_of_a_folder_of_its_name_is_said_to(project: Path) -> None:
    sounds = shutil.copytree(project / "own/Tones", project / "own/Sounds")
    shutil.copy("own/Tones/train.csv", "Sounds.csv")
    succeed("extract", "--dataset", "own/Sounds")
    quick = ("--head", "prototype", "--shots", "1", "--seeds", "0")
    told = succeed("fit", "--dataset", "Sounds.csv", *quick).stderr
    stores = Path("data/features/Sounds")
    assert (
        f"Sounds.csv is taken for the table of the stores in {stores}, whose sounds lie in {sounds}" in told
    )
    assert "taken for" not in succeed("fit", "--dataset", "own/Sounds", *quick).stderr


def test_of_two_tables_of_one_name_with_their_sounds_elsewhere_neither_takes_the_others_stores(
    project: Path,
) -> None:
    shutil.copytree("own/Tones", "sounds")
    for site in ("here", "there"):
        Path(site).mkdir()
        shutil.copy("own/Tones/train.csv", f"{site}/labels.csv")
    quick = ("--head", "prototype", "--shots", "1", "--seeds", "0", "--json")
    succeed("extract", "--dataset", "here/labels.csv", "--root", "own/Tones")
    succeed("extract", "--dataset", "there/labels.csv", "--root", "sounds")
    for table in ("here/labels.csv", "there/labels.csv"):
        told = fail("fit", "--dataset", table, *quick)
        assert f"{table}: several stores may be of this table: labels of " in told
    (name,) = (path.name for path in Path("data/features").glob("labels-*"))
    (row,) = json.loads(succeed("fit", "--dataset", name, *quick).stdout)
    assert row["dataset"] == name
