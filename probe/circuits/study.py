"""The circuit of a task: parts scored, circuits of every size measured, the smallest faithful one described."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float
from torch import nn
from transformers import PreTrainedModel

from probe.analyses.ablation import able_baseline
from probe.analyses.circuit_tests import Completeness, Minimality, completeness, minimality
from probe.analyses.edge_attribution import EdgeScores, attribute
from probe.analyses.edge_curve import EdgeCurve, edge_curve
from probe.analyses.edge_runs import EdgeRuns
from probe.analyses.faithfulness import carried, faithfulness, measured
from probe.analyses.graph_model import GraphModel
from probe.analyses.head_faithfulness import head_curve
from probe.analyses.head_jobs import Job, head_jobs, missing_jobs
from probe.analyses.head_runs import HeadRuns
from probe.circuits.circuit import Circuit, CircuitEdge, CircuitNode, CurvePoint, PromptScores
from probe.circuits.graph import Graph, head_node, head_of
from probe.circuits.memory import Memory, prompts_sha256
from probe.circuits.plan import CircuitPlan
from probe.errors import ModelError, TokensError
from probe.hooks.errors import HookError
from probe.hooks.heads import Head
from probe.models import Loaded, load
from probe.progress import Progress, silent
from probe.provenance import DEFINITIONS
from probe.statistics import bootstrap
from probe.tasks.baseline import Baseline
from probe.tasks.build import build
from probe.tasks.task import Task

if TYPE_CHECKING:
    import plotly.graph_objects as go

CONTEXT_EDGES = 500
"""Edges outside the circuit that circuit.json lists too: the strongest. edges.parquet has all."""


@dataclass(frozen=True, eq=False)
class FoundCircuit:
    """A circuit and what it was made from.

    circuit: the object that is saved, drawn and compared. scores: of all edges. prompt_scores: of every source and
    prompt, from which `overlap` draws the noise of discovery. task: the prompts that scored; judged: those that
    faithfulness was measured on. runs: head sets measured on `judged`, to go on with. completeness, minimality: where
    they were asked for.
    """

    circuit: Circuit
    scores: EdgeScores
    prompt_scores: PromptScores
    baseline: Baseline
    task: Task
    judged: Task
    runs: HeadRuns
    completeness: tuple[Completeness, ...] = ()
    minimality: tuple[Minimality, ...] = ()

    def plot(self) -> go.Figure:
        """The circuit as a layered graph (`Circuit.plot`)."""
        return self.circuit.plot()


def circuit(
    model: str | Path | PreTrainedModel | nn.Module | Loaded,
    task: str | Task,
    *,
    plan: CircuitPlan | None = None,
    prompts: int = 64,
    seed: int = 0,
    corruption: str | None = None,
    metric: str | None = None,
    anyway: bool = False,
    progress: Progress = silent,
) -> FoundCircuit:
    """Find the heads and edges that a task runs on, and how much of the task they do.

    plan: how it is looked for (default: EAP-IG of 5 steps, the smallest circuit that does 0.8 of the task). prompts,
    seed, corruption, metric: how a task given by name is built. Raises TokensError where the model cannot do the task
    (unless `anyway`), where prompts have no twins or twins that change nothing; HookError, by name, for a model whose
    parts cannot be told apart; ModelError as `load`.
    """
    loaded = model if isinstance(model, Loaded) else load(model)
    made = task if isinstance(task, Task) else build(
        task, loaded, prompts=prompts, seed=seed, corruption=corruption, metric=metric
    )  # fmt: skip
    chosen = CircuitPlan(seed=seed) if plan is None else plan
    able = able_baseline(loaded, made, anyway=anyway)
    return find_circuit(loaded, made, chosen, able, progress=progress)


def find_circuit(
    loaded: Loaded, task: Task, plan: CircuitPlan, able: Baseline, *, memory: Memory | None = None,
    progress: Progress = silent,
) -> FoundCircuit:  # fmt: skip
    """`circuit` of a built task that the model was found able to do; memory: results that outlive the run."""
    kept = Memory() if memory is None else memory
    model = GraphModel(loaded)
    model.running.verify()
    judged, said = judged_prompts(task, plan.judged)
    check_prompts(task, judged)
    runs = HeadRuns(loaded, judged, known=kept.heads(judged))
    runs.progress, runs.remember = progress, kept.heads
    carried(runs, seed=plan.seed)  # before anything long: there must be something to be faithful to
    scores = _edge_scores(loaded, task, plan, model, kept, progress)
    values = _node_scores(loaded, task, plan, scores, kept, progress)
    mean = values.mean(1)
    order = sorted(runs.heads, key=lambda head: (-abs(mean[model.graph.source(head_node(*head))]), head))
    curve = head_curve(loaded, judged, order, sizes=plan.sizes, random_draws=plan.head_draws, seed=plan.seed, runs=runs)
    count, reached = _smallest(runs, order, curve, plan)
    heads = tuple(sorted(order[:count]))
    edge_runs = EdgeRuns(loaded, judged, model=model, known=kept.edges(judged))
    edge_runs.progress = progress
    edges = edge_curve(edge_runs, scores.edges, shares=plan.shares, draws=plan.edge_draws, seed=plan.seed)
    share, edges_reached = _smallest_share(edges, plan)
    jobs, notes = _jobs(loaded, task, heads)
    groups: dict[str, list[Head]] = {}
    for head, job in jobs.items():
        groups.setdefault(job.role or "no role", []).append(head)
    tests: tuple[tuple[Completeness, ...], tuple[Minimality, ...]] = ((), ())
    if plan.tests:
        try:
            tests = (
                completeness(runs, heads, groups, seed=plan.seed),
                minimality(runs, heads, groups, seed=plan.seed),
            )
        except TokensError as error:  # half of the prompts may be too few; the circuit is not lost for it
            notes = [*notes, f"Completeness and minimality were not tested: {error}"]
    if model.running.n_kv_heads < model.running.n_heads:
        notes = [*notes, "Edges into keys and values are counted for each query head; in the model those that share a "
                         "key/value head are one."]  # fmt: skip
    words = [*said, *notes, *_unreached(plan.faithful, reached, edges_reached, len(order))]
    found = Circuit(
        model=loaded.name, n_layers=model.graph.n_layers, n_heads=model.graph.n_heads,
        n_kv_heads=model.running.n_kv_heads, parallel=model.graph.parallel, layers=None, task=task.name,
        metric=task.metric, method=_method(plan), ablation="resample",
        corruption=str(task.parameters.get("corruption") or "own"), prompts=len(task.prompts),
        prompts_sha256=prompts_sha256(task), seed=plan.seed, definitions=DEFINITIONS,
        nodes=_nodes(model.graph, values, task, heads, jobs, plan.seed),
        edges=_edges(model.graph, scores.edges, edges.circuits["edges_absolute", share]),
        curve=(*curve, *edges.points), summary=_summary(runs, edge_runs, edges, plan, tests), notes=tuple(words),
    )  # fmt: skip
    prompt_scores = PromptScores(values, task.groups)
    return FoundCircuit(found, scores, prompt_scores, able, task, judged, runs, *tests)


def check_prompts(task: Task, judged: Task) -> None:
    """Raises TokensError, before anything long, for prompts of which no circuit can be made."""
    if not (task.paired and judged.paired):
        raise TokensError(
            f"task {task.name}: prompts have no corrupted twins; wanted a task that has (see `probe tasks`)"
        )
    if task.metric == "accuracy":
        raise TokensError(
            f"task {task.name}: accuracy has no gradient, by which edges are scored; wanted another metric"
        )
    for what, some in (("score the parts on", task), ("judge circuits on", judged)):
        units = len(set(some.groups)) if some.groups else len(some.prompts)
        if units < 2:
            raise TokensError(
                f"task {task.name}: {units} independent prompt to {what}; wanted two or more for an interval"
            )


def judged_prompts(task: Task, most: int) -> tuple[Task, list[str]]:
    """The prompts that faithfulness is measured on, and a word on which they are: held-out ones where there are."""
    held = tuple(prompt for prompt in task.held_out if prompt.corrupted_ids is not None)[:most]
    if len(held) >= min(most, len(task.prompts)):
        return replace(task, prompts=held, held_out=()), [
            f"Faithfulness is measured on {len(held)} prompts that did not score the parts."
        ]
    own = task.prompts[:most]
    return replace(task, prompts=own, held_out=()), [
        f"Faithfulness is measured on {len(own)} of the prompts that scored the parts: the task holds too few others."
    ]


def _edge_scores(
    loaded: Loaded, task: Task, plan: CircuitPlan, model: GraphModel, memory: Memory, progress: Progress
) -> EdgeScores:
    def make() -> dict[str, np.ndarray]:
        made = attribute(loaded, task, method=plan.method, steps=plan.steps, model=model, progress=progress)
        cost = np.array(made.layer_forwards)
        return {"edges": made.edges, "error": made.error, "nodes": made.nodes, "cost": cost}

    parameters = {"method": plan.method, **({"steps": plan.steps} if plan.method == "eap-ig" else {})}
    kept = memory.several(task, "attribution", parameters, make)
    return EdgeScores(model.graph, kept["edges"], kept["error"], kept["nodes"], plan.method, float(kept["cost"]))


def _node_scores(
    loaded: Loaded, task: Task, plan: CircuitPlan, scores: EdgeScores, memory: Memory, progress: Progress
) -> Float[np.ndarray, "S N"]:
    """Per source and prompt; heads by their exact effects where the plan says so."""
    if plan.ranking != "exact":
        return scores.nodes
    runs = HeadRuns(loaded, task, known=memory.heads(task))
    runs.progress = progress
    effects = runs.clean - runs.replaced([[head] for head in runs.heads])
    values = scores.nodes.copy()
    values[[scores.graph.source(head_node(*head)) for head in runs.heads]] = effects
    return values


def _smallest(runs: HeadRuns, order: Sequence[Head], curve: list[CurvePoint], plan: CircuitPlan) -> tuple[int, bool]:
    """Size of the smallest circuit that is faithful enough, and whether it is short of the whole model.

    Between the largest size on the way that is not and the next that is, sizes are halved; those points join `curve`.
    """
    own = [point for point in curve if point.arm == "heads"]
    place = next((place for place, point in enumerate(own) if plan.holds(point)), len(own) - 1)
    low, high = own[place - 1].count if place else 0, own[place].count
    while high - low > 1:
        middle = (low + high) // 2
        found = faithfulness(runs, [order[:middle]], seed=plan.seed)
        point = measured("heads", middle, middle, found, 0)
        curve.append(point)
        low, high = (low, middle) if plan.holds(point) else (middle, high)
    curve.sort(key=lambda point: (point.arm, point.size))
    return high, high < len(order)


def _smallest_share(edges: EdgeCurve, plan: CircuitPlan) -> tuple[float, bool]:
    own = [point for point in edges.points if point.arm == "edges_absolute"]
    chosen = next((point for point in own if plan.holds(point)), own[-1])
    return chosen.size, chosen is not own[-1]


def _unreached(faithful: float, heads: bool, edges: bool, count: int) -> list[str]:
    grains = [name for name, reached in (("heads", heads), ("edges", edges)) if not reached]
    return [f"No circuit of {name} short of the whole model does {faithful:g} of the task." for name in grains]


def _jobs(loaded: Loaded, task: Task, heads: Sequence[Head]) -> tuple[dict[Head, Job], list[str]]:
    try:
        return head_jobs(loaded, task, heads), [f"Roles: {note}." for note in missing_jobs(task)]
    except (TokensError, HookError, ModelError) as error:
        return {head: Job("", {}) for head in heads}, [f"Roles were not looked for: {error}"]


def _nodes(
    graph: Graph, values: Float[np.ndarray, "S N"], task: Task, heads: Sequence[Head], jobs: dict[Head, Job], seed: int
) -> tuple[CircuitNode, ...]:
    """All heads in graph order, then `input` and the MLPs."""
    spread = bootstrap(values.T, groups=task.groups, seed=seed)
    members = set(heads)
    others = [name for name in graph.sources if head_of(name) is None]
    made = []
    for name in (*graph.heads, *others):
        row, head = graph.source(name), head_of(name)
        job = jobs.get(head) if head is not None else None
        evidence = {} if job is None else {key: value for key, value in job.evidence.items() if np.isfinite(value)}
        numbers = (float(spread.mean[row]), float(spread.low[row]), float(spread.high[row]))
        made.append(CircuitNode(name, *numbers, head in members, "" if job is None else job.role, evidence))
    return tuple(made)


def _edges(graph: Graph, scores: Float[np.ndarray, "S P"], keep: Bool[np.ndarray, "S P"]) -> tuple[CircuitEdge, ...]:
    """Those of the circuit and the strongest others, strongest first."""
    size = np.where(graph.possible, np.abs(scores), -1.0).ravel()
    order = np.argsort(-size, kind="stable")
    inside = keep.ravel()[order]
    outside = np.cumsum(~inside) <= CONTEXT_EDGES
    listed = order[(inside | outside) & (size[order] >= 0)]
    columns = len(graph.targets)
    return tuple(
        CircuitEdge(
            graph.sources[place // columns], graph.targets[place % columns],
            float(scores.flat[place]), bool(keep.flat[place]),
        )
        for place in listed.tolist()
    )  # fmt: skip


def _summary(
    runs: HeadRuns, edge_runs: EdgeRuns, edges: EdgeCurve, plan: CircuitPlan,
    tests: tuple[Sequence[Completeness], Sequence[Minimality]],
) -> dict[str, float]:  # fmt: skip
    numbers = {
        "m_clean": float(runs.clean.mean()),
        "m_corrupted": float(edge_runs.empty.mean()),
        "m_heads_replaced": float(runs.empty.mean()),
        "faithful": plan.faithful,
        "judged": float(len(runs.task.prompts)),
        "cpr": edges.cpr,
        "cmd": edges.cmd,
    }
    complete, minimal = tests
    if complete:
        numbers["incompleteness"] = max(abs(one.difference.share) for one in complete)
    if minimal:
        numbers["minimality"] = min(abs(one.loss.share) for one in minimal)
    return {name: value for name, value in numbers.items() if np.isfinite(value)}


def _method(plan: CircuitPlan) -> str:
    edges = f"eap-ig ({plan.steps} steps)" if plan.method == "eap-ig" else plan.method
    return edges if plan.ranking == plan.method else f"heads exact, edges {edges}"
