from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from drive import Drive, make_drive
from label_client import Page, open_session


@pytest.fixture(scope="session")
def made_drive(tmp_path_factory: pytest.TempPathFactory) -> Drive:
    return make_drive(tmp_path_factory.mktemp("drive"))


@pytest.fixture
def page(made_drive: Drive, tmp_path: Path) -> Iterator[Page]:
    with open_session(made_drive, tmp_path / "labels.csv") as session:
        yield Page(session)
