"""Where heads look: attention by distance, what each position receives, and small pictures of whole maps."""

from __future__ import annotations

import html
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probe.errors import ResultsError
from probe.page.telling import names, one_each, telling
from probe.page.thumbnails import FLOOR, palette
from probe.plots.heads import whose
from probe.plots.style import COLOURS, FAINT, INK, line_of, look, titled
from probe.table import HeadTable
from probe.text import show_token, tokens_in_words

LINES = len(COLOURS)
"""Heads in one figure of lines: as many as there are colours."""
_CHARACTER = 0.0085
"""Width of a letter of a peak's name, as a share of the axis at 900 pixels."""
SEEN = 32
"""Queries that must see a position before its peak is named, as for `sink_other`: means over few are noise."""


def _chosen(table: HeadTable, profile: str, rows: Sequence[int] | None, most: int) -> tuple[list[int], list[str]]:
    """The rows to draw and their names; None: the telling heads, one a behaviour, with what each stands for."""
    labels = names(table.frame)
    if rows is not None:
        return list(rows), [labels[row] for row in rows]
    told = one_each([head for head in telling(table) if table.has_profile(profile, head.row)], most)
    if not told:
        raise ResultsError(f"no profile {profile!r} of a telling head in this table; it has {sorted(table.profiles)}")
    return [head.row for head in told], [f"{head.name} {head.why[0]}" for head in told]


def offset_spectrum(
    table: HeadTable, rows: Sequence[int] | None = None, labels: Sequence[str] | None = None
) -> go.Figure:
    """How far back some heads look: attention by distance, in doubling bins.

    rows: of the table; None: one head for each behaviour (`telling`). labels: default, the names. Raises ResultsError
    where the table has no `offset_mass`.
    """
    chosen, legend = _chosen(table, "offset_mass", rows, LINES)
    legend = legend if labels is None else list(labels)
    spectra = [table.profile("offset_mass", row) for row in chosen]
    bins = ["0", "1"] + [f"{2 ** (b - 1)}–{2**b - 1}" for b in range(2, len(spectra[0]))]
    figure = go.Figure()
    for index, (mass, label) in enumerate(zip(spectra, map(html.escape, legend), strict=True)):
        figure.add_scatter(
            x=bins, y=mass, name=label, mode="lines+markers", line=line_of(index), marker={"size": 5},
            hovertemplate=f"<b>{label}</b><br>distance %{{x}}: %{{y:.3f}}<extra></extra>",
        )  # fmt: skip
    look(figure, "distance back, tokens", "share of attention", height=400)
    figure.update_xaxes(type="category", tickangle=-40)
    figure.update_yaxes(rangemode="tozero")
    note = f"Heads{whose(table)}: share of attention by distance, in bins that double"
    return titled(figure, "How far back heads look", note)


def received(
    table: HeadTable,
    rows: Sequence[int] | None = None,
    labels: Sequence[str] | None = None,
    tokens: Sequence[Sequence[str]] | None = None,
    points: int = 360,
    named: int = 6,
) -> go.Figure:
    """What each position receives: α_k, both axes logarithmic; bins (from position 16 on) show their peak.

    Values under 0.00001 are below the frame. The `named` highest peaks after position 0 that `SEEN` queries see carry
    their token (of two sequences, two), or their position where tokens are not given; of peaks whose names would touch
    the higher is named.

    rows: of the table; None: one head for each behaviour (`telling`). labels: default, the names. tokens: token
    strings of each sequence; the hover then names what stands at the position in some of them. Raises ResultsError
    where the table has no `received`.
    """
    chosen, legend = _chosen(table, "received", rows, LINES)
    legend = legend if labels is None else list(labels)
    profiles = [table.profile("received", row) for row in chosen]
    edges = _edges(len(profiles[0]), points)
    figure, tops = go.Figure(), list[tuple[float, int]]()
    for index, (profile, label) in enumerate(zip(profiles, map(html.escape, legend), strict=True)):
        peaks = [first + _peak(profile[first:last]) for first, last in pairwise(edges)]
        there = [f"position {peak}{_tokens_at(tokens, peak)}" for peak in peaks]
        figure.add_scatter(
            x=[peak + 1 for peak in peaks], y=profile[peaks], mode="lines", line=line_of(index), name=label,
            text=there, hovertemplate=f"<b>{label}</b><br>%{{text}}<br>α %{{y:.4f}}<extra></extra>",
        )  # fmt: skip
        seen = [peak for peak in peaks if 0 < peak <= len(profile) - SEEN and profile[peak] > 0]
        tops += [(float(profile[peak]), peak) for peak in seen]
    look(figure, "position in the sequence", "attention received, α", height=420)
    _name_peaks(figure, sorted(tops, key=lambda top: (-top[0], top[1])), tokens, named, edges[-1])
    marks = [mark for mark in (0, 1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000) if mark < edges[-1]]
    figure.update_xaxes(type="log", tickvals=[mark + 1 for mark in marks], ticktext=[f"{mark:,}" for mark in marks])
    figure.update_yaxes(type="log", exponentformat="power", dtick=1, range=[-5, 0.3])
    note = f"Heads{whose(table)}: mean attention from the queries that can see a position; the highest peaks are named"
    return titled(figure, "What each position receives", note)


def _name_peaks(
    figure: go.Figure, tops: Sequence[tuple[float, int]], tokens: Sequence[Sequence[str]] | None, most: int,
    length: int,
) -> None:  # fmt: skip
    """Write the token above the highest peaks (value, position), highest first, where no name stands yet."""
    placed: list[tuple[float, float, float]] = []
    for value, position in tops:
        if len(placed) == most:
            return
        text = _short(tokens, position)
        x, y, half = np.log(position + 1) / np.log(length + 1), np.log10(value) / 5, _CHARACTER * (len(text) + 2) / 2
        x = min(x, 1 - half)
        if any(abs(x - other) < half + wide and abs(y - height) < 0.07 for other, height, wide in placed):
            continue
        placed.append((x, y, half))
        figure.add_annotation(
            x=float(x * np.log10(length + 1)), y=float(np.log10(value)), text=html.escape(text, quote=False),
            showarrow=False, yshift=9,
            font={"size": 12}, bgcolor="rgba(255,255,255,0.8)", borderpad=1,
        )  # fmt: skip


def _short(tokens: Sequence[Sequence[str]] | None, position: int) -> str:
    """The tokens at a position in a few characters, two of them where sequences differ; else the position."""
    if tokens is None or all(position >= len(text) for text in tokens):
        return f"{position:,}"
    seen = list(dict.fromkeys(show_token(text[position]) for text in tokens if position < len(text)))
    shown = " / ".join(text if len(text) <= 12 else text[:11] + "…" for text in seen[:2])
    return shown + (" …" if len(seen) > 2 else "")


def _peak(values: np.ndarray) -> int:
    return 0 if np.isnan(values).all() else int(np.nanargmax(values))


def _edges(length: int, points: int) -> list[int]:
    """Bin edges over positions: singles first, then bins whose width grows with the position."""
    grid = np.geomspace(1, length + 1, points).round().astype(int) - 1
    return sorted({*range(min(16, length)), *(int(edge) for edge in grid), length})


def _tokens_at(tokens: Sequence[Sequence[str]] | None, position: int) -> str:
    if tokens is None:
        return ""
    seen = dict.fromkeys(show_token(text[position]) for text in tokens if position < len(text))
    shown = [html.escape(token) for token in list(seen)[:4]]
    return ": " + "  ".join(shown) + (" …" if len(seen) > 4 else "")


_LABEL = 26
"""Pixels of a picture's name above it."""
PICTURES, ACROSS = 12, 4
"""Thumbnails in a figure where none are asked for, and in a row."""


def thumbnails(table: HeadTable, rows: Sequence[int] | None = None, labels: Sequence[str] | None = None) -> go.Figure:
    """Whole attention maps as small pictures: queries from top to bottom, keys from left to right.

    A cell is the attention that its queries give to its keys; colour is logarithmic as on the page, white 0.0001 or
    less. rows: of the table; None: the telling heads. labels: default, the names. Raises ResultsError where the table
    has no `thumbnail`, or rows are none.
    """
    chosen, legend = _pictured(table, rows)
    legend = legend if labels is None else list(labels)
    if not chosen:
        raise ResultsError("thumbnails of no head; give rows of the table")
    across = min(ACROSS, len(chosen))
    down = -(-len(chosen) // across)
    figure = make_subplots(
        down, across, subplot_titles=[html.escape(label) for label in legend], horizontal_spacing=0.03,
        vertical_spacing=_LABEL / (down * (_side(across) + _LABEL)),
    )  # fmt: skip
    for place, row in enumerate(chosen):
        weights = table.profile("thumbnail", row)
        figure.add_heatmap(
            z=np.log10(np.maximum(weights, FLOOR)).astype(np.float32), coloraxis="coloraxis",
            hovertemplate=f"<b>{html.escape(legend[place])}</b><br>queries in band %{{y}}, keys in band %{{x}}<br>"
            "weight 10<sup>%{z:.1f}</sup><extra></extra>",
            row=place // across + 1, col=place % across + 1,
        )  # fmt: skip
    return _framed(figure, table, down, _side(across))


def _side(across: int) -> int:
    """Pixels of a picture's side in 900."""
    return min(300, 760 // across)


def _pictured(table: HeadTable, rows: Sequence[int] | None) -> tuple[list[int], list[str]]:
    """As `_chosen`, but every telling head, not one a behaviour."""
    if rows is not None:
        return _chosen(table, "thumbnail", rows, PICTURES)
    told = [head for head in telling(table) if table.has_profile("thumbnail", head.row)][:PICTURES]
    if not told:
        raise ResultsError(f"no profile 'thumbnail' in this table; it has {sorted(table.profiles)}")
    return [head.row for head in told], [f"{head.name} {head.why[0]}" for head in told]


def _framed(figure: go.Figure, table: HeadTable, down: int, side: int) -> go.Figure:
    """Square pictures in thin frames, one colour scale for all."""
    look(figure, "", "", height=40 + (side + _LABEL) * down - _LABEL)
    axis = {"showticklabels": False, "ticks": "", "showgrid": False, "showline": True, "mirror": True,
            "linecolor": FAINT, "title": None, "constrain": "domain"}  # fmt: skip
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis, autorange="reversed", constraintoward="top")
    for index in range(len(figure.data)):
        suffix = "" if index == 0 else str(index + 1)
        figure.layout[f"yaxis{suffix}"].update(scaleanchor=f"x{suffix}")
    figure.update_annotations(font={"size": 12, "color": INK})
    colours = palette()[:255]
    stops = [[place / 254, f"rgb({red},{green},{blue})"] for place, (red, green, blue) in
             zip(range(0, 255, 2), colours[::2].tolist(), strict=True)]  # fmt: skip
    low = int(np.log10(FLOOR))
    ticks = list(range(low, 1))
    figure.update_layout(
        margin={"l": 16, "r": 16, "t": 32, "b": 8},
        coloraxis={"cmin": low, "cmax": 0, "colorscale": stops, "colorbar": {
            "thickness": 12, "outlinewidth": 0, "lenmode": "pixels", "len": side, "y": 1, "yanchor": "top",
            "tickvals": ticks, "ticktext": [f"{10.0**tick:g}" for tick in ticks],
            "title": {"text": "weight", "side": "right"}}},
    )  # fmt: skip
    length = table.metadata.get("length")
    size = "" if length is None else f" of {tokens_in_words(length)}"
    bands = figure.data[0].z.shape[0]
    note = f"The whole map{size} in {bands} × {bands} cells: queries from top to bottom, keys from left to right"
    return titled(figure, f"Where heads{whose(table)} look", note)
