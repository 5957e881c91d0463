from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from probe.analyses.overlap import Overlap
from probe.analyses.repair import Forced, Repair
from probe.circuits.circuit import Circuit
from probe.errors import ResultsError
from probe.page.report_circuit import (
    circuit_chapter,
    circuit_table,
    overlap_chapter,
    write_circuit_report,
    write_matrix_report,
)


def words(text: str) -> str:
    body = re.sub(r"<(script|style).*?</\1>", "", text, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body))


def data_of(text: str) -> Any:
    block = re.search(r'<script type="application/json" id="report-data">(.*?)</script>', text, flags=re.S)
    assert block is not None
    return json.loads(block[1], parse_constant=pytest.fail)


def test_one_circuit_is_one_page(several_circuits: tuple[Circuit, ...], tmp_path: Path) -> None:
    circuit = several_circuits[0]
    path = write_circuit_report(circuit, tmp_path / "out", command="probe circuit m --task ioi")
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]
    text = path.read_text()
    said, data = words(text), data_of(text)
    assert "The circuit of ioi in invented" in said
    assert f"Circuit of ioi: 18 heads and {sum(edge.in_circuit for edge in circuit.edges)} edges, by eap-ig" in said
    assert "probe circuit m --task ioi" in said
    assert "version of the definitions 1" in said
    assert set(data["figures"]) == {"map", "circuit_graph_0", "head_curve_0", "edge_curve_0"}
    assert data["key"] == ["circuit_ioi"]
    row = data["names"].index("L18H6")
    assert data["roles"][row] == ["in circuit", "name_mover"]
    assert data["columns"]["circuit_ioi"][row] == float(f"{circuit.score_of((18, 6)):.6g}")
    places = set(re.findall(r'data-figure="([^"]*)"', text))
    assert places == set(data["figures"])


def test_several_tasks_have_a_matrix_and_a_column_each(
    several_circuits: tuple[Circuit, ...],
    several_overlaps: tuple[Overlap, ...],
    transfer_table: pd.DataFrame,
    removed: pd.DataFrame,
    tmp_path: Path,
) -> None:
    path = write_matrix_report(
        several_circuits, several_overlaps, tmp_path, transfer=transfer_table, removed=removed,
        not_done={"mcq": "it guesses"},
    )  # fmt: skip
    text = path.read_text()
    assert "Tasks not done" in words(text)
    assert "mcq: it guesses" in words(text)
    data = data_of(text)
    assert "What the circuits of 3 tasks share in invented" in words(text)
    assert {"overlap_matrix", "transfer_matrix", "removed_marks", "circuit_graph_2"} <= set(data["figures"])
    assert data["key"] == ["circuit_ioi", "circuit_greater_than", "circuit_induction"]
    assert data["roles"][data["names"].index("L18H6")] == ["ioi", "greater_than"]
    places = set(re.findall(r'data-figure="([^"]*)"', text))
    assert places == set(data["figures"])


def test_a_pair_is_shown_in_full(
    several_circuits: tuple[Circuit, ...], several_overlaps: tuple[Overlap, ...]
) -> None:
    chapter = overlap_chapter(several_circuits[:2], several_overlaps[:1])
    assert set(chapter.sections) == {"overlap-0"}
    assert set(chapter.figures) == {"overlap_map_0", "score_scatter_0"}
    assert chapter.findings[0].title == "What ioi and greater_than share"


def test_what_does_not_belong_together_is_refused(
    several_circuits: tuple[Circuit, ...], several_overlaps: tuple[Overlap, ...], tmp_path: Path
) -> None:
    first, second, _ = several_circuits
    for circuits in ((first, first), (first, replace(second, model="other"))):
        with pytest.raises(ResultsError, match="wanted different tasks of one model"):
            write_matrix_report(circuits, (), tmp_path)
    with pytest.raises(ResultsError, match="overlap of ioi and induction, and circuits of ioi, greater_than only"):
        write_matrix_report((first, second), several_overlaps[1:2], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_shared_limits_are_said_once(several_circuits: tuple[Circuit, ...]) -> None:
    one, three = circuit_chapter(several_circuits[:1]), circuit_chapter(several_circuits)
    assert len(three.limits) == len(one.limits) + 2  # a note of each of the two others
    assert len(three.uncertainty) == 1
    assert [finding.title for finding in three.findings] == [
        "Heads that ioi runs on", "Heads that greater_than runs on", "Heads that induction runs on",
    ]  # fmt: skip


def test_the_table_holds_every_circuit(several_circuits: tuple[Circuit, ...]) -> None:
    table = circuit_table(several_circuits)
    assert table.metrics == ["circuit_ioi", "circuit_greater_than", "circuit_induction"]
    assert table.frame["kv_head"].max() == 2
    np.testing.assert_array_equal(table.frame["circuit_induction"], several_circuits[2].head_scores)
    lows = [node.low for node in several_circuits[1].nodes[:270]]
    np.testing.assert_array_equal(table.frame["circuit_greater_than_low"], lows)
    # Different methods are told apart, equal ones said once.
    assert table.metadata["method"] == "eap-ig"
    mixed = circuit_table([several_circuits[0], replace(several_circuits[1], method="exact")])
    assert mixed.metadata["method"] == {"ioi": "eap-ig", "greater_than": "exact"}


def test_repairs_give_a_finding(several_circuits: tuple[Circuit, ...], several_overlaps: tuple[Overlap, ...]) -> None:
    ones = np.ones(4)
    forced = Forced(((3, 4), (5, 6)), "force:END>IO", "logit_diff", 2 * ones, ones, ones, 0 * ones)
    found = Repair("induction", ((3, 4), (5, 6)), (1.0, 1.5, 2.0), forced, ones, ones, 0.05, 10.0)
    card = overlap_chapter(several_circuits[:2], several_overlaps[:1], repairs=[found]).findings[-1]
    assert (card.title, card.figure) == ("Heads that repair induction", "1.00")
    assert card.heads == ("L3H4, L5H6", "logit_diff on the half searched: 1.00 → 1.50 → 2.00")
