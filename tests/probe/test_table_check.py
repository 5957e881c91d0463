"""A head table whose checksums are right is refused in one line where it is not what our commands write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from probe.errors import ResultsError
from probe.formats import parquet, read_parquet
from probe.table import HeadTable

N, L, H = 3, 2, 4


def made(**arguments: Any) -> HeadTable:
    """A table with every profile that pages read."""
    wide = {"received": (9,), "offset_mass": (3,), "thumbnail": (5, 5), "pair_weight": (2,), "window": (6, 6)}
    whole = {"pair_query": (2,), "pair_key": (2,), "window_at": (2,), "writes": (5,)}
    profiles = {name: np.ones((L, H, *shape), np.float32) for name, shape in wide.items()}
    profiles |= {name: np.ones((L, H, *shape), np.int32) for name, shape in whole.items()}
    profiles["sink_other_at"] = np.full((N, L, H), -1, np.int32)
    values = np.random.default_rng(0).uniform(size=(N, L, H))
    facts = {"model": "m", "n_sequences": N, "length": [7, 9], "versions": {"torch": "2"}, "weight_hash": None}
    return HeadTable.build({"sink_first": values, "entropy": values}, profiles, facts, kv_heads=2, **arguments)


def saved(folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame] = pd.DataFrame.copy, facts: Any = None) -> Path:
    """A folder with right checksums whose table is changed."""
    table = made()
    HeadTable(change(table.frame), table.profiles, {**table.metadata, **(facts or {})}).save(folder)
    return folder


def refused(folder: Path) -> str:
    """What loading says, in one line."""
    with pytest.raises(ResultsError) as told:
        HeadTable.load(folder)
    assert "\n" not in str(told.value)
    return str(told.value)


@pytest.mark.parametrize("stack", ["decoder", "encoder"])
def test_what_our_code_writes_is_taken(tmp_path: Path, stack: str) -> None:
    table = made(stack=stack, layers=[3, 7])
    table.save(tmp_path)
    assert HeadTable.load(tmp_path).frame.equals(table.frame)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("length", "long"), ("length", []), ("length", [1, "2"]), ("length", True), ("n_sequences", "<b>8</b>"),
        ("n_sequences", [1]), ("n_sequences", 0), ("parameters", [1]), ("parameters", {"sinks": "x"}),
        ("parameters", {"epsilon": []}), ("role_thresholds", [1]), ("role_thresholds", {"sink": "x"}),
        ("role_thresholds", {"sink_first": None}), ("effects", [1]), ("effects", {"a": "x"}),
        ("effects", {"a": {"task": 1}}), ("effects", {"a": {"mode": "mean"}}), ("circuits", [1]),
        ("circuits", {"a": {"metric": []}}), ("versions", ["x"]), ("versions", {"a": {"b": 1}}), ("retrieval", [1]),
        ("retrieval", {"n_needles": "x"}), ("weight_hash", 5), ("closeups", "x"), ("closeups", {"span": "x"}),
        ("model", ["a"]), ("bos", [1]), ("tasks", []), ("given", [1]), ("rows_without_key", "many"),
    ],
)  # fmt: skip
def test_a_recorded_fact_of_another_type_is_refused_by_name(tmp_path: Path, name: str, value: object) -> None:
    assert f"heads.parquet: metadata {name}" in refused(saved(tmp_path, facts={name: value}))


FRAMES: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], str]] = {
    "text": (lambda frame: frame.assign(entropy="x"), "column 'entropy' of"),
    "infinite": (lambda frame: frame.assign(sink_first_high=np.inf), "column 'sink_first_high': found an infinite"),
    "no rows": (lambda frame: frame.iloc[:0], "no rows"),
    "no layer": (lambda frame: frame.drop(columns="layer"), "no column 'layer'"),
    "no roles": (lambda frame: frame.drop(columns="roles"), "no column 'roles'"),
    "roles of text": (lambda frame: frame.assign(roles="sink"), "column 'roles': found 'sink'"),
    "cut": (lambda frame: frame.iloc[:5], r"5 rows of stack 'decoder', kind 'self'"),
    "a head between": (lambda frame: frame.drop(index=2), "7 rows of stack 'decoder'"),
    "twice": (lambda frame: frame.iloc[[0, *range(8)]], "stack 'decoder', kind 'self', layer 0, head 0 is there twice"),
    "layer of text": (lambda frame: frame.assign(layer="x"), "column 'layer' of"),
    "a negative head": (lambda frame: frame.assign(head=frame["head"] - 1), "column 'head' of"),
    "half a layer": (lambda frame: frame.assign(layer=frame["layer"] + 0.5), "column 'layer' of float64"),
    "stack of numbers": (lambda frame: frame.assign(stack=1), "column 'stack': found 1"),
}


@pytest.mark.parametrize("name", FRAMES)
def test_rows_and_columns_that_are_no_table_of_heads_are_refused(tmp_path: Path, name: str) -> None:
    change, said = FRAMES[name]
    assert f"heads.parquet: {said}" in refused(saved(tmp_path, change))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("thumbnail", np.ones((1, 1))), ("thumbnail", np.ones((L, H, 5, 4))), ("received", np.ones((L, H, 0))),
        ("received", np.full((L, H, 2), np.inf)), ("sequences_entropy", np.ones((N, L, H))),
        ("sequences_entropy", np.ones((L, H))), ("sink_other_at", np.ones((L, H, N))),
        ("sink_other_at", np.full((N, L, H), 0.5)), ("window_at", np.ones((L, H, 3))), ("writes", np.ones((H, L, 5))),
        ("of_the_caller", np.ones(4)),
    ],
)  # fmt: skip
def test_profiles_that_do_not_fit_their_heads_are_refused(tmp_path: Path, name: str, values: np.ndarray) -> None:
    table = made()
    HeadTable(table.frame, {**table.profiles, name: values}, table.metadata).save(tmp_path)
    assert f"profiles.safetensors: {name}: found" in refused(tmp_path)


def test_a_profile_of_a_stack_without_heads_is_refused(tmp_path: Path) -> None:
    table = made(stack="encoder")
    HeadTable(table.frame, {"received": np.ones((L, H, 9))}, table.metadata).save(tmp_path)
    assert "received: of a stack that heads.parquet does not have" in refused(tmp_path)


def test_metadata_and_checksums_that_are_no_objects_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path) / "heads.parquet"
    frame, documents = read_parquet(path)
    path.write_bytes(parquet(frame, {**documents, "probe_checksums": ["x"]}))
    assert "heads.parquet: damaged" in refused(tmp_path)
    table = made()
    HeadTable(table.frame, table.profiles, ["x"]).save(tmp_path)  # type: ignore[arg-type]
    assert "heads.parquet: metadata: found ['x']; wanted an object" in refused(tmp_path)
