"""The pages of circuit folders: one circuit, a pair of them, or every pair of a set of tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import plotly.graph_objects as go

from probe.analyses.overlap import Overlap
from probe.circuits.circuit import Circuit
from probe.errors import ResultsError
from probe.page.chapter import Chapter
from probe.page.findings_circuit import brief_finding, circuit_findings, circuit_limits, circuit_uncertainty
from probe.page.findings_overlap import (
    not_done_finding,
    overlap_findings,
    overlap_limits,
    overlap_uncertainty,
    repair_finding,
)
from probe.page.markup import Html
from probe.page.report import write_report
from probe.page.sections_circuit import circuit_figures, circuit_section
from probe.page.sections_circuit_tests import completeness_chapter
from probe.page.sections_overlap import matrix_figures, matrix_sections, overlap_figures, overlap_section
from probe.table import HeadTable

if TYPE_CHECKING:
    from probe.analyses.circuit_tests import Completeness, Minimality
    from probe.analyses.repair import Repair


def write_circuit_report(
    circuit: Circuit,
    folder: str | Path,
    *,
    completeness: Sequence[Completeness] = (),
    minimality: Sequence[Minimality] = (),
    command: str | None = None,
) -> Path:
    """Write `report.html` of one circuit into `folder`, whole or not at all, and return its path.

    completeness, minimality: of `analyses.circuit_tests`; without either the page has no section for them. command: the
    command that makes it again. Raises ResultsError where the disk refuses.
    """
    title = f"The circuit of {circuit.task} in {circuit.model}"
    chapters = [circuit_chapter([circuit])]
    if completeness or minimality:
        chapters.append(completeness_chapter(circuit, completeness, minimality))
    return write_report(
        circuit_table([circuit]), folder, command=command, chapters=chapters, title=title, circuits=[circuit]
    )


def write_matrix_report(
    circuits: Sequence[Circuit],
    overlaps: Sequence[Overlap],
    folder: str | Path,
    *,
    transfer: pd.DataFrame | None = None,
    removed: pd.DataFrame | None = None,
    repairs: Sequence[Repair] = (),
    not_done: Mapping[str, str] | None = None,
    command: str | None = None,
) -> Path:
    """Write `report.html` of several tasks' circuits in one model into `folder`, and return its path.

    overlaps: of all pairs, or of some. transfer, removed: `transfer_table` and `removed_table` of `plots_transfer`;
    None: the page has no section for them. repairs: each gives a finding. not_done: tasks that were asked for and
    have no circuit, with the reason. Two circuits give a page on what they share. Raises ResultsError for circuits of
    different models, for two of one task, and where the disk refuses.
    """
    tasks = [circuit.task for circuit in circuits]
    if len({circuit.model for circuit in circuits}) != 1 or len(set(tasks)) != len(tasks):
        raise ResultsError(f"circuits of {', '.join(f'{one.task} in {one.model}' for one in circuits)}; wanted "
                           "different tasks of one model")  # fmt: skip
    title = f"What the circuits of {len(tasks)} tasks share in {circuits[0].model}"
    if len(tasks) == 2:
        title = f"What {tasks[0]} and {tasks[1]} share in {circuits[0].model}"
    chapters = [overlap_chapter(circuits, overlaps, transfer, removed, repairs), circuit_chapter(circuits)]
    if not_done:
        chapters.append(Chapter(findings=[not_done_finding(not_done)]))
    return write_report(
        circuit_table(circuits), folder, command=command, chapters=chapters, title=title, circuits=circuits
    )


def circuit_chapter(circuits: Sequence[Circuit]) -> Chapter:
    """Circuits of one model as a chapter of the page: one in all its findings, of several the first of each."""
    said: list[str] = []
    sections: dict[str, tuple[str, Html]] = {}
    figures: dict[str, go.Figure] = {}
    for index, circuit in enumerate(circuits):
        edges = sum(edge.in_circuit for edge in circuit.edges)
        size = f"{len(circuit.heads)} heads" + (f" and {edges:,} edges" if edges else "")
        said.append(f"Circuit of {circuit.task}: {size}, by {circuit.method} on {circuit.prompts} prompts.")
        sections |= circuit_section(circuit, index)
        figures |= circuit_figures(circuit, index)
    return Chapter(
        summary=" ".join(said),
        findings=circuit_findings(circuits[0]) if len(circuits) == 1 else list(map(brief_finding, circuits)),
        uncertainty=circuit_uncertainty(circuits),
        sections=sections,
        figures=figures,
        limits=circuit_limits(circuits),
    )


def overlap_chapter(
    circuits: Sequence[Circuit],
    overlaps: Sequence[Overlap],
    transfer: pd.DataFrame | None = None,
    removed: pd.DataFrame | None = None,
    repairs: Sequence[Repair] = (),
) -> Chapter:
    """What circuits share as a chapter: a pair in full where there is one, the matrix where there are more."""
    tasks, by_task = [circuit.task for circuit in circuits], {circuit.task: circuit for circuit in circuits}
    known = list(combinations(tasks, 2))
    for found in overlaps:
        if (found.task_a, found.task_b) not in known and (found.task_b, found.task_a) not in known:
            raise ResultsError(f"overlap of {found.task_a} and {found.task_b}, and circuits of {', '.join(tasks)} only")
    sections = matrix_sections(overlaps if len(tasks) > 2 else (), transfer, removed)
    figures = matrix_figures(tasks, overlaps if len(tasks) > 2 else (), transfer, removed)
    for index, found in enumerate(overlaps if len(tasks) == 2 else ()):
        sections = overlap_section(found, index) | sections
        figures |= overlap_figures(by_task[found.task_a], by_task[found.task_b], index)
    return Chapter(
        findings=[*overlap_findings(overlaps, transfer, removed), *map(repair_finding, repairs)],
        uncertainty=overlap_uncertainty(overlaps),
        sections=sections,
        figures=figures,
        limits=overlap_limits(overlaps),
    )


def circuit_table(circuits: Sequence[Circuit]) -> HeadTable:
    """Every head's score in each circuit: `circuit_<task>` with `_low` and `_high`, and what it is there as `roles`.

    Roles: of one circuit `in circuit` and the head's job, of several the tasks in whose circuit it is.
    """
    first = circuits[0]
    heads = first.graph.attention, first.n_heads
    table = HeadTable.of_heads(*heads, _metadata(circuits), kv_heads=first.n_kv_heads)
    frame = table.frame.copy()
    for circuit in circuits:
        nodes = circuit.nodes[: len(circuit.graph.heads)]
        for end, values in (("", "score"), ("_low", "low"), ("_high", "high")):
            frame[f"circuit_{circuit.task}{end}"] = [getattr(node, values) for node in nodes]
    rows = zip(*(circuit.nodes[: len(frame)] for circuit in circuits), strict=True)
    if len(circuits) == 1:
        jobs = [["in circuit", *filter(None, [node.role])] if node.in_circuit else [] for (node,) in rows]
    else:
        jobs = [[one.task for one, node in zip(circuits, row, strict=True) if node.in_circuit] for row in rows]
    roles = pd.Series(jobs, index=frame.index, dtype=object)
    return HeadTable(frame.drop(columns="roles").assign(roles=roles), {}, table.metadata)


def _metadata(circuits: Sequence[Circuit]) -> dict[str, Any]:
    """What the page prints as recorded; `circuits` describes the columns."""
    first = circuits[0]
    columns = {f"circuit_{one.task}": {"metric": one.metric, "method": one.method} for one in circuits}
    facts: dict[str, Any] = {"model": first.model}
    for name in ("seed", "method", "ablation", "definitions"):
        values = list(dict.fromkeys(getattr(one, name) for one in circuits))
        facts[name if name != "definitions" else "version of the definitions"] = (
            values[0] if len(values) == 1 else {one.task: getattr(one, name) for one in circuits}
        )
    for one in circuits:
        facts[f"prompts of {one.task}"] = f"{one.prompts}, corruption {one.corruption}, sha256 {one.prompts_sha256}"
    return {**facts, "circuits": columns}
