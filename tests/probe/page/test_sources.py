"""Every method on the page has a source, and no source stands there for nothing."""

from __future__ import annotations

from collections.abc import Callable

from probe.circuits.circuit import Circuit
from probe.columns import SCAN_COLUMNS
from probe.page.material import Material
from probe.page.report_circuit import circuit_table
from probe.page.sources import OWN, SOURCES, STATISTICS, sources, topics
from probe.studies.task_study import TaskStudy
from probe.table import HeadTable
from probe.tasks.build import TASKS

OURS = {"names", "capital", "needle", "recall", "translate"}
"""Tasks that no paper is behind."""


def test_every_metric_of_a_scan_has_a_source() -> None:
    named = {topic for source in SOURCES for topic in source.topics}
    without = {"current_token", "induction_chance", "duplicate_token_chance", "retrieval"}
    assert {name for name in SCAN_COLUMNS if name not in named} <= without
    assert {f"task {task}" for task in TASKS} - named == {f"task {task}" for task in OURS}


def test_a_source_is_shown_where_its_method_is(
    head_table: HeadTable, ablation_study: TaskStudy, make_circuit: Callable[..., Circuit]
) -> None:
    scan = {source.what for source in sources(Material(head_table))}
    assert any("Attention sinks" in what for what in scan)
    assert not any("Faithfulness" in what or "removing a head" in what for what in scan)
    study = {source.what for source in sources(Material(head_table, studies=[ablation_study]))}
    assert {"Mean ablation", "Task ioi"} <= study - scan
    circuit = make_circuit()
    found = {source.what for source in sources(Material(circuit_table([circuit]), circuits=[circuit]))}
    assert "Integrated gradients: EAP-IG" in found
    assert not any("sink" in what for what in found)


def test_a_metric_without_a_value_is_no_topic(head_table: HeadTable) -> None:
    assert head_table.frame["sink_learned"].isna().all()
    assert "sink_learned" not in topics(Material(head_table))
    assert "sink_first" in topics(Material(head_table))


def test_sources_are_whole() -> None:
    for source in (*SOURCES, *STATISTICS):
        assert source.what
        assert source.departs.endswith(".") or source.departs == "nothing"
        assert source.paper == OWN or any(year in source.paper for year in ("19", "20", "repository"))
        assert "  " not in source.paper + source.departs + source.what
