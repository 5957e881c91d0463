"""tasks.json: what a study's other files do not hold of its tasks, so that a page can be made again from the folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from probe.analyses.effects import Effects
from probe.analyses.removal_curve import RemovalCurve
from probe.analyses.units import KINDS, Unit
from probe.errors import ProbeError, ResultsError
from probe.formats import plain, read_parquet
from probe.strict import Fields, read_json
from probe.studies.prompts import read_prompts
from probe.studies.task_study import TaskStudy
from probe.table import HeadTable
from probe.tasks.baseline import Baseline
from probe.tasks.task import Prompt, Task

TASKS_FILE = "tasks.json"
EFFECTS_FILE, CURVES_FILE, PROMPTS_FILE, MEANS_FILE = (
    "effects.parquet", "curves.parquet", "prompts.jsonl", "means.jsonl",
)  # fmt: skip
_TOLERANCE = 1e-9
"""Means of the same effects, added in another order, differ by rounding alone."""


def tasks_json(studies: Sequence[TaskStudy]) -> bytes:
    """Of every task: how it is judged, how well the model does it, its words, and what every method cost and noted."""
    document = {"tasks": [_document(study) for study in studies]}
    return json.dumps(plain(document), indent=1, sort_keys=True, allow_nan=False).encode() + b"\n"


def _document(study: TaskStudy) -> dict[str, Any]:
    task = study.task
    return {
        "name": task.name, "metric": task.metric, "chance": task.chance, "task_seed": task.seed, "seed": study.seed,
        "notes": task.notes, "parameters": dict(task.parameters), "question": study.question,
        "answers": study.answers, "wrongs": study.wrongs, "curve": study.curve is not None,
        "baseline": None if study.baseline is None else dict(vars(study.baseline)),
        "effects": [
            {"mode": one.mode, "method": one.method, "unit": one.units[0].kind, "layer_forwards": one.layer_forwards,
             "notes": one.notes}
            for one in study.effects
        ],
    }  # fmt: skip


def read_studies(folder: Path, table: HeadTable) -> tuple[TaskStudy, ...]:
    """The studies of a finished folder, in the order they were asked for; table: its head table.

    Raises ResultsError, naming the file, for what is missing, damaged, or does not fit the rest of the folder.
    """
    path = folder / TASKS_FILE
    if not path.exists():
        raise ResultsError(f"{path}: no such file, and a page is made of it; run the same command again to have it")
    document = Fields(read_json(path), str(path))
    rows = document.objects("tasks")
    document.end()
    files = _Files.read(folder)
    if files.metadata != table.metadata:
        raise ResultsError(f"{folder}: {EFFECTS_FILE} and heads.parquet are of two runs; run again to replace them")
    try:
        return tuple(_study(row, files, table) for row in rows)
    except ProbeError as error:
        named = str(error) if str(error).startswith(str(folder)) else f"{folder}: {error}"
        raise ResultsError(named) from error


@dataclass(frozen=True, eq=False)
class _Files:
    """The other files of a study: prompts and held-out prompts by task, all effects, the curves if there are."""

    prompts: Mapping[str, tuple[Prompt, ...]]
    held_out: Mapping[str, tuple[Prompt, ...]]
    effects: pd.DataFrame
    curves: pd.DataFrame | None
    metadata: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> _Files:
        effects, documents = read_parquet(folder / EFFECTS_FILE)
        curves = read_parquet(folder / CURVES_FILE)[0] if (folder / CURVES_FILE).exists() else None
        held_out = read_prompts(folder / MEANS_FILE) if (folder / MEANS_FILE).exists() else {}
        return cls(read_prompts(folder / PROMPTS_FILE), held_out, effects, curves, documents.get("probe", {}))


def _study(row: Fields, files: _Files, table: HeadTable) -> TaskStudy:
    name, metric = row.text("name"), row.text("metric")
    chance, task_seed, notes = row.number("chance"), row.whole("task_seed"), row.texts("notes")
    parameters = row.any("parameters")
    prompts, held_out = files.prompts.get(name, ()), files.held_out.get(name, ())
    task = Task(name, metric, prompts, held_out, chance, task_seed, notes, dict(parameters))
    study = TaskStudy(
        task,
        tuple(_effects(one, task, files.effects, table) for one in row.objects("effects")),
        question=row.text("question"),
        baseline=_baseline(row.any("baseline"), row.where),
        answers=row.texts("answers"),
        wrongs=row.texts("wrongs"),
        curve=_curve(row.flag("curve"), task, files.curves, row.where),
        seed=row.whole("seed"),
    )
    row.end()
    _check_columns(study, table)
    return study


def _effects(row: Fields, task: Task, frame: pd.DataFrame, table: HeadTable) -> Effects:
    """One mode and method: its rows of the long table as units × prompts, in the order that a run has them."""
    mode, method, kind = row.text("mode"), row.text("method"), row.text("unit")
    forwards, notes = row.number("layer_forwards"), row.texts("notes")
    row.end()
    units = units_in(table, kind)
    mine = frame[(frame["task"] == task.name) & (frame["mode"] == mode) & (frame["method"] == method)]
    places: dict[tuple[Any, ...], int] = {(kind, *_key(unit, table)): place for place, unit in enumerate(units)}
    ablated = np.full((len(units), len(task.prompts)), np.nan)
    clean = np.full(len(task.prompts), np.nan)
    keys = zip(*(mine[name] for name in ("unit", "layer", "head", "kv_head")), strict=True)
    rows = [places.get((named, *(None if pd.isna(part) else int(part) for part in rest)), -1) for named, *rest in keys]
    prompts = mine["prompt"].to_numpy()
    if not rows or min(rows) < 0 or not ((prompts >= 0) & (prompts < len(clean))).all():
        raise ResultsError(f"{EFFECTS_FILE}: rows of {task.name}, {mode}, {method} are missing, or name units or "
                           "prompts that the folder does not have; run again to replace it")  # fmt: skip
    ablated[rows, prompts] = mine["ablated"]
    clean[prompts] = mine["clean"]
    if np.isnan(clean).any():
        raise ResultsError(f"{EFFECTS_FILE}: no row of {task.name}, prompt {int(np.isnan(clean).argmax())}; run again")
    return Effects(task.name, mode, method, units, clean, ablated, forwards, notes)


def units_in(table: HeadTable, kind: str) -> tuple[Unit, ...]:
    """Every head, key/value group or layer of a table, in its order. Raises ResultsError for another kind."""
    if kind not in KINDS:
        raise ResultsError(f"unit {kind!r}; wanted one of {', '.join(KINDS)}")
    groups: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for layer, head, shared in zip(*(table.frame[name].tolist() for name in ("layer", "head", "kv_head")), strict=True):
        key = {"head": (layer, head), "kv_group": (layer, shared), "layer": (layer,)}[kind]
        groups.setdefault(key, []).append((layer, head))
    mark = {"head": "H", "kv_group": "G", "layer": ""}[kind]
    return tuple(
        Unit(mark.join(map(str, (f"L{key[0]}", *key[1:]))), kind, tuple(heads)) for key, heads in groups.items()
    )


def _key(unit: Unit, table: HeadTable) -> tuple[int | None, int | None, int | None]:
    """layer, head, kv_head of a unit, as effects.parquet has them."""
    layer, head = unit.heads[0]
    frame = table.frame
    shared = int(frame.loc[(frame["layer"] == layer) & (frame["head"] == head), "kv_head"].iloc[0])
    return layer, head if unit.kind == "head" else None, None if unit.kind == "layer" else shared


def _baseline(value: Any, where: str) -> Baseline | None:
    if value is None:
        return None
    row = Fields(value, f"{where}: baseline")
    read: dict[str, Callable[[str], Any]] = {"str": row.text, "float": row.number, "bool": row.flag}
    values: dict[str, Any] = {}
    for one in fields(Baseline):
        plain_value = read.get(str(one.type))
        values[one.name] = np.array(row.numbers(one.name)) if plain_value is None else plain_value(one.name)
    row.end()
    return Baseline(**values)


def _curve(wanted: bool, task: Task, curves: pd.DataFrame | None, where: str) -> RemovalCurve | None:
    if not wanted:
        return None
    if curves is None:
        raise ResultsError(f"{where}: {CURVES_FILE} is missing, and {task.name} has a removal curve; run again")
    mine = curves[curves["task"] == task.name].drop(columns=["task", "mode"]).reset_index(drop=True)
    return RemovalCurve(mine, task.groups)


def _check_columns(study: TaskStudy, table: HeadTable) -> None:
    """Raises ResultsError where the table's means are not those of the effects."""
    for name, one in zip(study.columns, study.effects, strict=True):
        if one.units[0].kind != "head":
            continue
        counted = (~np.isnan(one.ablated)).sum(1)
        mean = np.where(counted, np.nansum(one.effect, 1) / np.maximum(counted, 1), np.nan)
        if name not in table.frame or not np.allclose(table.frame[name], mean, _TOLERANCE, _TOLERANCE, equal_nan=True):
            raise ResultsError(f"{name} in heads.parquet is not the mean of {EFFECTS_FILE}; run again to replace both")
