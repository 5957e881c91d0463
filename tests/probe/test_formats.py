from __future__ import annotations

import csv as reader
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from probe import formats
from probe.errors import ResultsError


def test_formulas_become_text_and_numbers_stay() -> None:
    cells = ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", 'a "b"; c\nd', "plain"]
    frame = pd.DataFrame({"=cmd": cells, "value": [-1.5, np.nan, 1e-300, 0.1, 3, 4, 5, 6]})
    rows = list(reader.reader(io.StringIO(formats.csv(frame).decode(), newline="")))
    assert rows[0] == ["'=cmd", "value"]
    assert [row[0] for row in rows[1:]] == [f"'{cell}" for cell in cells[:6]] + cells[6:]
    assert [row[1] for row in rows[1:4]] == ["-1.5", "", "1e-300"]


def test_lists_are_joined_and_lone_surrogates_written_visibly() -> None:
    tokens = pd.Series(["\ud800", "é"], dtype=object)
    text = formats.csv(pd.DataFrame({"roles": [["sink", "idle"], []], "token": tokens})).decode()
    assert text == "roles,token\r\nsink idle,\\ud800\r\n,é\r\n"


def test_json_is_strict_at_any_depth() -> None:
    value = {
        "a": [np.float32("nan"), {"b": (np.inf, np.int64(3), np.bool_(True))}],
        "c": np.array([1.0, np.nan]),
    }
    assert json.loads(formats.canonical(value)) == {"a": [None, {"b": [None, 3, True]}], "c": [1.0, None]}
    with pytest.raises(ResultsError, match="Path"):
        formats.canonical({"folder": Path("/somewhere")})


def test_records_hold_every_cell() -> None:
    frame = pd.DataFrame({"layer": [0, 1], "x": [np.nan, 2.5], "roles": [["sink"], []]})
    assert formats.records(frame) == [
        {"layer": 0, "x": None, "roles": ["sink"]},
        {"layer": 1, "x": 2.5, "roles": []},
    ]


def test_parquet_round_trip_keeps_nan_lists_and_documents(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": [np.nan, -0.0, 5e-324], "roles": [["a"], [], ["b", "c"]], "stack": ["d"] * 3})
    (tmp_path / "t.parquet").write_bytes(formats.parquet(frame, {"probe": {"seed": 1, "x": float("nan")}}))
    back, documents = formats.read_parquet(tmp_path / "t.parquet")
    assert documents == {"probe": {"seed": 1, "x": None}}
    assert back["x"].to_numpy().tobytes() == frame["x"].to_numpy().tobytes()
    assert back["roles"].tolist() == frame["roles"].tolist()
    assert back["stack"].tolist() == ["d"] * 3


def test_parquet_refuses_what_is_not_there_or_not_parquet(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="no such file"):
        formats.read_parquet(tmp_path / "absent.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not really PAR1")
    with pytest.raises(ResultsError, match=r"bad\.parquet: damaged"):
        formats.read_parquet(tmp_path / "bad.parquet")
