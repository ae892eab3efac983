"""What commands import, and that what is wrong is said before anything heavy is."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import run_and_name_heavy_modules
from samples import make_features, write_sample

from palm_cache.cli.loading import load


def test_no_garbage_is_looked_for_while_a_module_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "heavy_module.py").write_text("import gc\nlooking = gc.isenabled()\n")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        load("heavy_module")
        assert not sys.modules["heavy_module"].looking
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
        del sys.modules["heavy_module"]
    assert gc.isenabled()


def test_a_module_that_cannot_be_loaded_leaves_the_search_for_garbage_on() -> None:
    with pytest.raises(ModuleNotFoundError):
        load("no_such_module")
    assert gc.isenabled()


def test_a_fit_imports_nothing_that_it_does_not_use(workplace: Path) -> None:
    """Together they take longer to import than the demo's heads to fit."""
    write_sample(Path("data/features/clusters/mini.zarr"), make_features())
    code = (
        "import sys\n"
        "from palm_cache.cli import app\n"
        "try:\n    app(['fit', '--shots', '4'])\n"
        "finally:\n"
        "    unused = 'sklearn scipy.optimize scipy.stats sympy torchaudio matplotlib jinja2'.split()\n"
        "    print('loaded:', *(name for name in unused if name in sys.modules))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1].strip() == "loaded:"


def test_listing_datasets_and_encoders_imports_no_torch() -> None:
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from palm_cache.cli import app\n"
        "assert CliRunner().invoke(app, ['datasets']).exit_code == 0\n"
        "assert CliRunner().invoke(app, ['encoders']).exit_code == 0\n"
        "print('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("words", "unused"),
    [
        (["heads"], "sklearn pandas zarr transformers"),
        (["store", "info", "data/features/clusters/mini.zarr"], "torch pandas sklearn"),
        (["cache", "info"], "torch pandas sklearn"),
    ],
)
def test_what_describes_imports_nothing_that_computes(workplace: Path, words: list[str], unused: str) -> None:
    write_sample(Path("data/features/clusters/mini.zarr"), make_features())
    code = (
        "import sys\n"
        "from palm_cache.cli import app\n"
        f"try:\n    app({words!r})\n"
        f"finally:\n    print('loaded:', *(name for name in {unused!r}.split() if name in sys.modules))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1].strip() == "loaded:"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("fit", "--head", "plam"), "unknown head 'plam'; did you mean palm"),
        (("fit", "--encoder", "min"), "unknown encoder 'min'; did you mean mini"),
        (("fit", "--params", "wrong.yaml"), "unknown head 'plam'; did you mean palm"),
        (("fit", "--store", "nowhere.zarr"), "nowhere.zarr: no feature store here; make it with"),
        (("report", "--against", "plam"), "unknown head 'plam'; did you mean palm"),
        (("extract", "--dataset", "Tones", "--encoder", "clap"), "say which weights: clap:HUB_ID"),
        (("extract", "--dataset", "Tunes"), "unknown dataset (and no such folder) 'Tunes'"),
        (("predict", "nowhere.h5", "a.wav"), "nowhere.h5: no heads here; fit some with"),
        (("search", "nowhere.zarr", "--text", "rain"), "nowhere.zarr: no feature store here"),
        (("explore", "Tones", "--head", "nowhere"), "nowhere: no heads here"),
        (("push", "nowhere.h5", "hf://me/heads"), "nowhere.h5: no heads here"),
        (("store", "export", "nowhere.zarr", "new.h5"), "nowhere.zarr: no feature store here"),
    ],
)
def test_wrong_names_are_refused_before_anything_heavy_is_loaded(
    workplace: Path, words: tuple[str, ...], message: str
) -> None:
    Path("wrong.yaml").write_text("fit: {heads: plam}\n")
    ended = run_and_name_heavy_modules(*words)
    assert (ended.returncode, ended.stdout.strip()) == (1, "")
    assert message in " ".join(ended.stderr.split())


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("extract", "demo"), "did you mean --dataset demo?"),
        (("fit", "--shots", "8", "16"), "did you mean --shots 8,16?"),
        (("fit", "--seeds", "0", "1", "2", "--json"), "did you mean --seeds 0,1,2?"),
        (("fit", "--shots", "8 16"), "did you mean --shots 8,16?"),
        (("predict", "heads.h5"), "give a heads file and what to listen to"),
        (("fit", "--test-views", "median"), "'--test-views': 'median' is not one of"),
        (("fit", "--test-views", "meen"), "is not one of 'first', 'mean'; did you mean mean?"),
        (("extract", "--dataset", "Tones", "--device", "gpu0"), "--device 'gpu0': use auto, cpu, cuda"),
        (("predict", "heads.h5", "a.wav", "--top", "0"), "'--top': 0 is less than 1"),
        (("predict", "heads.h5", "a.wav", "--threshold", "x"), "'--threshold': 'x' is not a number"),
    ],
)
def test_wrong_usage_says_what_was_meant_before_anything_heavy_is_loaded(
    workplace: Path, words: tuple[str, ...], meant: str
) -> None:
    ended = run_and_name_heavy_modules(*words)
    assert (ended.returncode, ended.stdout.strip()) == (2, "")
    assert meant in " ".join(ended.stderr.split())
