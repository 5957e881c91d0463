from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from probe.analyses.transfer import PartEffect, Transfer
from probe.plots.transfer import removed_marks, removed_table, transfer_matrix
from probe.plots.transfer import transfer_table as tabled


def test_a_row_holds_a_transfer_with_the_range_of_its_draws() -> None:
    found = Transfer("ioi", "induction", ((1, 2),), 0.5, 0.4, 0.6, np.array([0.1, -0.1, 0.3]), 0.25)
    (row,) = tabled([found]).to_dict("records")
    assert row == {
        "circuit": "ioi", "task": "induction", "faithfulness": 0.5, "faithfulness_low": 0.4, "faithfulness_high": 0.6,
        "random": pytest.approx(0.1), "random_low": -0.1, "random_high": 0.3, "p": 0.25,
    }  # fmt: skip


def test_transfer_is_marked_only_above_all_draws(transfer_table: pd.DataFrame) -> None:
    figure = transfer_matrix(transfer_table, ["ioi", "induction"], ["ioi", "induction"])
    cells = {(note.y, note.x): note.text for note in figure.layout.annotations}
    assert cells["ioi", "ioi"] == "<b>0.90</b> *<br>random 0.050"
    assert cells["ioi", "induction"] == "<b>0.20</b><br>random 0.050"
    assert cells["induction", "ioi"] == "<b>-0.30</b><br>random 0.050"
    assert figure.data[0].zmin == -1


def test_words_in_cells_can_be_read(transfer_table: pd.DataFrame) -> None:
    figure = transfer_matrix(transfer_table.assign(faithfulness=[1.0, 0.0, -1.0, 0.5]), ["ioi", "induction"],
                             ["ioi", "induction"])  # fmt: skip
    inks = {(note.y, note.x): note.font.color for note in figure.layout.annotations}
    assert inks["ioi", "ioi"] == inks["induction", "ioi"] == "white"
    assert inks["ioi", "induction"] == inks["induction", "induction"] != "white"


def test_removed_parts_are_shares_of_what_all_heads_do(removed: pd.DataFrame) -> None:
    parts = (("shared", ((1, 2), (3, 4)), 2.0), ("only_a", ((5, 6),), 0.4), ("only_b", ((7, 8),), 0.05))
    draws = np.array([0.4, 0.8])
    found = [
        PartEffect("ioi", part, heads, effect, effect - 0.2, effect + 0.2, effect / 4, effect / 4 - 0.05,
                   effect / 4 + 0.05, draws, 0.3)
        for part, heads, effect in parts
    ]  # fmt: skip
    # An effect of 2 logits is a share of 0.5, so that draws of 0.4 and 0.8 logits are 0.1 and 0.2.
    pd.testing.assert_frame_equal(removed_table("ioi", "induction", found), removed)


def test_a_part_that_loses_nothing_leaves_its_draws_without_a_share() -> None:
    still = PartEffect("ioi", "only_b", ((1, 1),), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, np.array([0.4]), 1.0)
    assert np.isnan(removed_table("ioi", "induction", [still])["random"].iloc[0])


def test_marks_are_filled_only_above_all_draws(removed: pd.DataFrame) -> None:
    figure = removed_marks(removed)
    points = figure.data[-1]
    assert list(figure.layout.yaxis.ticktext) == [
        "ioi without shared heads (2)", "ioi without heads of ioi alone (1)",
        "ioi without heads of induction alone (1)",
    ]  # fmt: skip
    assert list(points.y) == [0, 1, 2]
    assert list(points.x) == [0.5, 0.1, 0.0125]
    assert list(points.marker.color) == ["#0072B2", "white", "white"]
    low, high = figure.layout.xaxis.range
    assert low < -0.0375
    assert high > 0.55


def test_several_pairs_stand_each_under_its_name(removed: pd.DataFrame) -> None:
    figure = removed_marks(pd.concat([removed, removed.assign(b="<x>")]))
    labels = figure.layout.yaxis.ticktext
    assert (labels[0], labels[4]) == ("<b>ioi, induction</b>", "<b>ioi, &lt;x&gt;</b>")
    assert list(figure.data[-1].y) == [1, 2, 3, 5, 6, 7]
