from __future__ import annotations

import numpy as np
import pytest

from probe.analyses.overlap import Overlap
from probe.analyses.repair import Forced, Repair
from probe.analyses.transfer import PartEffect, Transfer
from probe.plots.beside import Beside, beside_chance, overlap_measures
from probe.plots.style import COLOURS


def test_a_number_is_filled_only_where_its_interval_lies_above_chance() -> None:
    rows = [
        Beside("above", 0.5, 0.4, 0.6, 0.1, 0.3),
        Beside("<b>touching", 0.5, 0.25, 0.6, 0.1, 0.3),
        Beside("bare", 0.5, np.nan, np.nan, 0.1, 0.3),
        Beside("no chance", 0.5, 0.4, 0.6, np.nan, np.nan),
    ]
    figure = beside_chance(rows, "share")
    points = figure.data[-1]
    assert list(points.marker.color) == [COLOURS[0], "white", COLOURS[0], "white"]
    assert points.text[0] == "<b>above</b><br>0.50 [0.40, 0.60]<br>by chance 0.10 to 0.30"
    assert list(figure.layout.yaxis.ticktext)[1] == "&lt;b&gt;touching"


def test_a_transfer_is_drawn_with_its_draws() -> None:
    found = Transfer("ioi", "induction", ((1, 2), (3, 4)), 0.5, 0.4, 0.6, np.array([0.1, -0.1, 0.3]), 0.25)
    figure = found.plot()
    chance, interval, marks, points = figure.data
    assert list(chance.x)[:2] == [-0.1, 0.3]
    assert list(interval.x)[:2] == [0.4, 0.6]
    assert list(marks.x) == [0.1, -0.1, 0.3]
    assert list(points.x) == [0.5]
    assert "<b>Heads of ioi on induction</b>" in figure.layout.title.text
    assert points.text[0].endswith("p = 0.25")


def test_a_part_without_draws_is_drawn_without_chance() -> None:
    part = PartEffect("ioi", "only_b", ((1, 1),), 0.2, 0.1, 0.3, 0.5, 0.4, 0.6, np.array([]), np.nan)
    figure = part.plot()
    assert "ioi without the heads of B alone" in figure.layout.title.text
    assert len(figure.data[2].x) == 0
    assert list(figure.data[-1].marker.color) == ["white"]


def test_a_repair_is_two_numbers_of_which_one_has_chance() -> None:
    right, wrong = np.ones(8), np.zeros(8)
    forced = Forced(((1, 2),), "force:END>S1", "logit_diff", right, right, wrong, wrong)
    found = Repair("ioi", ((1, 2),), (0.0, 1.0), forced, np.array([0.0, 0.1]), np.array([0.1, 0.2]), 0.33, 10.0)
    figure = found.plot()
    assert list(figure.data[-1].x) == [0.0, 1.0]
    assert list(figure.data[-1].marker.color) == ["white", COLOURS[0]]
    assert list(figure.data[2].x) == [0.1, 0.2]


def test_measures_of_overlap_are_shares_beside_their_null(several_overlaps: tuple[Overlap, ...]) -> None:
    found = several_overlaps[0]
    figure = found.plot()
    assert figure.to_json() == overlap_measures(found).to_json()
    points = figure.data[-1]
    assert points.x[0] == pytest.approx(len(found.shared) / len(found.heads_a))
    assert figure.data[2].x[0] == pytest.approx(found.count.expected / len(found.heads_a))
    assert points.x[-1] == found.spearman.value
    assert f"{len(found.shared)} of ioi's {len(found.heads_a)}" in figure.layout.yaxis.ticktext[0]
