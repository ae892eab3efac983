from __future__ import annotations

import numpy as np
from scored import scores_table

from palm_cache.adaptation.heads import CLASSES
from palm_cache.report.figures import (
    MOST_STYLED,
    STYLED,
    accuracy_by_head,
    accuracy_by_shots,
    losses_by_epoch,
    styles,
)
from palm_cache.report.means import summarise


def test_a_head_has_one_colour_and_one_marker_in_all_figures() -> None:
    assert set(STYLED) == set(CLASSES)
    assert len(STYLED) == len(set(STYLED)) < MOST_STYLED
    together = styles({head: head for head in STYLED})
    assert len({(style["color"], style["marker"]) for style in together.values()}) == len(STYLED)
    assert len({style["color"] for style in styles({head: head for head in STYLED[:8]}).values()}) == 8
    for head in (*STYLED, "my-own"):
        with_others = styles({name: name for name in ("another", "knn", head)})[head]
        assert styles({head: head}) == {head: with_others}
        if head in STYLED:
            assert with_others == together[head]


def test_lines_of_one_head_share_its_colour_and_nothing_else() -> None:
    names = {"palm": "palm", "palm@lr=0.005": "palm@lr=0.005", "palm, mini": "palm", "palm, clap-x": "palm"}
    drawn = list(styles(names).values())
    assert {style["color"] for style in drawn} == {styles({"palm": "palm"})["palm"]["color"]}
    assert len({style["marker"] for style in drawn}) == len({str(style["linestyle"]) for style in drawn}) == 4


def test_a_head_alone_in_a_figure_has_the_colour_that_it_has_beside_others() -> None:
    alone = summarise(scores_table().query("shots > 0").assign(head="proker"))
    colour = styles({"proker": "proker"})["proker"]["color"].lower()
    for figure in (
        accuracy_by_head(alone),
        accuracy_by_shots(alone),
        losses_by_epoch({"demo, mini, proker": np.ones(3, np.float32)}),
    ):
        assert colour in figure.svg


def test_the_axis_of_losses_bears_plain_numbers() -> None:
    svg = losses_by_epoch({"palm": np.array([3.0, 0.2, 0.01], np.float32)}).svg
    assert "0.1" in svg
    assert "mathdefault" not in svg
