from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from probe.analyses.effect_columns import summary
from probe.analyses.effects import Effects
from probe.analyses.removal_curve import RemovalCurve
from probe.analyses.units import Unit
from probe.errors import ResultsError
from probe.plots import ablation as plots
from probe.studies.task_study import TaskStudy


def test_the_map_is_centred_on_zero_and_marks_what_passes(ablation_study: TaskStudy) -> None:
    effects, numbers = ablation_study.effects[0], ablation_study.numbers[0]
    heat, marks = plots.effect_map(effects.units, numbers, "logit_diff").data
    assert np.asarray(heat.z).ravel().tolist() == numbers["effect"].tolist()
    assert heat.zmax == -heat.zmin == numbers["effect"].abs().max()
    assert heat.colorbar.title.text == "logits"
    passed = {(int(y), int(x)) for x, y in zip(marks.x, marks.y, strict=True)}
    assert passed == {effects.units[row].heads[0] for row in numbers.index[numbers["effect_q"] < 0.05]}
    assert {(18, 6), (25, 1)} <= passed
    assert heat.text[18][6].startswith("<b>L18H6</b><br>effect 1.83 [")
    assert "q = 0.002" in heat.text[18][6]


def test_layer_0_is_on_top_and_nothing_but_cells_is_drawn(ablation_study: TaskStudy) -> None:
    layout = plots.effect_map(ablation_study.effects[0].units, ablation_study.numbers[0], "logit_diff").layout
    assert layout.yaxis.range == (29.5, -0.5)
    assert layout.xaxis.range == (-0.5, 8.5)


def test_a_group_fills_the_cells_of_its_heads(make_effects: Callable[..., Effects]) -> None:
    whole = make_effects()
    units = (Unit("L0G0", "kv_group", ((0, 0), (0, 1), (0, 2))), Unit("L0G1", "kv_group", ((0, 3), (0, 4), (0, 5))))
    part = replace(whole, units=units, ablated=whole.ablated[:2])
    heat = plots.effect_map(units, summary(part), "logit_diff").data[0]
    assert np.asarray(heat.z).tolist() == [[part.effect[0].mean()] * 3 + [part.effect[1].mean()] * 3]
    assert heat.text[0][4].startswith("<b>L0G1</b>")
    twice = (units[0], replace(units[1], heads=((0, 2), (0, 3))))
    with pytest.raises(ResultsError, match="L0G1 and L0G0 share a head"):
        plots.effect_map(twice, summary(replace(part, units=twice)), "logit_diff")


def test_what_was_not_measured_is_blank(make_effects: Callable[..., Effects]) -> None:
    some = make_effects("hybrid", measured=12)
    heat = plots.effect_map(some.units, summary(some), "logit_diff").data[0]
    assert np.isfinite(np.asarray(heat.z)).sum() == 12
    none = replace(some, ablated=np.full_like(some.ablated, np.nan))
    assert plots.effect_map(none.units, summary(none), "accuracy").data[0].zmax == 1


def test_ranking_is_by_size_with_intervals(ablation_study: TaskStudy) -> None:
    numbers = ablation_study.numbers[0]
    figure = plots.ranked_effects(numbers, "logit_diff", 6)
    points = figure.data[-1]
    assert list(points.y) == ["L18H6", "L20H3", "L25H1", "L17H2", "L22H7", "L12H8"]
    assert np.asarray(points.x)[2] < 0
    assert points.marker.color[2] == plots.HURTS
    first = numbers[numbers["name"] == "L18H6"].iloc[0]
    assert list(figure.data[0].x) == [first["effect_low"], first["effect_high"]]
    quiet = plots.ranked_effects(numbers.assign(effect_q=0.5), "logit_diff", 3).data[-1]
    assert set(quiet.marker.color) == {"white"}


def lines(curve: RemovalCurve) -> dict[tuple[str, str], Any]:
    """Traces with points by name and dash."""
    traces = [trace for trace in plots.removal(curve, "logit_diff").data if trace.fill is None]
    return {(trace.name, trace.line.dash): trace for trace in traces}


def test_removal_draws_every_order_and_the_clean_line(make_curve: Callable[..., RemovalCurve]) -> None:
    curve = make_curve()
    drawn = lines(curve)
    assert set(drawn) == {
        ("random heads (5 draws)", "solid"), ("best first", "solid"), ("best last", "dash"), ("nothing removed", "dot"),
    }  # fmt: skip
    mean = curve.summary().set_index(["order", "k"])["value"]
    assert list(drawn["best first", "solid"].y) == mean["ranked"].tolist()
    # Means of means in another order: a few units in the last place.
    np.testing.assert_allclose(drawn["random heads (5 draws)", "solid"].y, mean["random"], rtol=1e-12)
    assert drawn["best first", "solid"].x[-1] == 100
    assert set(drawn["nothing removed", "dot"].y) == {curve.frame.loc[curve.frame["k"] == 0, "value"].mean()}


def test_several_criteria_have_a_line_each_and_one_random_band(make_curve: Callable[..., RemovalCurve]) -> None:
    names = [f"c{number}" for number in range(10)]
    drawn = lines(make_curve(tuple(names), draws=2))
    assert ("random heads (20 draws)", "solid") in drawn
    looks = {(drawn[name, "solid"].line.color, drawn[name, "solid"].marker.symbol) for name in names}
    assert len(looks) == 10
    assert plots.GREY not in {colour for colour, _ in looks}
    # One entry of the legend a criterion, whichever way round its heads go.
    assert [drawn[name, "solid"].showlegend for name in names] == [True] * 10
    assert [drawn[name, "dash"].showlegend for name in names] == [False] * 10
    filled = [trace for trace in plots.removal(make_curve(("a", "b")), "accuracy").data if trace.fill == "toself"]
    assert len(filled) == 1


def test_scatter_names_the_outliers_beside_the_line(ablation_study: TaskStudy) -> None:
    exact, gradient = ablation_study.effects
    figure = plots.estimate_scatter(gradient, exact, "logit_diff")
    line, points = figure.data
    assert list(line.x) == list(line.y)
    assert len(points.x) == 270
    place = [unit.name for unit in exact.units].index("L20H3")
    assert points.x[place] == pytest.approx(gradient.effect[place].mean())
    assert points.y[place] == pytest.approx(exact.effect[place].mean())
    named = [note.text for note in figure.layout.annotations]
    assert named[0] == "L20H3"
    assert "L6H6" not in named


def test_labels_never_cover_each_other(make_effects: Callable[..., Effects]) -> None:
    exact, gradient = make_effects(), make_effects("gradient")
    ablated = exact.ablated.copy()
    ablated[:2] = exact.clean - 9  # two heads with one effect, far off the line
    notes = plots.estimate_scatter(gradient, replace(exact, ablated=ablated), "logit_diff").layout.annotations
    named = {note.text for note in notes}
    assert len(named & {"L0H0", "L0H1"}) == 1


def test_figures_of_equal_input_are_equal_bytes(
    ablation_study: TaskStudy, make_curve: Callable[..., RemovalCurve]
) -> None:
    first, second = (plots.removal(make_curve(), "logit_diff").to_json() for _ in range(2))
    assert first == second
