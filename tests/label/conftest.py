from __future__ import annotations

import pytest
from drive import Drive, make_drive


@pytest.fixture(scope="session")
def made_drive(tmp_path_factory: pytest.TempPathFactory) -> Drive:
    return make_drive(tmp_path_factory.mktemp("drive"))
