"""The command before the page is served."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import call, fail, succeed
from drive import kind_of, write_recordings
from label_page import LabelPage, label_by_ear
from samples import make_features, write_sample, write_tone

from palm_cache.store.atomic import locked


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    return str(write_sample(tmp_path / "store.zarr", make_features()))


def test_a_second_page_on_the_same_labels_is_refused(store: str) -> None:
    with locked(Path("labels.csv"), "somebody else"):
        message = fail("label", store, "--no-browser")
    assert message == "error: labels.csv: another label page has it open; wait for it to end"


def test_a_second_page_by_another_name_of_the_file_is_refused_too(store: str) -> None:
    Path("other").mkdir()
    Path("other", "kinds.csv").symlink_to(Path("labels.csv").absolute())
    with locked(Path("labels.csv"), "somebody else"):
        message = fail("label", store, "--labels", "other/kinds.csv", "--no-browser")
    assert message.endswith("labels.csv: another label page has it open; wait for it to end")


def test_a_file_of_something_else_is_refused(store: str) -> None:
    Path("birds.csv").write_text("filename,label\n")
    message = fail("label", store, "--labels", "birds.csv", "--no-browser")
    assert message == (
        "error: birds.csv: its first row is 'filename,label', not path,start,end,classname,time: no file "
        "that labels can be appended to; choose another with --labels"
    )
    assert Path("birds.csv").read_text() == "filename,label\n"


def test_a_port_that_is_taken_is_named(store: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        message = fail("label", store, "--port", str(port), "--no-browser")
    assert (
        message
        == f"error: --port {port}: address already in use; take another, or leave it out for a free one"
    )


@pytest.mark.parametrize("module", ["starlette", "uvicorn"])
def test_without_the_extra_it_says_what_to_install(
    store: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "palm_cache.label.server", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    message = fail("label", store, "--no-browser")
    assert message.startswith(f"error: the label page needs {module}")
    assert message.endswith("install it with: pip install 'palm-cache[label]'")


def test_from_a_drive_of_recordings_to_a_classifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recordings = write_recordings(tmp_path / "night")
    label_by_ear(monkeypatch, kind_of)
    features = ("--features", "my stores")
    succeed("extract", "--dataset", "night", "--window", "1", *features)
    store = "my stores/night/mini.zarr"
    done = succeed("label", store, "--labels", "kinds.csv", "--no-browser")
    said = done.stderr.splitlines()
    assert said[0] == f"labelling 27 rows of night ({store}), 0 labelled so far"
    assert said[1].startswith(f"labels -> {tmp_path / 'kinds.csv'}, ")
    assert said[2].startswith("keys: ")
    assert said[-1] == "Ctrl-C ends the page; the same command goes on where you were"
    told = done.stdout.splitlines()
    assert told[1:] == [
        "20 rows labelled in kinds.csv",
        f"a classifier of them: palm-cache extract --dataset kinds.csv --root {recordings} "
        "--features 'my stores'",
    ]
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".lock"] == []
    words = shlex.split(told[-1].partition(": palm-cache ")[2])
    made = "20 clips -> my stores/kinds/mini.zarr (0 embedded now, 20 known)\n"
    assert succeed(*words).stdout == made
    every = ("fit", "--dataset", "kinds", *features, "--head", "gda", "--shots", "all")
    scores = json.loads(succeed(*every, "--json").stdout)
    assert scores[0]["accuracy"] > 0.9
    assert scores[0]["folds"] == 5
    succeed(*words, "--test", "none")
    whole = (*every, "--out", "whole")
    unscored = "no test clips: nothing is scored\nheads -> whole/kinds/mini/heads.h5\n"
    assert succeed(*whole).stdout == unscored  # it told of scores.csv, and not where the classifier is
    assert json.loads(succeed(*whole, "--json").stdout) == []
    assert fail("report", "--out", "whole") == (
        "error: whole/scores.csv: nothing is scored there; fit on a dataset with test clips"
    )
    write_tone(tmp_path / "new.wav", 3200)
    assert " high " in succeed("predict", "whole/kinds/mini/heads.h5", "new.wav").stdout


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_whoever_ends_the_page_leaves_no_lock_behind(
    store: str, tmp_path: Path, sent: signal.Signals
) -> None:
    page = LabelPage(store)
    assert list(tmp_path.glob(".*.lock"))
    assert "0 rows labelled" in page.end(sent)
    assert list(tmp_path.glob(".*.lock")) == []


def test_a_class_without_a_name_and_a_folder_that_is_not_there_are_refused(
    store: str, tmp_path: Path
) -> None:
    assert "control character" in fail("label", store, "--classes", "a\x07", "--no-browser")
    assert fail("label", store, "--audio", "nowhere", "--no-browser") == (
        "error: --audio nowhere: no such folder; give the dataset's, which paths are relative to"
    )
    assert "no feature store here" in fail("label", str(tmp_path / "none.zarr"), "--no-browser")


def test_what_has_no_labels_is_labelled_by_the_command_that_fit_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    label_by_ear(monkeypatch, kind_of, rounds=())
    write_recordings(tmp_path / "night")
    succeed("extract", "--dataset", "night", "--features", "my stores")
    message = fail("fit", "--store", "my stores/night/mini.zarr")
    assert message.endswith("; label it with: palm-cache label 'my stores/night/mini.zarr'")
    words = shlex.split(message.rpartition(": palm-cache ")[2])
    assert "labelling 9 rows of night" in succeed(*words, "--no-browser").stderr


@pytest.mark.parametrize("classes", [" ", ",,"])
def test_a_list_without_a_class_is_wrong_usage(store: str, classes: str) -> None:
    done = call("label", store, "--classes", classes, "--no-browser")
    assert done.exit_code == 2
    assert f"{classes!r} names no class" in done.stderr


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="sessions are read from /proc")
def test_the_end_of_the_page_is_not_that_of_the_browser(store: str, tmp_path: Path) -> None:
    """Ctrl-C reaches all that runs in the terminal's session: a browser that was opened must have its own."""
    opener, opened = tmp_path / "bin" / "xdg-open", tmp_path / "opened"
    opener.parent.mkdir()
    session_of = "$(cut -d' ' -f6 /proc/$$/stat)"
    opener.write_text(f'#!/bin/sh\necho "$1 {session_of}" > {opened}.part\nmv {opened}.part {opened}\n')
    no_default = opener.with_name("xdg-settings")
    no_default.write_text("#!/bin/sh\nexit 1\n")
    for script in (opener, no_default):
        script.chmod(0o755)
    path = f"{opener.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "DISPLAY": ":0"}
    environment.pop("BROWSER", None)
    command = [sys.executable, "-c", "from palm_cache.cli import app; app()", "label", store]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[0]
            patience = time.monotonic() + 60
            while not opened.exists():
                assert process.poll() is None
                assert time.monotonic() < patience
                time.sleep(0.01)
            told, session = opened.read_text().split()
            assert told == address
            assert int(session) != os.getsid(process.pid)
        finally:
            process.kill()
