from __future__ import annotations

from dataclasses import replace

import pytest

from palm_cache.errors import UnknownNameError
from palm_cache.store.run_names import choose_run, run_name, split_run_name
from palm_cache.types.runs import Run


def runs_of(*names: str) -> list[Run]:
    found = []
    for name in names:
        head, shots, fold, seed = name.split()
        found.append(Run("demo", "mini", head, int(shots), int(fold), int(seed)))
    return found


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (None, "palm-16shots-fold1-seed0"),
        ("palm", "palm-16shots-fold1-seed0"),
        ("palm-4shots", "palm-4shots-fold2-seed1"),
        ("palm-16shots-fold1-seed10", "palm-16shots-fold1-seed10"),
        ("palm-16shots-fold1-seed1", "palm-16shots-fold1-seed1"),
        ("palm-16", "palm-16shots-fold1-seed0"),
        ("palm-16s", "palm-16shots-fold1-seed0"),
        ("palm-4shots-f", "palm-4shots-fold2-seed1"),
        ("palm-d", "palm-dagger-0shots-fold1-seed0"),
        ("coop", "coop-32shots-fold1-seed0"),
        ("zero-shot", "zero-shot-0shots-fold1-seed0"),
        ("palm-dagger", "palm-dagger-0shots-fold1-seed0"),
    ],
)
def test_the_run_that_is_meant(wanted: str | None, expected: str) -> None:
    runs = runs_of(
        *("zero-shot 0 1 0", "palm-dagger 0 1 0", "coop 32 1 0", "palm 4 2 1", "palm 16 2 0"),
        *("palm 16 1 10", "palm 16 1 1", "palm 16 1 0"),
    )
    assert run_name(choose_run(runs, wanted)) == expected
    assert run_name(choose_run(reversed(runs), wanted)) == expected


def test_without_palm_a_head_that_learns_comes_first() -> None:
    runs = runs_of("zero-shot 0 1 0", "linear-probe 4 1 0", "knn 8 1 0", "knn 4 1 0")
    assert run_name(choose_run(runs)) == "knn-8shots-fold1-seed0"
    assert run_name(choose_run(runs[:1])) == "zero-shot-0shots-fold1-seed0"


@pytest.mark.parametrize(
    ("wanted", "hint"),
    [
        ("plam", "did you mean palm"),
        ("palm-8shots", "did you mean palm-4shots"),
        ("palm-1", "did you mean palm"),
        ("", "known: coop, palm"),
    ],
)
def test_a_run_that_is_not_there_is_named_with_its_near_matches(wanted: str, hint: str) -> None:
    with pytest.raises(UnknownNameError, match=f"unknown run '{wanted}'; {hint}"):
        choose_run(runs_of("palm 4 1 0", "coop 4 1 0", "palm 16 1 0"), wanted)


def test_variants_live_side_by_side_and_the_plain_one_comes_first() -> None:
    plain = Run("demo", "mini", "palm", 4, 1, 0)
    variant = replace(plain, variant="epochs=5,lr=0.005")
    assert run_name(variant) == "palm@epochs=5,lr=0.005-4shots-fold1-seed0"
    assert split_run_name(run_name(variant)) == ("palm@epochs=5,lr=0.005", 4, 1, 0)
    assert choose_run([variant, plain]) == plain
    assert choose_run([variant, plain], "palm@epochs=5,lr=0.005") == variant
    assert choose_run([variant, plain], run_name(variant)) == variant
    assert choose_run([variant, plain], "palm-4shots") == plain
    assert choose_run([variant, plain], "palm-4") == plain
    assert choose_run([variant], "palm-4") == choose_run([variant], "palm-4shots") == variant
    assert choose_run([variant, plain], "palm@e") == variant
    with pytest.raises(UnknownNameError):
        choose_run([variant], "palm@epochs=5,lr=0")  # 0.005 is another number
