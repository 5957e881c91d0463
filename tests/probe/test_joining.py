"""Folders of one model become one; what does not fit together is refused by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from probe.errors import ResultsError
from probe.results import Results, read_results, together
from probe.table import HeadTable


def read(home: Path, *names: str) -> list[Results]:
    return [read_results(home / name) for name in names]


def test_all_columns_come_together(results_home: Path):
    found = together(read(results_home, "scan", "retrieval", "study", "matrix", "ioi"))
    assert found.kind == "together"
    assert found.table is not None
    assert found.table.scanned
    assert {"sink_first", "retrieval", "ablation_ioi", "attribution_ioi", "circuit_induction"} <= set(found.table.frame)
    assert found.table.metadata["effects"]["ablation_ioi"]["metric"] == "logit_diff"
    assert found.table.metadata["circuits"]["circuit_ioi"]["method"] == "eap-ig"
    # The circuit of IOI lies in the matrix too: it is one circuit.
    assert [one.task for one in found.circuits] == ["ioi", "greater_than", "induction"]
    assert len(found.studies) == 1
    assert found.retrieval is not None
    assert found.tokens is not None
    assert found.command is None  # the retrieval run's was not recorded
    assert together(read(results_home, "scan", "study")).command == (
        "probe scan invented --out DIR\nprobe run study.toml"
    )


def test_the_order_of_folders_decides_nothing_but_order(results_home: Path):
    one, other = (together(read(results_home, *names)).table for names in (("scan", "study"), ("study", "scan")))
    assert one is not None
    assert other is not None
    assert one.frame.equals(other.frame)


def test_the_same_thing_twice_is_refused(results_home: Path):
    for names, said in (
        (("scan", "report"), "both hold a scan"), (("report", "retrieval"), "both hold a retrieval run"),
        (("study", "study"), "both hold a study of ioi"),
    ):  # fmt: skip
        with pytest.raises(ResultsError, match=said):
            together(read(results_home, *names))
    circuit = read(results_home, "ioi")[0]
    changed = replace(circuit, circuits=(replace(circuit.circuits[0], seed=1),))
    with pytest.raises(ResultsError, match="two circuits of ioi"):
        together([circuit, changed])
    with pytest.raises(ResultsError, match="no results folder"):
        together([])


def test_other_models_weights_and_definitions_are_refused(results_home: Path):
    scan, study = read(results_home, "scan", "study")
    assert study.table is not None
    for change, said in (
        ({"weight_hash": "b" * 64}, "different weights"), ({"model": "other"}, "different models"),
        ({"definitions": "2"}, "different definitions"),
    ):  # fmt: skip
        table = HeadTable(study.table.frame, {}, {**study.table.metadata, **change})
        with pytest.raises(ResultsError, match=said):
            together([scan, replace(study, table=table, run={})])


def test_columns_that_disagree_are_refused(results_home: Path):
    scan, study = read(results_home, "scan", "study")
    assert study.table is not None
    assert scan.table is not None
    frame = study.table.frame.assign(sink_first=scan.table.frame["sink_first"] / 2)
    mixed = replace(study, kind="table", studies=(), table=HeadTable(frame, {}, study.table.metadata))
    with pytest.raises(ResultsError, match=r"sink_first is in .*scan and in .*study, with different numbers"):
        together([scan, replace(mixed, table=_unscanned(mixed.table))])


def _unscanned(table: HeadTable | None) -> HeadTable:
    """A table that does not count as a scan, whatever columns it has."""
    assert table is not None

    class Other(HeadTable):
        scanned = False

    return Other(table.frame, table.profiles, table.metadata)


def test_studies_at_other_places_keep_their_own_pages(results_home: Path):
    study = read(results_home, "study")[0]
    assert study.table is not None
    task = replace(study.studies[0].task, name="other")
    effects = tuple(replace(one, task="other") for one in study.studies[0].effects)
    elsewhere = replace(
        study, table=HeadTable(study.table.frame, {}, {**study.table.metadata, "positions": "END"}),
        studies=(replace(study.studies[0], task=task, effects=effects, curve=None),),
    )  # fmt: skip
    with pytest.raises(ResultsError, match="positions are None and END"):
        together([study, elsewhere])
