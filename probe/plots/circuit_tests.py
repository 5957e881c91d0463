"""Whether a head circuit lacks something, and whether it holds too much: completeness and minimality, drawn."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd
import plotly.graph_objects as go

from probe.columns import METRIC_UNITS
from probe.plots.circuit import role_words
from probe.plots.style import COLOURS, GREY, INK, look, name_points, titled
from probe.table import head_name
from probe.text import number

if TYPE_CHECKING:
    from probe.analyses.circuit_tests import Completeness, Difference, Minimality

KINDS = {"none": "nothing", "group": "a role", "random": "random heads", "greedy": "chosen to part them"}
_LOOKS = {
    "none": (INK, "x"), "group": (COLOURS[0], "circle"), "random": (GREY, "square"),
    "greedy": (COLOURS[1], "diamond"),
}  # fmt: skip


def completeness_scatter(found: Sequence[Completeness], metric: str) -> go.Figure:
    """The circuit's metric without K against the model's, one point a set K of heads (Wang et al. 2022, figure 7).

    On the dotted line the circuit does without K what the model does. Roles are named.
    """
    figure = go.Figure()
    values = [value for one in found for value in (one.circuit, one.model)]
    ends = [min(values), max(values)] if values else [0.0, 1.0]
    figure.add_scatter(
        x=ends, y=ends, mode="lines", name="equal", hoverinfo="skip", line={"color": INK, "width": 1, "dash": "dot"}
    )
    for kind, (colour, symbol) in _LOOKS.items():
        part = [one for one in found if one.kind == kind]
        if part:
            figure.add_scatter(
                x=[one.model for one in part], y=[one.circuit for one in part], mode="markers", name=KINDS[kind],
                text=[html.escape(removed_words(one)) + "<br>" + _told(one) for one in part],
                hovertemplate="%{text}<extra></extra>",
                marker={"color": colour, "symbol": symbol, "size": 9, "opacity": 0.85},
            )  # fmt: skip
    points = pd.DataFrame({"x": [one.model for one in found], "y": [one.circuit for one in found]}, index=[
        html.escape(role_words(one.name)) if one.kind == "group" else f"{one.kind} {one.name}" for one in found
    ])  # fmt: skip
    name_points(figure, points, [name for name, one in zip(points.index, found, strict=True) if one.kind == "group"])
    unit = METRIC_UNITS.get(metric, metric)
    look(figure, f"the model without them, {unit}", f"the circuit without them, {unit}", height=420)
    note = "One point a set of heads that is taken away from both; on the dotted line both do the same without it"
    return titled(figure, "Completeness: the circuit against the model", note)


def removed_words(one: Completeness) -> str:
    """Which heads were taken away: the role or the draw, and the heads."""
    if one.kind == "none":
        return KINDS["none"]
    label = role_words(one.name) if one.kind == "group" else f"{one.kind} {one.name}"
    return f"{label}: {', '.join(head_name(*head) for head in one.removed) or 'none'}"


def spread_words(difference: Difference) -> str:
    """`0.31 [0.22, 0.40]`."""
    return f"{number(difference.mean)} [{number(difference.low)}, {number(difference.high)}]"


def _told(one: Completeness) -> str:
    return f"circuit {number(one.circuit)}, model {number(one.model)}<br>difference {spread_words(one.difference)}"


def minimality_marks(found: Sequence[Minimality], metric: str) -> go.Figure:
    """What every head is worth to the circuit where that is most, with its interval; filled: 0 is not in it."""
    ordered = sorted(found, key=lambda one: -one.loss.mean)
    names = [head_name(*one.head) for one in ordered]
    figure = go.Figure()
    for name, one in zip(names, ordered, strict=True):
        figure.add_scatter(
            x=[one.loss.low, one.loss.high], y=[name] * 2, mode="lines", showlegend=False, hoverinfo="skip",
            line={"color": COLOURS[0], "width": 2},
        )  # fmt: skip
    figure.add_scatter(
        x=[one.loss.mean for one in ordered], y=names, mode="markers", showlegend=False,
        text=[f"{spread_words(one.loss)}<br>{html.escape(beside(one))}" for one in ordered],
        hovertemplate="<b>%{y}</b> %{text}<extra></extra>",
        marker={"size": 10, "line": {"color": COLOURS[0], "width": 2},
                "color": [COLOURS[0] if needed(one) else "white" for one in ordered]},
    )  # fmt: skip
    look(figure, f"lost without the head, {METRIC_UNITS.get(metric, metric)}", "", height=110 + 20 * len(ordered))
    low, high = min([0.0, *(one.loss.low for one in ordered)]), max([0.0, *(one.loss.high for one in ordered)])
    figure.update_xaxes(range=[low - 0.03 * (high - low), high + 0.03 * (high - low)])
    figure.add_vline(x=0, line={"color": INK, "width": 1})
    figure.update_yaxes(type="category", title=None, dtick=1, range=[len(ordered) - 0.4, -0.6])
    note = "What the circuit loses without it, beside the heads whose absence makes that most; 95 % intervals"
    return titled(figure, "Minimality: what each head is worth", f"{note}. Filled: 0 is not in it")


def needed(one: Minimality) -> bool:
    """Whether the interval of what the head is worth leaves out 0."""
    return one.loss.low > 0 or one.loss.high < 0


def beside(one: Minimality) -> str:
    """What was gone when the head was worth most."""
    return "with all others there" if one.group == "none" else f"with {role_words(one.group)} gone"
