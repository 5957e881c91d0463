"""Roles: which jobs a head does, decided by thresholds that travel with the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

THRESHOLDS: dict[str, float] = {
    "sink_first": 0.3,
    "pattern_random": 0.4,
    "retrieval_low": 0.1,
    "streaming_error_high": 0.05,
    "idle_share_times_heads": 0.1,
}
"""METRICS' own thresholds. A table keeps those it was made with in `metadata["role_thresholds"]`."""

Rule = Callable[[pd.DataFrame, Mapping[str, float]], pd.Series]


def _column(frame: pd.DataFrame, name: str) -> pd.Series:
    """The column, or NaN where it was not measured: every comparison with NaN is false."""
    if name in frame:
        return frame[name].astype(float)
    return pd.Series(np.nan, index=frame.index)


def _pattern(name: str) -> Rule:
    return lambda frame, limit: _column(frame, f"{name}_random") > limit["pattern_random"]


def _retrieval(frame: pd.DataFrame, limit: Mapping[str, float]) -> pd.Series:
    low = _column(frame, "retrieval_low")
    return (low >= limit["retrieval_low"]) & (low > _column(frame, "retrieval_control_high"))


def _local(frame: pd.DataFrame, limit: Mapping[str, float]) -> pd.Series:
    short = _column(frame, "streaming_error_high") < limit["streaming_error_high"]
    return short & (_column(frame, "sink_first") <= limit["sink_first"])


def _idle(frame: pd.DataFrame, limit: Mapping[str, float]) -> pd.Series:
    heads = frame.groupby(["stack", "kind", "layer"])["head"].transform("size")
    return _column(frame, "output_share") < limit["idle_share_times_heads"] / heads


RULES: dict[str, Rule] = {
    "sink": lambda frame, limit: _column(frame, "sink_first") > limit["sink_first"],
    "previous_token": _pattern("previous_token"),
    "induction": _pattern("induction"),
    "duplicate_token": _pattern("duplicate_token"),
    "retrieval": _retrieval,
    "local": _local,
    "idle": _idle,
}


def assign(frame: pd.DataFrame, thresholds: Mapping[str, float]) -> list[list[str]]:
    """Roles of every row, in the order of `RULES`; several or none. A value that is NaN gives no role."""
    hits = {role: rule(frame, thresholds).to_numpy(dtype=bool) for role, rule in RULES.items()}
    return [[role for role in RULES if hits[role][row]] for row in range(len(frame))]


def explain(role: str, thresholds: Mapping[str, float]) -> str:
    """The rule of a role in words and numbers, as the report prints it."""
    limit = {name: f"{value:g}" for name, value in thresholds.items()}
    pattern = f"{role}_random > {limit['pattern_random']}"
    return {
        "sink": f"sink_first > {limit['sink_first']}: rests its attention on the first token",
        "previous_token": pattern + ": looks one token back",
        "induction": pattern + ": looks at what followed the same token earlier",
        "duplicate_token": pattern + ": looks at earlier copies of the token",
        "retrieval": f"retrieval_low ≥ {limit['retrieval_low']} and above retrieval_control_high: "
        "copies the answer out of a long text",
        "local": f"streaming_error_high < {limit['streaming_error_high']} and sink_first ≤ "
        f"{limit['sink_first']}: needs only the first few tokens and its neighbourhood",
        "idle": f"output_share < {limit['idle_share_times_heads']} / heads in the layer: writes almost nothing",
    }[role]
