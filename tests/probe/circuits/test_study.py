"""A circuit from a name to its folder: the planted one is found, a stopped run goes on, what cannot be is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from probe.analyses import edge_runs
from probe.circuits import folder as folder_module
from probe.circuits.circuit import CurvePoint
from probe.circuits.files import load, load_scores
from probe.circuits.folder import circuit_folder, ready
from probe.circuits.graph import head_node
from probe.circuits.matrix import matrix
from probe.circuits.plan import CircuitPlan
from probe.circuits.study import circuit, judged_prompts
from probe.circuits.summary import circuit_lines, circuit_summary
from probe.cli import main
from probe.errors import ResultsError, TokensError
from probe.models import load as load_model
from probe.planted.circuits import planted_truth
from probe.tasks.build import build

SMALL = CircuitPlan(sizes=(1, 2, 5), shares=(0.005, 0.01, 0.1, 1.0), head_draws=2)


@pytest.fixture(scope="module")
def planted():
    return load_model("planted-circuits")


@pytest.fixture(scope="module")
def found(planted):
    return circuit(planted, "recall", prompts=8, plan=SMALL)


def test_the_planted_circuit_is_found(found):
    truth = planted_truth("recall")
    assert set(found.circuit.heads) == {*truth.carriers, *truth.negatives}
    inside = {(edge.source, edge.target) for edge in found.circuit.edges if edge.in_circuit}
    # But for the edge that keeps a backup asleep, which is worth little while the rest is whole.
    assert {edge for edge in set(truth.edges) - inside if edge[1][: -len("<k>")] not in backups(truth)} == set()
    roles = {head: found.circuit.node_of(head).role for head in found.circuit.heads}
    assert {"name_mover", "negative_mover", "previous_token"} <= set(roles.values())
    assert all(found.circuit.score_of(head) < 0 for head in truth.negatives)
    point = next(one for one in found.circuit.curve if one.arm == "heads" and one.count == len(found.circuit.heads))
    assert SMALL.holds(point)
    # One head fewer, which halving has measured, is not faithful.
    smaller = [one for one in found.circuit.curve if one.arm == "heads" and one.count == point.count - 1]
    assert len(smaller) == 1
    assert not SMALL.holds(smaller[0])


def test_parts_are_scored_and_judged_on_different_prompts(found, planted):
    scored = {one.clean_ids for one in found.task.prompts}
    assert not scored & {one.clean_ids for one in found.judged.prompts}
    task = build("recall", planted, prompts=8, held_out=0)
    judged, said = judged_prompts(task, 4)
    assert judged.prompts == task.prompts[:4]
    assert "of the prompts that scored" in said[0]


def test_exact_ranking_finds_the_same_heads(planted, found):
    plan = CircuitPlan(head_method="exact", sizes=(1, 2, 5), shares=(0.01, 1.0), head_draws=1)
    exact = circuit(planted, "recall", prompts=8, plan=plan).circuit
    assert exact.heads == found.circuit.heads
    assert exact.method == "heads exact, edges eap-ig (5 steps)"


def test_tests_of_the_circuit_are_made_where_they_are_asked_for(planted):
    plan = CircuitPlan(sizes=(5,), shares=(0.01, 1.0), head_draws=1, tests=True)
    made = circuit(planted, "recall", prompts=8, plan=plan)
    assert {one.head for one in made.minimality} == set(made.circuit.heads)
    assert {"none", "group", "random", "greedy"} >= {one.kind for one in made.completeness} >= {"none", "random"}
    assert made.circuit.summary["incompleteness"] >= 0


def backups(truth):
    return {head_node(*head) for head in truth.backups}


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != "run.json"}


def test_a_stopped_run_goes_on_and_ends_with_the_same_bytes(planted, tmp_path, monkeypatch):
    task = build("recall", planted, prompts=8)
    asked = ready(planted, task, SMALL)
    circuit_folder(asked, tmp_path / "whole")
    real, count = edge_runs.edge_metric, []

    def stops(*args, **kwargs):
        count.append(1)
        if len(count) == 3:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(edge_runs, "edge_metric", stops)
    with pytest.raises(KeyboardInterrupt):
        circuit_folder(asked, tmp_path / "stopped")
    assert not (tmp_path / "stopped" / "circuit.json").exists()
    before = (tmp_path / "stopped" / "effects.jsonl").read_bytes().count(b"\n")
    assert before > 10
    monkeypatch.setattr(edge_runs, "edge_metric", real)
    monkeypatch.setattr("probe.circuits.study.attribute", lambda *_a, **_k: pytest.fail("scored again"))
    circuit_folder(asked, tmp_path / "stopped")
    assert files_of(tmp_path / "stopped") == files_of(tmp_path / "whole")
    run = json.loads((tmp_path / "stopped" / "run.json").read_text())
    assert run["pieces"] - run["computed"] == before


def test_a_folder_of_another_study_is_refused(planted, tmp_path):
    task = build("recall", planted, prompts=8)
    circuit_folder(ready(planted, task, SMALL), tmp_path)
    other = CircuitPlan(sizes=(1, 2, 5), shares=(0.005, 0.01, 0.1, 1.0), head_draws=2, steps=3)
    with pytest.raises(ResultsError, match=r"study\.circuit\.steps is 5 there and 3 here"):
        circuit_folder(ready(planted, task, other), tmp_path)


def test_the_folder_holds_what_can_be_read_again(planted, tmp_path):
    made = circuit_folder(ready(planted, build("recall", planted, prompts=8), SMALL), tmp_path)
    again = load(tmp_path / "circuit.json")
    assert again == made.circuit
    scores = load_scores(tmp_path / "circuit.json", again)
    assert scores is not None
    np.testing.assert_array_equal(scores.values, made.prompt_scores.values)
    edges = pd.read_parquet(tmp_path / "edges.parquet")
    assert len(edges) == again.graph.n_edges
    strongest = edges.iloc[edges["score"].abs().argmax()]
    assert again.edges[0].source == strongest["source"]
    assert again.edges[0].score == strongest["score"]
    frame = folder_module.edges_frame(made.scores)
    pd.testing.assert_frame_equal(edges, frame, check_dtype=False)


def test_a_matrix_says_what_is_shared_and_what_sharing_does(planted, tmp_path):
    asked = [ready(planted, build(name, planted, prompts=8), SMALL) for name in ("recall", "translate")]
    made = matrix(asked, tmp_path / "m", not_done={"mcq": "cannot"}, draws=3)
    (pair,) = made.overlaps
    truth = [set(planted_truth(name).heads) for name in ("recall", "translate")]
    carriers = [{*planted_truth(name).carriers, *planted_truth(name).negatives} for name in ("recall", "translate")]
    assert set(pair.shared) == carriers[0] & carriers[1] <= truth[0] & truth[1]
    own = made.transfer[made.transfer["circuit"] == made.transfer["task"]]
    other = made.transfer[made.transfer["circuit"] != made.transfer["task"]]
    assert (own["faithfulness"] > 0.9).all()
    assert (other["faithfulness"] < 0.2).all()
    shared = made.removed[made.removed["part"] == "shared"]
    assert (shared["lost"] > 0.9).all()
    told = json.loads((tmp_path / "m" / "matrix.json").read_text())
    assert told["not_done"] == {"mcq": "cannot"}
    assert (tmp_path / "m" / "recall" / "circuit.json").exists()
    with pytest.raises(TokensError, match="two different tasks"):
        matrix(asked[:1], tmp_path / "one")


def test_plans_that_nothing_can_be_made_of_are_refused():
    for wrong, why in (
        ({"method": "acdc"}, "method 'acdc'"), ({"head_method": "eap"}, "edges by eap-ig and heads by eap"),
        ({"faithful": 0.0}, "faithful 0.0"), ({"judged": 1}, "judged 1"), ({"steps": 0}, "steps 0"),
        ({"seed": -1}, "seed -1"),
    ):  # fmt: skip
        with pytest.raises(TokensError, match=why):
            CircuitPlan(**wrong)


def test_a_circuit_is_as_near_to_the_model_as_was_asked():
    plan = CircuitPlan(faithful=0.8)
    for f, holds in ((0.8, True), (0.79, False), (1.2, True), (1.21, False), (1.0, True)):
        assert plan.holds(CurvePoint("heads", 1, 1, f, f, f)) == holds


def test_a_task_that_the_model_fails_is_refused(planted):
    hard = replace(build("recall", planted, prompts=8), chance=1.0)
    with pytest.raises(TokensError, match="cannot do"):
        circuit(planted, hard)


def test_prompts_of_which_no_circuit_can_be_made_are_refused_before_anything_long(planted, monkeypatch):
    monkeypatch.setattr("probe.circuits.study.attribute", lambda *_a, **_k: pytest.fail("scored"))
    task = build("recall", planted, prompts=8)
    alone = replace(task, prompts=tuple(replace(one, corrupted_ids=None) for one in task.prompts))
    same = replace(
        task, prompts=tuple(replace(one, corrupted_ids=one.clean_ids) for one in task.prompts), held_out=()
    )  # fmt: skip
    one_group = replace(task, prompts=tuple(replace(one, group="a") for one in task.prompts))
    for made, why in (
        (alone, "no corrupted twins"), (same, "are the prompts themselves"), (one_group, "1 independent prompt"),
        (replace(task, metric="accuracy"), "another metric"),
        (replace(task, prompts=task.prompts[:1]), "1 independent"),
    ):  # fmt: skip
        with pytest.raises(TokensError, match=why):
            circuit(planted, made, anyway=True)


def test_tests_of_the_circuit_are_remembered_too(planted, tmp_path, monkeypatch):
    plan = CircuitPlan(sizes=(5,), shares=(0.01, 1.0), head_draws=1, tests=True)
    asked = ready(planted, build("recall", planted, prompts=8), plan)
    circuit_folder(asked, tmp_path)
    monkeypatch.setattr("probe.analyses.exact.ExactSweep.ablated", lambda *_a, **_k: pytest.fail("run again"))
    again = circuit_folder(asked, tmp_path)
    assert again.minimality
    assert json.loads((tmp_path / "run.json").read_text())["computed"] == 0


def test_a_task_without_a_circuit_does_not_cost_the_others_theirs(planted, tmp_path, monkeypatch):
    asked = [ready(planted, build(name, planted, prompts=8), SMALL) for name in ("recall", "translate")]
    third = replace(asked[0], task=replace(asked[0].task, name="third"))
    real = folder_module.find_circuit

    def fails(loaded, task, *rest, **how):
        if task.name == "third":
            raise TokensError("nothing to be faithful to")
        return real(loaded, task, *rest, **how)

    monkeypatch.setattr(folder_module, "find_circuit", fails)
    made = matrix([asked[0], third, asked[1]], tmp_path / "m", draws=2)
    assert [one.task for one in made.circuits] == ["recall", "translate"]
    assert made.not_done == {"third": "nothing to be faithful to"}


def test_the_lines_and_the_numbers_say_the_circuit(found):
    first, *rest = circuit_lines(found.circuit)
    assert first.startswith(f"planted-circuits, recall: {len(found.circuit.heads)} of 32 heads do ")
    assert any("name_mover" in line for line in rest)
    numbers = circuit_summary(found.circuit)
    assert next(one["name"] for one in numbers["heads"]) == rest[0].split()[0]
    json.dumps(numbers, allow_nan=False)


def test_the_command_writes_the_folder_and_prints_json(tmp_path, capsys):
    out = tmp_path / "c"
    assert run(["circuit", "planted-circuits", "--task", "recall", "--prompts", "6", "--judged", "6", "--steps", "2",
                "--out", str(out), "--json"]) == 0  # fmt: skip
    printed = capsys.readouterr()
    assert json.loads(printed.out)["task"] == "recall"
    assert "about" in printed.err
    assert (out / "report.html").exists()
    assert run(["overlap", str(out / "circuit.json"), str(out / "circuit.json"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["p_value"] < 1


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (["circuit", "planted-circuits", "--task", "nonsense"], "unknown task 'nonsense'"),
        (["circuit", "planted-circuits", "--task", "recall", "--method", "acdc"], "method 'acdc'"),
        (["circuit", "nosuchmodel", "--task", "nonsense"], "unknown task 'nonsense'"),
        (["matrix", "planted-circuits", "--tasks", "recall"], "two different tasks or more"),
        (["matrix", "planted-circuits", "--tasks", "recall,recall"], "two different tasks or more"),
        (["matrix", "planted-circuits", "--tasks", "recall,translate", "--draws", "0"], "0 draws"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(asked, why, tmp_path, capsys):
    assert run([*asked, "--out", str(tmp_path / "x")]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert why in told[-1]
    assert not (tmp_path / "x").exists()


def run(arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["probe", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
    return ended.value.code or 0
