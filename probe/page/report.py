"""The report: one HTML page that opens anywhere, asks nothing of the network, and says what tables say."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from plotly.offline import get_plotlyjs

from probe.circuits.circuit import Circuit
from probe.errors import ResultsError
from probe.page import sections
from probe.page.chapter import Chapter
from probe.page.findings import Finding, findings, limits, retrieval_finding, uncertainty
from probe.page.markup import Html, el, escape, join, json_script, script
from probe.page.material import Material, Tokens, as_texts
from probe.page.measured import measured, summary
from probe.page.sections_ablation import ablation_chapter
from probe.page.sections_cards import cards_part
from probe.page.sections_explore import explore_part
from probe.page.sections_heads import head_figures, looks_part, maps_part, table_part
from probe.page.sections_heads import measured as measured_metrics
from probe.page.sections_methods import methods_part
from probe.page.sections_retrieval import retrieval_part
from probe.page.sink_tokens import first_token, later_sinks
from probe.page.table_data import table_data
from probe.page.telling import telling
from probe.page.widget import asset, scripts
from probe.plots.retrieval import Retrieval
from probe.plots.style import untitled
from probe.store import write_file
from probe.studies.task_study import TaskStudy
from probe.table import HeadTable

PAGE = "report.html"


def write_report(
    table: HeadTable,
    folder: str | Path,
    *,
    retrieval: Retrieval | None = None,
    tokens_text: Tokens | None = None,
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
    tokens_text: what was scanned as text, every sequence in the order scanned: `TokenTexts`, or the token strings
        alone, with `strings` (id → text of the tokens that heads write); None: positions stand for tokens.
    circuits: shown head by head, in cards and explorer; their chapters are the caller's.
    command: the command that makes it again, as typed; None: the page says that it was not recorded.
    Raises ResultsError when the token strings do not fit the scanned sequences, or circuits the table.
    """
    texts = as_texts(tokens_text, strings)
    _check_tokens(table, None if texts is None else texts.tokens)
    if retrieval is not None and "retrieval" not in table.frame and len(retrieval.heads):
        table = table.with_columns(retrieval.heads)
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    text = page(table, retrieval, texts, command, studies, chapters, title, circuits=circuits)
    data = text.encode("utf-8", errors="backslashreplace")
    write_file(place / PAGE, data)
    return place / PAGE


def _check_tokens(table: HeadTable, tokens: Sequence[Sequence[str]] | None) -> None:
    n = table.metadata.get("n_sequences")
    if tokens and n is not None and len(tokens) != n:
        raise ResultsError(f"token strings of {len(tokens)} sequences for a scan of {n}: give one list a sequence")


def page(
    table: HeadTable,
    run: Retrieval | None,
    tokens: Tokens | None,
    command: str | None = None,
    studies: Sequence[TaskStudy] = (),
    chapters: Sequence[Chapter] = (),
    title: str | None = None,
    strings: Mapping[int, str] | None = None,
    circuits: Sequence[Circuit] = (),
) -> str:
    """The page as text; arguments as `write_report` takes them."""
    chapters = [*([ablation_chapter(studies, table.metadata)] if studies else []), *chapters]
    shown = Material(table, run, as_texts(tokens, strings), command, studies, circuits, chapters)
    title = title or f"Attention heads of {table.metadata.get('model', 'an unnamed model')}"
    plotly, plotly_hash = script(get_plotlyjs())
    ours, our_hash = script(scripts() + asset("page.js"))
    policy = (
        f"default-src 'none'; script-src {plotly_hash} {our_hash}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    parts = _parts(shown)
    return Template(asset("page.html")).substitute(
        title=escape(title),
        policy=policy,
        style=asset("page.css") + asset("explorer.css"),
        summary=_summary(shown),
        contents=join(*(join(el("a", label, href=f"#{identifier}"), " ") for identifier, (label, _) in parts.items())),
        body=join(*(content for _, content in parts.values())),
        data=json_script("report-data", _data(shown)),
        plotly=plotly,
        script=ours,
    )


def _summary(shown: Material) -> Html:
    """What was measured, and how."""
    return join(el("p", summary(shown)), el("ul", *(el("li", line) for line in measured(shown)), class_="measured"))


def _parts(shown: Material) -> dict[str, tuple[str, Html]]:
    """Identifier of each section → its name in the contents, and the section."""
    table, tokens = shown.table, shown.tokens
    parts: dict[str, tuple[str, Html | None]] = {"findings": ("Findings", _findings(shown))}
    for chapter in shown.chapters:
        parts |= chapter.sections
    parts["maps"] = ("Maps", maps_part(table) if measured_metrics(table) else None)
    parts["cards"] = ("Head cards", cards_part(shown))
    strings = None if shown.texts is None else shown.texts.strings
    parts["explore"] = ("Explore", explore_part(table, tokens[0] if tokens else None, strings, shown.circuits))
    if table.scanned:
        sinks = sections.sinks_part(first_token(table, tokens), later_sinks(table, tokens), tokens is not None)
        parts["roles"] = ("Roles", sections.roles_part(table))
        parts["sinks"] = ("Sink tokens", sinks)
        parts["looks"] = ("Where heads look", looks_part(table, telling(table)))
    if table.scanned or shown.run is not None:
        parts["retrieval"] = ("Retrieval", retrieval_part(table, shown.run))
    parts["heads-part"] = ("All heads", table_part())
    parts["methods"] = ("Methods", methods_part(shown))
    parts["limits"] = ("Limits", sections.limits_part(_limits(shown)))
    parts["made"] = ("How it was made", sections.made_part(table, shown.command))
    return {name: (label, content) for name, (label, content) in parts.items() if content is not None}


def _findings(shown: Material) -> Html:
    """What every part of the page found, and what the brackets are."""
    found: list[Finding] = []
    if shown.table.scanned:
        found += findings(shown.table, shown.run)
    elif shown.run is not None:
        found.append(retrieval_finding(shown.table, shown.run))
    found += [finding for chapter in shown.chapters for finding in chapter.findings]
    notes = [uncertainty(shown.table)] if shown.table.scanned else []
    notes += [line for chapter in shown.chapters for line in chapter.uncertainty]
    return sections.finding_cards(found, " ".join(notes))


def _limits(shown: Material) -> list[str]:
    own = limits(shown.table, shown.tokens, shown.run) if shown.table.scanned or shown.run is not None else []
    return own + [line for chapter in shown.chapters for line in chapter.limits]


def _data(shown: Material) -> dict[str, Any]:
    """What the page's script draws: figures and the table's numbers at six figures (files hold all)."""
    figures = head_figures(shown)
    for chapter in shown.chapters:
        figures |= chapter.figures
    return {
        **table_data(shown.table),
        "figures": {name: json.loads(untitled(drawn).to_json()) for name, drawn in figures.items()},
    }
