from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from command_line import succeed
from samples import write_palm_folder


def test_ctrl_c_while_modules_are_imported_is_one_line() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
    module, function = project["scripts"]["palm-cache"].split(":")
    script = (
        "import os, signal, sys\n"
        "class Pressed:\n"
        "    def find_spec(name, *_):\n"
        "        if name == 'typer':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.meta_path.insert(0, Pressed)\n"
        f"from {module} import {function}; sys.exit({function}())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "encoders"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.split("\n") == ["", "interrupted: nothing was written", ""]


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_a_polite_end_keep_what_is_embedded_and_say_how_to_go_on(
    workplace: Path, jobs: int, sent: signal.Signals
) -> None:
    write_palm_folder(workplace / "Many", classes=[str(number) for number in range(20)], train=58)
    words = ["extract", "--dataset", "Many", "--jobs", f"{jobs}"]
    # A segment for every few clips, so that there is one soon; a group of its own, so that all its processes
    # get the signal, as from a terminal.
    start = "from palm_cache.extraction import work; work.SEGMENT_BYTES = 1; "
    process = subprocess.Popen(
        [sys.executable, "-c", f"{start}from palm_cache.cli import app; app()", *words],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
        start_new_session=True,
    )
    cache, deadline = workplace / "data" / "features" / ".cache", time.monotonic() + 120
    while not any(cache.glob("audio-*/*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, sent)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "interrupted: what is embedded is kept; run the same command again to resume" in stderr
    assert "Traceback" not in stderr
    recipes = json.loads(succeed("cache", "info", "--json").stdout)["recipes"]
    (known,) = [one for one in recipes if one["kind"] == "audio"]
    assert 0 < known["contents"] < 1200
    done = json.loads(succeed("extract", "--dataset", "Many", "--json").stdout)
    assert done["embedded"] == 1200 - known["contents"]
