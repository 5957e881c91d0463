"""A study's tables, from its effects: effects.parquet, long form, and the head table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from probe.analyses.effects import Effects
from probe.analyses.units import Unit
from probe.studies.file import Study
from probe.studies.task_study import TaskStudy
from probe.table import HeadTable
from probe.tasks.task import Task

SORTED_BY = ["model", "task", "mode", "method", "seed", "unit", "layer", "head", "kv_head", "prompt"]


def effects_frame(studies: Sequence[TaskStudy], study: Study, model: str, kv_size: int) -> pd.DataFrame:
    """One row for every effect, unit and prompt that was measured, sorted by key (METRICS, Studies).

    kv_size: query heads that read one key/value head. A key that a unit does not have (the head of a layer) is null.
    """
    parts = [_rows(one, made.task, study, model, kv_size) for made in studies for one in made.effects]
    return pd.concat(parts, ignore_index=True).sort_values(SORTED_BY, ignore_index=True, kind="stable")


def _rows(effects: Effects, task: Task, study: Study, model: str, kv_size: int) -> pd.DataFrame:
    units, prompts = np.nonzero(~np.isnan(effects.ablated))
    keys = pd.DataFrame([_key(unit, kv_size) for unit in effects.units], columns=["unit", "layer", "head", "kv_head"])
    whole = {"layer": "Int64", "head": "Int64", "kv_head": "Int64"}
    frame = keys.astype(whole).iloc[units].reset_index(drop=True)
    texts = {"model": model, "task": effects.task, "mode": effects.mode, "method": effects.method}
    for place, (name, text) in enumerate(texts.items()):
        frame.insert(place, name, text)
    frame.insert(len(texts), "seed", study.seeds[0])
    frame["positions"], frame["phase"] = study.positions, study.phase
    frame["prompt"], frame["metric"] = prompts.astype("int64"), task.metric
    frame["clean"], frame["ablated"] = effects.clean[prompts], effects.ablated[units, prompts]
    frame["effect"] = effects.effect[units, prompts]
    return frame


def _key(unit: Unit, kv_size: int) -> tuple[str, int | None, int | None, int | None]:
    layer, head = unit.heads[0]
    if unit.kind == "head":
        return unit.kind, layer, head, head // kv_size
    if unit.kind == "kv_group":
        return unit.kind, layer, None, head // kv_size
    return (unit.kind, layer, None, None) if unit.kind == "layer" else (unit.name, None, None, None)


def curves_frame(studies: Sequence[TaskStudy]) -> pd.DataFrame:
    """The removal curves as one table: `task`, `mode`, then the columns of a curve."""
    parts = []
    for study in studies:
        if study.curve is not None:
            part = study.curve.frame.copy()
            part.insert(0, "task", study.task.name)
            part.insert(1, "mode", study.effects[study.lead].mode)
            parts.append(part)
    return pd.concat(parts, ignore_index=True)


def joined(tables: Sequence[HeadTable]) -> HeadTable:
    """The head tables of several tasks on one model as one.

    The number of threads is left out: pieces may have been computed by processes with other numbers of them.
    """
    first, *others = tables
    metadata = {name: value for name, value in first.metadata.items() if name != "threads"}
    for other in others:
        first = first.with_columns(other.frame)
        for name in ("tasks", "effects"):
            metadata[name] = {**metadata.get(name, {}), **other.metadata.get(name, {})}
    return HeadTable(first.frame, first.profiles, metadata)
