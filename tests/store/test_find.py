"""A store says where its dataset lies, and not where the project does."""

from __future__ import annotations

from pathlib import Path

import pytest
from samples import write_palm_folder

from palm_cache.api.extraction import extract
from palm_cache.store.features import FeatureStore


def extracted(project: Path, dataset: str | Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Extract a dataset as one does who works in a project, and return its store."""
    monkeypatch.chdir(project)
    return (project / str(extract(str(dataset)).store)).absolute()


def content(store: Path) -> dict[str, bytes]:
    return {str(file.relative_to(store)): file.read_bytes() for file in store.rglob("*") if file.is_file()}


def test_a_store_is_the_same_wherever_its_project_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a hash of it, as DVC keeps one, would be another in every clone."""
    stores = []
    for project in (tmp_path / "one", tmp_path / "some" / "other"):
        write_palm_folder(project / "sounds" / "birds", classes=("blackbird", "wren"))
        stores.append(extracted(project, "sounds/birds", monkeypatch))
        assert FeatureStore(stores[-1]).header.source == str(project / "sounds" / "birds")
    assert content(stores[0]) == content(stores[1])
    # However the folder is spelled.
    assert extracted(tmp_path / "one", tmp_path / "one" / "sounds" / "birds", monkeypatch) == stores[0]


def test_two_folders_of_one_name_have_a_store_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "project"
    folders = (project / "one" / "birds", project / "other" / "birds", tmp_path / "elsewhere" / "birds")
    for folder in folders:
        write_palm_folder(folder, classes=("blackbird", "wren"))
    stores = [extracted(project, folder, monkeypatch) for folder in ("one/birds", "other/birds", folders[2])]
    assert len(set(stores)) == 3
    assert FeatureStore(stores[2]).header.source == str(folders[2])
    # Each is found again; and a project that is moved keeps its stores.
    assert [extracted(project, folder, monkeypatch) for folder in folders] == stores
    moved = project.rename(tmp_path / "moved")
    assert extracted(moved, "one/birds", monkeypatch) == moved / stores[0].relative_to(project)
    assert extracted(moved, "other/birds", monkeypatch) == moved / stores[1].relative_to(project)
