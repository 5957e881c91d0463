"""Numbers beside what chance gives: one line each, with its interval and the spread of random draws."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from probe.plots.style import COLOURS, GREY, INK, look, titled
from probe.text import number

if TYPE_CHECKING:
    from probe.analyses.overlap import Overlap
    from probe.analyses.overlap_chance import Measure
    from probe.analyses.repair import Repair
    from probe.analyses.transfer import PartEffect, Transfer


@dataclass(frozen=True)
class Beside:
    """A number and its chance level.

    low, high: its interval, NaN where there is none. chance_low, chance_high: the range that chance gives. marks:
    single draws, or the value expected by chance. p: one-sided, NaN where not tested.
    """

    label: str
    value: float
    low: float
    high: float
    chance_low: float
    chance_high: float
    marks: tuple[float, ...] = ()
    p: float = np.nan

    @property
    def above(self) -> bool:
        """Whether the number, or its whole interval where it has one, lies above the chance range."""
        return (self.value if np.isnan(self.low) else self.low) > self.chance_high


def beside_chance(rows: Sequence[Beside], axis: str) -> go.Figure:
    """One line a number: a dot with its interval, over a grey bar that spans chance; filled where it lies above."""
    places = list(range(len(rows)))
    figure = go.Figure()
    spans = (("chance", "#c3cad1", 12, [(row.chance_low, row.chance_high) for row in rows]),
             ("interval", COLOURS[0], 2, [(row.low, row.high) for row in rows]))  # fmt: skip
    for name, colour, width, ends in spans:
        figure.add_scatter(
            x=[value for low, high in ends for value in (low, high, None)], mode="lines", name=name, hoverinfo="skip",
            y=[value for place in places for value in (place, place, None)], showlegend=False,
            line={"color": colour, "width": width},
        )  # fmt: skip
    figure.add_scatter(
        x=[mark for row in rows for mark in row.marks], y=[place for place in places for _ in rows[place].marks],
        mode="markers", name="marks", hoverinfo="skip", showlegend=False,
        marker={"symbol": "line-ns-open", "color": GREY, "size": 12},
    )  # fmt: skip
    figure.add_scatter(
        x=[row.value for row in rows], y=places, mode="markers", name="found", showlegend=False,
        text=[_told(row) for row in rows], hovertemplate="%{text}<extra></extra>",
        marker={"size": 10, "line": {"color": COLOURS[0], "width": 2},
                "color": [COLOURS[0] if row.above else "white" for row in rows]},
    )  # fmt: skip
    look(figure, html.escape(axis), "", height=110 + 34 * len(rows))
    figure.add_vline(x=0, line={"color": INK, "width": 1})
    reach = [0.0, *(end for row in rows for end in (row.value, row.low, row.high, row.chance_low, row.chance_high))]
    low, high = float(np.nanmin(reach)), float(np.nanmax(reach))
    figure.update_xaxes(range=[low - 0.04 * (high - low), high + 0.04 * (high - low)])
    labels = [html.escape(row.label, quote=False) for row in rows]
    return figure.update_yaxes(tickvals=places, ticktext=labels, range=[len(rows) - 0.4, -0.6], title=None)


def _told(row: Beside) -> str:
    spread = "" if np.isnan(row.low) else f" [{number(row.low)}, {number(row.high)}]"
    lines = [f"<b>{html.escape(row.label)}</b>", f"{number(row.value)}{spread}",
             f"by chance {number(row.chance_low)} to {number(row.chance_high)}"]  # fmt: skip
    return "<br>".join([*lines, *([] if np.isnan(row.p) else [f"p = {number(row.p)}"])])


def transfer_draws(found: Transfer) -> go.Figure:
    """How faithful a circuit's heads are on a task, beside as many random heads of the same layers."""
    whose = f"heads of {found.source}" if found.source else "the heads"
    row = Beside(f"{whose} ({len(found.heads)})", found.faithfulness, found.low, found.high, found.random.min(),
                 found.random.max(), tuple(found.random.tolist()), found.p_value)  # fmt: skip
    figure = beside_chance([row], f"faithfulness on {found.task} (1: the whole model, 0: all heads replaced)")
    return titled(figure, f"{whose.capitalize()} on {found.task}", _draws(len(found.random)))


def part_draws(found: PartEffect) -> go.Figure:
    """What a task loses without a part of two circuits' heads, beside as many random heads of the same layers."""
    words = {"shared": "the shared heads", "only_a": "the heads of A alone", "only_b": "the heads of B alone"}
    random = found.random if len(found.random) else np.array([np.nan])
    row = Beside(f"{words[found.part]} ({len(found.heads)})", found.effect, found.low, found.high, random.min(),
                 random.max(), tuple(found.random.tolist()), found.p_value)  # fmt: skip
    figure = beside_chance([row], "lost, in the metric's unit")
    return titled(figure, f"{found.task} without {words[found.part]}", _draws(len(found.random)))


def repair_draws(found: Repair) -> go.Figure:
    """Accuracy before and after heads are forced, beside random heads forced alike."""
    before, after = found.forced.accuracy()
    draws = found.random_correct
    rows = [
        Beside("as it is", before.mean, before.low, before.high, np.nan, np.nan),
        Beside(f"{len(found.path)} heads forced", after.mean, after.low, after.high, draws.min(), draws.max(),
               tuple(draws.tolist()), found.p_value),
    ]  # fmt: skip
    figure = beside_chance(rows, "accuracy, on prompts that the search did not see").update_xaxes(range=[-0.02, 1.02])
    return titled(figure, f"{found.task} with heads made to look elsewhere", _draws(len(draws)))


def overlap_measures(found: Overlap) -> go.Figure:
    """Every measure of what two circuits share, as a share of 1, beside chance.

    Shared heads are a share of A's; their line spans the resampled prompts (`Noise`), where those are known. Grey:
    the central 95 % of the draws of random circuits; tick: their mean.
    """
    size, nan, noise = len(found.heads_a), float("nan"), found.noise
    spread = (nan, nan) if noise is None else (noise.low / size, noise.high / size)
    rows = [_measure(f"heads: {len(found.shared)} of {found.task_a}'s {size}", found.count, 1 / size, spread)]
    if found.edges is not None and found.edges.size_a:
        edges, label = found.edges, f"edges: {found.edges.shared.value:,.0f} of {found.task_a}'s {found.edges.size_a:,}"
        rows.append(_measure(label, edges.shared, 1 / edges.size_a))
    named = (("scores above 0, weighted Jaccard", found.weighted_jaccard),
             ("order of the scores, rank-biased overlap", found.rank_biased),
             ("order of all scores, Spearman", found.spearman))  # fmt: skip
    rows += [_measure(label, measure) for label, measure in named]
    figure = beside_chance(rows, "share in common, or correlation")
    return titled(figure, f"What {found.task_a} and {found.task_b} share", found.sentence)


def _measure(label: str, measure: Measure, unit: float = 1.0, spread: tuple[float, float] = (np.nan, np.nan)) -> Beside:
    ends = (measure.value * unit, *spread, measure.low * unit, measure.high * unit)
    return Beside(label, *ends, (measure.expected * unit,), measure.p_value)


def _draws(count: int) -> str:
    chance = f"Grey: {count} draws of random heads of the same layers and their range. Filled: above all draws"
    return f"Line: 95 % interval over prompts. {chance}"
