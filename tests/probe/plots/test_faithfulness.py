from __future__ import annotations

from collections.abc import Callable

from probe.circuits.circuit import Circuit, CurvePoint
from probe.plots.faithfulness import ARM_WORDS, EDGE_ARMS, HEAD_ARMS, edge_curve, head_curve, told


def test_each_arm_has_its_line_and_band(make_circuit: Callable[..., Circuit]) -> None:
    curve = make_circuit().curve
    for figure, arms in ((head_curve(curve), HEAD_ARMS), (edge_curve(curve), EDGE_ARMS)):
        lines = {trace.name: trace for trace in figure.data if trace.fill is None}
        bands = {trace.legendgroup: trace for trace in figure.data if trace.fill == "toself"}
        assert set(lines) == {ARM_WORDS[arm] for arm in arms}
        for arm in arms:
            points = [point for point in curve if point.arm == arm]
            assert list(lines[ARM_WORDS[arm]].y) == [point.faithfulness for point in points]
            assert list(bands[arm].y) == [point.high for point in points] + [point.low for point in points[::-1]]
        assert len({(line.line.color, line.line.dash, line.marker.symbol) for line in lines.values()}) == len(arms)


def test_axes_are_logarithmic_with_the_published_shares(make_circuit: Callable[..., Circuit]) -> None:
    figure = edge_curve(make_circuit().curve)
    assert figure.layout.xaxis.type == "log"
    assert list(figure.layout.xaxis.ticktext) == ["0.1", "0.2", "0.5", "1", "2", "5", "10", "20", "50", "100"]
    heads = head_curve(make_circuit().curve).layout.xaxis
    assert heads.type == "log"
    assert list(heads.ticktext) == ["1", "2", "5", "10", "20", "50", "100", "270"]


def test_whole_and_nothing_are_lines(make_circuit: Callable[..., Circuit]) -> None:
    curve = make_circuit().curve
    for figure, nothing in ((head_curve(curve), "all heads replaced"), (edge_curve(curve), "everything corrupted")):
        assert [shape.y0 for shape in figure.layout.shapes] == [1, 0]
        assert [note.text for note in figure.layout.annotations] == ["the whole model", nothing]


def test_points_in_words() -> None:
    assert told(CurvePoint("heads", 1, 1, 0.52, 0.45, 0.6)) == "1 head: 0.52 [0.45, 0.60]"
    assert told(CurvePoint("random_edges", 0.02, 1234, 0.5, 0.4, 0.6)) == "2 %, 1,234 edges: 0.50 [0.40, 0.60]"


def test_points_of_no_size_have_no_place_on_the_axis() -> None:
    points = [CurvePoint("heads", 0, 0, 0.0, 0.0, 0.0), CurvePoint("heads", 1, 1, 0.5, 0.4, 0.6)]
    line = next(trace for trace in head_curve(points).data if trace.fill is None)
    assert list(line.x) == [1]


def test_sizes_that_would_overlap_on_the_axis_are_not_named():
    points = [CurvePoint("heads", size, size, 0.5, 0.4, 0.6) for size in (1, 2, 5, 10, 20, 27, 28, 31, 35, 50, 270)]
    axis = head_curve(points).layout.xaxis
    assert list(axis.tickvals) == [1, 2, 5, 10, 20, 35, 270]
    assert list(axis.ticktext)[-1] == "270"
