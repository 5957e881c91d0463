"""What the planted circuits are said to run on is what they run on: exact effects of every head and every edge."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from probe.analyses.edge_attribution import attribute
from probe.analyses.edge_effects import edge_effect
from probe.analyses.exact import ExactSweep
from probe.analyses.replacement import replacement
from probe.analyses.selection import roc_auc
from probe.analyses.units import Head, set_unit, units_of
from probe.circuits.graph import Graph
from probe.errors import ModelError, TokensError
from probe.models import Loaded, load
from probe.planted.circuit_words import TASK_NAMES, circuit_tokenizer
from probe.planted.circuits import (
    CIRCUIT_EDGES,
    CIRCUIT_HEADS,
    PlantedCircuit,
    planted_circuits,
    planted_task,
    planted_truth,
)
from probe.running import Running

ALL = slice(None)
GRAPH = Graph(n_layers=4, n_heads=8)
EDGES = [(s, t) for i, s in enumerate(GRAPH.sources) for j, t in enumerate(GRAPH.targets) if GRAPH.possible[i, j]]
CASES = [(name, shared) for name in TASK_NAMES for shared in range(5)]


@cache
def model(shared: int) -> Loaded:
    return load(planted_circuits(shared), tokenizer=circuit_tokenizer())


@cache
def effects(name: str, shared: int, mode: str = "resample", given: tuple[Head, ...] = ()) -> tuple[float, dict]:
    """The mean metric, and what it loses without each head."""
    running, task = Running(model(shared).model), planted_task(name, prompts=12)
    sweep, how, units = ExactSweep(running, task, given=given), replacement(running, task, mode), units_of(running)
    clean = sweep.clean(ALL, how)
    lost = (clean - sweep.ablated(units, how, ALL)).mean(1)
    return float(clean.mean()), {unit.heads[0]: float(value) for unit, value in zip(units, lost, strict=True)}


def area(scores: dict, members: set, outside: set) -> float:
    """AUROC of members against all that are neither members nor `outside`."""
    judged = [key for key in scores if key not in outside]
    return roc_auc(np.array([scores[key] for key in judged]), np.array([key in members for key in judged]))


@pytest.mark.parametrize(
    ("name", "shared", "mode"),
    [
        *((*case, "resample") for case in CASES),
        ("recall", 0, "zero"),
        ("translate", 2, "zero"),
        ("translate", 2, "mean"),
    ],
)
def test_carriers_and_others_are_told_apart(name: str, shared: int, mode: str):
    truth, (clean, lost) = planted_truth(name, shared=shared), effects(name, shared, mode)
    backups = set(truth.backups)
    assert area(lost, set(truth.carriers), backups) == 1
    assert area({head: -value for head, value in lost.items()}, set(truth.negatives), backups) == 1
    # Without its carriers nothing is left of the task; the mover has a backup, which makes good half of 10/7.
    assert all(lost[head] > 0.5 * clean for head in truth.carriers)
    # A third of the mover's strength against its 1 − 0.3.
    assert all(lost[head] < -0.3 * clean for head in truth.negatives)
    silent = {head: value for head, value in lost.items() if head not in truth.heads}
    assert max(map(abs, silent.values())) < 0.01 * clean, "the backup's effect is as nothing, too"


@pytest.mark.parametrize("shared", range(5))
def test_the_tasks_share_exactly_as_many_heads_as_asked(shared: int):
    found = []
    for name in TASK_NAMES:
        clean, lost = effects(name, shared)
        found.append({head for head, value in lost.items() if abs(value) > 0.05 * clean})
        assert found[-1] == set(planted_truth(name, shared=shared).heads)
    assert len(found[0] & found[1]) == shared


def test_the_wrong_circuit_is_not_taken_for_the_right_one():
    _, lost = effects("recall", 0)
    other = planted_truth("translate", shared=0)
    assert area(lost, set(other.carriers), set(other.backups)) < 0.9
    # Of two that share heads, the shared ones alone are right.
    other = planted_truth("translate", shared=2)
    assert 0.5 < area(effects("recall", 2)[1], set(other.carriers), set(other.backups)) < 0.99


@pytest.mark.parametrize("mode", ["resample", "zero"])
@pytest.mark.parametrize(("name", "shared"), [("recall", 0), ("translate", 2)])
def test_a_second_pass_finds_the_backup(name: str, shared: int, mode: str):
    truth = planted_truth(name, shared=shared)
    ((backup, mover),) = truth.backups.items()
    clean, first = effects(name, shared, mode)
    without, second = effects(name, shared, mode, (mover,))
    outside = set(truth.heads) - {backup}
    assert abs(first[backup]) < 0.01 * first[mover]
    assert area(second, {backup}, outside) == 1
    assert second[backup] > 100 * max(value for head, value in second.items() if head not in {backup, *outside})
    # Loss with the backup against loss without: a mover of strength 1, a backup of 0.5 that reads as it does.
    assert (clean - without) / (clean - without + second[backup]) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(("name", "shared"), CASES)
def test_the_circuit_alone_does_the_task(name: str, shared: int):
    truth, running, task = planted_truth(name, shared=shared), Running(model(shared).model), planted_task(name)
    sweep, how = ExactSweep(running, task), replacement(running, task, "resample")
    everyone = [unit.heads[0] for unit in units_of(running)]
    rest = set_unit("rest", [head for head in everyone if head not in truth.heads])
    kept, none = sweep.ablated([rest, set_unit("all", everyone)], how, ALL).mean(1)
    whole = float(sweep.clean(ALL).mean())
    # Bystanders write 0.3 of a code each to junk, which the norms see: under 1 % of a stream of length 8.2.
    assert kept == pytest.approx(whole, rel=0.02)
    assert abs(none) < 0.02 * whole


def check_edges(name: str, shared: int) -> None:
    truth, task = planted_truth(name, shared=shared), planted_task(name, prompts=2, held_out=0)
    exact = dict(zip(EDGES, edge_effect(model(shared), task, EDGES).mean(1), strict=True))
    clean = float(ExactSweep(Running(model(shared).model), task).clean(ALL).mean())
    assert {edge: int(np.sign(exact[edge])) for edge in truth.edges} == dict(truth.edges)
    assert min(abs(exact[edge]) for edge in truth.edges) > 0.3 * clean
    assert max(abs(value) for edge, value in exact.items() if edge not in truth.edges) < 0.01 * clean


@pytest.mark.parametrize(("name", "shared"), [("recall", 0), ("translate", 2)])
def test_the_edges_are_exactly_those_named(name: str, shared: int):
    check_edges(name, shared)


@pytest.mark.full
@pytest.mark.parametrize(("name", "shared"), CASES)
def test_the_edges_are_exactly_those_named_for_every_sharing(name: str, shared: int):
    check_edges(name, shared)


@pytest.mark.parametrize("method", ["eap", "eap-ig"])
@pytest.mark.parametrize(("name", "shared"), [("recall", 0), ("translate", 0), ("recall", 4), ("translate", 4)])
def test_gradients_see_the_edges(name: str, shared: int, method: str):
    truth, task = planted_truth(name, shared=shared), planted_task(name, prompts=12, held_out=0)
    found = attribute(model(shared), task, method=method).edges
    scores = {(s, t): float(found[GRAPH.source(s), GRAPH.target(t)]) for s, t in EDGES}
    assert {edge: int(np.sign(scores[edge])) for edge in truth.edges} == dict(truth.edges)
    sizes = {edge: abs(value) for edge, value in scores.items()}
    assert area(sizes, set(truth.edges), set(truth.waking)) == 1
    helping = {edge for edge, sign in truth.edges.items() if sign > 0}
    assert area(scores, helping, set(truth.waking)) == 1


@pytest.mark.parametrize(("name", "shared"), CASES)
def test_what_is_named_is_in_the_graph(name: str, shared: int):
    truth = planted_truth(name, shared=shared)
    for source, target in (*truth.edges, *truth.waking):
        assert GRAPH.possible[GRAPH.source(source), GRAPH.target(target)]
    assert not set(truth.edges) & set(truth.waking)
    assert sorted(truth.heads) == sorted([*truth.carriers, *truth.negatives])
    assert (len(truth.carriers), len(truth.negatives), len(truth.backups)) == (3, 1, 1)


def test_the_models_by_name_have_the_circuits_named():
    assert len(CIRCUIT_HEADS["recall"].keys() & CIRCUIT_HEADS["translate"].keys()) == 2
    assert CIRCUIT_EDGES["recall"] == planted_truth("recall", shared=2).edges
    for name, shared in (("planted-circuits", 2), ("planted-circuits-apart", 0)):
        assert load(name).weight_hash == model(shared).weight_hash


def test_unknown_things_are_refused():
    for call in (planted_truth, planted_task):
        with pytest.raises(TokensError, match="unknown planted task 'ioi'; wanted one of recall, translate"):
            call("ioi")
    with pytest.raises(ModelError, match="shared 5; wanted a whole number from 0 to 4"):
        planted_truth("recall", shared=5)


def test_tasks_come_from_the_seed():
    task = planted_task("recall", prompts=4)
    assert task == planted_task("recall", prompts=4)
    assert task.prompts != planted_task("recall", prompts=4, seed=1).prompts
    assert isinstance(planted_truth("recall"), PlantedCircuit)
