"""No test may reach the home folder of whoever runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from palm_cache.extraction.datasets.members import members_root

pwd = pytest.importorskip("pwd")


def test_neither_a_test_nor_a_process_that_it_starts_knows_the_home_folder() -> None:
    home = Path(pwd.getpwuid(os.getuid()).pw_dir)
    assert not members_root("a dataset").is_relative_to(home)
    assert Path.home() != home
    code = "from palm_cache.extraction.encoders.openvino import _cache_folder as ours; print(ours())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not Path(child.stdout.strip()).is_relative_to(home)
