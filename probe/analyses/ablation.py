"""What breaks when a head is removed: the whole study of one model and one task, in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import nn
from transformers import PreTrainedModel

from probe.analyses.effect_columns import with_effects
from probe.analyses.effects import Effects
from probe.analyses.exact import Where
from probe.analyses.importance import CRITERIA
from probe.analyses.methods import METHODS, effects
from probe.analyses.pieces import Ask
from probe.analyses.removal import STANDARD, RemovalPlan, ranking, removal_curve
from probe.analyses.removal_curve import RemovalCurve
from probe.analyses.units import Head, Unit
from probe.analyses.workbench import Workbench, here
from probe.errors import TokensError
from probe.formats import plain
from probe.models import Loaded, load
from probe.progress import Progress, silent
from probe.provenance import provenance
from probe.statistics import bootstrap
from probe.studies.task_study import TaskStudy, study_of
from probe.table import HeadTable
from probe.tasks.baseline import Baseline, baseline
from probe.tasks.build import build
from probe.tasks.task import Task

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False)
class Ablation:
    """What an ablation study of one model and one task found.

    study: the task, how well the model does it, the effects of every mode and method, the removal curve.
    table: one row a head, `ablation_<task>`, `attribution_<task>` and `importance_<criterion>` with their intervals.
    importance: criterion → [units, L, H], higher is more important.
    """

    study: TaskStudy
    table: HeadTable
    importance: Mapping[str, Float[np.ndarray, "units L H"]]

    @property
    def effects(self) -> Effects:
        """The leading effects: the first that were measured, not estimated."""
        return self.study.effects[self.study.lead]

    def top(self, count: int = 10) -> pd.DataFrame:
        """The units of largest |effect|: name, effect, interval, p and q, strongest first."""
        numbers = self.study.numbers[self.study.lead]
        order = numbers["effect"].abs().sort_values(ascending=False, kind="stable", na_position="last").index
        return numbers.loc[order[:count]].reset_index(drop=True)

    def plot(self) -> go.Figure:
        """The map of the leading effects (`TaskStudy.plot`)."""
        return self.study.plot()


def ablate(
    model: str | Path | PreTrainedModel | nn.Module | Loaded,
    task: str | Task,
    *,
    mode: str | Sequence[str] = "mean",
    method: str | Sequence[str] = ("exact", "gradient"),
    prompts: int = 64,
    seed: int = 0,
    corruption: str | None = None,
    metric: str | None = None,
    unit: str = "head",
    positions: str | Sequence[int] | None = None,
    phase: str = "both",
    given: Sequence[Head] = (),
    criteria: Sequence[str] = (),
    curve: RemovalPlan | None = STANDARD,
    top: int = 10,
    anyway: bool = False,
    progress: Progress = silent,
) -> Ablation:
    """Remove every head (key/value group, layer) and say what it does to a task, with intervals and controls.

    mode: what stands in the place of a removed head, METRICS' names (`probe.analyses.replacement.MODES`). method:
    `exact`, `gradient`, `integrated`, `hybrid`; several give several columns. prompts, seed, corruption, metric: how
    the task is built, where it is given by name. positions: a name of the task's (END, S2, …) or numbers; None: all.
    given: heads that are gone throughout, for a second pass that shows who stands in for them. criteria: importance
    criteria to compute beside and to compare in the removal curve (`probe.analyses.importance.CRITERIA`). curve:
    None for none. top: how many of the strongest `hybrid` must be certain of.

    positive = removing the unit hurts. Raises TokensError where the model cannot do the task (unless `anyway`), and
    for anything unknown; ModelError and HookError as `load` and `instrument` do.
    """
    loaded = model if isinstance(model, Loaded) else load(model)
    made = task if isinstance(task, Task) else build(
        task, loaded, prompts=prompts, seed=seed, corruption=corruption, metric=metric
    )  # fmt: skip
    where = Where(tuple(positions) if positions is not None and not isinstance(positions, str) else positions, phase)
    bench = Workbench(loaded, made, unit=unit, where=where, given=given)
    modes, methods = _several(mode), _several(method)
    check_methods(methods, criteria)
    bench.running.verify()
    able = able_baseline(loaded, made, anyway=anyway)
    return study_task(
        bench, able, here(bench, progress), modes=modes, methods=methods, criteria=criteria,
        curve=curve, top=top, seed=seed,
    )  # fmt: skip


def able_baseline(loaded: Loaded, task: Task, *, anyway: bool = False) -> Baseline:
    """How well the model does the task. Raises TokensError where that is no better than chance, unless `anyway`."""
    found = baseline(loaded.model, task)
    if not found.able and not anyway:
        raise TokensError(
            f"{loaded.name} cannot do {task.name}: {found.sentence} What it cannot do, no removal can break; "
            "choose another task, or go on all the same (anyway)"
        )
    return found


def check_methods(methods: Sequence[str], criteria: Sequence[str] = ()) -> None:
    """Raises TokensError for methods and importance criteria that do not exist, before anything is computed."""
    for kind, asked, known in (("method", methods, METHODS), ("criterion", criteria, CRITERIA)):
        unknown = [name for name in asked if name not in known]
        if unknown:
            raise TokensError(f"{kind} {unknown[0]!r}; wanted one of {', '.join(known)}")


def study_task(
    bench: Workbench,
    able: Baseline,
    ask: Ask,
    *,
    modes: Sequence[str],
    methods: Sequence[str],
    criteria: Sequence[str] = (),
    curve: RemovalPlan | None = STANDARD,
    top: int = 10,
    seed: int = 0,
) -> Ablation:
    """Everything about one task from pieces that `ask` answers: computed here, elsewhere, or remembered."""
    found = [effects(bench, mode, method, ask, top=top, seed=seed) for mode in modes for method in methods]
    pieces = bench.importance_pieces(criteria)
    importance = dict(zip(criteria, ask(pieces), strict=True))
    study = study_of(bench.task, found, bench.loaded.tokenizer, baseline=able, seed=seed)
    if curve is not None and all(one.kind == "head" for one in bench.units):
        lead = study.effects[study.lead]
        path = _curve(bench, lead, importance, ask, curve, seed)
        study = study_of(bench.task, found, bench.loaded.tokenizer, baseline=able, curve=path, seed=seed)
    table = with_effects(_table(bench, seed), found, {bench.task.name: bench.task}, seed=seed)
    return Ablation(study, _with_importance(table, bench, importance, seed), importance)


def _curve(
    bench: Workbench, lead: Effects, importance: Mapping[str, np.ndarray], ask: Ask, plan: RemovalPlan, seed: int
) -> RemovalCurve:
    """Heads removed in the order of the leading effects, and of every importance criterion."""
    # A head that `hybrid` measured on some prompts only counts by those; one that it never measured comes last.
    measured = ~np.isnan(lead.effect)
    mean = np.where(measured, lead.effect, 0).sum(1) / np.where(measured.any(1), measured.sum(1), np.nan)
    rankings: dict[str, list[Head]] = {"effect": ranking(lead.units, mean.tolist())}
    layers = [site.layer for site in bench.running.sites]
    for name, values in importance.items():
        score = values.mean(0)
        units = [Unit("", "head", (head,)) for head in bench.heads]
        rankings[name] = ranking(units, [float(score[layers.index(layer), head]) for layer, head in bench.heads])
    return removal_curve(bench, lead.mode, rankings, ask, plan=plan, seed=seed)


def _table(bench: Workbench, seed: int) -> HeadTable:
    task, running = bench.task, bench.running
    made = {
        "task": task.name, "metric": task.metric, "prompts": len(task.prompts), "held_out": len(task.held_out),
        "seed": task.seed, "notes": list(task.notes), **task.parameters,
    }  # fmt: skip
    document = {
        **provenance(bench.loaded, seed), "tasks": {task.name: plain(made)},
        "prefix": "shared" if bench.sweep.shares else "whole forwards",
        "positions": bench.where.positions or "all", "phase": bench.where.phase,
        "given": [f"L{layer}H{head}" for layer, head in bench.given],
    }  # fmt: skip
    layers = [site.layer for site in running.sites]
    return HeadTable.of_heads(layers, running.n_heads, document, kv_heads=running.n_kv_heads)


def _with_importance(
    table: HeadTable, bench: Workbench, importance: Mapping[str, np.ndarray], seed: int
) -> HeadTable:
    """`table` with `importance_<criterion>` and its interval over the criterion's units (prompts, mostly)."""
    for name, values in importance.items():
        spread = bootstrap(values.reshape(len(values), -1), seed=seed)
        layers = [site.layer for site in bench.running.sites]
        keys = [(layer, head) for layer in layers for head in range(values.shape[2])]
        frame = pd.DataFrame(keys, columns=["layer", "head"])
        column = f"importance_{name}"
        bounds: dict[str, Any] = {column: spread.mean, f"{column}_low": spread.low, f"{column}_high": spread.high}
        table = table.with_columns(frame.assign(**bounds))
    return table


def _several(names: str | Sequence[str]) -> tuple[str, ...]:
    """One name or several, each once."""
    return tuple(dict.fromkeys([names] if isinstance(names, str) else names))
