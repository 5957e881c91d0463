"""The columns of a head table: their order, words, formulas and ranges (METRICS, one row each)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

KEYS = ("stack", "kind", "layer", "head", "kv_head")
"""What names a head; together they are unique in a table."""
BESIDE = ("_low", "_high", "_p", "_q")
"""What stands beside a metric, by the end of its name: interval, p-value, p-value corrected for all heads."""


@dataclass(frozen=True)
class Column:
    """One metric. `unit` is one word for the reader; `top` is the end of the range (None: unbounded)."""

    name: str
    title: str
    formula: str
    unit: str = "share of attention"
    top: float | None = 1.0
    scan: bool = True


_ROWS = "mean over queries i ≥ 1 of "
_RANDOM = "the same on [BOS if the model has one] + R + R (R: distinct random ids), second copy's rows only"

COLUMNS: tuple[Column, ...] = (
    Column("sink_first", "Attention on the first token", _ROWS + "P[i, 0]"),
    Column(
        "sink_rate",
        "Share of sequences with a first-token sink",
        "share of sequences with α_0 > 0.3, where α_k = Σ_i P[i, k] / number of queries that may see k",
        "share of sequences",
    ),
    Column(
        "sink_other",
        "Strongest sink after the first token",
        "max over k ≥ 1, seen by at least 32 queries, of α_k; mean over sequences",
    ),
    Column(
        "sink_learned",
        "Attention on a learned sink logit",
        "mean over queries of the mass on the learned sink logit; not defined without one",
    ),
    Column("previous_token", "Attention on the previous token", _ROWS + "P[i, i−1]"),
    Column("current_token", "Attention on the token itself", _ROWS + "P[i, i]"),
    Column(
        "duplicate_token",
        "Attention on earlier copies of the token",
        "mean over queries i with some j < i, t_j = t_i, of Σ P[i, j] over those j",
    ),
    Column(
        "induction",
        "Attention on what followed the token before",
        "mean over queries i with some 1 ≤ j ≤ i, t_{j−1} = t_i, of Σ P[i, j] over those j",
    ),
    Column("previous_token_random", "Previous token, on repeated random tokens", _RANDOM),
    Column("duplicate_token_random", "Duplicate token, on repeated random tokens", _RANDOM),
    Column("induction_random", "Induction, on repeated random tokens", _RANDOM + ", its first token left out"),
    Column(
        "induction_chance",
        "Induction of uniform attention",
        "the induction value that uniform attention would have on the scanned tokens",
    ),
    Column(
        "duplicate_token_chance",
        "Duplicate token of uniform attention",
        "the duplicate_token value that uniform attention would have on the scanned tokens",
    ),
    Column("entropy", "Entropy of attention", _ROWS + "−Σ_j P log P, natural logarithm", "nats", None),
    Column(
        "entropy_normalised",
        "Entropy, as a share of its maximum",
        "mean over queries i with at least 2 visible keys of entropy_i / log(number of visible keys)",
        "share of maximum",
    ),
    Column("max_weight", "Largest single weight", _ROWS + "max_j P[i, j]"),
    Column("distance", "Mean distance looked back", _ROWS + "Σ_j P[i, j] (i − j)", "tokens", None),
    Column("local_mass", "Attention within the window", _ROWS + "Σ P[i, j] over i − w < j ≤ i"),
    Column(
        "streaming_error",
        "Error of keeping only sinks and window",
        "Σ_i ‖z_i − z_i^keep‖² / Σ_i ‖z_i‖²; keep = the first s keys and those with i − j < w, renormalised",
        "relative squared error",
        None,
    ),
    Column("streaming_mass", "Attention on sinks and window", "mean over all queries of the mass on keep"),
    Column("output_norm", "Size of what the head writes", _ROWS + "‖o_i‖₂", "norm", None),
    Column(
        "output_share",
        "Share of the layer's output",
        "Σ_i ‖o_i‖ / Σ_i Σ_h ‖o_i^h‖ within the layer, over all queries",
        "share of the layer",
    ),
    Column(
        "row_mass",
        "Sum of sigmoid gates",
        "mean over queries of Σ_j P[i, j]; sigmoid attention only",
        "sum",
        None,
        False,
    ),
    Column(
        "retrieval",
        "Retrieval score",
        "distinct answer tokens copied while the head's top key is that token in the needle / distinct answer"
        " tokens; mean over usable trials",
        "share of the answer",
        scan=False,
    ),
    Column(
        "retrieval_paper",
        "Retrieval score, as first published",
        "steps that copy a needle token / length of the answer, repeats counted; mean over usable trials",
        "share of the answer",
        None,
        False,
    ),
    Column(
        "retrieval_forced",
        "Retrieval score, answer fed in",
        "the set form with the answer fed in; mean over all trials",
        "share of the answer",
        scan=False,
    ),
    Column(
        "retrieval_control",
        "Retrieval score of a random stretch",
        "the forced form with the span moved to a random stretch of equal length in the haystack",
        "share of the answer",
        scan=False,
    ),
)

_BY_NAME = {column.name: column for column in COLUMNS}
SCAN_COLUMNS = tuple(column.name for column in COLUMNS if column.scan)


METRIC_UNITS = {
    "logit_diff": "logits",
    "prob_diff": "probability",
    "accuracy": "share of prompts",
    "neg_loss": "nats",
    "neg_kl": "nats",
}
"""Units of the task metrics, and so of every effect on them."""
_EFFECT = re.compile(r"(?P<kind>ablation|attribution)_(?P<task>[^@]+)(@(?P<mode>[^@]+)\.(?P<method>[^@.]+))?")


def effect_name(kind: str, task: str, mode: str | None = None, method: str | None = None) -> str:
    """`ablation_ioi`, or `ablation_ioi@mean.exact` where the table holds several modes or methods."""
    return f"{kind}_{task}" + ("" if mode is None else f"@{mode}.{method}")


def describe(name: str, metadata: Mapping[str, Any] | None = None) -> Column:
    """The column called `name`; for a metric outside METRICS' table (an added one) a plain description.

    metadata: the table's, whose `effects` tells of each effect column its task, metric, mode and method; without it
    their unit is not known.
    """
    if name in _BY_NAME:
        return _BY_NAME[name]
    if name.startswith("importance_"):
        criterion = name.removeprefix("importance_")
        how = f"criterion {criterion} of probe.analyses.importance; higher = more important"
        return Column(name, f"Importance by {criterion}", how, "value", None, False)
    if name.startswith("difference_"):
        of = describe(name.removeprefix("difference_"), metadata)
        return Column(name, f"Change in: {of.title}", f"B − A of: {of.formula}", of.unit, None, False)
    if name.startswith("circuit_"):
        return _score(name, (metadata or {}).get("circuits", {}).get(name, {}))
    effect = _EFFECT.fullmatch(name)
    if effect is None:
        return Column(name, name, "added by the caller", "value", None, False)
    about = (metadata or {}).get("effects", {}).get(name, {})
    return _effect(name, {key: value for key, value in effect.groupdict().items() if value} | about)


def _score(name: str, about: Mapping[str, Any]) -> Column:
    """The column of a circuit's scores, from what the table's metadata tells of it."""
    metric, method = about.get("metric", "the metric"), about.get("method", "the circuit's method")
    formula = f"mean over prompts of what {metric} loses without the head ({method}); positive = the head helps"
    title = f"Score of the head in the circuit of {name.removeprefix('circuit_')}"
    return Column(name, title, formula, METRIC_UNITS.get(metric, metric), None, False)


def _effect(name: str, about: Mapping[str, Any]) -> Column:
    """The effect column `name`, from what its name and the table's metadata tell of it."""
    metric = about.get("metric")
    value, unit = (metric, METRIC_UNITS.get(metric, metric)) if metric else ("metric", "unit of the task's metric")
    how = f" ({about['mode']} ablation, {about['method']})" if "mode" in about else ""
    if about["kind"] == "ablation":
        title = f"What removing the head costs on {about['task']}"
        formula = f"mean over prompts of {value} clean − {value} with the head replaced; positive = the head helps"
    else:
        title = f"Estimate of what removing the head costs on {about['task']}"
        formula = f"first-order estimate of the mean over prompts of {value} clean − {value} with the head replaced"
    return Column(name, title + how, formula, unit, None, False)


def metrics_of(columns: Iterable[str]) -> list[str]:
    """The metric names among a table's columns, in METRICS' order, added ones after them as they stand.

    Keys, `roles`, what stands beside a metric (`BESIDE`) and counts (`n_…`) are not metrics.
    """
    present = list(columns)
    names = set(present)
    metrics = [
        name
        for name in present
        if name not in KEYS
        and name != "roles"
        and not (name.startswith("n_") and name[2:] in names)
        and not any(name.endswith(end) and name[: -len(end)] in names for end in BESIDE)
    ]
    order = {column.name: index for index, column in enumerate(COLUMNS)}
    return sorted(metrics, key=lambda name: order.get(name, len(order)))
