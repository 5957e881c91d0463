"""Effects as columns of the head table: mean, interval, p and q of every head (METRICS, Studies)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import pandas as pd

from probe.analyses.effects import ESTIMATES, Effects
from probe.columns import effect_name
from probe.errors import ResultsError
from probe.statistics import benjamini_hochberg, bootstrap, sign_flip_p
from probe.table import HeadTable
from probe.tasks.task import Task


def column_names(found: Sequence[Effects]) -> list[str]:
    """The column of each: `ablation_<task>`, `attribution_<task>`; with `@<mode>.<method>` where those would meet.

    Raises ResultsError when one task, mode and method is there twice.
    """
    made = [("attribution" if one.method in ESTIMATES else "ablation", one.task, one.mode, one.method) for one in found]
    twice = [one for one in made if made.count(one) > 1]
    if twice:
        raise ResultsError(f"task {twice[0][1]}, mode {twice[0][2]}, method {twice[0][3]} is there twice: give it once")
    short = [one[:2] for one in made]
    return [effect_name(*(one if short.count(one[:2]) > 1 else one[:2])) for one in made]


def summary(effects: Effects, groups: Sequence[Hashable] | None = None, seed: int = 0) -> pd.DataFrame:
    """One row a unit, in order: `name`, `effect` (mean over prompts), `_low`, `_high`, `_p`, `_q`, `n_effect`.

    Bootstrap and sign flips are over prompts, or over the task's groups of prompts where it has some, one seeded set
    for all units; q is corrected for all of them, those that were not measured (NaN) included. Raises ResultsError
    for infinite effects.
    """
    values = effects.effect.T
    try:
        spread = bootstrap(values, groups=groups, seed=seed)
        p = sign_flip_p(values, groups=groups, seed=seed)
    except ValueError as error:
        raise ResultsError(f"{effects.task}, {effects.mode}, {effects.method}: {error}") from error
    numbers = {
        "effect": spread.mean, "effect_low": spread.low, "effect_high": spread.high,
        "effect_p": p, "effect_q": benjamini_hochberg(p),
    }  # fmt: skip
    for column in numbers.values():
        column[np.isnan(column)] = np.nan  # one bit pattern, so that equal runs write equal bytes
    return pd.DataFrame({"name": [unit.name for unit in effects.units], **numbers, "n_effect": spread.n})


def with_effects(table: HeadTable, found: Sequence[Effects], tasks: Mapping[str, Task], *, seed: int = 0) -> HeadTable:
    """`table` with the columns of all effects of single heads, and `metadata["effects"]` saying what each one is.

    tasks: by name, those of all effects. Heads that were not measured are NaN. Effects of groups, layers and sets are
    no columns of a head table; they are left to `effects.parquet`. Raises ResultsError for heads that the table does
    not have.
    """
    effects = [one for one in found if any(unit.kind == "head" for unit in one.units)]
    about = dict(table.metadata.get("effects", {}))
    for name, one in zip(column_names(effects), effects, strict=True):
        table = table.with_columns(_columns(table, name, one, tasks[one.task], seed))
        about[name] = {
            "task": one.task, "metric": tasks[one.task].metric, "mode": one.mode, "method": one.method,
            "prompts": len(one.clean), "clean": float(one.clean.mean()), "notes": list(one.notes),
            "layer_forwards": one.layer_forwards,
        }  # fmt: skip
    return HeadTable(table.frame, table.profiles, {**table.metadata, "effects": about})


def _columns(table: HeadTable, name: str, effects: Effects, task: Task, seed: int) -> pd.DataFrame:
    """The columns of one effect for every head of the table, in its order."""
    chosen = [index for index, unit in enumerate(effects.units) if unit.kind == "head"]
    heads = pd.DataFrame([effects.units[index].heads[0] for index in chosen], columns=["layer", "head"])
    only = Effects(
        effects.task, effects.mode, effects.method, tuple(effects.units[index] for index in chosen), effects.clean,
        effects.ablated[chosen], effects.layer_forwards,
    )  # fmt: skip
    numbers = summary(only, task.groups, seed).drop(columns="name")
    measured = pd.concat([heads, numbers.rename(columns=lambda part: part.replace("effect", name))], axis=1)
    keys = table.frame[["layer", "head"]]
    strangers = heads.merge(keys, how="left", indicator=True)
    strangers = strangers[strangers["_merge"] != "both"]
    if len(strangers):
        first = strangers.iloc[0]
        raise ResultsError(f"effects of L{first['layer']}H{first['head']}, which the table does not have")
    joined = keys.merge(measured, on=["layer", "head"], how="left", validate="1:1")
    joined[f"n_{name}"] = joined[f"n_{name}"].fillna(0).astype("int64")
    return joined.drop(columns=f"n_{name}") if (joined[f"n_{name}"] == len(effects.clean)).all() else joined
