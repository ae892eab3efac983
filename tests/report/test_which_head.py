from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
import torch

from palm_cache.report.content import Figure, Table
from palm_cache.report.evidence import by_kind
from palm_cache.report.verdict import verdict
from palm_cache.report.which_head import duration, side_by_side, which_head
from palm_cache.store.scores import COLUMNS, RunPrediction

GRID = {"zero-shot": (0,), "proker": (1, 4), "palm": (1, 4)}
N_TEST = 50


def study(
    datasets: tuple[str, ...] = ("birds", "demo"), seeds: tuple[int, ...] = (0, 1, 2)
) -> tuple[pd.DataFrame, list[RunPrediction]]:
    """Make every run of a small study; the scores are those of the predictions."""
    rows, made = [], []
    for place, dataset in enumerate(datasets):
        for head, of_head in GRID.items():
            runs = [(shots, seed) for shots in of_head for seed in (seeds if shots else (0,))]
            for shots, seed in runs:
                generator = torch.Generator().manual_seed(len(made))
                labels = torch.arange(N_TEST) % 5
                logits = torch.randn(N_TEST, 5, generator=generator)
                logits += torch.nn.functional.one_hot(labels, 5) * 0.4 * (1 + shots + place)
                accuracy = float((logits.argmax(dim=1) == labels).double().mean())
                rows.append(
                    {
                        **dict.fromkeys(COLUMNS, 0),
                        "dataset": dataset,
                        "encoder": "mini",
                        "head": head,
                        "shots": shots,
                        "fold": 1,
                        "seed": seed,
                        "variant": "",
                        "n_params": 5 * shots * (head == "palm"),
                        "fit_seconds": 0.02 * shots,
                        "accuracy": accuracy,
                    }
                )
                run = f"{head}-{shots}shots-fold1-seed{seed}"
                made.append(
                    RunPrediction(dataset, "mini", run, torch.arange(N_TEST), labels, logits, tuple("abcde"))
                )
    return pd.DataFrame(rows, columns=list(COLUMNS)), made


def table_of(scores: pd.DataFrame, predictions: list[RunPrediction]) -> Table:
    section = which_head(scores, by_kind(predictions, scores))
    assert isinstance(section.blocks[-1], Figure)
    (table,) = (block for block in section.blocks if isinstance(block, Table))
    return table


def test_every_head_stands_with_its_mean_its_interval_and_its_cost() -> None:
    scores, predictions = study()
    table = table_of(scores, predictions)
    assert table.caption == "mini, on birds, demo"
    assert table.headings == ("head", "no shots", "1 shot", "4 shots", "time of a fit", "parameters")
    means = scores.groupby(["head", "shots"])["accuracy"].mean()
    found = {row[0]: row[1:] for row in table.rows}
    for (head, shots), mean in means.items():
        cell = found[str(head)][{0: 0, 1: 1, 4: 2}[int(shots)]]
        assert cell.startswith(f"{100 * mean:.1f}\n(")
        low, high = map(float, cell.partition("(")[2].rstrip(")").split("-"))
        assert low < 100 * mean < high
    assert found["palm"][3:] == ("80 ms", "20")
    assert found["zero-shot"][1:] == ("-", "-", "< 1 ms", "0")
    best = [float(max(cell.split("\n")[0] for cell in row[1:4])) for row in table.rows]
    assert best == sorted(best, reverse=True)


def test_a_dataset_that_would_leave_a_single_head_to_compare_does_not_count() -> None:
    scores, predictions = study(("birds", "demo", "extra"))
    scores = scores[(scores["dataset"] != "extra") | (scores["head"] == "palm")]
    assert table_of(scores, predictions).rows == table_of(*study()).rows
    apart = scores[(scores["dataset"] == "birds") == (scores["head"] == "palm")]
    assert table_of(apart, []).caption == "mini, on demo"


def side_by_side_of(heads_at: dict[tuple[str, int], str]) -> tuple[set[object], set[object]]:
    """Return the folds and the heads that are compared of heads, a letter each, by dataset and fold."""
    rows = [
        {**dict.fromkeys(COLUMNS, 0), "dataset": dataset, "fold": fold, "head": head, "n_test": fold}
        for (dataset, fold), heads in heads_at.items()
        for head in heads
    ]
    runs, _ = side_by_side(pd.DataFrame(rows))
    return set(zip(runs["dataset"], runs["fold"], strict=True)), set(runs["head"])


@pytest.mark.parametrize("others", ["xyz", "xy"])
def test_most_datasets_times_heads_count_whichever_dataset_has_most_heads(others: str) -> None:
    first = {("d1", 1): "abc" + others[2:]}
    rest = {(f"d{number}", 1): others for number in (2, 3, 4)}
    assert side_by_side_of(first | rest) == (set(rest), set(others))


def test_folds_are_chosen_with_the_datasets_and_not_before_them() -> None:
    of_demo = {("demo", fold): "zpr" + "kgo" * (fold < 3) for fold in range(1, 6)}
    birds = {("birds", fold): "kgo" for fold in (1, 2)}
    both = {*birds, ("demo", 1), ("demo", 2)}
    assert side_by_side_of(of_demo | birds) == (both, set("kgo"))


def test_of_equals_that_of_more_test_clips_counts_whatever_it_is_called() -> None:
    assert side_by_side_of({("a", 1): "xy", ("b", 2): "vw"}) == ({("b", 2)}, set("vw"))
    # Datasets are of equal worth, however many folds they have.
    sevenths = {("b", fold): "vw" for fold in range(1, 8)}
    assert side_by_side_of({("a", 1): "xy"} | sevenths) == (set(sevenths), set("vw"))


def test_of_heads_that_lack_a_fold_here_and_there_not_all_sets_are_followed_up() -> None:
    heads = "abcdefghijklmnopqrstuvwxyz"
    ragged = {(f"d{number}", 1): heads.replace(heads[number], "") for number in range(20)}
    folds, compared = side_by_side_of(ragged)  # of a million sets: to follow them all takes an hour
    assert len(folds) == len(compared) == 13  # each dataset more is a head less


def test_a_head_that_ran_on_one_of_many_datasets_does_not_take_the_others_from_the_mean() -> None:
    scores, predictions = study(("birds", "demo", "extra"))
    more = scores[(scores["dataset"] == "demo") & (scores["head"] == "palm")].assign(head="gda", accuracy=1.0)
    with_more = pd.concat([scores, more])
    kinds = by_kind(predictions, scores)
    assert table_of(with_more, predictions).rows == table_of(scores, predictions).rows
    notes = " ".join(str(block) for block in which_head(with_more, kinds).blocks)
    assert "mini: gda (not scored on all of these datasets and folds at the same shots)." in notes
    assert verdict(with_more, kinds) == f"{verdict(scores, kinds)[:-1]}; this leaves out gda."


def test_a_curve_says_over_what_it_is_a_mean() -> None:
    def caption(scores: pd.DataFrame) -> str:
        return next(block.caption for block in which_head(scores, {}).blocks if isinstance(block, Figure))

    both, one = study()[0], study(("birds",))[0]
    assert caption(one) == "Test accuracy by shots"
    assert caption(both) == "Test accuracy by shots, mean over datasets"
    assert caption(pd.concat([both, one.assign(encoder="clap")])).endswith("not the same of all encoders")


def test_a_head_of_fewer_folds_is_not_set_against_others() -> None:
    scores, _ = study()
    folds = pd.concat([scores, scores[scores["head"] != "palm"].assign(fold=2)])
    above = folds.assign(accuracy=folds["accuracy"].where(folds["head"] != "palm", 1.0))
    said = verdict(above, {})
    assert said.startswith("proker is ahead on birds and demo with mini at 4 shots with ")
    assert said.endswith("; this leaves out palm.")
    blocks = which_head(above, {}).blocks
    assert any("Not in the means of mini: palm (" in str(block) for block in blocks)
    (table,) = (block for block in blocks if isinstance(block, Table))
    assert "palm" not in {row[0] for row in table.rows}


@pytest.mark.parametrize("other", [2, 5])
def test_heads_are_compared_on_the_folds_that_most_of_them_have(other: int) -> None:
    scores, predictions = study(("demo",))
    more = scores[scores["head"] == "zero-shot"].assign(fold=other, accuracy=1.0)  # where palm did not run
    made = next(made for made in predictions if made.run.startswith("zero-shot"))
    elsewhere = replace(made, run=f"zero-shot-0shots-fold{other}-seed0")
    both, kinds = pd.concat([scores, more]), by_kind([*predictions, elsewhere], pd.concat([scores, more]))
    assert verdict(both, kinds) == (
        f"{verdict(scores, by_kind(predictions, scores))[:-1]}; this leaves out 1 fold of demo."
    )
    assert table_of(both, [*predictions, elsewhere]).rows == table_of(scores, predictions).rows
    notes = " ".join(map(str, which_head(both, kinds).blocks))
    assert "Not in the means of mini: 1 fold of demo (not all heads were scored there)." in notes
    # As many folds are not yet the same ones.
    apart = both[(both["head"] != "zero-shot") | (both["fold"] == other)]
    assert verdict(apart, {}) == f"{verdict(scores[scores['head'] != 'zero-shot'], {})[:-1]}; " + (
        "this leaves out zero-shot and 1 fold of demo."
    )


def test_of_a_head_those_seeds_count_that_ran_on_the_same_folds() -> None:
    scores, predictions = study(("demo",))
    scores = scores[scores["shots"] != 1]
    both = pd.concat([scores, scores.assign(fold=2)])
    moved = [replace(one, run=one.run.replace("fold1", "fold2")) for one in predictions]
    kinds = by_kind([*predictions, *moved], both)
    # Seeds 0 and 1 of palm on fold 1 alone, seed 2 on fold 2 alone: neither seed has both.
    apart = both[(both["head"] != "palm") | ((both["seed"] == 2) == (both["fold"] == 2))]
    runs, _ = side_by_side(apart)
    assert set(zip(runs["head"], runs["fold"], runs["seed"], strict=True)) == {
        *(("zero-shot", fold, 0) for fold in (1, 2)),
        *(("proker", fold, seed) for fold in (1, 2) for seed in (0, 1, 2)),
    }
    assert verdict(apart, kinds).endswith("; this leaves out palm.")
    # Seeds more on one of the folds take no fold from the others.
    few = scores[scores["head"] == "palm"]
    more = pd.concat([both, few.assign(seed=few["seed"] + 7, accuracy=1.0)])
    assert verdict(more, kinds) == f"{verdict(both, kinds)[:-1]}; this leaves out 3 seeds of palm."
    notes = " ".join(map(str, which_head(more, kinds).blocks))
    assert "mini: 3 seeds of palm (scored on other folds than most runs of that head)." in notes


def test_the_verdict_speaks_of_the_shots_at_which_most_can_be_compared() -> None:
    scores, predictions = study()
    most = scores[scores["head"] == "palm"].assign(shots=16, accuracy=1.0)
    more = pd.concat([scores, most, most.assign(shots=8, accuracy=0.99)])
    assert verdict(more, by_kind(predictions, more)) == (
        f"{verdict(scores, by_kind(predictions, scores))[:-1]}; above it, but at other shots and so not "
        "compared: palm with 100.0 % at 16 shots."
    )


def test_a_slow_head_at_few_shots_does_not_decide_of_how_many_the_verdict_speaks() -> None:
    scores, _ = study()
    learned = scores[scores["head"] != "zero-shot"]
    slow = learned[learned["head"] == "palm"].assign(head="cocoop")
    fourth = learned[learned["head"] == "palm"].assign(head="gda")
    more = pd.concat([scores, slow, fourth, learned.assign(shots=16), fourth.assign(shots=16)])
    assert side_by_side(more)[1] == 16
    assert side_by_side(pd.concat([more, slow.assign(head="coop"), slow.assign(head="malp")]))[1] == 4


def test_no_head_is_surely_better_than_one_that_was_better_in_all_runs_that_both_have() -> None:
    scores, predictions = study(seeds=tuple(range(6)))
    scores = scores[(scores["head"] != "proker") | (scores["seed"] < 3)]
    weak = (scores["head"] == "palm") & (scores["seed"] > 2)  # which alone put palm behind
    scores = scores[scores["head"] != "zero-shot"].assign(accuracy=scores["accuracy"].where(~weak, 0.0))
    right = [
        replace(made, logits=10 * torch.nn.functional.one_hot(made.labels, 5).double())
        if made.run.startswith("palm")
        else replace(made, logits=made.logits.roll(1, dims=1))
        for made in predictions
    ]
    said = verdict(scores, by_kind(right, scores))
    assert said.startswith("proker is ahead")
    assert said.endswith(", but not surely better than any other head.")


def test_a_number_of_shots_that_a_dataset_lacks_has_no_mean() -> None:
    scores, predictions = study()
    lacking = scores[(scores["dataset"] != "demo") | (scores["head"] != "proker") | (scores["shots"] != 4)]
    section = which_head(lacking, by_kind(predictions, lacking))
    rows = {row[0]: row for block in section.blocks if isinstance(block, Table) for row in block.rows}
    assert rows["proker"][3] == "-"
    assert rows["palm"][3] != "-"
    apart = scores[scores["shots"] == scores["dataset"].map({"birds": 1, "demo": 4})]
    section = which_head(apart, {})
    assert [block.caption for block in section.blocks if isinstance(block, Table)] == ["mini, on demo"]
    notes = " ".join(str(block) for block in section.blocks)
    assert "Not in the means of mini: birds (other heads or shots were scored there)." in notes


def test_without_predictions_there_are_no_intervals() -> None:
    scores, _ = study()
    rows = table_of(scores, []).rows
    assert not any("(" in cell for row in rows for cell in row)


def test_a_single_seed_is_marked() -> None:
    scores, predictions = study(seeds=(7,))
    section = which_head(scores, by_kind(predictions, scores))
    assert any("a single seed" in block for block in section.blocks if isinstance(block, str))
    found = {row[0]: row[1:4] for block in section.blocks if isinstance(block, Table) for row in block.rows}
    assert found["palm"][1].endswith(")*")
    assert not found["zero-shot"][0].endswith("*")


def test_the_verdict_is_one_sentence() -> None:
    scores, predictions = study()
    said = verdict(scores, by_kind(predictions, scores))
    means = scores[scores["shots"] == 4].groupby("head")["accuracy"].mean()
    ahead = (
        f"{means.idxmax()} is ahead on birds and demo with mini at 4 shots with {100 * means.max():.1f} % ("
    )
    assert said.startswith(ahead)
    assert said.endswith(", but not surely better than " + means.idxmin() + ".")
    assert "only predictions of several seeds can tell" in verdict(scores, {})
    alone = scores[scores["head"] == "palm"]
    assert (
        verdict(alone, {})
        == f"palm reaches {100 * means['palm']:.1f} % on birds and demo with mini at 4 shots."
    )


def test_heads_with_the_same_mean_are_level_and_none_is_ahead() -> None:
    scores, predictions = study()
    kinds = by_kind(predictions, scores)
    where = "on birds and demo with mini at 4 shots with 100.0 % each"
    level = scores.assign(accuracy=scores["accuracy"].where(scores["head"] == "zero-shot", 1.0))
    assert verdict(level, kinds) == f"palm and proker are level and ahead {where}."
    assert verdict(scores.assign(accuracy=1.0), kinds) == f"palm, proker and zero-shot are level {where}."
    one = level[(level["head"] != "palm") | (level["seed"] == 0)]
    assert verdict(one, {}) == f"palm and proker are level and ahead {where} (a single seed of palm)."


def test_one_seed_makes_nothing_sure() -> None:
    scores, predictions = study(seeds=(7,))
    assert "only predictions of several seeds can tell" in verdict(scores, by_kind(predictions, scores))


def test_a_head_that_is_ahead_with_one_seed_is_said_to_have_one() -> None:
    scores, predictions = study()
    best = scores[scores["shots"] == 4].groupby("head")["accuracy"].mean().idxmax()
    one = scores[(scores["head"] != best) | (scores["seed"] == 0)]
    accuracy = one["accuracy"].where(one["head"] != best, 1.0)
    said = verdict(one.assign(accuracy=accuracy), by_kind(predictions, one))
    assert said.startswith(f"{best} is ahead on birds and demo with mini at 4 shots with 100.0 % (")
    assert " over test clips alone: a single seed), but " in said
    assert "surely better than every" not in said
    assert f"{best} is ahead on birds and demo with mini at 4 shots with 100.0 % (a single seed), but" in (
        verdict(one.assign(accuracy=accuracy), {})
    )
    some = pd.concat([one, scores[(scores["dataset"] == "demo") & (scores["seed"] > 0)]]).drop_duplicates()
    some = some.assign(accuracy=some["accuracy"].where(some["head"] != best, 1.0))
    assert "; a single seed on some datasets), but " in verdict(some, by_kind(predictions, some))


def test_a_head_that_the_table_shows_ahead_at_other_shots_is_named() -> None:
    scores, predictions = study()
    few = scores[(scores["shots"] == scores["head"].map({"zero-shot": 0, "proker": 4, "palm": 1}))]
    few = few[(few["head"] != "palm") | (few["seed"] == 0)]
    above = few.assign(accuracy=few["accuracy"].where(few["head"] != "palm", 1.0))
    said = verdict(above, by_kind(predictions, above))
    assert said.startswith("proker is ahead on birds and demo with mini at 4 shots with ")
    assert said.endswith(
        " other head there; above it, but at other shots and so not compared: palm with 100.0 % at 1 shot "
        "(a single seed)."
    )
    below = few.assign(accuracy=few["accuracy"].where(few["head"] != "palm", 0.0))
    assert verdict(below, by_kind(predictions, below)).endswith(" other head there.")


def test_the_verdict_names_what_it_compares_where_heads_share_no_dataset() -> None:
    scores, _ = study(("birds", "demo", "extra"))
    apart = scores[(scores["dataset"] == "birds") == (scores["head"] == "palm")]
    said = verdict(apart, {})
    assert said.startswith("proker is ahead on demo and extra with mini at 4 shots with ")
    assert said.endswith("; this leaves out palm and birds.")
    other = verdict(pd.concat([apart, apart.assign(encoder="clap", accuracy=0.1)]), {})
    assert other.endswith("; this leaves out palm, birds and clap.")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0004, "< 1 ms"),
        (0.0123, "12 ms"),
        (0.512, "510 ms"),
        (0.9996, "1.0 s"),
        (3.26, "3.3 s"),
        (240, "240 s"),
    ],
)
def test_times_are_said_as_people_do(seconds: float, said: str) -> None:
    assert duration(seconds) == said
