"""Every result draws itself: `.plot()` is the obvious figure of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from probe.analyses.ablation import Ablation
from probe.analyses.edge_curve import EdgeCurve
from probe.analyses.overlap import Overlap
from probe.analyses.removal_curve import RemovalCurve
from probe.analyses.retrieval_result import RetrievalResult
from probe.analyses.units import Unit
from probe.circuits.circuit import Circuit
from probe.circuits.matrix import Matrix
from probe.circuits.study import FoundCircuit
from probe.plots import (
    edge_curve,
    head_map,
    overlap_matrix,
    recall_by_length,
    recall_without,
    removal,
)
from probe.plots.overlap import pair_table
from probe.studies.task_study import TaskStudy
from probe.table import HeadTable


def title(figure: Any) -> str:
    return str(figure.layout.title.text)


def test_a_table_draws_the_map_of_its_first_metric(head_table: HeadTable) -> None:
    assert head_table.plot().to_json() == head_map(head_table, "sink_first").to_json()


def test_a_retrieval_run_draws_the_removal_test_or_else_recall(retrieval_result: Any) -> None:
    one = retrieval_result
    found = RetrievalResult(one.trials, one.heads, one.per_trial, one.ablation, {})
    assert found.plot().to_json() == recall_without(found).to_json()
    whole = RetrievalResult([{**trial, "recall": 1.0} for trial in one.trials], one.heads, one.per_trial,
                            one.ablation.iloc[:0], {})  # fmt: skip
    assert whole.plot().to_json() == recall_by_length(whole).to_json()


def test_an_ablation_draws_the_map_of_its_leading_effects(ablation_study: TaskStudy, effect_table: HeadTable) -> None:
    figure = Ablation(ablation_study, effect_table, {}).plot()
    assert figure.to_json() == ablation_study.plot().to_json()
    np.testing.assert_array_equal(np.ravel(figure.data[0].z), ablation_study.numbers[0]["effect"])
    assert "What each head does for ioi: mean ablation, exact" in title(figure)


def test_a_study_of_sets_is_ranked(ablation_study: TaskStudy) -> None:
    one = ablation_study.effects[0]
    units = tuple(Unit(f"set {index}", "set", ((0, 0), (0, index + 1))) for index in range(3))
    study = replace(ablation_study, effects=(replace(one, units=units, ablated=one.ablated[:3]),), curve=None)
    figure = study.plot()
    assert sorted(figure.data[-1].y) == ["set 0", "set 1", "set 2"]
    assert "The strongest sets of heads for ioi: mean ablation, exact" in title(figure)


def test_a_removal_curve_needs_no_metric(make_curve: Callable[..., RemovalCurve]) -> None:
    curve = make_curve()
    assert curve.plot("logit_diff").to_json() == removal(curve, "logit_diff").to_json()
    assert curve.plot().layout.yaxis.title.text == "score"


def test_circuits_and_their_curves_draw_themselves(make_circuit: Callable[..., Circuit]) -> None:
    circuit = replace(make_circuit(), edges=())  # edges are slow to draw, and tested with the graph
    found: Any = SimpleNamespace(circuit=circuit)
    drawn = circuit.plot()
    assert FoundCircuit.plot(found).to_json() == drawn.to_json()
    assert "The circuit of ioi in invented" in title(drawn)
    assert EdgeCurve(circuit.curve, {}, 0.9, 0.1).plot().to_json() == edge_curve(circuit.curve).to_json()


def test_a_matrix_draws_what_its_circuits_share(
    several_circuits: tuple[Circuit, ...], several_overlaps: tuple[Overlap, ...]
) -> None:
    made = Matrix(several_circuits, several_overlaps, pd.DataFrame(), pd.DataFrame(), {})
    tasks = ["ioi", "greater_than", "induction"]
    assert made.plot().to_json() == overlap_matrix(pair_table(several_overlaps), tasks).to_json()
