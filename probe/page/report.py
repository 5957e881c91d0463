"""The report: one HTML page that opens anywhere, asks nothing of the network, and says what a table says."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from probe.circuits.circuit import Circuit
from probe.columns import describe
from probe.errors import ResultsError
from probe.page import sections
from probe.page.chapter import Chapter
from probe.page.findings import FEW_TRIALS, findings, limits, uncertainty
from probe.page.markup import Html, el, escape, join, json_script, script
from probe.page.sections_ablation import ablation_chapter
from probe.page.sections_explore import explore_part
from probe.page.sections_retrieval import retrieval_part
from probe.page.sink_tokens import first_token, later_sinks
from probe.page.table_data import table_data
from probe.page.telling import Telling, one_each, telling
from probe.page.widget import asset, scripts
from probe.plots import heads as plots
from probe.plots import profiles as plots_profiles
from probe.plots import retrieval as plots_retrieval
from probe.plots.cells import MARK_NAMES
from probe.plots.retrieval import Retrieval
from probe.plots.style import INK, LEVEL, untitled
from probe.store import write_file
from probe.studies.task_study import TaskStudy
from probe.table import HeadTable
from probe.text import tokens_in_words

PAGE = "report.html"
LINES = 8
"""Heads in one line figure: as many as there are colours."""


def write_report(
    table: HeadTable,
    folder: str | Path,
    *,
    retrieval: Retrieval | None = None,
    tokens_text: Sequence[Sequence[str]] | None = None,
    command: str | None = None,
    studies: Sequence[TaskStudy] = (),
    chapters: Sequence[Chapter] = (),
    title: str | None = None,
    strings: Mapping[int, str] | None = None,
    circuits: Sequence[Circuit] = (),
) -> Path:
    """Write `report.html` into `folder`, whole or not at all, and return its path.

    table: the scan; a retrieval run's columns are joined to it where it lacks them. A table without a scan's metrics
        gives a page of the studies alone.
    studies: ablation studies, one a task; their columns are the table's already (`with_effects`).
    retrieval: trials, heads and ablation of a retrieval run (METRICS' columns); None: the page says so.
    chapters: what other studies add. title: default, the heads of the model.
    tokens_text: the token strings of every sequence, in the order scanned; None: positions stand for tokens.
    strings: id → text of the tokens that heads write; None: ids stand for them. circuits: shown head by head.
    command: the command that makes it again, as typed; None: the page says that it was not recorded.
    Raises ResultsError when the token strings do not fit the scanned sequences, or circuits the table.
    """
    _check_tokens(table, tokens_text)
    if retrieval is not None and "retrieval" not in table.frame and len(retrieval.heads):
        table = table.with_columns(retrieval.heads)
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    text = page(table, retrieval, tokens_text, command, studies, chapters, title, strings, circuits)
    data = text.encode("utf-8", errors="backslashreplace")
    write_file(place / PAGE, data)
    return place / PAGE


def _check_tokens(table: HeadTable, tokens: Sequence[Sequence[str]] | None) -> None:
    n = table.metadata.get("n_sequences")
    if tokens is not None and n is not None and len(tokens) != n:
        raise ResultsError(f"token strings of {len(tokens)} sequences for a scan of {n}: give one list a sequence")


def page(
    table: HeadTable,
    run: Retrieval | None,
    tokens: Sequence[Sequence[str]] | None,
    command: str | None = None,
    studies: Sequence[TaskStudy] = (),
    chapters: Sequence[Chapter] = (),
    title: str | None = None,
    strings: Mapping[int, str] | None = None,
    circuits: Sequence[Circuit] = (),
) -> str:
    """The page as text."""
    shown = telling(table)
    chapters = [*([ablation_chapter(studies, table.metadata)] if studies else []), *chapters]
    title = title or f"Attention heads of {table.metadata.get('model', 'an unnamed model')}"
    plotly, plotly_hash = script(get_plotlyjs())
    ours, our_hash = script(scripts() + asset("page.js"))
    policy = (
        f"default-src 'none'; script-src {plotly_hash} {our_hash}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    explore = explore_part(table, tokens[0] if tokens else None, strings, circuits)
    parts = _parts(table, run, tokens, shown, command, chapters, explore)
    return Template(asset("page.html")).substitute(
        title=escape(title),
        policy=policy,
        style=asset("page.css") + asset("explorer.css"),
        summary=escape(_summary(table, chapters)),
        contents=join(*(join(el("a", label, href=f"#{identifier}"), " ") for identifier, (label, _) in parts.items())),
        body=join(*(content for _, content in parts.values())),
        data=json_script("report-data", _data(table, run, tokens, shown, chapters)),
        plotly=plotly,
        script=ours,
    )


def _summary(table: HeadTable, chapters: Sequence[Chapter]) -> str:
    """What was measured, in one sentence or two."""
    frame, metadata = table.frame, table.metadata
    layers = len(frame[["stack", "kind", "layer"]].drop_duplicates())
    n, length = metadata.get("n_sequences"), metadata.get("length")
    heads = f"{len(frame)} heads in {layers} layers"
    text = f", read on {n} {'sequence' if n == 1 else 'sequences'}" if n is not None else ""
    text += f" of {tokens_in_words(length)}" if length is not None else ""
    bos = f" Begin-of-sequence token: {metadata['bos']}." if metadata.get("bos") is not None else ""
    return " ".join([f"{heads}{text}.{bos}", *(chapter.summary for chapter in chapters if chapter.summary)])


def _parts(
    table: HeadTable,
    run: Retrieval | None,
    tokens: Sequence[Sequence[str]] | None,
    shown: list[Telling],
    command: str | None,
    chapters: Sequence[Chapter],
    explore: Html,
) -> dict[str, tuple[str, Html]]:
    """Identifier of each section → its name in the contents, and the section."""
    whole = table.scanned
    found = [finding for chapter in chapters for finding in chapter.findings]
    ends = limits(table, tokens, run) if whole else []
    ends = ends + [line for chapter in chapters for line in chapter.limits]
    notes = [uncertainty(table)] if whole else []
    notes += [line for chapter in chapters for line in chapter.uncertainty]
    parts = {
        "findings": (
            "Findings",
            sections.finding_cards(
                (findings(table, run) if whole else []) + found, " ".join(notes)
            ),
        )
    }
    for chapter in chapters:
        parts |= chapter.sections
    parts["maps"] = ("Maps", _maps(table))
    parts["explore"] = ("Explore", explore)
    if whole:
        sinks = sections.sinks_part(first_token(table, tokens), later_sinks(table, tokens), tokens is not None)
        parts["roles"] = ("Roles", sections.roles_part(table))
        parts["sinks"] = ("Sink tokens", sinks)
        parts["looks"] = ("Where heads look", _looks(table, shown))
        parts["retrieval"] = ("Retrieval", retrieval_part(table, run))
    parts["heads-part"] = ("All heads", _table_part())
    parts["made"] = ("How it was made", sections.made_part(table, command))
    parts["limits"] = ("Limits", sections.limits_part(ends))
    return parts


def _maps(table: HeadTable) -> Html:
    measured = [name for name in table.metrics if table.frame[name].notna().any()]
    options = [el("option", f"{describe(name, table.metadata).title} ({name})", value=name) for name in measured]
    return sections.section(
        "maps", "Maps",
        el("p", el("label", "Metric ", el("select", *options, id="map-metric")), class_="controls"),
        sections.figure("map", "Every head in its place: layers from top to bottom, heads left to right. "
                        "Hover or tap for the figure, its interval and the head's roles."),
        el("p", "", id="map-definition", class_="quiet"),
    )  # fmt: skip


def _looks(table: HeadTable, shown: list[Telling]) -> Html:
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


def _table_part() -> Html:
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


def _data(
    table: HeadTable,
    run: Retrieval | None,
    tokens: Sequence[Sequence[str]] | None,
    shown: list[Telling],
    chapters: Sequence[Chapter],
) -> dict[str, Any]:
    """What the page's script draws: figures and the table's numbers at six figures (files hold all)."""
    figures = _figures(table, run, tokens, shown)
    for chapter in chapters:
        figures |= chapter.figures
    return {
        **table_data(table),
        "marks": {"level": LEVEL, "ink": INK, "names": [MARK_NAMES[True], MARK_NAMES[False]]},
        "figures": {name: json.loads(untitled(drawn).to_json()) for name, drawn in figures.items()},
    }  # fmt: skip


def _lines(table: HeadTable, profile: str, shown: list[Telling]) -> list[Telling]:
    """The heads of a line figure: one a behaviour, as far as the profile was kept for them."""
    return one_each([head for head in shown if table.has_profile(profile, head.row)], LINES)


def _legend(lines: list[Telling]) -> tuple[list[int], list[str]]:
    return [head.row for head in lines], [f"{head.name} {head.why[0]}" for head in lines]


def _figures(
    table: HeadTable,
    run: Retrieval | None,
    tokens: Sequence[Sequence[str]] | None,
    shown: list[Telling],
) -> dict[str, go.Figure]:
    drawn = {"map": table.plot()}
    received, offsets = _lines(table, "received", shown), _lines(table, "offset_mass", shown)
    if received:
        drawn["received"] = plots_profiles.received(table, *_legend(received), tokens)
    if offsets:
        drawn["offset_mass"] = plots_profiles.offset_spectrum(table, *_legend(offsets))
    if run is None:
        return drawn
    if len(run.ablation):
        drawn["ablation"] = plots_retrieval.ablation(run)
    drawn["by_length"] = plots_retrieval.by_length(run)
    drawn["by_place"] = plots_retrieval.by_place(run)
    if sum(bool(trial["usable"]) for trial in run.trials) >= FEW_TRIALS and "retrieval" in table.frame:
        control = "retrieval_control" if "retrieval_control" in table.frame else None
        drawn["retrieval_ranked"] = plots.ranked(table, "retrieval", control=control)
    return drawn
