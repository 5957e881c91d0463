"""The few numbers of a run worth printing: heads by role, recall, and what removing heads did to it."""

from __future__ import annotations

from typing import Any

import pandas as pd

from probe.analyses.retrieval_result import ENOUGH, RetrievalResult
from probe.formats import records
from probe.roles import RULES
from probe.table import HeadTable, head_name

MEASURES = {
    "sink": ("sink_first", False),
    "previous_token": ("previous_token_random", False),
    "induction": ("induction_random", False),
    "duplicate_token": ("duplicate_token_random", False),
    "retrieval": ("retrieval", False),
    "local": ("streaming_error", True),
    "idle": ("output_share", True),
}
"""The metric that orders a role's heads, and whether the smallest comes first."""
TOP = 3


def heads_by_role(table: HeadTable) -> dict[str, dict[str, Any]]:
    """Per role: how many heads have it, the metric that orders them, the first few with their intervals."""
    found = {}
    for role in RULES:
        metric, ascending = MEASURES[role]
        rows = table.frame[[role in roles for roles in table.frame["roles"]]]
        found[role] = {"heads": len(rows), "metric": metric, "top": _top(rows, metric, ascending)}
    return found


def retrieval_summary(result: RetrievalResult) -> dict[str, Any]:
    """Trials, recall by length, the first heads, and recall with heads removed."""
    lengths = sorted({int(trial["length"]) for trial in result.trials})
    arms = result.ablation.groupby(["k", "arm"])["recall"].mean().reset_index()
    ranked = result.heads.set_index(["layer", "head"]).loc[result.ranked()[: 2 * TOP]].reset_index()
    return {
        "trials": len(result.trials),
        "usable": result.n_usable,
        "recall": {str(length): _recall(result, length) for length in lengths},
        "top": _top(ranked, "retrieval", False, len(ranked)),
        "ablation": records(arms),
    }


def _recall(result: RetrievalResult, length: int) -> float:
    recalled = [bool(trial["recall"]) for trial in result.trials if trial["length"] == length]
    return sum(recalled) / len(recalled)


def _top(rows: pd.DataFrame, metric: str, ascending: bool, count: int = TOP) -> list[dict[str, Any]]:
    if metric not in rows:
        return []
    first = rows.sort_values([metric, "layer", "head"], ascending=[ascending, True, True]).head(count)
    return [
        {
            "head": head_name(int(row["layer"]), int(row["head"])),
            "value": float(row[metric]),
            "low": float(row[f"{metric}_low"]),
            "high": float(row[f"{metric}_high"]),
        }
        for row in first.to_dict("records")
    ]


def role_lines(roles: dict[str, dict[str, Any]]) -> list[str]:
    """`heads_by_role` as lines of text."""
    width = max(map(len, roles))
    return [
        f"{role:<{width}}  {found['heads']:>4} heads"
        + (f"   {found['metric']}: {_listed(found['top'])}" if found["top"] else "")
        for role, found in roles.items()
    ]


def retrieval_lines(found: dict[str, Any]) -> list[str]:
    """`retrieval_summary` as lines of text."""
    lines = [f"needles: {found['usable']} of {found['trials']} trials usable; recall by length: "
             + ", ".join(f"{length} {share:.2f}" for length, share in found["recall"].items())]  # fmt: skip
    if found["usable"] == 0:
        lines.append("NO TRIAL WAS USABLE: the retrieval score is not defined for this model and text")
    elif found["usable"] < ENOUGH:
        lines.append(f"not enough usable trials for a ranking: {found['usable']}, wanted {ENOUGH}")
    else:
        lines.append(f"retrieval heads: {_listed(found['top']) or 'none copied anything'}")
    by_k: dict[int, dict[str, float]] = {}
    for row in found["ablation"]:
        by_k.setdefault(int(row["k"]), {})[row["arm"]] = row["recall"]
    clean = by_k.pop(0, {}).get("clean")
    for k, arms in by_k.items():
        lines.append(
            f"recall {clean:.2f} with all heads, {arms['top']:.2f} without the top {k}, "
            f"{arms['random']:.2f} without {k} random heads of the same layers"
        )
    return lines


def _listed(top: list[dict[str, Any]]) -> str:
    return ", ".join(f"{item['head']} {item['value']:.2f}" for item in top)
