from __future__ import annotations

from dataclasses import replace

from probe.analyses.circuit_tests import Completeness, Difference, Minimality
from probe.plots.circuit_tests import beside, completeness_scatter, minimality_marks, needed, removed_words

NOTHING = Completeness("none", "", (), 4.0, 5.0, Difference(-1.0, -1.2, -0.8, -0.2))
ROLE = Completeness("group", "s_inhibition", ((1, 2), (3, 4)), 0.5, 2.5, Difference(-2.0, -2.3, -1.7, -0.4))
DRAW = Completeness("random", "3", (), 3.9, 4.0, Difference(-0.1, -0.3, 0.1, -0.02))
HEADS = (
    Minimality((1, 2), "none", (), Difference(0.1, -0.1, 0.3, 0.02)),
    Minimality((3, 4), "s_inhibition", ((1, 2),), Difference(1.5, 1.2, 1.8, 0.3)),
    Minimality((5, 6), "random 2", ((1, 2),), Difference(-0.5, -0.7, -0.3, -0.1)),
)


def test_every_set_is_a_point_of_its_kind() -> None:
    line, *points = completeness_scatter([NOTHING, ROLE, DRAW], "logit_diff").data
    assert list(line.x) == list(line.y) == [0.5, 5.0]
    assert [(trace.name, trace.x[0], trace.y[0]) for trace in points] == [
        ("nothing", 5.0, 4.0), ("a role", 2.5, 0.5), ("random heads", 4.0, 3.9),
    ]  # fmt: skip
    assert points[1].text[0].startswith("S-inhibition: L1H2, L3H4<br>circuit 0.50, model 2.50")
    assert len({trace.marker.symbol for trace in points}) == 3
    (named,) = completeness_scatter([NOTHING, ROLE, DRAW], "logit_diff").layout.annotations
    assert (named.text, named.x, named.y) == ("S-inhibition", 2.5, 0.5)


def test_sets_in_words() -> None:
    words = [removed_words(one) for one in (NOTHING, ROLE, DRAW)]
    assert words == ["nothing", "S-inhibition: L1H2, L3H4", "random 3: none"]
    hostile = replace(ROLE, name="<img>")
    assert "&lt;img&gt;" in completeness_scatter([hostile], "logit_diff").data[1].text[0]


def test_heads_stand_by_what_they_are_worth() -> None:
    points = minimality_marks(HEADS, "logit_diff").data[-1]
    assert list(points.y) == ["L3H4", "L1H2", "L5H6"]
    assert [colour == "white" for colour in points.marker.color] == [False, True, False]
    assert [needed(one) for one in HEADS] == [False, True, True]
    assert [beside(one) for one in HEADS] == [
        "with all others there", "with S-inhibition gone", "with random 2 gone",
    ]  # fmt: skip


def test_nothing_measured_is_an_empty_figure() -> None:
    assert len(completeness_scatter([], "logit_diff").data) == 1
