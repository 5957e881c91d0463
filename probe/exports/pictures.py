"""Every figure of a results folder, or those of chosen columns, as PNG or SVG files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import plotly.graph_objects as go

from probe.errors import ResultsError
from probe.exports.request import Asked, Made
from probe.page.sections_ablation import ablation_figures
from probe.page.sections_circuit import circuit_figures
from probe.page.sections_overlap import matrix_figures, overlap_figures
from probe.page.telling import telling
from probe.plots import heads, profiles
from probe.plots import retrieval as retrieval_plots
from probe.plots.circuit_tests import completeness_scatter, minimality_marks
from probe.results import Results
from probe.stills import drawing, still
from probe.table import HeadTable

Figures = Iterator[tuple[str, go.Figure]]
_UNSAFE = re.compile(r"[^\w@.+-]+", re.ASCII)


def png_pictures(results: Results, asked: Asked) -> Made:
    """One PNG a figure, 1,800 pixels wide. Raises ResultsError where there is no figure, StillError where none can be
    drawn here.
    """
    return _drawn(results, asked, "png", still)


def svg_pictures(results: Results, asked: Asked) -> Made:
    """One SVG a figure, text kept as text. Raises as `png_pictures` does."""
    return _drawn(results, asked, "svg", drawing)


def figures_of(results: Results, columns: tuple[str, ...] = ()) -> dict[str, go.Figure]:
    """Name → figure, in the page's order: the map and the ranking of each column asked for, else everything that the
    folder's tables, runs, studies and circuits have a figure of. Raises ResultsError for an unknown column.
    """
    if not columns:
        return dict(_all(results))
    if results.table is None:
        raise ResultsError(f"{results.folder}: no head table, so no --column; leave it out for the figures there are")
    return dict(_of_columns(results.table, columns))


def _drawn(results: Results, asked: Asked, ending: str, draw: Callable[[go.Figure], bytes]) -> Made:
    found = figures_of(results, asked.columns)
    if not found:
        raise ResultsError(f"{results.folder}: nothing to draw; it holds no table, run, study or circuit")
    files: dict[str, bytes] = {}
    for name, figure in found.items():
        files[f"{_free(name, ending, files)}.{ending}"] = draw(figure)
    return Made(files)


def _free(name: str, ending: str, taken: dict[str, bytes]) -> str:
    """A file name for a figure's, which a metric's name is part of: no folders, nothing hidden, not taken."""
    safe = _UNSAFE.sub("_", name).lstrip(".")[:100]
    number, free = 2, safe
    while f"{free}.{ending}" in taken:
        number, free = number + 1, f"{safe}_{number}"
    return free


def _of_columns(table: HeadTable, columns: tuple[str, ...]) -> Figures:
    for name in columns:
        heads.require(table, name)
        yield f"map_{name}", heads.head_map(table, name)
        yield f"ranked_{name}", heads.ranked(table, name)


def _all(results: Results) -> Figures:
    if results.table is not None:
        yield from _table(results.table, results)
    if results.retrieval is not None:
        run = results.retrieval
        if len(run.ablation):
            yield "recall_without_heads", retrieval_plots.recall_without(run)
        yield "recall_by_length", retrieval_plots.recall_by_length(run)
        yield "recall_by_place", retrieval_plots.recall_by_place(run)
        if results.table is not None and run.ranked():
            yield "ranked_retrieval", heads.ranked(results.table, "retrieval", control="retrieval_control")
    for index, study in enumerate(results.studies):
        yield from ablation_figures(study, index).items()
    for index, circuit in enumerate(results.circuits):
        yield from circuit_figures(circuit, index).items()
    completeness, minimality = results.tests
    if completeness:
        yield "completeness", completeness_scatter(completeness, results.circuits[0].metric)
    if minimality:
        yield "minimality", minimality_marks(minimality, results.circuits[0].metric)
    yield from _shared(results)
    if results.kind == "studies":
        for part in results.parts:
            yield from ((f"{part.folder.name}_{name}", figure) for name, figure in _all(part))


def _table(table: HeadTable, results: Results) -> Figures:
    for name in table.metrics:
        if table.frame[name].notna().any():
            yield f"map_{name}", heads.head_map(table, name)
    shown = [head.row for head in telling(table)]
    if any(table.has_profile("received", row) for row in shown):
        yield "received", profiles.received(table, tokens=results.tokens.tokens if results.tokens is not None else None)
    if any(table.has_profile("offset_mass", row) for row in shown):
        yield "offset_mass", profiles.offset_spectrum(table)
    if any(table.has_profile("thumbnail", row) for row in shown):
        yield "thumbnails", profiles.thumbnails(table)


def _shared(results: Results) -> Figures:
    if results.kind == "matrix":
        tasks = [circuit.task for circuit in results.circuits]
        yield from matrix_figures(tasks, results.overlaps, results.transfer, results.removed).items()
    elif results.overlaps:
        a, b = results.circuits
        yield from overlap_figures(a, b).items()
