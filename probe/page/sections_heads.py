"""The report's sections on all heads at once: the map, where telling heads look, the table; and their figures."""

from __future__ import annotations

import plotly.graph_objects as go

from probe.columns import describe
from probe.page import sections
from probe.page.findings import FEW_TRIALS
from probe.page.markup import Html, el
from probe.page.material import Material
from probe.page.telling import Telling, one_each, telling
from probe.plots import heads as plots
from probe.plots import profiles as plots_profiles
from probe.plots import retrieval as plots_retrieval
from probe.table import HeadTable

LINES = 8
"""Heads in one line figure: as many as there are colours."""


def maps_part(table: HeadTable) -> Html:
    """The map of all heads, by a metric that the reader chooses."""
    options = [el("option", f"{describe(name, table.metadata).title} ({name})", value=name) for name in measured(table)]
    return sections.section(
        "maps", "Maps",
        el("p", el("label", "Metric ", el("select", *options, id="map-metric")), class_="controls"),
        sections.figure("map", "Every head in its place: layers from top to bottom, heads left to right. "
                        "Hover or tap for the figure, its interval and the head's roles."),
        el("p", "", id="map-definition", class_="quiet"),
    )  # fmt: skip


def measured(table: HeadTable) -> list[str]:
    """The metrics that some head has a value of."""
    return [name for name in table.metrics if table.frame[name].notna().any()]


def looks_part(table: HeadTable, shown: list[Telling]) -> Html:
    """Thumbnails and profiles of the strongest heads of each behaviour."""
    return sections.section(
        "looks", "Where telling heads look",
        el("p", "The strongest heads of each behaviour; 'below threshold' where none has the role."),
        sections.thumbnails_part(table, shown),
        *_profile_figures(table, shown),
    )  # fmt: skip


def _profile_figures(table: HeadTable, shown: list[Telling]) -> list[Html]:
    parts = {
        "received": "What each position receives from these heads, as a share of what it could receive (α).",
        "offset_mass": "How far back these heads look: share of attention by distance, in bins that double.",
    }
    return [
        sections.figure(name, caption)
        if _lines(table, name, shown)
        else el("p", f"No {name} profile was kept in this run.", class_="note")
        for name, caption in parts.items()
    ]


def table_part() -> Html:
    """The place of the table of all heads, which the page's script fills."""
    controls = el(
        "p",
        el("label", "Find ", el("input", type="search", id="filter-text", placeholder="L10, L10H7, sink")),
        el("label", "Role ", el("select", el("option", "any", value=""), id="filter-role")),
        el("label", "Columns ", el("select", el("option", "key figures", value="key"),
           el("option", "all", value="all"), id="filter-columns")),
        el("span", "", id="filter-count", class_="quiet", role="status"),
        class_="controls",
    )  # fmt: skip
    note = "Press a column's name to sort by it; again to turn it round. Small print is the 95 % interval."
    area = el(
        "div",
        el("table", id="heads"),
        class_="scroll tall",
        role="region",
        aria_label="All heads",
        tabindex="0",
    )
    return sections.section("heads-part", "All heads", el("p", note), controls, area)


def head_figures(page: Material) -> dict[str, go.Figure]:
    """The figures that these sections and the one on retrieval have places for."""
    table, run, shown = page.table, page.run, telling(page.table)
    drawn = {"map": table.plot()} if measured(table) else {}
    received, offsets = _lines(table, "received", shown), _lines(table, "offset_mass", shown)
    if received:
        drawn["received"] = plots_profiles.received(table, *_legend(received), page.tokens)
    if offsets:
        drawn["offset_mass"] = plots_profiles.offset_spectrum(table, *_legend(offsets))
    if run is None:
        return drawn
    if len(run.ablation):
        drawn["ablation"] = plots_retrieval.recall_without(run)
    drawn["by_length"] = plots_retrieval.recall_by_length(run)
    drawn["by_place"] = plots_retrieval.recall_by_place(run)
    if sum(bool(trial["usable"]) for trial in run.trials) >= FEW_TRIALS and "retrieval" in table.frame:
        control = "retrieval_control" if "retrieval_control" in table.frame else None
        drawn["retrieval_ranked"] = plots.ranked(table, "retrieval", control=control)
    return drawn


def _lines(table: HeadTable, profile: str, shown: list[Telling]) -> list[Telling]:
    """The heads of a line figure: one a behaviour, as far as the profile was kept for them."""
    return one_each([head for head in shown if table.has_profile(profile, head.row)], LINES)


def _legend(lines: list[Telling]) -> tuple[list[int], list[str]]:
    return [head.row for head in lines], [f"{head.name} {head.why[0]}" for head in lines]
