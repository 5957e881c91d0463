from __future__ import annotations

import numpy as np
import pandas as pd

from probe.plots.cells import cell_map, told_from_zero
from probe.plots.style import INK


def test_the_map_has_its_cells_marks_and_nothing_else() -> None:
    values = np.array([[0.5, np.nan], [-0.25, 0.0]])
    signs = np.array([[1, 0], [-1, 0]])
    figure = cell_map([3, 7], [0, 1], values, np.full((2, 2), "x"), "logits", signs)
    heat, marks = figure.data
    assert (heat.zmin, heat.zmax) == (-0.5, 0.5)
    assert (list(marks.x), list(marks.y)) == ([0, 0], [3, 7])
    assert list(marks.marker.symbol) == ["triangle-up", "triangle-down"]
    assert marks.marker.color == INK
    assert (figure.layout.xaxis.range, figure.layout.yaxis.range) == ((-0.5, 1.5), (7.5, 2.5))


def test_without_signs_there_are_no_marks_and_no_legend_of_them() -> None:
    marks = cell_map([0], [0, 1], np.array([[0.1, 0.2]]), np.full((1, 2), ""), "share").data[1]
    assert (len(marks.x), marks.showlegend) == (0, False)


def test_a_centred_map_shows_zero_in_the_middle() -> None:
    heat = cell_map([0], [0, 1], np.array([[0.1, 0.2]]), np.full((1, 2), ""), "logits", centred=True).data[0]
    assert (heat.zmin, heat.zmax) == (-0.2, 0.2)
    assert heat.colorscale[0][1] == "#b2182b"


def test_q_decides_where_there_is_one() -> None:
    numbers = pd.DataFrame({"a": [1.0, -1.0, 1.0], "a_low": [0.5, -2, 0.5], "a_high": [2, -0.5, 2.0],
                            "a_q": [0.01, 0.02, 0.2]})  # fmt: skip
    signs, corrected = told_from_zero(numbers, "a")
    assert (signs.tolist(), corrected) == ([1, -1, 0], True)
    signs, corrected = told_from_zero(numbers.assign(a_q=np.nan), "a")
    assert (signs.tolist(), corrected) == ([1, -1, 1], False)


def test_a_metric_that_cannot_be_negative_is_never_told_from_zero() -> None:
    numbers = pd.DataFrame({"a": [0.5, 0.9], "a_low": [0.4, 0.8], "a_high": [0.6, 1.0]})
    assert told_from_zero(numbers, "a")[0].tolist() == [0, 0]
    assert told_from_zero(numbers[["a"]], "a")[0].tolist() == [0, 0]
