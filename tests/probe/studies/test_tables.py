"""Effects as rows: every key where it belongs, what was not measured left out."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd

from probe.analyses.effects import Effects
from probe.analyses.removal_curve import RemovalCurve
from probe.analyses.units import Unit
from probe.studies.file import Study
from probe.studies.tables import curves_frame, effects_frame, joined
from probe.table import HeadTable

STUDY = Study(("m",), ("t",), seeds=(3,), positions="END", phase="prefill")
TASK = SimpleNamespace(name="t", metric="logit_diff")


def made(units, ablated, method="exact"):
    clean = np.array([1.0, 2.0])
    effects = Effects("t", "mean", method, tuple(units), clean, np.array(ablated), 1.0)
    return SimpleNamespace(task=TASK, effects=(effects,), lead=0, curve=None)


def test_each_kind_of_unit_has_its_keys():
    heads = made([Unit("L1H5", "head", ((1, 5),)), Unit("L0H2", "head", ((0, 2),))], [[0.0, 1.0], [0.5, 0.5]])
    others = made(
        [Unit("L0G1", "kv_group", ((0, 3), (0, 4), (0, 5))), Unit("L2", "layer", ((2, 0), (2, 1)))],
        [[0.0, 0.0], [0.25, 0.0]],
        "hybrid",
    )
    frame = effects_frame([heads, others], STUDY, "m", 3)
    keys = frame[["method", "unit", "layer", "head", "kv_head", "prompt"]].astype(object)
    rows = [tuple(None if part is pd.NA else part for part in row) for row in keys.itertuples(index=False)]
    assert rows == [
        ("exact", "head", 0, 2, 0, 0), ("exact", "head", 0, 2, 0, 1),
        ("exact", "head", 1, 5, 1, 0), ("exact", "head", 1, 5, 1, 1),
        ("hybrid", "kv_group", 0, None, 1, 0), ("hybrid", "kv_group", 0, None, 1, 1),
        ("hybrid", "layer", 2, None, None, 0), ("hybrid", "layer", 2, None, None, 1),
    ]  # fmt: skip
    assert frame["effect"].tolist() == [0.5, 1.5, 1.0, 1.0, 1.0, 2.0, 0.75, 2.0]
    shared = frame[["model", "task", "mode", "seed", "positions", "phase", "metric"]].drop_duplicates()
    assert shared.values.tolist() == [["m", "t", "mean", 3, "END", "prefill", "logit_diff"]]


def test_what_was_not_measured_has_no_row():
    some = made([Unit("L0H0", "head", ((0, 0),)), Unit("L0H1", "head", ((0, 1),))], [[np.nan, 1.0], [np.nan, np.nan]])
    frame = effects_frame([some], STUDY, "m", 1)
    assert frame[["head", "prompt", "clean", "ablated"]].values.tolist() == [[0, 1, 2.0, 1.0]]


def test_curves_say_which_task_they_are_of():
    rows = [("effect", "ranked", 0, k, k / 2, 0, 1.0 - k) for k in (0, 1)]
    curve = RemovalCurve(pd.DataFrame(rows, columns=["criterion", "order", "draw", "k", "share", "prompt", "value"]))
    with_curve = made([Unit("L0H0", "head", ((0, 0),))], [[0.0, 0.0]])
    with_curve.curve = curve
    frame = curves_frame([made([], np.zeros((0, 2))), with_curve])
    assert frame[["task", "mode"]].drop_duplicates().values.tolist() == [["t", "mean"]]
    assert frame["value"].tolist() == [1.0, 0.0]


def test_tables_of_tasks_are_joined_and_say_so():
    def table(task, value):
        frame = pd.DataFrame({"stack": "decoder", "kind": "self", "layer": 0, "head": [0, 1], "kv_head": [0, 0]})
        frame[f"ablation_{task}"] = [value, value]
        frame["roles"] = [[], []]
        about = {f"ablation_{task}": {"task": task}}
        return HeadTable(frame, {}, {"model": "m", "threads": 2, "tasks": {task: {}}, "effects": about})

    both = joined([table("a", 1.0), table("b", 2.0)])
    assert both.frame[["ablation_a", "ablation_b"]].values.tolist() == [[1.0, 2.0], [1.0, 2.0]]
    assert both.metadata["tasks"] == {"a": {}, "b": {}}
    assert set(both.metadata["effects"]) == {"ablation_a", "ablation_b"}
    assert "threads" not in both.metadata
