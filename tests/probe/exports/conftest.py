"""A small head table whose every text is an attack on some format, and a retrieval run beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from probe.analyses.retrieval_result import RetrievalResult
from probe.table import HeadTable

LAYERS, HEADS, GROUPS = 3, 4, 2
NASTY = '=HYPERLINK("http://x.y")|\\input{/etc/passwd} <img src=x onerror=f(1)> $x$ 100%\n# head ``a`` 中 --- \x1b[2J'
NASTY_COLUMN = "=1+1|a&b_{c}^2 #%\n\\end{table}<script>"


def small_table(**metadata: Any) -> HeadTable:
    """3 × 4 heads on 2 key/value heads: retrieval 0.00, 0.05, … in the order of heads, its first interval narrow."""
    rng = np.random.default_rng(0)
    spread = rng.random((5, LAYERS, HEADS))
    values = {
        "sink_first": spread, "induction": spread[::-1], "entropy": 8 * spread, "streaming_error": 0.6 + spread,
        "sink_learned": np.full_like(spread, np.nan),
    }  # fmt: skip
    told = {"model": "small", "weight_hash": "0" * 64, "n_sequences": 5, "length": 64, "seed": 0,
            "parameters": {"sinks": 4, "window": 32}, "versions": {"torch": "2"}}  # fmt: skip
    table = HeadTable.build(values, {}, {**told, **metadata}, kv_heads=GROUPS)
    return table.with_columns(scores())


def scores(name: str = "retrieval") -> pd.DataFrame:
    keys = [(layer, head) for layer in range(LAYERS) for head in range(HEADS)]
    frame = pd.DataFrame(keys, columns=["layer", "head"])
    frame[name] = np.arange(len(keys)) / 20
    frame[f"{name}_low"], frame[f"{name}_high"] = frame[name] * 0.9, frame[name] * 1.1
    return frame


@pytest.fixture
def small() -> HeadTable:
    return small_table()


@pytest.fixture
def nasty() -> HeadTable:
    """The same, with a model and a last column whose names are made to break out of a format."""
    return small_table(model=NASTY).with_columns(scores(NASTY_COLUMN))


@pytest.fixture
def encoder() -> HeadTable:
    table = small_table()
    return HeadTable(table.frame.assign(stack="encoder"), {}, table.metadata)


@pytest.fixture
def run() -> RetrievalResult:
    """Three trials, the second not usable: retrieval counts in the first and third, the forced form in all."""
    keys = [(trial, layer, head) for trial in range(3) for layer in range(LAYERS) for head in range(HEADS)]
    frame = pd.DataFrame(keys, columns=["trial", "layer", "head"])
    score = frame["trial"] / 10 + frame["head"] / 100
    frame["set"] = frame["paper"] = score.where(frame["trial"] != 1)
    frame["forced"] = frame["control"] = score
    trials = [{"index": index, "usable": index != 1} for index in range(3)]
    return RetrievalResult(trials, pd.DataFrame(), frame, pd.DataFrame())
