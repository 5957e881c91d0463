"""Two metrics of a head table against each other: intervals, roles, the heads that stand out."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probe.columns import describe
from probe.page.telling import names
from probe.plots.heads import hovers, require, whose
from probe.plots.style import COLOURS, GREY, SYMBOLS, look, name_points, titled, veil
from probe.rank_correlation import rank_correlation
from probe.roles import RULES
from probe.table import HeadTable
from probe.text import number

PLAIN = "no role"
_LOOKS = {role: (COLOURS[index], SYMBOLS[index]) for index, role in enumerate(RULES)}


def scatter(
    table: HeadTable, x: str, y: str, labels: int = 8, tokens: Sequence[Sequence[str]] | None = None
) -> go.Figure:
    """Two metrics against each other, one point a head, in the colour and shape of its first role.

    Faint bars: 95 % intervals. Named: the heads farthest from the two medians, at most `labels`. The title has
    Spearman's rank correlation over all heads with its interval (`rank_correlation`). tokens: as in
    `heads.head_map`. Raises ResultsError for a metric that the table does not have.
    """
    require(table, x, y)
    frame = table.frame.reset_index(drop=True)
    roles, text = [roles[0] if roles else "" for roles in frame["roles"]], hovers(table, x, y, tokens=tokens)
    points = pd.DataFrame({"x": frame[x], "y": frame[y], "role": roles, "name": names(frame), "text": text})
    figure = go.Figure()
    for role in ["", *(role for role in RULES if role in set(points["role"]))]:
        mine = points[points["role"] == role]
        if not len(mine):
            continue
        colour, symbol = _LOOKS.get(role, (GREY, "circle-open"))
        figure.add_scatter(
            x=mine["x"], y=mine["y"], mode="markers", name=f"{role.replace('_', ' ') or PLAIN} ({len(mine)})",
            text=mine["text"], hovertemplate="%{text}<extra></extra>",
            error_x=_bar(frame, x, mine.index, colour), error_y=_bar(frame, y, mine.index, colour),
            marker={"color": colour, "symbol": symbol, "size": 8, "opacity": 0.85},
        )  # fmt: skip
    across, up = (html.escape(f"{column}, {describe(column, table.metadata).unit}") for column in (x, y))
    look(figure, across, up, height=460)
    both = points.dropna(subset=["x", "y"]).set_index("name")[["x", "y"]]
    name_points(figure, both, _outliers(both, labels))
    found = rank_correlation(frame[x].to_numpy(dtype=float), frame[y].to_numpy(dtype=float))
    spread = "" if np.isnan(found.low) else f" [{number(found.low)}, {number(found.high)}]"
    note = f"One point a head{whose(table)}; {found.n} heads. Bars: 95 % intervals. A head with several roles has the"
    return titled(figure, f"{x} and {y}: rank correlation {number(found.value)}{spread}", f"{note} first one's colour")


def _bar(frame: pd.DataFrame, column: str, rows: pd.Index, colour: str) -> dict[str, object] | None:
    """Faint interval bars; none where the metric has no interval."""
    if f"{column}_low" not in frame:
        return None
    value, low, high = (frame.loc[rows, name].to_numpy(dtype=float) for name in
                        (column, f"{column}_low", f"{column}_high"))  # fmt: skip
    return {"type": "data", "symmetric": False, "array": np.maximum(high - value, 0), "width": 0, "thickness": 1,
            "arrayminus": np.maximum(value - low, 0), "color": veil(colour, 0.35)}  # fmt: skip


def _outliers(both: pd.DataFrame, count: int) -> list[str]:
    """Names of the points farthest from the medians, in spans of the axes, farthest first."""
    span = (both.max() - both.min()).replace(0, 1)
    away = (((both - both.median()) / span) ** 2).sum(axis=1)
    return list(away.sort_values(ascending=False, kind="stable").index[:count])
