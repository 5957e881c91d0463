"""Figures of a head table: the layer × head map of a metric, and the heads that have most of it."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from probe.columns import describe
from probe.errors import ResultsError
from probe.page.telling import names
from probe.plots.cells import cell_map, told_from_zero
from probe.plots.style import COLOURS, FAINT, look, titled
from probe.table import HeadTable
from probe.text import number, show_token, with_interval


def require(table: HeadTable, *metrics: str) -> None:
    """Raises ResultsError, by name, for a metric that the table does not have."""
    for metric in metrics:
        if metric not in table.metrics:
            raise ResultsError(f"no metric {metric!r} in this table; it has {', '.join(table.metrics)}")


def whose(table: HeadTable) -> str:
    """` of SmolLM2`: the table's model for the end of a phrase; empty where it is not recorded."""
    return f" of {table.metadata['model']}" if table.metadata.get("model") else ""


def hovers(table: HeadTable, *columns: str, tokens: Sequence[Sequence[str]] | None = None) -> list[str]:
    """Of every row: head, each number with its interval, p and q where there are any, roles, its strongest pair.

    tokens: token strings of each scanned sequence, to name the tokens of the pair (of the first sequence).
    """
    frame = table.frame
    told = []
    for row, name in enumerate(names(frame)):
        lines = [f"<b>{name}</b>"]
        for column in columns:
            lines.append(f"{html.escape(column)} {with_interval(frame, row, column)}")
            q = float(frame[f"{column}_q"][row]) if f"{column}_q" in frame else np.nan
            if not np.isnan(q):
                lines.append(f"p = {number(float(frame[f'{column}_p'][row]))}, q = {number(q)}")
        lines += [", ".join(frame["roles"][row])] if frame["roles"][row] else []
        told.append("<br>".join([*lines, *_pair(table, row, tokens)]))
    return told


def _pair(table: HeadTable, row: int, tokens: Sequence[Sequence[str]] | None) -> list[str]:
    """`strongest: ␣Mary (412) → ␣John (57), weight 0.93`, query and key; nothing where a scan kept no pairs."""
    if not table.has_profile("pair_query", row):
        return []
    query, key, weight = (table.profile(f"pair_{part}", row)[0] for part in ("query", "key", "weight"))
    if query < 0:
        return []
    text = [f"{html.escape(show_token(tokens[0][place]))} ({place:,})" if tokens else f"{place:,}"
            for place in (int(query), int(key))]  # fmt: skip
    return [f"strongest: {text[0]} → {text[1]}, weight {number(float(weight))}"]


def head_map(table: HeadTable, column: str, tokens: Sequence[Sequence[str]] | None = None) -> go.Figure:
    """Layer × head map of a metric, of the first stack and kind: heads on x, layers on y, layer 0 on top.

    Blank (sand) cells are heads where the metric is not defined. Signed metrics are centred on 0. Triangles mark
    heads that are told from 0 (`cells.told_from_zero`): filled where q < 0.05, open where there is no q and the
    interval leaves out 0. tokens: token strings of each scanned sequence; the hover names those of a head's strongest
    pair. Raises ResultsError for a metric that the table does not have.
    """
    require(table, column)
    signs, corrected = told_from_zero(table.frame, column)
    frame = table.frame.assign(_hover=hovers(table, column, tokens=tokens), _sign=signs)
    first = frame.iloc[0]
    frame = frame[(frame["stack"] == first["stack"]) & (frame["kind"] == first["kind"])]
    values, text, marks = (frame.pivot(index="layer", columns="head", values=name) for name in
                           (column, "_hover", "_sign"))  # fmt: skip
    about = describe(column, table.metadata)
    figure = cell_map(
        [int(layer) for layer in values.index], [int(head) for head in values.columns], values.to_numpy(dtype=float),
        text.to_numpy(), html.escape(about.unit), marks.fillna(0).to_numpy(dtype=int), corrected=corrected,
    )  # fmt: skip
    note = f"{column}, every head{whose(table)}" + "; sand: not defined" * bool(frame[column].isna().any())
    return titled(figure, about.title, note)


def ranked(
    table: HeadTable,
    column: str,
    count: int = 15,
    control: str | None = None,
    tokens: Sequence[Sequence[str]] | None = None,
) -> go.Figure:
    """The heads with the highest values of a metric, with intervals; `control`: a second metric beside it.

    tokens: as in `head_map`. Raises ResultsError for a metric that the table does not have.
    """
    require(table, column, *([] if control is None else [control]))
    frame = table.frame.reset_index(drop=True)
    top = frame[column].dropna().sort_values(ascending=False, kind="stable").index[:count]
    labels = np.array(names(frame))[top]
    figure = go.Figure()
    hover = hovers(table, *(metric for metric in (column, control) if metric is not None), tokens=tokens)
    for metric, colour, symbol in ((column, COLOURS[0], "circle"), (control, COLOURS[1], "diamond-open")):
        if metric is None:
            continue
        chosen = frame.loc[top]
        low, high = (chosen.get(f"{metric}_{end}", chosen[metric]) for end in ("low", "high"))
        spread = {
            "array": (high - chosen[metric]).clip(lower=0).to_numpy(),
            "arrayminus": (chosen[metric] - low).clip(lower=0).to_numpy(),
        }
        figure.add_scatter(
            x=chosen[metric],
            y=labels,
            mode="markers",
            name=html.escape(metric),
            marker={"color": colour, "symbol": symbol, "size": 9, "line": {"width": 2, "color": colour}},
            error_x={"symmetric": False, "thickness": 1.4, "color": colour, **spread},
            text=[hover[row] for row in top],
            hovertemplate="%{text}<extra></extra>",
        )
    about = describe(column, table.metadata)
    spread_words = " (95 % interval)" if f"{column}_low" in frame else ""
    look(figure, f"{html.escape(about.unit)}{spread_words}", "", height=110 + 22 * len(top))
    figure.update_yaxes(autorange="reversed", type="category", title=None, dtick=1, gridcolor=FAINT)
    figure.update_xaxes(rangemode="tozero")
    note = f"{column}: the {len(top)} highest of {int(frame[column].notna().sum())} heads{whose(table)}"
    return titled(figure, about.title, note)
