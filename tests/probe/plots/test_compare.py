from __future__ import annotations

import numpy as np
import pytest

from probe.comparisons.comparison import Comparison
from probe.errors import ResultsError
from probe.plots.compare import certainty, difference_map, likeness, pair_name, scatter


@pytest.fixture
def moved(comparison: Comparison) -> list[str]:
    """The two heads that were moved, the larger sink first."""
    frame = comparison.a.frame["sink_first"]
    rows = comparison.of("sink_first")
    return [rows["name_a"][int(frame.to_numpy().argmax())], rows["name_a"][int(frame.to_numpy().argmin())]]


def test_the_map_shows_b_minus_a_and_marks_what_changed(comparison: Comparison, moved: list[str]) -> None:
    figure = difference_map(comparison)
    grid = np.asarray(figure.data[0].z, dtype=float)
    assert grid.shape == (30, 9)
    np.testing.assert_allclose(sorted(grid[grid != 0]), [-0.7, 0.7])
    assert list(figure.data[1].marker.symbol) in (
        ["triangle-up", "triangle-down"], ["triangle-down", "triangle-up"],
    )  # fmt: skip
    assert "sink_first: B − A" in figure.layout.title.text
    assert "<img" not in figure.layout.title.text
    flat = [text for row in figure.data[0].text for text in row]
    assert sum("changed, lost sink" in text for text in flat) == 1
    assert moved[0] in next(text for text in flat if "lost sink" in text)


def test_the_scatter_parts_what_changed_and_names_it(comparison: Comparison, moved: list[str]) -> None:
    figure = scatter(comparison, "sink_first")
    line, same, sure = figure.data
    assert list(line.x) == list(line.y)
    assert (len(same.x), len(sure.x)) == (268, 2)
    assert same.name == "not told apart (268)"
    assert sure.name == "changed, q < 0.05 (2)"
    assert {note.text for note in figure.layout.annotations} == set(moved)
    assert same.error_x.array is None
    rows = comparison.of("sink_first").set_index("name_a").loc[moved]
    bars = sorted((rows["b_high"] - rows["b"]).clip(lower=0))
    assert sorted(sure.error_y.array) == bars
    assert all("q < 0.001" in text for text in sure.text)
    assert "<img" not in figure.layout.yaxis.title.text
    assert "&lt;img" in figure.layout.yaxis.title.text


def test_nothing_changed_is_drawn_too(comparison: Comparison) -> None:
    figure = scatter(comparison, "entropy")
    assert [len(trace.x) for trace in figure.data[1:]] == [270, 0]
    assert not figure.layout.annotations
    assert (np.asarray(difference_map(comparison, "entropy").data[0].z, dtype=float) == 0).all()


def test_likeness_has_the_pairs_beside_the_control(comparison: Comparison) -> None:
    pairs, control = likeness(comparison).data
    assert (len(pairs.x), len(control.x)) == (270, 400)
    assert max(pairs.x) == pytest.approx(comparison.matching.distance.max())
    assert np.median(control.x) == pytest.approx(comparison.matching.middle, rel=0.05)
    for line in (pairs, control):
        assert (np.diff(line.x) >= 0).all()
        assert (line.y[0], line.y[-1]) == (0, 1)
    assert control.name == "heads of other names"


def test_methods_draw_the_same(comparison: Comparison) -> None:
    assert comparison.plot().to_json() == difference_map(comparison, "sink_first").to_json()
    assert comparison.scatter("entropy").to_json() == scatter(comparison, "entropy").to_json()


def test_a_metric_that_was_not_compared_is_refused(comparison: Comparison) -> None:
    for draw in (difference_map, scatter):
        with pytest.raises(ResultsError, match="induction_chance was not compared"):
            draw(comparison, "induction_chance")


def test_certainty_is_told_as_far_as_it_goes() -> None:
    assert [certainty(q) for q in (1e-25, 0.0009, 0.001, 0.04)] == ["< 0.001", "< 0.001", "= 0.001", "= 0.040"]
    assert certainty(float("nan")) == "= n/a"


def test_a_pair_has_one_name_or_two() -> None:
    assert pair_name("L1H2", "L1H2") == "L1H2"
    assert pair_name("L1H2", "L0H3") == "L1H2 ↔ L0H3"
